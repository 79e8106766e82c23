"""Ops that move pixels. Each draws once, and acts on every field of an example by its kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from input_pipeline import crop_windows, images, resampling
from input_pipeline.fields import (
    Change,
    Fields,
    Kind,
    kind_of,
    mirrored,
    on_each,
    padded,
    resized,
    resizing_what_is_known,
    turned,
)
from input_pipeline.ops import (
    Op,
    Size,
    check_area,
    check_method,
    check_whole,
    check_within,
    draw_uniform,
    draw_whole,
    fold_in,
    get_height_width,
    get_sides,
    op,
    random_op,
    require,
    require_allowed,
    require_integers,
    require_uint8,
)
from input_pipeline.tf_or_numpy import tf


@dataclasses.dataclass(frozen=True)
class Crop:
    """An op that first cuts a window out, so that `decode` can decode just that window.

    Attributes:
        window: from the shape (3,) int32 of the largest image and a seed to (4,) int32: top, left,
            height, width.
        finish: what is done to what was cut out, given also how many times smaller the field is.
        scale: how many times larger the target is than all other fields. The window is drawn on it,
            and begins at a multiple of this, so that the others have a window of whole pixels.
        resizes: whether `finish` changes their size.
        wanted: (height, width) to which it does, if they may come from a file already smaller, see
            `images.decode_and_crop`; else None.
    """

    window: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    finish: Callable[[tf.Tensor, Kind, int], tf.Tensor]
    scale: int = 1
    resizes: bool = False
    wanted: tuple[int, int] | None = None

    def __call__(self, fields: Fields, seed: tf.Tensor) -> Fields:
        largest = fields["target" if self.scale > 1 else "image"]
        window = self.window(tf.shape(largest), seed)
        smaller = window // self.scale
        window = tf.concat([smaller[:2] * self.scale, window[2:]], axis=0)

        def cut(key: str, value: tf.Tensor) -> tf.Tensor:
            if kind_of(key) is Kind.PLAIN:
                return value
            is_largest = self.scale == 1 or key == "target"
            value = images.crop(value, window if is_largest else smaller)
            return self.finish(value, kind_of(key), 1 if is_largest else self.scale)

        def cut_all(fields: Fields) -> Fields:
            return {key: cut(key, value) for key, value in fields.items()}

        return (resizing_what_is_known(cut_all) if self.resizes else cut_all)(fields)

    def decode(self, fields: Fields, seed: tf.Tensor) -> Fields:
        """Does the same to an example whose one image is the bytes of a file."""
        data = fields["image"]
        image = images.decode_and_crop(data, lambda shape: self.window(shape, seed), self.wanted)
        return {**fields, "image": self.finish(image, Kind.IMAGE, 1)}


def _with_size(height: int, width: int) -> Callable[[tf.Tensor, Kind, int], tf.Tensor]:
    """Tells TensorFlow what size a window has."""

    def finish(value: tf.Tensor, _: Kind, smaller: int) -> tf.Tensor:
        return tf.ensure_shape(value, (height // smaller, width // smaller, *value.shape[2:]))

    return finish


# Whose pixels an op is to make: our own, or those of who prepared images for published models.
_LIKE = ("", "torchvision", "big_vision")


def _check_like(like: str) -> str:
    if like not in _LIKE:
        raise ValueError(f"like must be one of {_LIKE}, not {like!r}")
    return like


def _resize_like(
    value: tf.Tensor, kind: Kind, height_width: Any, method: str, like: str
) -> tf.Tensor:
    """Gives a field another size; see `_LIKE` and `resized`."""
    if kind is not Kind.IMAGE or not like:
        return resized(value, kind, height_width, method)
    if like == "big_vision":
        require_integers(value, "resize")
        return resampling.resize_by_big_vision(value, height_width, method)
    require_uint8(value, "resize with like='torchvision'")
    new = resampling.resize_by_pillow(value, height_width, method)
    known = tf.get_static_value(height_width)
    sides = (None, None) if known is None else tuple(known)
    return tf.ensure_shape(new, (*sides, value.shape[2]))


def _resizer(size: Size, method: str, like: str = "") -> Change:
    height_width = get_height_width(size)
    check_method(method)
    _check_like(like)

    def resize_field(value: tf.Tensor, kind: Kind) -> tf.Tensor:
        # TensorFlow changes the height first.
        between = (height_width[0], get_sides(value)[1])
        what = f"resizing to {height_width[0]} x {height_width[1]}"
        value = require_allowed(value, what, between)
        return _resize_like(value, kind, height_width, method, like)

    return resize_field


@op
def resize(size: Size, method: str = "bilinear", like: str = "") -> Op:
    """To `size` pixels (a side, or (height, width)), antialiased, whatever the aspect ratio.

    like="torchvision" makes Pillow's pixels, as PyTorch's models were trained on; "big_vision" does
    not antialias, and cuts fractions off, as LiT and SigLIP were.
    """
    resize_field = _resizer(size, method, like)
    apply = resizing_what_is_known(lambda fields: on_each(fields, resize_field))
    return lambda fields, _: apply(fields)


@op
def resize_small(size: int, method: str = "bilinear", like: str = "") -> Op:
    """The shorter side to `size` pixels; the aspect ratio stays. For `like`, see `resize`."""
    check_whole("size", size, 1)
    get_height_width(size)
    check_method(method)
    _check_like(like)

    def resize_field(value: tf.Tensor, kind: Kind) -> tf.Tensor:
        height, width = get_sides(value)
        least = (tf.minimum if tf.is_tensor(height) else min)(height, width)
        new_sides = (height * size // least, width * size // least)
        value = require_allowed(value, f"resize_small({size})", new_sides)
        new = _sides_of_shorter(tf.shape(value)[:2], size, like)
        return _resize_like(value, kind, new, method, like)

    apply = resizing_what_is_known(lambda fields: on_each(fields, resize_field))
    return lambda fields, _: apply(fields)


def _sides_of_shorter(sides: tf.Tensor, size: int, like: str) -> tf.Tensor:
    """(2,) int32, the sides of which the shorter is `size`; the longer is rounded."""
    if like == "torchvision":  # which leaves the fraction out
        sides = tf.cast(sides, tf.int64)
        return tf.cast(sides * size // tf.reduce_min(sides), tf.int32)
    sides = tf.cast(sides, tf.float32)
    return tf.cast(tf.round(sides * size / tf.reduce_min(sides)), tf.int32)


@op
def central_crop(size: Size, like: str = "") -> Op:
    """The middle `size` pixels; the image must be at least as large.

    Where as many pixels cannot be left on either side, the window is nearer to the beginning; with
    like="torchvision", it begins at an even number.
    """
    height, width = get_height_width(size)
    _check_like(like)

    def begin(rest: tf.Tensor) -> tf.Tensor:
        return (rest + tf.cast(rest % 4 == 3, tf.int32) if like == "torchvision" else rest) // 2

    def window(shape: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        shape = _fitting("central_crop", shape, height, width)
        return tf.stack([begin(shape[0] - height), begin(shape[1] - width), height, width])

    return Crop(window, _with_size(height, width))


@random_op
def random_crop(size: Size, edge_decay: float = 0.0) -> Op:
    """A random window of `size` pixels; the image must be at least as large.

    Along each axis the window is moved to one of the two edges with a probability of `edge_decay`
    times the share of the image that it covers.

    Source of edge_decay: Song et al., "Vision Transformers for Single Image Dehazing" (TIP 2023).
    """
    height, width = get_height_width(size)
    check_within("edge_decay", edge_decay, 0, 1)

    def begin(side: int, whole: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        inside = draw_whole(seed, 0, whole - side + 1)
        if not edge_decay:
            return inside
        at_edge = tf.where(draw_uniform(fold_in(seed, 0), 0.0, 1.0) < 0.5, 0, whole - side)
        probability = edge_decay * tf.cast(side / whole, tf.float32)
        return tf.where(draw_uniform(fold_in(seed, 1), 0.0, 1.0) < probability, at_edge, inside)

    def window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        shape = _fitting("random_crop", shape, height, width)
        top = begin(height, shape[0], fold_in(seed, 0))
        left = begin(width, shape[1], fold_in(seed, 1))
        return tf.stack([top, left, height, width])

    return Crop(window, _with_size(height, width))


def _fitting(name: str, shape: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns the shape of an image, (3,) int32, if it is large enough; see `require`."""
    known = tf.get_static_value(shape)
    sides = (shape[0], shape[1]) if known is None else known.tolist()
    return require(
        shape,
        (sides[0] >= height) & (sides[1] >= width),
        f"{name} of {height} x {width} from a smaller image of ", sides[0], " x ", sides[1],
        "; crop less, or (unless images are to be enlarged) put resize_small or pad_to before it",
    )  # fmt: skip


