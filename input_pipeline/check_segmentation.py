"""What is wrong with a folder of images and masks; see check."""

import collections
import dataclasses
import functools
import hashlib
import sys
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path

import numpy as np
from PIL import ExifTags
from tqdm import tqdm

from input_pipeline import files
from input_pipeline.sources import mask_layouts, masks
from input_pipeline.sources.mask_layouts import MaskedImage
from input_pipeline.sources.masks import IGNORED, Labels


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `config.data.masks` has."""

    classes: str = ""
    reduce_zero_label: bool | None = None
    ignore: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Read:
    """What is kept of an image and its mask.

    Attributes:
        fault: what is wrong, or "".
        size: (h, w).
        counts: (256,) int64, pixels by label.
        digest: of the image's file.
        is_doubtful: whether EXIF data rotates the image, and its mask does not tell if it is to be.
    """

    fault: str
    size: tuple[int, ...] = (0, 0)
    counts: np.ndarray | None = None
    digest: bytes = b""
    is_doubtful: bool = False


def check_folder(folder: Path, settings: Settings) -> list[str]:
    """Prints the splits and classes of a folder; returns what is wrong with it.

    Raises:
        ValueError: if it holds no images with masks, or the classes cannot be found.
    """
    splits = mask_layouts.find_masked_images(folder)
    found = [pair.mask for split in splits.values() for pair in split.pairs]
    labels = masks.find_labels(settings, folder, mask_layouts.guess_set(splits), found)
    print(f"{len(labels.class_names)} classes ({labels.origin})")
    problems = []
    splits_of = collections.defaultdict(list)
    for name, split in splits.items():
        print(f"{name}: {len(split.pairs)} images with masks")
        if split.orphans:
            problems.append(f"{name}: {len(split.orphans)} without a partner: "
                            f"{files.some(split.orphans)}")  # fmt: skip
        reads = _read_all(split.pairs, labels)
        good = [read for read in reads if not read.fault]
        faults = [read.fault for read in reads if read.fault]
        if faults:
            problems.append(f"{name}: {len(faults)} that cannot be used: {files.some(faults)}")
        if good:
            _print_split(good, labels)
        for pair, read in zip(split.pairs, reads):
            if read.digest:
                splits_of[read.digest].append((name, str(pair.image)))
    common = [
        " and ".join(path for _, path in copies)
        for copies in splits_of.values()
        if len({name for name, _ in copies}) > 1
    ]
    if common:
        problems.append(f"{len(common)} images are in several splits: {files.some(common)}")
    return problems


def _read_all(pairs: Sequence[MaskedImage], labels: Labels) -> list[_Read]:
    read = functools.partial(_read, labels=labels)
    quiet = not sys.stderr.isatty()
    with futures.ThreadPoolExecutor(files.READERS) as pool:
        results = pool.map(read, pairs)
        return list(tqdm(results, total=len(pairs), unit="image", leave=False, disable=quiet))


def _read(pair: MaskedImage, labels: Labels) -> _Read:
    try:
        _, mask = masks.read_pair(pair, labels)
        with files.opened(pair.image) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except ValueError as error:
        return _Read(str(error))
    is_doubtful = orientation in (2, 3, 4) or (orientation > 4 and mask.shape[0] == mask.shape[1])
    counts = np.bincount(mask.reshape(-1), minlength=256)
    digest = hashlib.sha256(pair.image.read_bytes()).digest()
    return _Read("", mask.shape, counts, digest, is_doubtful)


def _print_split(reads: Sequence[_Read], labels: Labels) -> None:
    sizes = {read.size for read in reads}
    heights, widths = zip(*sizes)
    print(
        f"    {len(sizes)} size{'s' if len(sizes) > 1 else ''}: {min(heights)} to {max(heights)} "
        f"pixels high, {min(widths)} to {max(widths)} wide"
    )
    doubtful = sum(read.is_doubtful for read in reads)
    if doubtful:
        print(f"    {doubtful} images have an EXIF rotation of which the mask's size does not tell "
              "whether it follows; they are read as stored")  # fmt: skip
    counts = np.stack([read.counts for read in reads if read.counts is not None])
    pixels = counts.sum(0)
    named = {IGNORED: "(ignored)", **dict(enumerate(labels.class_names))}
    absent = [name for label, name in enumerate(labels.class_names) if not pixels[label]]
    for label in [*range(len(labels.class_names)), IGNORED]:
        if pixels[label]:
            share = 100 * pixels[label] / pixels.sum()
            images = np.count_nonzero(counts[:, label])
            print(f"    {share:6.2f} % {named[label]}, in {images}")
    if absent:
        print(f"    {len(absent)} classes do not occur: {files.some(absent)}")
