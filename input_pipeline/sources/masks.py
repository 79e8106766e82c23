"""Masks: images whose pixels are numbers of classes, and what the numbers in files stand for."""

import dataclasses
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import files
from input_pipeline.palettes import known_sets
from input_pipeline.sources.mask_layouts import MaskedImage

_LOG = logging.getLogger(__name__)

IGNORED = 255  # of no class
MOST_CLASSES = 255

_PNG = b"\x89PNG\r\n\x1a\n"
_CLASS_FILES = ("classes.txt", "class_names.txt", "labels.txt")

# Ids of the whole Cityscapes, of which the 19 classes have these; the others are void.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)
_CITYSCAPES_OTHERS = tuple(label for label in range(34) if label not in _CITYSCAPES_IDS)
# Numbers that stand for no class in COCO-Stuff's maps of 2017, since COCO's ids have gaps.
_COCO_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_COCO_STUFF = tuple(label for label in range(182) if label not in _COCO_GAPS)


@dataclasses.dataclass(frozen=True)
class Coding:
    """What a published set's files hold.

    Attributes:
        known: name of the set in `palettes.known_sets`.
        stored: the number that each class has in the files, in the order of the classes.
        void: numbers of no class, besides 255.
    """

    known: str
    stored: tuple[int, ...]
    void: tuple[int, ...] = ()


# By the name that `config.data.masks.classes` can have. Those with an ending are other forms of a
# set's files: Cityscapes as it is downloaded, COCO-Stuff as mmsegmentation converts it.
CODINGS = {
    "ade20k": Coding("ade20k", tuple(range(1, 151)), (0,)),
    "voc": Coding("voc", tuple(range(21))),
    "cityscapes": Coding("cityscapes", tuple(range(19))),
    "cityscapes_ids": Coding("cityscapes", _CITYSCAPES_IDS, _CITYSCAPES_OTHERS),
    "camvid": Coding("camvid", tuple(range(11)), (11,)),
    "lip": Coding("lip", tuple(range(20))),
    "coco_stuff": Coding("coco_stuff", _COCO_STUFF),
    "coco_stuff_train_ids": Coding("coco_stuff", tuple(range(171))),
    "coco_stuff_10k": Coding("coco_stuff", tuple(range(1, 172)), (0,)),
}


@dataclasses.dataclass(frozen=True)
class Labels:
    """The classes of a data set, and what the numbers in its files become.

    Attributes:
        class_names: in the order of the labels.
        table: (256,) int16, from the number in a file to the label; 255 is ignored, -1 an error.
        origin: where the classes are from, in words.
    """

    class_names: tuple[str, ...]
    table: np.ndarray
    origin: str

    def apply(self, mask: np.ndarray) -> np.ndarray:
        """Turns the numbers of a file into labels.

        Args:
            mask: (h, w) integers, see `decode_mask`.

        Returns:
            (h, w) uint8.

        Raises:
            ValueError: if a number stands for nothing.
        """
        in_table = mask if mask.dtype == np.uint8 else np.clip(mask, 0, 255)
        labels = self.table[in_table]
        if labels.min() < 0 or (in_table is not mask and (in_table != mask).any()):
            wrong = np.unique(mask[(labels < 0) | (in_table != mask)])
            raise ValueError(
                f"it has the label{'s' if len(wrong) > 1 else ''} "
                f"{files.some([str(label) for label in wrong])}, and {self._describe()}"
            )
        return labels.astype(np.uint8)

    def _describe(self) -> str:
        """Says which numbers a file may have."""
        numbers = np.flatnonzero((self.table >= 0) & (self.table != IGNORED))
        void = [str(label) for label in np.flatnonzero(self.table == IGNORED)]
        return (
            f"the {len(self.class_names)} classes ({self.origin}) are {numbers.min()} to "
            f"{numbers.max()}; ignored: {files.some(void)}. Name the classes with "
            "--config.data.masks.classes, or labels of no class with --config.data.masks.ignore"
        )


