"""A run in several processes, which speak with each other as several hosts do."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.commands import ROOT, free_port
from tests.helpers import pairs_config, write_image, write_pairs
from tests.runs import assert_same_runs, wait_for_a_checkpoint
from vit_jax.machinery import preemption, processes
from vit_jax.workdir import Workdir

# Its largest arrays have 2^17 elements, so that fsdp cuts them.
DIGITS = [
    "--config=configs/digits.py", "--config.model.hidden_size=256", "--config.model.num_layers=1",
    "--config.model.num_heads=2", "--config.model.mlp_dim=512", "--config.total_steps=8",
    "--config.eval_every=4", "--config.log_every=1", "--config.schedule.warmup_epochs=0.1",
    "--config.keep_checkpoints=3",
]  # fmt: skip


def start(count, args, devices=1, announced_by_slurm=False, **common):
    """Starts so many processes of the same run, each with so many devices."""
    started, port = [], free_port()
    for i in range(count):
        command = [sys.executable, "-m", "vit_jax.main", *map(str, args)]
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        env = {"XLA_FLAGS": flags, **common}
        if announced_by_slurm:
            env |= {
                "SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost",
                "SLURM_NTASKS": str(count), "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i),
                "SLURM_STEP_NUM_TASKS": str(count),
            }  # fmt: skip
            command.append("--distributed")
        elif count > 1:
            command += [f"--coordinator_address=localhost:{port}", f"--num_processes={count}"]
            command += [f"--process_id={i}"]
        started.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, **env},
            )
        )
    return started


def finish(started, expected=0):
    """Waits until they end; returns what each printed to stderr."""
    printed = [process.communicate(timeout=900) for process in started]
    assert [process.returncode for process in started] == [expected] * len(started), printed
    for out, _ in printed[1:]:
        assert "checkpoint" not in out
    return [err for _, err in printed]


def losses(workdir):
    lines = Workdir(workdir).read_metrics()
    return np.array([line["loss"] for line in lines])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with two devices."""
    workdir = tmp_path_factory.mktemp("alone")
    finish(start(1, [*DIGITS, f"--workdir={workdir}"], devices=2))
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "fsdp"),
    [
        (2, 1),
        pytest.param(2, 2, marks=pytest.mark.rare),
        pytest.param(3, 1, marks=pytest.mark.rare),
    ],
)
def test_processes_are_one_run(alone, tmp_path, count, fsdp):
    """Of 2 processes with a device each, or 3 with 2 of which the batch of 66 is divisible."""
    args = [*DIGITS, f"--config.fsdp={fsdp}"]
    if count == 3:
        args.append("--config.batch_size=66")
        finish(start(1, [*args, f"--workdir={tmp_path / 'alone'}"]))
        alone = tmp_path / "alone"
    workdir = tmp_path / "w"
    said = finish(start(count, [*args, f"--workdir={workdir}"], devices=count - 1))
    assert "step 8/8" in said[0]
    assert all(re.fullmatch(r"(joining .* \.\.\.\n)?", text) for text in said[1:])
    assert len(losses(workdir)) == 11  # 8 steps, 2 validations, the test
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-5)
    ends = [Workdir(folder).read_metrics()[-1] for folder in (workdir, alone)]
    assert ends[0]["examples"] == ends[1]["examples"] == 360
    assert ends[0]["accuracy"] == ends[1]["accuracy"]
    matrices = [(folder / "report" / "confusion.png").read_bytes() for folder in (workdir, alone)]
    assert matrices[0] == matrices[1]
    assert len(list(workdir.glob("events.out*"))) == 1


@pytest.mark.slow
@pytest.mark.rare
def test_one_is_asked_to_stop_and_all_do(tmp_path):
    """SLURM's announcement is enough for the processes to find each other."""
    args = [*DIGITS, "--config.total_steps=60", "--config.eval_every=20", "--config.ema_decay=0.9"]
    args += ["--config.checkpoint_every=1000", "--config.mixup_alpha=0.3"]
    finish(start(2, [*args, f"--workdir={tmp_path / 'whole'}"]))

    workdir = tmp_path / "stopped"
    started = start(2, [*args, f"--workdir={workdir}"], announced_by_slurm=True)
    wait_for_a_checkpoint(workdir)
    started[1].send_signal(signal.SIGTERM)
    said = finish(started, preemption.EXIT_CODE)
    last = said[0].splitlines()[-1]
    assert last.startswith("stopped by SIGTERM after step ")
    assert said[1] == ""
    step = int(last.split("after step ")[1].split()[0])
    assert 20 <= step < 60
    assert (workdir / "checkpoints" / str(step)).exists()

    said = finish(start(2, [*args, f"--workdir={workdir}"]))
    assert f"continuing from step {step} of 60" in said[0]
    assert_same_runs(tmp_path / "whole", workdir)


