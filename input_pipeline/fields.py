"""Of what kind each part of an example is, and what becomes of it when an example is moved.

An example is a dictionary. Ops of geometry draw once for all of it, and act on each field by its
kind; ops of colour act on images alone.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import numpy as np

from input_pipeline import antialiasing
from input_pipeline.tf_or_numpy import tf

Fields = dict[str, "tf.Tensor"]


class Kind(enum.Enum):
    """What a field holds.

    Attributes:
        IMAGE: (h, w, c) uint8 or uint16, float32 in the end; or the bytes of a file, until decoded.
        MASK: (h, w) or (h, w, 1) integers, numbers of classes; 255 is to be ignored.
        VALID: (h, w) or (h, w, 1), 1 where the flow is known, or a point occluded, else 0.
        FLOW: (h, w, 2) float32, by how many pixels a point moves to the right and down.
        WEIGHT: (h, w, 1) float32, by how much a flow counts; see `resizing_what_is_known`.
        PLAIN: anything else, such as texts and labels, which no op changes.
    """

    IMAGE = enum.auto()
    MASK = enum.auto()
    VALID = enum.auto()
    FLOW = enum.auto()
    WEIGHT = enum.auto()
    PLAIN = enum.auto()


_WEIGHT = "_weight"
_KINDS = {
    "image": Kind.IMAGE,
    "image2": Kind.IMAGE,
    "target": Kind.IMAGE,
    "mask": Kind.MASK,
    "valid": Kind.VALID,
    "occluded": Kind.VALID,
    "flow": Kind.FLOW,
    _WEIGHT: Kind.WEIGHT,
}
_FILLS = {Kind.IMAGE: 0, Kind.MASK: 255, Kind.VALID: 0, Kind.FLOW: 0, Kind.WEIGHT: 0}

# Fields of texts, () string, or (k,) string in which "" are none; until they are made tokens.
TEXTS = ("text", "captions")

Change = Callable[["tf.Tensor", Kind], "tf.Tensor"]


def kind_of(key: str) -> Kind:
    """The kind of the field of a name; PLAIN if it is not in the table."""
    return _KINDS.get(key, Kind.PLAIN)


def on_each(fields: Fields, change: Change) -> Fields:
    """Changes every field that has a height and a width."""
    kinds = {key: kind_of(key) for key in fields}
    return {
        key: value if kinds[key] is Kind.PLAIN else change(value, kinds[key])
        for key, value in fields.items()
    }


def on_images(fields: Fields, change: Callable[[tf.Tensor], tf.Tensor]) -> Fields:
    """Changes the images alone."""
    return on_each(fields, lambda value, kind: change(value) if kind is Kind.IMAGE else value)


# What becomes of a field, (h, w) or (h, w, c), in each of the ways to move one.


def resized(
    value: tf.Tensor,
    kind: Kind,
    height_width: tuple[int, int] | tf.Tensor,
    method: str,
    antialias: bool = True,
) -> tf.Tensor:
    """Gives a field another size.

    Args:
        value: the field.
        kind: images are rounded if they are integers. A flow is bilinear, and as many times longer
            as the image becomes larger along each axis; so is a weight, at its length. The rest is
            the nearest.
        height_width: of the new one.
        method: of `tf.image.resize`, for images.
        antialias: whether images are.

    Returns:
        The field in its new size, of the same type.
    """
    if kind in (Kind.MASK, Kind.VALID):
        return _with_channels(value, lambda x: tf.image.resize(x, height_width, method="nearest"))
    if kind is Kind.FLOW:
        longer = tf.cast(height_width, tf.float32) / tf.cast(tf.shape(value)[:2], tf.float32)
        return antialiasing.resize(value, height_width) * longer[::-1]
    if kind is Kind.WEIGHT:
        return antialiasing.resize(value, height_width)
    resize = antialiasing.resize if antialias else tf.image.resize
    image = resize(value, height_width, method)
    most = largest(value)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, most), value.dtype) if most else image


def largest(value: tf.Tensor) -> int:
    """The largest number that the type of an image of whole numbers has; 0 of any other type."""
    dtype = np.dtype(getattr(value.dtype, "as_numpy_dtype", value.dtype))
    return np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 0


def resizing_what_is_known(change: Callable[[Fields], Fields]) -> Callable[[Fields], Fields]:
    """Does what resizes an example so that a flow that is not known goes into none that is.

    A flow becomes the weighted mean of those near it that are known.

    Args:
        change: resizes the fields, see `resized`.

    Returns:
        The same for examples with a flow that may be known in part, as `valid` says.
    """

    def apply(fields: Fields) -> Fields:
        if not {"flow", "valid"} <= set(fields):
            return change(fields)
        valid = fields["valid"]
        known = tf.cast(valid if len(valid.shape) == 3 else valid[..., None], tf.float32)
        resized = change({**fields, "flow": fields["flow"] * known, _WEIGHT: known})
        weight = resized.pop(_WEIGHT)
        # Whatever is nearest to a pixel counts; but float32 sums of nothing can differ from 0.
        flow = tf.math.divide_no_nan(resized["flow"], weight)
        known = resized["valid"] > 0
        flow = tf.where(known if len(known.shape) == 3 else known[..., None], flow, 0.0)
        return {**resized, "flow": flow}

    return apply


def padded(
    value: tf.Tensor, kind: Kind, margins: tuple[tuple[Any, Any], ...], mode: str = "constant"
) -> tf.Tensor:
    """Adds pixels at the border.

    Args:
        value: the field.
        kind: what comes to a mask is 255, to a flow 0 and not valid, whatever the mode.
        margins: ((above, below), (left, right)), numbers of pixels, which may be () tensors.
        mode: for images: "constant" is black; or "reflect".

    Returns:
        The larger field.
    """
    return tf.pad(
        value,
        (*margins, (0, 0))[: len(value.shape)],
        mode if kind is Kind.IMAGE else "constant",
        constant_values=tf.cast(_FILLS[kind], value.dtype),
    )


def mirrored(value: tf.Tensor, kind: Kind) -> tf.Tensor:
    """Swaps left and right; a flow then points the other way, too."""
    value = tf.reverse(value, [1])
    return value * (-1.0, 1.0) if kind is Kind.FLOW else value


def turned(value: tf.Tensor, kind: Kind, quarters: tf.Tensor) -> tf.Tensor:
    """Turns a field counter-clockwise, and the directions in it if it is a flow.

    Args:
        value: the field.
        kind: of it.
        quarters: () int32, 0 to 3 turns by 90 degrees.

    Returns:
        The turned field.
    """
    value = _with_channels(value, lambda x: tf.image.rot90(x, quarters))
    if kind is not Kind.FLOW:
        return value
    cos = tf.gather((1.0, 0.0, -1.0, 0.0), quarters)
    sin = tf.gather((0.0, 1.0, 0.0, -1.0), quarters)
    right, down = value[..., 0], value[..., 1]
    return tf.stack([cos * right + sin * down, cos * down - sin * right], axis=-1)


def _with_channels(value: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Changes (h, w) as if it were (h, w, 1)."""
    return change(value) if len(value.shape) == 3 else change(value[..., None])[..., 0]
