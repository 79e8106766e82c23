import jax
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


def test_reflection():
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    padded = np.asarray(ops.reflect_pad(x, 1, 2))[0, :, :, 0]
    np.testing.assert_array_equal(padded, np.pad(x[0, :, :, 0], ((1, 1), (2, 2)), "reflect"))
    bottom = np.asarray(ops.reflect_pad(x, 0, 0, 2, 1))[0, :, :, 0]
    np.testing.assert_array_equal(bottom, np.pad(x[0, :, :, 0], ((0, 2), (0, 1)), "reflect"))
    assert ops.reflect_pad(x, 0, 0) is x
