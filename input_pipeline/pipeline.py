"""Batches: endless and shuffled for training, complete and masked for evaluation."""

import atexit
import collections
import dataclasses
import functools
import logging
import math
import re
import weakref
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from input_pipeline import images, preprocess, texts
from input_pipeline.cpu_tf import tf
from input_pipeline.fields import TEXTS
from input_pipeline.memory_cache import MemoryCache
from input_pipeline.ops import NAMED
from input_pipeline.sources import get_splits
from input_pipeline.sources.balanced import balance, count_classes
from input_pipeline.sources.base import (
    BatchedSource,
    Example,
    IndexedSource,
    Shapes,
    Shard,
    Source,
    fold_in,
)
from input_pipeline.texts import Tokenize

_LOG = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]
AnySource = Source | BatchedSource

_PREFETCH_BATCHES = 2
_DRAW = -1  # folded into an example's seed; the ops of a string have 0, 1, ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The splits of a data set, preprocessed and cut into batches for one process.

    Attributes:
        splits: sources by name: "train", and "val" and "test" where the data has them.
        train_pp: preprocessing of training images; "" if examples have no image.
        val_pp: preprocessing of validation images.
        eval_pp: preprocessing of the images of every other purpose.
        batch_size: over all processes.
        seed: of order and augmentation.
        shard: this process's part of every batch.
        devices: over all processes; images that differ in size are evaluated one on each.
        scale: how many times larger the targets are than the images.
        cache: whether decoded training images are kept in memory.
        tokenize: makes numbers of `text` and `captions`; None leaves them as they are.
    """

    splits: dict[str, AnySource]
    train_pp: str
    val_pp: str
    eval_pp: str
    batch_size: int
    seed: int
    shard: Shard
    devices: int
    scale: int
    cache: bool
    tokenize: Tokenize | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels; empty for pairs of images."""
        return self._any_source.class_names

    @property
    def class_counts(self) -> np.ndarray | None:
        """(classes,) int64, how many examples to train on each has; None if nobody knows."""
        return count_classes(self.splits.get("train"))

    @property
    def truths(self) -> tuple[str, ...]:
        """What the examples of all splits have besides images, such as "label" or "target".

        Some may have it only when it is to be evaluated, such as "captions".
        """
        first, *others = [
            (*source.truths, *source.eval_truths)
            for source in (self._any_source, *self.splits.values())
        ]
        return tuple(key for key in first if all(key in own for own in others))

    @property
    def keys(self) -> tuple[str, ...]:
        """All that the examples have: "image", if they have one, and the `truths`."""
        return (*_image_key(self._any_source), *self.truths)

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's data must have in common from start to end, as plain values."""
        sizes = {split: source.num_examples for split, source in sorted(self.splits.items())}
        classes = {"classes": list(self.class_names)} if self.class_names else {}
        digests = {split: source.digest for split, source in self.splits.items() if source.digest}
        if self.tokenize is not None:
            digests["vocabulary"] = self.tokenize.digest
        return {**classes, "examples": sizes, **({"contents": digests} if digests else {})}

    @property
    def steps_per_epoch(self) -> float:
        """Training steps in which every example is seen once on average; 0 without examples."""
        source = self.splits.get("train")
        if isinstance(source, BatchedSource):
            return source.steps_per_epoch(self.batch_size)
        return source.num_examples / self.batch_size if source else 0

    @functools.cached_property  # to ask TensorFlow takes a while
    def example(self) -> Shapes:
        """What an example to evaluate has, or one to train on if those to evaluate differ."""
        if isinstance(self._any_source, BatchedSource):
            return self._any_source.example
        spec = self._evaluated(self._any_source, self.eval_pp).element_spec
        is_one_size = all(part.shape.is_fully_defined() for part in spec.values())
        return _shapes(spec) if is_one_size else self.train_example

    @functools.cached_property
    def train_example(self) -> Shapes:
        """What an example to train on has, such as {"image": ((h, w, c), float32)}."""
        if isinstance(self._any_source, BatchedSource):
            return self._any_source.example
        return _shapes(self._trained_on(self._any_source, self.train_pp, start=0).element_spec)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(h, w, c) of an image to evaluate, see `example`; () if examples have no image."""
        return self.example["image"][0] if self._any_source.has_image else ()

    @property
    def train_image_shape(self) -> tuple[int, ...]:
        """(h, w, c) of an image to train on; () if examples have no image."""
        return self.train_example["image"][0] if self._any_source.has_image else ()

    @property
    def _any_source(self) -> AnySource:
        return self.splits.get("train", next(iter(self.splits.values())))

    @property
    def _local_batch(self) -> int:
        return self.batch_size // self.shard.count

    def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the training batches from a step on, without end.

        A batch is a function of the seed and the step: `image` (b, h, w, c) float32, and `label`
        (b,) int32, `target` (b, h, w, c) float32, `mask` (b, h, w) int32 or `text` (b, n) int32,
        with b this process's share of the batch. What a `BatchedSource` has comes as it makes it.

        Raises:
            ValueError: if an image cannot be read; the message names the file.
        """
        source = self.splits["train"]
        if self.cache:
            source = _cached(source, self.train_pp)
        if isinstance(source, BatchedSource):
            yield from source.train_batches(self.seed, start_step, self.shard, self.batch_size)
            return
        start = start_step * self._local_batch
        dataset = self._trained_on(source, self.train_pp, start, decoded=self.cache)
        dataset = dataset.batch(self._local_batch, drop_remainder=True)
        yield from read(dataset.prefetch(_PREFETCH_BATCHES), source)

    def eval_batches(self, split: str, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yields a split once: every example in one batch of one process.

        Besides what a training batch has, it has `_mask` (b,) float32, 0 for the rows that fill up
        a batch, and `index` (b,) int32, the number of an example where the source counts them.
        With `text`, the first caption of an image, come all of them, `captions` (b, k, n) int32,
        of which the first `num_captions` (b,) int32 are its own.
        Every process yields the same number of batches. If the images differ in size, a batch
        holds one image for each device, and all of its images are of one size.

        Args:
            split: "val" or "test".
            rows: numbers of the examples that are wanted; None for all. Not for TFDS.

        Raises:
            ValueError: if an image cannot be read; the message names the file.
        """
        source = self.splits[split]
        if isinstance(source, BatchedSource):
            yield from source.eval_batches(self.shard, self.batch_size, rows)
            return
        spec = self.val_pp if split == "val" else self.eval_pp
        dataset = self._evaluated(source, spec, _share(rows, self.shard))
        spec_of_image = dataset.element_spec.get("image")
        is_one_size = spec_of_image is None or spec_of_image.shape.is_fully_defined()
        if not is_one_size and isinstance(source, IndexedSource):
            yield from self._eval_batches_by_size(source, spec, rows)
            return
        count = source.num_examples if rows is None else len(rows)
        dataset = dataset.batch(self._local_batch)
        batches = read(dataset.prefetch(_PREFETCH_BATCHES), source)
        empty = {
            name: np.zeros((0, *spec.shape[1:]), spec.dtype.as_numpy_dtype)
            for name, spec in dataset.element_spec.items()
        }
        for _ in range(math.ceil(math.ceil(count / self.shard.count) / self._local_batch)):
            yield pad_batch(next(batches, empty), self._local_batch)

    def _eval_batches_by_size(
        self, source: IndexedSource, spec: str, rows: Sequence[int] | None
    ) -> Iterator[Batch]:
        assert source.image_sizes is not None  # or images of several sizes were refused
        sizes = source.image_sizes()
        by_size = collections.defaultdict(list)
        for row in range(len(sizes)) if rows is None else rows:
            by_size[tuple(sizes[row])].append(row)
        batches = [
            group[i : i + self.devices]
            for _, group in sorted(by_size.items())
            for i in range(0, len(group), self.devices)
        ]
        # A process for which a batch has no example reads one of another's, for its size.
        shares = [_share(batch, self.shard) or batch[:1] for batch in batches]
        wanted = [row for share in shares for row in share]
        dataset = self._evaluated(source, spec, wanted)
        examples = read(dataset.prefetch(_PREFETCH_BATCHES), source)
        for batch, share in zip(batches, shares):
            own = [next(examples) for _ in share]
            stacked = {name: np.stack([example[name] for example in own]) for name in own[0]}
            padded = pad_batch(stacked, self.devices // self.shard.count)
            if not _share(batch, self.shard):
                padded["_mask"][:] = 0
            yield padded

    def _trained_on(
        self, source: Source, spec: str, start: int, decoded: bool = False
    ) -> tf.data.Dataset:
        raw = source.stream(self.seed, start, self.shard, self._local_batch)
        return self._prepare(raw, source, spec, train=True, decoded=decoded)

    def _evaluated(
        self, source: Source, spec: str, rows: Sequence[int] | None = None
    ) -> tf.data.Dataset:
        if rows is None:
            raw = source.once(self.shard)
        else:
            assert isinstance(source, IndexedSource)  # others do not know their examples by number
            raw = source.take(np.asarray(rows))
        return self._prepare(raw, source, spec, train=False)

    def _prepare(
        self, raw: tf.data.Dataset, source: Source, spec: str, train: bool, decoded: bool = False
    ) -> tf.data.Dataset:
        """Loads and preprocesses raw examples, in parallel and in order."""
        decoded |= getattr(source, "decodes", False)
        keys = (*_image_key(source), *source.truths, *(() if train else source.eval_truths))
        apply = preprocess.build(spec, train, self.scale, decoded) if source.has_image else None

        @tf.autograph.experimental.do_not_convert  # it would wrap the messages of our errors
        def prepare(example: Example) -> Example:
            seed = example["seed"] if train else tf.zeros((2,), tf.int32)
            is_counted = "index" in example and not train
            index = {"index": tf.cast(example["index"], tf.int32)} if is_counted else {}
            loaded = source.load(example)
            if train:
                loaded = source.draw(loaded, fold_in(seed, _DRAW))
            fields = {key: loaded[key] for key in keys}
            if apply is not None:
                if not decoded:
                    _check_input(fields["image"], spec)
                name = _name_of(example) if isinstance(source, IndexedSource) else ""
                fields = apply(fields, seed, name)
            if self.tokenize is not None:
                fields = texts.tokenized(fields, self.tokenize)
            own_seed = fold_in(seed, index["index"]) if is_counted else seed
            return {**source.finish(fields, own_seed), **index}

        dataset = raw.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        can_differ = not train and getattr(source, "image_sizes", None) is not None
        _check_output(dataset.element_spec, spec, can_differ)
        options = tf.data.Options()
        options.threading.max_intra_op_parallelism = 1  # examples are prepared side by side already
        return dataset.with_options(options)


def _cached(source: AnySource, spec: str) -> Source:
    """A source that keeps decoded images in memory."""
    if not (isinstance(source, IndexedSource) and source.loads_alike):
        raise ValueError(
            "data.cache is for folders of images whose reading draws no random numbers: set it to "
            "False"
        )

    def load(row: Example) -> Example:
        loaded = source.loader(row)
        keys = (*_image_key(source), *source.truths, *source.eval_truths)
        example = {key: loaded[key] for key in keys}
        if source.has_image and preprocess.reads_files(spec) and not source.decodes:
            example["image"] = images.decode(example["image"])
        return example

    return dataclasses.replace(source, loader=MemoryCache(load))


def _shapes(spec: dict[str, tf.TensorSpec]) -> Shapes:
    return {
        key: (tuple(part.shape), np.dtype(part.dtype.as_numpy_dtype)) for key, part in spec.items()
    }


def _image_key(source: AnySource) -> tuple[str, ...]:
    return ("image",) if source.has_image else ()


def _share(rows: Sequence[int] | None, shard: Shard) -> list[int] | None:
    """This process's part of some rows, as `Source.once` has it of all."""
    return None if rows is None else list(rows[shard.index :: shard.count])


def get_dataset(
    config: Any,
    batch_size: int,
    seed: int,
    shard: Shard | None = None,
    devices: int = 1,
    scale: int = 1,
    tokenize: Tokenize | None = None,
) -> Dataset:
    """Opens the data that `config.data` describes.

    Args:
        config: `config.data`.
        batch_size: over all processes.
        seed: of order and augmentation.
        shard: this process's part; the whole if None.
        devices: over all processes.
        scale: how many times larger the model's outputs are than its inputs.
        tokenize: what the model's texts are made numbers by; None leaves texts as they are.

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
    specs = {key: config[key] for key in ("train_pp", "val_pp", "eval_pp") if config[key]}
    for key, spec in specs.items():  # before the data are looked for, which may take a while
        preprocess.build(spec, train=key == "train_pp", scale=scale)
    splits = get_splits(config, scale, tokenize)
    if "train" in splits:
        splits["train"] = balance(splits["train"], config.balance)
    _check_specs(splits, config, specs)
    _warn_of_texts(splits, config.train_pp, tokenize)
    _warn_of_batch(splits, batch_size)
    return Dataset(
        splits=splits,
        train_pp=config.train_pp,
        val_pp=config.val_pp or config.eval_pp,
        eval_pp=config.eval_pp,
        batch_size=batch_size,
        seed=seed,
        shard=shard,
        devices=devices,
        scale=scale,
        cache=config.cache,
        tokenize=tokenize,
    )


def _check_specs(splits: dict[str, AnySource], config: Any, specs: dict[str, str]) -> None:
    """Raises a ValueError unless there is preprocessing just where there are images."""
    if any(source.has_image for source in splits.values()):
        for key in ("train_pp", "eval_pp"):
            if key not in specs:
                raise ValueError(
                    f"data.{key} is empty, and the images of data.kind={config.kind!r} must be "
                    "prepared, as by 'decode|resize(224)|value_range(-1, 1)'"
                )
    elif specs:
        raise ValueError(
            f"the examples of data.kind={config.kind!r} have no image to prepare: leave "
            f"{' and '.join(f'data.{key}' for key in specs)} empty, as in --config.data.train_pp="
        )


def _warn_of_texts(splits: dict[str, AnySource], spec: str, tokenize: Tokenize | None) -> None:
    for split, source in splits.items():
        there = source.texts()
        if there and tokenize is not None:
            texts.tell_cut(split, there, tokenize)
        if there and split == "train" and source.has_image:
            texts.warn_of_mirroring([name for name, _ in preprocess.parse(spec)], there)


def _warn_of_batch(splits: dict[str, AnySource], batch_size: int) -> None:
    count = splits["train"].num_examples if "train" in splits else batch_size
    if count < batch_size:
        _LOG.warning(
            "batch_size=%d is more than the %d examples to train on, so that each is in a batch "
            "several times: a smaller --config.batch_size makes more steps of an epoch",
            batch_size, count,
        )  # fmt: skip


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


def _name_of(row: Example) -> tf.Tensor | str:
    """The paths that a row of an `IndexedSource` holds, () string; "" if there are none."""
    paths = [row[key] for key in row if row[key].dtype == tf.string and key not in TEXTS]
    return tf.strings.join(paths, " and ") if paths else ""


def _check_input(image: tf.Tensor, spec: str) -> None:
    is_file = image.dtype == tf.string
    if is_file != preprocess.reads_files(spec):
        raise ValueError(
            f"preprocessing {spec!r} must begin with decode: the images are files"
            if is_file
            else f"preprocessing {spec!r} must not begin with decode: the images are arrays"
        )


def _check_output(element: dict[str, tf.TensorSpec], spec: str, can_differ: bool) -> None:
    if "image" not in element:
        for key, part in element.items():
            if not part.shape.is_fully_defined():
                raise ValueError(
                    f"{key!r} is of several shapes, {part.shape}, of which no batch can be made"
                )
        return
    image = element["image"]
    if image.dtype != tf.float32:
        raise ValueError(
            f"preprocessing {spec!r} must end with value_range(-1, 1) or normalize: it makes "
            f"{image.dtype.name} images"
        )
    if not can_differ and not image.shape.is_fully_defined():
        raise ValueError(
            f"preprocessing {spec!r} leaves images of different sizes, which make no batch; "
            "add resize(224), or a crop"
        )


def read(dataset: tf.data.Dataset, source: Source) -> Generator[Any, None, None]:
    """Yields what a dataset holds, as numpy arrays; a ValueError names what cannot be read."""
    reading = _read(dataset, source)
    _being_read.add(reading)
    return reading


def _read(dataset: tf.data.Dataset, source: Source) -> Generator[Any, None, None]:
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        message = explain(error)
        # What the message names need not be looked for; but sources that know their images' sizes
        # can say more.
        is_named = message.startswith(NAMED) and not getattr(source, "image_sizes", None)
        raise ValueError(message if is_named else source.explain(message)) from error


_being_read: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


@atexit.register
def _stop_reading() -> None:
    """Stops what reads ahead, and would call Python functions when Python has ended."""
    for reading in list(_being_read):
        reading.close()


def explain(error: tf.errors.OpError) -> str:
    """Takes TensorFlow's talk of graphs off the message of an assertion."""
    match = re.search(r"assertion failed: \[(.*?)\](\s+\[\[|$)", error.message, re.DOTALL)
    return re.sub(r"\\(.)", r"\1", match.group(1)) if match else error.message