@random_op
def inception_crop(
    size: Size,
    area: tuple[float, float] = (0.05, 1.0),
    method: str = "bilinear",
    like: str = "",
) -> Op:
    """A window of random area and aspect ratio (3/4 to 4/3), resized to `size`.

    Of a JPEG with four times the pixels a side and more, the window is decoded at a half or less,
    where `decode` comes right before: see `images.decode_and_crop`, which says how exactly.

    like="torchvision" is RandomResizedCrop, another law of windows (larger ones at the same
    `area`); "big_vision" has its pixels, and 1.33 in place of 4/3. See `resize`.

    Source: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015).
    """
    resize_field = _resizer(size, method, like)
    area = check_area(area)

    def window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if like == "torchvision":
            return crop_windows.torchvision_window(shape, seed, area)
        ratio = {"most_ratio": 1.33} if like == "big_vision" else {}
        return crop_windows.tensorflow_window(shape, seed, area, **ratio)

    return Crop(
        window, lambda value, kind, _: resize_field(value, kind), resizes=True,
        wanted=None if like else get_height_width(size),
    )  # fmt: skip


@op
def pad(pixels: int, mode: str = "constant") -> Op:
    """Adds `pixels` on every side: "constant" black, or "reflect"."""
    check_whole("pixels", pixels, 0)
    if mode not in ("constant", "reflect"):
        raise ValueError(f"mode must be 'constant' or 'reflect', not {mode!r}")

    def pad_field(value: tf.Tensor, kind: Kind) -> tf.Tensor:
        if kind is Kind.IMAGE:
            require_integers(value, "pad")
        height, width = get_sides(value)
        value = require_allowed(value, f"pad({pixels})", (height + 2 * pixels, width + 2 * pixels))
        if mode == "reflect":
            value = require(
                value, (height > pixels) & (width > pixels),
                f"pad({pixels}, 'reflect') needs more pixels than it adds, and got ",
                height, " x ", width,
            )  # fmt: skip
        return padded(value, kind, ((pixels, pixels), (pixels, pixels)), mode)

    return lambda fields, _: on_each(fields, pad_field)


