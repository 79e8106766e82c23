"""Comparison with transformers' UPerNet on Swin: make parity."""

import importlib

import jax
import numpy as np
import pytest

from checkpoints import torch
from tests.helpers import noise, random_variables
from vit_jax import ops, pretrained, weights
from vit_jax.models import MODELS, get_model
from vit_jax.models.swin import Swin

pytestmark = pytest.mark.parity

ENCODER = dict(embed_dim=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)
FIELDS = dict(encoder="Swin-small", features=32, auxiliary_features=16, num_classes=6)
SIZE = (160, 192)  # with whole windows in each map, and more than one: there the rules are alike


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setitem(MODELS, "Swin-small", (Swin, ENCODER))
    return get_model("Swin-T-UPerNet", **FIELDS)


@pytest.fixture
def theirs():
    """transformers' model, all of whose weights and statistics are random."""
    importlib.import_module("tests.torchvision_operators")
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = SwinConfig(
        embed_dim=24, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=32, auxiliary_in_channels=96, auxiliary_channels=16,
        num_labels=6,
    )  # fmt: skip
    return randomised(UperNetForSemanticSegmentation(config).eval())


def randomised(model):
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.1 * torch.randn(tensor.shape))
                if name.endswith(("running_var", "norm.weight")) or "layernorm" in name:
                    tensor.exp_()
    return model


def logits_of(theirs, images):
    import torch

    with torch.no_grad():
        inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        return theirs(inputs).logits.numpy().transpose(0, 2, 3, 1)


def assert_alike(model, variables, theirs):
    images = noise((1, *SIZE, 3))
    expected = logits_of(theirs, images)
    found = ops.resize_bilinear(jax.jit(model.apply)(variables, images), SIZE)
    np.testing.assert_allclose(found, expected, atol=3e-5 * expected.std())


def test_what_they_write(model, theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    found = weights.read(tmp_path)
    variables = pretrained.adapt(
        found, jax.eval_shape(model.init, jax.random.key(0), *model.inputs(SIZE)), model, SIZE
    )
    assert_alike(model, variables, theirs)


def test_what_they_read(model, theirs, tmp_path):
    from transformers import UperNetForSemanticSegmentation

    theirs.save_pretrained(tmp_path)
    variables = random_variables(model, SIZE, deviation=0.1)
    state_dict = torch.to_state_dict(variables, model, "transformers")
    torch.write(tmp_path / "model.safetensors", state_dict)
    read, report = UperNetForSemanticSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_alike(model, variables, read.eval())


def test_a_classifier_that_they_write(model, tmp_path):
    """At a size that the windows divide: others are padded otherwise than in timm."""
    importlib.import_module("tests.torchvision_operators")
    import torch
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=128, embed_dim=24, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=4,
        num_labels=5,
    )  # fmt: skip
    theirs = randomised(SwinForImageClassification(config).eval())
    theirs.save_pretrained(tmp_path)
    images = noise((1, 128, 128, 3))
    with torch.no_grad():
        inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        expected = theirs(inputs).logits.numpy()
    ours = pretrained.load(tmp_path, "Swin-small", image_size=(128, 128))
    found = jax.jit(ours.model.apply)(ours.variables, images)
    np.testing.assert_allclose(found, expected, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(90, 75), (64, 48)])
def test_what_the_benchmark_compares_with(size, model):
    """The module in PyTorch takes our weights by name, and pads and shifts as mmsegmentation."""
    import torch as pytorch

    from vit_jax.benchmark import models, torch_contender

    variables = random_variables(model, size, deviation=0.1)
    theirs = torch_contender.load(models.in_pytorch("", model, size), variables, model)
    images = noise((2, *size, 3))
    with pytorch.inference_mode():
        found = theirs(torch_contender.images(images)).numpy().transpose(0, 2, 3, 1)
    expected = np.asarray(jax.jit(model.apply)(variables, images))
    np.testing.assert_allclose(found, expected, atol=3e-5 * expected.std())
