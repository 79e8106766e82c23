"""Whether a config has the keys that there are, and values of their types."""

import difflib
from typing import Any

from ml_collections import ConfigDict

from configs import common

# Subtrees that take keys of their own; the model and the optimizer check them.
_OPEN = ("model", "optim.args")


def check(config: ConfigDict) -> None:
    """Compares a config's keys with those of configs/common.py: their names, and their types.

    Raises:
        ValueError: for the first that does not fit; the message says what would.
    """
    _check_group(config, common.get_config(), "")


def _check_group(config: ConfigDict, known: ConfigDict, prefix: str) -> None:
    for key in config:
        if key not in known:
            close = difflib.get_close_matches(key, list(known), n=1)
            hint = f"did you mean {prefix}{close[0]}? " if close else ""
            names = ", ".join(prefix + name for name in known)
            raise ValueError(f"unknown config key {prefix}{key}; {hint}there are: {names}")
        _check_type(prefix + key, config[key], known[key], known.get_type(key))
        if isinstance(known[key], ConfigDict) and prefix + key not in _OPEN:
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
    if expected is tuple and default:
        for part in value:
            _check_type(f"each part of {key}", part, default[0], type(default[0]))