@dataclasses.dataclass(frozen=True)
class PadTo:
    """An op that makes smaller images as large as `size`, see `pad_to`.

    Attributes:
        size: (height, width).
        mode: of images.
        is_exact: whether no image can be larger, so that all have this size.
    """

    size: tuple[int, int]
    mode: str
    is_exact: bool = False

    def __call__(self, fields: Fields, _: tf.Tensor) -> Fields:
        return on_each(fields, self._pad)

    def _pad(self, value: tf.Tensor, kind: Kind) -> tf.Tensor:
        height, width = self.size
        shape = tf.shape(value)
        old = get_sides(value)
        larger = tf.maximum if tf.is_tensor(old[0]) else max
        new_sides = (larger(old[0], height), larger(old[1], width))
        value = require_allowed(value, f"padding to {height} x {width}", new_sides)
        if kind is Kind.IMAGE and self.mode == "reflect":
            value = tf.gather(value, _reflected(shape[0], height), axis=0)
            value = tf.gather(value, _reflected(shape[1], width), axis=1)
        else:
            below, right = tf.maximum(height - shape[0], 0), tf.maximum(width - shape[1], 0)
            value = padded(value, kind, ((0, below), (0, right)))
        return tf.ensure_shape(value, (*self.size, *value.shape[2:])) if self.is_exact else value


