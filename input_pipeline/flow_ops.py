"""Augmentation of pairs of frames with their flow, as RAFT and FlowFormer are trained with.

Sources: the published code of Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for
Optical Flow" (ECCV 2020), and of Huang et al., "FlowFormer" (ECCV 2022). Images and dense flows are
resized as OpenCV does it, of which only the window is computed that is cut out. Deviations: a hue
is turned without being rounded to one of 256, the last window that fits can be drawn as well, and a
dense flow that would be interpolated from an unknown one is not valid.
"""

from __future__ import annotations

import dataclasses
import functools

from input_pipeline.distortions import blend, mean_grey
from input_pipeline.fields import Fields, Kind, kind_of, on_each, padded
from input_pipeline.flow_sets import SETS, STAGES, Stage, number
from input_pipeline.ops import (
    Op,
    Size,
    draw_uniform,
    draw_whole,
    fold_in,
    get_height_width,
    get_sides,
    random_op,
    require,
    require_uint8,
)
from input_pipeline.tf_or_numpy import tf

_FIELDS = ("image", "image2", "flow", "valid")

_ASYMMETRIC = 0.2  # probability that the frames of a dense pair get colours of their own
_COLOURS, _SPARSE_COLOURS = 0.4, 0.3  # most change of brightness, contrast and saturation
_HUE, _SPARSE_HUE = 0.5 / 3.14, 0.3 / 3.14  # in turns

_ERASED = 0.5  # probability
_ERASED_SIDES = (50, 100)  # of a rectangle in pixels, the latter is not reached

_RESIZED = 0.8  # probability
_STRETCHED, _STRETCH = 0.8, 0.2  # probability, and most exponent of 2
_SPARE, _SPARSE_SPARE = 8, 1  # pixels by which a resized image is larger than the window, at least
_MIRRORED, _UPSIDE_DOWN = 0.5, 0.1  # probabilities
_SPARSE_MARGINS = (0, 19), (50, 49)  # by which a window is drawn outside, and then moved inside


@random_op
def flow_augment(size: Size, stage: str = "chairs") -> Op:
    """Colours, an erased part, another scale, mirroring, and a window of `size` pixels.

    How strong they are says the stage of training, and of a mixture the set that an example is of:
    `image`, `image2`, `flow`, `valid` and where it is there `occluded`, and `set`, a row of
    `flow_sets.SETS`, which is left out afterwards. Without it they are a person's own.
    """
    size = get_height_width(size)
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}")

    def apply(fields: Fields, seed: tf.Tensor) -> Fields:
        fields = dict(fields)
        _check(fields)
        row = tf.cast(fields.pop("set", number("own")), tf.int32)
        is_sparse = tf.gather(tf.constant([row.is_sparse for row in SETS]), row)
        frames = fields["image"], fields["image2"]
        frames = jitter_colours(*frames, is_sparse, fold_in(seed, 0))
        fields["image"], fields["image2"] = frames[0], erase(frames[1], fold_in(seed, 1))
        fields = _with_padding(fields, size)
        whole = tf.shape(fields["image"])[:2]
        move = _draw(whole, size, STAGES[stage], row, is_sparse, fold_in(seed, 2))
        return _moved(fields, move, size, is_sparse)

    return apply


def _check(fields: Fields) -> None:
    missing = [key for key in _FIELDS if key not in fields]
    if missing:
        raise ValueError(f"flow_augment needs {', '.join(_FIELDS)}; missing: {', '.join(missing)}")
    known = (*_FIELDS, "occluded")
    others = [key for key in fields if kind_of(key) is not Kind.PLAIN and key not in known]
    if others:
        raise ValueError(f"flow_augment does not move {', '.join(others)}: leave it out")
    first, second = fields["image"], fields["image2"]
    for image in (first, second):
        require_uint8(image, "flow_augment")
    (height, width), (height2, width2) = get_sides(first), get_sides(second)
    fits = (height == height2) & (width == width2)
    message = "the second frame has another size than the first"
    fields["image"] = require(first, fits, message)


