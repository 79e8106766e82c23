"""Folders of images and masks, to learn to say the class of each pixel."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import files, images
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import mask_layouts, masks, splitting
from input_pipeline.sources.base import Example, IndexedSource, Source
from input_pipeline.sources.mask_layouts import MaskedImage
from input_pipeline.sources.masks import Labels

_LOG = logging.getLogger(__name__)


def splits(config: Any) -> dict[str, Source]:
    """Finds the images and masks of a folder, see `mask_layouts.find_masked_images`.

    What is missing is split off train by the images' names, see `splitting.split_off_scenes`.

    Args:
        config: `config.data`, of which `source`, `masks`, `val_fraction`, `split_seed` and
            `skip_corrupt` are read.

    Returns:
        Sources by split name, whose examples have an `image`, (h, w, 3) uint8, and a `mask` of its
        size, (h, w) uint8 and int32 in the end, in which 255 is to be ignored.

    Raises:
        ValueError: for a folder that is missing, without masks, or with images that have none.
    """
    folder = Path(config.source).expanduser()
    found = mask_layouts.find_masked_images(folder)
    orphans = [f"{name}: {why}" for name, split in found.items() for why in split.orphans]
    if orphans and not config.skip_corrupt:
        raise ValueError(
            f"{len(orphans)} images or masks have no partner of their name: "
            f"{files.some(orphans, most=5)}. Add or remove them, or leave them out with "
            "--config.data.skip_corrupt=True"
        )
    for why in orphans:
        _LOG.warning("left out: %s", why)
    by_split: dict[str, Sequence[MaskedImage]] = {
        name: split.pairs for name, split in found.items() if split.pairs
    }
    guess = mask_layouts.guess_set(found)
    labels = masks.find_labels(
        config.masks, folder, guess, [pair.mask for pairs in by_split.values() for pair in pairs]
    )
    _LOG.info("%d classes (%s): %s", len(labels.class_names), labels.origin,
              files.some(labels.class_names))  # fmt: skip
    if config.skip_corrupt:
        check = functools.partial(masks.read_pair, labels=labels)
        by_split = {
            name: files.without_faults(pairs, check, name) for name, pairs in by_split.items()
        }
    by_split = splitting.split_off_scenes(by_split, lambda pair: pair.name, config)
    return {name: _source(pairs, labels) for name, pairs in by_split.items()}


def _source(pairs: Sequence[MaskedImage], labels: Labels) -> IndexedSource:
    return IndexedSource(
        {
            name: np.array([str(getattr(pair, name)) for pair in pairs])
            for name in ("image", "mask")
        },
        labels.class_names,
        truths=("mask",),
        loader=lambda row: _load(row, labels),
        finisher=lambda example, _: {**example, "mask": tf.cast(example["mask"], tf.int32)},
        explainer=lambda message: _explain(pairs, labels, message),
        names=tuple(pair.name for pair in pairs),
        image_sizes=lambda: files.read_sizes([pair.mask for pair in pairs], is_rotated=False),
        decodes=True,
    )


def _load(row: Example, labels: Labels) -> Example:
    def decode_mask(data: bytes) -> np.ndarray:
        return labels.apply(masks.decode_mask(data))

    mask = tf.numpy_function(decode_mask, [tf.io.read_file(row["mask"])], tf.uint8, stateful=False)
    mask = tf.ensure_shape(mask, (None, None))
    data = tf.io.read_file(row["image"])
    image = tf.cond(
        images.is_plain(data),
        lambda: images.decode(data),
        lambda: tf.numpy_function(
            masks.decode_like_mask, [data, tf.shape(mask)], tf.uint8, stateful=False
        ),
    )
    image = tf.ensure_shape(image, (None, None, 3))
    fits = tf.reduce_all(tf.shape(image)[:2] == tf.shape(mask))
    message = "an image and its mask differ in size"
    with tf.control_dependencies([tf.debugging.Assert(fits, [message])]):
        return {"image": tf.identity(image), "mask": mask}


def _explain(pairs: Sequence[MaskedImage], labels: Labels, message: str) -> str:
    _LOG.warning("an image or a mask could not be read; looking for it among %d ...", len(pairs))
    check = functools.partial(masks.read_pair, labels=labels)
    faults = list(files.find_faults(pairs, check).values())
    if not faults:
        return message
    return (
        f"{len(faults)} image(s) or mask(s) that cannot be used: {files.some(faults, most=5)}. "
        "Mend or remove them, or leave them out with --config.data.skip_corrupt=True"
    )