def _reflected(whole: tf.Tensor, side: int) -> tf.Tensor:
    """Numbers of the pixels that stand along a side once it is reflected at its end."""
    period = tf.maximum(2 * (whole - 1), 1)
    i = tf.range(tf.maximum(whole, side)) % period
    return tf.minimum(i, period - i)


@op
def pad_to(size: Size, mode: str = "reflect") -> Op:
    """Makes a smaller image as large as `size` pixels, at its bottom and right border.

    It is reflected there; or with "constant" 0, which is the mean after `normalize`.
    """
    if mode not in ("constant", "reflect"):
        raise ValueError(f"mode must be 'constant' or 'reflect', not {mode!r}")
    return PadTo(get_height_width(size), mode)


@random_op
def shift(pixels: int) -> Op:
    """Moves the image by up to `pixels` in both directions; what comes in is black."""
    check_whole("pixels", pixels, 0)

    def apply(fields: Fields, seed: tf.Tensor) -> Fields:
        top = draw_whole(fold_in(seed, 0), 0, 2 * pixels + 1)
        left = draw_whole(fold_in(seed, 1), 0, 2 * pixels + 1)

        def move(value: tf.Tensor, kind: Kind) -> tf.Tensor:
            if kind is Kind.IMAGE:
                require_integers(value, "shift")
            size = tf.shape(value)
            height, width = get_sides(value)
            new_sides = (height + 2 * pixels, width + 2 * pixels)
            value = require_allowed(value, f"shift({pixels})", new_sides)
            larger = padded(value, kind, ((pixels, pixels), (pixels, pixels)))
            return tf.ensure_shape(larger[top : top + size[0], left : left + size[1]], value.shape)

        return on_each(fields, move)

    return apply


@random_op
def flip_lr(swap: tuple[tuple[int, int], ...] = ()) -> Op:
    """Mirrors left and right with probability 1/2.

    In masks, the labels of each pair in `swap` change places, such as those of left and right arm.
    """
    table = np.arange(256)
    for pair in _check_swap(swap):
        table[list(pair)] = pair[::-1]

    def mirror(value: tf.Tensor, kind: Kind) -> tf.Tensor:
        value = mirrored(value, kind)
        if kind is not Kind.MASK or not swap:
            return value
        return tf.gather(tf.constant(table, value.dtype), tf.cast(value, tf.int32))

    def apply(fields: Fields, seed: tf.Tensor) -> Fields:
        is_mirrored = draw_uniform(seed, 0.0, 1.0) < 0.5
        return on_each(
            fields,
            lambda value, kind: tf.cond(is_mirrored, lambda: mirror(value, kind), lambda: value),
        )

    return apply


def _check_swap(swap: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Pairs of labels, none of which is in two."""
    is_pairs = isinstance(swap, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in swap)
    labels = [label for pair in swap for label in pair] if is_pairs else [-1]
    is_labels = all(type(label) is int and 0 <= label < 255 for label in labels)
    if not is_labels or len(set(labels)) < len(labels):
        raise ValueError(
            "swap must be pairs of different labels from 0 to 254, such as ((14, 15), (16, 17)), "
            f"not {swap!r}"
        )
    return swap


@random_op
def rot90() -> Op:
    """Rotates a square image by 0, 90, 180 or 270 degrees."""

    def apply(fields: Fields, seed: tf.Tensor) -> Fields:
        quarters = draw_whole(seed, 0, 4)

        def turn(value: tf.Tensor, kind: Kind) -> tf.Tensor:
            shape = value.shape
            if shape[0] is None or shape[0] != shape[1]:
                raise ValueError(f"rot90 needs square images of a fixed size, not {shape}")
            return tf.ensure_shape(turned(value, kind, quarters), shape)

        return on_each(fields, turn)

    return apply
