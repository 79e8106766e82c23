"""Says and draws how things move in a person's frames and videos."""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints import files as names
from input_pipeline import flow_files
from vit_jax import flow_pictures, flow_tiles, frames, ops, photos, warm_start
from vit_jax.flow_colours import flow_to_colours
from vit_jax.frames import Frame
from vit_jax.tasks.base import Answer, Item, Pretrained

_LOG = logging.getLogger(__name__)

FORMATS = ("flo", "kitti")
_KITTI_LONGEST = 512  # pixels to either side
_MOST_AT_ONCE = 2**19  # pixels of a frame that is looked at whole: memory grows by their square
_TILE = (432, 960)  # of larger frames, about: what FlowFormer is trained on
_LARGER = 1.1  # times that tiles may be, where fewer of them will do
# Pixels that neighbours have in common, and how gently they are blended. The published 20 and 0.05
# show seams, since a flow is poor near the border of its tile.
_OVERLAP, _SIGMA = 64, 0.08
_STEP = 8  # pixels of the coarse grid, in which a warm start is given


@dataclasses.dataclass(frozen=True)
class Settings:
    """How flow is estimated, and what is written of it.

    Attributes:
        format: of the files, one of `FORMATS`.
        max_flow: pixels that have full colours; None is the longest of each picture.
        compare: whether frames, flow, and the second frame moved back are drawn side by side.
        warm_start: whether the search begins with the flow of the two frames before.
        tile: side of the tiles in pixels; 0 is the whole frame; None is what the run says, or else
            the frame's size.

    Raises:
        ValueError: for an unknown format, or a number out of its range.
    """

    format: str = "flo"
    max_flow: float | None = None
    compare: bool = False
    warm_start: bool = False
    tile: int | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"--format must be one of {', '.join(FORMATS)}, not {self.format!r}")
        if self.max_flow is not None and not 0 < self.max_flow < np.inf:
            raise ValueError(f"--max_flow must be a positive number of pixels, not {self.max_flow}")
        if self.tile is not None and self.tile != 0 and self.tile <= _OVERLAP:
            raise ValueError(
                f"--tile must have more than the {_OVERLAP} pixels that neighbours have in common, "
                f"or be 0 for the whole frame, not {self.tile}"
            )


# Frames of any size, in bounded memory.


