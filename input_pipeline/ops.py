"""What the ops of preprocessing share: their table, checks of arguments and images, and draws.

An op is made by a function of its arguments, and takes an example's fields and a seed; it draws all
its randomness from the seed, so that an example's augmentation depends on nothing else.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable, Sequence
from typing import Any

from input_pipeline import images
from input_pipeline.fields import Fields, largest
from input_pipeline.tf_or_numpy import tf

Op = Callable[[Fields, "tf.Tensor"], Fields]
Size = int | tuple[int, int]

NAMED = "cannot prepare "  # begins the messages that name an image
METHODS = ("bilinear", "bicubic", "nearest", "area", "lanczos3")

_MUST_STAND = (
    "{} works on {} images, and got {}: it must stand after decode and before value_range or "
    "normalize, of which a string needs just one"
)

# The name of the image that a graph is being built for, which its errors begin with.
name_of_image: contextvars.ContextVar[tf.Tensor | str] = contextvars.ContextVar("name", default="")

OPS: dict[str, Callable[..., Op]] = {}
RANDOM: set[str] = set()


def op(factory: Callable[..., Op]) -> Callable[..., Op]:
    """Registers an op under its function's name."""
    OPS[factory.__name__] = factory
    return factory


def random_op(factory: Callable[..., Op]) -> Callable[..., Op]:
    """Registers an op that draws random numbers, and so has no place in an evaluation."""
    RANDOM.add(factory.__name__)
    return op(factory)


# Checks of arguments: each returns the value, or raises what the parser completes.


def get_height_width(size: Size) -> tuple[int, int]:
    """(height, width) of what an op is to make."""
    pair = (size, size) if isinstance(size, int) else size
    if (
        not isinstance(pair, tuple)
        or len(pair) != 2
        or not all(isinstance(n, int) and n > 0 for n in pair)
    ):
        raise ValueError(
            f"size must be a positive number of pixels or (height, width), not {size!r}"
        )
    if math.prod(pair) > images.MOST_PIXELS:
        raise ValueError(
            f"size must be of at most {images.MOST_PIXELS:,} pixels, and {pair[0]} x {pair[1]} are "
            f"{math.prod(pair):,}"
        )
    return pair


def check_method(method: str) -> str:
    """A method of `tf.image.resize`."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, not {method!r}")
    return method


def check_whole(name: str, value: int, low: int, high: float = math.inf) -> int:
    """A whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        top = "" if high == math.inf else f" and at most {high}"
        raise ValueError(f"{name} must be a whole number of at least {low}{top}, not {value!r}")
    return value


def check_within(name: str, value: float, low: float, high: float) -> float:
    """A number from `low` to `high`."""
    if not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], not {value!r}")
    return float(value)


def check_area(area: Sequence[float]) -> tuple[float, float]:
    """The least and the largest share of an image."""
    if not isinstance(area, tuple) or len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
        raise ValueError(
            f"area must be (least, most) as shares of the image in (0, 1], not {area!r}"
        )
    return area


# Checks of images.


def get_sides(image: tf.Tensor) -> tuple[Any, Any]:
    """(height, width) as numbers if both are known while the graph is built, else () int64."""
    known = tuple(image.shape[:2])
    return tuple(tf.unstack(tf.shape(image, tf.int64)[:2])) if None in known else known


def require(image: tf.Tensor, holds: tf.Tensor | bool, *message: Any) -> tf.Tensor:
    """Returns an image if a condition holds.

    Args:
        image: any tensor.
        holds: () bool.
        message: parts of what an error says: text, and numbers, which may be () tensors.

    Raises:
        ValueError: if it is known not to hold.
        tf.errors.InvalidArgumentError: if it turns out not to when run.
    """
    if not tf.is_tensor(holds) and holds:
        return image
    if not tf.is_tensor(holds):
        raise ValueError("".join(map(str, message)))
    texts = [tf.strings.as_string(part) if tf.is_tensor(part) else str(part) for part in message]
    name = name_of_image.get()
    if tf.is_tensor(name) or name:
        texts = [NAMED, name, ": ", *texts]
    with tf.control_dependencies([tf.debugging.Assert(holds, [tf.strings.join(texts)])]):
        return tf.identity(image)


def require_allowed(image: tf.Tensor, what: str, sides: tuple[Any, Any]) -> tf.Tensor:
    """Returns an image if what an op makes of it has no more pixels than an image may have.

    Args:
        image: the op's input.
        what: the op.
        sides: (height, width) of what it makes, see `get_sides`.

    Raises:
        See `require`.
    """
    height, width = sides
    old = get_sides(image)
    return require(
        image, height * width <= images.MOST_PIXELS,
        f"{what} would make ", height, " x ", width, " pixels of ", old[0], " x ", old[1],
        f", and {images.MOST_PIXELS:,} are the most: crop or remove that image",
    )  # fmt: skip


def require_integers(image: tf.Tensor, name: str) -> None:
    """Raises a ValueError if an op comes after the one that makes values of pixels."""
    if not largest(image):
        raise ValueError(_MUST_STAND.format(name, "8-bit or 16-bit", image.dtype.name))


def require_uint8(image: tf.Tensor, name: str) -> None:
    """Raises a ValueError if an op of 8-bit images gets another."""
    if image.dtype == tf.uint16:
        raise ValueError(f"{name} works on 8-bit images alone, not on pairs")
    if image.dtype != tf.uint8:
        raise ValueError(_MUST_STAND.format(name, "8-bit", image.dtype.name))


# Draws.


def draw_uniform(seed: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """() float32 from `low` to `high`."""
    return tf.random.stateless_uniform((), seed, low, high)


def draw_whole(seed: tf.Tensor, low: int, high: tf.Tensor | int) -> tf.Tensor:
    """() int32 from `low` to one less than `high`."""
    return tf.random.stateless_uniform((), seed, low, high, tf.int32)


def fold_in(seed: tf.Tensor, number: int) -> tf.Tensor:
    """The (2,) int32 seed that a seed and a number make."""
    return tf.random.experimental.stateless_fold_in(seed, number)
