"""The optimizer and its learning-rate schedule, from the config."""

import functools
import inspect
import logging
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

_LOG = logging.getLogger(__name__)

Schedule = Callable[[Any], Any]


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

SCHEDULES = (
    "constant", "cosine", "linear", "poly", "rsqrt", "multistep", "exponential", "onecycle",
    "noam",
)  # fmt: skip
_ENDLESS = ("constant", "multistep", "exponential")  # those that reach no end
_SCALED_WARMUP = 0.1  # of the steps of a run that is shorter than its warmup
MOMENTUM_DTYPES = ("float32", "bfloat16")


def make_schedule(
    config: Any, learning_rate: float, total_steps: int, steps_per_epoch: float
) -> Schedule:
    """Makes the learning rate as a function of the number of updates made before.

    It rises linearly to `learning_rate`, which the last update of the warmup has, so that no
    update is lost to a rate of 0; the first has `config.warmup_from`, or the share of one step. A
    warmup that does not fit into the run becomes a tenth of it, and a warning says so.
    "poly" decays from the first step on, (1 - step / total_steps)^power, and its warmup is a factor
    of that, as in mmsegmentation. "onecycle" has a warmup of its own, see `_one_cycle`. "noam" is
    that of Vaswani et al., "Attention Is All You Need" (NeurIPS 2017), equation 3: the highest rate
    times min(s / w, sqrt(w / s)) in step s from 1, with w steps of warmup. There the highest is
    (d w)^-.5 for a model of width d, 7e-4 for 512 and 4,000; here `learning_rate` says it.

    Args:
        config: `config.schedule`.
        learning_rate: the highest.
        total_steps: of the run.
        steps_per_epoch: for a warmup in epochs, or a rate that changes between epochs only.

    Returns:
        A function from the step, an int or a traced int32, to the learning rate.

    Raises:
        ValueError: for an unknown schedule, or settings that do not fit.
    """
    warmup = _fit_warmup(config, total_steps, steps_per_epoch)
    _check_schedule(config, learning_rate, warmup)
    _warn_of_milestones(config.milestones, total_steps)
    decay_steps = max(total_steps - warmup, 1)
    final = learning_rate * config.final_fraction

    def rsqrt(step: jax.Array) -> jax.Array:
        return jnp.maximum(
            learning_rate * jnp.sqrt(config.timescale / (config.timescale + step)), final
        )

    def noam(step: jax.Array) -> jax.Array:
        since = (step + 1) / max(warmup, 1)
        return learning_rate * jnp.minimum(since, jnp.maximum(since**-0.5, config.final_fraction))

    begin = config.warmup_from or learning_rate / max(warmup, 1)
    schedules = {
        "constant": optax.constant_schedule(learning_rate),
        "cosine": optax.cosine_decay_schedule(learning_rate, decay_steps, config.final_fraction),
        "linear": optax.linear_schedule(learning_rate, final, decay_steps),
        "poly": optax.polynomial_schedule(learning_rate, final, config.power, max(total_steps, 1)),
        "rsqrt": rsqrt,
        "multistep": optax.piecewise_constant_schedule(
            learning_rate, {step - warmup: config.gamma for step in config.milestones}
        ),
        "exponential": optax.exponential_decay(
            learning_rate, max(steps_per_epoch, 1), config.gamma
        ),
        "onecycle": _one_cycle(learning_rate, total_steps),
        "noam": noam,
    }
    if config.name not in schedules:
        raise ValueError(unknown("schedule", config.name, SCHEDULES))
    decay = schedules[config.name]
    if config.per_epoch:
        decay = _per_epoch(decay, max(steps_per_epoch, 1))
    if not warmup or config.name == "noam":  # which has its own
        return decay
    if config.name == "poly":
        share = optax.linear_schedule(begin / (learning_rate or 1.0), 1.0, warmup)
        return lambda step: share(step) * decay(step)
    rise = optax.linear_schedule(begin, learning_rate, warmup - 1)
    return optax.join_schedules([rise, decay], [warmup])


_CYCLE_RISE = 0.05  # share of the steps
_CYCLE_SPARE = 100  # steps by which the cycle is longer than the run