class FlowEstimator:
    """Estimates the flow between frames, one tile after the other.

    Args:
        pretrained: the model.
        tile: see `Settings`.
        warm_start: the same.

    Raises:
        ValueError: for a setting of the run that does not fit.
    """

    def __init__(
        self, pretrained: Pretrained, tile: int | None = None, warm_start: bool = False
    ) -> None:
        self._side = tile
        self._tile_of_run = flow_tiles.tile_in(pretrained.settings)
        self._is_warm = warm_start
        self._grids: list[np.ndarray] = []  # the last flow of each tile, where starts are warm
        self._variables = jax.device_put(pretrained.variables)
        model = flow_tiles.iterated(pretrained.model, pretrained.settings)

        @functools.partial(jax.jit, static_argnames="low", compiler_options=ops.compiler_options())
        def apply(variables: Any, *pair: jax.Array, **how: Any) -> Any:
            images = (frame[None] / jnp.float32(127.5) - 1 for frame in pair)
            return model.apply(variables, *images, train=False, **how)

        self._apply: Callable[..., Any] = apply

    def tiling(self, size: tuple[int, int]) -> flow_tiles.Tiling:
        """The tiles by which a frame of (h, w) is looked at; one if it is looked at whole.

        A frame that is smaller than tiles that were said is made as large, as in evaluation.
        """
        height, width = size
        overlap, sigma = _OVERLAP, _SIGMA
        if self._side:
            tile = self._side, self._side
        elif self._side is None and self._tile_of_run is not None:
            tile, overlap, sigma = self._tile_of_run, flow_tiles.OVERLAP, flow_tiles.SIGMA
        elif self._side is None and height * width > _MOST_AT_ONCE:
            tile = _even(height, _TILE[0]), _even(width, _TILE[1])
        else:
            return flow_tiles.Tiling(size, size, overlap=0)
        larger = max(height, tile[0]), max(width, tile[1])
        return flow_tiles.Tiling(larger, tile, overlap, sigma)

    def __call__(self, first: np.ndarray, second: np.ndarray, goes_on: bool = False) -> np.ndarray:
        """Estimates a flow.

        Args:
            first: (h, w, 3) uint8.
            second: the same.
            goes_on: whether `first` was `second` in the call before, for a warm start.

        Returns:
            (h, w, 2) float32 pixels.

        Raises:
            ValueError: if what comes are no numbers.
        """
        height, width = first.shape[:2]
        tiling = self.tiling((height, width))
        before = iter(self._grids if goes_on else ())
        self._grids = []
        below, beside = tiling.size[0] - height, tiling.size[1] - width
        one, other = (np.pad(x, ((0, below), (0, beside), (0, 0))) for x in (first, second))
        flow = np.zeros((*tiling.size, 2), np.float32)
        for (top, left), weight in zip(tiling.corners, tiling.weights):
            at = (slice(top, top + tiling.tile[0]), slice(left, left + tiling.tile[1]))
            found = self._look(one[at], other[at], next(before, None))
            flow[at] += weight[..., None] * found
        if not np.isfinite(flow).all():
            raise ValueError("what the model says are no numbers")
        return flow[:height, :width]

    def _look(self, first: np.ndarray, second: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        """The flow of a tile, (h, w, 2); `before` is its coarse flow in the frames before."""
        if not self._is_warm:
            return np.asarray(self._apply(self._variables, first, second)[0])
        if before is None:
            begin = np.zeros((*(-(-side // _STEP) for side in first.shape[:2]), 2), np.float32)
        else:
            begin = warm_start.forward_interpolate(before)
        flow, grid = self._apply(self._variables, first, second, initial=begin[None], low=True)
        self._grids.append(np.asarray(grid[0]))
        return np.asarray(flow[0])


def _even(side: int, about: int) -> int:
    """Pixels of as few tiles as cover a frame's side, all of one length, which is about as said."""
    count = max(math.ceil((side - _OVERLAP) / (_LARGER * about - _OVERLAP)), 1)
    tile = math.ceil((side + (count - 1) * _OVERLAP) / count / _STEP) * _STEP
    return max(min(tile, side), _OVERLAP + 1)


# Files.


class FlowPredictor:
    """Says how things move from frame to frame.

    Args:
        pretrained: the model.
        settings: how it is estimated, and what is written.
        output: folder for the results, as the answers say it; None if nothing is written.

    Raises:
        ValueError: for settings that do not fit.
    """

    header = ()
    has_files = True
    find = staticmethod(frames.find)
    take = staticmethod(frames.take)

    def __init__(
        self, pretrained: Pretrained, settings: Settings = Settings(), output: Path | None = None
    ) -> None:
        self._estimate = FlowEstimator(pretrained, settings.tile, settings.warm_start)
        self._settings = settings
        self._output = output

    def outputs(self, item: Item) -> Sequence[PurePath]:
        if frames.is_video(item.paths[0]):
            folder = frames.place_of_video(item)
            return [folder, "compare" / folder] if self._settings.compare else [folder]
        return [file for place in frames.places(item)[:-1] for file in self._files(place)]

    def _files(self, place: PurePath) -> list[PurePath]:
        """Where the flow from a frame goes, its colours, and what compares it, if that is drawn."""
        endings = [".flo" if self._settings.format == "flo" else ".png", "_flow.png"]
        found = [place.with_name(names.with_ending(place.name, ending)) for ending in endings]
        if self._settings.compare:
            found.append("compare" / place.with_name(names.with_ending(place.name, ".png")))
        return found

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        for item in items:
            try:
                yield from self._follow(item)
            except Exception as error:  # whatever one video does, the others get an answer
                (path, *_) = item.paths
                yield Answer(path, problems=(f"cannot read {path}: {photos.explain(error)}",))

    def _follow(self, item: Item) -> Iterator[Answer]:
        """Answers for each frame of an item and the one after it."""
        before: Frame | None = None
        is_alone, goes_on = True, False
        for frame in frames.read(item):
            if before is not None:
                is_alone = False
                answer = self._answer(before, frame, goes_on)
                goes_on = answer.value is not None
                yield answer
            before = frame
        if is_alone:
            raise ValueError("it has no frames" if before is None else "it has one frame alone")

    def _answer(self, first: Frame, second: Frame, goes_on: bool) -> Answer:
        begin = time.monotonic()
        pair = f"from {first.name} to {second.name}"
        try:
            pixels = _pixels_of(first, second)
            flow = self._estimate(*pixels, goes_on)
            written = {} if self._output is None else self._encode(first, flow)
        except Exception as error:  # whatever one frame does, the others get an answer
            problem = f"cannot tell the flow {pair}: {photos.explain(error)}"
            return Answer(first.path, problems=(problem,))
        seconds = time.monotonic() - begin
        problems: tuple[str, ...] = ()
        target, _, *compared = self._files(first.inside)
        for file in compared if self._output is not None else ():
            try:
                picture = flow_pictures.draw_comparison(*pixels, flow, self._settings.max_flow)
                written[file] = flow_pictures.encode_png(picture)
            except Exception as error:  # the flow is known all the same
                problems = (f"cannot draw the flow {pair}: {photos.explain(error)}",)
        lengths = np.linalg.norm(flow, axis=-1)
        count = len(self._estimate.tiling(flow.shape[:2]).corners)
        how = "whole" if count == 1 else f"{count} tiles"
        line = (
            f"{first.name} -> {(self._output or Path()) / target} ({flow.shape[1]} x "
            f"{flow.shape[0]}, {how}, {seconds:.1f} s): moves by "
            f"{lengths.mean(dtype=np.float64):.2f} pixels on average, {lengths.max():.2f} at most"
        )
        return Answer(first.path, line, files=written, problems=problems, value=flow)

    def _encode(self, first: Frame, flow: np.ndarray) -> dict[PurePath, bytes]:
        """The files of a flow and of its colours."""
        target, colours, *_ = self._files(first.inside)
        picture = flow_pictures.encode_png(flow_to_colours(flow, self._settings.max_flow))
        if self._settings.format == "flo":
            return {target: flow_files.encode_flo(flow), colours: picture}
        if np.abs(flow).max() > _KITTI_LONGEST:
            _LOG.warning(
                "%s moves by more than %d pixels, which a PNG of KITTI's cannot hold: it is cut",
                first.name, _KITTI_LONGEST,
            )  # fmt: skip
        return {target: flow_files.encode_kitti_png(flow), colours: picture}


def _pixels_of(first: Frame, second: Frame) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of two frames; raises a ValueError if there are none, or their sizes differ."""
    pair = []
    for frame in (first, second):
        if frame.pixels is None:
            raise ValueError(frame.problem)
        pair.append(frame.pixels)
    if pair[0].shape != pair[1].shape:
        sizes = (f"{pixels.shape[1]} x {pixels.shape[0]}" for pixels in pair)
        raise ValueError(f"their sizes differ, {' and '.join(sizes)} pixels")
    return pair[0], pair[1]
