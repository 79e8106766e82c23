"""Restores images of any size: whole, whole in bounded memory, or in tiles."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import psutil
from jax.sharding import PartitionSpec

from input_pipeline.arguments import unknown
from vit_jax import ops
from vit_jax.machinery import sharding
from vit_jax.models.base import Model
from vit_jax.options import METHODS

_PART_SIDE = 256
_TILE = 512
_SMALLEST_TILE = 64
_OVERLAP = 4  # the part of a tile that it shares with its neighbour is its size by this
_PIXEL_BYTES = 48  # that a result's pixel takes until it is written: some copies in float32
# Times what XLA says a program takes: convolutions have room of their own.
_WORKSPACE, _WORKSPACE_OF_PARTS = 2.0, 1.25


@dataclasses.dataclass(frozen=True)
class Restorer:
    """Restores images with a model.

    The model may use statistics of the whole image, as DehazeFormer does. "whole" and "bounded"
    give the same image; "tiles" gives another, since each tile has statistics of its own. Without
    such statistics, tiles differ by what lies beyond their borders alone.

    Attributes:
        model: from (b, h, w, 3) to the same, or some times as high and wide, in [-1, 1].
        variables: its variables.
        method: one of METHODS; "auto" takes "whole" if there is memory for it, else "bounded", and
            "tiles" only if there is none for that either, or the model cannot.
        tile: side of a tile in pixels; "auto" takes smaller ones if there is too little memory.
        memory: bytes that may be used; None for what is available.
        ensemble: whether to average over the image's eight rotations and reflections.
    """

    model: Model
    variables: Mapping[str, Any]
    method: str = "auto"
    tile: int = _TILE
    memory: int | None = None
    ensemble: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(unknown("method", self.method, METHODS))
        if self.method == "bounded" and not self.model.has_field("part_side"):
            raise ValueError(f"{type(self.model).__name__} has no bounded mode; use tiles")
        if self.memory is not None and self.memory <= 0:
            raise ValueError(f"memory must be positive, not {self.memory}")
        if self.tile < _SMALLEST_TILE:
            raise ValueError(f"a tile must have at least {_SMALLEST_TILE} pixels, not {self.tile}")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Restores an (h, w, 3) float32 image in [-1, 1]; so is the result, but for its size.

        Raises:
            ValueError: if the image is too small for the model, or the result too large for the
                memory.
        """
        self._check_room(image.shape[:2])
        if not self.ensemble:
            return self._restore(image)
        total = np.zeros(self._output_shape(image), np.float32)
        for turns, flips in itertools.product(range(4), (False, True)):
            turned = np.rot90(image[:, ::-1] if flips else image, turns)
            restored = np.rot90(self._restore(np.ascontiguousarray(turned)), -turns)
            total += restored[:, ::-1] if flips else restored
        return total / 8

    @property
    def upscale(self) -> int:
        """How many times as high and as wide the result is."""
        return self.model.upscale

    @property
    def _step(self) -> int:
        """What divides the sides of the images that the model gets, and where tiles begin."""
        return self.model.tile_multiple

    def _output_shape(self, image: np.ndarray) -> tuple[int, int, int]:
        height, width, channels = image.shape
        return height * self.upscale, width * self.upscale, channels

    def _check_room(self, size: tuple[int, int]) -> None:
        height, width = (side * self.upscale for side in size)
        needed = height * width * _PIXEL_BYTES
        available = psutil.virtual_memory().available
        if needed > available:
            raise ValueError(
                f"the result would have {width:,} x {height:,} pixels, which take about "
                f"{needed / 2**30:,.1f} GiB of memory, and {available / 2**30:,.1f} GiB are "
                "available: cut the image into parts"
            )

    def method_for(self, size: tuple[int, int]) -> str:
        """The method, other than "auto", by which an image of (h, w) pixels is restored.

        Raises:
            ValueError: if the result is too large for the memory by any.
        """
        self._check_room(size)
        if self.method != "auto":
            return self.method
        size = (size[0] + -size[0] % self._step, size[1] + -size[1] % self._step)
        candidates = ["whole", "bounded"] if self.model.has_field("part_side") else ["whole"]
        for method in candidates:
            if self._fits(method, size):
                return method
        return "tiles"

    def _fits(self, method: str, size: tuple[int, int]) -> bool:
        return self._memory_of(method, size) <= self._available()

    def _restore(self, image: np.ndarray) -> np.ndarray:
        # To whole windows, as the model itself would do, of images of any size.
        padding = [(0, -side % self._step) for side in image.shape[:2]]
        padded = np.pad(image, (*padding, (0, 0)), "reflect")
        method = self.method_for(padded.shape[:2])
        if method == "tiles":
            restored = self._restore_in_tiles(padded)
        else:
            (restored,) = self._run(method, padded[None])
        height, width, _ = self._output_shape(image)
        return restored[:height, :width]

    def _tile_side(self) -> int:
        tile = self.tile
        if self.method == "auto":
            while tile // 2 >= _SMALLEST_TILE and not self._fits("tiles", (tile, tile)):
                tile //= 2
        return tile

    def _restore_in_tiles(self, padded: np.ndarray) -> np.ndarray:
        """Tiles begin and end where windows do, so that they have those of the whole image."""
        scale, step = self.upscale, self._step
        longest = self._tile_side() // step * step
        sides = [min(side, longest) for side in padded.shape[:2]]
        starts = [_tile_starts(*pair, step) for pair in zip(padded.shape[:2], sides)]
        feathers = [_feather(side * scale) for side in sides]
        weight = (feathers[0][:, None] * feathers[1])[..., None]
        total = np.zeros(self._output_shape(padded), np.float32)
        weights = np.zeros_like(total[..., :1])
        corners = list(itertools.product(*starts))
        tiles = [padded[y : y + sides[0], x : x + sides[1]] for y, x in corners]
        for (top, left), tile in zip(corners, self._restore_tiles(tiles)):
            rows, columns = (
                slice(begin * scale, (begin + side) * scale)
                for begin, side in zip((top, left), sides)
            )
            total[rows, columns] += tile * weight
            weights[rows, columns] += weight
        return total / weights

    def _restore_tiles(self, tiles: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Restores tiles of one size, at a time one on each of this process's devices."""
        devices = jax.local_device_count()
        for i in range(0, len(tiles), devices):
            some = tiles[i : i + devices]
            filled = np.stack([*some, *[some[0]] * (devices - len(some))])
            yield from self._run("tiles", filled)[: len(some)]

    def _run(self, method: str, images: np.ndarray) -> np.ndarray:
        variables = self._copies if method == "tiles" else self.variables
        restored = self._program(method, images.shape[1:3])(variables, images)
        return np.clip(np.asarray(restored), -1, 1)

    @functools.cached_property
    def _copies(self) -> Any:
        """The variables on each of this process's devices."""
        return jax.device_put(self.variables, sharding.local_copies())

    def _memory_of(self, method: str, size: tuple[int, int]) -> int:
        analysis = self._program(method, size).memory_analysis()
        sizes = (
            analysis.temp_size_in_bytes,
            analysis.argument_size_in_bytes,
            analysis.output_size_in_bytes,
        )
        is_shared = method == "tiles" and jax.default_backend() == "cpu"
        programs = jax.local_device_count() if is_shared else 1
        workspace = _WORKSPACE_OF_PARTS if method == "bounded" else _WORKSPACE
        return int(workspace * sum(sizes)) * programs

    def _available(self) -> int:
        if self.memory is not None:
            return self.memory
        stats = jax.local_devices()[0].memory_stats()
        if stats and "bytes_limit" in stats:
            return stats["bytes_limit"] - stats["bytes_in_use"]
        return psutil.virtual_memory().available

    @functools.cached_property
    def _programs(self) -> dict[tuple[str, tuple[int, int]], Any]:
        return {}

    def _program(self, method: str, size: tuple[int, int]) -> Any:
        if (method, size) not in self._programs:
            parts: dict[str, Any] = {"part_side": _PART_SIDE} if method == "bounded" else {}
            apply = functools.partial(self.model.clone(**parts).apply, train=False)
            shape, variables, rows = (1, *size, 3), self.variables, None
            if method == "tiles":
                shape, variables = (jax.local_device_count(), *size, 3), self._copies
                rows = sharding.local_rows()
                specs = PartitionSpec(), rows.spec
                apply = jax.shard_map(
                    apply, mesh=rows.mesh, in_specs=specs, out_specs=rows.spec, check_vma=False
                )  # of which Pallas's kernels know nothing
            images = jax.ShapeDtypeStruct(shape, np.float32, sharding=rows)
            program = jax.jit(apply, compiler_options=ops.compiler_options())
            self._programs[method, size] = program.lower(variables, images).compile()
        return self._programs[method, size]


def _tile_starts(side: int, tile: int, multiple: int = 1) -> list[int]:
    """Where tiles begin that cover a side and overlap by about a share of their size or more.

    All three are divisible by `multiple`: the side, the tile, and where it begins.
    """
    if side <= tile:
        return [0]
    step = tile - tile // _OVERLAP
    count = -(-(side - tile) // step) + 1
    starts = (i * (side - tile) / (count - 1) for i in range(count))
    return [round(start / multiple) * multiple for start in starts]


def _feather(side: int) -> np.ndarray:
    """(side,) weights of a tile's pixels, less towards its edges."""
    distance = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1))
    return np.minimum(distance / max(side // _OVERLAP, 1), 1).astype(np.float32)
