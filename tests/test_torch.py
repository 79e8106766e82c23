"""timm's names and layout, without PyTorch; test_parity.py compares with timm itself."""

import contextlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax

from checkpoints import torch, tree
from tests.helpers import TINY, TINY_HYBRID, TINY_MIXER, random_params
from vit_jax.models import get_model

MODELS = {
    "vit": ("ViT-B_16", TINY),
    "gap": ("ViT-B_16", dict(TINY, classifier="gap")),
    "map": ("ViT-B_16", dict(TINY, classifier="map")),
    "hybrid": ("R50+ViT-B_16", TINY_HYBRID),
    "root": ("R+ViT-Ti_16", dict(TINY, patch_size=2)),
    "mixer": ("Mixer-B_16", TINY_MIXER),
}


def make(which, size=(16, 16)):
    name, fields = MODELS[which]
    return random_params(name, size, num_classes=5, **fields)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("which", MODELS)
def test_there_and_back(which):
    model, params = make(which)
    state_dict = torch.to_state_dict({"params": params}, model)
    assert_equal(torch.from_state_dict(state_dict, model), {"params": params})


@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("positions", ["learned", "sincos2d"])
def test_the_namings_that_fit_are_those_that_can_be_written(which, positions):
    name, fields = MODELS[which]
    if which != "mixer":
        fields = dict(fields, position_embedding=positions)
    model, params = random_params(name, (16, 16), num_classes=5, **fields)
    can = []
    for naming in model.torch_namings or ("",):
        with contextlib.suppress(ValueError):
            torch.to_state_dict({"params": params}, model, naming or None)
            can.append(naming)
    assert torch.fitting_namings({"params": params}, model) == can
    assert bool(can) == (positions == "learned" or which == "mixer")
    assert len(can) < max(len(model.torch_namings), 2)  # not all of them


def test_names_and_layout():
    model, params = make("vit")
    state_dict = torch.to_state_dict({"params": params}, model)
    block = params["Transformer"]["encoderblock_1"]
    attention = block["MultiHeadDotProductAttention_1"]
    qkv = state_dict["blocks.1.attn.qkv.weight"]
    assert qkv.shape == (48, 16)
    # Row 16 + 8 * head + i of the fused weight makes channel i of that head's key.
    np.testing.assert_array_equal(qkv[16 + 8 + 3], attention["key"]["kernel"][:, 1, 3])
    bias = state_dict["blocks.1.attn.qkv.bias"]
    np.testing.assert_array_equal(bias[32 + 5], attention["value"]["bias"][0, 5])
    proj = state_dict["blocks.1.attn.proj.weight"]
    np.testing.assert_array_equal(proj[7, 8 + 2], attention["out"]["kernel"][1, 2, 7])
    patch = state_dict["patch_embed.proj.weight"]
    np.testing.assert_array_equal(patch[9, 2], params["embedding"]["kernel"][:, :, 2, 9])
    np.testing.assert_array_equal(state_dict["head.weight"], params["head"]["kernel"].T)
    np.testing.assert_array_equal(
        state_dict["blocks.1.norm2.weight"], block["LayerNorm_2"]["scale"]
    )
    assert {"cls_token", "pos_embed", "norm.bias", "blocks.0.mlp.fc2.weight"} <= set(state_dict)


def test_scanned_models_are_stacked():
    model, params = make("vit")
    scanned = get_model("ViT-B_16", num_classes=5, scan=True, **TINY)
    stacked = {"params": tree.stack(params)}
    state_dict = torch.to_state_dict(stacked, scanned)
    assert_equal(torch.from_state_dict(state_dict, scanned), stacked)
    assert_equal(torch.from_state_dict(state_dict, model), {"params": params})


def test_what_does_not_fit_is_listed_by_its_name_in_the_file():
    model, params = make("vit")
    state_dict = torch.to_state_dict({"params": params}, model)
    state_dict["fc_norm.weight"] = state_dict.pop("norm.weight")
    state_dict["fc_norm.bias"] = state_dict.pop("norm.bias")
    state_dict["head.bias"] = np.zeros(7, np.float32)
    lists = (
        "missing: norm.bias, norm.weight; extra: fc_norm.bias, fc_norm.weight; "
        "of another shape: head.bias (7,) in place of (5,)"
    )
    with pytest.raises(ValueError, match=re.escape(lists)):
        torch.from_state_dict(state_dict, model)
    with pytest.raises(ValueError, match=re.escape("missing: blocks.0.attn.proj.bias")):
        torch.from_state_dict({"a": np.zeros(3)}, model)


def test_other_images_than_square_ones():
    model, params = make("vit", (8, 16))
    state_dict = torch.to_state_dict({"params": params}, model)
    with pytest.raises(ValueError, match="8 patches, which do not make a square"):
        torch.from_state_dict(state_dict, model)
    assert_equal(torch.from_state_dict(state_dict, model, (8, 16)), {"params": params})


def test_timm_has_no_pre_logits():
    model, params = random_params("ViT-B_16", (16, 16), representation_size=8, **TINY)
    with pytest.raises(ValueError, match="no place for: pre_logits/bias, pre_logits/kernel"):
        torch.to_state_dict({"params": params}, model)


def test_safetensors(tmp_path):
    model, params = make("mixer")
    state_dict = torch.to_state_dict({"params": params}, model)
    torch.write(tmp_path / "a.safetensors", state_dict)
    again = torch.read(tmp_path / "a.safetensors")
    assert set(again) == set(state_dict)
    assert_equal(torch.from_state_dict(again, model), {"params": params})
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_half_precision_and_prefixes(tmp_path):
    model, params = make("vit")
    state_dict = torch.to_state_dict({"params": params}, model)
    half = {f"module.{k}": jnp.asarray(v, jnp.bfloat16) for k, v in state_dict.items()}
    safetensors.flax.save_file(half, tmp_path / "half.safetensors")
    loaded = torch.from_state_dict(torch.read(tmp_path / "half.safetensors"), model)["params"]
    kernel = params["head"]["kernel"]
    assert loaded["head"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(loaded["head"]["kernel"], jnp.bfloat16(kernel).astype("float32"))


def test_pytorch_files_need_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    (tmp_path / "a.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match=r"need PyTorch: pip install 'vit_jax\[torch\]'"):
        torch.read(tmp_path / "a.pth")


def test_timm_has_no_fixed_positions():
    model, params = random_params("ViT-B_16", (16, 16), position_embedding="sincos2d", **TINY)
    with pytest.raises(ValueError, match=r"of the kind sincos2d: keep it as \.npz"):
        torch.to_state_dict({"params": params}, model)


def test_what_is_no_safetensors_file(tmp_path):
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk\.safetensors is no \.safetensors file"):
        torch.read(tmp_path / "junk.safetensors")
