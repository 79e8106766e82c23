import json
import time

import jax
import numpy as np
import pytest

from tests.commands import run
from vit_jax.benchmark import data, race, recognition, sweep
from vit_jax.benchmark.race import OURS, Case, Contender, Goal
from vit_jax.models import list_models


def sleeper(name, seconds, value=1.0):
    return Contender(name, lambda: time.sleep(seconds), lambda: np.full(3, value, np.float32))


def case(*contenders, **kwargs):
    return Case("sleep", lambda folder: iter(contenders), **kwargs)


def test_what_a_race_says():
    asleep = case(sleeper(OURS, 0.01), sleeper("slow", 0.04), images=2,
                  goals=(Goal(1, 3.0, ("slow", "absent")), Goal(2, 9.0, ("slow",)),
                         Goal(3, 1.0, ("absent",))))  # fmt: skip
    ours, slow = race.run(asleep, seconds=0)
    assert 0.01 <= ours["min_s"] <= ours["median_s"] < 0.03
    assert ours["images_per_s"] == pytest.approx(2 / ours["median_s"])
    assert ours["ratio"] == 1
    assert slow["ratio"] == pytest.approx(slow["median_s"] / ours["median_s"])
    assert slow["difference"] == 0
    judged = race.judge(asleep, [ours, slow])
    assert [(goal["goal"], goal["over"]) for goal in judged] == [(1, "slow"), (2, "slow")]
    assert [goal["met"] for goal in judged] == [slow["ratio"] >= 3, False]


@pytest.mark.parametrize("value", [1.1, np.nan])
def test_who_computes_something_else_does_not_race(value):
    wrong = case(sleeper(OURS, 0), sleeper("wrong", 0, value))
    with pytest.raises(ValueError, match="what wrong computes differs by"):
        race.run(wrong, seconds=0)


def test_memory_of_a_call():
    def call():
        np.ones(32 << 20, np.uint8).sum()
        time.sleep(0.05)
        array = np.ones(64 << 20, np.uint8)
        time.sleep(0.05)
        return array

    (row,) = race.run(case(Contender(OURS, call, lambda: np.ones(1))), seconds=0)
    assert 60 << 20 < row["peak_bytes"] < 100 << 20


def test_operations_of_the_models():
    """What is counted for the MFU, against XLA's count, which has norms and softmax as well."""
    for name, gmacs in recognition.GMACS.items():
        if name != "ViT-Ti_16":
            continue
        model, variables, images, _ = recognition.make_inputs(name, 1, 224, "float32")
        flops = jax.jit(model.apply).lower(variables, images).cost_analysis()["flops"]
        assert 1 < flops / (2e9 * gmacs) < 1.06
    assert set(recognition.GMACS) <= set(list_models())


def test_the_jpegs_are_like_imagenets():
    sizes = [len(file) for file in data.make_jpegs(3)]
    assert 80_000 < np.mean(sizes) < 130_000


def test_the_suites_of_models(tmp_path):
    """A training step uses its state up, so that it must be handed on."""
    path = tmp_path / "a.json"
    args = ["--model=ViT-Ti_16", "--image_size=32", "--batch_size=2", "--seconds=0", "--alone"]
    result = run("benchmark", "inference", "train", *args, f"--json={path}")
    assert result.returncode == 0, result.stderr
    rows = json.loads(path.read_text())["results"]
    assert [(row["suite"], row["contender"]) for row in rows] == [
        ("inference", OURS), ("train", OURS),
    ]  # fmt: skip
    assert all(row["images_per_s"] > 0 for row in rows)
    assert result.stdout.count("| ViT-Ti_16, batch 2 | ours |") == 2


@pytest.mark.parametrize("suite", [recognition.inference, recognition.train])
def test_the_plain_model_computes_the_same(suite, monkeypatch):
    monkeypatch.setattr(recognition, "has_torch", lambda *_: False)
    _, plain = race.run(suite("ViT-Ti_16", 2, 32, "float32"), seconds=0)
    assert plain["contender"] == "plain flax"
    assert 0 < plain["difference"] < 1e-4


def test_restoring(tmp_path):
    path = tmp_path / "a.json"
    args = ["--model=DehazeFormer-T", "--image_size=32", "--seconds=0", "--alone"]
    args += [f"--json={path}"]
    result = run("benchmark", *args)  # the suite that suits the model
    assert result.returncode == 0, result.stderr
    assert json.loads(path.read_text())["results"][0]["case"] == "DehazeFormer-T, 32 x 32, batch 1"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["speed"], "unknown suite 'speed'; there are: inference, train"),
        (["inference", "--model=ViT-X"], "unknown model 'ViT-X'"),
        (["inference", "--batch_size=2"], "--batch_size and --image_size go with --model"),
        (["inference", "--model=DehazeFormer-T"], "predicts no labels"),
        (["restore", "--model=ViT-S_16"], "restores no images"),
    ],
)
def test_mistakes(args, message):
    result = run("benchmark", *args)
    assert result.returncode == 2
    assert message in result.stderr


def test_what_was_measured_before_an_error_is_kept(tmp_path):
    path = tmp_path / "a.json"
    args = ["--model=ViT-Ti_16", "--image_size=32", "--seconds=0", "--alone", f"--json={path}"]
    result = run("benchmark", "inference", "restore", *args)
    assert result.returncode == 2
    assert [row["suite"] for row in json.loads(path.read_text())["results"]] == ["inference"]


def test_a_sweep_grows_the_batch_as_far_as_it_fits_and_then_tries_flags():
    tried = []

    def run_one(settings):
        tried.append(tuple(settings.values()))
        fits = settings["batch"] <= (32 if settings["remat"] else 16)
        speed = settings["batch"] * (0.4 if settings["remat"] else 1) if fits else None
        return {**settings, "images_per_s": speed}

    rows = list(sweep.sweep(run_one, 8, 64))
    plain = [(batch, False, "none") for batch in (8, 16, 32)]
    with_remat = [(batch, True, "none") for batch in (8, 16, 32, 64)]
    others = [(16, False, name) for name in sweep.XLA_FLAGS if name != "none"]
    assert tried == plain + with_remat + others
    assert [row["images_per_s"] for row in rows[:3]] == [8, 16, None]


def test_a_try_of_a_sweep():
    choice = json.dumps({"batch": 1, "remat": True, "flags": "none"})
    result = run("benchmark", "sweep", "--model=ViT-Ti_16", "--image_size=32", "--dtype=float32",
                 "--seconds=0", f"--choice={choice}")  # fmt: skip
    assert result.returncode == 0, result.stderr
    row = json.loads(result.stdout)
    assert (row["batch"], row["remat"]) == (1, True)
    assert row["images_per_s"] > 0
