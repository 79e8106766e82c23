"""ViTs of today against golden outputs of timm and of the authors' code."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import torch, tree
from tests.golden_recipe import recipe_array
from tests.helpers import random_variables
from tests.todays_vits import CASES, SIZES
from vit_jax import ops
from vit_jax.models import get_model

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "vit_today.npz"))
_MEAN, _STD = (np.array(v, np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A model, its golden figures, and its weights, drawn by their names in PyTorch."""
    golden = {
        key.partition("/")[2]: value
        for key, value in GOLDEN.items()
        if key.startswith(f"{request.param}/")
    }
    names = json.loads(str(golden["names"]))
    state_dict = {name: recipe_array(name, tuple(shape)) for name, shape in names.items()}
    model = get_model("ViT-B_16", **{**SIZES, **CASES[request.param]})
    return model, golden, state_dict


def test_every_golden_is_compared():
    assert {*CASES} == {key.partition("/")[0] for key in GOLDEN}


def test_outputs(case):
    model, golden, state_dict = case
    images = (golden["image"] / np.float32(255) - _MEAN) / _STD
    params = torch.from_state_dict(state_dict, model)["params"]
    params = model.resize_params(params, model.image_size(params), images.shape[1:3])
    if "pos" in golden:
        pos = np.asarray(params["Transformer"]["posembed_input"]["pos_embedding"])
        np.testing.assert_allclose(pos[0], golden["pos"], atol=1e-6)
    out = jax.jit(model.apply)({"params": params}, images)
    expected = golden["output"] if "output" in golden else golden["tokens"][:, 0]
    assert np.abs(out - expected).max() / expected.std() <= 3e-5


def test_weights_are_written_as_they_were_read(case):
    model, _, state_dict = case
    naming = torch.naming_of(state_dict, model)
    variables = torch.from_state_dict(state_dict, model)
    written = torch.to_state_dict(variables, model, naming)
    wanted = torch.without_buffers(state_dict, model)
    assert {*written} == {*wanted}
    for name, array in wanted.items():
        if name.endswith("qkv.bias") and model.biases == "qv":  # the middle third is not used
            array = np.where(np.repeat([True, False, True], len(array) // 3), array, 0)
        np.testing.assert_array_equal(written[name], array, err_msg=name)


def test_fields_are_read_off_the_weights(case):
    model, _, state_dict = case
    shapes, known = torch.shapes_by_our_names(state_dict, model)
    assert known == 1
    found = model.fields_in(shapes)
    untold = {"layer_scale", "position_embedding", "num_heads"}
    if model.rotary == "dinov3":  # whose files hold a bias of keys, and which pools as one likes
        untold |= {"biases", "classifier", "class_token"}
    told = {name: value for name, value in found.items() if name not in untold}
    assert told == model.values_of(told)
    assert ("layer_scale" in found) == (model.layer_scale is not None)


def test_scanned_blocks_are_the_same(case):
    model, _, state_dict = case
    variables = torch.from_state_dict(state_dict, model)
    images = np.zeros((1, *model.image_size(variables["params"]), 3), np.float32)
    expected = jax.jit(model.apply)(variables, images)
    scanned = model.clone(scan=True)
    stacked = tree.stack(variables)
    np.testing.assert_allclose(jax.jit(scanned.apply)(stacked, images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotary": "rope"}, "rotary='rope' is not one of"),
        ({"rotary_rescale": 0.5}, "rotary_rescale must be at least 1, not 0.5"),
        ({"biases": "k"}, "biases='k' is not one of"),
        ({"rotary": "dinov3", "num_heads": 8}, "a multiple of 4 channels, not of 6"),
        ({"distillation_token": True, "classifier": "gap"}, "distillation_token is for"),
        ({"relative_bias": True, "registers": 2}, "relative_bias is for"),
    ],
)
def test_wrong_fields(fields, message):
    model = get_model("ViT-B_16", **{**SIZES, **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize("scan", [False, True])
def test_rotary_places_are_rescaled_in_training_alone(scan):
    """By one factor for all blocks and both axes, of which the greatest turns as far as it says."""
    model = get_model("ViT-B_16", **{**SIZES, **CASES["dinov3"]}, rotary_rescale=2.0, scan=scan)
    plain = model.clone(rotary_rescale=1.0)
    images = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    params = random_variables(model, (32, 32))
    evaluated = jax.jit(model.apply)(params, images)
    np.testing.assert_array_equal(evaluated, jax.jit(plain.apply)(params, images))
    trained = jax.jit(functools.partial(model.apply, train=True))
    outs = [trained(params, images, rngs={"dropout": jax.random.key(i)}) for i in range(3)]
    assert len({float(out[0, 0]) for out in outs}) == 3
    again = trained(params, images, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(again, outs[0])
    assert np.abs(outs[0] - evaluated).max() > 1e-3


def test_the_scale_of_rotary_places():
    scales = jax.vmap(lambda key: ops.random_scale(key, 2.0))(
        jax.random.split(jax.random.key(0), 4000)
    )
    logs = np.log2(scales)
    assert logs.min() >= -1
    assert logs.max() <= 1
    np.testing.assert_allclose(np.histogram(logs, 4, (-1, 1))[0] / 1000, 1, atol=0.1)
    plain, scaled = (
        ops.rotary_waves("dinov3", (2, 3), 8, before=1, scale=scale)
        for scale in (None, np.float32(0.5))
    )
    angles = np.arctan2(plain.sin, plain.cos)[:, -1]  # of the longest period, less than a half turn
    np.testing.assert_allclose(np.arctan2(scaled.sin, scaled.cos)[:, -1], angles / 2, atol=1e-6)
    assert np.abs(angles).max() > 0.01
    np.testing.assert_allclose(scaled.cos**2 + scaled.sin**2, 1, atol=1e-6)
