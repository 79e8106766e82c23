"""The optimizer, from the config."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from input_pipeline.arguments import unknown
from vit_jax import layer_rates, parameter_paths
from vit_jax.schedules import Schedule


def _adafactor(**args: Any) -> optax.GradientTransformation:
    # optax gives it as a whole optimizer, whose last step is to descend; ours comes later.
    return optax.chain(optax.adafactor(learning_rate=None, **args), optax.scale(-1.0))


def _sgd(momentum: float = 0.9, **args: Any) -> optax.GradientTransformation:
    return optax.trace(decay=momentum, **args)


def _rmsprop(
    decay: float = 0.9,
    eps: float = 1e-8,
    momentum: float = 0.9,
    nesterov: bool = False,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    # optax's own multiplies by the learning rate before the momentum; PyTorch and we do it after.
    scale = optax.scale_by_rms(decay, eps, initial_scale, eps_in_sqrt)
    return optax.chain(scale, optax.trace(momentum, nesterov, accumulator_dtype))


# Name -> (optax function, whose arguments optim.args may hold; its name for the moment's type).
OPTIMIZERS: dict[str, tuple[Callable[..., optax.GradientTransformation], str]] = {
    "sgd": (_sgd, "accumulator_dtype"),
    "adam": (optax.scale_by_adam, "mu_dtype"),
    "adamw": (optax.scale_by_adam, "mu_dtype"),
    "adafactor": (_adafactor, "dtype_momentum"),
    "lion": (optax.scale_by_lion, "mu_dtype"),
    "rmsprop": (_rmsprop, "accumulator_dtype"),
}
_DOCUMENTED_BY = {_sgd: optax.sgd, _adafactor: optax.adafactor}

MOMENTUM_DTYPES = ("float32", "bfloat16")


def make_optimizer(
    config: Any, schedule: Schedule, params: Any, layers: Sequence[str] = ()
) -> optax.GradientTransformation:
    """Makes the chain: clip, scale, decay the weights, multiply by the learning rate.

    With `config.coupled_weight_decay` the decay comes before the scaling, as part of the gradient:
    so do PyTorch's SGD, Adam and RMSProp understand weight_decay. For SGD with a momentum of .9 it
    has ten times the effect of a decoupled one of the same number.

    Args:
        config: `config.optim`.
        schedule: from `schedules.make_schedule`.
        params: the parameters, or their shapes, whose paths the patterns are searched in.
        layers: of the model, see `Model.layer_patterns`, for `config.layer_decay`.

    Returns:
        The transformation; parameters that are frozen for good take no part in the norm and have no
        state.

    Raises:
        ValueError: for an unknown optimizer or argument, or a pattern that finds nothing.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(unknown("optimizer", config.name, OPTIMIZERS))
    coupled = config.coupled_weight_decay
    if config.name == "adam" and config.weight_decay and not coupled:
        raise ValueError(
            "adam has no decoupled weight decay: set optim.name to adamw, or "
            "optim.coupled_weight_decay to True"
        )
    steps = [_scale_by(config)]
    if config.weight_decay:
        decayed = _finder(config.weight_decay_on, params, "optim.weight_decay_on")
        decay = optax.add_decayed_weights(config.weight_decay, mask=decayed)
        steps.insert(0 if coupled else 1, decay)
    if config.clip_norm:
        steps.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.adaptive_clip:
        _check_adaptive_clip(params)
        steps.insert(0, optax.adaptive_grad_clip(config.adaptive_clip))
    factors = layer_rates.scale(config, params, layers)
    if factors is not None:
        steps.append(factors)
    steps.append(optax.scale_by_learning_rate(schedule))
    if config.freeze_steps and not config.freeze:
        raise ValueError("optim.freeze_steps is for what optim.freeze finds, which is unset")
    if not config.freeze:
        return optax.chain(*steps)
    frozen = _finder(config.freeze, params, "optim.freeze")
    if all(jax.tree.leaves(frozen(params))):
        raise ValueError(f"optim.freeze={config.freeze!r} freezes every parameter")
    if config.freeze_steps:
        is_free = functools.partial(jnp.less_equal, config.freeze_steps)  # of the steps before
        return optax.chain(*steps, optax.masked(optax.scale_by_schedule(is_free), frozen))
    tx = optax.chain(*steps)

    def label(tree: Any) -> Any:
        return jax.tree.map(lambda found: "frozen" if found else "trained", frozen(tree))

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, label)


def split(params: Any, config: Any) -> tuple[Any, Any]:
    """Splits parameters into those that are trained, and those that are frozen for good.

    Args:
        params: tree of parameters.
        config: `config.optim`.

    Returns:
        Two trees, each with None in the place of what the other has.
    """
    if not config.freeze or config.freeze_steps:
        return params, jax.tree.map(lambda _: None, params)
    is_frozen = _finder(config.freeze, params, "optim.freeze")(params)
    trained = jax.tree.map(lambda p, frozen: None if frozen else p, params, is_frozen)
    return trained, jax.tree.map(lambda p, frozen: p if frozen else None, params, is_frozen)


def join(trained: Any, frozen: Any) -> Any:
    """The reverse of `split`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda x: x is None
    )


def _check_adaptive_clip(params: Any) -> None:
    """Raises a ValueError for weights of which optax does not know what belongs to an output."""
    for name, leaf in traverse_util.flatten_dict(params, sep="/").items():
        if sum(side > 1 for side in leaf.shape) > 1 and len(leaf.shape) not in (2, 4):
            raise ValueError(
                "optim.adaptive_clip is for models of dense layers (inputs, outputs) and "
                f"convolutions (h, w, inputs, outputs), and {name} has the shape {leaf.shape}: set "
                "it to 0, or optim.clip_norm in its place"
            )


def _scale_by(config: Any) -> optax.GradientTransformation:
    make, dtype_name = OPTIMIZERS[config.name]
    if config.momentum_dtype not in MOMENTUM_DTYPES:
        raise ValueError(
            f"optim.momentum_dtype={config.momentum_dtype!r} is not one of {MOMENTUM_DTYPES}"
        )
    args = {dtype_name: config.momentum_dtype, **config.args}
    known = inspect.signature(_DOCUMENTED_BY.get(make, make)).parameters
    for name in set(args) - set(known):
        names = [one for one in known if one != "learning_rate"]
        raise ValueError(unknown(f"argument of {config.name}", name, names, "for optim.args "))
    for name, value in config.args.items():
        if not isinstance(value, bool | int | float | None):
            raise ValueError(f"optim.args.{name} must be a number, and is {value!r}")
        if value is None and types.NoneType not in typing.get_args(known[name].annotation):
            del args[name]  # unset
    return make(**args)


def _finder(pattern: str, params: Any, key: str) -> Callable[[Any], Any]:
    """Makes a function from a tree to a tree of bools: is the pattern found in a leaf's path?"""
    regex = parameter_paths.compile_pattern(pattern, params, key)
    return functools.partial(
        jax.tree_util.tree_map_with_path,
        lambda path, _: regex.search(parameter_paths.say(path)) is not None,
    )
