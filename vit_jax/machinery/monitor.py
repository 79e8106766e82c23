"""What a training shows and records while it runs."""

import contextlib
import logging
import math
import queue
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from tqdm import tqdm

from checkpoints.train_state import Checkpointer
from vit_jax.experiment import Experiment
from vit_jax.machinery import console, processes
from vit_jax.machinery.loggers import Loggers
from vit_jax.tasks.base import INPUT
from vit_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

_OF_A_STEP = ("learning_rate", "param_norm")  # of which no mean is recorded
_MUCH_WAITING = 0.1
_ENOUGH_SECONDS = 5.0  # to know how fast the steps are
_WAITS = (
    "the devices wait for data %.0f %% of the time: store smaller images with "
    "input_pipeline.prepare, take fewer or cheaper ops in data.train_pp, or more CPU cores"
)


def _make_writer(workdir: Workdir) -> Any:
    from clu import metric_writers  # which imports TensorFlow

    return metric_writers.SummaryWriter(str(workdir.path))


class WaitClock:
    """Counts how long the devices had nothing to do, inside with statements.

    A thread waits for the end of every step, since the loop itself runs ahead of the devices.
    """

    def __init__(self) -> None:
        self._steps: queue.SimpleQueue[Metrics | None] = queue.SimpleQueue()
        self._started = self._ended = 0
        self._ended_at = self._begin = math.inf
        self._waited = 0.0
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def watch(self, metrics: Metrics) -> None:
        """Takes what a step will have computed when it ends."""
        self._started += 1
        self._steps.put(metrics)

    def _follow(self) -> None:
        while (metrics := self._steps.get()) is not None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # which the loop will meet
                jax.block_until_ready(metrics)
            self._ended_at = time.monotonic()
            self._ended += 1

    def __enter__(self) -> None:
        self._begin = time.monotonic()

    def __exit__(self, *exception: Any) -> None:
        if self._started and self._ended == self._started:
            self._waited += time.monotonic() - max(self._begin, self._ended_at)

    def take(self) -> float:
        """Returns the seconds counted since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Ends the thread."""
        self._steps.put(None)
        self._thread.join()


