"""The same run on more and fewer devices, which are virtual ones of the CPU."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.commands import ROOT

pytestmark = pytest.mark.slow

# Its largest arrays have 2^17 elements, so that fsdp cuts them.
RUN = [
    "--config=configs/digits.py", "--config.model.hidden_size=256", "--config.model.num_layers=1",
    "--config.model.num_heads=2", "--config.model.mlp_dim=512", "--config.total_steps=8",
    "--config.eval_every=4", "--config.log_every=1", "--config.schedule.warmup_epochs=0.1",
    "--config.keep_checkpoints=2",
]  # fmt: skip


def train(workdir, devices, fsdp):
    """Trains; returns the losses, of training and of evaluation."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    result = subprocess.run(
        [sys.executable, "-m", "vit_jax.main", *RUN, f"--workdir={workdir}",
         f"--config.fsdp={fsdp}"],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return np.array([line["loss"] for line in lines])


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    return workdir, train(workdir, devices=1, fsdp=1)


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("eight")
    return workdir, train(workdir, devices=8, fsdp=8)


_RARE = [pytest.param(*pair, marks=pytest.mark.rare) for pair in ((2, 2), (4, 1), (8, 4))]


@pytest.mark.parametrize(("devices", "fsdp"), [(2, 1), (4, 4), (8, 1), *_RARE])
def test_losses_do_not_depend_on_the_devices(on_one, tmp_path, devices, fsdp):
    np.testing.assert_allclose(train(tmp_path, devices, fsdp), on_one[1], rtol=1e-5)


def test_fsdp_over_all_devices(on_one, on_eight):
    assert len(on_one[1]) == 11  # 8 steps, 2 validations, the test
    np.testing.assert_allclose(on_eight[1], on_one[1], rtol=1e-5)


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (8, 8)])
def test_a_checkpoint_goes_to_other_devices(on_one, on_eight, tmp_path, devices, fsdp):
    before, losses = on_eight if devices == 1 else on_one
    shutil.copytree(before, tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "checkpoints" / "8")
    np.testing.assert_allclose(train(tmp_path / "w", devices, fsdp), losses, rtol=1e-5)
