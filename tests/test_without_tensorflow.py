"""The training step on made-up data, and what must not import TensorFlow."""

import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest

from checkpoints.train_state import Checkpointer
from configs import common
from input_pipeline import MadeUp
from tests.commands import ROOT
from tests.helpers import TINY
from vit_jax import experiment
from vit_jax.machinery import sharding
from vit_jax.step import make_train_step

# Parameters of more than 2^16 elements, which fsdp cuts.
WIDE = dict(TINY, hidden_size=256, mlp_dim=512)
RESTORING = dict(embed_dim=12, depths=(1,), num_heads=(2,), upscale=1, upsampler="")


def make_experiment(name="ViT-Ti_16", model=WIDE, fsdp=1, classes=10):
    config = common.get_config()
    config.model_name, config.batch_size, config.total_steps, config.fsdp = name, 4, 10, fsdp
    config.model.update(model)
    if not classes:
        config.loss, config.metrics, config.best_metric = "l1", (), "loss"
    return experiment.build(config, MadeUp((32, 32, 3), 4, classes))


def run(exp, state, steps):
    step, losses = make_train_step(exp), []
    batches = sharding.to_devices(exp.data.train_batches(), exp.mesh)
    for batch in itertools.islice(batches, steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.mark.parametrize(
    ("name", "model", "classes"), [("ViT-Ti_16", WIDE, 10), ("SwinIR-denoise-color", RESTORING, 0)]
)
def test_the_step_learns_a_made_up_batch(name, model, classes):
    exp = make_experiment(name, model, classes=classes)
    _, losses = run(exp, exp.init_state(), 6)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_sharding_changes_no_loss_and_a_checkpoint_goes_on(tmp_path):
    exp, spread = make_experiment(), make_experiment(fsdp=2)
    _, expected = run(exp, exp.init_state(), 4)
    spread_state, losses = run(spread, spread.init_state(), 2)
    np.testing.assert_allclose(losses, expected[:2], rtol=1e-5)
    cut = [x for x in jax.tree.leaves(spread_state.params) if not x.is_fully_replicated]
    assert cut

    with Checkpointer(tmp_path / "checkpoints", 1, "loss", "min") as checkpointer:
        checkpointer.save(2, spread_state, None)
        checkpointer.wait()
        restored = checkpointer.restore(2, exp.abstract_state)
    for saved, read in zip(jax.tree.leaves(spread_state), jax.tree.leaves(restored)):
        np.testing.assert_array_equal(saved, read)
        assert read.is_fully_replicated
    _, losses = run(exp, restored, 2)
    np.testing.assert_allclose(losses, expected[2:], rtol=1e-5)


def test_made_up_data_is_the_same_again():
    data = MadeUp((8, 6, 3), 3, num_classes=5)
    first, second = itertools.islice(data.train_batches(), 2)
    assert first is second
    again = next(data.train_batches())
    np.testing.assert_array_equal(first["image"], again["image"])
    assert first["image"].shape == (3, 8, 6, 3)
    assert first["image"].dtype == np.float32
    assert set(first["label"]) <= set(range(5))
    pairs = next(MadeUp((8, 6, 3), 3, scale=2).train_batches())
    assert pairs["target"].shape == (3, 16, 12, 3)


def test_who_does_not_read_data_does_not_import_tensorflow():
    """In a process of its own; where it is not installed, importing it would fail besides."""
    code = """
import sys
from vit_jax import evaluate, experiment, inference_time, losses, optim, tasks, train
from vit_jax.benchmark import __main__
from input_pipeline.sources import kinds_with
from input_pipeline import check
assert kinds_with("label") == ["classes", "multilabel"]
import checkpoints.npz, checkpoints.torch, checkpoints.train_state
print(sorted({"tensorflow", "clu", "tensorflow_datasets", "tf_keras"} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_reading_data_says_what_is_missing():
    code = """
import sys
sys.modules["tensorflow"] = None
from vit_jax import experiment
from vit_jax.machinery import cli
from configs import common
config = common.get_config()
config.data.source, config.total_steps = "digits", 1
cli.run(lambda argv: experiment.build(config))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: this needs TensorFlow")
    assert "pip install" in result.stderr