class Monitor:
    """Shows and records how the training goes.

    Metrics of a step are read while the next one runs, so that the device never waits for them. A
    line has their means over the steps since the line before; after a run was continued, over the
    steps since then. The learning rate and the norm of the parameters are those of the last step.

    Args:
        exp: the parts of the run.
        workdir: where metrics.jsonl lies.
        checkpointer: knows the last good checkpoint.
        start: steps made before.
        loggers: what gets the figures besides; None for nothing.
    """

    def __init__(
        self,
        exp: Experiment,
        workdir: Workdir,
        checkpointer: Checkpointer,
        start: int,
        loggers: Loggers | None = None,
    ) -> None:
        self._exp = exp
        self._workdir = workdir
        self._checkpointer = checkpointer
        self._loggers = loggers
        self._pending: tuple[int, Metrics] | None = None
        self._unlogged: list[dict[str, float]] = []  # figures of the steps since the last line
        self._rows = 0  # of the last batch, of which there may be more than batch_size
        self._seen = 0  # rows since the last time they were logged
        is_first = processes.is_first()
        if is_first:
            workdir.forget_metrics(after=start)
        self._start = start
        self._logged_step, self._logged_time = start, time.monotonic()
        self._first: tuple[int, float] | None = None  # a step from which they are timed, and when
        self._has_expected = False
        self._waits = WaitClock()
        self._has_warned = False
        self._writer = _make_writer(workdir) if is_first else None
        self._bar = console.progress(
            total=exp.total_steps, initial=start, unit="step", disable=not is_first
        )
        self._above = console.above(self._bar)

    def __enter__(self) -> "Monitor":
        self._above.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._waits.close()
        self._above.__exit__(*exception)
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Passes batches on, and counts the time in which the devices have to wait for them."""
        while True:
            with self._waits:
                batch = next(batches, None)
            if batch is None:
                return
            self._rows = len(next(iter(batch.values())))
            yield batch

    def train(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step that was just started; shows those of the one before."""
        self._waits.watch(metrics)
        self.flush()
        self._pending = step, metrics
        self._seen += self._rows

    def flush(self) -> None:
        """Waits for the metrics of the last step and shows them.

        Raises:
            FloatingPointError: if they are not finite.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        figures = {name: float(value) for name, value in metrics.items()}
        self._check_finite(step, "train", figures)
        self._unlogged.append(figures)
        self._bar.update(1)
        self._say_expected(step)
        if self._exp.logs_at(step):
            self._log(step)

    def evaluation(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        """Shows and records an evaluation.

        Raises:
            FloatingPointError: if its loss, or the metric that chooses the best checkpoint, is not
                finite. Another may be: the AUC of a split with one class alone is not defined.
        """
        needed = ("loss", self._exp.config.best_metric)
        self._check_finite(step, split, {name: figures[name] for name in needed})
        shown = "  ".join(
            f"{name} {value:.4f}"
            for name, value in figures.items()
            if isinstance(value, float) and not name.startswith(INPUT)
        )
        _LOG.info("step %d (%s)  %s  %s", step, self._epoch(step), split, shown)
        self._record(step, split, {"protocol": self._exp.data.val_pp, **figures})
        self._logged_step, self._logged_time, self._seen = step, time.monotonic(), 0
        self._first = None
        self._waits.take()

    def _say_expected(self, step: int) -> None:
        """Says early, once, how long the run will take, which a bar shows all the time."""
        if self._has_expected or not self._bar.disable or step == self._exp.total_steps:
            return
        now = time.monotonic()
        self._first = self._first or (step, now)
        first, since = self._first
        if now - since < _ENOUGH_SECONDS:
            return
        self._has_expected = True
        seconds = (now - since) / (step - first)
        left = tqdm.format_interval((self._exp.total_steps - step) * seconds)
        _LOG.info("%s expected, at %.2g s a step, without evaluations", left, seconds)

    def _epoch(self, step: int) -> str:
        epochs = (at / self._exp.data.steps_per_epoch for at in (step, self._exp.total_steps))
        return "epoch " + "/".join(f"{number:.2f}".rstrip("0").rstrip(".") for number in epochs)

    def _take_means(self) -> dict[str, float]:
        steps, self._unlogged = self._unlogged, []
        means = {name: statistics.fmean(step[name] for step in steps) for name in steps[-1]}
        return means | {name: steps[-1][name] for name in _OF_A_STEP}

    def _log(self, step: int) -> None:
        figures = self._take_means()
        now = time.monotonic()
        seconds = max(now - self._logged_time, 1e-9)
        rate = (step - self._logged_step) / seconds
        waited = self._waits.take() / seconds
        # To begin takes longer, and so can a step of the few that there are in a short run.
        is_running = step - self._start > self._exp.config.log_every
        if is_running and waited > _MUCH_WAITING and not self._has_warned:
            self._has_warned = True
            _LOG.warning(_WAITS, 100 * waited)
        self._logged_step, self._logged_time = step, now
        total = self._exp.total_steps
        what = "images" if "image" in self._exp.task.inputs else "texts"
        images = f"{_format_rate(self._seen / seconds)} {what}/s"
        self._seen = 0
        left = tqdm.format_interval((total - step) / rate)
        loss, epoch = f"loss {figures['loss']:.4f}", self._epoch(step)
        self._bar.set_postfix_str(f"{epoch}, {loss}, {images}")
        if self._bar.disable:
            _LOG.info("step %d/%d (%s)  %s  %s  %s left", step, total, epoch, loss, images, left)
        self._record(step, "train", {**figures, "data_wait": waited})

    def _record(self, step: int, split: str, figures: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        self._workdir.append_metrics(step, split, figures)
        scalars = {f"{split}/{k}": v for k, v in figures.items() if not isinstance(v, str)}
        self._writer.write_scalars(step, scalars)
        if self._loggers is not None:
            self._loggers.write(step, scalars)

    def _check_finite(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        if all(math.isfinite(value) for value in figures.values()):
            return
        self._checkpointer.wait()
        good = self._checkpointer.latest_step
        where = f"the last good checkpoint is {self._checkpointer.directory}/{good}"
        raise FloatingPointError(
            f"step {step}: not all {split} figures are finite ("
            + ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
            + f"), at a learning rate of {float(self._exp.schedule(step - 1)):.3g}; "
            + (where if good is not None else "there is no checkpoint yet")
            + ". Try a lower learning rate, a longer warmup or optim.clip_norm=1"
        )


def _format_rate(rate: float) -> str:
    """Two digits of a rate below 10, which of a slow training are all that changes."""
    return f"{rate:,.0f}" if rate >= 9.95 else f"{rate:.2g}"