def decode_mask(data: bytes) -> np.ndarray:
    """Decodes a mask: the numbers of the classes as they are stored, never colours.

    A palette's colours are not looked at. Grey PNGs of 1, 2 or 4 bits hold numbers up to 1, 3 or
    15. EXIF data does not rotate it.

    Args:
        data: the bytes of an image file that loses nothing.

    Returns:
        (h, w) uint8, or a larger type of integers from a file of 16 bits.

    Raises:
        ValueError: if it is not a whole image, or not one of numbers.
    """
    if not data:
        raise ValueError("the file is empty")
    with files.opened(io.BytesIO(data)) as image:
        if image.format in ("JPEG", "MPO"):
            raise ValueError("a JPEG, which does not keep the numbers of classes: make it a PNG")
        image.load()
        mode, pixels = image.mode, np.asarray(image)
    if mode in ("P", "L"):
        # Pillow stretches few bits of grey to 0 .. 255.
        bits = data[24] if mode == "L" and data[:8] == _PNG else 8
        return pixels // (255 // (2**bits - 1)) if bits < 8 else pixels
    if mode == "1":
        return pixels.astype(np.uint8)
    if mode.startswith("I"):
        return pixels
    if mode in ("RGB", "RGBA") and (pixels[..., :1] == pixels[..., 1:3]).all():
        return pixels[..., 0]
    raise ValueError(_explain_mode(mode, pixels))


def _explain_mode(mode: str, pixels: np.ndarray) -> str:
    """Says why an image of a mode of Pillow's is no mask."""
    wanted = "where a mask has one number per pixel, of its class"
    if mode not in ("RGB", "RGBA"):
        return f"an image of mode {mode} {wanted}: save it as an 8-bit PNG of such numbers"
    colours = len(np.unique(pixels[..., :3].astype(np.int64) @ (1 << 16, 1 << 8, 1)))
    return (
        f"an image of {colours} colours {wanted}: give each colour the number of its class, and "
        "save it as a PNG of mode L or P"
    )


