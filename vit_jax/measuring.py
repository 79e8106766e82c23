"""Measures images beside others, in threads: results and truths, fused images and their sources.

Figures are computed on CPUs in double precision, by programs that are compiled once a size.
"""

import collections
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from PIL import Image

from input_pipeline import files
from input_pipeline.sources import pairs
from vit_jax import ahead, fusion_quality, image_quality, photos

_SHARE_OF_MEMORY = 0.5  # of what is available, that programs may take together


@dataclasses.dataclass(frozen=True)
class Found:
    """What is to be measured.

    Attributes:
        words: how many there are of what, and how they were found.
        items: each an image, and its truth or its sources.
        problems: what has no partner.
    """

    words: str
    items: tuple[tuple[Path, ...], ...]
    problems: tuple[str, ...] = ()


def find_with_truths(results: Path, truth: Path, pattern: str = "") -> Found:
    """Finds results and their truths; see `pairs.find_truths` for the arguments and errors."""
    split = pairs.find_truths(results, truth, pattern)
    items = tuple((pair.input, pair.target) for pair in split.pairs)
    words = f"{_count(items, 'image')} of {results} with {truth}, by {split.layout}"
    return Found(words, items, tuple(_without_partner(split.orphans, results, truth)))


def find_with_sources(fused: Path, sources: Sequence[Path], pattern: str = "") -> Found:
    """Finds fused images and both of their sources; see `pairs.find_truths`."""
    splits = [pairs.find_truths(fused, source, pattern) for source in sources]
    a, b = ({pair.input: pair.target for pair in split.pairs} for split in splits)
    items = tuple((path, a[path], b[path]) for path in a if path in b)
    problems = dict.fromkeys(
        problem
        for split, source in zip(splits, sources)
        for problem in _without_partner(split.orphans, fused, source)
    )
    layouts = " and ".join(dict.fromkeys(split.layout for split in splits))
    words = f"{_count(items, 'image')} of {fused} with {sources[0]} and {sources[1]}, by {layouts}"
    return Found(words, items, tuple(problems))


def find_alone(folder: Path) -> Found:
    """Finds the images of a folder, or takes a file.

    Raises:
        ValueError: if there are none.
    """
    images = (
        files.find_photos_alone(folder) if folder.is_dir() else photos.find_images([str(folder)])
    )
    if not images:
        raise ValueError(f"folder {folder} holds no images ({', '.join(files.SUFFIXES)})")
    return Found(f"{_count(images, 'image')} of {folder}", tuple((path,) for path in images))


