"""The learning rate as a function of the updates made before, from the config."""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.arguments import unknown

_LOG = logging.getLogger(__name__)

Schedule = Callable[[Any], Any]

_ENDLESS = ("constant", "multistep", "exponential")  # those that reach no end
_OWN_WARMUP = ("onecycle", "noam")
_SCALED_WARMUP = 0.1  # of the steps of a run that is shorter than its warmup
_ROUNDING = 1e-4  # of an epoch; no device's division is off by more


@dataclasses.dataclass(frozen=True)
class _Span:
    """What a decay goes by.

    Attributes:
        rate: the learning rate at its beginning.
        config: `config.schedule`.
        steps: of the decay; after them the rate stays.
        warmup: steps before it.
        steps_per_epoch: at least 1.
    """

    rate: float
    config: Any
    steps: float
    warmup: float
    steps_per_epoch: float

    def down_to_final(self, share: jax.Array) -> jax.Array:
        """The rate where a share of what lies above the final rate is left."""
        final = self.rate * self.config.final_fraction
        return final + (self.rate - final) * share

    def left(self, t: jax.Array) -> jax.Array:
        """The share of the decay's steps that is left, from 1 to 0."""
        return jnp.clip((self.steps - t) / self.steps, 0.0, 1.0)


def count_steps(config: Any, steps_per_epoch: float) -> tuple[int, float]:
    """How long a run and its epochs are.

    Args:
        config: of the run.
        steps_per_epoch: in which every example is seen once on average.

    Returns:
        The run's steps, and the steps that count as an epoch: with `config.whole_steps` as many as
        an epoch has whole batches.
    """
    if config.whole_steps:
        steps_per_epoch = max(math.floor(steps_per_epoch), 1)
    if config.total_steps is not None:
        return config.total_steps, steps_per_epoch
    return max(round(config.total_epochs * steps_per_epoch), 1), steps_per_epoch


def make_schedule(
    config: Any, learning_rate: float, total_steps: int, steps_per_epoch: float
) -> Schedule:
    """Makes the learning rate as a function of the number of updates made before.

    With t updates before, the rate is w + (r - w) t / W in a warmup of W steps from w =
    `warmup_from` to the learning rate r, which the update after the warmup has: so do big_vision,
    timm, Hugging Face, detectron2 and mmsegmentation. A warmup that does not fit into the run
    becomes a tenth of it, and a warning says so. What follows is counted from the end of the
    warmup, or with `decay_spans_warmup` from the first step on; and lasts until the end of the run,
    or until the end of `decay_epochs`.

    `shift` is added to t, which is no less than 0. With `per_epoch`, t is that of the epoch's first
    update, and `shift` counts epochs.

    "poly" decays from the first step on, and its warmup is a factor of that, as in mmsegmentation.
    "onecycle" has a warmup of its own, see `_one_cycle`. "noam" is that of Vaswani et al.,
    "Attention Is All You Need" (NeurIPS 2017), equation 3: the highest rate times
    min(s / w, sqrt(w / s)) in step s = t + 1, with w steps of warmup. There the highest is
    (d w)^-.5 for a model of width d, 7e-4 for 512 and 4,000; here `learning_rate` says it.

    Args:
        config: `config.schedule`.
        learning_rate: the highest.
        total_steps: of the run.
        steps_per_epoch: for what is counted in epochs.

    Returns:
        A function from the number of updates, an int or a traced int32, to the learning rate.

    Raises:
        ValueError: for an unknown schedule, or settings that do not fit.
    """
    warmup = _fit_warmup(config, total_steps, steps_per_epoch)
    _check(config, learning_rate, total_steps, warmup)
    _warn_of_milestones(config.milestones, total_steps)
    per_epoch = max(steps_per_epoch, 1)
    end = config.decay_epochs * per_epoch or total_steps
    from_start = config.decay_spans_warmup or config.name == "poly"
    before = 0 if from_start else warmup
    decay = _DECAYS[config.name](
        _Span(learning_rate, config, max(end - before, 1), warmup, per_epoch)
    )
    own = config.name in _OWN_WARMUP

    def schedule(step: Any) -> jax.Array:
        t = jnp.asarray(step, jnp.float32)
        if config.per_epoch:
            t = jnp.maximum(jnp.floor(t / per_epoch + _ROUNDING) + config.shift, 0) * per_epoch
        else:
            t = jnp.maximum(t + config.shift, 0)
        if own or not warmup:
            return decay(t)
        begin, share = config.warmup_from, jnp.minimum(t / warmup, 1.0)
        if config.name == "poly":
            low = begin / (learning_rate or 1.0)
            return decay(t) * (low + (1 - low) * share)
        rise = begin + (learning_rate - begin) * share
        return jnp.where(t < warmup, rise, decay(jnp.maximum(t - before, 0)))

    return schedule


def _constant(span: _Span) -> Schedule:
    return lambda t: jnp.full_like(t, span.rate)


def _linear(span: _Span) -> Schedule:
    return lambda t: span.down_to_final(span.left(t))


def _poly(span: _Span) -> Schedule:
    return lambda t: span.down_to_final(span.left(t) ** span.config.power)


