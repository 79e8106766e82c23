"""Images that are kept in memory."""

import logging

import jax
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import memory_cache
from tests.helpers import FULL, dataset, degraded_config, photo


@pytest.mark.parametrize("kind", ["degraded", "pairs", "classes"])
def test_what_is_kept_in_memory_is_what_was_read(kind, photos_folder, set_of_pairs, monkeypatch):
    source = {"degraded": photos_folder, "pairs": set_of_pairs}.get(kind, photos_folder.parent)
    config = degraded_config(source, sigma=5.0)
    config.data.kind = kind
    config.data.val_fraction = 0.0
    scale = 2
    if kind == "classes":
        for name in ("a", "b"):
            (source / "classes" / name).mkdir(parents=True)
            Image.fromarray(photo((30, 40))).save(source / "classes" / name / "1.png")
        config.data.source = str(source / "classes")
        config.data.train_pp = f"decode|random_crop(24)|flip_lr|{FULL}"
        config.data.eval_pp = f"decode|resize(24)|{FULL}"
        scale = 1
    plain = [batch for batch, _ in zip(dataset(config, scale=scale).train_batches(), range(6))]
    config.data.cache = True
    reads = []
    monkeypatch.setattr(
        memory_cache.MemoryCache, "_keep", count(reads, memory_cache.MemoryCache._keep)
    )
    cached = [batch for batch, _ in zip(dataset(config, scale=scale).train_batches(), range(6))]
    for a, b in zip(plain, cached):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert 0 < len(reads) < 12 + 8  # of 12 examples and what is read ahead


def count(calls, method):
    def counted(self, *args):
        calls.append(args[0])
        return method(self, *args)

    return counted


def test_a_cache_keeps_what_fits(caplog):
    loads = []

    def load(row):
        tf.py_function(lambda i: loads.append(int(i)), [row["index"]], [])
        return {
            "image": tf.fill((10, 10, 3), tf.cast(row["index"], tf.uint8)),
            "label": row["index"],
        }

    logging.getLogger("input_pipeline").propagate = True
    cache = memory_cache.MemoryCache(load, limit=2 * 308)
    rows = tf.data.Dataset.range(3).repeat(3).map(lambda i: cache({"index": i}))
    seen = [(int(x["image"][9, 9, 2]), int(x["label"])) for x in rows]
    assert seen == [(i, i) for i in range(3)] * 3
    assert "data.cache: 2 images fit into memory" in caplog.text


def test_what_cannot_be_kept_says_so(photos_folder):
    config = degraded_config(photos_folder)
    config.data.kind = "hazy_from_clear"
    config.data.cache = True
    with pytest.raises(
        ValueError, match=r"data\.cache is for folders of images whose reading draws"
    ):
        next(dataset(config, scale=1).train_batches())
