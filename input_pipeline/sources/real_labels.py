"""ReaL: all that the validation images of ImageNet show, in place of one class each.

Source: Beyer et al., "Are we done with ImageNet?" (2020); the labels are real.json of
https://github.com/google-research/reassessed-imagenet, a list of class numbers for each image, in
the order of their names.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from input_pipeline import imagenet
from input_pipeline.sources.base import IndexedSource

KEY = "real"  # of an example: (k,) int32 numbers of classes, -1 for none

_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")


def with_labels(splits: Mapping[str, IndexedSource], config: Any) -> dict[str, IndexedSource]:
    """Gives the validation images of ImageNet-1k their labels, to be evaluated with.

    Args:
        splits: of a folder whose classes are ImageNet's, by their WordNet ids; images to train on
            may be others, and have none.
        config: `config.data`, of which `real`, the path of real.json, and `source` are read.

    Returns:
        Sources whose examples to evaluate have `KEY` as well.

    Raises:
        ValueError: for classes or images that are not ImageNet's, or another file.
    """
    labels = _read(epath.Path(config.real).expanduser(), config.real)
    class_names = next(iter(splits.values())).class_names
    numbers = imagenet.class_numbers(class_names)
    if numbers is None:
        raise ValueError(
            f"data.real is for folders that are called by the WordNet ids of ImageNet's classes, "
            f"such as n01440764, and {config.source} has {class_names[0]!r}"
        )
    ours = {number: i for i, number in enumerate(numbers)}
    width = max(map(len, labels))

    def with_its_own(split: str, source: IndexedSource) -> IndexedSource:
        is_strict = split != "train" or len(splits) == 1
        names = [epath.Path(path).name for path in source.columns["path"].tolist()]
        found = [_of_image(name, labels, is_strict) for name in names]
        column = np.full((len(found), width), -1, np.int32)
        for row, some in zip(column, found):
            known = [ours[number] for number in some if number in ours]
            row[: len(known)] = known
        if is_strict and (column < 0).all():
            raise ValueError(f"{config.real} has labels of no image of {split}")
        columns = {**source.columns, KEY: column}
        return dataclasses.replace(source, columns=columns, eval_truths=(*source.eval_truths, KEY))

    return {split: with_its_own(split, source) for split, source in splits.items()}


def _read(path: epath.Path, said: str) -> list[list[int]]:
    """The labels of all images; raises a ValueError that names the file."""
    what = "data.real is real.json of ReaL, a list of class numbers for each image"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {said}: {reason}; {what}") from None
    is_right = isinstance(found, list) and all(
        isinstance(some, list)
        and all(isinstance(number, int) and 0 <= number < imagenet.CLASSES for number in some)
        for some in found
    )
    if not (is_right and any(found)):
        raise ValueError(f"{said} is another file: {what}, such as [[65], [970, 795], []]")
    return found


def _of_image(name: str, labels: Sequence[list[int]], is_strict: bool) -> list[int]:
    match = _NAME.fullmatch(name)
    if match is None and not is_strict:
        return []
    if match is None or not 1 <= int(match[1]) <= len(labels):
        raise ValueError(
            f"data.real is for the validation images of ImageNet, ILSVRC2012_val_00000001.JPEG to "
            f"{len(labels):08}, and {name} is none of them"
        )
    return labels[int(match[1]) - 1]
