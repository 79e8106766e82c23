"""Folders of small images and masks, and what is read of them."""

import numpy as np
import tensorflow as tf
from PIL import Image

from input_pipeline import get_dataset
from input_pipeline.palettes import bit_palette
from input_pipeline.sources import masks
from input_pipeline.sources.mask_layouts import find_masked_images, guess_set
from tests.helpers import data_config

VALUES = "value_range(0, 255)"
SIZE = (8, 12)


def mask_of(labels, size=SIZE, dtype=np.uint8):
    """A mask in which labels take turns, all of which occur."""
    return np.resize(np.array(labels), size).astype(dtype)


def image_of(size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def save(path, pixels, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(bit_palette(256).tobytes())
    image.save(path, **options)
    return path


def write(folder, pairs, labels=(0, 1, 2), mode=None):
    """Writes images, and masks by their names, of which each has other pixels."""
    for seed, (image, mask) in enumerate(pairs.items()):
        save(folder / image, image_of(seed=seed))
        save(folder / mask, np.roll(mask_of(labels), seed), mode)


def config_of(folder, **changes):
    settings = {key: changes.pop(key) for key in ("classes", "reduce_zero_label", "ignore")
                if key in changes}  # fmt: skip
    defaults = {"train_pp": f"random_crop(6)|{VALUES}", "eval_pp": VALUES, "val_fraction": 0.0}
    config = data_config(folder, "segmentation", **{**defaults, **changes})
    config.masks.update(settings)
    return config


def opened(folder, **changes):
    return get_dataset(config_of(folder, **changes), 1, seed=0)


def read(data, split="train"):
    """Images and masks by name, as they are evaluated."""
    names = data.splits[split].names
    return {
        names[int(batch["index"][0])]: (batch["image"][0], batch["mask"][0])
        for batch in data.eval_batches(split)
        if batch["_mask"][0]
    }


def row_of(source, i):
    return {key: tf.constant(column[i]) for key, column in source.columns.items()}


def read_masks(folder, **changes):
    """Masks by name, without the pipeline."""
    found = find_masked_images(folder)
    labels = masks.find_labels(config_of(folder, **changes).masks, folder, guess_set(found), [])
    return {
        pair.name: masks.read_pair(pair, labels)[1]
        for split in found.values()
        for pair in split.pairs
    }


def two_of(image, mask):
    return {image.format("a"): mask.format("a"), image.format("b"): mask.format("b")}
