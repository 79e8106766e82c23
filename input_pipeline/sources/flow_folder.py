"""Pairs of frames and the flow between them, to learn to say how each point moves."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import files, flow_sets
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import flow_layouts, flow_mixture, flow_pairs, splitting
from input_pipeline.sources.base import Example, IndexedSource, Source
from input_pipeline.sources.flow_mixture import Weights
from input_pipeline.sources.flow_pairs import FlowPair, Part

_LOG = logging.getLogger(__name__)

_TRUTHS = ("image2", "flow", "valid", "set")
# Which split of a published set is tested on. Sintel, KITTI and HD1K have flows of one alone.
_TESTED = {"chairs": "val", "things": "test", "sintel": "train", "kitti": "train", "hd1k": "train"}

Found = dict[str, list[FlowPair]]  # pairs by split


def splits(config: Any) -> dict[str, Source]:
    """Finds the pairs of a folder, see `flow_layouts.find_parts`.

    What is trained on is `flow.mixture`. Without a split of its own to validate on,
    `val_fraction` of its scenes are that, see `splitting.split_off_scenes`. What is tested on are
    the pairs of `test_source`, of which `flow.test` says the part.

    Args:
        config: `config.data`, of which `source`, `test_source`, `flow`, `val_fraction`,
            `split_seed` and `skip_corrupt` are read.

    Returns:
        Sources by split name, whose examples have `image` and `image2`, (h, w, 3) uint8, `flow`,
        (h, w, 2) float32 pixels, `valid`, (h, w) float32 0 or 1, and where all pairs of a split
        have it `occluded`, like that. Until the end there is `set`, () int32, the row of
        `flow_sets.SETS`.

    Raises:
        ValueError: for a folder that is missing, without pairs, or of which something is missing.
    """
    found: Found = {}
    weights: Weights = {}
    if config.source:
        parts = _find(config.source)
        weights = flow_mixture.weights_of(
            config.flow.mixture, parts, "data.flow.mixture", config.source
        )
        found = _together([parts[name] for name in weights])
        _check_orphans([parts[name] for name in weights], config)
    elif config.flow.mixture:
        raise ValueError("data.flow.mixture is of data.source, which is not given")
    if config.test_source:
        found["test"] = _find_test(config)
    elif config.flow.test:
        raise ValueError("data.flow.test is of data.test_source, which is not given")
    found = {name: _heeding(pairs, config.flow.invalid) for name, pairs in found.items()}
    if config.flow.invalid and not any(pair.invalid for pairs in found.values() for pair in pairs):
        raise ValueError(
            "data.flow.invalid is for MPI-Sintel with its folder training/invalid, which is not "
            "there"
        )
    by_split: Mapping[str, Sequence[FlowPair]] = found
    if config.skip_corrupt:
        by_split = {
            name: files.without_faults(pairs, flow_pairs.check_pair, name)
            for name, pairs in found.items()
        }
    by_split = splitting.split_off_scenes(by_split, lambda pair: pair.scene, config)
    return {
        name: _source(pairs, weights if name == "train" else {}) for name, pairs in by_split.items()
    }


def _find(source: str) -> dict[str, Part]:
    parts = flow_layouts.find_parts(Path(source).expanduser())
    for name, part in parts.items():
        counts = [f"{len(pairs)} of {split}" for split, pairs in part.splits.items()]
        _LOG.info("%s: %s, pairs: %s", part.folder, name, ", ".join(counts) or "none")
    return parts


def _check_orphans(parts: Sequence[Part], config: Any) -> None:
    """Raises a ValueError if something is missing, or says what is left out."""
    orphans = list(dict.fromkeys(why for part in parts for why in part.orphans))
    if orphans and not config.skip_corrupt:
        raise ValueError(
            f"frames and flows without what belongs to them, {len(orphans)}: "
            f"{files.some(orphans, most=5)}. Add or remove them, or leave them out with "
            "--config.data.skip_corrupt=True"
        )
    for why in orphans:
        _LOG.warning("left out: %s", why)
    if not any(part.splits for part in parts):
        why = f": {files.some(orphans, most=5)}" if orphans else ""
        raise ValueError(f"{parts[0].folder} holds no whole pair of frames with their flow{why}")


def _together(parts: Sequence[Part]) -> Found:
    """The pairs of several parts, of which all of one without splits are for training."""
    found: Found = {}
    has_splits = any(name != "all" for part in parts for name in part.splits)
    for part in parts:
        for name, pairs in part.splits.items():
            found.setdefault("train" if name == "all" and has_splits else name, []).extend(pairs)
    return found


def _find_test(config: Any) -> list[FlowPair]:
    parts = _find(config.test_source)
    key = "data.flow.test"
    weights = flow_mixture.weights_of(config.flow.test, parts, key, config.test_source)
    if len(parts) > 1 and not config.flow.test:
        raise ValueError(
            f"data.test_source={config.test_source!r} has {', '.join(parts)}: say which with "
            f"--config.{key}"
        )
    if max(weights.values()) > 1:
        raise ValueError(f"{key}={config.flow.test!r}: to test on, parts have no weights")
    chosen = [parts[name] for name in weights]
    _check_orphans(chosen, config)
    return [pair for part in chosen for pair in _tested(part, config.test_source)]


def _tested(part: Part, source: str) -> Sequence[FlowPair]:
    own_set = next((pair.set for pairs in part.splits.values() for pair in pairs), "")
    split = _TESTED.get(own_set, "test")
    if split in part.splits:
        return part.splits[split]
    return splitting.get_test(part.splits, source)


def _heeding(pairs: Sequence[FlowPair], invalid: bool) -> list[FlowPair]:
    """The pairs, without their masks of what is invalid unless these are heeded."""
    return [pair if invalid else dataclasses.replace(pair, invalid=None) for pair in pairs]


def _source(pairs: Sequence[FlowPair], weights: Weights) -> IndexedSource:
    """A source of pairs, each as often as its part weighs, which by default is once."""
    count = len(pairs)
    times = [weights.get(pair.part, 1) for pair in pairs]
    has_occluded = all(pair.occluded is not None for pair in pairs)
    truths = (*_TRUTHS, "occluded") if has_occluded else _TRUTHS
    columns = {
        name: np.array([str(getattr(pair, name)) for pair in pairs])
        for name in ("image", "image2", "flow")
    }
    return IndexedSource(
        {
            **columns,
            "set": np.array([flow_sets.number(pair.set) for pair in pairs], np.int32),
            "row": np.arange(count),
        },
        truths=truths,
        loader=lambda row: _load(row, pairs, truths),
        finisher=_finish,
        explainer=_explain,
        names=tuple(pair.name for pair in pairs),
        image_sizes=lambda: files.read_sizes([pair.image for pair in pairs], is_rotated=False),
        decodes=True,
        order=None if max(times) == 1 else np.repeat(np.arange(count), times),
    )


def _load(row: Example, pairs: Sequence[FlowPair], truths: Sequence[str]) -> Example:
    channels = {"image": (3,), "image2": (3,), "flow": (2,), "valid": (), "occluded": ()}
    names = [name for name in channels if name == "image" or name in truths]

    def read(i: np.ndarray) -> list[np.ndarray]:
        found = flow_pairs.read_pair(pairs[int(i)])
        return [getattr(found, name) for name in names]

    dtypes = [tf.float32 if name == "flow" else tf.uint8 for name in names]
    arrays = tf.numpy_function(read, [row["row"]], dtypes, stateful=False)
    loaded = {
        name: tf.ensure_shape(array, (None, None, *channels[name]))
        for name, array in zip(names, arrays)
    }
    return {**loaded, "set": row["set"]}


def _finish(example: Example, _: tf.Tensor) -> Example:
    """Without `set`, which is for augmentation alone; 0 and 1 are float32 in a batch."""
    finished = {name: value for name, value in example.items() if name != "set"}
    for name in {"valid", "occluded"} & set(example):
        finished[name] = tf.cast(example[name], tf.float32)
    return finished


def _explain(message: str) -> str:
    """Takes the message of `read_pair`, which names the file, out of TensorFlow's."""
    text = message.partition("ValueError: ")[2].partition("\n")[0]
    return (
        f"{text}. Mend or remove it, or leave out what cannot be read with "
        "--config.data.skip_corrupt=True"
        if text
        else message
    )
