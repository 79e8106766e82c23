"""Images of one class each, as a table beside them says."""

import dataclasses
from typing import Any

import numpy as np

from input_pipeline.sources import multilabel
from input_pipeline.sources.base import IndexedSource, Source


def splits(config: Any) -> dict[str, Source]:
    """Finds the images of a table, and the class of each.

    The table is as `multilabel.splits` has it, but that the cell of a label is one class, whatever
    signs are in it, and that each row has one.

    Args:
        config: `config.data`, see `multilabel.splits`.

    Returns:
        Sources by split name, whose `label` is an int32.

    Raises:
        ValueError: for what is missing, or cannot be used; it names the lines.
    """
    found = multilabel.find(config, has_one_each=True)
    names = found["train"].class_names
    if len(names) < 2:
        raise ValueError(
            f"{config.source} has one class alone, {names[0]!r}, which leaves nothing to tell apart"
        )
    return {split: _with_numbers(source) for split, source in found.items()}


def _with_numbers(source: IndexedSource) -> IndexedSource:
    label = source.columns["label"].argmax(axis=1).astype(np.int32)
    return dataclasses.replace(source, columns={**source.columns, "label": label})
