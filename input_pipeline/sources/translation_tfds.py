"""Sentences and their translations in data sets of TensorFlow Datasets, such as wmt14_translate."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline.sources import tfds as tfds_source
from input_pipeline.sources.captions_files import clean
from input_pipeline.sources.translation_files import Languages, say_empty
from input_pipeline.toys import Pair

_LOG = logging.getLogger(__name__)


def read(config: Any, source: str, languages: Languages) -> dict[str, list[Pair]]:
    """Reads the splits of a data set, preparing it the first time.

    Args:
        config: `config.data`, of which `tfds` says which splits there are.
        source: such as "tfds:wmt14_translate/de-en"; only its test is read if it is
            `config.test_source`.
        languages: the names of the features; of a data set of two languages, "" stands for the
            order that TFDS has.

    Returns:
        Pairs by split name.

    Raises:
        ValueError: for an unknown name, split or language.
    """
    own = copy.deepcopy(config)
    own.source = source
    builder = tfds_source.open_builder(own)
    wanted = {"test": config.tfds.test_split}
    if source == config.source:
        wanted |= {"train": config.tfds.train_split, "val": config.tfds.val_split}
    names = _features(builder, source, languages)
    found = {}
    for split in ("train", "val", "test"):
        if wanted.get(split):
            tfds_source.check_split(builder, split, wanted[split])
            pairs = list(_read_split(builder, wanted[split], names))
            found[split] = [pair for pair in pairs if all(pair)]
            empty = [i for i, pair in enumerate(pairs, 1) if not all(pair)]
            if empty:
                _LOG.warning("%s", say_empty(f"{source} {split}", empty, len(pairs), "example"))
            if not found[split]:
                raise ValueError(f"{source} {split}: there is no sentence with a translation")
    return found


def _features(
    builder: tfds.core.DatasetBuilder, source: str, languages: Languages
) -> tuple[str, str]:
    """The names of the features of the source and of the target."""
    there = [
        name
        for name, feature in dict(builder.info.features).items()
        if isinstance(feature, tfds.features.Text)
    ]
    usual = [name for name in builder.info.supervised_keys or () if name in there]
    if not any(languages) and len(usual) == 2:
        return usual[0], usual[1]
    known = {name.lower(): name for name in there}
    named = [known.get(language.lower()) for language in languages]
    if None in named:
        raise ValueError(
            f"{source} has the texts {', '.join(there) or 'none'}: name two of them by "
            "data.translation.source_language and target_language, which are "
            f"{languages[0]!r} and {languages[1]!r}"
        )
    return str(named[0]), str(named[1])


def _read_split(
    builder: tfds.core.DatasetBuilder, split: str, names: tuple[str, str]
) -> Iterator[Pair]:
    """All pairs in the order in which they are stored, also such as have an empty side."""
    if tfds_source.is_array_record(builder):
        examples = builder.as_data_source(split=split)
    else:
        in_order = tfds.ReadConfig(interleave_cycle_length=1)
        dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=in_order)
        examples = tfds.as_numpy(dataset)
    for example in examples:
        source, target = (clean(example[name].decode("utf-8", "replace")) for name in names)
        yield source, target
