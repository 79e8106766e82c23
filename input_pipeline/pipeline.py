"""Batches: endless and shuffled for training, complete and masked for evaluation."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline import preprocess
from input_pipeline.sources import get_splits
from input_pipeline.sources.base import Example, Shard, Source

Batch = dict[str, np.ndarray]

_PREFETCH_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The splits of a data set, preprocessed and cut into batches for one process.

    Attributes:
        splits: sources by name: "train", and "val" and "test" where the data has them.
        train_pp: preprocessing of training images.
        eval_pp: preprocessing of the images of every other purpose.
        batch_size: over all processes.
        seed: of order and augmentation.
        shard: this process's part of every batch.
    """

    splits: dict[str, Source]
    train_pp: str
    eval_pp: str
    batch_size: int
    seed: int
    shard: Shard

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        return self.splits["train"].class_names

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's data must have in common from start to end, as plain values."""
        sizes = {split: source.num_examples for split, source in sorted(self.splits.items())}
        return {"classes": list(self.class_names), "examples": sizes}

    @property
    def steps_per_epoch(self) -> float:
        """Training steps in which every example is seen once on average."""
        return self.splits["train"].num_examples / self.batch_size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of an image to evaluate."""
        return tuple(self._eval_batches("train").element_spec["image"].shape[1:])

    @property
    def train_image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of an image to train on."""
        return tuple(self._train_batches(0).element_spec["image"].shape[1:])

    @property
    def _local_batch(self) -> int:
        return self.batch_size // self.shard.count

    def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the training batches from a step on, without end.

        A batch is a function of the seed and the step: `image` (b, h, w, c) float32 and `label`
        (b,) int32, with b this process's share of the batch.

        Raises:
            ValueError: if an image cannot be read; the message names the file.
        """
        dataset = self._train_batches(start_step)
        yield from _read(dataset.prefetch(_PREFETCH_BATCHES), self.splits["train"])

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """Yields a split once: every example in one batch of one process.

        Besides `image` and `label` a batch has `_mask` (b,) float32, 0 for the rows that fill up
        the last batch. Every process yields the same number of batches.

        Raises:
            ValueError: if an image cannot be read; the message names the file.
        """
        source = self.splits[split]
        dataset = self._eval_batches(split)
        most = math.ceil(source.num_examples / self.shard.count)
        num_batches = math.ceil(most / self._local_batch)
        batches = _read(dataset.prefetch(_PREFETCH_BATCHES), source)
        empty = {
            name: np.zeros((0, *spec.shape[1:]), spec.dtype.as_numpy_dtype)
            for name, spec in dataset.element_spec.items()
        }
        for _ in range(num_batches):
            yield pad_batch(next(batches, empty), self._local_batch)

    def _train_batches(self, start_step: int) -> tf.data.Dataset:
        source = self.splits["train"]
        start = start_step * self._local_batch
        dataset = source.stream(self.seed, start, self.shard, self._local_batch)
        dataset = _prepare(dataset, source, self.train_pp, train=True)
        return dataset.batch(self._local_batch, drop_remainder=True)

    def _eval_batches(self, split: str) -> tf.data.Dataset:
        source = self.splits[split]
        dataset = _prepare(source.once(self.shard), source, self.eval_pp, train=False)
        return dataset.batch(self._local_batch)


def get_dataset(config: Any, batch_size: int, seed: int, shard: Shard | None = None) -> Dataset:
    """Opens the data that `config.data` describes.

    Args:
        config: `config.data`.
        batch_size: over all processes.
        seed: of order and augmentation.
        shard: this process's part; the whole if None.

    Returns:
        The data set.

    Raises:
        ValueError: if the data is missing, or cannot be used as described.
    """
    shard = shard or Shard()
    if batch_size < 1 or batch_size % shard.count:
        raise ValueError(
            f"batch_size={batch_size} must be positive and divisible by {shard.count} process(es)"
        )
    preprocess.build(config.train_pp, train=True)
    preprocess.build(config.eval_pp, train=False)
    return Dataset(
        splits=get_splits(config),
        train_pp=config.train_pp,
        eval_pp=config.eval_pp,
        batch_size=batch_size,
        seed=seed,
        shard=shard,
    )


def pad_batch(batch: Batch, size: int) -> Batch:
    """Fills a batch up to `size` rows with zeros and adds `_mask`, 1 for the rows that were there.

    Args:
        batch: arrays (b, ...) with b at most `size`.
        size: rows afterwards.

    Returns:
        Arrays (size, ...), and `_mask` (size,) float32.
    """
    rows = len(next(iter(batch.values())))
    mask = np.ones(rows, np.float32)
    return {
        name: np.pad(array, [(0, size - rows)] + [(0, 0)] * (array.ndim - 1))
        for name, array in {**batch, "_mask": mask}.items()
    }


def _prepare(dataset: tf.data.Dataset, source: Source, spec: str, train: bool) -> tf.data.Dataset:
    """Loads and preprocesses raw examples, in parallel and in order."""
    apply = preprocess.build(spec, train)

    @tf.autograph.experimental.do_not_convert  # it would wrap the messages of our errors
    def prepare(example: Example) -> Example:
        example = source.load(example)
        _check_input(example["image"], spec)
        seed = example["seed"] if train else tf.zeros((2,), tf.int32)
        return {"image": apply(example["image"], seed), "label": example["label"]}

    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    _check_output(dataset.element_spec["image"], spec)
    return dataset


def _check_input(image: tf.Tensor, spec: str) -> None:
    is_file = image.dtype == tf.string
    if is_file != preprocess.reads_files(spec):
        raise ValueError(
            f"preprocessing {spec!r} must begin with decode: the images are files"
            if is_file
            else f"preprocessing {spec!r} must not begin with decode: the images are arrays"
        )


def _check_output(image: tf.TensorSpec, spec: str) -> None:
    if image.dtype != tf.float32:
        raise ValueError(
            f"preprocessing {spec!r} must end with value_range(-1, 1) or normalize: it makes "
            f"{image.dtype.name} images"
        )
    if image.shape.rank != 3 or not image.shape.is_fully_defined():
        raise ValueError(
            f"preprocessing {spec!r} leaves images of different sizes, which make no batch; "
            "add resize(224), or a crop"
        )


def _read(dataset: tf.data.Dataset, source: Source) -> Iterator[Batch]:
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        raise ValueError(source.explain(explain(error))) from error


def explain(error: tf.errors.OpError) -> str:
    """Takes TensorFlow's talk of graphs off the message of an assertion."""
    match = re.search(r"assertion failed: \[(.*?)\]", error.message, re.DOTALL)
    return match.group(1).strip("b'") if match else error.message
