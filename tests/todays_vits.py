"""The ViTs of today, small: fields of ours, and what makes the same of timm."""

import functools
from typing import Any

SIZES = dict(patch_size=8, hidden_size=48, num_layers=2, num_heads=3, mlp_dim=192, num_classes=5,
              activation="gelu")  # fmt: skip
_SWIGLU = dict(activation="silu", gated=True, mlp_dim=128)
_DINOV2 = dict(layer_scale=1.0, patch_size=14)
_DINOV3 = dict(
    layer_scale=1.0, registers=4, position_embedding="none", rotary="dinov3", norm_epsilon=1e-5,
    biases="qv",
)  # fmt: skip
_EVA02 = dict(
    **_SWIGLU, rotary="eva02", rotary_side=4, biases="qv", classifier="gap", class_token=True,
    head_norm=True,
)  # fmt: skip
CASES = {
    "beit2": dict(
        layer_scale=1.0,
        position_embedding="none",
        relative_bias=True,
        biases="qv",
        classifier="gap",
        class_token=True,
        head_norm=True,
    ),
    "clip_prenorm": dict(
        pre_norm=True, norm_epsilon=1e-5, activation="quick_gelu", patch_bias=False
    ),
    "deit3": dict(layer_scale=1.0, placed=False),
    "deit_distilled": dict(distillation_token=True),
    "dinov2": _DINOV2,
    "dinov2_reg_swiglu": dict(_DINOV2, **_SWIGLU, registers=4, placed=False),
    "dinov2_official": dict(_DINOV2, num_classes=0, position_resize="dino"),
    "dinov2_reg_official": dict(
        _DINOV2, **_SWIGLU, registers=4, num_classes=0, position_resize="bicubic"
    ),
    "dinov3": _DINOV3,
    "dinov3_official": dict(_DINOV3, num_classes=0),
    "dinov3_plus": dict(
        {**_DINOV3, "biases": ""}, **{**_SWIGLU, "mlp_dim": 192}, classifier="gap", class_token=True
    ),
    "dinov3_plus_official": dict(_DINOV3, **{**_SWIGLU, "mlp_dim": 192}, num_classes=0),
    "eva02": dict(_EVA02, mlp_norm=True),
    "eva02_packed": _EVA02,
    "gap_no_class_no_bias": dict(layer_scale=1.0, classifier="gap", biases=""),
    "mae_gap": dict(classifier="gap", class_token=True, head_norm=True),
    "qk_norm": dict(qk_norm=True),
    "siglip_map": dict(classifier="map", activation="gelu_tanh", mlp_dim=179),
}


def in_timm(timm: Any, size: tuple[int, int]) -> dict[str, Any]:
    """timm's models by the names of `CASES`, of random weights, for images of (h, w)."""
    from torch import nn

    models, layers = timm.models, timm.layers
    sizes = dict(img_size=size, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=5)
    norm = functools.partial(layers.LayerNorm, eps=1e-5)
    fine = functools.partial(layers.LayerNorm, eps=1e-6)
    swiglu = functools.partial(layers.GluMlp, act_layer=nn.SiLU, gate_last=False)
    of_dinov3 = dict(
        init_values=1e-5, rope_type="dinov3", rope_temperature=100, rope_rotate_half=True,
        use_rot_pos_emb=True, use_abs_pos_emb=False, num_reg_tokens=4, use_fc_norm=False,
        norm_layer=norm, dynamic_img_size=True,
    )  # fmt: skip
    of_eva = dict(
        mlp_ratio=8 / 3, swiglu_mlp=True, use_rot_pos_emb=True, ref_feat_shape=(4, 4),
        norm_layer=fine,
    )  # fmt: skip
    vit = functools.partial(models.VisionTransformer, **sizes)
    eva = functools.partial(models.eva.Eva, **sizes)
    return {
        "beit2": models.beit.Beit(**sizes, use_abs_pos_emb=False, use_rel_pos_bias=True,
                                  init_values=1e-5),
        "clip_prenorm": vit(pre_norm=True, norm_layer=norm, act_layer="quick_gelu"),
        "deit3": vit(init_values=1e-6, no_embed_class=True),
        "deit_distilled": models.deit.VisionTransformerDistilled(**sizes),
        "dinov2": vit(init_values=1e-5),
        "dinov2_reg_swiglu": vit(init_values=1e-5, reg_tokens=4, no_embed_class=True,
                                 mlp_layer=swiglu, act_layer=nn.SiLU, mlp_ratio=256 / 48),
        "dinov3": eva(qkv_bias=True, global_pool="token", **of_dinov3),
        "dinov3_plus": eva(qkv_bias=False, swiglu_mlp=True, swiglu_align_to=8, global_pool="avg",
                           **of_dinov3),
        "eva02": eva(qkv_fused=False, scale_mlp=True, **of_eva),
        "eva02_packed": eva(**of_eva),
        "gap_no_class_no_bias": vit(class_token=False, global_pool="avg", qkv_bias=False,
                                    init_values=1e-6, fc_norm=False),
        "mae_gap": vit(global_pool="avg"),
        "qk_norm": vit(qk_norm=True, norm_layer=fine),
        "siglip_map": vit(class_token=False, global_pool="map", act_layer="gelu_tanh",
                          mlp_ratio=3.7362),
    }  # fmt: skip
