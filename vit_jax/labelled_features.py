"""Features of labelled images, split by split, of whatever data classifiers are trained on."""

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from configs import common
from input_pipeline import Shard
from input_pipeline.sources import get_splits, is_folder
from input_pipeline.sources.base import IndexedSource, Source
from vit_jax import in_memory
from vit_jax.embedder import Embedder
from vit_jax.machinery import console
from vit_jax.tasks.base import Item

_LOG = logging.getLogger(__name__)

_TFDS = "tfds:"
_CHUNK = 512  # examples that are no files and are in memory at a time


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labelled images.

    Attributes:
        train: to learn from.
        test: to be classified.
        names: what the two are called in the data, such as "train" and "val".
        class_names: in the order of the labels.
    """

    train: Source
    test: Source
    names: tuple[str, str]
    class_names: tuple[str, ...]


class Features(NamedTuple):
    """Features of a split.

    Attributes:
        vectors: (n, d) float32.
        labels: (n,) int32.
        failures: how many images could not be read, and are left out.
    """

    vectors: np.ndarray
    labels: np.ndarray
    failures: int


def open_data(source: str) -> Labelled:
    """Opens labelled images as a training does.

    Args:
        source: as `config.data.source` of the kind "classes": a folder, a table, "digits",
            "tfds:NAME"; or "tfds:NAME:SPLIT", which says what to test on. All that is not to be
            tested on is learned from, but for images to validate on.

    Raises:
        ValueError: if there are no such data, or nothing to test on.
    """
    config = common.get_config().data
    config.source = source
    if source.startswith(_TFDS):
        return _open_tfds(config)
    config.val_fraction = 0.0
    found: dict[str, Any] = get_splits(config)
    if is_folder(source) and len(found) == 1:  # as a training on it would test
        config.val_fraction = common.get_config().data.val_fraction
        found = get_splits(config)
    test = next((split for split in ("test", "val") if split in found), None)
    if test is None:
        raise ValueError(f"{source} has no images to test on: give it a folder test beside train")
    return Labelled(found["train"], found[test], ("train", test), found["train"].class_names)


def _open_tfds(config: Any) -> Labelled:
    from input_pipeline.sources import tfds  # takes seconds to import

    name, _, split = config.source.removeprefix(_TFDS).partition(":")
    config.source = f"{_TFDS}{name}"
    config.tfds.update(test_split=split or "test", val_split="")
    found: dict[str, Any] = tfds.splits(config)
    names = config.tfds.train_split, config.tfds.test_split
    return Labelled(found["train"], found["test"], names, found["train"].class_names)


def compute(embedder: Embedder, source: Source, split: str) -> Features:
    """Computes features; images that cannot be read are named, and left out.

    Args:
        embedder: of the model.
        source: of the images.
        split: what it is called.

    Raises:
        ValueError: for images without a label, or features that are not finite.
    """
    count = source.num_examples
    vectors = np.empty((count, embedder.size), np.float32)
    labels = np.empty(count, np.int32)
    done = 0
    with console.progress(total=count, unit="photo", desc=split) as bar, console.above(bar):
        for items, their_labels in _chunks(source, split):
            if their_labels.min() < 0:
                raise ValueError(f"{split} has images without a label: test on another split")
            for found, label in zip(embedder.items(items), their_labels, strict=True):
                if found.vector is None:
                    _LOG.error("cannot read %s: %s", found.path, found.problem)
                else:
                    if not np.isfinite(found.vector).all():
                        raise ValueError(f"the features of {found.path} are no finite numbers")
                    vectors[done], labels[done] = found.vector, label
                    done += 1
                bar.update()
    return Features(vectors[:done], labels[:done], count - done)


def _chunks(source: Source, split: str) -> Iterator[tuple[list[Item], np.ndarray]]:
    """The images of a split, and their labels: all files at once, and others some at a time."""
    if isinstance(source, IndexedSource) and "path" in source.columns:
        order = slice(None) if source.order is None else source.order
        paths = map(epath.Path, source.columns["path"][order].tolist())
        items = [Item((path,), PurePath(path.name)) for path in paths]
        yield items, source.columns["label"][order]
        return
    examples = source.once(Shard()).map(source.load).as_numpy_iterator()
    for start in itertools.count(0, _CHUNK):
        some = list(itertools.islice(examples, _CHUNK))
        if not some:
            return
        names = [f"{split}[{start + i}]" for i in range(len(some))]
        yield (
            [_item(name, example["image"]) for name, example in zip(names, some)],
            np.array([example["label"] for example in some]),
        )


def _item(name: str, image: Any) -> Item:
    """An image that is no file of its own: the contents of one, or (h, w, c) pixels."""
    if not isinstance(image, bytes) and image.shape[-1] == 1:
        image = image[..., 0]
    return Item((Path(name),), PurePath(name), data=(in_memory.encode(image),))
