"""Runs that are stopped, killed, or cannot save, and continue."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.commands import ROOT
from tests.helpers import pairs_config, tiny_digits_config, write_pairs
from tests.runs import assert_same_runs, wait_for_a_checkpoint
from tests.tiny_colors import TinyColors
from vit_jax import train
from vit_jax.machinery import preemption


@pytest.fixture
def all_config():
    """A run with everything that draws random numbers or carries a state."""
    config = tiny_digits_config()
    config.model.dropout_rate = 0.1
    config.mixup_alpha = 0.4
    config.ema_decay, config.ema_warmup = 0.9, True
    config.accum_steps = 2
    return config


@pytest.fixture
def tfds_config(tmp_path):
    TinyColors(data_dir=tmp_path / "tfds").download_and_prepare()
    config = tiny_digits_config()
    config.data.source = "tfds:tiny_colors"
    config.data.tfds.data_dir = str(tmp_path / "tfds")
    config.data.train_pp = "decode|inception_crop(8)|flip_lr|value_range(-1, 1)"
    config.data.eval_pp = "decode|resize(8)|value_range(-1, 1)"
    config.data.tfds.update(train_split="train[:80%]", val_split="train[80%:]")
    config.data.tfds.test_split = ""
    config.data.tfds.shuffle_buffer = 5
    config.batch_size = 4
    return config


@pytest.fixture
def restoring_config(tmp_path):
    for split, count in (("train", 6), ("test", 2)):
        write_pairs(tmp_path / "pairs" / split, [(40, 36)] * count)
    return pairs_config(tmp_path / "pairs")


@pytest.mark.parametrize(
    ("fixture", "gently"),
    [
        pytest.param("all_config", True, marks=pytest.mark.slow),
        pytest.param("folder_config", False, marks=pytest.mark.slow),
        pytest.param("tfds_config", True, marks=pytest.mark.slow),
        pytest.param("restoring_config", True, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_continues_bit_for_bit(fixture, gently, request, tmp_path, monkeypatch):
    """Stopped after step 5, between a save and the next, gently or not."""
    config = request.getfixturevalue(fixture)
    config.total_steps = 8
    config.eval_every = 4
    config.checkpoint_every = 3
    train.train_and_evaluate(config, tmp_path / "whole")

    def stop_after_5(monitor, step, metrics):
        monitor_train(monitor, step, metrics)
        if step == 5 and gently:
            os.kill(os.getpid(), signal.SIGTERM)
        elif step == 5:
            raise RuntimeError("as if it were killed")

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    monitor_train = train.Monitor.train
    monkeypatch.setattr(train.Monitor, "train", stop_after_5)
    with pytest.raises(preemption.Stopped if gently else RuntimeError) as stopped:
        train.train_and_evaluate(config, tmp_path / "stopped")
    if gently:
        assert "stopped by SIGTERM after step 5 of 8, which is saved in" in str(stopped.value)
    steps = sorted(int(path.name) for path in (tmp_path / "stopped" / "checkpoints").iterdir())
    assert steps[-1] == (5 if gently else 4)
    monkeypatch.setattr(train.Monitor, "train", monitor_train)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    train.train_and_evaluate(config, tmp_path / "stopped")
    assert_same_runs(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax's tasks
def test_a_save_that_fails_stops_the_run(digits_config, tmp_path):
    """The limit on the size of files stands in for a full disk."""
    jax.config.update("jax_enable_compilation_cache", False)  # whose files would be cut off too
    compilation_cache.reset_cache()  # or it goes on as it began
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"cannot write a checkpoint to .*: File too large\. .* the beginning$"
        ):
            train.train_and_evaluate(digits_config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()
    train.train_and_evaluate(digits_config, tmp_path)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.rare)]
)
def test_a_second_signal_ends_the_process(number):
    code = f"""
import os
from vit_jax.machinery import preemption, sharding
with preemption.StopRequest(sharding.make_mesh(1)) as stop:
    os.kill(os.getpid(), {number:d})
    print(stop.poll(), flush=True)
    os.kill(os.getpid(), {number:d})
    print("still here")
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == -number
    assert result.stdout == f"{number.name}\n"


SMALL = [
    "--config=configs/digits.py", "--config.model.hidden_size=32", "--config.model.num_layers=1",
    "--config.model.num_heads=2", "--config.model.mlp_dim=32", "--config.total_steps=400",
    "--config.eval_every=100", "--config.checkpoint_every=5", "--config.schedule.warmup_epochs=1.0",
]  # fmt: skip


def start(workdir, *args):
    return subprocess.Popen(
        [sys.executable, "-m", "vit_jax.main", *SMALL, f"--workdir={workdir}", *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        # A kill may cut off a compiled program, which others would stumble over.
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{workdir.parent}/compiled"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.rare)]
)
def test_signals_to_the_command(number, tmp_path):
    forever = "--config.total_steps=1000000"  # so that it cannot end before the signal comes
    process = start(tmp_path, forever)
    wait_for_a_checkpoint(tmp_path)
    process.send_signal(number)
    _, printed = process.communicate(timeout=900)
    assert process.returncode == preemption.EXIT_CODE
    last = printed.splitlines()[-1]
    assert last.startswith(f"stopped by {number.name} after step ")
    assert last.endswith("the same command continues from there")
    step = int(last.split("after step ")[1].split()[0])
    assert (tmp_path / "checkpoints" / str(step)).exists()

    again = start(tmp_path, forever)
    line = next(line for line in again.stderr if "continuing" in line)
    assert line.startswith(f"continuing from step {step} of 1000000, in ")
    again.kill()


@pytest.mark.slow
@pytest.mark.rare
def test_twenty_kills_lose_nothing_but_time(tmp_path):
    """Every second one falls into a save; the seed says when the others come."""
    moments = random.Random(0)
    whole = start(tmp_path / "whole")
    assert whole.wait(timeout=900) == 0
    killed = tmp_path / "killed"
    process, torn = start(killed), 0
    wait_for_a_checkpoint(killed)

    def checkpoints():
        return {path.name for path in (killed / "checkpoints").iterdir()}

    for i in range(20):
        if i % 2:
            while process.poll() is None and all(name.isdigit() for name in checkpoints()):
                time.sleep(0.001)
        else:
            time.sleep(moments.uniform(0, 1))
        process.kill()
        _, printed = process.communicate()
        if process.returncode == 0:
            break  # the run was over sooner than its kills
        torn += any(not name.isdigit() for name in checkpoints())
        last = max(int(name) for name in checkpoints() if name.isdigit())
        process = start(killed)
        line = next(line for line in process.stderr if "continuing" in line)
        assert line.startswith(f"continuing from step {last} of 400, in ")
    else:
        _, printed = process.communicate(timeout=900)
    assert process.returncode == 0, printed
    assert torn, "no kill fell into a save"
    assert_same_runs(tmp_path / "whole", killed, has_means=False)
