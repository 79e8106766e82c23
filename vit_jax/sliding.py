"""How a segmenter looks at an image: whole or by windows, in several sizes, and mirrored.

Source: mmsegmentation's EncoderDecoder, whose windows and averages these are.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ops
from vit_jax.models.base import Model
from vit_jax.segmentation import resized_logits

SETTINGS = (
    "segment.window", "segment.stride", "segment.scales", "segment.flip", "segment.swap",
)  # fmt: skip

Pairs = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Looks:
    """How often, and at which parts of an image, a segmenter looks.

    Attributes:
        window: side of the windows in pixels; 0 is the whole image.
        stride: pixels from a window to the next; 0 is two thirds of the window.
        scales: times the image's size at which it is looked at; () is 1 alone. Several answers are
            averaged as probabilities.
        flip: whether the mirrored image is looked at, too.
        swap: pairs of labels that tell left from right, and so change places in a mirrored image.

    Raises:
        ValueError: for a number out of its range.
    """

    window: int = 0
    stride: int = 0
    scales: tuple[float, ...] = ()
    flip: bool = False
    swap: Pairs = ()

    def __post_init__(self) -> None:
        if self.window < 0:
            raise ValueError(f"a window has a side of 1 pixel or more, or 0, not {self.window}")
        if not 0 <= self.stride <= self.window:
            raise ValueError(
                f"the stride of windows must lie from 1 to their side, {self.window}, or be 0, and "
                f"is {self.stride}" + ("" if self.window else ": say window as well")
            )
        wrong = [s for s in self.scales if isinstance(s, bool) or not isinstance(s, int | float)]
        if wrong or not all(0 < scale <= 8 for scale in self.scales):
            raise ValueError(
                f"scales are numbers above 0 and up to 8, such as (0.5, 1.0), not {self.scales}"
            )
        if not _is_pairs_of_labels(self.swap):
            raise ValueError(
                "swap must be pairs of different labels, such as ((14, 15), (16, 17)), not "
                f"{self.swap}"
            )

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Looks":
        """Those of a run's settings by key, `SETTINGS`; those of a run without any if it has none.

        Raises:
            ValueError: for a number out of its range; the message begins with their group.
        """
        given = {key.rpartition(".")[2]: settings[key] for key in SETTINGS if key in settings}
        try:
            scales = tuple(given.get("scales", ()))
            swap = tuple(tuple(x) if isinstance(x, list) else x for x in given.get("swap", ()))
            return cls(**{**given, "scales": scales, "swap": swap})
        except ValueError as error:
            raise ValueError(f"segment: {error}") from None

    @property
    def is_plain(self) -> bool:
        """Whether it looks once, at the whole image as it is."""
        return dataclasses.replace(self, swap=()) in (Looks(), Looks(scales=(1,)))

    def views(self, size: tuple[int, int]) -> list["View"]:
        """All looks at an image of (h, w) pixels."""
        return [
            View(scaled, is_mirrored, *self.grid(scaled), self.swap)
            for scaled in (scaled_size(size, scale) for scale in self.scales or (1,))
            for is_mirrored in ((False, True) if self.flip else (False,))
        ]

    def grid(self, size: tuple[int, int]) -> tuple[tuple[int, int], list[int], list[int]]:
        """Windows of an image of (h, w) pixels: their (h, w), their tops, and their lefts."""
        if not self.window:
            return size, [0], [0]
        stride = self.stride or max(self.window * 2 // 3, 1)
        tops, lefts = (window_starts(side, self.window, stride) for side in size)
        return (min(self.window, size[0]), min(self.window, size[1])), tops, lefts


@dataclasses.dataclass(frozen=True)
class View:
    """A look at an image.

    Attributes:
        size: (h, w) that the image is given.
        is_mirrored: whether left and right are swapped.
        window: (h, w) of its windows.
        tops: where they begin.
        lefts: where they begin along the other axis.
        swap: pairs of labels that change places if it is mirrored.
    """

    size: tuple[int, int]
    is_mirrored: bool
    window: tuple[int, int]
    tops: list[int]
    lefts: list[int]
    swap: Pairs = ()

    def unmirrored(self, logits: jax.Array) -> jax.Array:
        """Its (..., w, classes) logits, with left and right as the image itself has them.

        Raises:
            ValueError: if labels that change places are beyond the classes.
        """
        if not self.is_mirrored:
            return logits
        order = list(range(logits.shape[-1]))
        for one, other in self.swap:
            if max(one, other) >= len(order):
                raise ValueError(
                    f"segment.swap has the label {max(one, other)}, and there are {len(order)} "
                    "classes, from 0 on: leave it out"
                )
            order[one], order[other] = other, one
        logits = logits[..., ::-1, :]
        return logits[..., np.array(order)] if self.swap else logits

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many windows a row, and a column, of the image lies in, float32."""
        pairs = zip((self.tops, self.lefts), self.window, self.size)
        one, other = (
            np.sum([(x <= np.arange(side)) & (np.arange(side) < x + window) for x in starts], 0)
            for starts, window, side in pairs
        )
        return one.astype(np.float32), other.astype(np.float32)


