"""What optical flow reads, moves and enlarges, by value."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import noise
from vit_jax import ops
from vit_jax.models.flowformer_encoder import halving_conv
from vit_jax.warm_start import forward_interpolate


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "flow_ops.npz") as arrays:
        return dict(arrays)


def last(x):
    return np.moveaxis(x, 1, -1)


def agree(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std(), rtol=1e-5)


def sample_slowly(image, xy):
    """One bilinear sample of an (h, w, c) image with zeros around it, in float64."""
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    x, y = xy + 1.0
    if not (0 <= x <= image.shape[1] + 1 and 0 <= y <= image.shape[0] + 1):
        return np.zeros(image.shape[2])
    i, j = min(int(y), image.shape[0]), min(int(x), image.shape[1])
    below, right = y - i, x - j
    upper, lower = (padded[k, j] * (1 - right) + padded[k, j + 1] * right for k in (i, i + 1))
    return upper * (1 - below) + lower * below


def test_samples_between_pixels_at_the_border_and_beyond():
    image = noise((2, 4, 5, 3))
    xy = np.random.default_rng(1).uniform(-3, 8, (2, 6, 10, 2)).astype(np.float32)
    xy[0, 0, :6] = [[0, 0], [4, 3], [-1, -1], [4.5, 3], [-0.25, 2], [2, -0.75]]
    xy[1, 0, :3] = [[-1e30, 1], [1, np.inf], [5, 1]]
    found = jax.jit(ops.bilinear_sample)(image, xy)
    for b in range(2):
        expected = [sample_slowly(image[b], place) for place in xy[b].reshape(-1, 2)]
        np.testing.assert_allclose(found[b].reshape(60, 3), expected, atol=1e-6)
    np.testing.assert_array_equal(found[0, 0, :2], image[0, [0, 3], [0, 4]])
    assert not found[1, 0].any(axis=-1)[:3].any()


def check_gradient(function, x, tangent):
    """Against differences, along one direction."""
    grad = jax.grad(lambda x: jnp.sum(function(x) ** 2))(x)
    step = 1e-2
    ends = (float(jnp.sum(function(x + sign * step * tangent) ** 2)) for sign in (1, -1))
    expected = (next(ends) - next(ends)) / (2 * step)
    assert float(jnp.sum(grad * tangent)) == pytest.approx(expected, rel=2e-3)


@pytest.mark.slow
def test_samples_are_differentiable_by_image_and_places():
    image, xy = noise((1, 4, 5, 2)), np.array([[[1.4, 2.3], [3.5, 1.6], [-0.5, 2.2]]], np.float32)
    check_gradient(lambda x: ops.bilinear_sample(x, xy), jnp.asarray(image), noise(image.shape, 1))
    check_gradient(lambda x: ops.bilinear_sample(image, x), jnp.asarray(xy), noise(xy.shape, 2))


def test_golden_lookup(golden):
    cost = golden["cost_maps"].reshape(1, 5, 7, 5, 7)
    found = jax.jit(ops.cost_lookup)(cost, last(golden["coords"]))
    agree(found, last(golden["lookup"]))


def test_golden_lookup_of_a_pyramid(golden):
    first, second = (last(golden[f"raft_f{i}"]) for i in (1, 2))
    cost = np.einsum("bijc,bklc->bijkl", first, second) / np.sqrt(first.shape[-1])
    cost = cost.astype(np.float32)
    xy, levels = last(golden["raft_coords"]), []
    for level in range(3):
        levels.append(ops.cost_lookup(cost, xy / 2**level, radius=2))
        h, w = cost.shape[-2:]
        cost = cost.reshape(*cost.shape[:3], h // 2, 2, w // 2, 2).mean((4, 6))
    agree(np.concatenate(levels, axis=-1), last(golden["raft_lookup"]))


def test_a_lookup_is_that_of_single_samples_wherever_it_is():
    cost = noise((6, 4, 3))
    xy = np.array([[1, 1], [-3.3, 1.2], [9.4, -2.6], [-1e9, 0], [2.5, 1e9], [0.1, 3.9]], np.float32)
    found = ops.cost_lookup(cost, xy, radius=2)
    steps = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
    expected = [
        [sample_slowly(cost[n, ..., None], xy[n] + step)[0] for step in steps] for n in range(6)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_a_lookup_is_differentiable():
    """Its gradient puts windows back in a way of its own."""
    cost = jnp.asarray(noise((5, 4, 3)))
    xy = np.array([[1, 1.3], [-2.3, 1.2], [4.4, -1.6], [-1e9, 0], [0.1, 3.9]], np.float32)
    check_gradient(lambda x: ops.cost_lookup(x, xy, 2), cost, noise(cost.shape, 1))
    near = xy.copy()
    near[3] = [0.4, 0.7]
    near[0, 0] = 1.2
    check_gradient(lambda x: ops.cost_lookup(cost, x, 2), jnp.asarray(near), noise(xy.shape, 3))


def test_golden_enlargements(golden):
    flow, mask = last(golden["flow"]), last(golden["mask"])
    agree(jax.jit(ops.convex_upsample)(flow, mask), last(golden["upsampled"]))
    agree(jax.jit(ops.upflow8)(np.moveaxis(golden["warm_in"], 0, -1)[None])[0],
          np.moveaxis(golden["upflow8"], 0, -1))  # fmt: skip
    same = np.tile(np.float32([1.5, -2]), (1, 1, 3, 1))
    np.testing.assert_allclose(ops.upflow8(same), np.tile(same[:, :1, :1] * 8, (1, 8, 24, 1)))


def test_golden_warm_start(golden):
    flow = np.moveaxis(golden["warm_in"], 0, -1)
    found, expected = forward_interpolate(flow), np.moveaxis(golden["warm_out"], 0, -1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_a_warm_start_where_nothing_stays_inside():
    found = forward_interpolate(np.full((3, 4, 2), 50.0, np.float32))
    np.testing.assert_array_equal(found, np.zeros((3, 4, 2)))
    one = np.full((3, 4, 2), 50.0, np.float32)
    one[1, 1] = [0.5, 0.25]
    np.testing.assert_array_equal(forward_interpolate(one), np.tile(one[1, 1], (3, 4, 1)))


@pytest.mark.parametrize(
    ("size", "channels"), [((8, 16), 1), ((16, 8), 1), ((8, 12), 1), ((8, 8), 3)]
)
def test_a_convolution_that_halves(size, channels):
    """Of one channel it is a product, where its columns come in fours."""
    x, kernel = noise((2, *size, channels)), noise((6, 6, channels, 5), 1)

    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((2, 2), (2, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    np.testing.assert_allclose(halving_conv(x, kernel), convolved(x, kernel), atol=1e-5)
    found, expected = (
        jax.grad(lambda k, f=f: jnp.sum(f(x, k) ** 2))(kernel) for f in (halving_conv, convolved)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
