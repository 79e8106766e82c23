"""The two layouts of a stack of encoder blocks.

An unrolled model has one subtree per block, `encoderblock_0`, `encoderblock_1`, ..., as the
published files do. A model with `scan=True` has one subtree `encoderblock`, whose leaves have a
leading axis of that many layers.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_STACKED = "encoderblock"
_NUMBERED = "encoderblock_"


def stack(params: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the parameters of an unrolled model into those of the same model with scan=True.

    Args:
        params: nested dict; numbered blocks at any depth.

    Returns:
        The same tree with stacked blocks; one without blocks comes back as it is.
    """
    tree = {k: stack(v) if isinstance(v, Mapping) else v for k, v in params.items()}
    names = sorted((k for k in tree if k.startswith(_NUMBERED)), key=_number)
    if names:
        blocks = [tree.pop(name) for name in names]
        tree[_STACKED] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    return tree


def unstack(params: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `stack`; a tree that is not stacked comes back as it is."""
    tree = {k: unstack(v) if isinstance(v, Mapping) else v for k, v in params.items()}
    if _STACKED in tree:
        stacked = tree.pop(_STACKED)
        for i in range(jax.tree.leaves(stacked)[0].shape[0]):
            tree[f"{_NUMBERED}{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
    return tree


def _number(name: str) -> int:
    return int(name.removeprefix(_NUMBERED))
