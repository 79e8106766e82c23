"""Data sources. A folder or TFDS name needs no code; another kind is one file, and one row here."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from etils import epath

from input_pipeline import files
from input_pipeline.arguments import unknown

if TYPE_CHECKING:  # it takes seconds to import
    from input_pipeline.sources.base import BatchedSource, Source
    from input_pipeline.texts import Tokenize


_NO_FOLDERS = ("tfds:", "toy:")  # what `config.data.source` begins with that is none


class Kind(NamedTuple):
    """What a folder holds.

    Attributes:
        find: the function from `config.data` to sources by split, and from the scale as well if it
            can be any; or the name of the module of this package whose `splits` it is.
        truths: what its examples have besides images, see `Source`.
        has_any_scale: whether targets can be larger than images.
        has_test_source: whether `config.data.test_source` can name a folder to test on.
        takes_tokenizer: whether it finds sources by `config.data` and what makes numbers of texts.
        has_tfds: whether a TFDS data set can be of this kind.
        opens: beginnings of `config.data.source` that name no folder, and that `find` knows itself.
    """

    find: str | Callable[..., "dict[str, Any]"]
    truths: tuple[str, ...]
    has_any_scale: bool = False
    has_test_source: bool = False
    takes_tokenizer: bool = False
    has_tfds: bool = False
    opens: tuple[str, ...] = ()


KINDS = {
    "classes": Kind("image_folder", ("label",), has_tfds=True),  # a subfolder of images per class
    "multilabel": Kind("multilabel", ("label",)),  # images of several classes, and a table of them
    "photos": Kind("photos", (), has_tfds=True),  # images alone
    # Such as hazy and clear images.
    "pairs": Kind("paired_folder", ("target",), has_any_scale=True, has_test_source=True),
    # Photos, made small or noisy.
    "degraded": Kind("degraded", ("target",), has_any_scale=True, has_test_source=True),
    "hazy_from_clear": Kind("hazy_from_clear", ("target",)),  # clear photos, made hazy
    # Photos, cut into pieces that move.
    "flow_from_photos": Kind("flow_from_photos", ("image2", "flow", "valid", "occluded")),
    "segmentation": Kind("segmentation_folder", ("mask",)),  # images and the classes of pixels
    # Images and what is said of them.
    "captions": Kind(
        "captions", ("text", "captions", "num_captions"), has_test_source=True, has_tfds=True
    ),
    # Pairs of frames and the motion between them.
    "flow": Kind("flow_folder", ("image2", "flow", "valid"), has_test_source=True),
    # Documents, of which words are masked.
    "text": Kind(
        "text_file", ("tokens", "segments", "positions", "words", "next"), takes_tokenizer=True
    ),
    # Sentences and their translations.
    "translation": Kind(
        "translation",
        ("source", "target_tokens"),
        has_test_source=True,
        takes_tokenizer=True,
        has_tfds=True,
        opens=("tfds:", "toy:"),
    ),
}


def register_kind(name: str, kind: Kind) -> None:
    """Makes a kind of data from outside of this package known.

    Raises:
        ValueError: if another has the name.
    """
    if KINDS.get(name, kind) != kind:
        raise ValueError(f"there is a data.kind {name!r} already")
    KINDS[name] = kind


def kinds_with(truth: str) -> list[str]:
    """Names of the kinds of data, for `config.data.kind`, whose examples have such a truth."""
    return [name for name, kind in KINDS.items() if truth in kind.truths]


def get_splits(
    config: Any, scale: int = 1, tokenize: "Tokenize | None" = None
) -> "dict[str, Source | BatchedSource]":
    """Finds the source that `config.data` names.

    Args:
        config: `config.data`; `source` is "digits", "tfds:NAME" or the path of a folder, and `kind`
            says what a folder holds.
        scale: how many times larger the targets are than the images.
        tokenize: what makes numbers of the texts of the model, if it reads any.

    Returns:
        Sources by split name: "train", and "val" and "test" where the data has them.

    Raises:
        ValueError: if it is not there or cannot be used; the message says what to do.
    """
    if config.kind not in KINDS:
        raise ValueError(unknown("data.kind", config.kind, KINDS))
    kind = KINDS[config.kind]
    of_any_scale = [name for name in KINDS if KINDS[name].has_any_scale]
    if config.test_source and not kind.has_test_source:
        with_test = [name for name in KINDS if KINDS[name].has_test_source]
        raise ValueError(f"data.test_source is for data.kind {', '.join(with_test)} alone")
    if scale != 1 and not kind.has_any_scale:
        raise ValueError(
            f"the model enlarges x{scale}, but the images of data.kind={config.kind!r} have the "
            f"size of their targets: set it to {' or '.join(of_any_scale)}"
        )
    if not (config.source or config.test_source):
        builtin = ", or 'digits', or 'tfds:NAME'" if config.kind == "classes" else ""
        raise ValueError(f"no data: say --config.data.source=FOLDER{builtin}")
    opens = (*kind.opens, *(("tfds:",) if kind.has_tfds else ()))
    is_builtin = config.kind == "classes" and config.source == "digits"
    if not (is_builtin or is_folder(config.source) or config.source.startswith(opens)):
        other = "".join(f" or {name}NAME" for name in dict.fromkeys(opens))
        raise ValueError(
            f"data.kind={config.kind!r} needs a folder{other}, and data.source is {config.source!r}"
        )
    find = kind.find
    if not is_folder(config.source) and not config.source.startswith(kind.opens):
        find = "digits" if config.source == "digits" else "tfds"
    elif config.kind == "classes" and config.source.lower().endswith(files.TABLES):
        find = "labels_table"
    if config.real and find != "image_folder":
        raise ValueError(
            "data.real is for ImageNet's validation images, in a folder with one for each class "
            f"and data.kind='classes': set it to '', or data.source={config.source!r} to such"
        )
    if isinstance(find, str):
        find = importlib.import_module(f"input_pipeline.sources.{find}").splits
    if kind.takes_tokenizer:
        if tokenize is None:
            raise ValueError(
                f"data.kind={config.kind!r} is for a model of texts, such as BERT-base or "
                "Transformer-base"
            )
        return find(config, tokenize)
    return find(config, scale) if kind.has_any_scale else find(config)


def get_absolute(source: str) -> str:
    """Makes the path of a folder absolute; the name of another source stays as it is."""
    if not source or not is_folder(source):
        return source
    return str(epath.Path(source).expanduser().resolve())


def is_folder(source: str) -> bool:
    """Whether `config.data.source` means a folder."""
    return source != "digits" and not source.startswith(_NO_FOLDERS)
