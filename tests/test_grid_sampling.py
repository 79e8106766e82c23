"""Affine grids, and images read at their places, as PyTorch computes them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import noise
from vit_jax import ops

GOLDEN = Path(__file__).parent / "golden" / "stn.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        yield dict(file)


def channels_last(x):
    return np.moveaxis(x, 1, -1)


@pytest.mark.parametrize("align_corners", [False, True])
def test_golden_grids(golden, align_corners):
    grid = ops.affine_grid(jnp.asarray(golden["theta"]), (5, 7), align_corners)
    expected = golden[f"grid_corners{int(align_corners)}"]
    np.testing.assert_allclose(grid, expected, rtol=0, atol=2.5e-7)  # of up to 2: the last bit
    np.testing.assert_allclose(grid[0], expected[0], rtol=0, atol=6e-8)  # the identity


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("beyond", ["zeros", "border", "reflection"])
def test_golden_samples(golden, beyond, align_corners):
    corners = f"corners{int(align_corners)}"
    grid = 1.3 * golden[f"grid_{corners}"]
    image = channels_last(golden["x"])
    out = jax.jit(lambda *args: ops.grid_sample(*args, "bilinear", beyond, align_corners))(
        image, grid
    )
    expected = channels_last(golden[f"sample_{corners}_{beyond}"])
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5 * expected.std())


@pytest.mark.parametrize("align_corners", [False, True])
def test_golden_nearest_pixels(golden, align_corners):
    corners = f"corners{int(align_corners)}"
    grid, image = 1.3 * golden[f"grid_{corners}"], channels_last(golden["x"])
    out = ops.grid_sample(image, grid, "nearest", align_corners=align_corners)
    size = np.array([8, 6])
    xy = (grid + 1) / 2 * (size - 1) if align_corners else ((grid + 1) * size - 1) / 2
    is_tie = (abs(xy - np.floor(xy) - 0.5) < 1e-5).any(axis=-1)
    assert is_tie.mean() < 0.2
    expected = channels_last(golden[f"nearest_{corners}"])
    np.testing.assert_array_equal(out[~is_tie], expected[~is_tie])


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_identity_gives_the_image(mode, align_corners):
    image = noise((2, 4, 5, 3))
    theta = jnp.tile(jnp.eye(2, 3), (2, 1, 1))
    grid = ops.affine_grid(theta, (4, 5), align_corners)
    np.testing.assert_allclose(
        ops.grid_sample(image, grid, mode, align_corners=align_corners), image, atol=1e-6
    )


def test_x_is_first_and_the_map_goes_from_output_to_input():
    """A shift to the right in the map moves what is seen to the left."""
    image = noise((1, 3, 5, 1))
    theta = jnp.asarray([[[1, 0, 0.5], [0, 1, 0]]])  # of the 4 pixels between the corners
    moved = ops.grid_sample(image, ops.affine_grid(theta, (3, 5)))
    np.testing.assert_allclose(moved[:, :, :4], image[:, :, 1:], atol=1e-6)
    assert not np.any(moved[:, :, 4])


def test_pixels_beyond_the_border():
    """By hand, of a row of three pixels, whose middles lie at -1, 0 and 1."""
    row = jnp.asarray([1.0, 2.0, 4.0]).reshape(1, 1, 3, 1)
    places = jnp.asarray([-5.0, -1.5, -1.0, 0.25, 1.5, 2.0, 3.0])
    grid = jnp.stack([places, jnp.zeros(7)], axis=-1)[None]
    for mode, beyond, expected in [
        ("bilinear", "zeros", [0, 0.5, 1, 2.5, 2, 0, 0]),
        ("bilinear", "border", [1, 1, 1, 2.5, 4, 4, 4]),
        ("bilinear", "reflection", [1, 1.5, 1, 2.5, 3, 2, 1]),
        ("nearest", "zeros", [0, 1, 1, 2, 4, 0, 0]),  # halves to even: -.5 to 0, 2.5 to 2
        ("nearest", "border", [1, 1, 1, 2, 4, 4, 4]),
        ("nearest", "reflection", [1, 1, 1, 2, 4, 2, 1]),
    ]:
        found = ops.grid_sample(row, grid, mode, beyond)
        np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-6, err_msg=f"{mode}, {beyond}")


def test_a_single_pixel_and_places_at_infinity():
    image = jnp.full((1, 1, 1, 1), 3.0)
    for beyond, expected in {"zeros": 3, "border": 3, "reflection": 3}.items():
        grid = jnp.zeros((1, 2, 2))
        assert np.all(ops.grid_sample(image, grid, beyond=beyond) == expected)
    far = jnp.asarray([[[np.inf, 0.0], [-np.inf, 0.0], [1e30, 0.0]]])
    for mode in ("bilinear", "nearest"):
        assert not np.any(ops.grid_sample(noise((1, 3, 3, 1)), far, mode))
    middle = ops.affine_grid(jnp.eye(2, 3)[None], (1, 1))
    np.testing.assert_array_equal(middle, np.zeros((1, 1, 1, 2)))


@pytest.mark.parametrize("beyond", ["zeros", "border", "reflection"])
def test_gradients_reach_the_map(beyond):
    """Against differences: what a spatial transformer learns by."""
    image = noise((1, 6, 7, 2))
    theta = jnp.asarray([[[1.1, 0.2, 0.13], [-0.1, 0.9, 0.07]]])
    weights = noise((1, 4, 5, 2), 1)

    @jax.jit
    def loss(theta):
        grid = ops.affine_grid(theta, (4, 5), align_corners=False)
        return jnp.sum(weights * ops.grid_sample(image, grid, "bilinear", beyond, False))

    grad = jax.jit(jax.grad(loss))(theta)
    for i, j in np.ndindex(2, 3):
        step = jnp.zeros_like(theta).at[0, i, j].set(1e-3)
        difference = (loss(theta + step) - loss(theta - step)) / 2e-3
        assert float(grad[0, i, j]) == pytest.approx(float(difference), rel=0.02, abs=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "bicubic"}, "mode='bicubic' is not one of bilinear, nearest"),
        ({"beyond": "edge"}, "beyond='edge' is not one of zeros, border, reflection"),
    ],
)
def test_unknown_ways_of_sampling(options, words):
    with pytest.raises(ValueError, match=words):
        ops.grid_sample(noise((1, 2, 2, 1)), noise((1, 2, 2, 2)), **options)
    with pytest.raises(ValueError, match=r"theta must have shape \(b, 2, 3\), not \(2, 3\)"):
        ops.affine_grid(jnp.eye(2, 3), (2, 2))