def list_class_names(path: Path) -> tuple[str, ...]:
    """Reads a file that has the name of a class in each line, in the order of the labels.

    Raises:
        ValueError: if it holds something else, or none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the names of classes: {path} ({error})") from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    wanted = "it must have the name of one class per line, in the order of the labels"
    if not names:
        raise ValueError(f"{path} is empty: {wanted}")
    if "" in names:
        raise ValueError(f"{path}: line {names.index('') + 1} is empty: {wanted}")
    if len(names) > 1 and all(name[0].isdigit() for name in names):
        raise ValueError(f"{path} has numbered lines, such as {names[1]!r}: {wanted}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{path} names the class {twice[0]!r} more than once: {wanted}")
    if len(names) > MOST_CLASSES:
        raise ValueError(f"{path} names {len(names)} classes, and {MOST_CLASSES} are the most")
    return tuple(names)


def find_labels(config: Any, folder: Path, guess: str | None, masks: Sequence[Path]) -> Labels:
    """Finds out which classes a data set has, and how they are stored.

    Args:
        config: `config.data.masks`.
        folder: of the data set, which may have a file of class names.
        guess: the key of `CODINGS` that names of files and folders tell, if any.
        masks: the files of all splits, which are counted if nothing else tells the classes.

    Returns:
        The classes.

    Raises:
        ValueError: if they cannot be found, or the config does not fit.
    """
    named = config.classes
    found = next((folder / name for name in _CLASS_FILES if (folder / name).is_file()), None)
    path = Path(named).expanduser() if named else found
    if named in CODINGS:
        same_set = guess is not None and CODINGS[guess].known == named
        coding, origin = CODINGS[guess if guess and same_set else named], f"of {named}"
    elif path is not None:
        if not path.is_file():
            raise ValueError(
                f"data.masks.classes={named!r} is neither a file nor a known set: "
                f"{', '.join(CODINGS)}"
            )
        names, origin = list_class_names(path), f"of {path.name}"
        coding = Coding("", tuple(range(len(names))))
        if guess is not None and known_sets()[CODINGS[guess].known].class_names == names:
            coding = CODINGS[guess]
        return _make(names, coding, config, origin)
    elif guess is not None:
        coding, origin = CODINGS[guess], f"of {guess}, by the names of files"
    else:
        return _count(config, masks)
    return _make(known_sets()[coding.known].class_names, coding, config, origin)


def _make(names: tuple[str, ...], coding: Coding, config: Any, origin: str) -> Labels:
    stored, void = coding.stored, coding.void
    from_zero, from_one = tuple(range(len(names))), tuple(range(1, len(names) + 1))
    if config.reduce_zero_label:
        stored, void = from_one, (0,)
    elif config.reduce_zero_label is not None and stored == from_one:
        stored, void = from_zero, ()
    table = np.full(256, -1, np.int16)
    table[list(stored)] = np.arange(len(stored))
    table[[*void, IGNORED, *_check_ignore(config.ignore)]] = IGNORED
    if (table[list(stored)] == IGNORED).all():
        raise ValueError(f"data.masks.ignore={tuple(config.ignore)} leaves no class")
    return Labels(names, table, origin)


def _check_ignore(ignore: Any) -> list[int]:
    if not all(isinstance(n, int) and 0 <= n <= 255 for n in ignore):
        raise ValueError(f"data.masks.ignore must be numbers from 0 to 255, not {tuple(ignore)}")
    return list(ignore)


def _count(config: Any, masks: Sequence[Path]) -> Labels:
    """Takes as many classes as the masks of a data set have labels."""
    ignored = {IGNORED, *_check_ignore(config.ignore)}
    found: set[int] = set()

    def labels(path: Path) -> None:
        found.update(np.unique(read_mask(path)).tolist())

    faults = files.find_faults(masks, labels)  # what is faulty is told when it is read
    if len(faults) == len(masks):
        raise ValueError(f"no mask can be read: {files.some(list(faults.values()), most=3)}")
    first = int(bool(config.reduce_zero_label))
    classes = [label for label in found - ignored if first <= label < IGNORED]
    count = max(classes, default=0) + 1 - first
    if count < 2:
        raise ValueError(
            f"the masks have the labels {files.some([str(n) for n in sorted(found)])} alone, which "
            f"leaves no two classes, since {IGNORED} is ignored: number them 0, 1, ..."
        )
    _LOG.info("%d classes, of which %d occur, are counted in %d masks",
              count, len(classes), len(masks) - len(faults))  # fmt: skip
    names = tuple(f"class_{i}" for i in range(count))
    return _make(names, Coding("", tuple(range(count))), config, "counted in the masks")


def read_mask(path: Path) -> np.ndarray:
    """Does what `decode_mask` does to a file; the ValueError names it."""
    try:
        return decode_mask(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} ({error})") from error


def decode_like_mask(data: bytes, size: Sequence[int]) -> np.ndarray:
    """Decodes an image, which EXIF data rotates only if its mask is so, too.

    Published sets have masks for the pixels as they are stored, and programs for annotation some
    for the image as it is shown. The size tells which; if it does not, as for squares and half
    turns, pixels stay as they are stored.

    Args:
        data: the bytes of the file.
        size: (h, w) of the mask.

    Returns:
        (h, w, 3) uint8; of another size if neither fits.

    Raises:
        ValueError: if it is not a whole image.
    """
    stored = files.decode_in_python(data, is_rotated=False)
    shown = stored if stored.shape[:2] == tuple(size) else files.decode_in_python(data)
    return shown if shown.shape[:2] == tuple(size) else stored


def read_pair(pair: MaskedImage, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Reads an image and its mask.

    Args:
        pair: of files.
        labels: what the numbers in the mask stand for.

    Returns:
        The image, (h, w, 3) uint8, and the mask, (h, w) uint8.

    Raises:
        ValueError: if one cannot be read, they differ in size, or the mask has a number that stands
            for nothing; the message names the file.
    """
    mask = read_mask(pair.mask)
    try:
        mask = labels.apply(mask)
    except ValueError as error:
        raise ValueError(f"{pair.mask} ({error})") from error
    try:
        image = decode_like_mask(pair.image.read_bytes(), mask.shape)
    except (ValueError, OSError) as error:
        raise ValueError(f"{pair.image} ({error})") from error
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f"{pair.image} ({image.shape[0]} x {image.shape[1]}) and {pair.mask} "
            f"({mask.shape[0]} x {mask.shape[1]}) differ in size"
        )
    return image, mask
