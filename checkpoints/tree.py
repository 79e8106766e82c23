"""Parameter trees: their comparison, and the two layouts of a stack of encoder blocks.

An unrolled model has one subtree per block, `encoderblock_0`, `encoderblock_1`, ..., as the
published files do, and `decoderblock_0`, ... in a decoder. A model with `scan=True` has one subtree
`encoderblock`, or `decoderblock`, whose leaves have a leading axis of that many layers.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

STACKED = ("encoderblock", "decoderblock")
_STATISTICS = ("mean", "var")  # of a batch norm


def stack(params: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the parameters of an unrolled model into those of the same model with scan=True.

    Args:
        params: nested dict; numbered blocks at any depth.

    Returns:
        The same tree with stacked blocks; one without blocks comes back as it is.
    """
    tree = {k: stack(v) if isinstance(v, Mapping) else v for k, v in params.items()}
    for stacked in STACKED:
        names = sorted((k for k in tree if k.startswith(f"{stacked}_")), key=_number)
        if names:
            blocks = [tree.pop(name) for name in names]
            tree[stacked] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    return tree


def unstack(params: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `stack`; a tree that is not stacked comes back as it is."""
    tree = {k: unstack(v) if isinstance(v, Mapping) else v for k, v in params.items()}
    for name in tree.keys() & set(STACKED):
        stacked = tree.pop(name)
        for i in range(jax.tree.leaves(stacked)[0].shape[0]):
            tree[f"{name}_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
    return tree


def unrolled(model: Any) -> Any:
    """Returns a flax model with its encoder blocks one by one, as its weights are written."""
    return model.clone(scan=False) if model.has_field("scan") and model.scan else model


def merge(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Puts a model's parameters and its norms' statistics into one tree, as files hold them.

    Args:
        variables: nested dicts by collection, "params" and maybe "batch_stats".

    Raises:
        ValueError: for another collection, or names by which `split` could not tell them apart.
    """
    unknown = sorted(set(variables) - {"params", "batch_stats"})
    if unknown:
        raise ValueError(f"variables of the collection {unknown[0]!r} cannot be written to a file")
    flat: dict[str, Any] = {}
    for collection in sorted(variables, reverse=True):
        leaves = traverse_util.flatten_dict(variables[collection], sep="/")
        is_stats = collection == "batch_stats"
        wrong = [k for k in leaves if (k.rpartition("/")[2] in _STATISTICS) != is_stats]
        if wrong:
            raise ValueError(
                f"{wrong[0]} of {collection} cannot be written to a file, where what is called "
                f"{' or '.join(_STATISTICS)} is a norm's statistics, and nothing else is: give it "
                "another name"
            )
        flat |= leaves
    return traverse_util.unflatten_dict(flat, sep="/")


def split(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `merge`: statistics are what is called mean or var."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    stats = {k: v for k, v in flat.items() if k.rpartition("/")[2] in _STATISTICS}
    params = {k: v for k, v in flat.items() if k not in stats}
    variables = {"params": traverse_util.unflatten_dict(params, sep="/")}
    if stats:
        variables["batch_stats"] = traverse_util.unflatten_dict(stats, sep="/")
    return variables


def shapes(model: Any, image_size: tuple[int, int]) -> dict[str, Any]:
    """Shapes of a flax model's variables for images of (h, w) pixels, unrolled and merged."""
    model = unrolled(model)
    trace = _kept_shapes if _is_hashable(model) else _trace_shapes
    height, width = image_size
    return merge(trace(model, (height, width)))


def _trace_shapes(model: Any, image_size: tuple[int, int]) -> dict[str, Any]:
    return jax.eval_shape(model.init, jax.random.key(0), *model.inputs(image_size))


# It takes up to a second, and weights' readers ask again.
_kept_shapes = functools.lru_cache(maxsize=4)(_trace_shapes)


def _is_hashable(model: Any) -> bool:
    """Whether it has no field such as a dict, which a person's own may have."""
    try:
        hash(model)
    except TypeError:
        return False
    return True


def check(params: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compares parameters with those that a model has.

    Args:
        params: nested dict of arrays.
        expected: nested dict of arrays or of their shapes.

    Raises:
        ValueError: with what is missing, what is extra and what has another shape, each sorted
            and cut short after 20 names.
    """
    have = {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(params, sep="/").items()}
    want = {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(expected, sep="/").items()}
    shapes = [
        f"{name} {have[name]} in place of {want[name]}"
        for name in sorted(set(have) & set(want))
        if have[name] != want[name]
    ]
    problems = {
        "missing": sorted(set(want) - set(have)),
        "extra": sorted(set(have) - set(want)),
        "of another shape": shapes,
    }
    if any(problems.values()):
        lists = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise ValueError(f"the weights do not fit the model ({lists})")


def _some(names: Sequence[str], most: int = 20) -> str:
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])
