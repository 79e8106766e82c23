"""Parameters in PyTorch's layout and published names, such as timm's: .safetensors and .pth files.

The functions work on numpy arrays. PyTorch itself is imported only to read and write .pth files.
A model says how timm names its parts: `model.torch_names()` maps the path of a submodule, or of a
parameter outside of them, to timm's name; `name[i]` is part i of a tensor that timm keeps fused. If
there are several ways, `model.torch_namings` lists them, the one to write first, and `torch_names`
takes one. `model.torch_buffers` are ends of names that files may have and that are no weights.
"""

import collections
import os
import pickle
import re
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax
import safetensors.numpy
from etils import epath
from flax import traverse_util

from checkpoints import files, tree

SAFETENSORS = (".safetensors",)
PICKLED = (".pth", ".pt", ".bin")

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_PART = re.compile(r"(.+)\[(\d+)\]")

# Where training scripts put the weights inside of what they save, and what they put before names.
_WRAPPERS = ("state_dict", "model", "params_ema", "params")
_PREFIXES = ("module.", "_orig_mod.")

# What unpickling raises for a file of another kind, or one with more than weights in it.
_NO_WEIGHTS = (
    pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, struct.error, LookupError,
    ValueError, AttributeError, TypeError,
)  # fmt: skip


def names_of(
    model: Any, naming: str | None = None, found: Iterable[str] | None = None
) -> dict[str, str]:
    """PyTorch's names of a model's parts.

    Args:
        model: the flax module.
        naming: one of `model.torch_namings`; None is the first, or the one that fits.
        found: names of parameters of which the naming is to fit the most.

    Returns:
        Their names by ours, see the head of this file.

    Raises:
        ValueError: for an unknown naming.
    """
    namings = getattr(model, "torch_namings", ())
    if naming is not None and naming not in namings:
        known = f"there are: {', '.join(namings)}" if namings else "there is just one: leave it out"
        raise ValueError(f"unknown naming {naming!r} of these weights; {known}")
    if not namings:
        return model.torch_names()
    if naming is None and found is not None:
        modules = {name.rpartition(".")[0] for name in found}
        naming = max(namings, key=lambda n: len(modules & set(model.torch_names(n).values())))
    return model.torch_names(naming or namings[0])


