import json
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from input_pipeline import MadeUp
from tests.commands import ROOT, run
from vit_jax.benchmark import accelerator, race, sweep
from vit_jax.benchmark import models as compared
from vit_jax.benchmark.inference import infer
from vit_jax.benchmark.race import OURS, Case, Contender
from vit_jax.benchmark.training import train
from vit_jax.models import list_models


def sleeper(name, seconds, value=1.0):
    return Contender(name, lambda: time.sleep(seconds), lambda: np.full(3, value, np.float32))


def case(*contenders, **kwargs):
    return Case("sleep", lambda folder: iter(contenders), **kwargs)


class Clock:
    """Stands in for `time`; only to sleep takes time."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_what_a_race_says(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(race, "time", clock)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    asleep = case(sleeper(OURS, 0.01), sleeper("slow", 0.04), images=2)
    ours, slow = race.run(asleep, seconds=0)
    assert ours["min_s"] == pytest.approx(0.01)
    assert ours["median_s"] == pytest.approx(0.01)
    assert ours["images_per_s"] == pytest.approx(200)
    assert ours["ratio"] == 1
    assert slow["ratio"] == pytest.approx(4)
    assert slow["difference"] == 0


@pytest.mark.parametrize("value", [1.1, np.nan])
def test_who_computes_something_else_does_not_race(value):
    wrong = case(sleeper(OURS, 0), sleeper("wrong", 0, value))
    with pytest.raises(ValueError, match="what wrong computes differs by"):
        race.run(wrong, seconds=0)


def test_memory_of_a_call(monkeypatch):
    looks = []

    class Process(race.psutil.Process):
        def memory_info(self):
            looks.append(super().memory_info())
            return looks[-1]

    def wait_until_seen():
        """A look may be under way, so it is two; a minute at most. Not while calls are timed."""
        until = len(looks) + 2
        for _ in range(6000 if looks else 0):
            if len(looks) >= until:
                return
            time.sleep(0.01)

    def call():
        np.ones(32 << 20, np.uint8).sum()
        wait_until_seen()
        array = np.ones(64 << 20, np.uint8)
        wait_until_seen()
        return array

    monkeypatch.setattr(race.psutil, "Process", Process)

    (row,) = race.run(case(Contender(OURS, call, lambda: np.ones(1))), seconds=0)
    assert 60 << 20 < row["peak_bytes"] < 100 << 20


def test_who_does_not_fit_into_memory_is_left_out(capsys):
    def grow():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 52.36GiB")

    large = Contender("large", time.sleep, grow)
    rows = race.run(case(sleeper(OURS, 0), large, sleeper("small", 0)), seconds=0)
    assert [row["contender"] for row in rows] == [OURS, "small"]
    assert "sleep: large is left out: RESOURCE_EXHAUSTED" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        race.run(case(Contender(OURS, time.sleep, grow)), seconds=0)


def test_operations_of_the_models():
    """What is counted for the MFU, against XLA's count, which has norms and softmax as well."""
    model, variables = compared.make("ViT-Ti_16", 224, "float32")
    images = np.zeros((1, 224, 224, 3), np.float32)
    flops = jax.jit(model.apply).lower(variables, images).cost_analysis()["flops"]
    assert 1 < flops / compared.flops("ViT-Ti_16", 224, images=1, per_mac=2) < 1.06
    assert compared.flops("ViT-Ti_16", 384, images=1, per_mac=2) is None
    assert set(compared.GMACS) <= set(list_models())


def test_made_up_flow():
    data = MadeUp((8, 6, 3), 2, truth="flow")
    batch = next(data.train_batches())
    assert data.truths == ("image2", "flow", "valid")
    assert {key: array.shape for key, array in batch.items()} == {
        "image": (2, 8, 6, 3), "image2": (2, 8, 6, 3), "flow": (2, 8, 6, 2), "valid": (2, 8, 6)
    }  # fmt: skip
    assert not np.array_equal(batch["image"], batch["image2"])
    assert 5 < abs(batch["flow"]).max() <= 10
    assert set(np.unique(batch["valid"])) == {0, 1}
    assert all(array.dtype == np.float32 for array in batch.values())


def test_the_jpegs_are_like_imagenets():
    data = pytest.importorskip("vit_jax.benchmark.data", exc_type=ImportError)
    sizes = [len(file) for file in data.make_jpegs(3)]
    assert 80_000 < np.mean(sizes) < 130_000


