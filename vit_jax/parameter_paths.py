"""Parameters found by their paths, such as `Transformer/encoderblock_0/LayerNorm_0/scale`."""

import re
from typing import Any

import jax


def say(path: Any) -> str:
    """A path of JAX's trees as text, its keys with slashes between."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def compile_pattern(pattern: str, params: Any, key: str) -> re.Pattern[str]:
    """Compiles a regular expression that is searched in the paths of parameters.

    Args:
        pattern: it.
        params: tree in which it must find something.
        key: of the config, which says it.

    Raises:
        ValueError: if it is none, or finds nothing.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{key}={pattern!r} is not a regular expression: {error}") from None
    paths = sorted(say(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    if not any(map(compiled.search, paths)):
        raise ValueError(f"{key}={pattern!r} is found in none of: {', '.join(paths)}")
    return compiled
