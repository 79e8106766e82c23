"""Parameters as .npz files with the names that google-research/vision_transformer published."""

import os
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util

from checkpoints import layers

# Upstream's linen modules number an encoder block's parts by class, the files by position.
_LINEN_TO_PUBLISHED = {
    "LayerNorm_1": "LayerNorm_2",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "MlpBlock_0": "MlpBlock_3",
}
_BLOCK_PART = re.compile(r"(.*/encoderblock_\d+)/([^/]+)(/.*)")


def save(path: str | os.PathLike[str], params: Mapping[str, Any]) -> None:
    """Writes parameters under their published names; the file appears whole or not at all.

    Args:
        path: ends in .npz.
        params: nested dict of arrays; stacked encoder blocks are written unstacked.
    """
    flat = traverse_util.flatten_dict(layers.unstack(params), sep="/")
    path = epath.Path(path)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, **{name: np.asarray(leaf) for name, leaf in flat.items()})
    partial.replace(path)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads parameters; never unpickles.

    Args:
        path: a .npz file with published or with linen numbering.

    Returns:
        Nested dict of numpy arrays with published names.

    Raises:
        ValueError: if the file is missing or is not such a file.
    """
    try:
        with epath.Path(path).open("rb") as data, np.load(data, allow_pickle=False) as file:
            flat = {_published(name): file[name] for name in file.files}
    except FileNotFoundError:
        raise ValueError(f"there is no file {os.fspath(path)}") from None
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{os.fspath(path)} is not a readable .npz of arrays: {error}") from None
    return traverse_util.unflatten_dict(flat, sep="/")


def check(params: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compares parameters with those that a model has.

    Args:
        params: nested dict of arrays.
        expected: nested dict of arrays or of their shapes.

    Raises:
        ValueError: with what is missing, what is extra and what has another shape, each sorted.
    """
    have = {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(params, sep="/").items()}
    want = {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(expected, sep="/").items()}
    shapes = [
        f"{name} {have[name]} in place of {want[name]}"
        for name in sorted(set(have) & set(want))
        if have[name] != want[name]
    ]
    problems = {
        "missing": sorted(set(want) - set(have)),
        "extra": sorted(set(have) - set(want)),
        "of another shape": shapes,
    }
    if any(problems.values()):
        lists = "; ".join(
            f"{what}: {', '.join(names)}" for what, names in problems.items() if names
        )
        raise ValueError(f"the weights do not fit the model ({lists})")


def _published(name: str) -> str:
    match = _BLOCK_PART.fullmatch(name)
    if match is None:
        return name
    block, part, rest = match.groups()
    return f"{block}/{_LINEN_TO_PUBLISHED.get(part, part)}{rest}"
