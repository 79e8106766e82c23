"""Folders of pairs, such as hazy and clear images, to learn to make the one from the other."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import files, images
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import pairs, splitting
from input_pipeline.sources.base import Example, IndexedSource, Source
from input_pipeline.sources.pairs import Pair, PairedSplit

_LOG = logging.getLogger(__name__)


def splits(config: Any, scale: int) -> dict[str, Source]:
    """Finds the pairs of a folder, see `pairs.find_pairs`.

    What is missing is split off train, see `splitting.split_off_scenes`.

    Args:
        config: `config.data`, of which `source`, `test_source`, `pairs`, `val_fraction`,
            `split_seed` and `skip_corrupt` are read. A `source` that has only a test split, or
            only a `test_source`, will do to evaluate.
        scale: how many times larger the targets are; what is over is cut off them.

    Returns:
        Sources by split name.

    Raises:
        ValueError: for a folder that is missing, or without pairs.
    """
    found: dict[str, PairedSplit] = {}
    if config.source:
        found = pairs.find_pairs(Path(config.source).expanduser(), config.pairs.pattern, scale)
    if config.test_source:
        tests = pairs.find_pairs(Path(config.test_source).expanduser(), config.pairs.pattern, scale)
        found["test"] = splitting.get_test(tests, config.test_source)
    for name, split in found.items():
        if split.orphans:
            _LOG.warning(
                "%s: %d images have no partner and are left out, such as %s; see python -m "
                "input_pipeline.check", name, len(split.orphans), split.orphans[0],
            )  # fmt: skip
    for problem in pairs.find_common_scenes(found, {}):
        _LOG.warning("%s", problem)
    by_split: dict[str, Sequence[Pair]] = {name: split.pairs for name, split in found.items()}
    if config.skip_corrupt:
        check = functools.partial(pairs.read_pair, scale=scale)
        by_split = {
            name: files.without_faults(found, check, name) for name, found in by_split.items()
        }
    if scale == 1:
        for name, some in by_split.items():
            _tell_border(name, some[0])
    by_split = splitting.split_off_scenes(by_split, lambda pair: pair.scene, config)
    return {name: _source(some, scale) for name, some in by_split.items()}


def _tell_border(split: str, pair: Pair) -> None:
    """Says once, by the first of its pairs, if a split's targets have a border."""
    try:
        small, large = files.read_size(pair.input), files.read_size(pair.target)
    except (ValueError, OSError):
        return  # it will be said when it is read
    if pairs.has_border(small, large):
        _LOG.info(
            "%s: clear images are larger than hazy ones by %d pixels on each side, as in RESIDE, "
            "which are cut off", split, (large[0] - small[0]) // 2,
        )  # fmt: skip


def _source(found: Sequence[Pair], scale: int) -> IndexedSource:
    return IndexedSource(
        {
            name: np.array([str(getattr(pair, name)) for pair in found])
            for name in ("input", "target")
        },
        truths=("target",),
        loader=lambda example: _load(example, scale),
        explainer=lambda message: _explain(found, message, scale),
        names=tuple(pair.input.name for pair in found),
        image_sizes=lambda: files.read_sizes([pair.input for pair in found]),
    )


def _load(example: Example, scale: int) -> Example:
    image = images.decode_deep(tf.io.read_file(example["input"]))
    target = images.decode_deep(tf.io.read_file(example["target"]))
    size, full_size = tf.shape(image)[:2], tf.shape(target)[:2]
    fits = tf.reduce_all(full_size // scale == size)
    begin = tf.constant(0)
    if scale == 1:
        has_border = pairs.has_border(tf.unstack(size), tf.unstack(full_size))
        begin = tf.where(has_border, (full_size - size)[0] // 2, 0)
        fits |= has_border
    height, width = tf.unstack(size * scale)
    with tf.control_dependencies([tf.debugging.Assert(fits, ["a pair differs in size"])]):
        image = tf.identity(image)
    return {"image": image, "target": target[begin : begin + height, begin : begin + width]}


def _explain(found: Sequence[Pair], message: str, scale: int) -> str:
    _LOG.warning("a pair could not be read; looking for it among %d ...", len(found))
    check = functools.partial(pairs.read_pair, scale=scale)
    faults = list(files.find_faults(found, check).values())
    if not faults:
        return message
    return (
        f"{len(faults)} pair(s) unreadable or of sizes that do not fit: {files.some(faults)}. "
        "Remove them, or leave them out with --config.data.skip_corrupt=True"
    )
