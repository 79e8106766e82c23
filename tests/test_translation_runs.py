"""Runs on translations, whose batches have several lengths."""

import logging

import numpy as np
import pytest

from configs import common
from input_pipeline import toys
from tests.runs import assert_same_runs
from vit_jax import experiment, train
from vit_jax.tasks import TASKS


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Digits and the same ones in words."""
    random = np.random.default_rng(0)
    words = toys.WORDS[3:13]
    rows = [random.integers(0, 10, random.integers(1, 12)).tolist() for _ in range(70)]
    lines = [" ".join(words[i] for i in row) + "\t" + " ".join(map(str, row)) for row in rows]
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def run_config(source, **translation):
    """Of a vocabulary that the toys' words are."""
    config = common.get_config()
    config.model_name = "Transformer-base"
    config.model = dict(
        tokenizer="words(16)", hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32,
        dropout_rate=0.1,
    )  # fmt: skip
    config.data.source, config.data.kind = str(source), "translation"
    config.data.train_pp = config.data.eval_pp = ""
    config.data.translation.update(translation)
    config.loss = next(iter(TASKS["translate"].losses))
    config.metrics, config.best_metric, config.best_mode = (), "loss", "min"
    config.batch_size, config.total_steps = 4, 8
    config.eval_every, config.checkpoint_every, config.log_every = 4, 3, 1
    return config


@pytest.mark.slow
def test_a_run_with_buckets_continues_bit_for_bit(source, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    config = run_config(source, buckets=(8, 16), batch_tokens=64)
    train.train_and_evaluate(config, tmp_path / "whole")
    made = make_batches(config, 8)
    assert {batch["source"].shape for batch in made} == {(8, 8), (4, 16)}
    assert sum("a step takes" in message for message in caplog.messages) == 2  # once for each

    def stop_after_5(monitor, step, metrics):
        monitor_train(monitor, step, metrics)
        if step == 5:
            raise RuntimeError("as if it were killed")

    monitor_train = train.Monitor.train
    monkeypatch.setattr(train.Monitor, "train", stop_after_5)
    with pytest.raises(RuntimeError, match="as if it were killed"):
        train.train_and_evaluate(config, tmp_path / "stopped")
    monkeypatch.setattr(train.Monitor, "train", monitor_train)
    train.train_and_evaluate(config, tmp_path / "stopped")
    assert_same_runs(tmp_path / "whole", tmp_path / "stopped")
    text = source.read_text()
    source.write_text(text.replace("zero", "ten"))  # as many pairs and tokens
    try:
        with pytest.raises(ValueError, match=r"began with other data.*contents"):
            train.train_and_evaluate(config, tmp_path / "whole")
    finally:
        source.write_text(text)


def make_batches(config, count):
    batches = experiment.build(config).data.train_batches()
    return [next(batches) for _ in range(count)]
