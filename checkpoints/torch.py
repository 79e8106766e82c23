"""Parameters in PyTorch's layout and published names, such as timm's: .safetensors and .pth files.

The functions work on numpy arrays; the files are read and written by `torch_files`, whose functions
are offered here as well. A model says how timm names its parts: `model.torch_names()` maps the path
of a submodule, or of a parameter outside of them, to timm's name; `name[i]` is part i of a tensor
that timm keeps fused, `a|b|c` are the parts of one that is kept fused here, and `name[:,1,1]` is a
parameter that has two axes of length 1 behind its own there, as what scales the channels of images
often has. `name[0,...]` is a parameter that lacks the first axis of ours there, which has the
length 1, and `name[0,0,...]` the first two; a module's name that ends in "_", such as "in_proj_",
is joined to "weight" and "bias" without a dot. If there are several ways, `model.torch_namings`
lists them, the one to write first, and `torch_names` takes one. `model.torch_buffers` are ends of
names that files may have and that are no weights.
"""

import collections
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from checkpoints import tree
from checkpoints.torch_files import PICKLED, SAFETENSORS, read, read_made_for, write

__all__ = [
    "PICKLED", "SAFETENSORS", "fitting_namings", "from_state_dict", "names_of", "naming_of", "read",
    "read_made_for", "rename", "shapes_by_our_names", "to_state_dict", "without_buffers", "write",
]  # fmt: skip


_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias",
           "mean": "running_mean", "var": "running_var"}  # fmt: skip
_OURS = {"bias": "bias", "running_mean": "mean", "running_var": "var"}  # but of weights
_COUNTED = "num_batches_tracked"  # by PyTorch's batch norms, in whose files it is
_PART = re.compile(r"(.+)\[(\d+)\]")
_FOR_IMAGES = "[:,1,1]"
_WITHOUT_FIRST = re.compile(r"\[((?:0,)+)\.\.\.\]$")


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
    namings = model.torch_namings
    if naming is not None and naming not in namings:
        known = f"there are: {', '.join(namings)}" if namings else "there is just one: leave it out"
        raise ValueError(f"unknown naming {naming!r} of these weights; {known}")
    if not namings:
        return model.torch_names()
    return model.torch_names(naming or (naming_of(found, model) if found else namings[0]))


def naming_of(found: Iterable[str], model: Any) -> str:
    """Says by which of a model's namings the most of some names of parameters are known."""
    modules = {name.rpartition(".")[0] for name in found} | set(found)

    def count(naming: str) -> int:
        names = {_plain(name) for name in model.torch_names(naming).values()}
        fused = {part for name in names if "|" in name for part in name.split("|")}
        return len(modules & (names | fused))

    return max(model.torch_namings, key=count)


