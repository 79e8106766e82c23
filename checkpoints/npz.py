"""Weights as .npz files with the names that google-research published.

Those are vision_transformer's, which are ours but for some that a model lists, `Model.npz_names`;
and big_vision's, whose blocks may be stacked and numbered as flax does now.
"""

import math
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from flax import traverse_util

from checkpoints import files, formats, tree
from checkpoints.formats import MadeFor

# Upstream's linen modules number an encoder block's parts by class, the files by position.
_LINEN_TO_PUBLISHED = {
    "LayerNorm_1": "LayerNorm_2",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "MlpBlock_0": "MlpBlock_3",
}
_GROUP_NORM = re.compile(r"(^|/)gn(\d+|_root|_proj)/(scale|bias)$")
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What zipfile and numpy raise for files that are no good: RuntimeError if they are encrypted, and
# NotImplementedError for compressions that Python lacks.
_DAMAGED = (
    ValueError, EOFError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
_MOST_DEFLATED = 1032  # to how many times its size deflated data can unpack
_BLOCK_PART = re.compile(r"(.*/encoderblock(?:_\d+)?)/([^/]+)(/.*)")
_COLLECTION = "params/"  # before all names of big_vision's files
_OF_IMAGES = "Transformer/"  # the encoder of images, in all files
_SECOND_TABLE = "Encoder_0/pos_embedding"  # of positions, in old files of big_vision's texts


def save(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    made_for: MadeFor | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Writes weights under their published names; the file appears whole or not at all.

    Args:
        path: ends in .npz.
        params: nested dict of arrays, see `tree.merge` for those of a model with batch norms;
            stacked encoder blocks are written unstacked.
        made_for: kept in the comment of the archive, which numpy passes over.
        names: by ours, of what is called otherwise in such files, see `Model.npz_names`.
    """
    flat = rename(traverse_util.flatten_dict(tree.unstack(params), sep="/"), names or {})
    with (
        files.written_whole(path) as partial,
        partial.open("wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        for name, leaf in flat.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(leaf), allow_pickle=False)
        if made_for is not None:
            archive.comment = formats.pack(made_for).encode()


def read_made_for(path: str | os.PathLike[str]) -> MadeFor | None:
    """Reads what a .npz file says of the model that it is for, if anything."""
    with files.fetch(path).open("rb") as file, zipfile.ZipFile(file) as archive:
        return formats.unpack(archive.comment.decode(errors="replace"))


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads parameters; never unpickles.

    Args:
        path: a .npz file with published or with linen numbering, local or at any address that
            `files.fetch` takes.

    Returns:
        Nested dict of numpy arrays with published names, its blocks one by one. Values are those of
        the file; bfloat16 is widened to float32, the leading 1-dims of group norms are taken away,
        and of two tables of positions for the same tokens there is the sum.

    Raises:
        ValueError: if the file is missing, out of reach, or not such a file.
    """
    flat: dict[str, np.ndarray] = {}
    stored_arrays = read(path)
    is_below = any(name.startswith(_COLLECTION) for name in stored_arrays)
    for stored, array in stored_arrays.items():
        if is_below and not stored.startswith(_COLLECTION):  # an optimizer's state, say
            continue
        name = _published(stored.removeprefix(_COLLECTION))
        if name in flat:
            raise ValueError(f"{os.fspath(path)} holds {name} twice, also as {stored}")
        flat[name] = _usual(name, array)
    folders = {name[:i] for name in flat for i, c in enumerate(name) if c == "/"}
    if clash := sorted(folders & set(flat)):
        raise ValueError(f"{os.fspath(path)} holds both {clash[0]} and something inside it")
    _move_positions(flat)
    _check_stacks(path, flat)
    return tree.unstack(traverse_util.unflatten_dict(flat, sep="/"))


def _move_positions(flat: dict[str, np.ndarray]) -> None:
    """Gives tables of positions the names of ours, where big_vision has others."""
    for name in [name for name in flat if name.endswith("pos_embedding")]:
        head = name.removesuffix("pos_embedding")
        if name.endswith(_SECOND_TABLE):
            first = f"{name.removesuffix(_SECOND_TABLE)}pos_embedding"
            if first in flat:
                flat[first] = flat[first] + flat.pop(name)
        elif any(other.startswith(f"{head}{_OF_IMAGES}") for other in flat):
            flat[f"{head}{_OF_IMAGES}posembed_input/pos_embedding"] = flat.pop(name)


def _check_stacks(path: str | os.PathLike[str], flat: Mapping[str, np.ndarray]) -> None:
    """Checks that blocks that are stacked are as many in all of their arrays, and not there twice.

    Raises:
        ValueError: if not.
    """
    counts: dict[str, int] = {}
    for name, array in flat.items():
        head = _head(name, "/{}/")
        if head is None:
            continue
        count = array.shape[0] if array.ndim else 0
        if not count or counts.setdefault(head, count) != count:
            raise ValueError(
                f"{os.fspath(path)}: {name} of shape {array.shape} is not stacked as many blocks "
                f"as others are, of which there are {counts.get(head, 'some')}"
            )
    for name in flat:
        if _head(name, "/{}_") in counts:
            raise ValueError(f"{os.fspath(path)} holds {name} beside blocks that are stacked")


def _head(name: str, pattern: str) -> str | None:
    """What comes before a block's name, as in "/{}/", and the kind of block; None for others."""
    for kind in tree.STACKED:
        head, found, _ = f"/{name}".partition(pattern.format(kind))
        if found:
            return f"{head}/{kind}"
    return None


def rename(arrays: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Replaces how names begin.

    Args:
        arrays: by names with "/" in them.
        names: what to put in the place of a parameter's name or of the folder it is in, such as
            `Model.npz_names` or its inverse; of those that fit, the longest is taken.

    Returns:
        The arrays; names to which nothing fits stay.
    """
    renamed = {}
    for name, array in arrays.items():
        parts = name.split("/")
        heads = ("/".join(parts[:i]) for i in range(len(parts), 0, -1))
        head = next((head for head in heads if head in names), None)
        new = name if head is None else names[head] + name.removeprefix(head)
        renamed[new] = array
    return renamed


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the arrays of a .npz file by their names in the file; see `load` for the errors."""
    found = files.fetch(path)
    try:
        with found.open("rb") as data:
            with zipfile.ZipFile(data) as archive:
                data.seek(0, os.SEEK_END)
                size = data.tell()  # TensorFlow's files return nothing from seek
                for member in archive.infolist():
                    _check_size(archive, member, size)
            data.seek(0)
            with np.load(data, allow_pickle=False) as file:
                return {name: _named_type(file[name]) for name in file.files}
    except _DAMAGED as error:
        raise ValueError(f"{os.fspath(path)} is not a readable .npz of arrays: {error}") from None


def _check_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> None:
    """Checks, before room is made for an array, that there are as many bytes as it needs.

    Args:
        archive: the .npz file.
        member: an array in it.
        size: of the file in bytes.

    Raises:
        ValueError: if its shape, or its size in the archive, cannot be true.
    """
    if member.file_size > _MOST_DEFLATED * min(member.compress_size, size):
        raise ValueError(f"{member.filename} cannot unpack to {member.file_size:,} bytes")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{member.filename} is of an unknown version {version}")
        shape, _, dtype = _HEADERS[version](file)
        there = member.file_size - file.tell()
    needed = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and needed != there:  # np.load refuses objects
        raise ValueError(
            f"{member.filename} has the shape {shape}, which takes {needed:,} bytes, and {there:,} "
            "bytes are there"
        )


def _named_type(array: np.ndarray) -> np.ndarray:
    """Gives bfloat16, which numpy stores as two raw bytes, its type back."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def _usual(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype == ml_dtypes.bfloat16:
        array = array.astype(np.float32)
    if _GROUP_NORM.search(name) and array.ndim and array.size == array.shape[-1]:
        array = array.reshape(-1)
    return array


def _published(name: str) -> str:
    match = _BLOCK_PART.fullmatch(name)
    if match is None:
        return name
    block, part, rest = match.groups()
    return f"{block}/{_LINEN_TO_PUBLISHED.get(part, part)}{rest}"
