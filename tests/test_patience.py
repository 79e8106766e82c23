"""Early stopping."""

import logging
from types import SimpleNamespace

import pytest

from tests.helpers import tiny_digits_config
from vit_jax import train
from vit_jax.patience import Patience
from vit_jax.workdir import Workdir


def patience(allowed, mode="max", lines=(), start=0):
    config = SimpleNamespace(early_stopping=allowed, best_metric="score", best_mode=mode)
    return Patience(config, lines, start)


def steps_until_over(waiting, scores):
    for step, score in enumerate(scores, start=1):
        waiting.add(step, {"score": score})
        if waiting.is_over():
            return step
    return None


@pytest.mark.parametrize(
    ("allowed", "mode", "scores", "expected"),
    [
        (2, "max", [1.0, 3.0, 2.0, 4.0, 4.0, 4.0, 5.0], 6),  # an equal one is no better
        (2, "min", [3.0, 1.0, 2.0, 0.5, 0.6, 0.5], 6),
        (3, "max", [1.0, 2.0, 1.0, 1.0, 3.0], None),
        (1, "max", [1.0, 1.0], 2),
        (0, "max", [1.0] * 9, None),
    ],
)
def test_it_ends_after_evaluations_without_a_better_one(allowed, mode, scores, expected):
    assert steps_until_over(patience(allowed, mode), scores) == expected


def test_a_continued_run_remembers():
    lines = [
        {"step": 1, "split": "val", "score": 2.0},
        {"step": 2, "split": "train", "loss": 9.0},
        {"step": 2, "split": "val", "score": 1.0},
        {"step": 3, "split": "val", "score": 7.0},  # lost with the steps after the checkpoint
    ]
    waiting = patience(2, lines=lines, start=2)
    assert not waiting.is_over()
    waiting.add(3, {"score": 2.0})
    assert waiting.is_over()
    assert str(waiting).endswith("in 2 evaluations no score was better than that of step 1")


@pytest.fixture
def config():
    config = tiny_digits_config()
    config.update(total_steps=50, eval_every=10, early_stopping=2)
    config.optim.learning_rate = 0.0
    return config


def test_a_run_that_learns_nothing_is_ended_and_stays_so(config, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    figures = train.train_and_evaluate(config, tmp_path)
    [said] = [text for text in caplog.messages if "stopped early" in text]
    assert said.startswith("step 30: stopped early, since in 2 evaluations no accuracy was better")
    lines = Workdir(tmp_path).read_metrics()
    assert [line["step"] for line in lines if line["split"] == "val"] == [10, 20, 30]
    caplog.clear()
    assert train.train_and_evaluate(config, tmp_path) == figures
    assert [text for text in caplog.messages if text.startswith("step 30: stopped early")]
    assert max(line["step"] for line in Workdir(tmp_path).read_metrics()) == 30
    config.early_stopping = 3
    train.train_and_evaluate(config, tmp_path)
    assert max(line["step"] for line in Workdir(tmp_path).read_metrics()) == 40


def test_it_needs_a_validation_split(folder_config, tmp_path):
    folder_config.data.val_fraction = 0.0
    folder_config.early_stopping = 1
    with pytest.raises(ValueError, match="early_stopping needs a validation split: set it to 0"):
        train.train_and_evaluate(folder_config, tmp_path / "w")


def test_it_is_no_negative_number(config, tmp_path):
    config.early_stopping = -1
    with pytest.raises(ValueError, match="early_stopping must be 0 or more, and is -1"):
        train.train_and_evaluate(config, tmp_path)