# Colours.


def jitter_colours(
    first: tf.Tensor, second: tf.Tensor, is_sparse: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes brightness, contrast, saturation and hue, in a random order.

    Args:
        first: frame 1, (h, w, 3) uint8.
        second: frame 2, likewise.
        is_sparse: () bool, whether the change is weaker, and always the same for both frames.
        seed: (2,) int32.

    Returns:
        Both frames.
    """
    most = tf.where(is_sparse, _SPARSE_COLOURS, _COLOURS)
    most_hue = tf.where(is_sparse, _SPARSE_HUE, _HUE)
    each_its_own = ~is_sparse & (draw_uniform(fold_in(seed, 0), 0.0, 1.0) < _ASYMMETRIC)
    change = functools.partial(_change_colours, most=most, most_hue=most_hue)
    return tf.cond(
        each_its_own,
        lambda: (change(first, fold_in(seed, 1)), change(second, fold_in(seed, 2))),
        # One above the other, so that contrast is about the mean of both.
        lambda: tuple(tf.split(change(tf.concat([first, second], 0), fold_in(seed, 1)), 2)),
    )


def _change_colours(
    image: tf.Tensor, seed: tf.Tensor, most: tf.Tensor, most_hue: tf.Tensor
) -> tf.Tensor:
    factors = 1 + most * tf.random.stateless_uniform((3,), fold_in(seed, 0), -1.0, 1.0)
    hue = most_hue * draw_uniform(fold_in(seed, 1), -1.0, 1.0)
    order = tf.argsort(tf.random.stateless_uniform((4,), fold_in(seed, 2)))
    for i in range(4):
        changes = [
            functools.partial(blend, 0.0, image, factors[0]),
            functools.partial(contrast, image, factors[1]),
            functools.partial(saturate, image, factors[2]),
            functools.partial(tf.image.adjust_hue, image, hue),
        ]
        image = tf.ensure_shape(tf.switch_case(order[i], changes), image.shape)
    return image


def contrast(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Multiplies the distance to the image's mean grey, as Pillow does."""
    return blend(mean_grey(image), image, factor)


def saturate(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Multiplies the distance to each pixel's grey, as Pillow does."""
    return blend(tf.image.rgb_to_grayscale(image), image, factor)


def erase(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """With probability 1/2, fills one or two rectangles with the image's mean colour.

    Args:
        image: frame 2, (h, w, 3) uint8.
        seed: (2,) int32.

    Returns:
        The frame, in which some of what is in frame 1 is hidden.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    mean = tf.cast(tf.reduce_mean(tf.cast(image, tf.float32), axis=(0, 1)), tf.uint8)
    count = draw_whole(fold_in(seed, 0), 1, 3)
    is_erased = draw_uniform(fold_in(seed, 1), 0.0, 1.0) < _ERASED
    hidden = tf.zeros((height, width), tf.bool)
    for i in range(2):
        seeds = [fold_in(seed, 2 + 4 * i + k) for k in range(4)]
        top, left = draw_whole(seeds[0], 0, height), draw_whole(seeds[1], 0, width)
        below = tf.range(height) - top
        right = tf.range(width) - left
        rows = (below >= 0) & (below < draw_whole(seeds[2], *_ERASED_SIDES))
        columns = (right >= 0) & (right < draw_whole(seeds[3], *_ERASED_SIDES))
        hidden |= rows[:, None] & columns & (count > i) & is_erased
    return tf.where(hidden[..., None], mean, image)


# Places.


@dataclasses.dataclass(frozen=True)
class Move:
    """How an example is resized, mirrored and cut out.

    Attributes:
        factors: (2,) float64, how many times larger it becomes along y and x; 1 without resizing.
        is_resized: () bool.
        begin: (2,) int32, where the window begins in what is resized and not yet mirrored.
        mirrored: (2,) bool, whether the window is then turned upside down, and left to right.
    """

    factors: tf.Tensor
    is_resized: tf.Tensor
    begin: tf.Tensor
    mirrored: tf.Tensor


def _with_padding(fields: Fields, size: tuple[int, int]) -> Fields:
    """Fields with black, unknown pixels below and right of what is smaller than the window."""
    whole = tf.shape(fields["image"])[:2]
    below, right = tf.unstack(tf.maximum(tf.constant(size) - whole, 0))

    return on_each(fields, lambda value, kind: padded(value, kind, ((0, below), (0, right))))


def _draw(
    whole: tf.Tensor,
    size: tuple[int, int],
    stage: Stage,
    row: tf.Tensor,
    is_sparse: tf.Tensor,
    seed: tf.Tensor,
) -> Move:
    """Draws a move of an image of the (2,) int32 sides `whole` to a window of `size`."""

    def chance(number: int, probability: float) -> tf.Tensor:
        return draw_uniform(fold_in(seed, number), 0.0, 1.0) < probability

    low, high = tf.unstack(tf.gather(tf.constant([stage.scales_of(s.name) for s in SETS]), row))
    exponent = low + (high - low) * draw_uniform(fold_in(seed, 0), 0.0, 1.0)
    stretch = tf.random.stateless_uniform((2,), fold_in(seed, 1), -_STRETCH, _STRETCH)
    stretch = tf.where(chance(2, _STRETCHED) & ~is_sparse, stretch, 0.0)
    spare = tf.where(is_sparse, _SPARSE_SPARE, _SPARE) + tf.constant(size)
    least = tf.reduce_max(tf.cast(spare, tf.float64) / tf.cast(whole, tf.float64))
    factors = tf.maximum(tf.cast(2 ** (exponent + stretch), tf.float64), least)
    is_resized = chance(3, _RESIZED)
    factors = tf.where(is_resized, factors, 1.0)
    free = resized_sides(whole, factors) - tf.constant(size)
    begin = []
    for axis, margins in enumerate(_SPARSE_MARGINS):
        before, after = (tf.where(is_sparse, margin, 0) for margin in margins)
        drawn = draw_whole(fold_in(seed, 4 + axis), -before, free[axis] + after + 1)
        begin.append(tf.clip_by_value(drawn, 0, free[axis]))
    mirrored = tf.stack([chance(6, _UPSIDE_DOWN) & ~is_sparse, chance(7, _MIRRORED)])
    return Move(factors, is_resized, tf.stack(begin), mirrored & stage.flips)


def resized_sides(sides: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Sides (2,) int32 that an image of other sides gets by factors (2,) float64, as OpenCV's."""
    return tf.cast(tf.round(tf.cast(sides, tf.float64) * factors), tf.int32)


def _moved(fields: Fields, move: Move, size: tuple[int, int], is_sparse: tf.Tensor) -> Fields:
    longer = tf.cast(move.factors[::-1], tf.float32)
    resize = functools.partial(resized_window, factors=move.factors, begin=move.begin, size=size)
    is_known = fields["valid"]

    def dense() -> tuple[tf.Tensor, tf.Tensor]:
        share = resize(tf.cast(is_known, tf.float32)[..., None])[..., 0]
        return resize(fields["flow"]) * longer, tf.cast(share > 1 - 1e-4, is_known.dtype)

    def sparse() -> tuple[tf.Tensor, tf.Tensor]:
        return scattered_window(fields["flow"], is_known, move, size)

    flow, valid = tf.cond(is_sparse, sparse, dense)
    upside_down, left_to_right = tf.unstack(move.mirrored)
    sign = tf.where(tf.stack([left_to_right, upside_down]), -1.0, 1.0)
    moved = {**fields, "flow": flow * sign, "valid": valid}
    for key in ("image", "image2"):
        moved[key] = tf.cast(tf.floor(resize(fields[key]) + 0.5), tf.uint8)
    if "occluded" in fields:
        occluded = fields["occluded"]
        share = resize(tf.cast(occluded, tf.float32)[..., None])[..., 0]
        moved["occluded"] = tf.cast(share >= 0.5, occluded.dtype)

    def mirror(value: tf.Tensor) -> tf.Tensor:
        value = tf.cond(upside_down, lambda: value[::-1], lambda: value)
        value = tf.cond(left_to_right, lambda: value[:, ::-1], lambda: value)
        return tf.ensure_shape(value, (*size, *value.shape[2:]))

    return on_each(moved, lambda value, _: mirror(value))


def resized_window(
    value: tf.Tensor, factors: tf.Tensor, begin: tf.Tensor, size: tuple[int, int] | tf.Tensor
) -> tf.Tensor:
    """A window of a field that is made larger as OpenCV's resize(fx, fy) does it, bilinear.

    A step is 1 / factor, even if the sides are rounded; without antialiasing.

    Args:
        value: (h, w, c).
        factors: (2,) float64, along y and x.
        begin: (2,) int32, top and left of the window.
        size: height and width of the window.

    Returns:
        (height, width, c) float32.
    """
    value = tf.cast(value, tf.float32)
    for axis in (0, 1):
        last = tf.shape(value)[axis] - 1
        i = tf.cast(begin[axis] + tf.range(size[axis]), tf.float64)
        at = tf.clip_by_value((i + 0.5) / factors[axis] - 0.5, 0.0, tf.cast(last, tf.float64))
        low = tf.floor(at)
        share = tf.reshape(tf.cast(at - low, tf.float32), ((-1, 1, 1), (1, -1, 1))[axis])
        low = tf.cast(low, tf.int32)
        first, second = (tf.gather(value, tf.minimum(low + k, last), axis=axis) for k in (0, 1))
        value = first + (second - first) * share
    return value


def scattered_window(
    flow: tf.Tensor, valid: tf.Tensor, move: Move, size: tuple[int, int] | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """A window of a sparse flow that is made larger: each known vector goes to its nearest pixel.

    Of those that meet, the last stays. As in the published code, none goes to row or column 0.

    Args:
        flow: (h, w, 2) float32.
        valid: (h, w), at least 1 where it is known.
        move: its `mirrored` is not done.
        size: height and width of the window.

    Returns:
        The flow (height, width, 2), 0 where it is unknown, and valid.
    """
    sides = tf.shape(flow)[:2]
    ends = []
    for axis in (0, 1):
        end = tf.round(tf.cast(tf.range(sides[axis]), tf.float64) * move.factors[axis])
        end = tf.cast(end, tf.int32)
        inside = (end > 0) | ~move.is_resized
        end -= move.begin[axis]
        inside &= (end >= 0) & (end < size[axis])
        ends.append(tf.where(inside, end, -1))
    rows, columns = tf.meshgrid(*ends, indexing="ij")
    is_kept = (rows >= 0) & (columns >= 0) & (valid >= tf.cast(1, valid.dtype))
    source = tf.cast(tf.where(tf.reshape(is_kept, (-1,)))[:, 0], tf.int32)
    end = tf.gather(tf.reshape(rows * size[1] + columns, (-1,)), source)
    # The highest number is the last that is written, whatever the order of writing.
    empty = tf.fill((size[0] * size[1],), -1)
    chosen = tf.tensor_scatter_nd_max(empty, end[:, None], source)
    is_known = chosen >= 0
    vectors = tf.gather(tf.reshape(flow, (-1, 2)), tf.maximum(chosen, 0))
    vectors *= tf.cast(move.factors[::-1], tf.float32)
    vectors = tf.where(is_known[:, None], vectors, 0.0)
    shape = tf.stack([size[0], size[1]])
    return (
        tf.reshape(vectors, tf.concat([shape, [2]], axis=0)),
        tf.cast(tf.reshape(is_known, shape), valid.dtype),
    )
