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
TINY = dict(num_features=8, growth=4, num_blocks=2)


def apply(model, params, images):
    return jax.jit(model.apply)({"params": params}, images)


def test_golden_output():
    model = get_model("RRDB-x4", num_blocks=4)
    variables = recipe_weights(model, (24, 24), "esrgan")
    out = (apply(model, variables["params"], 2 * golden_images((24, 24), low=0.0) - 1) + 1) / 2
    expected = np.load(GOLDEN)["rrdb_x4/output"]
    np.testing.assert_allclose(out[:, ::2, ::2], expected, atol=2e-5 * expected.std())  # 2e-6


@pytest.mark.parametrize(("scale", "size"), [(1, (5, 7)), (2, (5, 4)), (4, (1, 3))])
def test_any_size(scale, size):
    model, params = random_params(f"RRDB-x{scale}", size, **TINY)
    out = apply(model, params, noise((2, *size, 3)))
    assert out.shape == (2, size[0] * scale, size[1] * scale, 3)
    assert np.isfinite(out).all()


def test_pixel_unshuffle():
    x = noise((2, 4, 6, 3))
    np.testing.assert_array_equal(ops.pixel_shuffle(ops.pixel_unshuffle(x, 2), 2), x)
    np.testing.assert_array_equal(
        ops.pixel_unshuffle(x, 2)[0, 1, 2, 4 * 2 + 2 * 1 + 0], x[0, 3, 4, 2]
    )


def test_every_parameter_receives_a_finite_gradient():
    model, params = random_params("RRDB-x2", (6, 6), **TINY, remat=True)

    def loss(params):
        return jnp.sum(model.apply({"params": params}, noise((2, 6, 6, 3)), train=True) ** 2)

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        assert np.abs(grad).max() > 0, name


@pytest.mark.slow
def test_initialisation():
    model = get_model("RRDB-x4", num_blocks=1)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    conv = params["block0"]["rdb2_conv3"]
    assert np.std(conv["kernel"]) == pytest.approx(0.1 * (2 / (9 * 128)) ** 0.5, rel=0.05)
    assert not conv["bias"].any()


@pytest.mark.parametrize(
    ("naming", "last"),
    [("basicsr", "body.1.rdb3.conv5.weight"), ("esrgan", "RRDB_trunk.1.RDB3.conv5.weight")],
)
def test_files(naming, last, tmp_path):
    model, params = random_params("RRDB-x4", (8, 8), **TINY)
    state_dict = torch.to_state_dict({"params": params}, model, naming)
    assert state_dict[last].shape == (8, 24, 3, 3)
    torch.write(tmp_path / "a.safetensors", state_dict)
    loaded = pretrained.load(tmp_path / "a.safetensors", "RRDB-x4", TINY)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, {"params": params})


def test_wrong_settings():
    images = jnp.zeros((1, 2, 8, 3))
    with pytest.raises(ValueError, match=r"upscale=3 is not one of \(1, 2, 4\)"):
        get_model("RRDB-x4", upscale=3).init(jax.random.key(0), images)
    with pytest.raises(ValueError, match=r"2 x 8 pixels are too small: both sides .* at least 4"):
        get_model("RRDB-x1").init(jax.random.key(0), images)
