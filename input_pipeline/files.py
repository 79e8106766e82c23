"""Image files, found by name and read with Pillow; TensorFlow, slow to import, is not needed."""

import collections
import contextlib
import dataclasses
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

_LOG = logging.getLogger(__name__)

# Of images below the size from which Pillow raises an error.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

LONGEST_JPEG = 65_500  # pixels of a side
READERS = 16  # threads that look through files; they mostly wait for the disk
SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm",
    ".pgm",
)  # fmt: skip
TABLES = (".csv", ".tsv")  # ends of files that say what images show

# Folders that systems and programs leave in those of a person, in lower case.
_SYSTEM_FOLDERS = frozenset(
    ("__macosx", "__pycache__", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",
     "$recycle.bin", "recycler", "system volume information", "lost+found", "temporary items",
     "network trash folder")
)  # fmt: skip
# How a depth map is named after its photo NAME: NAME_depth, and less common ways.
_DEPTH = re.compile(r"(?P<name>.+?)[-_. ]depth([-_ ]?map)?( ?\(?\d+\)?)?", re.IGNORECASE)
_DEPTH_FIRST = re.compile(r"depth([-_ ]?map)?[-_. ](?P<name>.+)", re.IGNORECASE)


def list_files(folder: Path) -> list[Path]:
    """Lists the files in a folder and below it, sorted.

    Links are followed, but not back into a folder that they lie in; one that leads nowhere is
    listed. Hidden files, and whatever lies in hidden folders or those of a system, are left out.

    Args:
        folder: a Path, or an epath.Path, which may be one of a bucket.
    """
    found, left_out = [], []

    def search(folder: Path, above: frozenset[str]) -> None:
        above |= {_real(folder)}
        for path, is_folder in _entries(folder):
            if is_folder and _is_hidden_folder(path.name):
                left_out.append(path)
            elif not is_folder:
                found.extend([] if path.name.startswith(".") else [path])
            elif _real(path) in above:
                _LOG.warning("%s leads to a folder that it lies in, and is not followed", path)
            else:
                search(path, above)

    search(folder, frozenset(map(str, Path(_real(folder)).parents)))
    if left_out:
        names = ", ".join(str(path.relative_to(folder)) for path in sorted(left_out))
        _LOG.info("%s: hidden and system folders are left out: %s", folder, names)
    return sorted(found)


def list_tables(folder: Path) -> list[Path]:
    """The tables in a folder, sorted; none that is hidden."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in TABLES)
    return sorted(path for path in found if not path.name.startswith("."))


def list_folders(folder: Path) -> list[Path]:
    """Lists the folders in a folder, sorted, less hidden ones and those of a system.

    Raises:
        ValueError: for a link that leads nowhere, and has the name of a folder.
    """
    found = []
    for path, is_folder in _entries(folder):
        if is_folder and not _is_hidden_folder(path.name):
            found.append(path)
        elif is_folder and not path.name.startswith("."):
            _LOG.info("%s is taken for a system's folder or a backup, and left out", path)
        elif not is_folder and not path.suffix and not _is_remote(path) and not path.exists():
            raise ValueError(f"{path} is a link that leads nowhere: repair or remove it")
    return sorted(found)


def _is_hidden_folder(name: str) -> bool:
    """Whether a folder is hidden, a backup, or none of a person's own."""
    return name.startswith(".") or name.endswith("~") or name.lower() in _SYSTEM_FOLDERS


def _entries(folder: Path) -> Iterator[tuple[Path, bool]]:
    """The files and folders in a folder, and which of the two each is."""
    if _is_remote(folder):
        for path in folder.iterdir():  # of images it is not asked, which takes a request each
            yield path, not is_image(path) and path.is_dir()
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.is_symlink():
                if os.path.isdir(path) or os.path.isfile(path) or not os.path.exists(path):
                    yield path, os.path.isdir(path)
            elif entry.is_dir() or entry.is_file():
                yield path, entry.is_dir()


def _is_remote(path: Path) -> bool:
    return "://" in os.fspath(path)


