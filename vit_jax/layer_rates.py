"""Learning rates that differ between parameters: by layer, and by name."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from checkpoints.tree import STACKED
from vit_jax import parameter_paths

Factor = float | np.ndarray


def scale(config: Any, params: Any, layers: Sequence[str]) -> optax.GradientTransformation | None:
    """Makes what multiplies each parameter's update, and so its learning rate and weight decay.

    With `layer_decay` d, layer i of n has d^(n - i): the stem, layer 0, d^n, the last block d, and
    what comes after the layers, such as the head, 1. Of the `multipliers`, pairs of a regular
    expression and a factor, the first that is found in a parameter's path counts.

    Source: Clark et al., "ELECTRA" (ICLR 2020); as timm counts the layers.

    Args:
        config: `config.optim`.
        params: the parameters, or their shapes.
        layers: from `Model.layer_patterns`; () if the model has none.

    Returns:
        The transformation, without a state; None if all rates are the same.

    Raises:
        ValueError: for a decay outside of (0, 1], a factor that is not above 0, a pattern that
            finds nothing, or a decay where there are no layers.
    """
    decay, multipliers = config.layer_decay, tuple(config.multipliers)
    if decay == 1 and not multipliers:
        return None
    _check(decay, multipliers, layers)
    by_name = [
        (parameter_paths.compile_pattern(pattern, params, "optim.multipliers"), float(factor))
        for pattern, factor in multipliers
    ]
    by_layer = [re.compile(pattern) for pattern in layers] if decay != 1 else []

    def factor(path: str) -> float:
        at = next((i for i, layer in enumerate(by_layer) if layer.search(path)), len(by_layer))
        named = next((factor for pattern, factor in by_name if pattern.search(path)), 1.0)
        return named * decay ** (len(by_layer) - at)

    def update(updates: Any, params: Any) -> Any:
        del params
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * _of_leaf(factor, parameter_paths.say(path), leaf.shape),
            updates,
        )

    return optax.stateless(update)


def _of_leaf(factor: Callable[[str], float], path: str, shape: tuple[int, ...]) -> Factor:
    """The factor of a leaf; of one with an axis of stacked blocks, an array along that."""
    for name in STACKED:
        start, found, end = f"/{path}".partition(f"/{name}/")
        if found:
            each = [factor(f"{start}/{name}_{i}/{end}".removeprefix("/")) for i in range(shape[0])]
            return np.array(each, np.float32).reshape(-1, *(1 for _ in shape[1:]))
    return factor(path)


def _check(decay: float, multipliers: Iterable[Any], layers: Sequence[str]) -> None:
    if not 0 < decay <= 1:
        raise ValueError(f"optim.layer_decay must lie in (0, 1], not {decay}")
    if decay != 1 and not layers:
        raise ValueError(
            f"optim.layer_decay={decay} is for ViT, Swin and MLP-Mixer, whose layers are known: "
            "say the factors of others by optim.multipliers"
        )
    for pair in multipliers:
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not isinstance(pair[0], str) or not isinstance(pair[1], int | float):
            raise ValueError(
                f"optim.multipliers are pairs such as (('^head/', 10.0),), and {pair!r} is none"
            )
        if not pair[1] > 0:
            raise ValueError(
                f"optim.multipliers: the factor of {pair[0]!r} must be above 0, not {pair[1]}: "
                "optim.freeze says what stays as it is"
            )