def _is_pairs_of_labels(pairs: tuple[Any, ...]) -> bool:
    """Whether there are pairs of labels alone, none of which occurs twice."""
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        return False
    labels = [label for pair in pairs for label in pair]
    is_labels = all(type(label) is int and label >= 0 for label in labels)
    return is_labels and len(set(labels)) == len(labels)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(h, w) times a scale, rounded half up; at least 1."""
    height, width = (max(int(side * scale + 0.5), 1) for side in size)
    return height, width


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side; the last one ends where the side does."""
    count = max(side - window + stride - 1, 0) // stride + 1
    ends = (min(k * stride + window, side) for k in range(count))
    return [max(end - window, 0) for end in ends]


def apply_to_window(model: Model, variables: Any, images: jax.Array) -> jax.Array:
    """A segmenter's (b, h', w', classes) logits for images of a window's size.

    Smaller images than its parameters are made for have zeros below and beside them, as in
    training.

    Raises:
        ValueError: if its parameters are made for smaller images.
    """
    try:
        return jnp.asarray(model.apply(variables, images, train=False))
    except (flax.errors.ScopeParamShapeError, ValueError) as error:
        size, own = images.shape[1:3], _own_size(model, variables)
        if own is not None and size != own and size[0] <= own[0] and size[1] <= own[1]:
            padding = ((0, 0), (0, own[0] - size[0]), (0, own[1] - size[1]), (0, 0))
            logits = model.apply(variables, jnp.pad(images, padding), train=False)
            return resized_logits(jnp.asarray(logits), own)[:, : size[0], : size[1]]
        if not isinstance(error, flax.errors.ScopeParamShapeError):
            raise
        whose = "one size" if own is None else f"{own[0]} x {own[1]} pixels"
        raise ValueError(
            f"{type(model).__name__} has parameters for images of {whose}, and not of {size[0]} x "
            f"{size[1]}: larger images are looked at by windows of that size "
            "(config.segment.window, or --window of predict), or resized to it (data.eval_pp)"
        ) from None


def _own_size(model: Model, variables: Any) -> tuple[int, int] | None:
    """(h, w) of the images that a model's parameters are made for; None if it is not known."""
    if model.any_size:
        return None
    try:
        height, width = model.image_size(variables["params"])
    except (KeyError, ValueError):  # they do not say it
        return None
    return height, width


def make_answer(
    model: Model, settings: Mapping[str, Any]
) -> Callable[[Any, Mapping[str, Any]], jax.Array] | None:
    """Makes what a segmenter says to a batch, see `Task.answer`; None if that is plain.

    It is the logits of the windows, (b, h, w, classes), where there is one view; else the logarithm
    of the average probability.

    Raises:
        ValueError: for a setting out of its range.
    """
    looks = Looks.of(settings)
    if looks.is_plain and model.any_size:
        return None

    def answer(variables: Any, batch: Mapping[str, Any]) -> jax.Array:
        images = batch["image"]
        if looks.is_plain:
            return apply_to_window(model, variables, images)
        views = looks.views(images.shape[1:3])
        each = (_look(model, variables, images, view) for view in views)
        if len(views) == 1:
            return next(each)
        total = sum(jax.nn.softmax(logits, axis=-1) for logits in each)
        return jnp.log(jnp.maximum(total / len(views), np.finfo(np.float32).tiny))

    return answer


def _look(model: Model, variables: Any, images: jax.Array, view: View) -> jax.Array:
    """(b, h, w, classes) float32 logits of a view, of the size of the images."""
    size = images.shape[1:3]
    seen = ops.resize_bilinear(images, view.size)
    if view.is_mirrored:
        seen = seen[:, :, ::-1]
    logits = view.unmirrored(_slide(model, variables, seen, view))
    return resized_logits(logits, size)


