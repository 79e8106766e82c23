"""Data sources. A folder or a TFDS name needs no code; another kind is one file here."""

from typing import Any

from etils import epath

from input_pipeline.sources import digits, image_folder
from input_pipeline.sources.base import Shard, Source


def get_splits(config: Any) -> dict[str, Source]:
    """Finds the source that `config.data` names.

    Args:
        config: `config.data`; `source` is "digits", "tfds:NAME" or the path of a folder.

    Returns:
        Sources by split name: "train", and "val" and "test" where the data has them.

    Raises:
        ValueError: if it is not there or cannot be used; the message says what to do.
    """
    kind = _kind(config.source)
    if not config.source:
        raise ValueError("no data: say --config.data.source=FOLDER, or 'digits', or 'tfds:NAME'")
    if kind == "digits":
        return digits.splits(config)
    if kind == "tfds":
        from input_pipeline.sources import (
            tfds,
        )  # takes seconds to import, and most runs need it not

        return tfds.splits(config)
    return image_folder.splits(config)


def get_absolute(source: str) -> str:
    """Makes the path of a folder absolute; the name of another source stays as it is."""
    if not source or _kind(source) != "folder":
        return source
    return str(epath.Path(source).expanduser().resolve())


def _kind(source: str) -> str:
    if source == "digits":
        return "digits"
    return "tfds" if source.startswith("tfds:") else "folder"


__all__ = ["Shard", "Source", "get_absolute", "get_splits"]
