"""The rows of today's ViTs: sizes, names, and which of them weights are taken for."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest

from checkpoints import torch, tree
from vit_jax import identify, pretrained
from vit_jax.models import MODELS, get_model, list_models, resolve, vit_today
from vit_jax.weights import Weights

# Numbers of parameters of timm's models of these names, of 1000 classes where they have a head.
OF_TIMM = {
    "deit_tiny_patch16_224.fb_in1k": 5_717_416,
    "deit_small_patch16_224.fb_in1k": 22_050_664,
    "deit_base_patch16_224.fb_in1k": 86_567_656,
    "deit_tiny_distilled_patch16_224.fb_in1k": 5_910_800,
    "deit_small_distilled_patch16_224.fb_in1k": 22_436_432,
    "deit_base_distilled_patch16_224.fb_in1k": 87_338_192,
    "deit3_small_patch16_224.fb_in1k": 22_059_496,
    "deit3_medium_patch16_224.fb_in1k": 38_849_512,
    "deit3_base_patch16_224.fb_in1k": 86_585_320,
    "deit3_large_patch16_224.fb_in1k": 304_374_760,
    "deit3_huge_patch14_224.fb_in1k": 632_126_440,
    "vit_base_patch16_224.mae": 85_798_656,
    "vit_large_patch16_224.mae": 303_301_632,
    "vit_huge_patch14_224.mae": 630_764_800,
    "vit_small_patch16_224.dino": 21_665_664,
    "vit_small_patch8_224.dino": 21_670_272,
    "vit_base_patch16_224.dino": 85_798_656,
    "vit_base_patch8_224.dino": 85_807_872,
    "vit_small_patch14_dinov2.lvd142m": 22_056_192,
    "vit_base_patch14_dinov2.lvd142m": 86_579_712,
    "vit_large_patch14_dinov2.lvd142m": 304_367_616,
    "vit_giant_patch14_dinov2.lvd142m": 1_136_479_232,
    "vit_small_patch14_reg4_dinov2.lvd142m": 22_057_344,
    "vit_base_patch14_reg4_dinov2.lvd142m": 86_582_016,
    "vit_large_patch14_reg4_dinov2.lvd142m": 304_370_688,
    "vit_giant_patch14_reg4_dinov2.lvd142m": 1_136_483_840,
    "vit_small_patch16_dinov3.lvd1689m": 21_586_944,
    "vit_small_plus_patch16_dinov3.lvd1689m": 28_683_264,
    "vit_base_patch16_dinov3.lvd1689m": 85_641_216,
    "vit_large_patch16_dinov3.lvd1689m": 303_079_424,
    "vit_large_patch16_dinov3.sat493m": 303_079_424,
    "vit_huge_plus_patch16_dinov3.lvd1689m": 840_509_440,
    "vit_7b_patch16_dinov3.lvd1689m": 6_716_030_976,
    "vit_7b_patch16_dinov3.sat493m": 6_716_030_976,
    "beitv2_base_patch16_224.in1k_ft_in1k": 86_530_984,
    "beitv2_large_patch16_224.in1k_ft_in1k": 304_430_568,
    "eva02_tiny_patch14_336.mim_in22k_ft_in1k": 5_756_584,
    "eva02_small_patch14_336.mim_in22k_ft_in1k": 22_129_000,
    "eva02_base_patch14_448.mim_in22k_ft_in1k": 87_117_544,
    "eva02_large_patch14_448.mim_in22k_ft_in1k": 305_080_232,
}


def count(model):
    scanned = model.clone(scan=True)  # which is quicker to trace
    variables = jax.eval_shape(scanned.init, jax.random.key(0), *model.inputs(model.usual_size))
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TIMM)
def test_counts_of_timm(name):
    assert count(get_model(name)) == OF_TIMM[name]


def test_listed_counts_are_those_of_timm():
    """But for the place of the class token beside registers, and DINOv3's biases.

    timm adds the former into the token, and of the latter its models of these names have none,
    since the authors' are 0 but for the larger ones.
    """
    models = list_models()
    for name, wanted in OF_TIMM.items():
        row, fields = resolve(name)
        model = get_model(row)
        more = {"placed": model.hidden_size, "biases": 2 * model.hidden_size * model.num_layers}
        extra = sum(
            more[field]
            for field, value in fields.items()
            if value != MODELS[row][1].get(field, True)
        )
        assert models[row] == wanted + extra, name
    assert {resolve(name)[0] for name in OF_TIMM} == {*vit_today.VARIANTS}


@pytest.mark.parametrize(
    ("name", "row", "fields"),
    [
        ("vit_base_patch16_384.augreg_in1k", "ViT-B_16", {}),
        ("vit_base_patch16_224.bamboo", "ViT-B_16", {"activation": "gelu"}),
        ("deit_base_distilled_patch16_384", "DeiT-B_16-distilled", {}),
        ("vit_large_patch16_dinov3_qkvb.sat493m", "DINOv3-L_16-sat", {}),
        ("vit_base_patch16_clip_224.openai", "ViT-B_16-CLIP", {}),
        ("vit_base_patch16_clip_quickgelu_224.openai", "ViT-B_16-CLIP", {}),
        ("vit_base_patch16_clip_224.laion2b", "ViT-B_16-CLIP", {"activation": "gelu"}),
        ("vit_so400m_patch14_siglip_384.webli", "ViT-So400m_14-SigLIP", {}),
        ("vit_huge_patch14_clip_224.laion2b", "vit_huge_patch14_clip_224.laion2b", {}),
        ("vit_base_patch16_siglip_gap_224.webli", "vit_base_patch16_siglip_gap_224.webli", {}),
        ("R26_S_32", "R26+ViT-S_32", {}),
    ],
)
def test_names_of_timm(name, row, fields):
    assert resolve(name) == (row, fields)
    if row in MODELS:
        assert get_model(name, num_classes=3) == get_model(row, **fields, num_classes=3)


def written(folder, name, config=None, naming=None, file="model.safetensors", **fields):
    """Weights of a model as others keep them, with a config beside, and blocks of nothing."""
    model = get_model(name, **fields)
    shapes = tree.shapes(model, (model.patch_size * 2,) * 2)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    arrays = torch.to_state_dict({"params": zeros}, model, naming)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return Weights(str(folder / file), {k: np.asarray(v) for k, v in arrays.items()}, True, None)


def taken_for(weights):
    """The name of the model and the fields in which weights differ from it."""
    names = identify.identify(weights)
    if names:
        return names, {}
    relative = identify.find_relative(weights)
    assert not relative.problem
    return [relative.name], relative.fields


@pytest.mark.parametrize(
    ("made", "config", "row", "fields"),
    [
        ("DINO-S_16", {}, "ViT-S_16", {}),
        ("DINO-S_8", {}, "DINO-S_8", {}),
        ("ViT-S_16", {"patch_size": 8}, "ViT-S_16", {"patch_size": 8}),
        ("DINOv2-S_14", {}, "DINOv2-S_14", {}),
        ("DINOv2-S_14", {"num_classes": 7}, "DINOv2-S_14", {"num_classes": 7}),
        ("DINOv2-S_14-reg", {"placed": False}, "DINOv2-S_14-reg", {"placed": False}),
        ("DINOv3-L_16-sat", {"num_layers": 2}, "DINOv3-L_16", {"num_layers": 2}),
        ("EVA02-Ti_14", {}, "EVA02-Ti_14", {}),
        ("DeiT-Ti_16-distilled", {}, "DeiT-Ti_16-distilled", {}),
    ],
)
def test_weights_are_taken_for_the_first_that_they_fit(made, config, row, fields, tmp_path):
    assert taken_for(written(tmp_path, made, **config)) == ([row], fields)


@pytest.mark.parametrize(
    ("made", "config", "row"),
    [
        ("ViT-S_16", {"architecture": "vit_small_patch16_224",
                      "pretrained_cfg": {"tag": "dino"}}, "DINO-S_16"),
        ("ViT-S_16", {"architecture": "deit_small_patch16_224"}, "DeiT-S_16"),
        ("ViT-S_16", {"architecture": "of_somebody"}, "ViT-S_16"),
        ("ViT-B_16", {"model_type": "vit_mae"}, "MAE-B_16"),
        ("ViT-S_16", {"architecture": "vit_base_patch14_dinov2"}, "ViT-S_16"),  # not so
    ],
)  # fmt: skip
def test_what_a_config_says_decides(made, config, row, tmp_path):
    weights = written(tmp_path, made, config, num_classes=0)
    names, fields = taken_for(weights)
    assert names == [row]
    assert not identify.find_twins(weights, row) or row == "ViT-S_16"
    assert not fields


@pytest.mark.parametrize(
    ("name", "kind", "naming"),
    [
        ("DINOv2-S_14", "dinov2", "transformers-Dinov2"),
        ("DINOv2-S_14-reg", "dinov2_with_registers", "transformers-Dinov2"),
        ("DINOv3-S_16", "dinov3_vit", "transformers-DINOv3ViT"),
        ("DeiT-Ti_16-distilled", "deit", "transformers-DeiT"),
        ("DINOv2-S_14", "", "dinov2"),
        ("DINOv3-S_16", "", "dinov3"),
        ("DINOv3-S+_16", "", "dinov3"),
    ],
)
def test_files_of_authors_and_of_transformers(name, kind, naming, tmp_path):
    heads = get_model(name).num_heads
    config = {"model_type": kind, "num_attention_heads": heads}
    weights = written(tmp_path, name, config, naming)
    assert taken_for(weights) == ([name], {})


def test_transformers_says_heads_and_activations(tmp_path):
    config = {"model_type": "dinov2", "num_attention_heads": 12, "hidden_act": "gelu"}
    small = dict(num_layers=2, hidden_size=48, mlp_dim=32, num_heads=12)
    weights = written(tmp_path, "DINOv2-g_14", config, "transformers-Dinov2", **small)
    for is_gated, activation in ((False, "gelu"), (True, "silu")):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**config, "use_swiglu_ffn": is_gated}))
        again = dataclasses.replace(weights)  # which has read nothing yet
        told = again.unseen_fields(get_model("DINOv2-g_14"))
        assert told == {"activation": activation, "num_heads": 12}


def test_what_is_taken_for_another_is_said(tmp_path, caplog):
    weights = written(tmp_path, "DINO-S_16", file="somebody.pth")
    torch.write(tmp_path / "somebody.safetensors", weights.arrays)
    with caplog.at_level(logging.INFO):
        loaded = pretrained.load(tmp_path / "somebody.safetensors")
    assert loaded.name == "ViT-S_16"
    assert "nothing tells it from weights of DINO-S_16 and DeiT-S_16" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        named = pretrained.load(tmp_path / "somebody.safetensors", "vit_small_patch16_224.dino")
    assert (named.name, named.model.activation) == ("DINO-S_16", "gelu")
    assert named.eval_pp.endswith("|normalize()")
    assert "taken" not in caplog.text


@pytest.mark.parametrize("name", sorted(vit_today.VARIANTS))
def test_rows_say_how_images_are_prepared(name):
    model = get_model(name)
    assert model.activation != "gelu_tanh"  # which is Google's alone
    side = model.image_side
    if model.rotary == "dinov3":
        assert model.image_size({}) == (side, side)
    assert side % model.stride == 0
    shown = model.preprocessing((side, side))
    assert model.input_values
    assert shown.endswith(model.input_values)
    assert (f"{side * 256 // 224}" in shown) == (model.preparation == "imagenet")
