"""Weights in TorchScript archives, in which OpenAI published CLIP; nothing in them is executed.

Such an archive is a zip of a pickle of modules, of code, and of the bytes of each tensor. Of the
pickle the modules become dicts, whatever their class, and tensors are made of the bytes; anything
else that it would import is refused. PyTorch is not needed.
"""

import pickle
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

_CODE, _MODULES = "/code/__torch__", "__torch__"
_TYPES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def is_torchscript(path: epath.Path) -> bool:
    """Whether a file is an archive of code and weights, as `torch.jit.save` writes them."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return any(_CODE in f"/{name}" for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def read(path: epath.Path) -> dict[str, np.ndarray]:
    """Reads the parameters and buffers of an archive.

    Returns:
        Arrays by name, as the state dict of the module has them; single numbers among the buffers
        are arrays of shape ().

    Raises:
        ValueError: if it is damaged, or holds more than modules of tensors.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(root) as pickled:
                module = _Unpickler(pickled, archive, root.removesuffix("data.pkl")).load()
            return dict(_flatten(module))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: {error}") from None
    except (
        StopIteration, KeyError, EOFError, zipfile.BadZipFile, OSError, ValueError, TypeError,
        IndexError, AttributeError, RuntimeError, NotImplementedError,
    ) as error:  # fmt: skip
        raise ValueError(f"{path} is no whole TorchScript archive: {error!r}") from None


class _Module(dict[str, Any]):
    """What a module has, by name."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, Mapping):
            raise pickle.UnpicklingError("a module's state is no dict")
        self.update(state)


class _Unpickler(pickle.Unpickler):
    """Makes modules and tensors, and nothing else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        order = f"{folder}byteorder"
        stored = archive.read(order).decode() if order in archive.namelist() else "little"
        self._is_swapped = stored != sys.byteorder

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == _MODULES:
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _TYPES:
            return name
        if module == "torch.jit._pickle":  # typed lists
            return _list
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no module of tensors")

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The bytes of a tensor as a flat array."""
        kind, name, key = pid[0], pid[1], pid[2]
        if kind != "storage" or name not in _TYPES:
            raise pickle.UnpicklingError(f"it holds a {kind} of the type {name}")
        array = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), _TYPES[name])
        return array.byteswap() if self._is_swapped else array


def _tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    """A tensor of a part of the bytes; checked to lie inside of them."""
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides))
    if min((offset, *shape, *strides)) < 0 or (0 not in shape and last >= storage.size):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} lies outside of its bytes")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    steps = tuple(step * storage.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _list(items: Any, *_: Any) -> Any:
    return items


def _flatten(module: Any, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    found: list[tuple[str, np.ndarray]] = []
    if not isinstance(module, _Module):
        raise ValueError("it holds no module")
    for name, value in module.items():
        if isinstance(value, _Module):
            found += _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, np.ndarray):
            found.append((f"{prefix}{name}", value))
    return found
