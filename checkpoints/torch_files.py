"""Files that PyTorch and safetensors write: arrays by name, and which of several sets are meant.

Nothing in a file is executed. PyTorch itself is imported only to read and write its own files.
"""

import collections
import io
import json
import logging
import math
import os
import pickle
import pickletools
import re
import shlex
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from checkpoints import files, formats, torchscript
from checkpoints.formats import MadeFor

_LOG = logging.getLogger(__name__)

SAFETENSORS = (".safetensors",)
PICKLED = (".pth", ".pt", ".bin")

# Where training scripts put weights inside of what they save: averaged ones, by words in the name
# of the place, which come first; and then those that were trained, in this order.
_AVERAGED = re.compile(r"(?<![a-z])(ema|averaged?|swa|teacher)(?![a-z])")
_TRAINED = ("state_dict", "model_state_dict", "model", "params", "net", "network", "module",
            "weights", "student", "generator")  # fmt: skip
_DEPTH = 3  # of dicts in dicts, to look for weights
# Which are none where there is more besides.
_LONE_PREFIXES = ("backbone.", "encoder.", "vit.", "_fsdp_wrapped_module.", "_forward_module.")
_NO_WEIGHTS_BELOW = ("optim", "scheduler", "scaler")  # words in the names of places
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_MADE_FOR = "made_for"  # in the metadata of a .safetensors file
# At the head of a file of PyTorch before 1.6: a number, and some pickles.
_OLD_MAGIC, _OLD_PICKLES = 0x1950A86A20F9469CFC6C, 5
_USUAL = ("torch.", "collections.", "_codecs.")  # begin the names of what belongs to weights
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # modules, since Python 2
# Which a profiler, and PyTorch's AveragedModel, leave in a model.
_COUNTERS = ("total_ops", "total_params", "n_averaged")

# What unpickling raises for a file of another kind, or one with more than weights in it.
_NO_WEIGHTS = (
    pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, struct.error, LookupError,
    ValueError, AttributeError, TypeError, AssertionError,
)  # fmt: skip


def read(path: str | os.PathLike[str], key: str = "") -> dict[str, np.ndarray]:
    """Reads a state dict, and says which if there are several.

    Args:
        path: a .safetensors file or one that PyTorch saved, by its content and whatever its name,
            at any address that `files.fetch` takes. Nothing in it is executed: what it holds
            besides weights is not loaded.
        key: where in the file the weights are, such as "state_dict_ema" or "ema.net"; "" looks for
            them, and prefers averaged ones.

    Returns:
        Arrays by name, without a prefix such as DataParallel, torch.compile and Lightning add, and
        without the counters of a profiler.

    Raises:
        ValueError: if the file is missing or cannot be read as dicts of arrays, if the weights that
            are meant are not clear, or if PyTorch is needed and not there.
    """
    found = files.fetch(path)
    if formats.find_format(found) == formats.SAFETENSORS:
        loaded: Any = _read_safetensors(found)
        weight: Any = object
        refusal = ""
    elif torchscript.is_torchscript(found):
        loaded, weight, refusal = torchscript.read(found), np.ndarray, ""
    else:
        torch = _import_torch()
        loaded, refusal = _read_pickled(found, torch)
        weight = torch.Tensor
    try:
        sets = _find_sets(loaded, lambda value: isinstance(value, weight))
    except ValueError as error:
        raise ValueError(f"{found}: {error}") from None
    if not sets:
        raise ValueError(refusal or f"{found} holds no weights: no dict of arrays by name")
    state_dict = _choose(found, sets, key)
    others = sorted(name for name, value in state_dict.items() if not isinstance(value, weight))
    if others:
        raise ValueError(f"{found} holds more than weights: {', '.join(others)}")
    return {name: _to_numpy(found, name, tensor) for name, tensor in state_dict.items()}


