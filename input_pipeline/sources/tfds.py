"""Any data set of TensorFlow Datasets, by name."""

import contextlib
import dataclasses
import logging
import re
import urllib.parse
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.download import resource

from input_pipeline.arguments import closest
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import tfds_features
from input_pipeline.sources.base import (
    SAMPLED,
    Example,
    IndexedSource,
    Shard,
    Source,
    example_seed,
    texts_in,
)
from input_pipeline.sources.tfds_features import Features

_LOG = logging.getLogger(__name__)

PREFIX = "tfds:"

_FILES_SHUFFLED = 10_000  # all of them, but of data sets with more
_FILES_READ = 16  # at a time, alternately
_BLOCK = 16  # records in a row from one file
_ANSWERS_WITHIN_S = 10


@dataclasses.dataclass(frozen=True)
class TfrecordSource:
    """A split of a TFDS data set that is stored as TFRecords, read in sequence.

    Each process reads a sub-split of its own; each epoch shuffles the files and then a buffer of
    records. Resuming inside an epoch reads the records before, but does not parse them, which is
    what takes time.

    Attributes:
        builder: of the prepared data set.
        split: in TFDS's syntax, such as "train[:80%]".
        features: those that an example is made of.
        shuffle_buffer: how many records the shuffling holds.
    """

    builder: tfds.core.DatasetBuilder
    split: str
    features: Features
    shuffle_buffer: int

    has_image = True
    digest = ""

    @property
    def num_examples(self) -> int:
        """Size of the split, over all processes."""
        return self.builder.info.splits[self.split].num_examples

    names = ()  # its examples are not known by name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        return self.features.class_names

    @property
    def truths(self) -> tuple[str, ...]:
        """See `Source`."""
        return self.features.truths

    @property
    def eval_truths(self) -> tuple[str, ...]:
        """See `Source`."""
        return self.features.eval_truths

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
            return {**_parse(self.features, record), "seed": its_seed}

        records = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(read_epoch)
        return records.map(parse, tf.data.AUTOTUNE, deterministic=True)

    def once(self, shard: Shard) -> tf.data.Dataset:
        """See `Source`."""
        part = tfds.even_splits(self.split, shard.count)[shard.index]
        records = self._files(part).flat_map(_read_file)

        def parse(record: tf.Tensor) -> Example:
            return _parse(self.features, record)

        finish = self.features.make_padding(self._all_examples)
        return records.map(parse, tf.data.AUTOTUNE, deterministic=True).map(finish)

    def _all_examples(self) -> tf.data.Dataset:
        records = self._files(self.split).flat_map(_read_file)
        return records.map(lambda record: _parse(self.features, record), tf.data.AUTOTUNE)

    def load(self, example: Example) -> Example:
        """See `Source`."""
        return example

    def draw(self, example: Example, seed: tf.Tensor) -> Example:
        """See `Source`."""
        return self.features.draw(example, seed)

    def finish(self, example: Example, seed: tf.Tensor) -> Example:
        """See `Source`."""
        del seed
        return example

    def texts(self) -> list[str]:
        """See `Source`."""
        return [] if self.features.label else texts_in(self._all_examples().take(SAMPLED))

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
    builder: tfds.core.DatasetBuilder, split: str, features: Features
) -> IndexedSource:
    """A split that is stored as ArrayRecords, which are read in any order."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource  # Linux's alone

    info = builder.info.splits[split]
    records = ArrayRecordDataSource(info.file_instructions)

    def read(index: np.ndarray) -> np.ndarray:
        return np.array(records[int(index)], object)

    def load(example: Example) -> Example:
        record = tf.numpy_function(read, [example["index"]], tf.string, stateful=False)
        return _parse(features, tf.ensure_shape(record, ()))

    def load_padded(example: Example) -> Example:
        if "seed" in example:  # one of the captions is drawn
            return load(example)
        return features.make_padding(lambda: rows.map(load))(load(example))

    rows = tf.data.Dataset.range(info.num_examples).map(lambda i: {"index": i})
    return IndexedSource(
        {"row": np.arange(info.num_examples)},
        features.class_names,
        truths=features.truths,
        eval_truths=features.eval_truths,
        loader=load_padded,
        drawer=features.draw,
        explainer=lambda message: _explain(builder, split, message),
    )


@tf.autograph.experimental.do_not_convert  # it warns of TFDS's own code
def _parse(features: Features, record: tf.Tensor) -> Example:
    return features.parse(record)


def _explain(builder: tfds.core.DatasetBuilder, split: str, message: str) -> str:
    return f"{PREFIX}{builder.info.full_name} {split}: {message}"


def _read_file(name: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(name).skip(skip).take(take)


def splits(config: Any) -> dict[str, Source]:
    """Opens a TFDS data set, downloading and preparing it the first time.

    Args:
        config: `config.data`, of which `source` ("tfds:NAME"), `kind`, `tfds` and `skip_corrupt`
            are read.

    Returns:
        Sources by split name; "train" is always among them.

    Raises:
        ValueError: for an unknown name or split, or a data set without images, or without
            classes or captions.
    """
    if config.tfds.shuffle_buffer < 1:
        raise ValueError(
            f"data.tfds.shuffle_buffer must be at least 1, not {config.tfds.shuffle_buffer}"
        )
    builder = open_builder(config)
    wanted = {
        "train": config.tfds.train_split,
        "val": config.tfds.val_split,
        "test": config.tfds.test_split,
    }
    sources = {}
    for name, split in wanted.items():
        if split:
            check_split(builder, name, split)
            sources[name] = open_split(
                builder, split, config.tfds.shuffle_buffer, config.kind == "captions"
            )
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
    builder = open_builder(config)
    return {
        name: open_split(builder, name)
        for name, split in builder.info.splits.items()
        if split.num_examples
    }


def open_split(
    builder: tfds.core.DatasetBuilder,
    split: str,
    shuffle_buffer: int = 1,
    has_captions: bool = False,
) -> Source:
    """Opens a split of a prepared data set.

    Args:
        builder: of it.
        split: which may be in TFDS's syntax.
        shuffle_buffer: how many records the shuffling holds.
        has_captions: whether captions are read, and not classes.

    Raises:
        ValueError: if it has no images and no such truth, or is stored in a way that cannot be
            read.
    """
    features = tfds_features.find(builder, has_captions)
    if is_array_record(builder):
        return _array_record_source(builder, split, features)
    return TfrecordSource(builder, split, features, shuffle_buffer)


def is_array_record(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether a data set is stored as ArrayRecords; a ValueError if neither so nor as TFRecords."""
    stored = builder.info.file_format
    if stored not in (tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.TFRECORD):
        raise ValueError(
            f"{PREFIX}{builder.info.full_name} in {builder.data_dir} is stored as {stored.value}; "
            "prepare it as array_record or tfrecord"
        )
    return bool(stored == tfds.core.FileFormat.ARRAY_RECORD)


