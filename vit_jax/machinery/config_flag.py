"""A config as it is given on the command line: --config=FILE[:ARGUMENT] --config.KEY=VALUE.

A VALUE is read by the type of its key: text as it is, numbers, True or False, tuples as
`(1, 2)` or `a,b`. None takes a key, or a whole group, back to its default in configs/common.py;
of the model and of the optimizer's arguments it is None where that is a value, and else leaves it
to them. Fields that the file sets for its model are left out with a model of another kind.
"""

import ast
import importlib.util
import inspect
import logging
import re
import traceback
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import configs
from configs import common
from input_pipeline.arguments import closest, expand_home
from vit_jax.machinery import config_keys

_LOG = logging.getLogger(__name__)

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)
_NOT_CONFIGS = ("__init__", "common", "presets")  # files of configs/ that are of no experiment
_SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_KINDS = {bool: "True or False", int: "whole number", float: "number",
          tuple: "tuple such as (1, 2) or a,b"}  # fmt: skip

Override = tuple[str, str | None]  # a key, and what it is to be; None if that was not said


def split(arguments: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Takes what changes keys of the config out of a command's arguments.

    Returns:
        The other arguments, and the changes in order.
    """
    others: list[str] = []
    overrides: list[Override] = []
    rest = expand_home(arguments)
    while rest:
        argument = rest.pop(0)
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            others.append(argument)
            continue
        negated, key, value = match.groups()
        if negated:
            value = "False"
        elif value is None and rest and re.match(r"[^-]|-[\d.]", rest[0]):
            value = rest.pop(0)
        overrides.append((key, value))
    return others, overrides


def load(path: str, overrides: Sequence[Override] = ()) -> ConfigDict:
    """Makes the config of a file, and changes keys of it.

    Args:
        path: FILE, or FILE:ARGUMENT; configs/NAME.py is found from any folder.
        overrides: from `split`.

    Raises:
        ValueError: if the file is not there or fails, for an argument that it does not take, for
            an unknown key, or for a value that is none of the key's.
    """
    file, colon, argument = path.partition(":")
    found = _find(file)
    make = _get_config(found)
    given = [argument] if colon else []
    try:
        inspect.signature(make).bind(*given)
    except TypeError:
        problem = f"takes no argument: leave out :{argument}"
        if not given:
            problem = f"needs an argument: --config={file}:ARGUMENT"
        raise ValueError(f"{file} {problem}") from None
    config = _guarded(found, lambda: make(*given))
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{file}: get_config must return a ConfigDict, not {type(config)}")
    config.unlock()
    named = config.get("model_name")
    for key, text in overrides:
        _override(config, key, text)
    if "model" in config and named is not None:
        typed = {key.removeprefix("model.") for key, _ in overrides if key.startswith("model.")}
        _fit_fields(config, named, typed)
    return config


def _find(file: str) -> Path:
    path = Path(file)
    folder = Path(configs.__file__).parent
    if not path.is_file() and path.parent == Path("configs"):
        path = folder / path.name
    if not path.is_file():
        names = sorted(p.stem for p in folder.glob("*.py") if p.stem not in _NOT_CONFIGS)
        close = closest(path.stem, names)
        hint = f"did you mean configs/{close}.py? " if close else ""
        raise ValueError(
            f"there is no config {file!r}; {hint}in configs/ there are: {', '.join(names)}"
        )
    if path.suffix != ".py":
        raise ValueError(f"{file} is no config, whose name ends in .py")
    return path


def _get_config(path: Path) -> Callable[..., Any]:
    """The function get_config of a file."""

    def execute() -> types.ModuleType:
        spec: Any = importlib.util.spec_from_file_location("the_config", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    module = _guarded(path, execute)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} lacks a function get_config, which returns the config")
    return module.get_config


def _guarded(path: Path, step: Callable[[], Any]) -> Any:
    """Runs what a person wrote, which can raise whatever it likes."""
    try:
        return step()
    except ValueError:  # which says what to do
        raise
    except SyntaxError as error:
        raise ValueError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()][-1]
        raise ValueError(
            f"{path}, line {line}: {type(error).__name__}: {error}; --traceback shows all of it"
        ) from error


def _override(config: ConfigDict, path: str, text: str | None) -> None:
    """Changes a key, whose path begins with its groups."""
    *groups, key = path.split(".")
    group = config
    for name in groups:
        group = group.get(name)
        if not isinstance(group, ConfigDict):
            raise ValueError(config_keys.unknown(path, config))
    is_open = ".".join(groups) in config_keys.OPEN
    if not is_open and key not in group:
        raise ValueError(config_keys.unknown(path, config))
    if is_open:
        value = True if text is None else _literal(text)
        if key in group:
            del group[key]  # or the other value would have to be of its type
    elif text == "None":
        value = _default(config, path)
        if isinstance(value, ConfigDict):
            del group[key]  # or the two would be merged
    else:
        value = _read(path, text, group.get_type(key))
    group[key] = value


def _default(config: ConfigDict, path: str) -> Any:
    """A key's value in configs/common.py, for a config that begins with that."""
    default: Any = common.get_config()
    if not set(default) <= set(config):  # such as that of --mode=benchmark
        raise ValueError(f"{path} cannot be None: leave --config.{path}=None out")
    for name in path.split("."):
        if name not in default:
            raise ValueError(config_keys.unknown(path, default))
        default = default[name]
    return default


def _read(path: str, text: str | None, kind: type) -> Any:
    """Reads a value of the type of its key."""
    if issubclass(kind, ConfigDict):
        raise ValueError(
            f"{path} is a group of keys: set one, --config.{path}.KEY=VALUE, or take all back to "
            f"their defaults, --config.{path}=None"
        )
    if text is None:
        if kind is bool:
            return True
        raise ValueError(f"--config.{path} needs a value: --config.{path}=VALUE")
    readers: dict[type, Callable[[str], Any]] = {
        bool: _switch, int: _integer, float: float, tuple: _tuple,
    }  # fmt: skip
    try:
        return readers.get(kind, str)(text)
    except ValueError:
        raise ValueError(
            f"--config.{path}={text} is no {_KINDS.get(kind, kind.__name__)}; None is its default"
        ) from None


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCHES:
        raise ValueError
    return _SWITCHES[text.lower()]


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = float(text)  # such as 1e5
        if not number.is_integer():
            raise
        return int(number)


def _tuple(text: str) -> tuple[Any, ...]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if set("()[]'\"") & set(text):
            raise ValueError from None
        value = tuple(_literal(part.strip()) for part in text.split(",") if part.strip())
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _literal(text: str) -> Any:
    """A Python literal, or a switch in lower case; else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return _SWITCHES.get(text, text) if text in ("true", "false") else text


def _fit_fields(config: ConfigDict, named: str, typed: set[str]) -> None:
    """Leaves out fields that are unset, and those of the file if they are of another model's kind.

    Args:
        config: of which `model` is changed.
        named: the model of the file.
        typed: fields that the command line set.
    """
    fields = config.model
    own = sorted(set(fields) - typed)
    if not (own and config.model_name != named) and None not in fields.values():
        return
    from vit_jax import plugins  # what follows imports JAX
    from vit_jax.models.registry import field_types, find_model

    plugins.load(config.get("plugins", ()))
    if own and find_model(config.model_name)[0] is not find_model(named)[0]:
        _LOG.info("%s is of another kind than %s, for which the config sets model.%s: left out",
                  config.model_name, named, ", model.".join(own))  # fmt: skip
        for name in own:
            del fields[name]
    kinds = field_types(config.model_name)
    for name in [name for name in fields if fields[name] is None and name in kinds]:
        if types.NoneType not in typing.get_args(kinds[name]):
            del fields[name]