def _one_cycle(learning_rate: float, total_steps: int) -> Schedule:
    """Linear from 1/25 of the rate up to it, and down to 1/250,000 of it.

    As PyTorch's OneCycleLR over total_steps + 100 steps, with pct_start=0.05 and
    anneal_strategy="linear".

    Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (ECCV
    2020), its published code; Smith and Topin, "Super-Convergence" (2019).
    """
    steps = total_steps + _CYCLE_SPARE
    turns = jnp.array([0.0, _CYCLE_RISE * steps - 1, steps - 1.0])
    rates = jnp.array([learning_rate / 25, learning_rate, learning_rate / 25e4])
    return lambda step: jnp.interp(jnp.asarray(step, jnp.float32), turns, rates)


def _fit_warmup(config: Any, total_steps: int, steps_per_epoch: float) -> int:
    """Steps of the warmup: those of the config, or fewer if the run is shorter than that."""
    warmup: int = config.warmup_steps or round(config.warmup_epochs * steps_per_epoch)
    if not 0 < total_steps < warmup:
        return warmup
    scaled = max(round(_SCALED_WARMUP * total_steps), 2)
    _LOG.warning(
        "the warmup of %d steps does not fit into the run's %d: it has %d in their place; "
        "schedule.warmup_steps says another number", warmup, total_steps, scaled,
    )  # fmt: skip
    return scaled


def _warn_of_milestones(milestones: Sequence[int], total_steps: int) -> None:
    """Warns if a run ends before the rate falls for the first time."""
    if milestones and 0 < total_steps <= min(milestones):
        _LOG.warning(
            "the learning rate does not fall in the run's %d steps, since the first of "
            "schedule.milestones is %d", total_steps, min(milestones),
        )  # fmt: skip


def _check_schedule(config: Any, learning_rate: float, warmup: int) -> None:
    """Raises a ValueError for settings that do not fit."""
    if warmup < 0:
        raise ValueError(f"the warmup must not be negative, and is of {warmup} steps")
    if not 0 <= config.final_fraction <= 1:
        raise ValueError(f"schedule.final_fraction must lie in [0, 1], not {config.final_fraction}")
    if config.name in _ENDLESS and config.final_fraction:
        raise ValueError(
            f"the schedule {config.name} does not decay to an end: set schedule.final_fraction to 0"
        )
    if config.name == "onecycle" and (warmup or config.final_fraction):
        raise ValueError(
            "the schedule onecycle has a warmup and an end of its own: set schedule.warmup_steps, "
            "warmup_epochs and final_fraction to 0"
        )
    if config.name == "noam" and not warmup:
        raise ValueError(
            "the schedule noam decays by the length of its warmup: set schedule.warmup_steps, to "
            "4000 as published"
        )
    if config.name == "noam" and config.warmup_from:
        raise ValueError("the schedule noam rises from 0: set schedule.warmup_from to 0")
    milestones = tuple(config.milestones)
    if any(not isinstance(step, int) or step < 1 for step in milestones):
        raise ValueError(f"schedule.milestones must be steps, not {milestones}")
    if milestones and config.name != "multistep":
        raise ValueError("schedule.milestones are for schedule.name=multistep")
    if not 0 < config.gamma <= 1:
        raise ValueError(f"schedule.gamma must lie in (0, 1], not {config.gamma}")
    if config.power <= 0:
        raise ValueError(f"schedule.power must be above 0, not {config.power}")
    if not 0 <= config.warmup_from <= learning_rate or (config.warmup_from and warmup < 2):
        raise ValueError(
            f"schedule.warmup_from={config.warmup_from} must lie between 0 and the learning rate "
            f"{learning_rate}, and needs a warmup of at least two steps, not {warmup}"
        )


def _per_epoch(schedule: Schedule, steps: float) -> Schedule:
    """The schedule as it was at the beginning of each epoch of so many steps."""
    return lambda step: schedule(jnp.floor(step / steps) * steps)


def make_optimizer(
    config: Any, schedule: Schedule, params: Any, layers: Sequence[str] = ()
) -> optax.GradientTransformation:
    """Makes the chain: clip, scale, decay the weights, multiply by the learning rate.

    With `config.coupled_weight_decay` the decay comes before the scaling, as part of the gradient:
    so do PyTorch's SGD, Adam and RMSProp understand weight_decay. For SGD with a momentum of .9 it
    has ten times the effect of a decoupled one of the same number.

    Args:
        config: `config.optim`.
        schedule: from `make_schedule`.
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
