"""Ops that change the values of pixels, of images alone."""

from __future__ import annotations

import math
from collections.abc import Callable

from input_pipeline import images
from input_pipeline.autoaugment import autoaugment as augment
from input_pipeline.fields import Fields, Kind, kind_of, largest, on_images
from input_pipeline.ops import (
    Op,
    check_area,
    check_whole,
    check_within,
    draw_uniform,
    fold_in,
    op,
    random_op,
    require_integers,
    require_uint8,
)
from input_pipeline.randaugment import randaugment
from input_pipeline.tf_or_numpy import tf
from input_pipeline.timm_randaugment import timm_randaugment

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_ERASING_TRIES = 10

_LOOKED_AT = ("image", "image2")  # the images that are not what is to be learnt


@op
def decode() -> Op:
    """The bytes of an image file -> (h, w, 3) uint8; see `images.decode`."""
    return lambda fields, _: on_images(fields, images.decode)


@op
def grayscale_to_rgb() -> Op:
    """One channel becomes three equal ones; three stay."""

    def change(image: tf.Tensor) -> tf.Tensor:
        return tf.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image

    return lambda fields, _: on_images(fields, change)


@random_op
def tint(strength: float) -> Op:
    """Multiplies each colour of all images alike by a number of its own from [1 - strength, 1].

    A hazy image and its clear one remain a pair, as in coloured light.
    """
    check_within("strength", strength, 0, 1)

    def apply(fields: Fields, seed: tf.Tensor) -> Fields:
        gains = tf.random.stateless_uniform((3,), seed, 1 - strength, 1.0)

        def change(image: tf.Tensor) -> tf.Tensor:
            require_integers(image, "tint")
            return tf.cast(tf.round(tf.cast(image, tf.float32) * gains), image.dtype)

        return on_images(fields, change)

    return apply


@random_op
def randaug(num_layers: int, magnitude: int) -> Op:
    """big_vision's RandAugment: `num_layers` distortions of `magnitude`; see `randaugment`."""
    check_whole("num_layers", num_layers, 1)
    check_whole("magnitude", magnitude, 0, 30)
    return _distorting("randaug", lambda x, seed: randaugment(x, seed, num_layers, magnitude))


@random_op
def autoaugment() -> Op:
    """AutoAugment: one of the 25 pairs of distortions that were found on ImageNet."""
    return _distorting("autoaugment", augment)


