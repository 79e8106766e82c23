"""What the ops of an evaluation ask of TensorFlow, for numpy arrays: see `tf_or_numpy`.

Names, arguments and values are TensorFlow's. Resizing adds float32 numbers in the order in which
TensorFlow's kernels do, so that what is rounded to whole values afterwards is equal to the pixel.
"""

import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from input_pipeline.tf_or_numpy import NotInNumpy

uint8, uint16, int32, int64 = np.uint8, np.uint16, np.int32, np.int64
float32, float64 = np.float32, np.float64

ceil, floor, round, stack = np.ceil, np.floor, np.round, np.stack
minimum, maximum, reduce_min, reduce_max = np.minimum, np.maximum, np.min, np.max
clip_by_value, concat, gather = np.clip, np.concatenate, np.take
get_static_value = np.asarray
unstack = tuple


def is_tensor(x: Any) -> bool:
    """Whether x belongs to a graph, whose numbers are not known while it is built."""
    del x
    return False


def cast(x: Any, dtype: Any) -> np.ndarray:
    """Gives x another type; fractions are cut off."""
    return np.asarray(x).astype(dtype)


def constant(x: Any, dtype: Any = None) -> np.ndarray:
    """An array, of float32 if its type is not said and it has fractions."""
    x = np.asarray(x, dtype)
    return x.astype(np.float32) if dtype is None and x.dtype == np.float64 else x


def shape(x: np.ndarray, dtype: Any = np.int32) -> np.ndarray:
    """The length of each axis."""
    return np.array(x.shape, dtype)


def ensure_shape(x: np.ndarray, shape: Sequence[int | None]) -> np.ndarray:
    """Returns x, of which each length is as said, if one is said."""
    assert all(wanted in (None, side) for side, wanted in zip(x.shape, shape, strict=True))
    return x


def range(*limits: Any) -> np.ndarray:
    """Whole numbers, int32."""
    return np.arange(*limits, dtype=np.int32)


def repeat(x: np.ndarray, repeats: int, axis: int) -> np.ndarray:
    """Repeats each element along an axis."""
    return np.repeat(x, repeats, axis)


def pad(
    x: np.ndarray, margins: Sequence[Sequence[Any]], mode: str, constant_values: Any
) -> np.ndarray:
    """Adds elements at the ends of each axis."""
    if mode == "reflect":
        return np.pad(x, margins, mode="reflect")
    return np.pad(x, margins, constant_values=constant_values)


def numpy_function(
    function: Callable[..., np.ndarray], inputs: Sequence[Any], dtype: Any, stateful: bool
) -> np.ndarray:
    """Calls a function."""
    del stateful
    return np.asarray(function(*inputs), dtype)


def _resize(
    image: np.ndarray, size: Sequence[int], method: str = "bilinear", antialias: bool = False
) -> np.ndarray:
    """`tf.image.resize`: (h, w, c) to (height, width, c) float32; to the nearest, of its type."""
    old, new = image.shape[:2], (int(size[0]), int(size[1]))
    if method == "nearest":
        rows, columns = (_nearest(*sides) for sides in zip(old, new))
        return image[rows][:, columns]
    if old == new:
        return image
    if method == "bilinear" and not antialias:
        return _resize_bilinear(image, new)
    if method not in _KERNELS or not antialias:
        raise NotInNumpy(f"there is no {method} in numpy")
    for sides in zip(old, new):  # height first
        turned = _gather_spans(image, *_spans(*sides, *_KERNELS[method])).swapaxes(0, 1)
        image = np.ascontiguousarray(turned)
    return image


image = types.SimpleNamespace(resize=_resize)


def _nearest(old: int, new: int) -> np.ndarray:
    """Which of `old` pixels each of `new` is: the one at its centre."""
    position = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * _ratio(old, new)
    return np.minimum(position.astype(np.int64), old - 1)


def _ratio(old: int, new: int) -> np.float32:
    return np.float32(old) / np.float32(new)


# Not antialiased: tensorflow/core/kernels/image/resize_bilinear_op.cc.


def _resize_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    (above, below, down), (left, right, across) = map(_between, image.shape[:2], size)
    across = across[:, None]
    rows = np.empty((len(image), size[1], image.shape[2]), np.float32)
    needed = np.union1d(above, below)
    pixels = image[needed].astype(np.float32)
    rows[needed] = pixels[:, left] + (pixels[:, right] - pixels[:, left]) * across
    return rows[above] + (rows[below] - rows[above]) * down[:, None, None]


def _between(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each new pixel the old ones before and after its centre, and how near the latter is."""
    half = np.float32(0.5)
    position = (np.arange(new, dtype=np.float32) + half) * _ratio(old, new) - half
    before = np.floor(position)
    after = np.minimum(np.ceil(position), old - 1).astype(np.int64)
    return np.maximum(before, 0).astype(np.int64), after, position - before


# Antialiased: tensorflow/core/kernels/image/scale_and_translate_op.cc.


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.where(x < 1, 1 - x, np.float32(0))


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel, of a = -1/2."""
    near = ((1.5 * x - 2.5) * x) * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, np.float32(0)))


# By the name of a method: the kernel, and at which distance it ends.
_KERNELS = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}


def _spans(
    old: int, new: int, kernel: Callable[[np.ndarray], np.ndarray], radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which of `old` pixels make each of `new`.

    Returns:
        (new,) int64, the number of the first; and (new, n) float32, the weights of those from it
        on, of which some at the end can be 0.
    """
    one, half = np.float32(1), np.float32(0.5)
    step = one / _ratio(new, old)
    width = np.maximum(step, one)  # of the kernel, in pixels
    reach = np.float32(radius) * width
    centre = (np.arange(new, dtype=np.float32) + half) * step
    first = np.clip(np.ceil(centre - reach - half).astype(np.int64), 0, old - 1)
    last = np.clip(np.floor(centre + reach - half).astype(np.int64), 0, old - 1)
    source = first[:, None] + np.arange(int(np.max(last - first)) + 1)
    distance = (source.astype(np.float32) + half - centre[:, None]) * (one / width)
    weights = np.where(source <= last[:, None], kernel(np.abs(distance)), np.float32(0))
    total = np.add.accumulate(weights, axis=1)[:, -1:]  # one after the other
    return first, weights * (one / total)


def _gather_spans(image: np.ndarray, first: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Adds up, one after the other, what makes each row; see `_spans`."""
    total = np.empty((len(first), *image.shape[1:]), np.float32)
    for row, begin, weight in zip(total, first, weights):
        source = image[begin : begin + len(weight)]
        np.add.reduce(source * weight[: len(source), None, None], axis=0, out=row)
    return total