def _slide(model: Model, variables: Any, images: jax.Array, view: View) -> jax.Array:
    """The mean of the windows' logits at each pixel, (b, h, w, classes)."""

    def logits_at(corner: jax.Array) -> jax.Array:
        top, left = corner
        sizes = (len(images), *view.window, images.shape[-1])
        window = jax.lax.dynamic_slice(images, (0, top, left, 0), sizes)
        return resized_logits(apply_to_window(model, variables, window), view.window)

    corners = np.array([(top, left) for top in view.tops for left in view.lefts], np.int32)
    if len(corners) == 1:
        return logits_at(jnp.asarray(corners[0]))

    def add(total: jax.Array, corner: jax.Array) -> tuple[jax.Array, None]:
        at, logits = (0, corner[0], corner[1], 0), logits_at(corner)
        before = jax.lax.dynamic_slice(total, at, logits.shape)
        return jax.lax.dynamic_update_slice(total, before + logits, at), None

    classes = jax.eval_shape(logits_at, corners[0]).shape[-1]
    zeros = jnp.zeros((len(images), *view.size, classes), jnp.float32)
    total, _ = jax.lax.scan(add, zeros, jnp.asarray(corners))
    rows, columns = view.counts
    return total / (rows[:, None] * columns)[..., None]


# Photos of any size, in bounded memory.

_BAND_VALUES = 2**25  # float32 values of a band of logits, 128 MiB
_MOST_ROWS = 64
_WINDOWS = 4  # that a model gets at once


class BandedSegmenter:
    """Says the class of each pixel of a photo, band by band.

    What it says is what `make_answer` does. A model's logits are kept as they come, often at a
    quarter of the image's size, for the rows of windows that meet a band; at the photo's size there
    are the bands' alone.

    Args:
        model: the segmenter.
        variables: its variables.
        looks: how it looks at an image.
    """

    def __init__(self, model: Model, variables: Any, looks: Looks) -> None:
        self._looks = looks
        self._variables = jax.device_put(variables)
        self._apply = jax.jit(
            lambda *arguments: apply_to_window(model, *arguments).astype(jnp.float32),
            compiler_options=ops.compiler_options(),
        )

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Classes of pixels.

        Args:
            image: (h, w, 3) float32, as it is prepared for the model.
            size: (h, w) of the photo.

        Returns:
            (*size,) int32 class numbers.
        """
        views = self._looks.views(image.shape[:2])
        rows = [_Rows(view, image, size, self._logits) for view in views]
        count = min(_MOST_ROWS, size[0], *(source.most_rows() for source in rows))
        classes = np.empty(size, np.int32)
        for begin in range(0, size[0], count):
            start = min(begin, size[0] - count)  # all of one height, which is compiled once
            if len(rows) == 1:
                band = rows[0].band(start, count)
            else:
                band = sum(_softmax(source.band(start, count)) for source in rows)
            classes[start : start + count] = np.asarray(jnp.argmax(band, axis=-1))
        return classes

    def _logits(self, windows: np.ndarray) -> list[jax.Array]:
        """The logits of windows, each (h', w', classes) float32, a few at a time."""
        found: list[jax.Array] = []
        at_once = min(_WINDOWS, len(windows))
        for begin in range(0, len(windows), at_once):
            some = windows[begin : begin + at_once]
            padding = [(0, at_once - len(some))] + [(0, 0)] * 3
            logits = self._apply(self._variables, np.pad(some, padding))
            found.extend(logits[i] for i in range(len(some)))
        return found


class _Rows:
    """Rows of a photo's logits by one view, from the top down.

    Args:
        view: the view.
        image: (h, w, 3) float32, which it is of.
        size: (h, w) of the photo.
        apply: from (n, *window, 3) windows to the logits of each.
    """

    def __init__(
        self,
        view: View,
        image: np.ndarray,
        size: tuple[int, int],
        apply: Callable[[np.ndarray], list[jax.Array]],
    ) -> None:
        self._view = view
        self._image = image
        self._size = size
        self._apply = apply
        self._waiting = list(view.tops)
        self._kept: dict[int, list[jax.Array]] = {}  # logits of windows, by their top
        self._row_counts, self._column_counts = view.counts

    def most_rows(self) -> int:
        """Rows of the photo that a band may have."""
        if not self._kept:
            self._look_down_to(1)
        classes = next(iter(self._kept.values()))[0].shape[-1]
        per_row = max(self._size[1], self._view.size[1] * self._view.size[0] // self._size[0])
        return max(_BAND_VALUES // (per_row * classes), 1)

    def band(self, start: int, count: int) -> jax.Array:
        """Logits of some rows of the photo, (count, w, classes) float32; none above the last's."""
        height = self._view.size[0]
        upper, lower, share = _taps(start, count, height, self._size[0])
        first = min(int(upper[0]), height - 1)
        needed = min(int(np.ceil(count * height / self._size[0])) + 2, height)
        first = min(first, height - needed)
        self._look_down_to(int(lower[-1]) + 1)
        self._kept = {
            top: kept for top, kept in self._kept.items() if top + self._view.window[0] > first
        }
        seen = self._view.unmirrored(self._seen_rows(first, needed))
        return _resized_band(seen, upper - first, lower - first, share, self._size[1])

    def _look_down_to(self, end: int) -> None:
        """Looks at all windows that begin above a row of the view."""
        height, width = self._view.window
        while self._waiting and self._waiting[0] < end:
            top = self._waiting.pop(0)
            rows = _view_rows(self._view, self._image, top, height)
            windows = np.stack([rows[:, left : left + width] for left in self._view.lefts])
            self._kept[top] = self._apply(windows)

    def _seen_rows(self, first: int, count: int) -> jax.Array:
        """Rows of the view's logits, (count, w, classes): the mean of its windows'."""
        total = None
        height, width = self._view.window
        for top, windows in self._kept.items():
            at = np.arange(first, first + count) - top
            inside = (at >= 0) & (at < height)
            if not inside.any():
                continue
            upper, lower, share = _taps(0, height, windows[0].shape[0], height)
            at = np.clip(at, 0, height - 1)
            for left, logits in zip(self._view.lefts, windows):
                if total is None:
                    total = jnp.zeros((count, self._view.size[1], logits.shape[-1]), jnp.float32)
                total = _add_window(
                    total, logits, upper[at], lower[at], share[at], inside, left, width
                )
        assert total is not None  # windows cover every row
        rows = self._row_counts[first : first + count]
        return _divided(total, rows[:, None] * self._column_counts)


