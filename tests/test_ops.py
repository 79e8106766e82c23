import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import noise
from vit_jax import ops


def test_windows():
    x = noise((2, 6, 9, 5))
    windows = ops.to_windows(x, 3)
    assert windows.shape == (2 * 2 * 3, 9, 5)
    np.testing.assert_array_equal(windows[6 + 4, 5], x[1, 3 + 1, 3 + 2])
    np.testing.assert_array_equal(ops.from_windows(windows, 3, (6, 9)), x)


def test_pixel_shuffle():
    x = noise((2, 3, 4, 8))
    y = ops.pixel_shuffle(x, 2)
    assert y.shape == (2, 6, 8, 2)
    for c, i, j in np.ndindex(2, 2, 2):
        np.testing.assert_array_equal(y[:, i::2, j::2, c], x[..., 4 * c + 2 * i + j])


@pytest.mark.parametrize("side", [3, 5])
def test_depthwise_convolution(side):
    x, kernel = noise((2, 9, 8, 4)), noise((side, side, 1, 4))
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )  # fmt: skip
    np.testing.assert_allclose(ops.depthwise_conv(x, kernel), expected, atol=1e-5)


def agree(ours, expected, *args):
    """Values and gradients of two functions."""
    np.testing.assert_allclose(ours(*args), expected(*args), atol=1e-5)
    everything = tuple(range(len(args)))
    grads = [
        jax.grad(lambda *args, f=f: jnp.sum(jnp.sin(f(*args))), everything)(*args)
        for f in (ours, expected)
    ]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), *grads)


@pytest.mark.parametrize(("height", "width", "features"), [(3, 3, 6), (1, 2, 24), (5, 3, 1)])
def test_convolution(height, width, features):
    """Also with the rows more that XLA's choice of library needs on a CPU."""

    def expected(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    agree(ops.conv, expected, noise((2, 9, 8, 20)), 0.2 * noise((height, width, 20, features), 1))


@pytest.mark.parametrize("bias", [None, (1, 2, 5, 7), (3, 2, 5, 7)])
def test_attention(bias):
    """Before the heads are moved: as the function that computes it on accelerators."""
    q, k, v = (noise((3, n, 2, 4), seed) for seed, n in enumerate((5, 7, 7)))
    args = [q, k, v] if bias is None else [q, k, v, noise(bias, 3)]
    agree(ops.attention, jax.nn.dot_product_attention, *args)


def test_attention_keeps_its_type_and_a_softmax_in_float32():
    q, k, v = (30 * noise((1, 64, 2, 16), seed) for seed in range(3))
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    found = ops.attention(*half)
    assert found.dtype == jnp.bfloat16
    expected = ops.attention(*(x.astype(jnp.float32) for x in half))
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0.02, atol=0.3)


def test_reflection():
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    padded = np.asarray(ops.reflect_pad(x, 1, 2))[0, :, :, 0]
    np.testing.assert_array_equal(padded, np.pad(x[0, :, :, 0], ((1, 1), (2, 2)), "reflect"))
    bottom = np.asarray(ops.reflect_pad(x, 0, 0, 2, 1))[0, :, :, 0]
    np.testing.assert_array_equal(bottom, np.pad(x[0, :, :, 0], ((0, 2), (0, 1)), "reflect"))
    assert ops.reflect_pad(x, 0, 0) is x


def test_reflection_of_too_little():
    with pytest.raises(ValueError, match="images of 3 x 4 pixels are too small"):
        ops.reflect_pad(np.zeros((1, 3, 4, 1)), 3, 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu(dtype):
    """With its gradient, against float64."""
    x = jnp.linspace(-8, 8, 4001).astype(dtype)
    x64 = np.asarray(x, np.float64)
    cdf = 0.5 * np.array([math.erfc(-v / math.sqrt(2)) for v in x64])
    atol = 1e-6 if dtype == jnp.float32 else 0.03
    assert ops.gelu(x).dtype == dtype
    np.testing.assert_allclose(ops.gelu(x).astype(jnp.float32), x64 * cdf, atol=atol)
    slope = jax.grad(lambda x: jnp.sum(ops.gelu(x).astype(jnp.float32)))(x).astype(jnp.float32)
    density = np.exp(-0.5 * x64**2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(slope, cdf + x64 * density, atol=atol)
