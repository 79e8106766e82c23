"""Which format weights are in, by their content: names such as model_best.pth.tar say little."""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from typing import Any

from etils import epath

NPZ, SAFETENSORS, TORCH = "npz", "safetensors", "torch"
OF_SUFFIX = {".npz": NPZ, ".safetensors": SAFETENSORS, ".pth": TORCH, ".pt": TORCH, ".bin": TORCH,
             ".ckpt": TORCH, ".tar": TORCH}  # fmt: skip

_HEAD = 512
_PICKLE, _ZIP = b"\x80", b"PK\x03\x04"
_LONGEST_HEADER = 2**32  # of .safetensors
# How files begin that people take for weights, and what to do about them.
_OTHERS = {
    b"": "is empty: copy or download it again",
    b"version https://git-lfs": "is a pointer of Git LFS in place of the file: run git lfs pull",
    b"<!DOCTYPE": "is a web page in place of the file: download it again",
    b"<!doctype": "is a web page in place of the file: download it again",
    b"<html": "is a web page in place of the file: download it again",
    b"\x1f\x8b": "is compressed: unpack it with gunzip",
    b"\x89HDF": "is HDF5, of Keras perhaps, which is not read",
    b"\x93NUMPY": "is a single array of numpy: weights are arrays by name, as np.savez writes them",
    b"GGUF": "is GGUF, which is not read: take the weights that it was made of",
    b"7767517": "is the half of ncnn's format that describes the layers, which is not read alone",
}


@dataclasses.dataclass(frozen=True)
class MadeFor:
    """What weights were made for, as a file says itself; names and shapes do not tell all of it.

    Attributes:
        model: name of the model.
        fields: of the model that differ from the published one of that name.
        eval_pp: preprocessing of an evaluation, where the model alone would not say the right one.
        loss: its name, where it is not the first of the model's task.
    """

    model: str
    fields: Mapping[str, Any]
    eval_pp: str = ""
    loss: str = ""


def pack(made_for: MadeFor) -> str:
    """Writes it in a line, for a file's metadata."""
    said = {k: v for k, v in dataclasses.asdict(made_for).items() if v or k in ("model", "fields")}
    return json.dumps({"vit_jax": said}, sort_keys=True)


def unpack(text: str) -> MadeFor | None:
    """Inverse of `pack`; None for what somebody else has written there."""
    try:
        found = json.loads(text)["vit_jax"]
        model, fields = found["model"], found["fields"]
        words = tuple(found.get(key, "") for key in ("eval_pp", "loss"))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    if not isinstance(fields, dict) or not all(isinstance(w, str) for w in (model, *words)):
        return None
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return MadeFor(model, fields, *words)


def find_format(path: epath.Path) -> str:
    """Says of which format a file of weights is: NPZ, SAFETENSORS or TORCH.

    A file whose content does not tell is taken for what its name says, so that the reader of that
    format may say what is wrong with it.

    Raises:
        ValueError: if it is of none; the message says what it is, as far as that is known.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_ZIP):
        return _format_of_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _LONGEST_HEADER:
        return SAFETENSORS
    if head.startswith(_PICKLE):
        return TORCH
    for begin, what in _OTHERS.items():
        if head.startswith(begin) and (begin or not head):
            raise ValueError(f"{path} {what}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar archive: unpack it, and name the file inside")
    kind = OF_SUFFIX.get(path.suffix)
    if kind is None or kind == TORCH:
        raise ValueError(
            f"{path} is no PyTorch file, .npz or .safetensors, whatever its name: it begins with "
            f"{head[:16]!r}"
        )
    return kind


def _format_of_zip(path: epath.Path) -> str:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):  # cut off, maybe
        return OF_SUFFIX.get(path.suffix, TORCH)
    if any(name.endswith(".npy") for name in names):
        return NPZ
    if any(name.endswith("data.pkl") for name in names):
        return TORCH
    if path.suffix in (".npz", ".pth", ".pt"):
        return OF_SUFFIX[path.suffix]
    raise ValueError(f"{path} is a zip archive of other things, such as {names[:1]}: unpack it")
