"""The ViTs that were published after Google's: their sizes, fields and numbers of parameters.

Sources: Touvron et al., "Training data-efficient image transformers" (DeiT, ICML 2021) and "DeiT
III: Revenge of the ViT" (ECCV 2022); He et al., "Masked Autoencoders Are Scalable Vision Learners"
(CVPR 2022); Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (DINO, ICCV
2021); Oquab et al., "DINOv2" (2023), and Darcet et al., "Vision Transformers Need Registers" (ICLR
2024); Siméoni et al., "DINOv3" (2025); Peng et al., "BEiT v2" (2022); Fang et al., "EVA-02" (2023);
and the published code of each. What was published without a head has `num_classes=0`.
"""

from typing import Any

from vit_jax.models.vit_table import SIZES

_SIZES = {
    **SIZES,
    "M": dict(hidden_size=512, mlp_dim=2048, num_heads=8, num_layers=12),
    "g": dict(hidden_size=1536, mlp_dim=4096, num_heads=24, num_layers=40),
    "S+": dict(hidden_size=384, mlp_dim=1536, num_heads=6, num_layers=12),
    "H+": dict(hidden_size=1280, mlp_dim=5120, num_heads=20, num_layers=32),
    "7B": dict(hidden_size=4096, mlp_dim=8192, num_heads=32, num_layers=40),
}

Fields = dict[str, Any]

_GATED: Fields = dict(gated=True, activation="silu")
_AVERAGED: Fields = dict(classifier="gap", class_token=True, head_norm=True)
_DEIT: Fields = dict(activation="gelu", preparation="imagenet", position_resize="bicubic")
_DEIT3: Fields = dict(_DEIT, placed=False, layer_scale=1e-4, preparation="imagenet_whole")
_MAE: Fields = dict(_DEIT, num_classes=0)
_DINO: Fields = dict(_DEIT, num_classes=0, position_resize="dino")
_DINOV2: Fields = dict(_DINO, layer_scale=1e-5, image_side=518, preparation="imagenet_whole")
_REGISTERS: Fields = dict(_DINOV2, registers=4, position_resize="bicubic")
_DINOV3: Fields = dict(
    num_classes=0, activation="gelu", layer_scale=1e-5, registers=4, biases="qv",
    norm_epsilon=1e-5, position_embedding="none", rotary="dinov3", rotary_rescale=2.0,
    image_side=256,    preparation="imagenet_whole",
)  # fmt: skip
_DINOV3_7B: Fields = {**_DINOV3, **_GATED, "biases": ""}
_ABOVE: Fields = dict(preparation="satellite")
_BEIT: Fields = dict(
    _AVERAGED, activation="gelu", position_embedding="none", relative_bias=True, biases="qv",
    preparation="imagenet",
)  # fmt: skip
_EVA02: Fields = dict(
    _AVERAGED, **_GATED, rotary="eva02", biases="qv", position_resize="bicubic",
)  # fmt: skip
_EVA02_SMALL: Fields = dict(_EVA02, image_side=336, preparation="clip")
_EVA02_LARGE: Fields = dict(_EVA02, mlp_norm=True, image_side=448, preparation="clip_squashed")


def _rows(name: str, sizes: str, fields: Fields, ending: str = "") -> dict[str, Fields]:
    """Rows alike, of sizes and sides of patches such as "S_16 B_16"."""
    rows = {}
    for size in sizes.split():
        letter, _, patch_size = size.partition("_")
        own = {**_SIZES[letter], "patch_size": int(patch_size)}
        rows[f"{name}-{size}{ending}"] = {**own, **fields}
    return rows