def open_builder(config: Any) -> tfds.core.DatasetBuilder:
    """The builder of the data set that `config.data.source` names, prepared.

    Raises:
        ValueError: for an unknown name, or if it cannot be prepared.
    """
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
        raise ValueError(_unknown(config, name, str(error).strip().splitlines()[0])) from None
    if not builder.is_prepared():
        _prepare(builder, config.tfds.manual_dir)
    return builder


def _unknown(config: Any, name: str, reason: str) -> str:
    """The message about a name that TFDS does not have."""
    name = re.split("[:/]", name)[0]
    close = closest(name, tfds.list_builders(with_community_datasets=False))
    return (
        f"data.source={config.source!r}: TFDS knows no such data set"
        + (f" in {config.tfds.data_dir}" if config.tfds.data_dir else "")
        + (f"; did you mean {PREFIX}{close}?" if close and close != name else "")
        + f" ({reason})"
    )


def _prepare(builder: tfds.core.DatasetBuilder, manual_dir: str | None) -> None:
    name = f"{PREFIX}{builder.info.full_name}"
    _LOG.info("preparing %s in %s, once; this can take long ...", name, builder.data_dir)
    try:
        _check_network(builder)
        config = tfds.download.DownloadConfig(manual_dir=manual_dir)
        builder.download_and_prepare(download_config=config)
    except (OSError, AssertionError) as error:  # no network, no space, or no manual download
        raise ValueError(
            f"{name} cannot be prepared: {str(error).strip().splitlines()[0]}. If it is prepared "
            "elsewhere, set data.tfds.data_dir; what is downloaded by hand goes to "
            "data.tfds.manual_dir"
        ) from error


def _check_network(builder: tfds.core.DatasetBuilder) -> None:
    """Asks the hosts that are to be downloaded from; TFDS itself tries for minutes without a word.

    Raises:
        ConnectionError: if one of them cannot be reached.
    """
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return
    root = epath.Path(str(builder.data_dir).removesuffix(builder.info.full_name))
    hosts = {
        urllib.parse.urlsplit(url).netloc: url
        for url, info in (builder.url_infos or {}).items()
        if not (root / "downloads" / resource.get_dl_fname(url, info.checksum)).exists()
    }
    for host, url in hosts.items():
        if not url.startswith("http"):
            continue
        try:
            with contextlib.suppress(requests.ReadTimeout):  # it is there, and slow
                requests.head(url, timeout=_ANSWERS_WITHIN_S)
        except requests.ConnectionError:
            raise ConnectionError(f"{host} cannot be reached") from None


def check_split(builder: tfds.core.DatasetBuilder, name: str, split: str) -> None:
    """Raises a ValueError if `config.data.tfds.NAME_split` names no split that has examples."""
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
