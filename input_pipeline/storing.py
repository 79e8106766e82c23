"""Writes a data set of TFDS, with smaller images: what `input_pipeline.prepare` does."""

import contextlib
import hashlib
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from absl import logging as absl_logging
from etils import epath
from ml_collections import ConfigDict

from input_pipeline import files, images, pipeline, preprocess
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import image_folder, is_folder
from input_pipeline.sources.base import Example, Shard, Source
from input_pipeline.sources.tfds import PREFIX, whole_splits

_VERSION = "1.0.0"
_LONGEST_NAME = 150  # TFDS makes names of up to 255 of it


def open_whole(
    source: str, data_dir: str | None, manual_dir: str | None, skip_corrupt: bool
) -> dict[str, Source]:
    """Opens all that a data set has.

    Args:
        source: a folder of classes, or tfds:NAME.
        data_dir: where the latter lies; None: where TFDS has its data.
        manual_dir: where what it needs was downloaded by hand, if it was.
        skip_corrupt: whether images that cannot be read are left out.

    Raises:
        ValueError: if it is neither.
    """
    config = ConfigDict(
        {
            "source": source,
            "test_source": "",
            "kind": "classes",
            "split_seed": 0,
            "val_fraction": 0.0,  # what there is stays where it is
            "skip_corrupt": skip_corrupt,
            "real": "",
            "tfds": {"data_dir": data_dir, "manual_dir": manual_dir},
        }
    )
    if source.startswith(PREFIX):
        return whole_splits(config)
    if not is_folder(source):
        raise ValueError(f"{source!r} is neither a folder of classes nor {PREFIX}NAME")
    return dict(image_folder.splits(config))


def name_for(source: str, resize: int | None) -> str:
    """A name for a copy of a data set, whose images have shorter sides of so many pixels."""
    stem = source.removeprefix(PREFIX).split(":")[0] if source.startswith(PREFIX) else source
    stem = (
        epath.Path(stem).expanduser().resolve().name if stem == source else stem.replace("/", "_")
    )
    words = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
    words = words if words[:1].isalpha() else f"images_{words}".rstrip("_")
    ending = f"_{resize}" if resize else "_copy"
    if len(words + ending) > _LONGEST_NAME:
        mark = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()[:12]
        words = f"{words[: _LONGEST_NAME - len(mark) - len(ending) - 1]}_{mark}"
    return words + ending


def store(
    sources: Mapping[str, Source],
    data_dir: str,
    name: str,
    resize: int | None,
    quality: int = 95,
    file_format: str = "array_record",
) -> epath.Path:
    """Writes a TFDS data set, in an order that mixes the classes.

    Args:
        sources: by split.
        data_dir: gets NAME/1.0.0; what an interruption leaves has another name.
        name: of the data set, in TFDS's manner: lower case, digits and underscores.
        resize: pixels of the shorter side of images that are larger; None leaves all as they are.
        quality: of the JPEGs, 1 to 100.
        file_format: "array_record" or "tfrecord".

    Returns:
        The folder.

    Raises:
        ValueError: if it is there already, a name or number does not fit, or an image cannot be
            read.
    """
    class_names = next(iter(sources.values())).class_names
    _check(name, resize, quality, class_names)
    parent = epath.Path(data_dir).expanduser().resolve()
    folder = parent / name / _VERSION
    if folder.exists():
        raise ValueError(f"{folder} is there already: remove it, or choose another --name")
    for left in folder.parent.glob(f"incomplete.*_{_VERSION}"):
        sys.stderr.write(f"an attempt that was interrupted has left {left}: remove it\n")
    absl_logging.set_verbosity(absl_logging.ERROR)  # TFDS warns that the folder is empty
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    label = tfds.features.ClassLabel(names=list(class_names))
    features = {"image": tfds.features.Image(), "label": label}
    # Lets errors of reading through as they are, and not as a RuntimeError of TFDS.
    errors: list[ValueError] = []
    examples = {
        split: _examples(source, resize, quality, errors) for split, source in sources.items()
    }
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where TFDS speaks of downloading
            tfds.dataset_builders.store_as_tfds_dataset(
                name=name,
                version=_VERSION,
                features=tfds.features.FeaturesDict(features),
                split_datasets=examples,
                data_dir=str(parent),
                description=f"Written by vit_jax: shorter side at most {resize}, JPEG {quality}.",
                file_format=file_format,
            )
    except Exception:
        if errors:
            raise errors[0] from None
        raise
    return folder


def _check(name: str, resize: int | None, quality: int, class_names: Sequence[str]) -> None:
    """Raises a ValueError for what cannot be stored so."""
    if resize is not None and resize < 1:
        raise ValueError(f"resize must be at least 1, not {resize}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must lie in 1 .. 100, and is {quality}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"name={name!r} must be of lower case letters, digits and underscores")
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"a name may have {_LONGEST_NAME} characters; {name!r} has {len(name)}")
    spaced = [class_name for class_name in class_names if class_name != class_name.strip()]
    if spaced:
        raise ValueError(
            f"TFDS takes the spaces at the ends off the class {spaced[0]!r}: rename it"
        )


def _examples(
    source: Source, resize: int | None, quality: int, errors: list[ValueError]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the numbered examples of a split, as TFDS takes them."""

    @tf.autograph.experimental.do_not_convert
    def shrink(example: Example) -> Example:
        example = source.load(example)
        data = _shrink(example["image"], resize, quality)
        return {"image": data, "label": example["label"]}

    dataset = source.once(Shard()).map(shrink, tf.data.AUTOTUNE, deterministic=True)
    try:
        yield from enumerate(pipeline.read(dataset, source))
    except ValueError as error:
        errors.append(error)
        raise


def _shrink(data: tf.Tensor, resize: int | None, quality: int) -> tf.Tensor:
    """Makes the bytes of an image file those of a JPEG or PNG that is no larger than wanted."""
    image = images.decode(data)

    def stay() -> tf.Tensor:
        return tf.cond(images.is_plain(data), lambda: data, lambda: tf.io.encode_png(image))

    def reduce() -> tf.Tensor:
        apply = preprocess.build(f"resize_small({resize})", train=False)
        small = apply({"image": image}, tf.zeros(2, tf.int32))["image"]
        return tf.cond(
            tf.reduce_max(tf.shape(small)) > files.LONGEST_JPEG,
            lambda: tf.io.encode_png(small),
            lambda: tf.io.encode_jpeg(small, quality=quality),
        )

    if resize is None:
        return stay()
    return tf.cond(tf.reduce_min(tf.shape(image)[:2]) > resize, reduce, stay)
