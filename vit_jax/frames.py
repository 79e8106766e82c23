"""A person's frames: pairs of images, folders of numbered ones, and videos, read one by one."""

import contextlib
import dataclasses
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from input_pipeline import files
from vit_jax import in_memory, photos
from vit_jax.tasks import plain
from vit_jax.tasks.base import Item

VIDEOS = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".webm", ".wmv", ".y4m",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame of an item.

    Attributes:
        path: of its file.
        name: what lines call it: its file, and its time in a video.
        inside: the place of its results, less their endings.
        pixels: (h, w, 3) uint8, upright; None if it cannot be read.
        problem: why it cannot; "" if it can.
    """

    path: Path
    name: str
    inside: PurePath
    pixels: np.ndarray | None
    problem: str = ""


# Which are meant.


def find(arguments: Sequence[str | os.PathLike[str]]) -> list[Item]:
    """Finds sequences of frames: what a `Predictor.find` says of a task that looks at several.

    Args:
        arguments: videos; images, of which two that follow each other are a pair; and folders,
            which are searched through for videos, and for images, those of a folder being one
            sequence, or several where their names differ by more than one number.

    Returns:
        An item for each video, whose one path it is, and for each sequence of two images or more.

    Raises:
        ValueError: for a folder without frames, a frame that is missing or alone, names without an
            order, or videos where PyAV is not installed.
    """
    found: list[Item] = []
    first: Path | None = None
    for path in map(Path, arguments):
        if not path.is_dir() and not is_video(path):
            if first is not None:
                found.append(Item((first, path), PurePath(first.name)))
            first = path if first is None else None
            continue
        if first is not None:
            break
        found.extend(_in_folder(path) if path.is_dir() else [_video(path, PurePath(path.name))])
    if first is not None:
        raise ValueError(
            f"{first} is a frame alone: give two of them, a folder of frames, or a video"
        )
    if any(is_video(item.paths[0]) for item in found):
        _import_av()
    return found


def take(things: Sequence[Any]) -> list[Item]:
    """Takes pairs of frames that a program has: what `find` is for files.

    Args:
        things: two images each, see `in_memory.encode`.

    Raises:
        ValueError: for what is no pair, or of videos.
    """
    found = []
    for i, pair in enumerate(things):
        if not isinstance(pair, Sequence) or isinstance(pair, str | bytes) or len(pair) != 2:
            raise ValueError(
                f"flow is from one frame to another: give two images, or a list of pairs, and not "
                f"{in_memory.say(pair)}"
            )
        item = plain.item_of(pair, 2 * i + 1)
        videos = [path for path in item.paths if is_video(path)]
        if videos:
            raise ValueError(
                f"{videos[0]} is a video, for which the command predict is; or give its frames"
            )
        found.append(item)
    return found


def is_video(path: PurePath) -> bool:
    """Whether a file's name is that of a video."""
    return path.name.lower().endswith(VIDEOS)


def places(item: Item) -> list[PurePath]:
    """The place of the results of each frame of images, less their endings."""
    return [item.inside.with_name(path.stem) for path in item.paths]


def place_of_video(item: Item) -> PurePath:
    """The folder of the results of a video."""
    return item.inside.with_suffix("")


def _video(path: Path, inside: PurePath) -> Item:
    return Item((path,), inside, count=None)


def _in_folder(folder: Path) -> list[Item]:
    everything = files.list_files(folder)
    videos = [path for path in everything if is_video(path)]
    images: dict[Path, list[Path]] = defaultdict(list)
    others = []
    for path in everything:
        if files.is_image(path):
            images[path.parent].append(path)
        elif not is_video(path):
            others.append(path)
    files.tell_left_out(folder, others, "files are no frames by their names and are left out")
    if not images and not videos:
        raise ValueError(
            f"folder {folder} holds no frames ({', '.join(files.SUFFIXES)}) and no videos "
            f"({', '.join(VIDEOS)})"
        )
    found = [
        Item(paths, paths[0].relative_to(folder), count=len(paths) - 1)
        for inside in images.values()
        for paths in _sequences(inside)
    ]
    found += [_video(path, path.relative_to(folder)) for path in videos]
    return sorted(found, key=lambda item: item.paths[0])


