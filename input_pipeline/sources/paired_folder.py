"""Folders of pairs, such as hazy and clear images, to learn to make the one from the other."""

import functools
import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import files, images
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import pairs
from input_pipeline.sources.base import Example, IndexedSource, Source
from input_pipeline.sources.pairs import Pair, PairedSplit

_LOG = logging.getLogger(__name__)


def splits(config: Any, scale: int) -> dict[str, Source]:
    """Finds the pairs of a folder, see `pairs.find_pairs`.

    Without a val folder `val_fraction` of the training scenes are "val", and without any folders
    for splits (nor `test_source`) as many again "test". All images of a scene stay together. Which
    scene goes where depends on its name and `split_seed` alone.

    Args:
        config: `config.data`, of which `source`, `test_source`, `pair_pattern`, `val_fraction`,
            `split_seed` and `skip_corrupt` are read. A `source` that has only a test split, or
            only a `test_source`, will do to evaluate.
        scale: how many times larger the clear images are; what is over is cut off them.

    Returns:
        Sources by split name.

    Raises:
        ValueError: for a folder that is missing, or without pairs.
    """
    found: dict[str, PairedSplit] = {}
    if config.source:
        found = pairs.find_pairs(Path(config.source).expanduser(), config.pair_pattern, scale)
    if config.test_source:
        tests = pairs.find_pairs(Path(config.test_source).expanduser(), config.pair_pattern, scale)
        found["test"] = pairs.get_test(tests, config.test_source)
    for name, split in found.items():
        if split.orphans:
            _LOG.warning(
                "%s: %d images have no partner and are left out, such as %s; see python -m "
                "input_pipeline.check", name, len(split.orphans), split.orphans[0],
            )  # fmt: skip
    for problem in pairs.find_common_scenes(found, {}):
        _LOG.warning("%s", problem)
    by_split = {name: split.pairs for name, split in found.items()}
    if config.skip_corrupt:
        check = functools.partial(pairs.read_pair, scale=scale)
        by_split = {
            name: files.without_faults(found, check, name) for name, found in by_split.items()
        }
    if scale == 1:
        for name, some in by_split.items():
            _tell_border(name, some[0])
    by_split = split_off(by_split, lambda pair: pair.scene, config)
    return {name: _source(some, scale) for name, some in by_split.items()}


def _tell_border(split: str, pair: Pair) -> None:
    """Says once, by the first of its pairs, if a split's clear images have a border."""
    try:
        hazy, clear = files.read_size(pair.hazy), files.read_size(pair.clear)
    except (ValueError, OSError):
        return  # it will be said when it is read
    if pairs.has_border(hazy, clear):
        _LOG.info(
            "%s: clear images are larger than hazy ones by %d pixels on each side, as in RESIDE, "
            "which are cut off", split, (clear[0] - hazy[0]) // 2,
        )  # fmt: skip


def split_off(
    found: dict[str, Sequence[Any]], scene_of: Callable[[Any], str], config: Any
) -> dict[str, Sequence[Any]]:
    """Splits off train what a data set has no split for, by scene.

    Args:
        found: items by split name; "all" stands for a folder without splits.
        scene_of: function from an item to its scene.
        config: `config.data`, see `splits`.

    Returns:
        Items by split name, none of which is empty.

    Raises:
        ValueError: if val_fraction does not fit.
    """
    if not 0 <= config.val_fraction < 0.5:
        raise ValueError(f"data.val_fraction must lie in [0, 0.5), not {config.val_fraction}")
    missing = ["val"] if "train" in found and "val" not in found else []
    if "all" in found:
        missing = [name for name in ("val", "test") if name not in found]
        found = {"train": found["all"], **{k: v for k, v in found.items() if k != "all"}}
    for name in missing if config.val_fraction else []:
        salt = f"{config.split_seed}/{name}"
        scenes = sorted({scene_of(item) for item in found["train"]}, key=lambda s: _rank(salt, s))
        taken = set(scenes[: min(math.ceil(config.val_fraction * len(scenes)), len(scenes) - 1)])
        if not taken:
            raise ValueError(
                f"there is only one scene, of which no {name} can be split off: give it a folder, "
                "or set data.val_fraction=0"
            )
        found[name] = [item for item in found["train"] if scene_of(item) in taken]
        found["train"] = [item for item in found["train"] if scene_of(item) not in taken]
        _LOG.info("%d of %d training scenes are split off as %s", len(taken), len(scenes), name)
    return found


def _rank(salt: str, scene: str) -> bytes:
    return hashlib.sha256(f"{salt}/{scene}".encode()).digest()


def image_sizes(paths: Sequence[Path]) -> np.ndarray:
    """(n, 2) heights and widths of image files, from their headers.

    Raises:
        ValueError: if one cannot be read.
    """

    def size(path: Path) -> tuple[int, int]:
        try:
            return files.read_size(path)
        except (ValueError, OSError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error

    with futures.ThreadPoolExecutor(files.READERS) as pool:
        return np.array(list(pool.map(size, paths)))


def _source(found: Sequence[Pair], scale: int) -> IndexedSource:
    return IndexedSource(
        {
            name: np.array([str(getattr(pair, name)) for pair in found])
            for name in ("hazy", "clear")
        },
        truths=("target",),
        loader=lambda example: _load(example, scale),
        explainer=lambda message: _explain(found, message, scale),
        names=tuple(pair.hazy.name for pair in found),
        image_sizes=lambda: image_sizes([pair.hazy for pair in found]),
    )


def _load(example: Example, scale: int) -> Example:
    image = images.decode_deep(tf.io.read_file(example["hazy"]))
    target = images.decode_deep(tf.io.read_file(example["clear"]))
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
        f"{len(faults)} pair(s) unreadable or of sizes that do not fit: {pairs.some(faults)}. "
        "Remove them, or leave them out with --config.data.skip_corrupt=True"
    )
