"""Any data set of TensorFlow Datasets, by name."""

import dataclasses
import logging
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.cpu_tf import tf
from input_pipeline.sources.base import Example, IndexedSource, Shard, Source, example_seed

_LOG = logging.getLogger(__name__)

PREFIX = "tfds:"

_FILES_SHUFFLED = 10_000  # all of them, but of data sets with more
_FILES_READ = 16  # at a time, alternately
_BLOCK = 16  # records in a row from one file


@dataclasses.dataclass(frozen=True)
class TfrecordSource:
    """A split of a TFDS data set that is stored as TFRecords, read in sequence.

    Each process reads a sub-split of its own; each epoch shuffles the files and then a buffer of
    records. Resuming inside an epoch reads the records before, but does not parse them, which is
    what takes time.

    Attributes:
        builder: of the prepared data set.
        split: in TFDS's syntax, such as "train[:80%]".
        keys: features that hold the image and the class.
        shuffle_buffer: how many records the shuffling holds.
    """

    builder: tfds.core.DatasetBuilder
    split: str
    keys: tuple[str, str]
    shuffle_buffer: int

    has_image = True
    truths = ("label",)
    eval_truths = ()
    digest = ""

    @property
    def num_examples(self) -> int:
        """Size of the split, over all processes."""
        return self.builder.info.splits[self.split].num_examples

    names = ()  # its examples are not known by name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        return _class_names(self.builder, self.keys)

    def stream(self, seed: int, start: int, shard: Shard, local_batch: int) -> tf.data.Dataset:
        """See `Source`."""
        del local_batch  # a process's sub-split does not depend on it
        part = tfds.even_splits(self.split, shard.count)[shard.index]
        size = self.builder.info.splits[part].num_examples
        first_epoch, position = divmod(start, size)

        def read_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            order = example_seed(seed, epoch, tf.constant(-1, tf.int64))
            order = tf.cast(order[0], tf.int64)
            records = self._files(part).shuffle(_FILES_SHUFFLED, seed=order)
            records = records.interleave(
                _read_file, _FILES_READ, _BLOCK, tf.data.AUTOTUNE, deterministic=True
            )
            records = records.shuffle(min(self.shuffle_buffer, size), seed=order)
            consumed = tf.where(epoch == first_epoch, tf.cast(position, tf.int64), 0)

            def with_seed(i: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                return record, example_seed(seed, epoch, i * shard.count + shard.index)

            return records.enumerate().skip(consumed).map(with_seed)

        def parse(record: tf.Tensor, its_seed: tf.Tensor) -> Example:
            return {**_parse(self.builder, self.keys, record), "seed": its_seed}

        records = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(read_epoch)
        return records.map(parse, tf.data.AUTOTUNE, deterministic=True)

    def once(self, shard: Shard) -> tf.data.Dataset:
        """See `Source`."""
        part = tfds.even_splits(self.split, shard.count)[shard.index]
        records = self._files(part).flat_map(_read_file)

        def parse(record: tf.Tensor) -> Example:
            return _parse(self.builder, self.keys, record)

        return records.map(parse, tf.data.AUTOTUNE, deterministic=True)

    def load(self, example: Example) -> Example:
        """See `Source`."""
        return example

    def draw(self, example: Example, seed: tf.Tensor) -> Example:
        """See `Source`."""
        del seed
        return example

    def finish(self, example: Example, seed: tf.Tensor) -> Example:
        """See `Source`."""
        del seed
        return example

    def explain(self, message: str) -> str:
        """See `Source`."""
        return _explain(self.builder, self.split, message)

    def _files(self, split: Any) -> tf.data.Dataset:
        """The files of a split: name, and how many records to skip and to take."""
        files = self.builder.info.splits[split].file_instructions
        ranges = np.array([(f.skip, f.take) for f in files], np.int64)
        names = [f.filename for f in files]
        return tf.data.Dataset.from_tensor_slices((names, ranges[:, 0], ranges[:, 1]))


def _array_record_source(
    builder: tfds.core.DatasetBuilder, split: str, keys: tuple[str, str]
) -> IndexedSource:
    """A split that is stored as ArrayRecords, which are read in any order."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource  # Linux's alone

    info = builder.info.splits[split]
    records = ArrayRecordDataSource(info.file_instructions)

    def read(index: np.ndarray) -> np.ndarray:
        return np.array(records[int(index)], object)

    def load(example: Example) -> Example:
        record = tf.numpy_function(read, [example["index"]], tf.string, stateful=False)
        return _parse(builder, keys, tf.ensure_shape(record, ()))

    return IndexedSource(
        {"row": np.arange(info.num_examples)},
        _class_names(builder, keys),
        loader=load,
        explainer=lambda message: _explain(builder, split, message),
    )


@tf.autograph.experimental.do_not_convert  # it warns of TFDS's own code
def _parse(
    builder: tfds.core.DatasetBuilder, keys: tuple[str, str], record: tf.Tensor
) -> Example:  # fmt: skip
    image, label = keys
    decoders = {image: tfds.decode.SkipDecoding()}
    example = builder.info.features.deserialize_example(record, decoders=decoders)
    return {"image": example[image], "label": tf.cast(example[label], tf.int32)}


def _class_names(builder: tfds.core.DatasetBuilder, keys: tuple[str, str]) -> tuple[str, ...]:
    return tuple(builder.info.features[keys[1]].names)


def _explain(builder: tfds.core.DatasetBuilder, split: str, message: str) -> str:
    return f"{PREFIX}{builder.info.full_name} {split}: {message}"


def _read_file(name: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(name).skip(skip).take(take)


def splits(config: Any) -> dict[str, Source]:
    """Opens a TFDS data set, downloading and preparing it the first time.

    Args:
        config: `config.data`, of which `source` ("tfds:NAME"), `tfds` and `skip_corrupt` are read.

    Returns:
        Sources by split name; "train" is always among them.

    Raises:
        ValueError: for an unknown name or split, or a data set without images and classes.
    """
    if config.tfds.shuffle_buffer < 1:
        raise ValueError(
            f"data.tfds.shuffle_buffer must be at least 1, not {config.tfds.shuffle_buffer}"
        )
    builder = _open(config)
    wanted = {
        "train": config.tfds.train_split,
        "val": config.tfds.val_split,
        "test": config.tfds.test_split,
    }
    sources = {}
    for name, split in wanted.items():
        if split:
            _check_split(builder, name, split)
            sources[name] = open_split(builder, split, config.tfds.shuffle_buffer)
    if "train" not in sources:
        raise ValueError("data.tfds.train_split is empty")
    return sources


def whole_splits(config: Any) -> dict[str, Source]:
    """Opens all that a TFDS data set has.

    Args:
        config: `config.data`, as for `splits`.

    Returns:
        Sources by the names that TFDS has for the splits.

    Raises:
        ValueError: for an unknown name, or a data set without images and classes.
    """
    builder = _open(config)
    return {
        name: open_split(builder, name)
        for name, split in builder.info.splits.items()
        if split.num_examples
    }


def open_split(
    builder: tfds.core.DatasetBuilder, split: str, shuffle_buffer: int = 1
) -> Source:  # fmt: skip
    """Opens a split of a prepared data set, which may be in TFDS's syntax.

    Raises:
        ValueError: if it has no images and classes, or is stored in a way that cannot be read.
    """
    keys = _keys(builder)
    stored = builder.info.file_format
    if stored == tfds.core.FileFormat.ARRAY_RECORD:
        return _array_record_source(builder, split, keys)
    if stored == tfds.core.FileFormat.TFRECORD:
        return TfrecordSource(builder, split, keys, shuffle_buffer)
    raise ValueError(
        f"{PREFIX}{builder.info.full_name} in {builder.data_dir} is stored as {stored.value}; "
        "prepare it as array_record or tfrecord"
    )


def _open(config: Any) -> tfds.core.DatasetBuilder:
    """The builder of a data set that is prepared."""
    name = config.source.removeprefix(PREFIX)
    if not name:
        raise ValueError(f"data.source={config.source!r} lacks a name, as in {PREFIX}cifar10")
    if config.skip_corrupt:
        raise ValueError(
            "data.skip_corrupt is for image folders; TFDS checks its files when it prepares them"
        )
    try:
        builder = tfds.builder(name, data_dir=config.tfds.data_dir)
    except (tfds.core.DatasetNotFoundError, AssertionError) as error:  # the latter: no such version
        raise ValueError(
            f"data.source={config.source!r}: TFDS knows no such data set"
            + (f" in {config.tfds.data_dir}" if config.tfds.data_dir else "")
            + f" ({str(error).strip().splitlines()[0]})"
        ) from None
    if not builder.is_prepared():
        _prepare(builder, config.tfds.manual_dir)
    return builder


def _prepare(builder: tfds.core.DatasetBuilder, manual_dir: str | None) -> None:
    name = f"{PREFIX}{builder.info.full_name}"
    _LOG.info("preparing %s in %s, once; this can take long ...", name, builder.data_dir)
    try:
        config = tfds.download.DownloadConfig(manual_dir=manual_dir)
        builder.download_and_prepare(download_config=config)
    except (OSError, AssertionError) as error:  # no network, no space, or no manual download
        raise ValueError(
            f"{name} cannot be prepared: {str(error).strip().splitlines()[0]}. If it is prepared "
            "elsewhere, set data.tfds.data_dir; what is downloaded by hand goes to "
            "data.tfds.manual_dir"
        ) from error


def _keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """Names of the first image and the first class feature."""
    features = dict(builder.info.features.items())
    image = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    label = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if not image or not label:
        raise ValueError(
            f"{PREFIX}{builder.info.full_name} has no image and class to learn from; "
            f"its features are: {', '.join(features)}"
        )
    supervised = builder.info.supervised_keys or ()
    return (
        next((k for k in supervised if k in image), image[0]),
        next((k for k in supervised if k in label), label[0]),
    )


def _check_split(builder: tfds.core.DatasetBuilder, name: str, split: str) -> None:
    key = f"data.tfds.{name}_split"
    try:
        size = builder.info.splits[split].num_examples
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{key}={split!r} does not fit {PREFIX}{builder.info.full_name}, which has "
            f"{', '.join(builder.info.splits)} ({error}); --config.{key}= leaves it out"
        ) from None
    if not size:
        raise ValueError(f"{key}={split!r} holds no examples")
