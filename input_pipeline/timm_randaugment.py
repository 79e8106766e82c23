"""RandAugment as timm has it for DeiT, Swin and others: rand-m9-mstd0.5-inc1.

Fifteen operations, each drawn anew and skipped half of the times, of a strength that varies, and of
which all get stronger with it. The colours are computed here as Pillow does it, and pixels are
moved by Pillow itself, bicubic, with ImageNet's mean colour left behind.

Source: timm's auto_augment.py; Cubuk et al., "RandAugment" (2019).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from input_pipeline import distortions
from input_pipeline.distortions import blend
from input_pipeline.tf_or_numpy import tf

_FULL = 10.0
_SKIPPED = 0.5
_FILL = (124, 116, 104)  # ImageNet's mean


def timm_randaugment(
    image: tf.Tensor, seed: tf.Tensor, magnitude: float, deviation: float, num_layers: int
) -> tf.Tensor:
    """Applies randomly chosen distortions one after the other.

    Args:
        image: (h, w, 3) uint8.
        seed: (2,) int32.
        magnitude: mean of the strength, which each distortion draws; 10 is the most.
        deviation: of the strength.
        num_layers: number of distortions, of which each is skipped half of the times.

    Returns:
        An image of the same shape and type.
    """
    shape = image.shape
    for layer in range(num_layers):
        layer_seed = tf.random.experimental.stateless_fold_in(seed, layer)
        image = tf.ensure_shape(_distort(image, layer_seed, magnitude, deviation), shape)
    return image


def _distort(image: tf.Tensor, seed: tf.Tensor, magnitude: float, deviation: float) -> tf.Tensor:
    draws = tf.random.stateless_uniform((3,), seed)
    choice = tf.cast(draws[0] * len(OPERATIONS), tf.int32)
    sign = tf.where(draws[1] < 0.5, -1.0, 1.0)
    normal_seed = tf.random.experimental.stateless_fold_in(seed, 0)
    level = magnitude + deviation * tf.random.stateless_normal((), normal_seed, dtype=tf.float64)
    level = tf.clip_by_value(level, 0.0, _FULL)
    branches = [
        functools.partial(operation, image, level, tf.cast(sign, tf.float64))
        for operation in OPERATIONS.values()
    ]
    return tf.cond(draws[2] < _SKIPPED, lambda: image, lambda: tf.switch_case(choice, branches))


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0..255, by the rule of Pillow's ImageOps.autocontrast."""
    low, high = (tf.cast(f(image, axis=(0, 1)), tf.float64) for f in (tf.reduce_min, tf.reduce_max))
    scale = tf.math.divide_no_nan(tf.constant(255.0, tf.float64), high - low)
    table = tf.range(256, dtype=tf.float64)[:, None] * scale - low * scale
    table = tf.cast(tf.clip_by_value(table, 0, 255), tf.uint8)
    values = tf.cast(image, tf.int32)
    channels = [tf.gather(table[:, c], values[..., c]) for c in range(3)]
    return tf.where(high > low, tf.stack(channels, axis=-1), image)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """(h, w, 1) int32, of Pillow's weights."""
    weights = tf.constant([19_595, 38_470, 7_471])
    total = tf.reduce_sum(tf.cast(image, tf.int32) * weights, axis=-1, keepdims=True)
    return (total + 32_768) // 65_536


def _contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    mean = tf.reduce_mean(tf.cast(_grey(image), tf.float64))
    return blend(tf.fill(tf.shape(image), tf.floor(mean + 0.5)), image, factor)


def _posterize(image: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Keeps at least one bit, where timm leaves none at the highest level, which Pillow refuses."""
    lost = 8 - tf.maximum(bits, 1)
    return tf.cast(tf.cast(image, tf.int32) // 2**lost * 2**lost, tf.uint8)


def _solarize_add(image: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    values = tf.cast(image, tf.int32)
    return tf.where(values < 128, tf.cast(tf.minimum(values + amount, 255), tf.uint8), image)


def _whole(number: tf.Tensor) -> tf.Tensor:
    """Cuts a fraction off."""
    return tf.cast(number, tf.int32)


def _factor(level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Of `blend`."""
    factor = tf.maximum(tf.constant(0.1, tf.float64), 1.0 + sign * (level / _FULL * 0.9))
    return tf.cast(factor, tf.float32)


def _move(kind: str, image: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Rotates by degrees, shears, or moves by a share of the side, as Pillow does it."""

    def move(image: np.ndarray, amount: np.ndarray) -> np.ndarray:
        by = float(amount)
        source = Image.fromarray(image)
        method = Image.Resampling.BICUBIC
        if kind == "rotate":
            return np.asarray(source.rotate(by, method, fillcolor=_FILL))
        matrix = {
            "shear_x": (1, by, 0, 0, 1, 0),
            "shear_y": (1, 0, 0, by, 1, 0),
            "translate_x": (1, 0, by * source.width, 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, by * source.height),
        }[kind]
        affine = Image.Transform.AFFINE
        return np.asarray(source.transform(source.size, affine, matrix, method, fillcolor=_FILL))

    moved = tf.numpy_function(move, [image, amount], tf.uint8, stateful=False)
    return tf.ensure_shape(moved, image.shape)


# Each takes (image, level from 0 to 10, sign), the last two () float64.
OPERATIONS: dict[str, Callable[..., tf.Tensor]] = {
    "AutoContrast": lambda x, level, sign: autocontrast(x),
    "Equalize": lambda x, level, sign: distortions.equalize(x),
    "Invert": lambda x, level, sign: 255 - x,
    "Rotate": lambda x, level, sign: _move("rotate", x, sign * (level / _FULL * 30)),
    "PosterizeIncreasing": lambda x, level, sign: _posterize(x, 4 - _whole(level / _FULL * 4)),
    "SolarizeIncreasing": lambda x, level, sign: distortions.solarize(
        x, 256 - tf.minimum(256, _whole(level / _FULL * 256))
    ),
    "SolarizeAdd": lambda x, level, sign: _solarize_add(
        x, tf.minimum(128, _whole(level / _FULL * 110))
    ),
    "ColorIncreasing": lambda x, level, sign: blend(_grey(x), x, _factor(level, sign)),
    "ContrastIncreasing": lambda x, level, sign: _contrast(x, _factor(level, sign)),
    "BrightnessIncreasing": lambda x, level, sign: blend(tf.zeros_like(x), x, _factor(level, sign)),
    "SharpnessIncreasing": lambda x, level, sign: distortions.sharpness(
        x, _factor(level, sign), is_rounded=True
    ),
    "ShearX": lambda x, level, sign: _move("shear_x", x, sign * (level / _FULL * 0.3)),
    "ShearY": lambda x, level, sign: _move("shear_y", x, sign * (level / _FULL * 0.3)),
    "TranslateXRel": lambda x, level, sign: _move("translate_x", x, sign * (level / _FULL * 0.45)),
    "TranslateYRel": lambda x, level, sign: _move("translate_y", x, sign * (level / _FULL * 0.45)),
}