def _sequences(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """The sequences that the images of a folder are, each in the order of its numbers.

    Of names that differ by numbers alone, the last number that differs is that of the frame; such
    as in 00001_img1, 00001_img2, 00002_img1, which are two sequences.

    Raises:
        ValueError: for a number that is missing or there twice, and for an image alone.
    """
    alike: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path in paths:
        alike[tuple(re.split(r"\d+", path.stem))].append(path)
    found = []
    for group in alike.values():
        numbers = {path: [int(digits) for digits in _digits(path)] for path in group}
        varying = [i for i, values in enumerate(zip(*numbers.values())) if len(set(values)) > 1]
        at = varying[-1] if varying else 0
        sequences: dict[tuple[int, ...], list[Path]] = defaultdict(list)
        for path, own in numbers.items():
            sequences[*own[:at], *own[at + 1 :]].append(path)
        for sequence in sequences.values():
            ordered = sorted(sequence, key=lambda path: numbers[path][at : at + 1])
            _check(ordered, at)
            found.append(tuple(ordered))
    return found


def _digits(path: Path) -> list[str]:
    return re.findall(r"\d+", path.stem)


def _check(ordered: list[Path], at: int) -> None:
    """Raises a ValueError if the numbers at one place of frames' names do not follow each other."""
    folder = ordered[0].parent
    if len(ordered) == 1:
        raise ValueError(
            f"{ordered[0]} is a frame alone: no other file of {folder} has its name with another "
            "number; take it away, or give two files"
        )
    for before, after in itertools.pairwise(ordered):
        one, other = (_digits(path)[at : at + 1] for path in (before, after))
        if not one or int(one[0]) == int(other[0]):
            raise ValueError(
                f"{before} and {after.name} have the same number, or none, and so no order: rename "
                "one, or take it away"
            )
        missing = int(other[0]) - int(one[0]) - 1
        if missing:
            *_, match = zip(range(at + 1), re.finditer(r"\d+", before.stem))
            begin, end = match[1].span()
            number = f"{int(one[0]) + 1:0{len(one[0])}d}"
            name = before.stem[:begin] + number + before.stem[end:] + before.suffix
            raise ValueError(
                f"{folder / name} is missing ({missing} between {before.name} and {after.name}): "
                "add what is missing, or give frames that follow each other alone"
            )


# Reading.


def read(item: Item) -> Iterator[Frame]:
    """Reads an item's frames in their order, one at a time.

    What cannot be read of images, or where a video is damaged, is a frame with a problem.

    Raises:
        ValueError: if a video is none.
        OSError: if it cannot be read.
    """
    if is_video(item.paths[0]):
        yield from _read_video(item)
        return
    for i, (path, place) in enumerate(zip(item.paths, places(item))):
        try:
            pixels = files.decode_in_python(item.read(i))
        except (OSError, ValueError, MemoryError) as error:
            yield Frame(
                path, str(path), place, None, f"cannot read {path}: {photos.explain(error)}"
            )
            continue
        yield Frame(path, str(path), place, pixels)


def _read_video(item: Item) -> Iterator[Frame]:
    av, folder = _import_av(), place_of_video(item)
    (path,) = item.paths
    with contextlib.ExitStack() as stack:
        container = stack.enter_context(av.open(os.fspath(path)))
        if not container.streams.video:
            raise ValueError("it has no pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        places = (folder / f"{number:06d}" for number in itertools.count(1))
        seconds = 0.0
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError as error:  # of this packet, or one that came before
                name = f"{path} after {seconds:.3f} s"
                problem = f"cannot read {name}: {photos.explain(error)}"
                yield Frame(path, name, next(places), None, problem)
                continue
            for frame in decoded:
                seconds = seconds if frame.time is None else frame.time
                yield Frame(path, f"{path} at {seconds:.3f} s", next(places), _upright(frame))


def _upright(frame: Any) -> np.ndarray:
    """The pixels of a video's frame, turned as a player does that of a phone held upright."""
    turns = round(frame.rotation / 90)  # counter-clockwise
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise ValueError(
            "reading videos takes PyAV, which is not installed: pip install 'vit_jax[video]'"
        ) from None
    return av
