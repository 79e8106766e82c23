"""Whether a config has the keys that there are, and values of their types."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import common
from input_pipeline.arguments import closest

# Subtrees that take keys of their own; the model and the optimizer check them.
OPEN = ("model", "optim.args")

# What keys were called in runs of before -> what they are called now. Nothing else has to change
# when a key is renamed, or a whole group.
RENAMED = {
    "data.pair_pattern": "data.pairs.pattern",
    "data.train_split": "data.tfds.train_split",
    "data.val_split": "data.tfds.val_split",
    "data.test_split": "data.tfds.test_split",
    "data.data_dir": "data.tfds.data_dir",
    "data.manual_dir": "data.tfds.manual_dir",
    "data.shuffle_buffer": "data.tfds.shuffle_buffer",
}


def translate(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the keys of a stored config the names that they have now.

    Args:
        stored: from a config.json, which lacks the keys that there were not yet.

    Returns:
        The same values, under `RENAMED`'s new names where they had old ones. What has the new name
        already stays.
    """
    translated = _copy(stored)
    for old, new in RENAMED.items():
        *groups, key = old.split(".")
        group = _get_group(translated, groups)
        if group is None or key not in group:
            continue
        value = group.pop(key)
        *groups, key = new.split(".")
        _get_group(translated, groups, make=True).setdefault(key, value)
    return translated


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in tree.items()}


def _get_group(tree: dict[str, Any], groups: list[str], make: bool = False) -> Any:
    """The group of keys at the end of a path; None if something else is there, or nothing."""
    group: Any = tree
    for name in groups:
        group = group.setdefault(name, {}) if make else group.get(name)
        if not isinstance(group, dict):
            return None
    return group


def check(config: ConfigDict) -> None:
    """Compares a config's keys with those of configs/common.py: their names, and their types.

    Raises:
        ValueError: for the first that does not fit; the message says what would.
    """
    _check_group(config, common.get_config(), "")


def unknown(path: str, config: ConfigDict) -> str:
    """The message about a key that a config does not have: what was meant, and what there is.

    Args:
        path: of the key, such as "optim.lr".
        config: with the keys that there are.
    """
    if path in RENAMED:
        return f"{path} is now {RENAMED[path]}"
    group, names = config, list(config)
    *parts, _ = path.split(".")
    for i, part in enumerate(parts):
        inner = group.get(part)
        here = ".".join(parts[: i + 1])
        if inner is not None and not isinstance(inner, ConfigDict):
            return f"{path}: {here} is no group of keys, but one: set {here} itself"
        if inner is None:
            path = here
            break
        group, names = inner, [f"{here}.{name}" for name in inner]
    return f"unknown config key {path}; {_hint(path, names, config)}there are: {', '.join(names)}"


def _hint(path: str, names: list[str], config: ConfigDict) -> str:
    """Suggests a key of the same group, or else of any."""
    key = path.rpartition(".")[2]
    by_key = {name.rpartition(".")[2]: name for name in names}
    others = {name.rpartition(".")[2]: name for name in _paths(config, "")}
    for known in (by_key, others):
        close = closest(key, known)
        if close:
            return f"did you mean {known[close]}? "
    return ""


def _paths(config: ConfigDict, prefix: str) -> Iterator[str]:
    for key in config:
        yield prefix + key
        if isinstance(config[key], ConfigDict):
            yield from _paths(config[key], f"{prefix}{key}.")


def _check_group(config: ConfigDict, known: ConfigDict, prefix: str) -> None:
    for key in config:
        if key not in known:
            raise ValueError(unknown(prefix + key, common.get_config()))
        _check_type(prefix + key, config[key], known[key], known.get_type(key))
        if isinstance(known[key], ConfigDict) and prefix + key not in OPEN:
            _check_group(config[key], known[key], f"{prefix}{key}.")
    missing = [prefix + key for key in known if key not in config]
    if missing:
        raise ValueError(
            f"the config lacks {', '.join(missing)}; begin it with common.get_config()"
        )


def _check_type(key: str, value: Any, default: Any, expected: type) -> None:
    """Checks a key's value against its default, and the parts of a tuple against the default's."""
    if value is None and default is None:
        return
    accepted = {float: (float, int), tuple: (tuple, list)}.get(expected, expected)
    fits = isinstance(value, accepted) and (expected is bool or not isinstance(value, bool))
    name = "a group of keys" if expected is ConfigDict else f"of type {expected.__name__}"
    if not fits:
        raise ValueError(f"{key} must be {name}, and is {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be a finite number, and is {value}")
    if expected is tuple and default:
        for part in value:
            _check_type(f"each part of {key}", part, default[0], type(default[0]))
