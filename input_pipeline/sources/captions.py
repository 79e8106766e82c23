"""Images and what is said of them, to learn which belong together."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import files, images
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import captions_layouts, image_folder, splitting
from input_pipeline.sources.base import Example, IndexedSource, Source
from input_pipeline.sources.captions_layouts import Captioned, Found

_LOG = logging.getLogger(__name__)

TRUTHS = ("text",)
EVAL_TRUTHS = ("captions", "num_captions")


def splits(config: Any) -> dict[str, Source]:
    """Finds the captions of a folder or a file, see `captions_layouts.find`.

    What is missing is split off train by the images' names, see `splitting.split_off_scenes`, so
    that no image is in two splits. `test_source` is tested on, if it is given: its test split, or
    all of it if it has no splits.

    Args:
        config: `config.data`, of which `source`, `test_source`, `captions`, `val_fraction`,
            `split_seed` and `skip_corrupt` are read.

    Returns:
        Sources by split name. An example has an `image`, and as `text` one of its captions, which
        is drawn anew in each epoch, and to evaluate is the first; then it has all of them besides,
        `captions` (k,) string, of which the first `num_captions` () int32 are its own, and k is the
        most that an image of the split has.

    Raises:
        ValueError: for what is missing, or cannot be used.
    """
    by_split = _find(config.source, config)
    if config.test_source:
        tested = _find(config.test_source, config)
        if not {"test", "all"} & set(tested):
            raise ValueError(
                f"data.test_source={config.test_source!r} has {' and '.join(tested)}, and no test"
            )
        by_split["test"] = tested["test" if "test" in tested else "all"]
    if config.skip_corrupt:
        by_split = {
            name: files.without_faults(some, lambda one: images.check_file(str(one.image)), name)
            for name, some in by_split.items()
        }
    by_split = splitting.split_off_scenes(by_split, lambda one: one.name, config)
    return {name: _source(some) for name, some in by_split.items() if some}


def _find(source: str, config: Any) -> dict[str, Sequence[Captioned]]:
    found = captions_layouts.find(
        Path(source).expanduser(), config.captions.file, config.captions.images
    )
    _tell(found, config.captions.skip_missing)
    return dict(found.splits)


def _tell(found: Found, skip_missing: bool) -> None:
    """Says what is not as it should be.

    Raises:
        ValueError: if images or captions are missing, unless they may.
    """
    there = sum(map(len, found.splits.values()))
    if found.missing:
        count = len(found.missing)
        what = (
            f"{found.origin}: {count} of {there + count} images are not there or have no caption: "
            f"{files.some(found.missing, most=2)}"
        )
        if not skip_missing:
            raise ValueError(
                f"{what}. Add them, or go on with the other {there} by "
                "--config.data.captions.skip_missing=True"
            )
        _LOG.warning("%s; they are left out", what)
    if found.repeated:
        _LOG.warning(
            "%s: %d captions are there twice of one image, and count twice: %s",
            found.origin, len(found.repeated), files.some(found.repeated, most=2),
        )  # fmt: skip
    for note in found.notes:
        _LOG.warning("%s", note)


def padded(captions: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Puts captions into one array.

    Args:
        captions: of each image.

    Returns:
        (n, k) objects that are text, "" after the last of an image; and (n,) int32, how many each
        has.
    """
    counts = np.array([len(some) for some in captions], np.int32)
    table = np.full((len(captions), counts.max()), "", object)
    for row, some in zip(table, captions):
        row[: len(some)] = some
    return table, counts


def draw(example: Mapping[str, tf.Tensor], seed: tf.Tensor) -> Example:
    """Draws one of the captions of an example as its `text`, each as likely as the others."""
    i = tf.random.stateless_uniform((), seed, 0, example["num_captions"], tf.int32)
    return {**example, "text": example["captions"][i]}


def _source(found: Sequence[Captioned]) -> IndexedSource:
    table, counts = padded([one.captions for one in found])
    paths = [str(one.image) for one in found]
    return IndexedSource(
        {"path": np.array(paths), "captions": table, "num_captions": counts},
        truths=TRUTHS,
        eval_truths=EVAL_TRUTHS,
        digest=_digest(found),
        loader=_load,
        drawer=draw,
        names=tuple(one.name for one in found),
        explainer=lambda message: image_folder.explain(paths, message),
    )


def _load(row: Example) -> Example:
    image = tf.io.read_file(row["path"])
    return {
        "image": image,
        "text": row["captions"][0],
        "captions": row["captions"],
        "num_captions": row["num_captions"],
    }


def _digest(found: Sequence[Captioned]) -> str:
    """16 digits of a hash of all names and captions, but not of where they lie."""
    hashed = hashlib.sha256()
    for one in found:
        hashed.update("\0".join((one.name, *one.captions, "\0")).encode())
    return hashed.hexdigest()[:16]