def _view_rows(view: View, image: np.ndarray, top: int, count: int) -> np.ndarray:
    """Some rows of an image as a view has it, (count, w, 3)."""
    if view.size != image.shape[:2]:
        upper, lower, share = _taps(top, count, image.shape[0], view.size[0])
        share = share[:, None, None]
        rows = image[upper] * (1 - share) + image[lower] * share
        upper, lower, share = _taps(0, view.size[1], image.shape[1], view.size[1])
        share = share[:, None]
        rows = rows[:, upper] * (1 - share) + rows[:, lower] * share
    else:
        rows = image[top : top + count]
    return rows[:, ::-1] if view.is_mirrored else rows


def _taps(
    start: int, count: int, length: int, new_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which two old pixels some new ones lie, and the share of the second, float32.

    It is what `ops.resize_bilinear` does to a part of an axis.
    """
    at = (np.arange(start, start + count) + 0.5) * length / new_length - 0.5
    at = np.clip(at, 0, length - 1)
    before = np.floor(at).astype(np.int32)
    after = np.minimum(before + 1, length - 1)
    return before, after, (at - before).astype(np.float32)


@jax.jit
def _softmax(band: jax.Array) -> jax.Array:
    return jax.nn.softmax(band, axis=-1)


@jax.jit
def _divided(total: jax.Array, counts: jax.Array) -> jax.Array:
    return total / counts[..., None]


def _mixed(x: jax.Array, before: Any, after: Any, share: Any, axis: int) -> jax.Array:
    one, other = (jnp.take(x, at, axis, mode="clip") for at in (before, after))
    share = jnp.asarray(share).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return one + share * (other - one)


def _add_window_to(
    total: jax.Array,
    logits: jax.Array,
    before: jax.Array,
    after: jax.Array,
    share: jax.Array,
    inside: jax.Array,
    left: jax.Array,
    width: int,
) -> jax.Array:
    """Adds to (rows, w, classes) logits those of a window, as far as it has these rows."""
    rows = _mixed(logits, before, after, share, 0)
    rows = _mixed(rows, *_taps(0, width, logits.shape[1], width), 1)
    rows = jnp.where(inside[:, None, None], rows, 0)
    old = jax.lax.dynamic_slice(total, (0, left, 0), rows.shape)
    return jax.lax.dynamic_update_slice(total, old + rows, (0, left, 0))


_add_window = jax.jit(_add_window_to, static_argnums=7, donate_argnums=0)


def _resize_rows(
    seen: jax.Array,
    before: jax.Array,
    after: jax.Array,
    share: jax.Array,
    width: int,
) -> jax.Array:
    """Rows of a photo of some width, of the rows of a view that they lie between."""
    return _mixed(_mixed(seen, before, after, share, 0), *_taps(0, width, seen.shape[1], width), 1)


_resized_band = jax.jit(_resize_rows, static_argnums=4)
