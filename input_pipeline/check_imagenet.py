"""Checks ImageNet-1k (ILSVRC 2012), as TFDS has prepared it or as a folder of its images."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from etils import epath

from input_pipeline import files, images, pipeline
from input_pipeline.files import some
from input_pipeline.sources.base import Shard
from input_pipeline.sources.tfds import open_split

NAME = "imagenet2012"

_SIZES = {"train": 1_281_167, "validation": 50_000}
_ARCHIVES = {
    "ILSVRC2012_img_train.tar": 147_897_477_120,
    "ILSVRC2012_img_val.tar": 6_744_924_160,
}  # in bytes
_FRAME = 16  # bytes that a TFRecord takes besides its contents
_SAMPLE = 500  # images of a split that are decoded


def check_prepared(data_dir: str | None, manual_dir: str | None) -> list[str]:
    """Checks what TFDS has prepared: numbers, files, and a sample of the images.

    Args:
        data_dir: where it lies; TFDS's own folder if None.
        manual_dir: where the archives lie that it is prepared from; downloads/manual if None.

    Returns:
        What is wrong.
    """
    builder = _builder(data_dir)
    if not builder.is_prepared():
        return _check_archives(builder, manual_dir)
    stored = builder.info.file_format.value
    print(f"{builder.info.full_name} in {builder.data_dir}, stored as {stored}")
    problems = []
    for split, expected in _SIZES.items():
        if split not in builder.info.splits:
            problems.append(f"{split}: there is no such split")
            continue
        problems += _check_number(split, builder.info.splits[split].num_examples, expected)
        wrong_files = _check_files(builder, split)
        problems += wrong_files or _check_records(builder, split)
    return problems


def _builder(data_dir: str | None) -> tfds.core.DatasetBuilder:
    absl_logging.set_verbosity(absl_logging.ERROR)  # TFDS warns if the folder is empty
    return tfds.builder(NAME, data_dir=data_dir)


def _check_archives(builder: tfds.core.DatasetBuilder, manual_dir: str | None) -> list[str]:
    folder = Path(manual_dir or Path(builder.data_dir).parent.parent / "downloads" / "manual")
    folder = folder.expanduser()
    problems = [f"{builder.info.full_name} is not prepared: {builder.data_dir} is not there"]
    for name, size in _ARCHIVES.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path} is not there: get it from https://image-net.org/download")
        elif path.stat().st_size != size:
            problems.append(
                f"{path} has {path.stat().st_size:,} bytes, {size:,} expected: get it again"
            )
    if len(problems) == 1:
        problems[0] += (
            f". Both archives are in {folder}: a training with "
            f"--config.data.tfds.manual_dir={folder} prepares it, which takes hours"
        )
    return problems


def _check_number(split: str, found: int, expected: int) -> list[str]:
    print(f"{split}: {found:,} images")
    if found == expected:
        return []
    return [f"{split}: {found:,} images, {expected:,} expected"]


def _check_files(builder: tfds.core.DatasetBuilder, split: str) -> list[str]:
    """Whether the files are there and whole, by their sizes."""
    info = builder.info.splits[split]
    paths = [epath.Path(f.filename) for f in info.file_instructions]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        return [f"{split}: {len(missing)} of {len(paths)} files are not there: {some(missing)}"]
    found = sum(path.stat().length for path in paths)
    expected = info.num_bytes + _FRAME * info.num_examples
    is_tfrecord = builder.info.file_format == tfds.core.FileFormat.TFRECORD
    if is_tfrecord and found != expected:
        return [f"{split}: the files have {found:,} bytes, {expected:,} expected: copy them again"]
    return []


def _check_records(builder: tfds.core.DatasetBuilder, split: str) -> list[str]:
    """Decodes the first image of every file, or of as many as a sample has."""
    starts = [0, *itertools.accumulate(builder.info.splits[split].shard_lengths)][:-1]
    spread = np.linspace(0, len(starts) - 1, min(_SAMPLE, len(starts))).round().astype(int)
    for i in spread:
        first = f"{split}[{starts[i]}:{starts[i] + 1}]"
        source = open_split(builder, first)
        try:
            for example in pipeline.read(source.once(Shard()).map(source.load), source):
                images.check(example["image"])
        except ValueError as error:
            return [f"{first} cannot be read: {error}"]
    print(f"    the first images of {len(spread)} files can be read")
    return []


def check_folder(folder: Path) -> list[str]:
    """Checks FOLDER/{train,val}/nXXXXXXXX/*.JPEG: classes, numbers, and a sample of the images.

    Returns:
        What is wrong.
    """
    names = _builder(None).info.features["label"].names
    problems = []
    for split, expected in (("train", _SIZES["train"]), ("val", _SIZES["validation"])):
        problems += _check_split(folder / split, split, names, expected)
    return problems


def _check_split(folder: Path, split: str, names: Sequence[str], expected: int) -> list[str]:
    if not folder.is_dir():
        return [f"{folder} is not there: it should have a folder of images per class"]
    classes: list[str] = []
    others: list[str] = []
    for entry in os.scandir(folder):
        (classes if entry.is_dir() else others).append(entry.name)
    archives = [name for name in others if name.endswith(".tar")]
    if archives:
        return [
            f"{folder} has {len(archives)} archives, such as {archives[0]}: unpack each into a "
            "folder of its name"
        ]
    if not classes:
        return [
            f"{folder} has {len(others):,} files and no class folders: move each image into that "
            "of its class, which ILSVRC2012_validation_ground_truth.txt of the devkit tells for val"
        ]
    problems = []
    missing, extra = set(names) - set(classes), set(classes) - set(names)
    if missing:
        problems.append(f"{split}: {len(missing)} classes are missing: {some(sorted(missing))}")
    if extra:
        problems.append(f"{split}: these are no classes of ImageNet: {some(sorted(extra))}")
    entries = [
        entry
        for name in sorted(set(classes) & set(names))
        for entry in os.scandir(folder / name)
        if entry.name.lower().endswith(files.SUFFIXES) and not entry.name.startswith(".")
    ]
    dangling = [entry.path for entry in entries if not entry.is_file()]
    if dangling:
        problems.append(f"{split}: {len(dangling)} links lead nowhere: {some(dangling)}")
    entries = [entry for entry in entries if entry.is_file()]
    problems += _check_number(split, len(entries), expected)
    empty = [entry.path for entry in entries if not entry.stat().st_size]
    if empty:
        problems.append(f"{split}: {len(empty)} files are empty: {some(empty)}")
    sample = entries[:: max(len(entries) // _SAMPLE, 1)]
    faults = files.find_faults([entry.path for entry in sample], images.check_file)
    print(f"    {len(sample) - len(faults)} of a sample of {len(sample)} can be read")
    problems += [f"{split}: cannot read {why}" for why in faults.values()]
    return problems
