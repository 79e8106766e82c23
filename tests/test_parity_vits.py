"""Comparison with timm of ViTs of today, which read what we write, and we what they do."""

import importlib
import json

import jax
import numpy as np
import pytest

from checkpoints import torch
from tests.helpers import noise, random_variables, written_as_read
from tests.todays_vits import CASES, SIZES, in_timm
from vit_jax import pretrained
from vit_jax.models import get_model, resolve

pytestmark = pytest.mark.parity

SIZE = (24, 40)
KINDS = [kind for kind in CASES if not kind.endswith("official")]


@pytest.fixture(scope="module")
def theirs():
    importlib.import_module("tests.torchvision_operators")
    importlib.import_module("torch").manual_seed(0)
    return in_timm(importlib.import_module("timm"), SIZE)


def ours(kind):
    return get_model("ViT-B_16", **{**SIZES, **CASES[kind], "patch_size": 8})


def check(model, variables, of_timm):
    import torch as pytorch

    images = noise((2, *SIZE, 3))
    found = np.asarray(jax.jit(model.apply)(variables, images))
    with pytorch.no_grad():
        expected = of_timm.eval()(pytorch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    assert expected.std() > 0.05
    assert np.abs(found - expected).max() <= 2e-5 * max(expected.std(), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_we_read_what_timm_writes(theirs, kind):
    import torch as pytorch

    with pytorch.no_grad():
        for parameter in theirs[kind].parameters():
            parameter.add_(0.1 * pytorch.randn(parameter.shape))
    state_dict = {name: tensor.numpy() for name, tensor in theirs[kind].state_dict().items()}
    check(ours(kind), torch.from_state_dict(state_dict, ours(kind), SIZE), theirs[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_timm_reads_what_we_write(theirs, kind):
    import torch as pytorch

    model = ours(kind)
    naming = torch.naming_of(theirs[kind].state_dict(), model)
    variables = random_variables(model, SIZE)
    written = torch.to_state_dict(variables, model, naming)
    missing = theirs[kind].load_state_dict(
        {name: pytorch.from_numpy(np.array(array)) for name, array in written.items()}, strict=False
    )
    buffers = dict(theirs[kind].named_buffers())
    assert not missing.unexpected_keys
    assert {*missing.missing_keys} <= {*buffers}
    check(model, variables, theirs[kind])


# timm's names, one of each family and of what differs within it, with what makes timm's small.
ROWS = {
    "vit_tiny_patch16_224.augreg_in21k": dict(act_layer="gelu_tanh"),  # as it was trained
    "deit_tiny_patch16_224.fb_in1k": {},
    "deit_tiny_distilled_patch16_224.fb_in1k": {},
    "deit3_small_patch16_224.fb_in1k": {},
    "vit_base_patch16_224.mae": dict(num_classes=0),
    "vit_small_patch8_224.dino": dict(num_classes=0),
    "vit_small_patch14_dinov2.lvd142m": dict(num_classes=0),
    "vit_small_patch14_reg4_dinov2.lvd142m": dict(num_classes=0),
    "vit_giant_patch14_reg4_dinov2.lvd142m": dict(num_classes=0),
    "vit_small_patch16_dinov3.lvd1689m": dict(num_classes=0, global_pool="token"),
    "vit_small_plus_patch16_dinov3_qkvb.lvd1689m": dict(num_classes=0, global_pool="token"),
    "beitv2_base_patch16_224.in1k_ft_in1k": {},
    "eva02_tiny_patch14_336.mim_in22k_ft_in1k": {},
    "eva02_base_patch14_448.mim_in22k_ft_in1k": {},
    "vit_base_patch32_clip_quickgelu_224.openai": dict(num_classes=7),
    "vit_base_patch32_siglip_256.v2_webli": dict(num_classes=0, act_layer="gelu_tanh"),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_by_the_names_of_timm(theirs, name, tmp_path):
    """Files of timm's, with the config.json that the hub has beside them, both ways."""
    import safetensors.torch
    import timm
    import torch as pytorch

    architecture, _, tag = name.partition(".")
    side = 2 * int(architecture.partition("_patch")[2].partition("_")[0])
    of_timm = timm.create_model(architecture, depth=2, img_size=side, **ROWS[name]).eval()
    with pytorch.no_grad():
        for parameter in of_timm.parameters():
            scale = 0.1 if parameter.ndim < 2 else 0.02  # or wide models round off too much
            parameter.add_(scale * pytorch.randn(parameter.shape))
    config = {"architecture": architecture, "pretrained_cfg": {"tag": tag}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_model(of_timm, tmp_path / "model.safetensors")
    loaded = pretrained.load(tmp_path, image_size=(side, side))
    assert loaded.name == resolve(name)[0]
    assert loaded.model.clone(num_classes=1) == get_model(name, num_layers=2, num_classes=1)

    images = noise((2, side, side, 3))
    found = np.asarray(jax.jit(loaded.model.apply)(loaded.variables, images))
    with pytorch.no_grad():
        expected = of_timm(pytorch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    assert expected.std() > 0.05
    assert np.abs(found - expected).max() <= 2e-5 * max(expected.std(), 1)

    state_dict = {k: v.numpy() for k, v in of_timm.state_dict().items()}
    naming = torch.naming_of(state_dict, loaded.model)
    written = torch.to_state_dict(loaded.variables, loaded.model, naming)
    for key, array in torch.without_buffers(state_dict, loaded.model).items():
        np.testing.assert_array_equal(written.pop(key), array, err_msg=key)
    assert not written


# Of transformers: the model and its configuration, what they are told, and our fields.
_COMMON = dict(
    hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8
)
_V2 = dict(layer_scale=1.0, patch_size=8)
TRANSFORMERS = {
    "DINOv2": ("Dinov2", {}, _V2),
    "DINOv2, gated": (
        "Dinov2", dict(use_swiglu_ffn=True),
        dict(_V2, gated=True, activation="silu", mlp_dim=128),
    ),
    "DINOv2, registers": (
        "Dinov2WithRegisters", dict(num_register_tokens=4), dict(_V2, registers=4)
    ),
    "DINOv3": (
        "DINOv3ViT", dict(intermediate_size=192, num_register_tokens=4), CASES["dinov3"]
    ),
    "DINOv3, gated": (
        "DINOv3ViT",
        dict(intermediate_size=192, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu"),
        dict(CASES["dinov3"], gated=True, activation="silu"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_files_of_transformers(theirs, kind, tmp_path):
    import safetensors.numpy
    import torch as pytorch
    import transformers

    name, told, fields = TRANSFORMERS[kind]
    config = getattr(transformers, f"{name}Config")(**_COMMON, **told)
    of_transformers = getattr(transformers, f"{name}Model")(config).eval()
    images = noise((2, 32, 32, 3))
    with pytorch.no_grad():
        for parameter in of_transformers.parameters():
            parameter.add_(0.1 * pytorch.randn(parameter.shape))
        out = of_transformers(pytorch.from_numpy(images.transpose(0, 3, 1, 2)))
    of_transformers.save_pretrained(tmp_path)
    state_dict = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    model = get_model("ViT-B_16", **{**SIZES, **fields, "num_classes": 0})
    variables = torch.from_state_dict(state_dict, model)
    found = np.asarray(jax.jit(model.apply)(variables, images))
    expected = out.last_hidden_state[:, 0].numpy()
    assert np.abs(found - expected).max() <= 2e-5 * expected.std()

    assert written_as_read(variables, model, state_dict).startswith("transformers-")


def test_the_distilled_deit_of_transformers(theirs, tmp_path):
    """By its config.json alone, and the mean of two heads."""
    import torch as pytorch
    import transformers

    kind = transformers.DeiTForImageClassificationWithTeacher
    labels = dict(num_labels=5, layer_norm_eps=1e-6)
    of_transformers = kind(transformers.DeiTConfig(**_COMMON, intermediate_size=192, **labels))
    with pytorch.no_grad():
        for parameter in of_transformers.parameters():
            parameter.add_(0.1 * pytorch.randn(parameter.shape))
        images = noise((2, 32, 32, 3))
        out = of_transformers.eval()(pytorch.from_numpy(images.transpose(0, 3, 1, 2)))
    of_transformers.save_pretrained(tmp_path)
    loaded = pretrained.load(tmp_path)
    assert loaded.name.endswith("-distilled")
    assert (loaded.model.num_heads, loaded.model.activation) == (3, "gelu")
    found = np.asarray(jax.jit(loaded.model.apply)(loaded.variables, images))
    expected = out.logits.numpy()
    assert np.abs(found - expected).max() <= 2e-5 * expected.std()
