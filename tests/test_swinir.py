import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import torch
from tests.golden_recipe import golden_images, recipe_weights
from tests.helpers import TINY_SWINIR, noise, random_params
from vit_jax import ops, pretrained
from vit_jax import weights as weight_files
from vit_jax.models import get_model, swinir

GOLDEN = Path(__file__).parent / "golden" / "swin_swinir_rrdb.npz"
TINY = dict(embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4)


def apply(model, params, images, **kwargs):
    return jax.jit(functools.partial(model.apply, **kwargs))({"params": params}, images)


def test_golden_output_and_activations():
    model = get_model("SwinIR-lightweight-x2")
    variables = recipe_weights(model, (30, 41))
    images = 2 * golden_images((30, 41), low=0.0) - 1
    out, state = jax.jit(functools.partial(model.apply, capture_intermediates=True))(
        variables, images
    )
    golden = np.load(GOLDEN)
    expected = golden["swinir_light_x2/output"]
    np.testing.assert_allclose((out + 1) / 2, expected, atol=2e-5 * expected.std())  # 4e-6
    captured = {
        name: calls["__call__"][0]
        for name, calls in state["intermediates"].items()
        if "__call__" in calls
    }
    captured["group0"] = captured["patch_norm"] + captured["group0_conv"]
    for name in ("conv_first", "group0", "norm", "conv_after_body"):
        expected = golden[f"swinir_light_x2/{name}"]
        found = captured[name][:, ::5, ::7]
        np.testing.assert_allclose(found, expected, atol=2e-5 * expected.std(), err_msg=name)


def test_golden_figures():
    model = get_model("SwinIR-lightweight-x2")
    variables = recipe_weights(model, (64, 64))
    out = (apply(model, variables["params"], 2 * golden_images((64, 64), low=0.0) - 1) + 1) / 2
    assert out.mean() == pytest.approx(0.481061, abs=2e-6)
    assert out.std() == pytest.approx(0.525940, abs=1e-5)
    np.testing.assert_allclose(out[0, 17, 23], [1.306687, 0.013177, 1.383227], atol=5e-6)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("SwinIR-classical-x2", (8, 8)),
        ("SwinIR-classical-x3", (9, 5)),
        ("SwinIR-classical-x8", (3, 10)),
        ("SwinIR-lightweight-x4", (7, 9)),
        ("SwinIR-real-M-x2", (6, 8)),
        ("SwinIR-real-L-x4", (5, 8)),
        ("SwinIR-denoise-gray", (11, 9)),
        ("SwinIR-jpeg-color", (9, 9)),
    ],
)
def test_any_size(name, size):
    model, params = random_params(name, size, **TINY)
    out = apply(model, params, noise((2, *size, 3)))
    assert out.shape == (2, size[0] * model.upscale, size[1] * model.upscale, 3)
    assert out.dtype == jnp.float32
    assert np.isfinite(out).all()


def test_models_for_grey_images_take_luma():
    model, params = random_params("SwinIR-denoise-gray", (8, 8), **TINY)
    images = noise((1, 8, 8, 3))
    out = apply(model, params, images)
    grey = apply(model, params, np.asarray(ops.luma(images)))
    assert grey.shape == (1, 8, 8, 1)
    np.testing.assert_allclose(out, np.repeat(grey, 3, axis=-1), atol=1e-6)


def test_what_is_restored_without_enlarging_is_added_to_the_image():
    model, params = random_params("SwinIR-jpeg-color", (9, 9), **TINY)
    params["conv_last"] = jax.tree.map(np.zeros_like, params["conv_last"])
    images = noise((1, 9, 9, 3))
    np.testing.assert_allclose(apply(model, params, images), images, atol=1e-5)


def test_the_range_inside():
    """255 inside a JPEG's model: what the convolution adds is in units of grey levels."""
    model, params = random_params("SwinIR-jpeg-color", (8, 8), **TINY)
    params["conv_last"]["kernel"] = np.zeros_like(params["conv_last"]["kernel"])
    params["conv_last"]["bias"] = np.array([1.0, 2, 3], np.float32)
    images = noise((1, 8, 8, 3))
    added = apply(model, params, images) - images
    np.testing.assert_allclose(added[0, 0, 0] * 127.5, [1, 2, 3], atol=1e-4)


