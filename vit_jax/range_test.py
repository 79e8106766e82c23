"""Which learning rate to begin with: python -m vit_jax.main --mode=lr_find.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017), section 3.3.
"""

import contextlib
import csv
import dataclasses
import io
import logging
import math
import os
from typing import NamedTuple

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from checkpoints import files
from vit_jax import experiment, optim, report
from vit_jax.experiment import Experiment
from vit_jax.machinery import console, processes, sharding
from vit_jax.step import make_train_step

_LOG = logging.getLogger(__name__)

STEPS = 100
_FIRST, _LAST = 1e-7, 1.0  # learning rates
_SMOOTHING = 0.9  # of the loss, by an average without bias
_DIVERGED = 4.0  # times the least loss, over what was the first
_SKIPPED = 5  # steps, in which the average knows little


class Rates(NamedTuple):
    """What a test found.

    Attributes:
        rates: (n,) the learning rate of each step.
        losses: (n,) of each batch.
        smoothed: (n,) moving averages of them.
        steepest: the rate at which the smoothed loss falls fastest over the rate's logarithm.
        lowest: the rate at which it is lowest.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    steepest: float
    lowest: float


def run(config: ConfigDict, workdir: str | os.PathLike[str]) -> Rates:
    """Trains with a learning rate that rises from step to step, and says at which the loss falls.

    The rate rises from 1e-7 to 1 in 100 steps, of which the last are left out if the loss diverges.
    Writes lr_find.csv and lr_find.png to the workdir, in place of those that are there; nothing of
    what was trained is kept.

    Args:
        config: of the training; its schedule and the number of its steps are not used.
        workdir: folder for the files.

    Raises:
        ValueError: see `experiment.build`; or if the loss is not finite at the lowest rates.
    """
    exp = _with_rising_rate(experiment.build(config))
    _LOG.info("%d learning rates from %.0e to %.0e", STEPS, _FIRST, _LAST)
    found = summarize(*_train(exp))
    if processes.is_first():
        folder = epath.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        _write_table(found, folder / "lr_find.csv")
        report.save(draw(found), folder / "lr_find.png")
        print(
            f"the loss falls fastest at a learning rate of {found.steepest:.1e}, and is lowest at "
            f"{found.lowest:.1e}; a tenth of that is a usual choice:\n"
            f"--config.optim.learning_rate={found.lowest / 10:.1e}\n"
            f"the curve is in {folder / 'lr_find.png'}"
        )
    return found


def _with_rising_rate(exp: Experiment) -> Experiment:
    def schedule(step: object) -> object:
        return _FIRST * (_LAST / _FIRST) ** (step / (STEPS - 1))  # type: ignore[operator]

    tx = optim.make_optimizer(
        exp.config.optim, schedule, exp.abstract_state.params, exp.model.layer_patterns()
    )
    return dataclasses.replace(exp, schedule=schedule, tx=tx, total_steps=STEPS)


def _train(exp: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """The rates of the steps, and the losses of their batches, up to where they diverge."""
    step_fn = make_train_step(exp)
    state = exp.init_state()
    losses: list[float] = []
    smoothed: list[float] = []
    with contextlib.closing(exp.data.train_batches(0)) as batches:
        bar = console.progress(total=STEPS, unit="step", disable=not processes.is_first())
        with bar, step_fn.explained():
            for _, batch in zip(range(STEPS), sharding.to_devices(batches, exp.mesh)):
                state, metrics = step_fn(state, batch)
                loss = float(metrics["loss"])
                if not math.isfinite(loss):
                    break
                losses.append(loss)
                smoothed = list(_smooth(losses))
                bar.update(1)
                if _has_diverged(smoothed):
                    break
    rates = [float(exp.schedule(step)) for step in range(len(losses))]
    return np.array(rates), np.array(losses)


def _has_diverged(smoothed: list[float]) -> bool:
    """Whether the loss is so far above its least that nothing more is to be learned."""
    least = min(smoothed)
    return len(smoothed) > _SKIPPED and smoothed[-1] > max(_DIVERGED * least, smoothed[0])


def _smooth(losses: list[float]) -> np.ndarray:
    total, averages = 0.0, []
    for count, loss in enumerate(losses, start=1):
        total = _SMOOTHING * total + (1 - _SMOOTHING) * loss
        averages.append(total / (1 - _SMOOTHING**count))
    return np.array(averages)


def summarize(rates: np.ndarray, losses: np.ndarray) -> Rates:
    """Finds where the loss falls, of the losses at rising rates.

    Raises:
        ValueError: for fewer losses than that takes.
    """
    if len(losses) < 2 * _SKIPPED:
        raise ValueError(
            f"the loss is not finite, or diverges, after {len(losses)} steps at rates below "
            f"{_FIRST * (_LAST / _FIRST) ** (len(losses) / (STEPS - 1)):.1e}: check the data and "
            "the weights"
        )
    smoothed = _smooth(list(losses))
    lowest = max(int(np.argmin(smoothed)), _SKIPPED + 1)
    falls = np.gradient(smoothed, np.log(rates))[_SKIPPED : lowest + 1]
    steepest = _SKIPPED + int(np.argmin(falls))
    return Rates(rates, losses, smoothed, float(rates[steepest]), float(rates[lowest]))


def draw(found: Rates) -> Figure:
    """Draws the losses over the rates, and the two rates that were found."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, alpha=0.3, color="C0", label="batch")
    axes.plot(found.rates, found.smoothed, color="C0", label="smoothed")
    axes.axvline(found.steepest, color="C2", label=f"falls fastest: {found.steepest:.1e}")
    axes.axvline(found.lowest, color="C1", label=f"lowest: {found.lowest:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    least = float(found.smoothed.min())
    span = float(found.smoothed[found.rates <= found.lowest].max()) - least
    axes.set_ylim(least - 0.2 * span, least + 1.5 * span)  # and not up to where it diverges
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _write_table(found: Rates, path: epath.Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["learning_rate", "loss", "smoothed_loss"])
    writer.writerows(zip(found.rates, found.losses, found.smoothed))
    with files.written_whole(path) as partial:
        partial.write_text(text.getvalue())
