"""Resampling as other libraries do it, to the pixel.

MATLAB's makes data sets for super-resolution. Pillow's and big_vision's prepared the images that
published models were trained on; TensorFlow's own differs from either by up to some grey levels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from input_pipeline.fields import largest
from input_pipeline.tf_or_numpy import tf

_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
}


def resize_by_pillow(image: tf.Tensor, height_width: tf.Tensor, method: str) -> tf.Tensor:
    """Gives an image another size as Pillow does it: columns first, rounded, then rows.

    Args:
        image: (h, w, 3) uint8.
        height_width: of the new one, (2,) int32.
        method: of `tf.image.resize`.

    Returns:
        (height, width, 3) uint8.
    """

    def resize(image: np.ndarray, height_width: np.ndarray) -> np.ndarray:
        height, width = map(int, height_width)
        return np.asarray(Image.fromarray(image).resize((width, height), _PILLOW[method]))

    return tf.numpy_function(resize, [image, height_width], tf.uint8, stateful=False)


def resize_by_big_vision(image: tf.Tensor, height_width: tf.Tensor, method: str) -> tf.Tensor:
    """Gives an image another size without antialiasing, and cuts fractions of values off.

    Source: google-research/big_vision's pp/ops_image.py; google-research/vision_transformer's
    preprocessing for LiT does the same.

    Args:
        image: (h, w, c) uint8 or uint16.
        height_width: of the new one, (2,) int32.
        method: of `tf.image.resize`.

    Returns:
        (height, width, c) of the same type.
    """
    resized = tf.image.resize(image, height_width, method=method)
    return tf.cast(tf.clip_by_value(resized, 0, largest(image)), image.dtype)


def shrink_bicubic(image: tf.Tensor, factor: int) -> tf.Tensor:
    """Makes an image smaller with an antialiased bicubic filter, as MATLAB's imresize does it.

    The border is mirrored (again and again, if the image is that small), rows come before columns,
    and values are rounded after each, which reproduces the published low-resolution images of Set5
    exactly.

    Args:
        image: (h, w, c) uint8, h and w divisible by the factor.
        factor: 1 leaves the image as it is.

    Returns:
        (h / factor, w / factor, c) uint8.
    """
    if factor == 1:
        return image
    for axis in (0, 1):
        image = _shrink(image, factor, axis)
    return image


def _shrink(image: tf.Tensor, factor: int, axis: int) -> tf.Tensor:
    first, weights = _filter(factor)
    length = tf.shape(image)[axis]
    begins = tf.range(0, length, factor)
    image = tf.cast(image, tf.float32)

    def nearby(offset: int) -> tf.Tensor:
        """Of each new pixel the old one at an offset; gathering is faster than padding."""
        i = (begins + offset) % (2 * length)
        return tf.gather(image, tf.minimum(i, 2 * length - 1 - i), axis=axis)

    total = tf.add_n([float(weight) * nearby(first + i) for i, weight in enumerate(weights)])
    return tf.cast(tf.clip_by_value(tf.floor(total + 0.5), 0, 255), tf.uint8)


def _filter(factor: int) -> tuple[int, np.ndarray]:
    """The first of the pixels that make one, from the one of its number on, and their weights."""
    pixels = np.arange(-2 * factor, 3 * factor)
    distance = np.abs(pixels - (factor - 1) / 2) / factor
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    inside = np.flatnonzero(weights)
    weights = weights[inside[0] : inside[-1] + 1]
    return int(pixels[inside[0]]), weights / weights.sum()
