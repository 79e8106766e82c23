"""Antialiased resizing by TensorFlow's own kernel, given what it computes fast."""

from __future__ import annotations

from typing import Any

from input_pipeline.tf_or_numpy import tf

_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic", "lanczos3": "lanczos3"}


def resize(image: tf.Tensor, height_width: Any, method: str = "bilinear") -> tf.Tensor:
    """`tf.image.resize(image, height_width, method, antialias=True)`, to the bit, in half the time.

    That kernel adds up whole rows with vector instructions, and then pixel after pixel along each
    row. Here a row is one pixel with as many channels as the row has values, and the image is
    turned for the other axis, so that both are sums of rows, of the same numbers in the same order.

    Args:
        image: (h, w, c).
        height_width: of the new one, (2,) int32.
        method: of `tf.image.resize`.

    Returns:
        (height, width, c) float32; of the image's type by "nearest".
    """
    known = tf.get_static_value(height_width)
    if not tf.is_tensor(image) or method not in _KERNELS or _is_of_size(image, known):
        return tf.image.resize(image, height_width, method, antialias=True)
    height, width = tf.unstack(height_width) if known is None else map(int, known)
    old_height, old_width, channels = _sides(image)
    rows = tf.reshape(image, (1, old_height, 1, old_width * channels))
    rows = _resize_rows(rows, old_height, height, _KERNELS[method])
    columns = tf.transpose(tf.reshape(rows, (height, old_width * channels)))
    columns = tf.reshape(columns, (1, old_width, 1, channels * height))
    columns = _resize_rows(columns, old_width, width, _KERNELS[method])
    turned = tf.transpose(tf.reshape(columns, (width * channels, height)))
    return tf.reshape(turned, (height, width, channels))


def _is_of_size(image: tf.Tensor, known: Any) -> bool:
    return known is not None and tuple(image.shape[:2]) == tuple(known)


def _sides(image: tf.Tensor) -> list[Any]:
    """The length of each axis, as a number where it is known while the graph is built."""
    sides = tf.unstack(tf.shape(image))
    return [side if known is None else known for side, known in zip(sides, image.shape)]


def _resize_rows(rows: tf.Tensor, old: Any, new: Any, kernel: str) -> tf.Tensor:
    """From (1, old, 1, values) to (1, new, 1, values) float32."""
    scale = tf.cast(new, tf.float32) / tf.cast(old, tf.float32)
    return tf.raw_ops.ScaleAndTranslate(
        images=rows, size=tf.stack([new, 1]), scale=tf.stack([scale, 1.0]),
        translation=(0.0, 0.0), kernel_type=kernel, antialias=True,
    )  # fmt: skip
