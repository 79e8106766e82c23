"""Archives as torch.jit.save writes them, without PyTorch."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from flax import traverse_util

from checkpoints import torch
from tests.tower_files import renamed


class _Storage:
    def __init__(self, key, array):
        kind = {"float32": "FloatStorage", "int64": "LongStorage", "float64": "DoubleStorage"}
        name = _Name("torch", kind[array.dtype.name])
        self.pid = ("storage", name, key, "cpu", array.size)


class _Name:
    """Stands for what a pickle is to name without having it."""

    def __init__(self, module, name):
        self.module, self.name = module, name


def _archive(path, module, extra=None):
    """Writes dicts of arrays and dicts as torch.jit.save does, with its names and no code."""
    tensors = {}

    class Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

        def persistent_id(self, item):
            return item.pid if isinstance(item, _Storage) else None

        def save(self, item, save_persistent_id=True):
            if isinstance(item, _Name):
                self.write(pickle.GLOBAL + f"{item.module}\n{item.name}\n".encode())
            elif isinstance(item, np.ndarray):
                item = np.array(item, order="C")
                key = str(len(tensors))
                tensors[key] = item
                strides = tuple(step // item.itemsize for step in item.strides)
                arguments = (_Storage(key, item), 0, item.shape, strides, False, {})
                self.save(_Name("torch._utils", "_rebuild_tensor_v2"))
                self.save(arguments)
                self.write(pickle.REDUCE)
            elif isinstance(item, dict) and item:
                self.save(_Name("__torch__.clip", "Module"))
                self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ + pickle.EMPTY_DICT + pickle.MARK)
                for name, value in item.items():
                    self.save(name)
                    self.save(value)
                self.write(pickle.SETITEMS + pickle.BUILD)
            else:
                super().save(item, save_persistent_id)

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(module)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip/data.pkl", buffer.getvalue())
        archive.writestr("clip/code/__torch__/clip.py", "no code is read")
        for key, array in tensors.items():
            archive.writestr(f"clip/data/{key}", array.tobytes())


def _nested(arrays):
    return traverse_util.unflatten_dict(arrays, sep=".")


def test_it_is_read_and_not_executed(tmp_path):
    arrays = {**renamed("clip_small", "openai"), "input_resolution": np.array(32)}
    _archive(tmp_path / "ViT-B-32.pt", {**_nested(arrays), "training": False, "name": None})
    found = torch.read(tmp_path / "ViT-B-32.pt")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].shape == array.shape
    _archive(tmp_path / "bad.pt", {"a": np.zeros(2), "call": _Name("os", "system")})
    with pytest.raises(ValueError, match=r"bad\.pt: it holds os\.system, which is no module of"):
        torch.read(tmp_path / "bad.pt")
    data = (tmp_path / "ViT-B-32.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(tmp_path / "c.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:100] if "data/" in name else old.read(name))
    with pytest.raises(ValueError, match=r"c\.pt: a tensor of shape .* outside of its bytes"):
        torch.read(tmp_path / "c.pt")
