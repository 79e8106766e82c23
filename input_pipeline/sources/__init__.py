"""Data sources. A folder or TFDS name needs no code; another kind is one file, and one row here."""

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from etils import epath

if TYPE_CHECKING:  # it takes seconds to import
    from input_pipeline.sources.base import Source


class Kind(NamedTuple):
    """What a folder holds.

    Attributes:
        module: whose `splits` takes `config.data`, and the scale if targets can be larger, and
            returns sources by split name.
        truths: what its examples have besides images, see `Source`.
        has_any_scale: whether targets can be larger than images.
    """

    module: str
    truths: tuple[str, ...]
    has_any_scale: bool = False


_HERE = "input_pipeline.sources"
# A module of your own can add a row, see `config.plugins`.
KINDS = {
    "classes": Kind(f"{_HERE}.image_folder", ("label",)),  # a subfolder of images per class
    "hazy_from_clear": Kind(f"{_HERE}.hazy_from_clear", ("target",)),  # clear photos, made hazy
    # Such as hazy and clear images; photos that are made smaller, noisy or compressed.
    "pairs": Kind(f"{_HERE}.paired_folder", ("target",), has_any_scale=True),
    "degraded": Kind(f"{_HERE}.degraded", ("target",), has_any_scale=True),
}


def kinds_with(truth: str) -> list[str]:
    """Names of the kinds of data, for `config.data.kind`, whose examples have such a truth."""
    return [name for name, kind in KINDS.items() if truth in kind.truths]


def get_splits(config: Any, scale: int = 1) -> "dict[str, Source]":
    """Finds the source that `config.data` names.

    Args:
        config: `config.data`; `source` is "digits", "tfds:NAME" or the path of a folder, and `kind`
            says what a folder holds.
        scale: how many times larger the targets are than the images.

    Returns:
        Sources by split name: "train", and "val" and "test" where the data has them.

    Raises:
        ValueError: if it is not there or cannot be used; the message says what to do.
    """
    if config.kind not in KINDS:
        raise ValueError(f"unknown data.kind {config.kind!r}; there are: {', '.join(KINDS)}")
    kind = KINDS[config.kind]
    of_any_scale = [name for name in KINDS if KINDS[name].has_any_scale]
    if config.test_source and not kind.has_any_scale:
        raise ValueError(f"data.test_source is for data.kind {' and '.join(of_any_scale)} alone")
    if scale != 1 and not kind.has_any_scale:
        raise ValueError(
            f"the model enlarges x{scale}, but the images of data.kind={config.kind!r} have the "
            f"size of their targets: set it to {' or '.join(of_any_scale)}"
        )
    if not (config.source or config.test_source):
        builtin = ", or 'digits', or 'tfds:NAME'" if config.kind == "classes" else ""
        raise ValueError(f"no data: say --config.data.source=FOLDER{builtin}")
    if not is_folder(config.source) and config.kind != "classes":
        raise ValueError(
            f"data.kind={config.kind!r} needs a folder, and data.source is {config.source!r}"
        )
    module = kind.module
    if not is_folder(config.source):
        module = f"{_HERE}.{'digits' if config.source == 'digits' else 'tfds'}"
    find = importlib.import_module(module).splits
    return find(config, scale) if kind.has_any_scale else find(config)


def get_absolute(source: str) -> str:
    """Makes the path of a folder absolute; the name of another source stays as it is."""
    if not source or not is_folder(source):
        return source
    return str(epath.Path(source).expanduser().resolve())


def is_folder(source: str) -> bool:
    """Whether `config.data.source` means a folder."""
    return source != "digits" and not source.startswith("tfds:")
