"""Checkpoints averaged: by public commands, whatever interrupts a run."""

import jax
import numpy as np
import pytest

from checkpoints import npz
from checkpoints.train_state import Checkpointer
from tests.commands import run
from tests.runs import assert_same_runs
from vit_jax import evaluate, experiment, pretrained, train
from vit_jax.machinery import preemption
from vit_jax.workdir import Workdir


@pytest.fixture
def config(digits_config):
    """Seven steps, of which 2, 4, 6 and 7 are saved."""
    digits_config.total_steps = 7
    digits_config.eval_every = 4
    digits_config.checkpoint_every = 2
    digits_config.keep_checkpoints = 1
    digits_config.average_checkpoints = 3
    return digits_config


def saved(workdir):
    """The parameters of each checkpoint, by its step."""
    with Checkpointer(Workdir(workdir).checkpoints, 1, "accuracy", "max") as checkpointer:
        return {step: checkpointer.restore_as_saved(step)["params"] for step in checkpointer.steps}


def stop_after(step, monkeypatch):
    """Has a run stopped as by a signal."""
    polled = iter(range(1, 100))
    monkeypatch.setattr(
        preemption.StopRequest, "poll", lambda _: "SIGTERM" if next(polled) == step else None
    )


@pytest.mark.slow
def test_the_last_are_averaged(config, tmp_path):
    train.train_and_evaluate(config, tmp_path)
    params = saved(tmp_path)
    assert sorted(params)[-3:] == [4, 6, 7]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(params[i] for i in (4, 6, 7)))
    weights = npz.load(tmp_path / "weights.npz")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), weights, mean)
    assert np.abs(weights["head"]["kernel"] - params[7]["head"]["kernel"]).max() > 1e-3
    loaded = pretrained.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables["params"]), weights)


@pytest.mark.slow
def test_a_finished_run_is_evaluated_again_with_another_number(config, tmp_path):
    figures = train.train_and_evaluate(config, tmp_path)
    stored = Workdir(tmp_path).read_config()
    assert evaluate_again(stored, tmp_path) == figures
    stored = Workdir(tmp_path).read_config()
    stored.average_checkpoints = 0
    assert evaluate_again(stored, tmp_path) != figures
    stored = Workdir(tmp_path).read_config()
    stored.average_checkpoints, stored.checkpoint_every = 5, 1
    with pytest.raises(ValueError, match=r"holds [34] checkpoints to average, and average_checkp"):
        evaluate_again(stored, tmp_path)


@pytest.mark.slow
def test_a_run_that_is_stopped_averages_the_same(config, tmp_path, monkeypatch):
    """What is saved where it stopped takes no part, and no place of another."""
    train.train_and_evaluate(config, tmp_path / "whole")
    for step in (5, 1):  # of those that are left
        with monkeypatch.context() as patch:
            stop_after(step, patch)
            with pytest.raises(preemption.Stopped):
                train.train_and_evaluate(config, tmp_path / "stopped")
    train.train_and_evaluate(config, tmp_path / "stopped")
    assert sorted(saved(tmp_path / "stopped"))[-3:] == [4, 6, 7]
    assert_same_runs(tmp_path / "whole", tmp_path / "stopped")


def evaluate_again(config, workdir):
    exp = experiment.build(config)
    return evaluate.evaluate_workdir(exp, evaluate.make_eval_step(exp), Workdir(workdir))


@pytest.mark.slow
def test_evaluate_mode_averages_as_the_run_did(config, tmp_path):
    config.total_steps, config.eval_every, config.average_checkpoints = 4, 4, 2
    train.train_and_evaluate(config, tmp_path)
    before = npz.load(tmp_path / "weights.npz")
    (tmp_path / "weights.npz").unlink()
    process = run("main", "--mode=evaluate", f"--workdir={tmp_path}")
    assert "the average of the checkpoints of steps 2, 4" in process.stderr
    jax.tree.map(np.testing.assert_array_equal, npz.load(tmp_path / "weights.npz"), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"average_checkpoints": 5}, "=5, and the run's 7 steps leave 4 to average: set checkpoin"),
        ({"average_checkpoints": -1}, "average_checkpoints must not be negative, and is -1"),
        ({"ema_decay": 0.9}, "average_checkpoints=3 and ema_decay=0.9 would average twice"),
    ],
)
def test_what_cannot_be_averaged_is_refused(config, changes, message):
    config.update(changes)
    with pytest.raises(ValueError, match=message):
        experiment.build(config)