def _real(folder: Path) -> str:
    return os.fspath(folder) if _is_remote(folder) else os.path.realpath(folder)


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image."""
    return path.name.lower().endswith(SUFFIXES)


@dataclasses.dataclass(frozen=True)
class Photos:
    """What lies in a folder and below it, for training.

    Attributes:
        images: to learn from, sorted; less depth maps.
        depth: the depth map beside an image, a file of any kind named after it, as NAME_depth.
        others: files that are neither.
    """

    images: list[Path]
    depth: dict[Path, Path]
    others: list[Path]


def find_photos(folder: Path) -> Photos:
    """Looks for images in a folder and below it, see `list_files`.

    Raises:
        ValueError: if the name of an image is not text in one line, or it has two depth maps.
    """
    images: list[Path] = []
    others: list[Path] = []
    for path in (found := list_files(folder)):
        (images if is_image(path) else others).append(path)
    check_names(folder, (os.fspath(path)[len(os.fspath(folder)) :] for path in images))
    by_stem = collections.defaultdict(list)
    maybe = [path for path in found if "depth" in path.name.lower()]
    for path in images if maybe else []:
        by_stem[path.parent, path.stem].append(path)
    depth: dict[Path, Path] = {}
    maps, lone = set(), []
    for path in maybe:
        match = _DEPTH.fullmatch(path.stem)
        match_first = _DEPTH_FIRST.fullmatch(path.stem)
        names = [m["name"] for m in (match, match_first) if m]
        shown = [image for name in names for image in by_stem.get((path.parent, name), [])]
        if not shown:
            is_usual = path.stem.lower().endswith("_depth") and is_image(path)
            lone.extend([path] if is_usual else [])
            continue
        maps.add(path)
        for image in shown:
            if image in depth:
                raise ValueError(f"{image} has two depth maps, {depth[image]} and {path}")
            depth[image] = path
    left_out = maps.union(lone)
    images = [path for path in images if path not in left_out]
    others = [path for path in others if path not in left_out]
    tell_left_out(folder, lone, "depth maps are those of no photo and are left out")
    return Photos(images, depth, others)


def find_photos_alone(folder: Path) -> list[Path]:
    """Lists the images that `find_photos` finds, and says how many depth maps are left out."""
    found = find_photos(folder)
    tell_left_out(folder, found.depth.values(), "depth maps are left out")
    return found.images


def tell_left_out(folder: Path, paths: Collection[Path], what: str) -> None:
    """Warns of files in a folder that are left out, if there are any."""
    if paths:
        name = str(min(paths).relative_to(folder))
        _LOG.warning("%s: %d %s, such as %r", folder, len(paths), what, name)


def check_readable(path: Path) -> None:
    """Decodes an image file; raises a ValueError that names it if that fails."""
    try:
        decode_in_python(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def find_faults(items: Iterable[Any], check: Callable[[Any], Any]) -> dict[Any, str]:
    """Says what is wrong with items, such as image files, of which a check raises a ValueError."""

    def fault(item: Any) -> str | None:
        try:
            check(item)
        except ValueError as error:
            return str(error)
        return None

    with futures.ThreadPoolExecutor(READERS) as pool:
        return {item: why for item, why in zip(items, pool.map(fault, items)) if why is not None}


def without_faults(items: Sequence[Any], check: Callable[[Any], Any], split: str) -> list[Any]:
    """Leaves out the items of a split that `find_faults` finds, and says which.

    Raises:
        ValueError: if none remains.
    """
    faults = find_faults(items, check)
    for why in faults.values():
        _LOG.warning("%s: left out: %s", split, why)
    kept = [item for item in items if item not in faults]
    if not kept:
        raise ValueError(f"{split}: nothing of it can be read")
    return kept


def some(names: Sequence[str], most: int = 10) -> str:
    """Lists names, cut short."""
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def check_names(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Raises a ValueError if a file or folder has a name that cannot be written down in a line."""
    for name in names:
        if not name.isascii() and name.encode(errors="replace").decode() != name:
            raise ValueError(f"{folder} holds the name {name!r}, which is not UTF-8: rename it")
        if name.splitlines() != [name]:
            raise ValueError(
                f"{folder} holds the name {name!r}, which has several lines: rename it"
            )


def read_size(path: str | os.PathLike[str], is_rotated: bool = True) -> tuple[int, int]:
    """(h, w) that an image file has once it is decoded; reads its header alone.

    Args:
        path: of the file.
        is_rotated: whether it is decoded by its EXIF orientation.

    Raises:
        ValueError: if it is no image; the message says what is wrong.
    """
    with opened(path) as image:
        width, height = image.size
        # Pillow turns TIFFs itself.
        turned = is_rotated and image.format != "TIFF"
        turned = turned and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (width, height) if turned else (height, width)


def read_sizes(paths: Sequence[Path], is_rotated: bool = True) -> np.ndarray:
    """(n, 2) heights and widths of image files, from their headers; see `read_size`.

    Raises:
        ValueError: if one cannot be read.
    """

    def size(path: Path) -> tuple[int, int]:
        try:
            return read_size(path, is_rotated)
        except (ValueError, OSError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error

    with futures.ThreadPoolExecutor(READERS) as pool:
        return np.array(list(pool.map(size, paths)))


def decode_in_python(
    data: bytes, deep: bool = False, is_rotated: bool = True, cuts_alpha: bool = False
) -> np.ndarray:
    """Does what `decode` does, with Pillow alone.

    Args:
        data: the bytes of the file.
        deep: whether to do what `decode_deep` does; 16-bit colours are read as 8-bit ones.
        is_rotated: whether by the EXIF orientation.
        cuts_alpha: whether transparent pixels are shown in the colours that they have, not white.

    Returns:
        (h, w, 3) uint8, or uint16 if deep.

    Raises:
        ValueError: if the bytes are not a whole image; the message says what is wrong.
    """
    if not data:
        raise ValueError("the file is empty")
    with opened(io.BytesIO(data)) as image:
        image.load()
        image = ImageOps.exif_transpose(image) if is_rotated else image
        if image.mode.startswith("I"):
            return _grey_to_rgb(image, deep)
        pixels = _to_rgb(image, cuts_alpha)
        return pixels.astype(np.uint16) * 257 if deep else pixels


@contextlib.contextmanager
def opened(file: Any) -> Iterator[Image.Image]:
    """Opens an image with Pillow; whatever is then raised for a damaged one is a ValueError.

    Args:
        file: its path, or a file object of its bytes. A path is closed afterwards, when neither
            pixels nor frames can be read any more; a file object stays open.
    """
    with _damage_as_value_error():
        image = Image.open(file)
        with contextlib.nullcontext() if hasattr(file, "read") else image:
            yield image


@contextlib.contextmanager
def _damage_as_value_error() -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise
    except Image.UnidentifiedImageError:
        raise ValueError("not an image in a format that Pillow reads") from None
    except MemoryError:
        raise
    except (OSError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise ValueError(f"a damaged image ({type(error).__name__}: {error})") from error


def _grey_to_rgb(image: Image.Image, deep: bool) -> np.ndarray:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("an integer image of more than 16 bits; convert it to 8 or 16 first")
    grey = pixels.astype(np.uint16) if deep else ((pixels * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _to_rgb(image: Image.Image, cuts_alpha: bool) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("a floating-point image; convert it to 8 or 16 bits first")
    if image.has_transparency_data and not cuts_alpha:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