def _distorting(name: str, change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Op:
    """An op by its function of an 8-bit image and a seed, which moves pixels too."""

    def apply(fields: Fields, seed: tf.Tensor) -> Fields:
        def change_one(image: tf.Tensor) -> tf.Tensor:
            require_uint8(image, name)
            return change(image, seed)

        left_behind = [key for key in fields if kind_of(key) not in (Kind.IMAGE, Kind.PLAIN)]
        if left_behind:
            raise ValueError(
                f"{name} moves the pixels of images, which {left_behind[0]} would not follow: "
                "leave it out"
            )
        return on_images(fields, change_one)

    return apply


@random_op
def timm_randaug(magnitude: float = 9.0, deviation: float = 0.5, num_layers: int = 2) -> Op:
    """RandAugment as timm has it, rand-m9-mstd0.5-inc1 by default; see `timm_randaugment`."""
    check_within("magnitude", magnitude, 0, 10)
    check_within("deviation", deviation, 0, 10)
    check_whole("num_layers", num_layers, 1)
    return _distorting(
        "timm_randaug", lambda x, seed: timm_randaugment(x, seed, magnitude, deviation, num_layers)
    )


@random_op
def random_erasing(
    probability: float = 0.25, area: tuple[float, float] = (0.02, 1 / 3), aspect: float = 0.3
) -> Op:
    """Fills a random rectangle with noise; a target stays as it is, and of two frames the first.

    Its share of the image lies in `area`, its aspect ratio between `aspect` and 1 / `aspect`. After
    `normalize` or `value_range` the noise is normal, as timm's of the mode "pixel", and before them
    uniform.

    Source: Zhong et al., "Random Erasing Data Augmentation" (AAAI 2020), and timm.
    """
    check_within("probability", probability, 0, 1)
    check_within("aspect", aspect, 0.01, 1)
    area = check_area(area)

    def erase(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if image.dtype != tf.float32:
            require_uint8(image, "random_erasing")
        sides = tf.shape(image)[:2]
        draws = tf.random.stateless_uniform((_ERASING_TRIES, 2), fold_in(seed, 0), dtype=tf.float64)
        extent, fits = erased_extent(sides, draws, area, aspect)
        spare = tf.cast(sides - extent + 1, tf.float32)
        begin = spare * tf.random.stateless_uniform((2,), fold_in(seed, 2))
        is_erased = fits & (draw_uniform(fold_in(seed, 3), 0.0, 1.0) < probability)
        return tf.cond(
            is_erased,
            lambda: fill(image, tf.cast(begin, tf.int32), extent, _noise(image, fold_in(seed, 4))),
            lambda: image,
        )

    def apply(fields: Fields, seed: tf.Tensor) -> Fields:
        # The same noise at one place of two frames would seem not to move.
        keys = ("image2",) if "flow" in fields else _LOOKED_AT
        erased = {key: erase(fields[key], seed) for key in keys if key in fields}
        return {**fields, **erased}

    return apply


def _noise(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Of the shape and type of an image: normal, or of 8 bits uniform."""
    if image.dtype == tf.float32:
        return tf.random.stateless_normal(tf.shape(image), seed)
    drawn = tf.random.stateless_uniform(tf.shape(image), seed, 0, 256, tf.int32)
    return tf.cast(drawn, tf.uint8)


def erased_extent(
    sides: tf.Tensor, draws: tf.Tensor, area: tuple[float, float], aspect: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """The first of several drawn rectangles that is smaller than the image.

    Args:
        sides: (2,) int32, of the image.
        draws: (n, 2) float64 in [0, 1), for the area and the ratio of each try.
        area: the least and the largest share of the image.
        aspect: the least ratio of height and width.

    Returns:
        (2,) int32, height and width; and () bool, whether there is one.
    """
    whole = tf.cast(sides, tf.float64)
    target = (area[0] + (area[1] - area[0]) * draws[:, 0]) * whole[0] * whole[1]
    ratio = tf.exp(math.log(aspect) * (1 - 2 * draws[:, 1]))
    tried = tf.round(tf.sqrt(tf.stack([target * ratio, target / ratio], axis=1)))
    fits = tf.reduce_all(tried < whole, axis=1)
    return tf.cast(tried[tf.argmax(fits)], tf.int32), tf.reduce_any(fits)


def fill(image: tf.Tensor, begin: tf.Tensor, extent: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Puts noise, of the image's shape, in the place of a rectangle; see `erased_extent`."""
    sides = tf.shape(image)
    rows, columns = (tf.range(sides[axis]) - begin[axis] for axis in (0, 1))
    inside = ((rows >= 0) & (rows < extent[0]))[:, None] & ((columns >= 0) & (columns < extent[1]))
    return tf.where(inside[..., None], noise, image)


@op
def value_range(low: float, high: float) -> Op:
    """8-bit values 0..255, or 16-bit values 0..65535 -> float32 from `low` to `high`."""
    check_within("low", low, -1e6, 1e6)
    check_within("high", high, low, 1e6)

    def change(image: tf.Tensor) -> tf.Tensor:
        require_integers(image, "value_range")
        return tf.cast(image, tf.float32) * ((high - low) / largest(image)) + low

    return lambda fields, _: on_images(fields, change)


@op
def normalize(mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> Op:
    """8-bit values -> (x / 255 - mean) / std per channel, float32."""
    if not all(isinstance(v, tuple) and len(v) == 3 for v in (mean, std)) or min(std) <= 0:
        raise ValueError("mean and std must be three numbers each, std positive")

    def change(image: tf.Tensor) -> tf.Tensor:
        require_uint8(image, "normalize")
        return (tf.cast(image, tf.float32) / 255.0 - tf.constant(mean)) / tf.constant(std)

    return lambda fields, _: on_images(fields, change)
