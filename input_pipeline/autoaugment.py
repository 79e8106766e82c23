"""AutoAugment with the policy that was found on ImageNet.

Source: Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data" (CVPR 2019), table 9
of its appendix, in which the last five sub-policies repeat others: one of 25 sub-policies is drawn,
and each of its two operations is applied with a probability of its own. The operations are those of
`distortions`; pixels that geometry moves are the nearest ones, and it leaves grey behind, as in the
authors' code, where timm draws between bilinear and bicubic.

Magnitudes from 0 to 10 mean rotation by up to 30 degrees and shear by up to .3, in a random
direction; solarisation of the values from 0 to 256 on; posterisation to 4 to 8 bits; enhancement by
factors of .1 to 1.9. So do those of timm's policy "original".
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from input_pipeline import distortions
from input_pipeline.distortions import blend, enhancement
from input_pipeline.tf_or_numpy import tf

# Pairs of (operation, probability, magnitude).
POLICY: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)


def autoaugment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Applies one of the policy's pairs.

    Args:
        image: (h, w, 3) uint8.
        seed: (2,) int32.

    Returns:
        An image of the same shape and type.
    """
    draws = tf.random.stateless_uniform((5,), seed)
    choice = tf.cast(draws[0] * len(POLICY), tf.int32)
    branches = [functools.partial(_apply, image, pair, draws[1:]) for pair in POLICY]
    return tf.ensure_shape(tf.switch_case(choice, branches), image.shape)


def _apply(
    image: tf.Tensor, pair: tuple[tuple[str, float, int], ...], draws: tf.Tensor
) -> tf.Tensor:
    for i, (name, probability, magnitude) in enumerate(pair):
        sign = tf.where(draws[2 * i + 1] < 0.5, -1.0, 1.0)
        change = functools.partial(OPERATIONS[name], image, magnitude / 10, sign)
        image = tf.cond(draws[2 * i] < probability, change, functools.partial(tf.identity, image))
    return image


# Each takes (image, strength with 1 as full scale, random sign).
OPERATIONS: dict[str, Callable[..., tf.Tensor]] = {
    "autocontrast": lambda x, s, sign: distortions.autocontrast(x),
    "equalize": lambda x, s, sign: distortions.equalize(x),
    "invert": lambda x, s, sign: 255 - x,
    "rotate": lambda x, s, sign: distortions.rotate(x, sign * 30.0 * s),
    "shear_x": lambda x, s, sign: distortions.shear(x, sign * 0.3 * s, 0.0),
    "posterize": lambda x, s, sign: distortions.posterize(x, 4 + int(4 * s)),
    "solarize": lambda x, s, sign: distortions.solarize(x, int(256 * s)),
    "color": lambda x, s, sign: blend(tf.image.rgb_to_grayscale(x), x, enhancement(s)),
    "contrast": lambda x, s, sign: blend(distortions.mean_grey(x), x, enhancement(s)),
    "sharpness": lambda x, s, sign: distortions.sharpness(x, enhancement(s)),
}
