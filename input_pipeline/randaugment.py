"""RandAugment as big_vision has it, with what is peculiar about that.

Source: Cubuk et al., "RandAugment" (2019); google-research/big_vision, whose sixteen operations are
those of the code for AutoAugment. Magnitude 10 is the full strength, and larger ones go beyond it.

Each drawn operation is applied. Solarisation compares 8-bit values with a threshold modulo 256,
which is 0 for the magnitudes 10 and 20, so that they invert the image; a higher contrast is one
about the number of pixels / 256, at most 255, and not about the mean; moving is by pixels, whatever
the image's size. Magnitude 0 is a strong augmentation, of factors of .1 and a single bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from input_pipeline import distortions
from input_pipeline.distortions import blend, enhancement
from input_pipeline.tf_or_numpy import tf

_FULL = 10.0
_TRANSLATE = 100.0  # pixels
_CUTOUT = 40  # pixels, half of a side


def randaugment(image: tf.Tensor, seed: tf.Tensor, num_layers: int, magnitude: int) -> tf.Tensor:
    """Applies randomly chosen distortions one after the other.

    Args:
        image: (h, w, 3) uint8.
        seed: (2,) int32.
        num_layers: number of distortions.
        magnitude: strength; 10 is full scale.

    Returns:
        An image of the same shape and type.
    """
    shape = image.shape
    for layer in range(num_layers):
        layer_seed = tf.random.experimental.stateless_fold_in(seed, layer)
        image = tf.ensure_shape(_distort(image, layer_seed, magnitude / _FULL), shape)
    return image


def _distort(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    draws = tf.random.stateless_uniform((4,), seed)
    choice = tf.cast(draws[0] * len(OPERATIONS), tf.int32)
    sign = tf.where(draws[1] < 0.5, -1.0, 1.0)
    branches = [
        functools.partial(operation, image, strength, sign, draws[2:])
        for operation in OPERATIONS.values()
    ]
    return tf.switch_case(choice, branches)


def _contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with a grey that is the number of pixels / 256."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    grey = tf.floor(tf.minimum(sides[0] * sides[1] / 256.0, 255.0))
    return blend(tf.fill(tf.shape(image), grey), image, factor)


def _posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    return distortions.posterize(image, max(1, min(8, bits)))


def translate(image: tf.Tensor, x: tf.Tensor | float, y: tf.Tensor | float) -> tf.Tensor:
    """By x and y pixels."""
    return distortions.transform(image, [1.0, 0.0, x, 0.0, 1.0, y])


def cutout(image: tf.Tensor, half: int, where: tf.Tensor) -> tf.Tensor:
    """A grey square about a random point, cut at the border, of twice as many pixels a side."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    begin = tf.floor(where * sides) - half
    rows = tf.range(sides[0])[:, None, None] - begin[0]
    columns = tf.range(sides[1])[None, :, None] - begin[1]
    inside = (rows >= 0) & (rows < 2 * half) & (columns >= 0) & (columns < 2 * half)
    return tf.where(inside, tf.cast(distortions.GREY, tf.uint8), image)


def _solarize_add(image: tf.Tensor, amount: int) -> tf.Tensor:
    values = tf.cast(image, tf.int32)
    brighter = tf.cast(tf.clip_by_value(values + amount, 0, 255), tf.uint8)
    return tf.where(values < 128, brighter, image)


# Each takes (image, strength with 1 as full scale, random sign, two uniform draws).
OPERATIONS: dict[str, Callable[..., tf.Tensor]] = {
    "AutoContrast": lambda x, s, sign, u: distortions.autocontrast(x),
    "Equalize": lambda x, s, sign, u: distortions.equalize(x),
    "Invert": lambda x, s, sign, u: 255 - x,
    "Rotate": lambda x, s, sign, u: distortions.rotate(x, sign * (30.0 * s)),
    "Posterize": lambda x, s, sign, u: _posterize(x, int(4 * s)),
    "Solarize": lambda x, s, sign, u: distortions.solarize(x, int(256 * s) % 256),
    "Color": lambda x, s, sign, u: blend(tf.image.rgb_to_grayscale(x), x, enhancement(s)),
    "Contrast": lambda x, s, sign, u: _contrast(x, enhancement(s)),
    "Brightness": lambda x, s, sign, u: blend(tf.zeros_like(x), x, enhancement(s)),
    "Sharpness": lambda x, s, sign, u: distortions.sharpness(x, enhancement(s)),
    "ShearX": lambda x, s, sign, u: distortions.shear(x, sign * (0.3 * s), 0.0),
    "ShearY": lambda x, s, sign, u: distortions.shear(x, 0.0, sign * (0.3 * s)),
    "TranslateX": lambda x, s, sign, u: translate(x, sign * (_TRANSLATE * s), 0.0),
    "TranslateY": lambda x, s, sign, u: translate(x, 0.0, sign * (_TRANSLATE * s)),
    "Cutout": lambda x, s, sign, u: cutout(x, int(_CUTOUT * s), u),
    "SolarizeAdd": lambda x, s, sign, u: _solarize_add(x, int(110 * s)),
}
