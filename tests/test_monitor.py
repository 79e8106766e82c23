"""What a training shows and records while it runs; see also test_train.py for waiting."""

import functools
import logging
import math
import re
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from vit_jax.experiment import Experiment
from vit_jax.machinery import monitor
from vit_jax.workdir import Workdir


def an_experiment(total_steps, log_every):
    """As much of one as a monitor asks for; an epoch has 4 steps."""
    exp = SimpleNamespace(
        config=SimpleNamespace(log_every=log_every),
        data=SimpleNamespace(steps_per_epoch=4.0),
        task=SimpleNamespace(inputs=("image",)),
        schedule=lambda step: 0.1,
        total_steps=total_steps,
    )
    exp.logs_at = functools.partial(Experiment.logs_at, exp)
    return exp


@pytest.fixture
def run_steps(tmp_path, monkeypatch):
    writer = SimpleNamespace(write_scalars=lambda *args: None, close=lambda: None)
    monkeypatch.setattr(monitor, "_make_writer", lambda workdir: writer)

    def run(exp, start, losses):
        """Gives the losses of steps to a monitor; returns the lines in metrics.jsonl."""
        checkpointer = SimpleNamespace(wait=lambda: None, latest_step=None, directory=tmp_path)
        with monitor.Monitor(exp, Workdir(tmp_path), checkpointer, start) as watching:
            for step, loss in enumerate(losses, start=start + 1):
                figures = {"loss": loss, "learning_rate": step, "param_norm": step / 2}
                watching.train(step, {name: jnp.float32(x) for name, x in figures.items()})
            watching.flush()
        return Workdir(tmp_path).read_metrics()

    return run


def test_a_line_has_the_mean_loss_since_the_line_before(run_steps, caplog):
    caplog.set_level(logging.INFO)
    exp = an_experiment(total_steps=61, log_every=3)
    lines = run_steps(exp, 0, [1.0, 2.0, 6.0, 4.0, 5.0])
    assert [(line["step"], line["loss"]) for line in lines] == [(3, 3.0)]
    assert (lines[0]["learning_rate"], lines[0]["param_norm"]) == (3.0, 1.5)  # of the last step
    assert "step 3/61 (epoch 0.75/15.25)  loss 3.0000" in caplog.text
    # Continued from step 4, it knows the loss of no step before.
    lines = run_steps(exp, 4, [5.0, 8.0])
    assert [(line["step"], line["loss"]) for line in lines] == [(3, 3.0), (6, 6.5)]


def test_the_time_to_expect_is_said_once_and_early(run_steps, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    seconds = iter(range(0, 10_000, 2))  # the clock of every look at it
    monkeypatch.setattr(monitor.time, "monotonic", lambda: next(seconds))
    run_steps(an_experiment(total_steps=1000, log_every=100), 0, [1.0] * 20)
    [said] = [text for text in caplog.messages if "expected" in text]
    assert re.fullmatch(r"[\d:]+ expected, at [\d.]+ s a step, without evaluations", said)


def test_a_slow_rate_has_two_digits_and_a_fast_one_no_fraction():
    rates = [0.0426, 0.999, 1.0, 1.26, 9.949, 9.95, 84.4, 1234.5]
    shown = ["0.043", "1", "1", "1.3", "9.9", "10", "84", "1,234"]
    assert [monitor._format_rate(rate) for rate in rates] == shown


def test_a_loss_that_is_not_finite_is_found_whether_or_not_its_step_is_recorded(run_steps):
    with pytest.raises(FloatingPointError, match="step 2: not all train figures are finite"):
        run_steps(an_experiment(total_steps=100, log_every=50), 0, [1.0, math.nan, 1.0])


@pytest.mark.parametrize(
    ("total_steps", "log_every", "steps"),
    [
        (11, 50, range(1, 12)),  # 16 photos
        (100, 50, range(5, 101, 5)),
        (100, 2, range(2, 101, 2)),
        (1010, 50, [*range(50, 1001, 50), 1010]),
    ],
)
def test_short_runs_are_recorded_more_often(total_steps, log_every, steps):
    exp = an_experiment(total_steps, log_every)
    assert [step for step in range(1, total_steps + 1) if exp.logs_at(step)] == list(steps)
