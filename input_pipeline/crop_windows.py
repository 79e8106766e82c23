"""Windows of random area and aspect ratio, by the laws of two libraries."""

from __future__ import annotations

import math

from input_pipeline.ops import draw_whole, fold_in
from input_pipeline.tf_or_numpy import tf

_LEAST_RATIO, _MOST_RATIO = 3 / 4, 4 / 3
_TRIES = 10  # of torchvision


def tensorflow_window(
    shape: tf.Tensor, seed: tf.Tensor, area: tuple[float, float], most_ratio: float = _MOST_RATIO
) -> tf.Tensor:
    """TensorFlow's law: the height is uniform among those that the area allows.

    Args:
        shape: (3,) int32, of the image.
        seed: (2,) int32.
        area: the least and the largest share of the image.
        most_ratio: the largest aspect ratio; the least is 3/4.

    Returns:
        (4,) int32: top, left, height, width.
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros((1, 0, 4), tf.float32),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(_LEAST_RATIO, most_ratio),
        area_range=area,
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], extent[:2]], axis=0)


def torchvision_window(shape: tf.Tensor, seed: tf.Tensor, area: tuple[float, float]) -> tf.Tensor:
    """RandomResizedCrop's law: the area is uniform, and so is the ratio's logarithm.

    Args:
        shape: (3,) int32, of the image.
        seed: (2,) int32.
        area: the least and the largest share of the image.

    Returns:
        (4,) int32: top, left, height, width.
    """
    draws = tf.random.stateless_uniform((_TRIES, 2), fold_in(seed, 0), dtype=tf.float64)
    extent, is_drawn = torchvision_extent(shape, draws, area)
    spare = shape[:2] - extent
    top = draw_whole(fold_in(seed, 1), 0, spare[0] + 1)
    left = draw_whole(fold_in(seed, 2), 0, spare[1] + 1)
    begin = tf.where(is_drawn, tf.stack([top, left]), spare // 2)
    return tf.concat([begin, extent], axis=0)


def torchvision_extent(
    shape: tf.Tensor, draws: tf.Tensor, area: tuple[float, float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The first of several drawn windows that fits, or the largest of an allowed ratio.

    Args:
        shape: (3,) int32, of the image.
        draws: (n, 2) float64 in [0, 1), for the area and the ratio of each try.
        area: the least and the largest share of the image.

    Returns:
        (2,) int32, height and width; and () bool, whether one fitted. The other lies in the middle.
    """
    sides = tf.cast(shape[:2], tf.float64)
    target = (area[0] + (area[1] - area[0]) * draws[:, 0]) * sides[0] * sides[1]
    low, high = math.log(_LEAST_RATIO), math.log(_MOST_RATIO)
    ratio = tf.exp(low + (high - low) * draws[:, 1])  # width / height
    tried = tf.round(tf.sqrt(tf.stack([target / ratio, target * ratio], axis=1)))
    fits = tf.reduce_all((tried > 0) & (tried <= sides), axis=1)
    nearest = tf.clip_by_value(sides[1] / sides[0], _LEAST_RATIO, _MOST_RATIO)
    whole = tf.minimum(sides, tf.round(tf.stack([sides[1] / nearest, sides[0] * nearest])))
    is_drawn = tf.reduce_any(fits)
    extent = tf.where(is_drawn, tried[tf.argmax(fits)], whole)
    return tf.cast(extent, tf.int32), is_drawn
