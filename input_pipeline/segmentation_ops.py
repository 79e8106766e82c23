"""Ops of training and evaluation with masks, as mmsegmentation has them.

Sources: mmsegmentation 0.11, whose pipeline is that of Liu et al., "Swin Transformer" (ICCV 2021,
the segmentation on ADE20K); Liu et al., "SSD: Single Shot MultiBox Detector" (ECCV 2016) for
`photometric_distortion`. Masks are resized to the nearest pixel by the pixels' centres, where
OpenCV goes by their corners.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from input_pipeline import images
from input_pipeline.fields import (
    Fields,
    Kind,
    kind_of,
    on_each,
    on_images,
    resized,
    resizing_what_is_known,
)
from input_pipeline.ops import (
    Op,
    Size,
    check_whole,
    check_within,
    draw_uniform,
    draw_whole,
    fold_in,
    get_height_width,
    op,
    random_op,
    require_allowed,
    require_uint8,
)
from input_pipeline.tf_or_numpy import tf

_REDRAWS = 10
_IGNORED = 255
_HUES = 180  # OpenCV's, of 8 bits


@dataclasses.dataclass(frozen=True)
class Within:
    """An op whose images may be of many sizes, but are at most so large.

    Attributes:
        most: (height, width) of the largest.
        apply: the op.
        keeps_masks: whether masks stay at the size that they had, so that no op can follow that
            moves pixels.
    """

    most: tuple[int, int]
    apply: Op
    keeps_masks: bool = False

    def __call__(self, fields: Fields, seed: tf.Tensor) -> Fields:
        return self.apply(fields, seed)


def _check_bounds(short: int, long: int) -> None:
    check_whole("short", short, 1)
    check_whole("long", long, short)
    get_height_width((short, long))


def _resize_into(
    fields: Fields, bounds: tuple[Any, Any], masks: bool, antialias: bool, name: str
) -> Fields:
    """Makes images as large as the bounds of the shorter and the longer side, float64, allow."""
    short, long = bounds

    def change(value: tf.Tensor, kind: Kind) -> tf.Tensor:
        if kind is Kind.MASK and not masks:
            return value
        sides = tf.cast(tf.shape(value)[:2], tf.float64)
        scale = tf.minimum(long / tf.reduce_max(sides), short / tf.reduce_min(sides))
        new = tf.maximum(tf.cast(tf.floor(sides * scale + 0.5), tf.int32), 1)
        new_sides = tuple(tf.unstack(tf.cast(new, tf.int64)))
        value = require_allowed(value, name, new_sides)
        return resized(value, kind, new, "bilinear", antialias)

    return resizing_what_is_known(lambda fields: on_each(fields, change))(fields)


@random_op
def scale_jitter(
    short: int, long: int, low: float = 0.5, high: float = 2.0, antialias: bool = False
) -> Op:
    """Resizes so that the sides fit into random multiples of `short` and `long` pixels.

    Both are multiplied by one factor from `low` to `high`; the aspect ratio stays, and one side is
    as long as its bound. Without `antialias`, images are bilinear as OpenCV's.
    """
    _check_bounds(short, long)
    check_within("low", low, 0.01, 100)
    check_within("high", high, low, 100)

    def apply(fields: Fields, seed: tf.Tensor) -> Fields:
        factor = tf.cast(draw_uniform(seed, low, high), tf.float64)
        bounds = tf.maximum(tf.floor(short * factor), 1.0), tf.maximum(tf.floor(long * factor), 1.0)
        return _resize_into(fields, bounds, True, antialias, f"scale_jitter({short}, {long})")

    return apply


@op
def resize_within(short: int, long: int, masks: bool = True, antialias: bool = False) -> Op:
    """Resizes so that the sides just fit into `short` and `long` pixels; the aspect ratio stays.

    With `masks=False` masks stay as they are, to be compared with predictions of that size, and
    only ops that change values can follow. Without `antialias`, images are bilinear as OpenCV's.
    """
    _check_bounds(short, long)
    bounds = float(short), float(long)

    def apply(fields: Fields, _: tf.Tensor) -> Fields:
        return _resize_into(fields, bounds, masks, antialias, f"resize_within({short}, {long})")

    return Within((long, long), apply, keeps_masks=not masks)


@random_op
def class_balanced_crop(size: Size, most: float = 0.75) -> Op:
    """A random window of `size` pixels in which no class fills `most` of what is labelled.

    It is drawn again, up to 10 times, as long as one does, or there is one class alone. Along a
    side that is shorter, all of it is taken: see `pad_to`.
    """
    height, width = get_height_width(size)
    check_within("most", most, 0, 1)

    def is_balanced(mask: tf.Tensor) -> tf.Tensor:
        labels = tf.cast(tf.reshape(mask, (-1,)), tf.int32)
        counts = tf.math.bincount(labels, minlength=256, maxlength=256)[:_IGNORED]
        # Of one class alone, or of no label at all, it is not less.
        total = tf.cast(tf.reduce_sum(counts), tf.float32)
        return tf.cast(tf.reduce_max(counts), tf.float32) < most * total

    def apply(fields: Fields, seed: tf.Tensor) -> Fields:
        masks = [key for key in fields if kind_of(key) is Kind.MASK]
        if not masks:
            raise ValueError("class_balanced_crop needs a mask: take random_crop for images alone")
        whole = tf.shape(fields["image"])[:2]
        extent = tf.minimum(whole, (height, width))

        def window(i: tf.Tensor) -> tf.Tensor:
            seeds = [fold_in(fold_in(seed, i), axis) for axis in (0, 1)]
            begin = [draw_whole(seeds[k], 0, whole[k] - extent[k] + 1) for k in (0, 1)]
            return tf.concat([tf.stack(begin), extent], axis=0)

        def goes_on(i: tf.Tensor) -> tf.Tensor:
            mask = images.crop(fields[masks[0]], window(i))
            return (i < _REDRAWS) & ~is_balanced(mask)

        (chosen,) = tf.while_loop(goes_on, lambda i: (i + 1,), (tf.constant(0),))
        cut = window(chosen)
        return on_each(fields, lambda value, _: images.crop(value, cut))

    return Within((height, width), apply)


@random_op
def photometric_distortion() -> Op:
    """Changes brightness, contrast, saturation and hue, each with probability 1/2.

    Brightness by -32 to 32; contrast by 1/2 to 3/2, before or after what follows; saturation by
    1/2 to 3/2; hue by up to a tenth of the circle. Values are 8-bit integers after each.
    """

    def change(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        require_uint8(image, "photometric_distortion")

        def draw(number: int, low: float, high: float) -> tf.Tensor:
            return draw_uniform(fold_in(seed, number), low, high)

        def maybe(
            number: int, image: tf.Tensor, then: Callable[[tf.Tensor], tf.Tensor], also: tf.Tensor
        ) -> tf.Tensor:
            is_drawn = (draw(number, 0.0, 1.0) < 0.5) & also
            return tf.cond(is_drawn, lambda: then(image), lambda: image)

        always = tf.constant(True)
        is_second = draw(0, 0.0, 1.0) < 0.5

        def contrast(image: tf.Tensor) -> tf.Tensor:
            return _scaled(image, draw(2, 0.5, 1.5))

        def saturate(image: tf.Tensor) -> tf.Tensor:
            hue, saturation, value = to_hsv(image)
            return from_hsv(hue, _scaled(saturation, draw(3, 0.5, 1.5)), value)

        def turn_hue(image: tf.Tensor) -> tf.Tensor:
            hue, saturation, value = to_hsv(image)
            turned = (hue + draw_whole(fold_in(seed, 4), -18, 18)) % _HUES
            return from_hsv(turned, saturation, value)

        image = maybe(5, image, lambda x: _scaled(x, 1.0, draw(1, -32.0, 32.0)), always)
        image = maybe(6, image, contrast, is_second)
        image = maybe(7, image, saturate, always)
        image = maybe(8, image, turn_hue, always)
        return maybe(6, image, contrast, ~is_second)

    return lambda fields, seed: on_images(fields, lambda image: change(image, seed))


def _scaled(x: tf.Tensor, factor: tf.Tensor | float, more: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Integers times a factor, and more, cut off to 0 .. 255 and below the point."""
    y = tf.clip_by_value(tf.cast(x, tf.float32) * factor + more, 0.0, 255.0)
    return tf.cast(y, x.dtype)


