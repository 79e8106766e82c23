"""Data sources. A folder or a TFDS name needs no code; another kind is one file here."""

from typing import Any

from etils import epath

from input_pipeline.sources import (
    degraded,
    digits,
    hazy_from_clear,
    image_folder,
    paired_folder,
)
from input_pipeline.sources.base import Shard, Source

# What a folder holds: a subfolder of images per class; clear photos of which hazy ones are made.
_OF_ONE_SIZE = {"classes": image_folder, "hazy_from_clear": hazy_from_clear}
# Pairs of images, such as hazy and clear ones; photos that are made smaller, noisy or compressed.
_OF_ANY_SCALE = {"pairs": paired_folder, "degraded": degraded}
KINDS = {**_OF_ONE_SIZE, **_OF_ANY_SCALE}


def get_splits(config: Any, scale: int = 1) -> dict[str, Source]:
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
    if config.test_source and config.kind not in _OF_ANY_SCALE:
        raise ValueError(f"data.test_source is for data.kind {' and '.join(_OF_ANY_SCALE)} alone")
    if scale != 1 and config.kind not in _OF_ANY_SCALE:
        raise ValueError(
            f"the model enlarges x{scale}, but the images of data.kind={config.kind!r} have the "
            f"size of their targets: set it to {' or '.join(_OF_ANY_SCALE)}"
        )
    if not (config.source or config.test_source):
        builtin = ", or 'digits', or 'tfds:NAME'" if config.kind == "classes" else ""
        raise ValueError(f"no data: say --config.data.source=FOLDER{builtin}")
    if not is_folder(config.source) and config.kind != "classes":
        raise ValueError(
            f"data.kind={config.kind!r} needs a folder, and data.source is {config.source!r}"
        )
    if config.source.startswith("tfds:"):
        from input_pipeline.sources import tfds  # takes seconds to import

        return tfds.splits(config)
    if config.source == "digits":
        return digits.splits(config)
    if config.kind in _OF_ANY_SCALE:
        return _OF_ANY_SCALE[config.kind].splits(config, scale)
    return _OF_ONE_SIZE[config.kind].splits(config)


def kinds_with(truth: str) -> list[str]:
    return ["classes"] if truth == "label" else ["pairs", "degraded", "hazy_from_clear"]


def get_absolute(source: str) -> str:
    """Makes the path of a folder absolute; the name of another source stays as it is."""
    if not source or not is_folder(source):
        return source
    return str(epath.Path(source).expanduser().resolve())


def is_folder(source: str) -> bool:
    """Whether `config.data.source` means a folder."""
    return source != "digits" and not source.startswith("tfds:")


__all__ = ["Shard", "Source", "get_absolute", "get_splits"]