def _count(things: Sequence[Any], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def _without_partner(orphans: Iterable[Path], folder: Path, others: Path) -> Iterator[str]:
    for path in orphans:
        yield f"{path} has no partner in {folder if path.is_relative_to(others) else others}"


def read_with_truth(item: Sequence[Path], scale: int = 1) -> tuple[np.ndarray, ...]:
    """(h, w, 3) uint8 of a result and of its truth; see `pairs.read_result`.

    Raises:
        ValueError: if they cannot be read, or differ in size.
    """
    result, truth = item
    try:
        return pairs.read_result(pairs.Pair(result, truth, ""), scale)
    except pairs.SizeMismatchError as error:
        raise ValueError(f"the truth has another size: {error}") from error
    except pairs.UnreadableError as error:
        raise ValueError(f"cannot read {error}") from error


def read_grey(item: Sequence[Path]) -> tuple[np.ndarray, ...]:
    """(h, w) uint8 of images, of which colours are made grey as Pillow does.

    Raises:
        ValueError: if one cannot be read, or they differ in size.
    """
    decoded = []
    for path in item:
        try:
            pixels = files.decode_in_python(path.read_bytes())
        except (ValueError, OSError) as error:
            raise ValueError(f"cannot read {path} ({photos.explain(error)})") from error
        decoded.append(np.asarray(Image.fromarray(pixels).convert("L")))
    if len({pixels.shape for pixels in decoded}) > 1:
        sizes = [f"{path} ({x.shape[0]} x {x.shape[1]})" for path, x in zip(item, decoded)]
        raise ValueError(f"sizes differ: {', '.join(sizes)}")
    return tuple(decoded)


Figures = dict[str, jax.Array]


def by_protocol(protocol: str, scale: int = 1) -> list[Callable[..., Figures]]:
    """Makes what computes the figures of a result and its truth, see `image_quality.all_figures`.

    Raises:
        ValueError: for an unknown protocol, or a scale above 1 that it does not know.
    """
    border = scale if scale > 1 else 0
    compute = functools.partial(image_quality.all_figures, protocol, border=border)
    jax.eval_shape(compute, *2 * [jax.ShapeDtypeStruct((1, 256, 256, 3), np.float32)])  # or raises

    def figures(*images: jax.Array) -> Figures:
        found = compute(*(x[None].astype(float) / 127.5 - 1 for x in images))
        found.setdefault("ms_ssim", jnp.array([jnp.nan]))  # of small images
        return {f"{protocol}/{name}": value[0] for name, value in found.items()}

    return [figures]


_OF_ONE: dict[str, Callable[..., jax.Array]] = {
    "EN": fusion_quality.entropy,
    "SF": fusion_quality.spatial_frequency,
    "SD": fusion_quality.standard_deviation,
    "AG": fusion_quality.average_gradient,
}
_OF_FUSION: dict[str, Callable[..., jax.Array]] = {
    "MI": fusion_quality.mutual_information,
    "CC": fusion_quality.correlation,
    "SCD": fusion_quality.sum_of_correlations_of_differences,
    "VIF": fusion_quality.visual_information_fidelity,
    "Qabf": fusion_quality.edge_preservation,
    "Nabf": fusion_quality.fusion_artifacts,
}


def of_fusion(has_sources: bool = True) -> list[Callable[..., Figures]]:
    """Makes what computes the figures of a fused image and its sources, or of an image alone.

    Each is a program of its own: XLA would compute parts of one that has all of them repeatedly.
    """

    def alone(name: str, image: jax.Array, *sources: jax.Array) -> Figures:
        del sources
        return {name: _OF_ONE[name](image)}

    def beside(name: str, *images: jax.Array) -> Figures:
        if name == "VIF" and min(images[0].shape) < fusion_quality.SMALLEST_FOR_VIF:
            return {name: jnp.array(jnp.nan)}
        return {name: _OF_FUSION[name](*images)}

    computed: list[Callable[..., Figures]] = [functools.partial(alone, name) for name in _OF_ONE]
    return computed + [functools.partial(beside, name) for name in _OF_FUSION if has_sources]


class Meter:
    """Measures an item, in any of several threads.

    Args:
        read: from an item to its images, arrays of one size.
        compute: functions of these, which can be compiled; each returns figures by name.
    """

    def __init__(
        self,
        read: Callable[[Sequence[Path]], tuple[np.ndarray, ...]],
        compute: Sequence[Callable[..., Figures]],
    ) -> None:
        self._read = read
        self._compute = compute
        self._lock = threading.Lock()
        self._locks: dict[Any, threading.Lock] = collections.defaultdict(threading.Lock)
        self._programs: dict[Any, Any] = {}
        self._room = _Room(int(psutil.virtual_memory().available * _SHARE_OF_MEMORY))

    def __call__(self, item: Sequence[Path]) -> dict[str, float]:
        """The figures of an item; NaN where one is not defined, of images too small, say."""
        images = self._read(item)
        figures: dict[str, float] = {}
        with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
            for number in range(len(self._compute)):
                program = self._program(number, images)
                with self._room.taken(program.memory_analysis().temp_size_in_bytes):
                    found = jax.device_get(program(*images))
                figures |= {name: float(value) for name, value in found.items()}
        return figures

    def _program(self, number: int, images: tuple[np.ndarray, ...]) -> Any:
        key = number, images[0].shape
        with self._lock:
            lock = self._locks[key]
        with lock:  # so that nobody else compiles the same
            if key not in self._programs:
                lowered = jax.jit(self._compute[number]).lower(*images)
                self._programs[key] = lowered.compile()
            return self._programs[key]


class _Room:
    """Lets threads take memory, as long as there is enough for them together.

    Args:
        size: in bytes; a thread that wants more waits until it is alone.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._size)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


def measured(
    items: Sequence[tuple[Path, ...]], meter: Meter
) -> Iterator[tuple[tuple[Path, ...], dict[str, float] | Exception]]:
    """Each item in turn, with its figures or the exception that it raised."""
    yield from ahead.prepared(items, meter)