def _cosine(span: _Span) -> Schedule:
    """Half a cosine; with `restarts` as many, of which each begins anew one update after its end.

    That update has the second rate of the cosine, as in BasicSR, so that the first is the run's
    alone.
    """
    restarts = span.config.restarts
    period = dataclasses.replace(span, steps=span.steps / restarts)

    def decay(t: jax.Array) -> jax.Array:
        if restarts > 1:
            t = jnp.where(t > 0, (t - 1) % period.steps + 1, t)
        # (1 + cos(pi x)) / 2, of which float32 would leave nothing where it is small.
        return span.down_to_final(jnp.sin(math.pi / 2 * period.left(t)) ** 2)

    return decay


def _rsqrt(span: _Span) -> Schedule:
    scale = span.config.timescale
    floor = span.rate * span.config.final_fraction
    return lambda t: jnp.maximum(span.rate * jnp.sqrt(scale / (scale + t)), floor)


def _multistep(span: _Span) -> Schedule:
    milestones = jnp.array([step - span.warmup for step in span.config.milestones])
    rates = np.array([span.rate * span.config.gamma**i for i in range(len(milestones) + 1)])
    return lambda t: jnp.asarray(rates, jnp.float32)[jnp.sum(milestones <= t)]


def _exponential(span: _Span) -> Schedule:
    return lambda t: span.rate * span.config.gamma ** (t / span.steps_per_epoch)


def _noam(span: _Span) -> Schedule:
    def decay(t: jax.Array) -> jax.Array:
        since = (t + 1) / max(span.warmup, 1)
        floor = span.config.final_fraction
        return span.rate * jnp.minimum(since, jnp.maximum(since**-0.5, floor))

    return decay


_CYCLE_RISE = 0.05  # share of the steps
_CYCLE_SPARE = 100  # steps by which the cycle is longer than the run


def _one_cycle(span: _Span) -> Schedule:
    """Linear from 1/25 of the rate up to it, and down to 1/250,000 of it.

    As PyTorch's OneCycleLR over the run's steps + 100, with pct_start=0.05 and
    anneal_strategy="linear".

    Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (ECCV
    2020), its published code; Smith and Topin, "Super-Convergence" (2019).
    """
    steps = span.steps + _CYCLE_SPARE
    turns = jnp.array([0.0, _CYCLE_RISE * steps - 1, steps - 1.0])
    rates = jnp.array([span.rate / 25, span.rate, span.rate / 25e4])
    return lambda t: jnp.interp(t, turns, rates)


_DECAYS: dict[str, Callable[[_Span], Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "poly": _poly,
    "rsqrt": _rsqrt,
    "multistep": _multistep,
    "exponential": _exponential,
    "onecycle": _one_cycle,
    "noam": _noam,
}
SCHEDULES = tuple(_DECAYS)


def _fit_warmup(config: Any, total_steps: int, steps_per_epoch: float) -> float:
    """Steps of the warmup: those of the config, or fewer if the run is shorter than that."""
    warmup: float = config.warmup_steps or config.warmup_epochs * steps_per_epoch
    if not 0 < total_steps < warmup:
        return warmup
    scaled = round(_SCALED_WARMUP * total_steps)
    _LOG.warning(
        "the warmup of %g steps does not fit into the run's %d: it has %d in their place; "
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


def _check(config: Any, learning_rate: float, total_steps: int, warmup: float) -> None:
    """Raises a ValueError for settings that do not fit."""
    if config.name not in _DECAYS:
        raise ValueError(unknown("schedule", config.name, SCHEDULES))
    if warmup < 0:
        raise ValueError(f"the warmup must not be negative, and is of {warmup} steps")
    if not 0 <= config.final_fraction <= 1:
        raise ValueError(f"schedule.final_fraction must lie in [0, 1], not {config.final_fraction}")
    if config.name in _ENDLESS and config.final_fraction:
        raise ValueError(
            f"the schedule {config.name} does not decay to an end: set schedule.final_fraction to 0"
        )
    _check_name(config, warmup)
    milestones = tuple(config.milestones)
    if any(not isinstance(step, int) or step < 1 for step in milestones):
        raise ValueError(f"schedule.milestones must be steps, not {milestones}")
    if milestones and config.name != "multistep":
        raise ValueError("schedule.milestones are for schedule.name=multistep")
    if not 0 < config.gamma <= 1:
        raise ValueError(f"schedule.gamma must lie in (0, 1], not {config.gamma}")
    if config.power <= 0:
        raise ValueError(f"schedule.power must be above 0, not {config.power}")
    if config.restarts < 1 or (config.restarts > 1 and config.name != "cosine"):
        raise ValueError(
            f"schedule.restarts={config.restarts} is for schedule.name=cosine: 1 is one decay, and "
            "more are as many"
        )
    if config.decay_epochs < 0:
        raise ValueError(f"schedule.decay_epochs must not be negative, not {config.decay_epochs}")
    has_warmup = bool(config.warmup_steps or config.warmup_epochs)
    if not 0 <= config.warmup_from <= learning_rate or (config.warmup_from and not has_warmup):
        raise ValueError(
            f"schedule.warmup_from={config.warmup_from} must lie between 0 and the learning rate "
            f"{learning_rate}, and needs a warmup"
        )


def _check_name(config: Any, warmup: float) -> None:
    """Raises a ValueError for what a schedule with a warmup of its own does not have."""
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
