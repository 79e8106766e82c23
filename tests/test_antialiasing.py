"""Resizing with antialiasing, beside TensorFlow's own."""

import numpy as np
import pytest

from input_pipeline import antialiasing
from input_pipeline.cpu_tf import tf

_SIDES = [
    ((37, 50), (22, 19)),
    ((9, 40), (31, 8)),
    ((1, 5), (4, 1)),
    ((20, 30), (20, 12)),
    ((8, 9), (8, 9)),
]


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos3", "area", "nearest"])
@pytest.mark.parametrize(("channels", "dtype"), [(3, "uint8"), (1, "uint16"), (2, "float32")])
def test_it_is_as_tensorflow_has_it(method, channels, dtype):
    random = np.random.default_rng(0)
    any_size = tf.TensorSpec((None, None, channels), dtype)

    @tf.function(input_signature=[any_size, tf.TensorSpec((2,), tf.int32)])
    def resize(image, size):
        return antialiasing.resize(image, size, method)

    for old, new in _SIDES:
        image = tf.constant(random.integers(0, 256, (*old, channels)).astype(dtype))
        expected = tf.image.resize(image, new, method, antialias=True).numpy()
        for found in (resize(image, new), antialiasing.resize(image, new, method)):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)


def test_the_size_is_known_while_the_graph_is_built():
    @tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
    def resize(image):
        return antialiasing.resize(image, (20, 30))

    assert resize.get_concrete_function().structured_outputs.shape == (20, 30, 3)