def without_buffers(state_dict: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Leaves out what files hold besides a model's weights: tables that it computes itself."""
    ends = getattr(model, "torch_buffers", ())
    return {k: v for k, v in state_dict.items() if k.rpartition(".")[2] not in ends}


def from_state_dict(
    state_dict: Mapping[str, np.ndarray],
    model: Any,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Turns timm's weights into ours.

    Args:
        state_dict: arrays by timm's names.
        model: the flax module, with as many classes as the weights have.
        image_size: (h, w) that the weights were made for, where they are not those of a square.

    Returns:
        Variables of the model: {"params": nested dict of float32 numpy arrays}.

    Raises:
        ValueError: with sorted lists of what is missing, extra, or of another shape.
    """
    state_dict = without_buffers(state_dict, model)
    names = names_of(model, found=state_dict)
    shapes = tree.shapes(model, _image_size(state_dict, model, image_size))
    wanted = jax.eval_shape(lambda params: _to_torch(params, names), shapes)
    tree.check(state_dict, wanted)
    params = traverse_util.unflatten_dict(rename(state_dict, model), sep="/")
    return {"params": params if tree.unrolled(model) is model else tree.stack(params)}


def rename(state_dict: Mapping[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """Gives timm's weights our names and layout, without asking whether they are complete.

    Args:
        state_dict: arrays by timm's names.
        model: the flax module that they are for.

    Returns:
        float32 arrays by our names, joined by "/" and unrolled; what the model does not have keeps
        timm's name, and what has another shape than the model's keeps that as well as it can.
    """
    state_dict = without_buffers(state_dict, model)
    names = names_of(model, found=state_dict)
    parts = _count_parts(names)
    try:
        image_size = _image_size(state_dict, model, None)
    except ValueError:  # the shape of the heads, which is needed here, is the same for all sizes
        image_size = (model.stride, model.stride)
    renamed, used = {}, set()
    for name, leaf in traverse_util.flatten_dict(tree.shapes(model, image_size), sep="/").items():
        theirs, part = _their_name(name, names)
        if theirs not in state_dict:
            continue
        used.add(theirs)
        array = np.asarray(state_dict[theirs], np.float32)
        if part is not None:
            array = np.array_split(array, parts[theirs.rpartition(".")[0]])[part]
        if name not in names:
            array = _to_flax(array)
        with_heads = array.ndim + 1 == len(leaf.shape) and array.size == np.prod(leaf.shape)
        renamed[name] = array.reshape(leaf.shape) if with_heads else array
    ours = {theirs: name for name, theirs in names.items()}  # a class token too many, say
    for theirs in state_dict.keys() - used:
        renamed[ours.get(theirs, theirs)] = np.asarray(state_dict[theirs], np.float32)
    return renamed


def to_state_dict(
    variables: Mapping[str, Any], model: Any, naming: str | None = None
) -> dict[str, np.ndarray]:
    """Turns our weights into timm's; the inverse of `from_state_dict`.

    Args:
        variables: of the model; stacked encoder blocks are unstacked.
        model: the flax module.
        naming: see `names_of`.

    Returns:
        numpy arrays by timm's names.

    Raises:
        ValueError: if timm's model has no place for a parameter, such as pre_logits, or has one
            that the model lacks: fixed positions.
    """
    if getattr(model, "position_embedding", "learned") != "learned":
        raise ValueError(
            f"timm's model learns its position embeddings, and this one has them of the kind "
            f"{model.position_embedding}: keep it as .npz"
        )
    state_dict = _to_torch(tree.unstack(variables["params"]), names_of(model, naming))
    return {name: np.ascontiguousarray(array) for name, array in state_dict.items()}


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
        path: a .safetensors, .pth, .pt or .bin file, at any address that `files.fetch` takes.
            PyTorch's own files are read without executing code (weights_only); the dict may lie
            inside another under "state_dict" or the like.

    Returns:
        Arrays by name, without the prefix that DataParallel and torch.compile add.

    Raises:
        ValueError: if the file is missing or cannot be read as a dict of arrays, or if PyTorch is
            needed and not there.
    """
    found = files.fetch(path)
    read_file = _read_safetensors if found.suffix in SAFETENSORS else _read_pickled
    state_dict = read_file(found)
    return {_without_prefix(name): np.asarray(array) for name, array in state_dict.items()}


def write(path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict; the file appears whole or not at all.

    Args:
        path: its suffix decides about the format; all but .safetensors need PyTorch.
        state_dict: arrays by name.
    """
    with files.written_whole(path) as partial:
        if epath.Path(path).suffix in SAFETENSORS:
            data = safetensors.numpy.save(dict(state_dict), metadata={"format": "pt"})
            partial.write_bytes(data)
        else:
            torch = _import_torch()
            with partial.open("wb") as file:
                torch.save({k: torch.from_numpy(np.array(v)) for k, v in state_dict.items()}, file)


def _to_torch(params: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    fused: dict[str, dict[int, Any]] = collections.defaultdict(dict)
    homeless = []
    for name, leaf in traverse_util.flatten_dict(params, sep="/").items():
        theirs, part = _their_name(name, names)
        if theirs is None:
            homeless.append(name)
            continue
        array = leaf if name in names else _to_torch_layout(name, leaf)
        if part is None:
            whole[theirs] = array
        else:
            fused[theirs][part] = array
    if homeless:
        raise ValueError(f"the published model has no place for: {', '.join(sorted(homeless))}")
    for theirs, parts in fused.items():
        whole[theirs] = jnp.concatenate([parts[i] for i in range(len(parts))])
    return whole


def _their_name(name: str, names: Mapping[str, str]) -> tuple[str | None, int | None]:
    """Gives timm's name of a parameter, or None, and the part of it if it is fused."""
    if name in names:
        return names[name], None
    module, _, leaf = name.rpartition("/")
    if module not in names or leaf not in _LEAVES:
        return None, None
    fused = _PART.fullmatch(names[module])
    if fused is None:
        return f"{names[module]}.{_LEAVES[leaf]}", None
    return f"{fused[1]}.{_LEAVES[leaf]}", int(fused[2])


def _count_parts(names: Mapping[str, str]) -> collections.Counter[str]:
    return collections.Counter(match[1] for match in map(_PART.fullmatch, names.values()) if match)


def _to_torch_layout(name: str, leaf: Any) -> Any:
    """(h, w, in, out) -> (out, in, h, w); (in, out) -> (out, in), with heads flattened."""
    if leaf.ndim == 4:
        return leaf.transpose(3, 2, 0, 1)
    if name.endswith("bias") or leaf.ndim == 1:
        return leaf.reshape(-1)
    if name.endswith("/out/kernel"):  # (heads, d, out)
        return leaf.reshape(-1, leaf.shape[-1]).T
    return leaf.reshape(leaf.shape[0], -1).T  # (in, out) or (in, heads, d)


def _to_flax(array: np.ndarray) -> np.ndarray:
    """Inverse of `_to_torch_layout`, but for the shape of the heads."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _image_size(
    state_dict: Mapping[str, np.ndarray], model: Any, otherwise: tuple[int, int] | None
) -> tuple[int, int]:
    """The size for which the weights were made, from those that need no other shape."""
    flat = {}
    for name, theirs in names_of(model, found=state_dict).items():
        if theirs in state_dict:
            flat[name] = state_dict[theirs]
        elif f"{theirs}.weight" in state_dict:
            flat[f"{name}/kernel"] = _to_flax(state_dict[f"{theirs}.weight"])
    try:
        return model.image_size(traverse_util.unflatten_dict(flat, sep="/"))
    except KeyError:  # it will be listed among what is missing
        return 224, 224
    except ValueError:  # not square
        if otherwise is None:
            raise
        return otherwise


def _read_safetensors(path: epath.Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        local = os.fspath(path)
        if local.startswith("gs://"):  # the reader takes local files only
            local = os.path.join(folder, path.name)
            path.copy(local)
        try:
            return safetensors.flax.load_file(local)  # the reader for numpy lacks bfloat16
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is no .safetensors file: {error}") from None


def _read_pickled(path: epath.Path) -> dict[str, np.ndarray]:
    torch = _import_torch()
    try:
        with path.open("rb") as file:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except _NO_WEIGHTS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is no PyTorch file of weights alone: {reason}") from None
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__} in place of a dict of weights")
    others = sorted(k for k, v in loaded.items() if not isinstance(v, torch.Tensor))
    if others:
        raise ValueError(f"{path} holds more than weights: {', '.join(map(str, others))}")
    return {name: _to_numpy(tensor, torch) for name, tensor in loaded.items()}


def _to_numpy(tensor: Any, torch: Any) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ValueError(
            "PyTorch's own files need PyTorch: pip install 'vit_jax[torch]', or use .safetensors"
        ) from None
    return torch


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
