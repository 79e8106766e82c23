"""Image files, found by name and read with Pillow; TensorFlow, slow to import, is not needed."""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

_LOG = logging.getLogger(__name__)

READERS = 16  # threads that look through files; they mostly wait for the disk
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def find_images(folder: Path, pattern: str, any_name: bool = False) -> list[Path]:
    """Lists the image files of a folder, sorted; hidden ones are left out.

    Raises:
        ValueError: if a name is not text in one line, unless any name will do.
    """
    found = sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not any_name:
        check_names(folder, (str(path.relative_to(folder)) for path in found))
    return found


def find_some_images(folder: Path) -> list[Path]:
    """Lists the image files in a folder and below it, sorted.

    Raises:
        ValueError: if there are none, or a name is not text in one line.
    """
    found = find_images(folder, "**/*")
    if not found:
        raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    return found


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


def check_names(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Raises a ValueError if a file or folder has a name that cannot be written down in a line."""
    for name in names:
        if not name.isascii() and name.encode(errors="replace").decode() != name:
            raise ValueError(f"{folder} holds the name {name!r}, which is not UTF-8: rename it")
        if name.splitlines() != [name]:
            raise ValueError(
                f"{folder} holds the name {name!r}, which has several lines: rename it"
            )


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(h, w) that an image file has once it is decoded; reads its header alone.

    Raises:
        ValueError: if it is no image; the message says what is wrong.
    """
    with opened(path) as image:
        width, height = image.size
        # Pillow turns TIFFs itself.
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned = orientation >= 5 and image.format != "TIFF"
    return (width, height) if turned else (height, width)


def decode_in_python(data: bytes, deep: bool = False) -> np.ndarray:
    """Does what `decode` does, with Pillow alone.

    Args:
        data: the bytes of the file.
        deep: whether to do what `decode_deep` does; 16-bit colours are read as 8-bit ones.

    Returns:
        (h, w, 3) uint8, or uint16 if deep.

    Raises:
        ValueError: if the bytes are not a whole image; the message says what is wrong.
    """
    if not data:
        raise ValueError("the file is empty")
    with opened(io.BytesIO(data)) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            return _grey_to_rgb(image, deep)
        return _to_rgb(image).astype(np.uint16) * 257 if deep else _to_rgb(image)


@contextlib.contextmanager
def opened(file: Any) -> Iterator[Image.Image]:
    """Opens an image with Pillow; whatever it then raises for a damaged one is a ValueError.

    Args:
        file: its path, or a file object of its bytes.
    """
    try:
        with Image.open(file) as image:
            yield image
    except Image.UnidentifiedImageError:
        raise ValueError("not an image in a format that Pillow reads") from None
    except (OSError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _grey_to_rgb(image: Image.Image, deep: bool) -> np.ndarray:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("an integer image of more than 16 bits; convert it to 8 or 16 first")
    grey = pixels.astype(np.uint16) if deep else ((pixels * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("a floating-point image; convert it to 8 or 16 bits first")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