def test_reading_is_compared_with_exact_results():
    data = pytest.importorskip("vit_jax.benchmark.data", exc_type=ImportError)
    ours, *others = data.read(2)
    assert ours.deviation < 0.5  # its values are rounded
    assert {"plain tf.data", "Pillow"} <= {who.name for who in others if who.deviation < 1.5}


@pytest.mark.slow
def test_the_suites_of_models(tmp_path):
    """A training step uses its state up, so that it must be handed on."""
    path = tmp_path / "a.json"
    args = ["--model=ViT-Ti_16", "--image_size=32", "--batch_size=2", "--seconds=0", "--alone"]
    result = run("benchmark", "inference", "train", *args, f"--json={path}")
    assert result.returncode == 0, result.stderr
    cases = json.loads(path.read_text())["cases"]
    assert list(cases) == [
        f"{suite}: ViT-Ti_16, 32 x 32, batch 2" for suite in ("inference", "train")
    ]
    for found in cases.values():
        (row,) = found["rows"]
        assert row["contender"] == OURS
        assert row["images_per_s"] > 0
    assert result.stdout.count("ViT-Ti_16, 32 x 32, batch 2 | ours |") == 2


@pytest.mark.parametrize("suite", [infer, train])
def test_the_plain_model_computes_the_same(suite, monkeypatch):
    monkeypatch.setattr(compared, "has_torch", lambda *_: False)
    _, plain = race.run(suite("ViT-Ti_16", 2, 32, "float32", num_layers=2), seconds=0)
    assert plain["contender"] == "plain flax"
    assert 0 < plain["difference"] < 1e-4


@pytest.mark.slow
def test_restoring(tmp_path):
    path = tmp_path / "a.json"
    args = ["--model=DehazeFormer-T", "--image_size=32", "--seconds=0", "--alone"]
    args += [f"--json={path}"]
    result = run("benchmark", "restore", *args)
    assert result.returncode == 0, result.stderr
    cases = json.loads(path.read_text())["cases"]
    assert list(cases) == ["restore: DehazeFormer-T, 32 x 32, batch 1"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["speed"], "unknown suite 'speed'; did you mean 'sweep'? there are: inference, train"),
        (["inference", "--model=ViT-X"], "unknown model 'ViT-X'"),
        (["inference", "--batch_size=2"], "--batch_size and --image_size go with --model"),
        (["accelerator"], "accelerator needs --json=FILE"),
        (["accelerator", "train"], "accelerator stands alone, without train"),
        (["accelerator", "--json=a.json", "--only=ViT-X"], "--only=ViT-X is found in none of: "),
        (["sweep"], "sweep needs a model"),
        (["table"], "table needs files that --json wrote"),
    ],
)
def test_mistakes(args, message):
    result = run("benchmark", *args)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.slow
def test_a_case_that_fails_does_not_end_the_others(tmp_path):
    path = tmp_path / "a.json"
    args = ["--model=ViT-Ti_16", "--image_size=32", "--seconds=0", "--alone", f"--json={path}"]
    result = run("benchmark", "train", "inference", "--batch_size=1", *args)
    assert result.returncode == 1
    name = "train: ViT-Ti_16, 32 x 32, batch 1"
    assert f"failed: {name}: batch_size=1 is not divisible by 2 device(s)" in result.stderr
    train, inference = json.loads(path.read_text())["cases"].values()
    assert "not divisible" in train["error"]
    assert inference["rows"][0]["images_per_s"] > 0


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


@pytest.mark.slow
def test_a_try_of_a_sweep():
    choice = json.dumps({"batch": 2, "remat": True, "flags": "none"})
    result = run("benchmark", "sweep", "--model=ViT-Ti_16", "--image_size=32", "--dtype=float32",
                 "--seconds=0", f"--choice={choice}")  # fmt: skip
    assert result.returncode == 0, result.stderr
    row = json.loads(result.stdout)
    assert (row["batch"], row["remat"]) == (2, True)
    assert row["images_per_s"] > 0


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA RTX A1000", None),
        ("cpu", None),
    ],
)
def test_peaks_of_accelerators(kind, peak):
    assert race.peak_flops_of(kind) == peak


def test_large_models_are_not_tried_on_a_cpu():
    settings = accelerator.Settings("bfloat16", seconds=0)
    with pytest.raises(ValueError, match="JAX finds no accelerator here: --tiny"):
        settings.try_here(settings.specs[0].name)