VARIANTS: dict[str, Fields] = {
    **_rows("DeiT", "Ti_16 S_16 B_16", _DEIT),
    **_rows("DeiT", "Ti_16 S_16 B_16", {**_DEIT, "distillation_token": True}, "-distilled"),
    **_rows("DeiT3", "S_16 M_16 B_16 L_16 H_14", _DEIT3),
    **_rows("MAE", "B_16 L_16 H_14", _MAE),
    **_rows("DINO", "S_16 S_8 B_16 B_8", _DINO),
    **_rows("DINOv2", "S_14 B_14 L_14", _DINOV2),
    **_rows("DINOv2", "g_14", {**_DINOV2, **_GATED}),
    **_rows("DINOv2", "S_14 B_14 L_14", _REGISTERS, "-reg"),
    **_rows("DINOv2", "g_14", {**_REGISTERS, **_GATED}, "-reg"),
    **_rows("DINOv3", "S_16 B_16 L_16", _DINOV3),
    **_rows("DINOv3", "S+_16 H+_16", {**_DINOV3, **_GATED}),
    **_rows("DINOv3", "7B_16", _DINOV3_7B),
    **_rows("DINOv3", "L_16", {**_DINOV3, **_ABOVE}, "-sat"),
    **_rows("DINOv3", "7B_16", {**_DINOV3_7B, **_ABOVE}, "-sat"),
    **_rows("BEiTv2", "B_16", {**_BEIT, "layer_scale": 0.1}),
    **_rows("BEiTv2", "L_16", {**_BEIT, "layer_scale": 1e-5}),
    **_rows("EVA02", "Ti_14", {**_EVA02_SMALL, "mlp_dim": 512}),
    **_rows("EVA02", "S_14", {**_EVA02_SMALL, "mlp_dim": 1024}),
    **_rows("EVA02", "B_14", {**_EVA02_LARGE, "mlp_dim": 2048}),
    **_rows("EVA02", "L_14", {**_EVA02_LARGE, "mlp_dim": 2730}),
}

# Of images as large as the field `image_side` says, with 1000 classes or without a head.
PARAMETER_COUNTS = {
    "DeiT-Ti_16": 5_717_416,
    "DeiT-S_16": 22_050_664,
    "DeiT-B_16": 86_567_656,
    "DeiT-Ti_16-distilled": 5_910_800,
    "DeiT-S_16-distilled": 22_436_432,
    "DeiT-B_16-distilled": 87_338_192,
    "DeiT3-S_16": 22_059_496,
    "DeiT3-M_16": 38_849_512,
    "DeiT3-B_16": 86_585_320,
    "DeiT3-L_16": 304_374_760,
    "DeiT3-H_14": 632_126_440,
    "MAE-B_16": 85_798_656,
    "MAE-L_16": 303_301_632,
    "MAE-H_14": 630_764_800,
    "DINO-S_16": 21_665_664,
    "DINO-S_8": 21_670_272,
    "DINO-B_16": 85_798_656,
    "DINO-B_8": 85_807_872,
    "DINOv2-S_14": 22_056_192,
    "DINOv2-B_14": 86_579_712,
    "DINOv2-L_14": 304_367_616,
    "DINOv2-g_14": 1_136_479_232,
    "DINOv2-S_14-reg": 22_057_728,
    "DINOv2-B_14-reg": 86_582_784,
    "DINOv2-L_14-reg": 304_371_712,
    "DINOv2-g_14-reg": 1_136_485_376,
    "DINOv3-S_16": 21_596_160,
    "DINOv3-B_16": 85_659_648,
    "DINOv3-L_16": 303_128_576,
    "DINOv3-S+_16": 28_692_480,
    "DINOv3-H+_16": 840_591_360,
    "DINOv3-7B_16": 6_716_030_976,
    "DINOv3-L_16-sat": 303_128_576,
    "DINOv3-7B_16-sat": 6_716_030_976,
    "BEiTv2-B_16": 86_530_984,
    "BEiTv2-L_16": 304_430_568,
    "EVA02-Ti_14": 5_756_584,
    "EVA02-S_14": 22_129_000,
    "EVA02-B_14": 87_117_544,
    "EVA02-L_14": 305_080_232,
}