def _fuse(state_dict: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Puts the parts of what is fused here alone together, under the name `a|b|c.weight`."""
    fused = dict(state_dict)
    for name in names.values():
        for leaf in ("weight", "bias") if "|" in name else ():
            parts = [_join(part, leaf) for part in name.split("|")]
            if all(part in fused for part in parts):
                fused[f"{name}.{leaf}"] = np.concatenate([fused.pop(part) for part in parts])
    return fused


def _take_apart(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `_fuse`."""
    apart: dict[str, Any] = {}
    for name, array in state_dict.items():
        module, _, leaf = name.rpartition(".")
        if "|" in module:
            parts = module.split("|")
            arrays = np.split(np.asarray(array), len(parts))
            apart |= {f"{part}.{leaf}": each for part, each in zip(parts, arrays)}
        else:
            apart[name] = array
    return apart


def without_buffers(state_dict: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Leaves out what files hold besides a model's weights: tables that it computes itself.

    What was called otherwise once, see `model.torch_aliases`, has its name of today afterwards.
    """
    ends = tuple(f".{end}" for end in (*model.torch_buffers, _COUNTED))
    kept = {k: v for k, v in state_dict.items() if not f".{k}".endswith(ends)}
    for old, new in model.torch_aliases.items():
        kept = {f"{k.removesuffix(old)}{new}" if k.endswith(old) else k: v for k, v in kept.items()}
    return kept


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
        Variables of the model: {"params": nested dict of float32 numpy arrays}, and the
        "batch_stats" of its batch norms if it has any.

    Raises:
        ValueError: with sorted lists of what is missing, extra, or of another shape.
    """
    state_dict = without_buffers(state_dict, model)
    names = names_of(model, found=state_dict)
    state_dict = _fuse(state_dict, names)
    shapes = tree.shapes(model, _image_size(state_dict, model, image_size))
    wanted = jax.eval_shape(lambda arrays: _to_torch(arrays, names), shapes)
    tree.check(_with_shapes_of_scalars(state_dict, wanted), wanted)
    variables = tree.split(traverse_util.unflatten_dict(rename(state_dict, model), sep="/"))
    return variables if tree.unrolled(model) is model else tree.stack(variables)


def _with_shapes_of_scalars(
    state_dict: Mapping[str, np.ndarray], wanted: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Lets a single number have the shape () or (1,), since files of one naming differ in that."""
    return {
        name: np.reshape(array, wanted[name].shape)
        if name in wanted and np.size(array) == 1 == wanted[name].size
        else array
        for name, array in state_dict.items()
    }


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
    state_dict = _fuse(state_dict, names)
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
            module = names[name.rpartition("/")[0]].rpartition("[")[0]
            array = np.array_split(array, parts[module])[part]
        if name not in names:
            array = _to_flax(array)
        elif name.endswith("/bias"):  # of several heads, perhaps
            pass
        elif _is_for_images(name, names):
            array = array.reshape(array.shape[:1] if array.size == len(array) else array.shape)
        else:
            array = _with_first_axes(array, len(leaf.shape))
        with_heads = array.ndim + 1 == len(leaf.shape) and array.size == np.prod(leaf.shape)
        renamed[name] = array.reshape(leaf.shape) if with_heads else array
    ours = {_plain(theirs): name for name, theirs in names.items()}  # a class token too many, say
    for theirs in state_dict.keys() - used:
        renamed[ours.get(theirs, theirs)] = np.asarray(state_dict[theirs], np.float32)
    return renamed


def shapes_by_our_names(
    state_dict: Mapping[str, np.ndarray], model: Any
) -> tuple[dict[str, tuple[int, ...]], float]:
    """Reads shapes off weights without asking whether they are a model's.

    Args:
        state_dict: arrays by PyTorch's names.
        model: the flax module whose names are looked up; heads do not tell apart in such weights.

    Returns:
        Shapes by our names and in our layout; and the share of the arrays that have a name.
    """
    state_dict = without_buffers(state_dict, model)
    names = names_of(model, found=state_dict)
    state_dict = _fuse(state_dict, names)
    parts = _count_parts(names)
    shapes, known = {}, set()
    for ours, theirs in names.items():
        if _plain(theirs) in state_dict:
            array = np.broadcast_to(0, state_dict[_plain(theirs)].shape)  # costs no memory
            axes = array.ndim + _count_first_axes(theirs)
            shapes[ours] = _with_first_axes(array, axes).shape
            if _is_for_images(ours, names):
                shapes[ours] = array.shape[:1]
            known.add(_plain(theirs))
            continue
        fused = _PART.fullmatch(theirs)
        module = fused[1] if fused else theirs
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            name = _join(module, leaf)
            if name not in state_dict:
                continue
            known.add(name)
            if not state_dict[name].ndim:
                continue
            outputs, *inputs = state_dict[name].shape
            outputs //= parts[module] if fused else 1
            kind = {"weight": "kernel" if inputs else "scale"}.get(leaf, _OURS.get(leaf))
            shapes[f"{ours}/{kind}"] = (*inputs[1:], *inputs[:1], outputs)
    return shapes, len(known) / max(len(state_dict), 1)


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
    if _has_fixed_positions(model):
        raise ValueError(
            f"timm's model learns its position embeddings, and this one has them of the kind "
            f"{model.position_embedding}: keep it as .npz"
        )
    names = names_of(model, naming)
    if not names:
        raise ValueError(f"{type(model).__name__} has no names in PyTorch: keep it as .npz")
    state_dict = _take_apart(_to_torch(tree.merge(tree.unstack(variables)), names))
    counts = {
        f"{name.removesuffix('running_mean')}{_COUNTED}": np.zeros((), np.int64)
        for name in state_dict
        if name.endswith(".running_mean")
    }
    tables = counts | model.torch_tables()
    return tables | {name: np.asarray(array, order="C") for name, array in state_dict.items()}


def fitting_namings(variables: Mapping[str, Any], model: Any) -> list[str]:
    """The namings in which `to_state_dict` can write a model; "" for that of one with just one."""
    if _has_fixed_positions(model):
        return []
    shapes = jax.eval_shape(tree.unstack, variables)
    ours = traverse_util.flatten_dict(tree.merge(shapes), sep="/")
    tables = {naming: names_of(model, naming or None) for naming in model.torch_namings or ("",)}
    return [
        naming
        for naming, names in tables.items()
        if names and all(_their_name(name, names)[0] is not None for name in ours)
    ]


def _has_fixed_positions(model: Any) -> bool:
    if not model.has_field("position_embedding") or model.position_embedding == "learned":
        return False
    has_others = model.has_field("rotary") and (model.rotary or model.relative_bias)
    return not has_others


def _to_torch(arrays: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    fused: dict[str, list[Any]] = {}
    counts = _count_parts(names)
    homeless = []
    for name, leaf in traverse_util.flatten_dict(arrays, sep="/").items():
        theirs, part = _their_name(name, names)
        is_bias = name.endswith("/bias")
        if theirs is None:
            homeless.append(name)
            continue
        array = leaf if name in names and not is_bias else _to_torch_layout(name, leaf)
        if _is_for_images(name, names):
            array = array[..., None, None]
        elif name in names and not is_bias:
            array = array.reshape(array.shape[_count_first_axes(names[name]) :])
        if part is None:
            whole[theirs] = array
        else:
            module = names[name.rpartition("/")[0]].rpartition("[")[0]
            fused.setdefault(theirs, [None] * counts[module])[part] = array
    if homeless:
        raise ValueError(f"the published model has no place for: {', '.join(sorted(homeless))}")
    for theirs, parts in fused.items():
        absent = next(0 * part for part in parts if part is not None)  # such as a bias of keys
        whole[theirs] = jnp.concatenate([absent if part is None else part for part in parts])
    return whole


def _their_name(name: str, names: Mapping[str, str]) -> tuple[str | None, int | None]:
    """Gives timm's name of a parameter, or None, and the part of it if it is fused."""
    if name in names:
        return _plain(names[name]), None
    module, _, leaf = name.rpartition("/")
    if module not in names or leaf not in _LEAVES:
        return None, None
    fused = _PART.fullmatch(names[module])
    if fused is None:
        return _join(names[module], _LEAVES[leaf]), None
    return _join(fused[1], _LEAVES[leaf]), int(fused[2])


def _join(module: str, leaf: str) -> str:
    return f"{module}{leaf}" if module.endswith("_") else f"{module}.{leaf}"


def _is_for_images(name: str, names: Mapping[str, str]) -> bool:
    """Whether a parameter has two more axes in PyTorch, see the head of this file."""
    return names.get(name, "").endswith(_FOR_IMAGES)


def _plain(theirs: str) -> str:
    return _WITHOUT_FIRST.sub("", theirs.removesuffix(_FOR_IMAGES)) if "[" in theirs else theirs


def _count_first_axes(theirs: str) -> int:
    """How many axes of length 1 our parameter has before those of theirs."""
    match = _WITHOUT_FIRST.search(theirs)
    return match[1].count("0") if match else 0


def _with_first_axes(array: np.ndarray, count: int) -> np.ndarray:
    """Gives an array the first axes, of length 1, that it lacks to have so many."""
    return array.reshape((1,) * (count - array.ndim) + array.shape)


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
        if _plain(theirs) in state_dict:
            array = state_dict[_plain(theirs)]
            flat[name] = _with_first_axes(array, array.ndim + _count_first_axes(theirs))
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