@pytest.fixture
def made_up_parts(monkeypatch):
    """Parts of the accelerator's suite that run at once; returns the names of those that ran."""
    ran = []

    def run_apart(args, xla_flags=""):
        choice = json.loads(args[-1].partition("=")[2])
        ran.append(choice)
        if len(ran) == 3:
            raise KeyboardInterrupt
        if args[0] == sweep.NAME:
            return {**choice, "images_per_s": 10.0, "mfu": None, "peak_bytes": 0}
        return {"machine": "a GPU", "rows": [{"contender": OURS}]}

    monkeypatch.setattr(accelerator, "run_apart", run_apart)
    monkeypatch.setattr(sweep, "run_apart", run_apart)
    return ran


def test_the_accelerators_suite_goes_on_where_it_was_cut_off(made_up_parts, tmp_path):
    path, reported = tmp_path / "a.json", []
    settings = accelerator.Settings("float32", seconds=0, tiny=True)

    def start():
        record = accelerator.Record(path, settings)
        return accelerator.run(settings, record, lambda name, rows: reported.append(name))

    with pytest.raises(KeyboardInterrupt):
        start()
    stored = json.loads(path.read_text())
    assert not stored["complete"]
    assert len(stored["cases"]) == 2
    assert start() == []
    stored = json.loads(path.read_text())
    names = [spec.name for spec in accelerator.TINY_SPECS]
    assert stored["complete"]
    assert stored["machine"] == "a GPU"
    assert list(stored["cases"])[: len(names)] == names
    assert reported == names[:2] + names
    assert made_up_parts[:4] == [*names[:3], names[2]]  # the third was run again, no other
    count = len(made_up_parts)
    assert start() == []
    assert len(made_up_parts) == count


def test_a_part_that_fails_does_not_end_the_others(monkeypatch, tmp_path):
    def run_apart(args, xla_flags=""):
        if "DehazeFormer" in args[-1] or args[0] == sweep.NAME:
            raise accelerator.Failed("no such kernel", is_too_large=False)
        return {"machine": "a GPU", "rows": []}

    monkeypatch.setattr(accelerator, "run_apart", run_apart)
    monkeypatch.setattr(sweep, "run_apart", run_apart)
    settings = accelerator.Settings("float32", seconds=0, tiny=True)
    record = accelerator.Record(tmp_path / "a.json", settings)
    dehazing, sweeping = accelerator.run(settings, record, lambda *_: None)
    assert dehazing == "train: DehazeFormer-T, 32 x 32, batch 2: no such kernel"
    assert sweeping.startswith("sweep: ")
    assert not json.loads((tmp_path / "a.json").read_text())["complete"]


@pytest.mark.parametrize("content", ["{", "[]", '{"results": []}'])
def test_files_of_something_else_are_not_overwritten(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"a\.json .*: name another --json"):
        accelerator.Record(path, accelerator.Settings("bfloat16", seconds=0))
    assert path.read_text() == content


def test_figures_of_two_machines_or_settings_are_not_mixed(tmp_path):
    path, settings = tmp_path / "a.json", accelerator.Settings("bfloat16", seconds=0)
    accelerator.Record(path, settings).put("a", {"machine": "an H100", "rows": []})
    with pytest.raises(ValueError, match="holds figures of an H100, and this is an H200"):
        accelerator.Record(path, settings).put("b", {"machine": "an H200", "rows": []})
    alone = accelerator.Settings("bfloat16", seconds=1, alone=True)
    with pytest.raises(ValueError, match=r"'alone': False}, and this run is of .*'alone': True}"):
        accelerator.Record(path, alone)


@pytest.mark.slow
@pytest.mark.rare  # but make test-minimal runs it
def test_the_accelerators_suite_on_tiny_models(tmp_path):
    """Killed in the middle, and started again."""
    path = tmp_path / "a.json"
    command = [sys.executable, "-m", "vit_jax.benchmark", "accelerator", "--tiny", "--alone",
               "--seconds=0", "--dtype=float32", f"--json={path}"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not path.exists() and process.poll() is None:
        time.sleep(0.2)
    process.terminate()
    assert process.wait(600) == 143
    before = json.loads(path.read_text())
    assert not before["complete"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    after = json.loads(path.read_text())
    assert after["complete"]
    assert before["cases"].items() <= after["cases"].items()
    assert len(after["cases"]) > len(accelerator.TINY_SPECS)