def test_the_shift_stays_with_one_window():
    qkv, table = noise((1, 4, 4, 24)), np.zeros((49, 2), np.float32)
    changed = qkv.copy()
    changed[0, 0, 0] += 1
    before, after = (ops.window_attention(x, table, (4, 4), (2, 2)) for x in (qkv, changed))
    moved = np.abs(after - before).max(axis=-1)[0]
    assert (moved[:2, :2] > 0).all()
    assert not moved[2:].any()
    assert not moved[:, 2:].any()


@pytest.mark.slow
def test_every_parameter_receives_a_finite_gradient():
    for name in ("SwinIR-classical-x4", "SwinIR-real-L-x4", "SwinIR-denoise-color"):
        model, params = random_params(name, (8, 8), **TINY, remat=True)
        images = noise((2, 8, 8, 3))

        def loss(params, model=model, images=images):
            rngs = {"dropout": jax.random.key(0)}
            return jnp.sum(model.apply({"params": params}, images, train=True, rngs=rngs) ** 2)

        for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
            key = name + jax.tree_util.keystr(path)
            assert np.isfinite(grad).all(), key
            assert np.abs(grad).max() > 0, key


@pytest.mark.parametrize("name", ["SwinIR-classical-x2", "SwinIR-real-L-x4", "SwinIR-jpeg-gray"])
def test_official_files(name, tmp_path):
    model, params = random_params(name, (8, 8), **TINY)
    state_dict = torch.to_state_dict({"params": params}, model)
    block = "layers.1.residual_group.blocks.0"
    places = (2 * model.window_size - 1) ** 2
    assert state_dict[f"{block}.attn.relative_position_bias_table"].shape == (places, 2)
    connection = "layers.0.conv.4.weight" if "real-L" in name else "layers.0.conv.weight"
    assert connection in state_dict
    state_dict[f"{block}.attn.relative_position_index"] = np.zeros((16, 16))
    torch.write(tmp_path / "a.safetensors", state_dict)
    loaded = pretrained.load(tmp_path / "a.safetensors", name, TINY)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, {"params": params})


@pytest.mark.slow
def test_official_files_are_recognised():
    for name in ("SwinIR-lightweight-x3", "SwinIR-denoise-gray", "SwinIR-real-M-x2"):
        model = get_model(name)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
        weights = weight_files.Weights("a.pth", torch.to_state_dict(zeros, model), True, None)
        assert pretrained.identify(weights) == [name]


def test_published_benchmarks_are_of_models_that_there_are():
    for _, scores in swinir.PUBLISHED_SCORES.values():
        assert set(scores) <= set(swinir.VARIANTS)


@pytest.mark.parametrize(
    ("overrides", "size", "message"),
    [
        ({"upsampler": "cubic"}, (8, 8), "upsampler='cubic' is not one of"),
        ({"upscale": 5}, (8, 8), r"upscale=5: the upsampler 'pixelshuffle' enlarges by one of \(1"),
        ({"num_heads": (2,)}, (8, 8), "must have a number for each group"),
        ({"num_heads": (2, 3)}, (8, 8), "embed_dim=8 is not divisible by num_heads"),
        ({}, (2, 8), "images of 2 x 8 pixels are too small for windows of 4: .* at least 3"),
    ],
)
def test_wrong_settings(overrides, size, message):
    model = get_model("SwinIR-classical-x2", **{**TINY, **overrides})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))


def test_the_shifts_mask_is_no_large_constant():
    model, params = random_params(
        "SwinIR-denoise-color", (8, 8), **{**TINY_SWINIR, "window_size": 8}
    )
    images = jax.ShapeDtypeStruct((1, 512, 512, 3), np.float32)
    lowered = jax.jit(model.apply).lower({"params": params}, images)
    assert len(lowered.as_text()) < 5e6
