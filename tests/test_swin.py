import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import torch
from tests.golden_recipe import golden_images, recipe_weights
from tests.helpers import noise, random_params
from vit_jax import ops, pretrained
from vit_jax.models import get_model

GOLDEN = Path(__file__).parent / "golden" / "swin_swinir_rrdb.npz"
TINY = dict(embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=3, num_classes=5)


def apply(model, params, images, **kwargs):
    return jax.jit(functools.partial(model.apply, **kwargs))({"params": params}, images)


def test_golden_output_and_activations():
    model = get_model("Swin-T")
    variables = recipe_weights(model, (224, 224), "official")
    images = golden_images((224, 224), low=0.0)
    capture = jax.jit(functools.partial(model.apply, capture_intermediates=True))
    out, state = capture(variables, images)
    golden = np.load(GOLDEN)
    expected = golden["swin_tiny/output"]
    np.testing.assert_allclose(out, expected, atol=2e-5 * expected.std())  # measured 4e-6
    for name, step in {
        "patch_norm": (9, 11, 3),
        "merging1": (5, 7, 3),
        "stage3_block1": (2, 3, 3),
    }.items():
        found = state["intermediates"][name]["__call__"][0]
        found = np.asarray(found)[:, :: step[0], :: step[1], :: step[2]]
        expected = golden[f"swin_tiny/{name}"]
        np.testing.assert_allclose(found, expected, atol=2e-5 * expected.std(), err_msg=name)
    maps = apply(model, variables["params"], images, feature_maps=True)
    assert [x.shape for x in maps] == [(1, 56 // 2**i, 56 // 2**i, 96 * 2**i) for i in range(4)]
    np.testing.assert_allclose(
        maps[3][:, ::2, ::3, ::3], golden["swin_tiny/stage3_block1"], atol=1e-4
    )


def test_places_of_position_biases():
    index = ops.relative_position_index((7, 7)).reshape(7, 7, 7, 7)  # query, then key
    assert index[3, 3, 3, 3] == index[0, 0, 0, 0] == 84
    assert index[0, 0, 0, 1] == 83
    assert index[0, 0, 6, 6] == 0
    assert index[6, 6, 0, 0] == 168
    assert ops.relative_position_index((2, 3))[0, 5] == 0
    assert ops.relative_position_index((2, 3)).max() == 3 * 5 - 1


def test_what_a_shift_keeps_apart():
    """In windows that hold pixels from opposite sides, each sees those of its own side alone."""
    size, window, shift = (6, 9), (3, 3), (1, 1)
    mask = ops.shifted_window_mask(size, window, shift)
    y, x = np.mgrid[:6, :9]
    rolled = [np.roll(z, (-1, -1), (0, 1))[None, ..., None] for z in (y, x)]
    y, x = (np.asarray(ops.to_windows(z, 3))[..., 0] for z in rolled)
    close = (abs(y[:, :, None] - y[:, None]) < 3) & (abs(x[:, :, None] - x[:, None]) < 3)
    np.testing.assert_array_equal(mask, np.where(close, 0, -100))
    assert not ops.shifted_window_mask(size, window, (0, 0)).any()


def test_shifted_attention_is_that_of_the_shifted_image():
    """Inside the image, where no pixels are kept apart."""
    qkv, table = noise((1, 12, 12, 3 * 8)), noise((25, 2), 1)
    rolled = jnp.roll(qkv, (-1, -1), (1, 2))
    found = jnp.roll(ops.window_attention(rolled, table, (3, 3), (1, 1)), (1, 1), (1, 2))
    expected = ops.window_attention(qkv[:, 1:10, 1:10], table, (3, 3))
    np.testing.assert_allclose(found[:, 1:10, 1:10], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "windows"),
    [
        ((24, 24), [(3, 3), (3, 3)]),
        ((11, 37), [(3, 3), (2, 3)]),  # neither patches nor windows nor merging divide it
        ((4, 40), [(1, 3), (1, 3)]),
    ],
)
def test_any_size(size, windows):
    model, params = random_params("Swin-T", size, **TINY)
    for stage, (h, w) in enumerate(windows):
        table = params[f"stage{stage}_block1"]["attn"]["relative_position_bias_table"]
        assert table.shape == ((2 * h - 1) * (2 * w - 1), TINY["num_heads"][stage])
    out = apply(model, params, noise((2, *size, 3)))
    assert out.shape == (2, 5)
    assert np.isfinite(out).all()


def test_every_parameter_receives_a_finite_gradient():
    model, params = random_params("Swin-T", (32, 48), **TINY, remat=True, drop_path_rate=0.1)
    images = noise((4, 32, 48, 3))

    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        return jnp.sum(model.apply({"params": params}, images, train=True, rngs=rngs)[:, :2] ** 2)

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        assert np.abs(grad).max() > 0, name


def test_stochastic_depth():
    model, params = random_params("Swin-T", (24, 24), **TINY, drop_path_rate=0.5)
    images = noise((1, 24, 24, 3))

    @jax.jit
    def train(params, key):
        return model.apply({"params": params}, images, train=True, rngs={"dropout": key})

    outs = [train(params, jax.random.key(i)) for i in range(8)]
    assert len({float(out[0, 0]) for out in outs}) > 1
    still = apply(model.clone(drop_path_rate=0.0), params, images, train=True)
    np.testing.assert_array_equal(still, apply(model, params, images))


def test_initialisation():
    model = get_model("Swin-T", depths=(1, 1), num_heads=(3, 6))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    attn = params["stage1_block0"]["attn"]
    for leaf in (attn["qkv"]["kernel"], attn["relative_position_bias_table"]):
        assert np.std(leaf) == pytest.approx(0.02, rel=0.06)
    assert not attn["qkv"]["bias"].any()
    assert "bias" not in params["merging1"]["reduction"]


def test_a_smaller_window_keeps_the_biases_that_it_has():
    table = noise((13 * 13, 2)).reshape(13, 13, 2)
    found = ops.resize_bias_table(table.reshape(169, 2), (7, 7), (5, 7)).reshape(9, 13, 2)
    np.testing.assert_allclose(found[3:6], table[5:8], atol=0.02)
    np.testing.assert_array_equal(ops.resize_bias_table(table.reshape(169, 2), (7, 7), (7, 7)),
                                  table.reshape(169, 2))  # fmt: skip


@pytest.mark.parametrize("new", [4, 12])
def test_resized_tables_keep_a_line(new):
    """Offsets of 1 stay where they are; the outermost ones meet those of a larger window."""
    line = np.repeat(np.arange(-6.0, 7)[:, None], 13, axis=1)
    found = ops.resize_bias_table(line.reshape(169, 1), (7, 7), (new, new))
    found = np.asarray(found).reshape(2 * new - 1, 2 * new - 1)
    np.testing.assert_allclose(found[new - 2 : new + 1, 0], [-1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(found, np.repeat(found[:, :1], 2 * new - 1, axis=1), atol=1e-5)
    if new == 12:
        np.testing.assert_allclose(found[[0, -1], 0], [-6, 6], atol=1e-4)


def test_parameters_for_other_sizes_and_windows():
    model, params = random_params("Swin-T", (32, 32), **TINY)
    assert model.image_size(params) == (24, 24)  # the smallest with whole windows everywhere
    small = model.resize_params(params, (32, 32), (16, 16))
    assert small["stage1_block0"]["attn"]["relative_position_bias_table"].shape == (9, 4)
    assert model.image_size(small) == (16, 16)
    assert np.isfinite(apply(model, small, noise((1, 16, 16, 3)))).all()
    wide = model.clone(window_size=4)
    larger = wide.resize_params(params, (32, 32), (32, 48))
    assert larger["stage0_block0"]["attn"]["relative_position_bias_table"].shape == (49, 2)
    flat = model.resize_params(params, (32, 32), (8, 32))  # windows of 2 x 3 and 1 x 3
    with pytest.raises(ValueError, match="windows that are no squares"):
        model.image_size(flat)
    back = model.resize_params(flat, (8, 32), (24, 24))
    assert jax.tree.map(np.shape, back) == jax.tree.map(np.shape, params)
    with pytest.raises(ValueError, match="a table of 15 position biases is not that of images"):
        model.resize_params(flat, (24, 24), (24, 24))


def test_a_table_that_could_be_that_of_a_square_is_not_taken_for_one():
    """A window of 1 x 5 has as many offsets as one of 2 x 2."""
    wide = dict(TINY, window_size=5)
    model, params = random_params("Swin-T", (8, 40), **wide)
    assert params["stage1_block0"]["attn"]["relative_position_bias_table"].shape == (9, 4)
    same = model.resize_params(params, (8, 40), (8, 40))
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize("naming", ["timm", "official", "transformers"])
def test_files(naming, tmp_path):
    model, params = random_params("Swin-T", (24, 24), **TINY)
    state_dict = torch.to_state_dict({"params": params}, model, naming)
    merging = {
        "timm": "layers.1.downsample",
        "official": "layers.0.downsample",
        "transformers": "swin.encoder.layers.0.downsample",
    }[naming]
    assert state_dict[f"{merging}.reduction.weight"].shape == (16, 32)
    assert ("head.fc.bias" in state_dict) == (naming == "timm")
    with_buffers = {
        **state_dict,
        "layers.0.blocks.0.attn.relative_position_index": np.zeros((9, 9)),
        "layers.0.blocks.1.attn_mask": np.zeros((4, 9, 9)),
    }
    torch.write(tmp_path / "a.safetensors", with_buffers)
    loaded = pretrained.load(tmp_path / "a.safetensors", "Swin-T", TINY)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, {"params": params})
    assert (
        loaded.eval_pp == "decode|resize_small(27, method='bicubic')|central_crop(24)|normalize()"
    )
    with pytest.raises(
        ValueError, match=r"unknown naming 'x'.*there are: timm, official, transformers"
    ):
        torch.to_state_dict({"params": params}, model, "x")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depths": (1,)}, r"depths=\(1,\) and num_heads=\(2, 4\) must have a number for each"),
        ({"num_heads": (3, 4)}, "the 8 channels of stage 0 are not divisible by num_heads"),
        ({"window_size": 0}, "window_size must be at least 1, not 0"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must lie in \[0, 1\), not 1.0"),
    ],
)
def test_wrong_settings(overrides, message):
    model = get_model("Swin-T", **{**TINY, **overrides})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 24, 24, 3)))
