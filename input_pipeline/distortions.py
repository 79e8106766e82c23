"""Distortions of 8-bit images that several augmentations share."""

from __future__ import annotations

import math

from input_pipeline.tf_or_numpy import tf

GREY = 128  # fills what a geometric operation leaves empty


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
        fill_value=float(GREY),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return moved[0]


def shear(image: tf.Tensor, x: tf.Tensor | float, y: tf.Tensor | float) -> tf.Tensor:
    """Moves each row by x times its number, or each column by y times its own."""
    return transform(image, [1.0, x, 0.0, y, 1.0, 0.0])


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


def sharpness(image: tf.Tensor, factor: float | tf.Tensor, is_rounded: bool = False) -> tf.Tensor:
    """Blends with a smoothed copy, which is rounded or cut off; the border pixels stay."""
    has_more = tf.reduce_min(tf.shape(image)[:2]) > 2
    return tf.cond(has_more, lambda: _sharpen_inside(image, factor, is_rounded), lambda: image)


def _sharpen_inside(image: tf.Tensor, factor: float | tf.Tensor, is_rounded: bool) -> tf.Tensor:
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32)
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    values = tf.cast(image, tf.float32)[None]
    total = tf.nn.depthwise_conv2d(values, kernel, (1, 1, 1, 1), "VALID")[0]  # whole numbers
    smooth = (tf.cast(total, tf.int32) + 6 * int(is_rounded)) // 13
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