_BITS = 12  # behind the point of OpenCV's tables
_OF_VALUE = np.array([0, *(round((255 << _BITS) / i) for i in range(1, 256))], np.int32)
_OF_RANGE = np.array([0, *(round((_HUES << _BITS) / (6 * i)) for i in range(1, 256))], np.int32)


def _shares_of_hues() -> np.ndarray:
    """How much of the saturation each hue takes off red, green and blue; (180, 3) float32."""
    sector = np.arange(_HUES, dtype=np.float32)[:, None] * np.float32(6 / _HUES)
    k = np.mod(sector + np.array([5, 3, 1], np.float32), np.float32(6))
    return np.clip(np.minimum(k, 4 - k), 0, 1)


_SHARES = _shares_of_hues()


def to_hsv(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Turns RGB into OpenCV's hue, saturation and value of 8 bits, with its integer arithmetic.

    Args:
        image: (h, w, 3) uint8.

    Returns:
        (h, w) int32 each: hue from 0 to 179, saturation and value from 0 to 255.
    """
    # Whole numbers below 2^24, which float32 holds exactly, and is quicker with.
    red, green, blue = tf.unstack(tf.cast(image, tf.float32), axis=-1)
    value = tf.maximum(tf.maximum(red, green), blue)
    spread = value - tf.minimum(tf.minimum(red, green), blue)

    def times(x: tf.Tensor, table: np.ndarray, of: tf.Tensor) -> tf.Tensor:
        factor = tf.gather(tf.constant(table, tf.float32), tf.cast(of, tf.int32))
        return tf.cast(tf.floor(x * factor * 2.0**-_BITS + 0.5), tf.int32)

    saturation = times(spread, _OF_VALUE, value)
    hue = tf.where(
        value == red,
        green - blue,
        tf.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = times(hue, _OF_RANGE, spread)
    return tf.where(hue < 0, hue + _HUES, hue), saturation, tf.cast(value, tf.int32)


def from_hsv(hue: tf.Tensor, saturation: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Turns what `to_hsv` returns into (h, w, 3) uint8 RGB.

    As in OpenCV 4, what is behind the point is cut off; 0.4 % of the values differ from its by 1,
    since its floating-point numbers are rounded elsewhere.
    """
    value = tf.cast(value, tf.float32)[..., None] * (1 / 255)
    saturation = tf.cast(saturation, tf.float32)[..., None] * (1 / 255)
    missing = saturation * tf.gather(_SHARES, hue)
    return tf.cast(value * (1.0 - missing) * 255.0, tf.uint8)