@pytest.mark.slow
def test_checkpoints_go_from_two_processes_to_one_and_back(alone, tmp_path):
    workdir = tmp_path / "w"
    args = [*DIGITS, f"--workdir={workdir}", "--config.fsdp=2"]
    finish(start(2, args))
    for count in (1, 2):
        shutil.rmtree(workdir / "checkpoints" / "8")
        said = finish(start(count, args, devices=3 - count))
        assert "continuing from step 4 of 8" in said[0]
        np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.rare
def test_whole_images_over_two_processes(tmp_path):
    """Of several sizes, so that some batches have an image for one of the processes alone."""
    write_pairs(tmp_path / "pairs" / "train", [(40, 36)] * 6)
    write_pairs(tmp_path / "pairs" / "test", [(40, 36), (33, 47), (40, 36), (40, 36), (64, 32)])
    file = tmp_path / "config.py"
    config = pairs_config(tmp_path / "pairs")
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({config.to_dict()!r})\n"
    )
    tables, sizes = [], []
    for name, count in (("alone", 1), ("w", 2)):
        args = [f"--config={file}", f"--workdir={tmp_path / name}"]
        finish(start(count, args, devices=3 - count))
        with open(tmp_path / name / "report" / "test.csv", newline="") as table:
            tables.append(list(csv.reader(table)))
        with Image.open(tmp_path / name / "report" / "restored.png") as picture:
            sizes.append(picture.size)
    assert sizes[0] == sizes[1]  # all three rows are there
    assert [row[0] for row in tables[1]] == [row[0] for row in tables[0]]
    values = [np.array([row[1:] for row in table[1:]], float) for table in tables]
    assert values[0].shape[0] == 5
    np.testing.assert_allclose(values[1], values[0], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.rare
def test_an_error_in_one_process_ends_all(image_folder, tmp_path):
    """Both name what one of them could not read, or end since the other has."""
    bad = write_image(image_folder / "train" / "red" / "broken.png", (0, 0, 0))
    bad.write_bytes(bad.read_bytes()[:60])
    args = [
        "--config=configs/folder.py", f"--config.data.source={image_folder}",
        "--config.total_steps=100", f"--workdir={tmp_path / 'w'}", "--config.batch_size=2",
        "--config.data.train_pp=decode|resize(16)|value_range(-1, 1)",
        "--config.data.eval_pp=decode|resize(16)|value_range(-1, 1)",
    ]  # fmt: skip
    started = start(2, args)
    printed = [process.communicate(timeout=900)[1] for process in started]
    assert all(process.returncode not in (0, preemption.EXIT_CODE) for process in started)
    assert any("1 unreadable image(s)" in text and "broken.png" in text for text in printed)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (("localhost:1", 2, None), "--num_processes and --process_id go together"),
        (("localhost:1", 2, 2), r"--process_id must be in 0 \.\. 1, not 2"),
        (("localhost:1", 0, 0), "--num_processes must be at least 1, not 0"),
        (("localhost", 2, 0), "--coordinator_address must be HOST:PORT, not 'localhost'"),
        (("localhost:80000", 2, 0), "must be HOST:PORT, not 'localhost:80000'"),
    ],
)
def test_an_address_at_odds_with_itself(address, message):
    with pytest.raises(ValueError, match=message), processes.joined(False, *address):
        pass


@pytest.mark.slow
def test_processes_that_were_started_differently(tmp_path):
    started = start(2, [*DIGITS, f"--workdir={tmp_path}"])
    started[1].kill()
    started[1].communicate()
    other = [*started[1].args, "--config.seed=7"]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    one = {**os.environ, "XLA_FLAGS": flags}
    with subprocess.Popen(other, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=one) as second:
        said = [started[0].communicate(timeout=900)[1], second.communicate(timeout=900)[1]]
    assert any(
        "process 1 has other settings than the first: seed is 7, and not 0" in s for s in said
    )
    assert not (tmp_path / "config.json").exists()


def test_forgotten_flag_under_slurm(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with (
        pytest.raises(ValueError, match=r"srun has started 8 processes.* add --distributed"),
        processes.joined(False),
    ):
        pass


def test_the_others_wait_for_the_first_to_claim(digits_config, tmp_path, monkeypatch):
    others = Workdir(tmp_path)
    monkeypatch.setattr("vit_jax.workdir._VISIBLE_AFTER_S", 0)
    with pytest.raises(ValueError, match="give --workdir a folder that all hosts share"):
        others.claim(digits_config, {}, writes=False)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("vit_jax.workdir._VISIBLE_AFTER_S", 1)
    Workdir(tmp_path).claim(digits_config, {})
    others.claim(digits_config, {}, writes=False)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