def write(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, np.ndarray],
    made_for: MadeFor | None = None,
) -> None:
    """Writes a state dict; the file appears whole or not at all.

    Args:
        path: its suffix decides about the format; all but .safetensors need PyTorch.
        state_dict: arrays by name.
        made_for: kept in the metadata of a .safetensors file; the others have no place for it.
    """
    with files.written_whole(path) as partial:
        if epath.Path(path).suffix in SAFETENSORS:
            about = {} if made_for is None else {_MADE_FOR: formats.pack(made_for)}
            data = safetensors.numpy.save(dict(state_dict), metadata={"format": "pt", **about})
            partial.write_bytes(data)
        else:
            torch = _import_torch()
            with partial.open("wb") as file:
                torch.save({k: torch.from_numpy(np.array(v)) for k, v in state_dict.items()}, file)


def read_made_for(path: str | os.PathLike[str]) -> MadeFor | None:
    """Reads what a .safetensors file, which can be read, says of its model, if anything."""
    with files.fetch(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(size)).get("__metadata__")
    return formats.unpack(metadata.get(_MADE_FOR, "")) if isinstance(metadata, dict) else None


def _read_safetensors(path: epath.Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        local = os.fspath(path)
        if local.startswith("gs://"):  # the reader takes local files only
            local = os.path.join(folder, path.name)
            path.copy(local)
        try:
            return safetensors.numpy.load_file(local)  # of bfloat16 too, by ml_dtypes
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is no .safetensors file: {error}") from None
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds arrays of a type that is not read: {error}") from None


class _Inert:
    """Stands for what a file would make besides weights, does nothing, and notes that it was made.

    PyTorch fills known dicts alone, so what may be one, such as a config, is one.
    """

    name: str
    made: set[str]

    def __new__(cls, *args: Any) -> Any:
        del args
        cls.made.add(cls.name)
        return object.__new__(cls) if cls.name.startswith("numpy.") else collections.OrderedDict()

    def __init__(self, *args: Any) -> None:
        del args

    def __setstate__(self, state: Any) -> None:
        del state


def _read_pickled(path: epath.Path, torch: Any) -> tuple[Any, str]:
    """Loads what PyTorch saved: tensors, and inert stand-ins for what is not known to be harmless.

    PyTorch's restricted unpickler does it (weights_only), which executes nothing but what it knows
    and what it is told of; and that are the stand-ins.

    Returns:
        What was loaded, and what to say if there are no weights in it.
    """
    names, is_plain = _look_into(path)
    made: set[str] = set()
    inert = [(type("Inert", (_Inert,), {"name": name, "made": made}), name) for name in names]
    try:
        with (
            path.open("rb") as file,
            warnings.catch_warnings(action="ignore"),  # of pickles that it may not read
            torch.serialization.safe_globals(inert),
        ):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (*_NO_WEIGHTS, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
        strange = [name for name in names if not name.startswith(_USUAL)]
        if not (strange or (names and is_plain)):
            raise ValueError(
                f"{path} is no PyTorch file of weights, or no whole one: {reason}"
            ) from None
        raise ValueError(
            f"{path} holds {_some(strange or names)} and cannot be read without executing what is "
            f"in it ({reason}). If you trust it, {_command(path, is_plain)}"
        ) from None
    if made:
        _LOG.info("%s holds besides weights, not loaded: %s", path, _some(sorted(made)))
        return loaded, (
            f"{path} holds {_some(sorted(made))} in place of a dict of weights, which cannot be "
            f"read without executing what is in it. If you trust it, {_command(path, is_plain)}"
        )
    if isinstance(loaded, dict):
        return loaded, ""
    return loaded, f"{path} holds a {type(loaded).__name__} in place of a dict of weights"


def _look_into(path: epath.Path) -> tuple[list[str], bool]:
    """Says what a pickled file would import, without importing it, and if pickle alone wrote it."""
    names: set[str] = set()
    is_plain = False
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                archive = zipfile.ZipFile(file)
                inside = [name for name in archive.namelist() if name.endswith("data.pkl")]
                pickles = [io.BytesIO(archive.read(name)) for name in inside]
            else:  # the format of before: a few pickles, of which the first is a number
                file.seek(0)
                is_plain = all(
                    argument != _OLD_MAGIC for _, argument, _ in pickletools.genops(file)
                )
                file.seek(0)
                pickles = [file] * (1 if is_plain else _OLD_PICKLES)
            for pickled in pickles:
                names |= _imports(pickled)
    except _NO_WEIGHTS:
        pass  # PyTorch will say what is wrong
    return sorted(names), is_plain


def _imports(pickled: Any) -> set[str]:
    names: set[str] = set()
    strings: list[str] = []
    for code, argument, _ in pickletools.genops(pickled):
        if code.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            names.add(f"{_RENAMED.get(module, module)}.{name}")
        elif code.name == "STACK_GLOBAL" and len(strings) > 1:
            names.add(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return names


def _command(path: epath.Path, is_plain: bool) -> str:
    """What makes a file of weights alone, by executing what is in a file; they stay where they are.

    That is, modules become their state_dict, arrays tensors, dicts stay dicts; the rest goes.
    """
    source = os.fspath(path)
    if "://" in source:
        return "copy it to this machine, and try again to be told the command"
    target = path.with_name(f"{path.name.partition('.')[0]}-weights.pth")
    load = (
        f"pickle.load(open({source!r}, 'rb'))"
        if is_plain
        else f"torch.load({source!r}, 'cpu', weights_only=False)"
    )
    script = (
        "import pickle, torch; "
        "plain = lambda x: plain(x.state_dict()) if hasattr(x, 'state_dict') else "
        "{k: plain(v) for k, v in x.items() if any(hasattr(v, a) for a in ('shape', 'items', "
        "'state_dict'))} if hasattr(x, 'items') else torch.as_tensor(x); "
        f"torch.save(plain({load}), {os.fspath(target)!r})"
    )
    return f"run python -c {shlex.quote(script)}, then use {target}"


def _to_numpy(path: epath.Path, name: str, array: Any) -> np.ndarray:
    try:
        if not hasattr(array, "detach"):
            return np.asarray(array)
        if array.is_complex():
            raise TypeError("it has complex numbers")
        array = array.detach()
        return (array.float() if str(array.dtype) == "torch.bfloat16" else array).numpy()
    except (TypeError, RuntimeError) as error:  # types that numpy lacks, sparse tensors, ...
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: {name} cannot be read: {reason}") from None


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ValueError(
            "PyTorch's own files need PyTorch: pip install 'vit_jax[torch]', or use .safetensors"
        ) from None
    return torch


def _find_sets(
    loaded: Any, is_weight: Callable[[Any], bool], at: str = "", depth: int = _DEPTH
) -> dict[str, dict[str, Any]]:
    """Finds dicts that look like weights in what was loaded, by where they are.

    Names in them lose their prefixes; parts whose names begin with that of a known place, such as
    "model." and "ema_model.", are sets of their own.
    """
    if not isinstance(loaded, dict):
        return {}
    items = {name: value for name, value in dict.items(loaded) if isinstance(name, str)}
    sets: dict[str, dict[str, Any]] = {}
    for name, value in items.items() if depth else ():
        if any(word in name.lower() for word in _NO_WEIGHTS_BELOW):
            continue
        sets |= _find_sets(value, is_weight, f"{at}.{name}".removeprefix("."), depth - 1)
    weights = {name: value for name, value in items.items() if is_weight(value)}
    if not sets and weights:
        return _split(items, at)
    # Beside other sets, arrays may be scores; but those of a model's parts have names with dots.
    return sets | (_split(weights, at) if any("." in name for name in weights) else {})


def _split(items: Mapping[str, Any], at: str) -> dict[str, dict[str, Any]]:
    named: dict[str, Any] = {}
    for stored, value in items.items():
        name = _without_prefix(stored)
        if name in named:
            raise ValueError(f"there is {name} twice, also as {stored}")
        if not name.endswith(_COUNTERS):
            named[name] = value
    places = {name.partition(".")[0] for name in named if "." in name}
    known = {place for place in places if _is_averaged(place) or place in _TRAINED}
    if any(name.partition(".")[0] not in known for name in named):  # it is a part of a model
        known = {place for place in known if place not in _TRAINED or not _is_part(place, named)}
    if any(all(name.startswith(prefix) for name in named) for prefix in _LONE_PREFIXES):
        known = places
    if not known:
        return {at: named}
    sets: dict[str, dict[str, Any]] = {}
    for place in sorted(known):
        inside = {k.removeprefix(f"{place}."): v for k, v in named.items()
                  if k.startswith(f"{place}.")}  # fmt: skip
        sets |= _split(inside, f"{at}.{place}".removeprefix("."))
    rest = {name: v for name, v in named.items() if name.partition(".")[0] not in known}
    if 2 * len(rest) > max(map(len, sets.values())):  # a model, and its averaged weights below it
        sets[at] = rest
    elif rest:
        _LOG.warning("besides %s there are, and are left out: %s",
                     ", ".join(sorted(sets)), _some(sorted(rest)))  # fmt: skip
    return sets


def _is_part(place: str, names: Iterable[str]) -> bool:
    """Whether what is below a place is a list, or a single layer, and so no model of its own.

    Such are EfficientFormerV2's "network", and the "generator" that tells a Transformer's words.
    """
    inside = [name.removeprefix(f"{place}.") for name in names if name.startswith(f"{place}.")]
    if set(inside) <= {"weight", "bias"}:
        return True
    return all(name.partition(".")[0].isdigit() for name in inside)


def _is_averaged(place: str) -> bool:
    return _AVERAGED.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", place).lower()) is not None


def _choose(path: epath.Path, sets: Mapping[str, dict[str, Any]], key: str) -> dict[str, Any]:
    """Takes the set of weights that is wanted, and says which."""
    listed = ", ".join(name or "the file itself (.)" for name in sorted(sets))
    wanted = _select(sets, key) if key else sets
    if not wanted:
        raise ValueError(f"{path} holds no weights under {key!r}; there are: {listed}")
    choose = "--config.pretrained_key=KEY when training, else --key=KEY, takes another"
    name = min(wanted, key=_rank)
    if len(wanted) > 1 and _rank(name) == math.inf:
        raise ValueError(f"{path} holds several sets of weights: {listed}. {choose}")
    kind = {0: " (averaged)", math.inf: ""}.get(_rank(name), " (as trained)")
    if len(wanted) > 1:
        _LOG.warning("%s holds the weights %s; %s is taken%s. %s",
                     path, listed, name, kind, choose)  # fmt: skip
    elif name:
        _LOG.info("%s: the weights under %s are taken%s", path, name, kind)
    return wanted[name]


def _select(sets: Mapping[str, dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """The sets of weights under a key; it may go on inside one: "teacher.backbone"; "." is all."""
    if key == ".":
        return {name: sets[name] for name in sets if not name}
    found = {name: sets[name] for name in sets if f"{name}.".startswith(f"{key}.")}
    if found:
        return found
    for name in sorted(sets, key=len, reverse=True):
        if f"{key}.".startswith(f"{name}." if name else ""):
            prefix = _without_prefix(f"{key}.".removeprefix(f"{name}." if name else ""))
            inside = {k.removeprefix(prefix): v for k, v in sets[name].items()
                      if k.startswith(prefix)}  # fmt: skip
            if inside:
                return {key: inside}
    return {}


def _rank(name: str) -> float:
    """The place of a set of weights among those that are looked for; infinite for others."""
    parts = name.split(".")
    if any(map(_is_averaged, parts)):
        return 0
    return min((1 + _TRAINED.index(part) for part in parts if part in _TRAINED), default=math.inf)


def _without_prefix(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def _some(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
