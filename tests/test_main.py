"""The commands, as a person types them."""

import csv
import html
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import run, run_afresh
from tests.helpers import COLORS, write_image

TINY = [
    "--config.model.patch_size=4", "--config.model.hidden_size=16", "--config.model.num_layers=1",
    "--config.model.num_heads=2", "--config.model.mlp_dim=32", "--config.batch_size=4",
    "--config.data.train_pp=decode|resize(8)|value_range(-1, 1)",
    "--config.data.eval_pp=decode|resize(8)|value_range(-1, 1)",
    "--config.total_steps=40", "--config.eval_every=20", "--config.optim.learning_rate=3e-3",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name, color in COLORS.items():
        for i in range(12):
            write_image(folder / name / f"{i}.jpg", color, size=(20 + i, 15), seed=i)
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A run on a folder, with no setting of classes or sizes of the data."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    args = ["--config=configs/folder.py", f"--workdir={workdir}", f"--config.data.source={photos}"]
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # the configs are found from any folder
    return workdir, args, run_afresh("main", *args, *TINY, cwd=elsewhere)


def test_training_on_a_folder_given_only_its_path(trained):
    workdir, _, result = trained
    assert result.returncode == 0, result.stderr
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["split"] == "test"
    assert last["accuracy"] == 1.0
    assert re.search(r"test +1\.0000", result.stdout)
    assert "has no val folder: 10 % of each training class is split off as val" in result.stderr
    assert re.search(r"step 20 \(epoch [\d.]+/[\d.]+\)  val  accuracy", result.stderr)
    assert (workdir / "labels.txt").read_text() == "blue\nred\n"


def test_the_first_lines_say_what_is_trained_on_what(trained):
    _, _, result = trained
    lines = result.stderr.splitlines()
    model, data, devices, steps = lines[[line.startswith("model") for line in lines].index(True) :][
        :4
    ]
    assert re.fullmatch(r"model    ViT-Ti_16, [\d,]+ parameters", model)
    assert re.fullmatch(r"data     photos\d*: 18 train, 4 val, 2 test; 2 classes", data)
    assert re.fullmatch(r"devices  \d+ x cpu", devices)
    assert steps == "steps    40 of 4 examples (8.889 epochs), evaluated every 20"


def test_the_last_lines_say_how_to_use_the_run(trained, photos):
    workdir, given, result = trained
    where, how = result.stderr.splitlines()[-2:]
    assert where.startswith(f"weights are in {workdir}, ")
    page = Path(where.split(" in ")[-1])
    assert page == workdir / "report" / "index.html"
    typed = shlex.join(["python", "-m", "vit_jax.main", *map(str, (*given, *TINY))])
    assert html.escape(typed) in page.read_text()
    _, module, *args = shlex.split(how.removeprefix("to use them: python"))
    assert args[-1] == "FILE_OR_FOLDER..."
    answered = run(module.removeprefix("vit_jax."), *args[:-1], photos)
    assert answered.returncode == 0, answered.stderr
    assert len(answered.stdout.splitlines()) == len(list(photos.rglob("*.jpg")))


def test_start_up_is_quiet(trained):
    _, _, result = trained
    ours = (
        r"(model  |data  |devices  |steps  |step \d+|a step takes|.* expected, at"
        r"|.*split off as|weights are in|to use them)"
    )
    lines = result.stderr.splitlines()
    assert [line for line in lines if not re.match(ours, line)] == []


@pytest.mark.parametrize("with_config", [pytest.param(True, marks=pytest.mark.slow), False])
def test_evaluate_reprints_the_figures(trained, with_config):
    workdir, args, first = trained
    settings = [*args, *TINY] if with_config else [f"--workdir={workdir}"]
    result = run("main", *settings, "--mode=evaluate")
    assert result.returncode == 0, result.stderr
    assert result.stdout == first.stdout


def test_predict(trained, tmp_path):
    workdir, _, _ = trained
    rgba = np.zeros((30, 20, 4), np.uint8)
    rgba[...] = (*COLORS["red"], 255)
    Image.fromarray(rgba).save(tmp_path / "red rgba.png")
    write_image(tmp_path / "deep" / "blue.webp", COLORS["blue"])
    Image.fromarray(np.full((9, 9), 30000, np.uint16)).save(tmp_path / "grey16.tif")
    (tmp_path / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    result = run("predict", f"--workdir={workdir}", f"--output={out}", "--attention", tmp_path)
    assert result.returncode == 0, result.stderr
    drawn = out / "attention"
    pictures = {str(path.relative_to(drawn)) for path in drawn.rglob("*.png")}
    assert pictures == {"red rgba.png", "deep/blue.webp.png", "grey16.tif.png"}
    with (out / "predictions.csv").open() as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    assert set(rows) == {"red rgba.png", "blue.webp", "grey16.tif"}
    assert rows["red rgba.png"]["class_1"] == "red"
    assert rows["blue.webp"]["class_1"] == "blue"
    for row in rows.values():
        np.testing.assert_allclose(
            float(row["probability_1"]) + float(row["probability_2"]), 1, atol=1e-5
        )
        assert f"{row['class_1']} {float(row['probability_1']):.1%}" in result.stdout


def test_predict_does_what_it_can(trained, tmp_path):
    workdir, _, _ = trained
    good = write_image(tmp_path / "good.png", COLORS["red"])
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff junk")
    result = run("predict", f"--workdir={workdir}", bad, tmp_path / "no.png", good)
    assert result.returncode == 1
    assert f"{good}: red" in result.stdout
    assert f"cannot read {bad}: " in result.stderr
    assert f"cannot read {tmp_path}/no.png: No such file or directory" in result.stderr
    assert "2 of 3 failed" in result.stderr
    assert len(result.stderr.splitlines()) == 3  # and no noise


@pytest.mark.parametrize(
    ("module", "args", "message"),
    [
        ("main", ["--config=configs/no.py"], "error: there is no config 'configs/no.py'"),
        ("main", [], "error: --mode=train needs --config=configs/NAME.py"),
        ("main", ["--config=configs/digits.py", "--config.batchsize=3"],
         "error: unknown config key batchsize; did you mean batch_size"),
        ("main", ["--config=configs/digits.py", "--config.a.b=3"], "error: unknown config key a; "),
        ("main", ["--config=configs/foldr.py"], "did you mean configs/folder.py?.* are: augreg"),
        ("main", ["--config=configs/folder.py:Foo"], "error: .* takes no argument: leave out :Foo"),
        ("main", ["--config.batch_size=3"], "error: --config.batch_size .* --config=configs/NAME"),
        ("main", ["--confg=configs/folder.py"], "error: Unknown .*'confg'. Did you mean: config"),
        ("main", ["--config=configs/digits.py", "--config.model_name=vit_b16"],
         "error: unknown model 'vit_b16'; did you mean 'ViT-B_16'"),
        ("main", ["--config=configs/digits.py", "--config.batch_size=x"], "error: .*batch_size=x"),
        ("main", ["--config=configs/digits.py", "stray"], "error: .* what to do with stray"),
        ("main", ["--config=configs/vit.py:b17"], "error: unknown ViT 'b17'; .*there are: "),
        ("main", ["--mode=evaluate"], "error: .* holds no run"),
        ("main", ["--mode=benchmark"], "error: .* needs --config=configs/inference_time"),
        ("main", ["--mode=benchmark", "--config=configs/digits.py"], "error: .* unknown: accum_s"),
        ("main", ["--config=configs/digits.py", "--config.dont_load=x"], "error: dont_load is for"),
        ("main", ["--config=configs/digits.py", "--workdir=/dev/null/w"], "error: .*Not a dir"),
        ("predict", ["x.jpg"], "error: .* holds no run"),
        ("predict", [], "error: say what to look at"),
        ("predict", ["--checkpoint=x.npz", "x.jpg"], "error: say which model: either --workdir"),
        ("predict", ["--attention", "x.jpg"], "error: --attention writes files: say where"),
        ("predict", ["--image_size=3by4", "x.jpg"], "error: --image_size=3by4 must read 224 or"),
        ("convert", ["a.npz"], "error: say what to convert to what: SRC DST"),
        ("convert", ["no.npz", "a.npz"], "error: there is no file no.npz"),
        ("convert", ["--inspect=~/no/a.npz"], f"error: there is no file {Path.home()}/no/a.npz"),
        ("main", ["--config=configs/folder.py", "--config.data.source=~/no/a"],
         f"error: data.source='{Path.home()}/no/a': there is no such folder"),
        ("export", ["a.tflite"], "error: a.tflite: the suffix must be .stablehlo or .onnx"),
    ],
)  # fmt: skip
def test_mistakes_are_answered_in_one_line(module, args, message, tmp_path):
    result = run(module, f"--workdir={tmp_path}/w", *args)
    assert result.returncode == 2
    assert re.search(message, result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_predict_with_a_run_that_has_not_finished(trained, photos, tmp_path):
    workdir, _, _ = trained
    unfinished = tmp_path / "w"
    shutil.copytree(workdir, unfinished)
    (unfinished / "weights.npz").unlink()
    (unfinished / "labels.txt").unlink()
    images = [photos / "red" / "0.jpg", photos / "blue" / "0.jpg"]
    results = [run("predict", f"--workdir={w}", *images) for w in (workdir, unfinished)]
    assert results[1].stdout == results[0].stdout
    assert results[1].stdout.count("red") >= 2

    shutil.rmtree(unfinished / "checkpoints")
    result = run("predict", f"--workdir={unfinished}", *images)
    assert result.returncode == 2
    assert "has no weights yet, neither weights.npz nor checkpoints" in result.stderr


SLOW_TOO = [pytest.param(which, marks=pytest.mark.slow) for which in ("variable", "none")]


@pytest.mark.parametrize("which", ["flag", *SLOW_TOO])
def test_compiled_programs_are_kept(tmp_path, monkeypatch, which):
    """For the next start; --compilation_cache= switches that off.

    Also beside one that a process left as it was killed, before it could note the time.
    """
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    if which == "variable":
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "kept"))
    kept = {"flag": tmp_path / "kept", "variable": tmp_path / "other", "none": ""}[which]
    if which == "flag":
        kept.mkdir()
        (kept / "jit_killed-cache").write_bytes(b"")
    result = run_afresh(
        "benchmark", "inference", "--model=ViT-Ti_16", "--batch_size=1", "--image_size=32",
        "--seconds=0", "--alone", f"--compilation_cache={kept}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "other").exists()
    programs = list((tmp_path / "kept").glob("jit_*-cache"))
    assert len(programs) > 1 if which != "none" else not (tmp_path / "kept").exists()
