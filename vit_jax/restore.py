"""Restores images of any size: whole, whole in bounded memory, or in tiles."""

import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
import psutil
from PIL import Image
from tqdm import tqdm

from checkpoints import files
from vit_jax import ops, photos
from vit_jax.machinery import console

if TYPE_CHECKING:  # it takes seconds to import
    from vit_jax.pretrained import Pretrained

_LOG = logging.getLogger(__name__)

METHODS = ("auto", "whole", "bounded", "tiles")
_BAND_ROWS = 64
_TILE = 512
_SMALLEST_TILE = 64
_OVERLAP = 4  # the part of a tile that it shares with its neighbour is its size by this
_PIXEL_BYTES = 48  # that a result's pixel takes until it is written: some copies in float32
_WORKSPACE = 2  # times what XLA says a program takes: convolutions have room of their own


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

    model: nn.Module
    variables: Mapping[str, Any]
    method: str = "auto"
    tile: int = _TILE
    memory: int | None = None
    ensemble: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; there are: {', '.join(METHODS)}")
        if self.method == "bounded" and not hasattr(self.model, "band_rows"):
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
        return getattr(self.model, "upscale", 1)

    @property
    def _step(self) -> int:
        """What divides the sides of the images that the model gets, and where tiles begin."""
        return getattr(self.model, "tile_multiple", 1)

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
        size = tuple(side + -side % self._step for side in size)
        candidates = ["whole", "bounded"] if hasattr(self.model, "band_rows") else ["whole"]
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
            restored = self._run(method, padded)
        height, width, _ = self._output_shape(image)
        return restored[:height, :width]

    def _tile_side(self) -> int:
        tile = self.tile
        if self.method == "auto":
            while tile // 2 >= _SMALLEST_TILE and not self._fits("whole", (tile, tile)):
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
        for top, left in itertools.product(*starts):
            tile = padded[top : top + sides[0], left : left + sides[1]]
            rows, columns = (
                slice(begin * scale, (begin + side) * scale)
                for begin, side in zip((top, left), sides)
            )
            total[rows, columns] += self._run("whole", tile) * weight
            weights[rows, columns] += weight
        return total / weights

    def _run(self, method: str, image: np.ndarray) -> np.ndarray:
        restored = self._program(method, image.shape[:2])(self.variables, image[None])
        return np.clip(np.asarray(restored[0]), -1, 1)

    def _memory_of(self, method: str, size: tuple[int, int]) -> int:
        analysis = self._program(method, size).memory_analysis()
        sizes = (
            analysis.temp_size_in_bytes,
            analysis.argument_size_in_bytes,
            analysis.output_size_in_bytes,
        )
        return _WORKSPACE * sum(sizes)

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
            bands = {"band_rows": _BAND_ROWS} if method == "bounded" else {}
            apply = jax.jit(
                functools.partial(self.model.clone(**bands).apply, train=False),
                compiler_options=ops.compiler_options(),
            )
            image = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
            self._programs[method, size] = apply.lower(self.variables, image).compile()
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


def name_outputs(
    arguments: Sequence[str], output: Path, compare: Path | None = None
) -> dict[Path, Path]:
    """Says where the restored images go: those of a folder keep their place in it.

    Args:
        arguments: files and folders.
        output: folder for the results.
        compare: folder for pictures of each image before and after, or None.

    Returns:
        Output by input.

    Raises:
        ValueError: if two would get the same name, or a file is there already.
    """
    named: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for argument in map(Path, arguments):
        for path in photos.find_images([str(argument)]):
            target = output / (path.relative_to(argument) if argument.is_dir() else path.name)
            if target in taken and taken[target] != path:
                raise ValueError(f"{taken[target]} and {path} would both be written to {target}")
            named[path], taken[target] = target, path
    targets = [*taken]
    if compare is not None:
        targets += [_compared(target, output, compare) for target in taken]
        if len(set(targets)) < len(targets):
            raise ValueError(f"a result would be written to {compare}: leave --compare out")
    there = [str(target) for target in targets if target.exists()]
    if there:
        raise ValueError(
            f"{len(there)} of the results are there already, such as {there[0]}: choose another "
            "--output, or remove them"
        )
    return named


def _compared(target: Path, output: Path, compare: Path) -> Path:
    """Where the picture of an image before and after goes."""
    inside = target.relative_to(output)
    return compare / inside.with_name(files.with_ending(inside.name, ".png"))


def restore_files(
    restorer: Restorer, named: Mapping[Path, Path], output: Path, compare: Path | None = None
) -> list[str]:
    """Restores image files.

    Args:
        restorer: does it.
        named: output by input, from `name_outputs`, as are the rest.
        output: folder for the results.
        compare: folder for pictures of each image before and after, or None.

    Returns:
        What went wrong, a line per file that was not restored, or not compared.
    """
    problems = []
    for path, target in console.progress(named.items(), unit="image", disable=len(named) == 1):
        begin, method, doing = time.monotonic(), restorer.method, "restore"
        try:
            photo = photos.read(path)
            method = restorer.method_for(photo.pixels.shape[:2])
            if method == "tiles" and restorer.method == "auto":
                _LOG.warning("%s is too large for the memory: tiles give another result", path)
            if (
                getattr(restorer.model, "in_channels", 3) == 1
                and np.ptp(photo.pixels, axis=-1).any()
            ):
                _LOG.warning("%s has colours, which this model for grey images takes off it", path)
            restored = restorer(photo.pixels)
            _write(target, photo.encode(restored))
            if compare is not None:
                doing = "compare"
                picture = _compared(target, output, compare)
                picture.parent.mkdir(parents=True, exist_ok=True)
                with files.written_whole(picture) as partial:
                    _draw_comparison(photo.pixels, restored).save(partial, "PNG")
        except jax.errors.JaxRuntimeError as error:
            problems.append(f"cannot restore {path} by method {method}: {error}".splitlines()[0])
            continue
        except Exception as error:  # whatever one file does, the others are restored
            problems.append(f"cannot {doing} {path}: {photos.explain(error)}")
            continue
        height, width = restored.shape[:2]
        seconds = time.monotonic() - begin
        tqdm.write(f"{path} -> {target} ({width} x {height}, {method}, {seconds:.1f} s)")
    return problems


def _draw_comparison(before: np.ndarray, after: np.ndarray) -> Image.Image:
    """Both images side by side, the first as large as the second."""
    height, width = after.shape[:2]
    picture = Image.new("RGB", (2 * width, height))
    picture.paste(Image.fromarray(photos.show(before)).resize((width, height), Image.BICUBIC))
    picture.paste(Image.fromarray(photos.show(after)), (width, 0))
    return picture


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.written_whole(path) as partial:
        partial.write_bytes(data)


def make_restorer(pretrained: "Pretrained", **options: Any) -> Restorer:
    """Makes a restorer of a model, see `pretrained.load`; the options are its attributes.

    Raises:
        ValueError: if the model does not restore images, or an option does not fit.
    """
    if pretrained.model.predicts != "target":
        raise ValueError(f"{pretrained.name} does not restore images")
    return Restorer(pretrained.model, jax.device_put(pretrained.variables), **options)
