"""RandAugment.

Source: Cubuk et al., "RandAugment" (2019), with the sixteen operations and the scale of its
TensorFlow implementation, where magnitude 10 is the full strength and larger values go beyond it.
Deviation: translation and cutout, fixed numbers of pixels there, are scaled with the image's side,
so that they are the published ones at 224 pixels and sensible at 32.
"""

import functools
import math
from collections.abc import Callable

from input_pipeline.cpu_tf import tf

_GREY = 128  # fills what a geometric operation leaves empty
_FULL = 10.0
_TRANSLATE = 100 / 224
_CUTOUT = 40 / 224


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
    choice = tf.cast(draws[0] * len(_OPERATIONS), tf.int32)
    sign = tf.where(draws[1] < 0.5, -1.0, 1.0)
    branches = [
        functools.partial(operation, image, strength, sign, draws[2:]) for operation in _OPERATIONS
    ]
    return tf.switch_case(choice, branches)


def blend(base: tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns base + factor * (image - base): 1 is the image, more exaggerates it."""
    base, image = tf.cast(base, tf.float32), tf.cast(image, tf.float32)
    return tf.cast(tf.clip_by_value(base + factor * (image - base), 0, 255), tf.uint8)


def enhancement(strength: float) -> float:
    """The factor of `blend` at a strength, of which 1 is full scale."""
    return 0.1 + 1.8 * strength


def transform(image: tf.Tensor, matrix: list[tf.Tensor | float]) -> tf.Tensor:
    """Maps output (x, y) to input (a x + b y + c, d x + e y + f), nearest pixel, grey outside."""
    projective = tf.stack([tf.cast(v, tf.float32) for v in [*matrix, 0.0, 0.0]])
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=projective[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(_GREY),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return moved[0]


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0..255."""
    values = tf.cast(image, tf.float32)
    low = tf.reduce_min(values, axis=(0, 1))
    high = tf.reduce_max(values, axis=(0, 1))
    scale = tf.math.divide_no_nan(255.0, high - low)
    stretched = tf.cast(tf.clip_by_value((values - low) * scale, 0, 255), tf.uint8)
    return tf.where(high > low, stretched, image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Flattens the histogram of each channel, by the rule of Pillow's ImageOps.equalize."""

    def equalize_channel(channel: tf.Tensor) -> tf.Tensor:
        values = tf.cast(channel, tf.int32)
        histogram = tf.math.bincount(tf.reshape(values, [-1]), minlength=256)
        last = tf.boolean_mask(histogram, histogram > 0)[-1]
        step = (tf.reduce_sum(histogram) - last) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        equalized = tf.gather(tf.clip_by_value(table, 0, 255), values)
        return tf.where(step == 0, channel, tf.cast(equalized, tf.uint8))

    return tf.stack([equalize_channel(image[..., c]) for c in range(3)], axis=-1)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with a smoothed copy; the border pixels stay."""
    has_more = tf.reduce_min(tf.shape(image)[:2]) > 2
    return tf.cond(has_more, lambda: _sharpen_inside(image, factor), lambda: image)


def _sharpen_inside(image: tf.Tensor, factor: float) -> tf.Tensor:
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13.0
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    values = tf.cast(image, tf.float32)[None]
    smooth = tf.nn.depthwise_conv2d(values, kernel, (1, 1, 1, 1), "VALID")[0]
    inner = blend(smooth, image[1:-1, 1:-1], factor)
    inside = tf.pad(tf.ones_like(inner, tf.bool), ((1, 1), (1, 1), (0, 0)))
    return tf.where(inside, tf.pad(inner, ((1, 1), (1, 1), (0, 0))), image)


def rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """About the middle, counter-clockwise on the screen."""
    angle = degrees * (math.pi / 180.0)
    middle = (tf.cast(tf.shape(image)[:2], tf.float32) - 1.0) / 2.0
    y, x = middle[0], middle[1]
    cos, sin = tf.cos(angle), tf.sin(angle)
    return transform(image, [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y])


def translate(image: tf.Tensor, x: tf.Tensor | float, y: tf.Tensor | float) -> tf.Tensor:
    """By the shares x and y of the width and height."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    return transform(image, [1.0, 0.0, x * sides[1], 0.0, 1.0, y * sides[0]])


def cutout(image: tf.Tensor, share: float, where: tf.Tensor) -> tf.Tensor:
    """A grey square about a random point, cut at the border; half its side is a share of h, w."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    half = tf.floor(share * tf.reduce_min(sides))
    centre = tf.floor(where * sides)
    rows = tf.abs(tf.range(sides[0]) - centre[0])[:, None, None]
    columns = tf.abs(tf.range(sides[1]) - centre[1])[None, :, None]
    return tf.where((rows < half) & (columns < half), tf.cast(_GREY, tf.uint8), image)


def _solarize_add(image: tf.Tensor, amount: int) -> tf.Tensor:
    values = tf.cast(image, tf.int32)
    brighter = tf.cast(tf.clip_by_value(values + amount, 0, 255), tf.uint8)
    return tf.where(values < 128, brighter, image)


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the highest bits, 1 to 8, of each value."""
    return tf.bitwise.bitwise_and(image, tf.constant(256 - 2 ** (8 - bits), tf.uint8))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts values that are not below the threshold."""
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def mean_grey(image: tf.Tensor) -> tf.Tensor:
    """An image all of whose pixels are the mean of its grey."""
    mean = tf.reduce_mean(tf.cast(tf.image.rgb_to_grayscale(image), tf.float32))
    return tf.fill(tf.shape(image), tf.floor(mean + 0.5))


# Each takes (image, strength with 1 as full scale, random sign, two uniform draws).
_OPERATIONS: tuple[Callable[..., tf.Tensor], ...] = (
    lambda x, s, sign, u: autocontrast(x),
    lambda x, s, sign, u: equalize(x),
    lambda x, s, sign, u: 255 - x,
    lambda x, s, sign, u: rotate(x, sign * 30.0 * s),
    lambda x, s, sign, u: posterize(x, max(1, min(8, int(4 * s)))),
    lambda x, s, sign, u: solarize(x, min(256, int(256 * s))),
    lambda x, s, sign, u: blend(tf.image.rgb_to_grayscale(x), x, enhancement(s)),
    lambda x, s, sign, u: blend(mean_grey(x), x, enhancement(s)),
    lambda x, s, sign, u: blend(tf.zeros_like(x), x, enhancement(s)),
    lambda x, s, sign, u: sharpness(x, enhancement(s)),
    lambda x, s, sign, u: transform(x, [1.0, sign * 0.3 * s, 0.0, 0.0, 1.0, 0.0]),
    lambda x, s, sign, u: transform(x, [1.0, 0.0, 0.0, sign * 0.3 * s, 1.0, 0.0]),
    lambda x, s, sign, u: translate(x, sign * _TRANSLATE * s, 0.0),
    lambda x, s, sign, u: translate(x, 0.0, sign * _TRANSLATE * s),
    lambda x, s, sign, u: cutout(x, _CUTOUT * s, u),
    lambda x, s, sign, u: _solarize_add(x, int(110 * s)),
)
