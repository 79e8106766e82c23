"""What a task and a model must say, and one of each from outside of the package."""

import ast
import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

from checkpoints import npz
from configs import common
from tests.commands import ROOT, run
from tests.helpers import tiny_digits_config
from vit_jax import (
    classification,
    evaluate,
    experiment,
    flow_predictor,
    models,
    plugins,
    text_predictors,
    train,
    zero_shot_predictor,
)
from vit_jax.models.base import Model
from vit_jax.tasks import TASKS, base, classify, get_task, register, restore, segment
from vit_jax.workdir import Workdir

TOYS = ROOT / "tests" / "toys"


# Figures over a split.


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("loss", ["softmax_xent", "sigmoid_xent"])
def test_figures_of_a_split_are_scikit_learns(classes, loss):
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 200).astype(np.int32)
    logits = random.normal(size=(200, classes)).astype(np.float32) + 1.5 * np.eye(classes)[labels]
    logits[:20] = logits[0]  # ties
    guesses = logits.argmax(-1)

    def figure(name):
        metric = classify.get_metric(name, loss)
        parts = [
            metric.each(jnp.asarray(logits[i : i + 50]), {"label": jnp.asarray(labels[i : i + 50])})
            for i in range(0, 200, 50)
        ]
        return metric.finish(np.concatenate(parts))

    expected = sklearn.metrics.precision_recall_fscore_support(labels, guesses, average="macro")
    found = [figure(name) for name in ("precision", "recall", "f1")]
    np.testing.assert_allclose(found, expected[:3], rtol=1e-12)
    assert figure("accuracy") == sklearn.metrics.accuracy_score(labels, guesses)
    p = np.asarray(classification.probabilities(jnp.asarray(logits), loss), np.float64)
    areas = [sklearn.metrics.roc_auc_score(labels == i, p[:, i]) for i in range(classes)]
    np.testing.assert_allclose(figure("auc"), np.mean(areas), rtol=1e-12)


def test_classes_that_a_split_lacks_are_left_out():
    labels, guesses = np.array([0, 0, 1, 1]), np.array([0, 3, 1, 1])
    each = np.stack([labels, guesses], axis=-1)
    expected = sklearn.metrics.precision_recall_fscore_support(
        labels, guesses, average="macro", zero_division=0
    )
    for name, value in zip(("precision", "recall", "f1"), expected):
        assert classify.get_metric(name, "softmax_xent").finish(each) == pytest.approx(value)
    auc = classify.get_metric("auc", "softmax_xent").finish
    assert np.isnan(auc(np.array([[1, 0.2, 0.8], [1, 0.3, 0.7]])))
    assert auc(np.array([[1, 0.2, 0.8, 0], [0, 0.3, 0.7, 0]])) == 1.0


@pytest.mark.slow
def test_a_figure_that_is_not_defined_stops_nothing(digits_config, tmp_path, monkeypatch):
    digits_config.metrics = ("accuracy", "auc")
    digits_config.total_steps = digits_config.eval_every = 1
    monkeypatch.setattr(classification, "auc", lambda each: float("nan"))
    figures = train.train_and_evaluate(digits_config, tmp_path)
    assert np.isnan(figures["test"]["auc"])
    lines = Workdir(tmp_path).read_metrics()
    assert [line["auc"] for line in lines if line["split"] != "train"] == [None, None]
    digits_config.unlock()
    digits_config.best_metric = "auc"
    with pytest.raises(FloatingPointError, match="auc nan"):
        train.train_and_evaluate(digits_config, tmp_path / "b")


# What is refused.


def test_a_model_that_lacks_a_part_is_refused_by_its_name():
    class Lacking(nn.Module):
        pass

    class WithoutTask(Model):
        dtype: Any = jnp.float32

    class WithoutType(Model):
        task = "classify"

    class WithoutTrain(Model):
        dtype: Any = jnp.float32
        task = "classify"

        def __call__(self, images):
            return images

    class Whole(Model):
        dtype: Any = jnp.float32
        task = "classify"

        def __call__(self, images, train=False):
            return images

    for model, variants, message in [
        (Lacking, {}, "Lacking is no model: derive it from vit_jax.models.base.Model"),
        (WithoutTask, {}, "WithoutTask lacks `task`"),
        (WithoutType, {}, "WithoutType lacks the field `dtype"),
        (WithoutTrain, {}, "WithoutTrain.__call__ lacks the argument `train"),
        (Whole, {"A": {"depth": 1}}, "A: Whole has no field depth"),
        (Whole, {"ViT-B_16": {}}, "ViT-B_16 is taken by vit_jax.models.vit.VisionTransformer"),
    ]:
        with pytest.raises(ValueError, match=message):
            models.register(model, variants)
    assert "A" not in models.MODELS


def test_a_task_that_nobody_has_registered():
    with pytest.raises(ValueError, match="is for the task 'dream', which nobody has registered"):
        get_task(type("Dreamer", (), {"task": "dream"})())
    with pytest.raises(ValueError, match="there is a task called 'classify' already"):
        register(base.Task("classify", (), {"a": lambda out, batch: out}, None, None, None))
    with pytest.raises(ValueError, match="the task 'nothing' has no losses"):
        register(base.Task("nothing", (), {}, None, None, None))


def test_settings_of_another_task_are_refused():
    for name, task in TASKS.items():
        config = common.get_config()
        for key in task.settings:
            group, _, last = key.rpartition(".")
            assert (config[group] if group else config)[last] in (0.0, "", (), None), (name, key)


def test_a_loss_that_compares_examples_sees_which_are_padding(monkeypatch):
    def spread(out, batch):
        """How far logits are from their mean over the batch's real examples."""
        real = batch.get("_mask", jnp.ones(len(out)))[:, None]
        return jnp.abs(out - (out * real).sum(axis=0) / real.sum()).sum(axis=-1)

    class Spreading(Model):
        num_classes: int = 10
        dtype: Any = jnp.float32
        task = "spread"

        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(self.num_classes, name="head")(images.reshape(len(images), -1)) + 1

    task = dataclasses.replace(
        classify.TASK, name="spread", losses={"spread": spread}, is_independent=False
    )
    monkeypatch.setitem(TASKS, "spread", task)
    monkeypatch.setitem(models.MODELS, "Spreading", (Spreading, {}))
    config = tiny_digits_config()
    config.model_name, config.model, config.loss = "Spreading", type(config)(), "spread"
    config.batch_size = 256  # of 180 examples to validate
    exp = experiment.build(config)
    variables = exp.init_state().eval_variables()
    (batch,) = exp.data.eval_batches("val")
    real = batch["_mask"] > 0
    assert real.sum() == 180
    out = np.asarray(exp.model.apply(variables, batch["image"][real]))
    expected = np.abs(out - out.mean(axis=0)).sum(axis=-1).mean()
    eval_step = evaluate.make_eval_step(exp)
    figures = evaluate.evaluate(eval_step, variables, exp, "val")
    assert figures["loss"] == pytest.approx(expected, rel=1e-5)
    config.unlock()
    config.accum_steps = 2
    config.distill.teacher = "some"
    with pytest.raises(ValueError, match="the task spread compares a whole batch, which a teacher"):
        experiment.build(config)


def test_plugins_come_from_where_python_finds_modules(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no module 'no_such_module'"):
        plugins.load(["no_such_module"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "evil_plugin.py").write_text("raise AssertionError('executed')")
    monkeypatch.syspath_prepend(tmp_path / "run")
    (tmp_path / "run" / "evil_package").mkdir()
    (tmp_path / "run" / "evil_package" / "__init__.py").write_text("raise AssertionError")
    for name in ("evil_plugin", "evil_package", "evil_package.part", "evil_package.no.such"):
        with pytest.raises(ValueError, match="lies in the run's own folder"):
            plugins.load([name], beside=tmp_path / "run")
    (tmp_path / "good_plugin.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):  # it is there itself
        plugins.load(["good_plugin"], beside=tmp_path / "run")


@pytest.mark.slow
def test_evaluating_a_run_executes_nothing_of_its_folder(counted):
    folder, _ = counted
    config = json.loads((folder / "run" / "config.json").read_text())
    stolen = shutil.copytree(folder / "run", folder / "stolen")
    (stolen / "config.json").write_text(json.dumps({**config, "plugins": ["evil"]}))
    (stolen / "evil.py").write_text("raise AssertionError('executed')")
    for command in (["main", "--mode=evaluate"], ["predict", "a.png"]):
        result = run(*command, "--workdir=.", cwd=stolen)
        assert "evil.py lies in the run's own folder" in result.stderr
        assert result.returncode == 2


# A seventh task and its model, in two small files.


def write_blobs(folder, count, seed):
    """Writes pictures of some black pixels on white, into folders called by their number."""
    random = np.random.default_rng(seed)
    for i in range(count):
        pixels = np.full((12, 12, 3), 255, np.uint8)
        pixels.reshape(-1, 3)[random.choice(144, i % 4, replace=False)] = 0
        (folder / str(i % 4)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / str(i % 4) / f"{i}.png")


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A run of the toy, by the command."""
    folder = tmp_path_factory.mktemp("blobs")
    write_blobs(folder / "images" / "train", 40, 0)
    write_blobs(folder / "images" / "val", 9, 1)
    (folder / "config.py").write_text("""
from configs import common

def get_config():
    config = common.get_config()
    config.plugins = ("count", "blob_counter")
    config.model_name = "BlobCounter"
    config.data.train_pp = config.data.eval_pp = "decode|resize(12)|value_range(-1, 1)"
    config.loss, config.metrics, config.best_metric, config.best_mode = (
        "mse", ("error", "bias"), "error", "min")
    config.batch_size, config.total_steps, config.eval_every = 20, 40, 20
    config.optim.learning_rate = 0.05
    return config
""")
    result = run(
        "main", f"--config={folder}/config.py", f"--workdir={folder}/run",
        f"--config.data.source={folder}/images", cwd=TOYS,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_the_toy_is_small():
    assert sum(len(path.read_text().splitlines()) for path in TOYS.glob("*.py")) < 60


def test_the_toy_trains_evaluates_and_reports(counted):
    folder, printed = counted
    assert printed.splitlines()[1].split() == ["split", "bias", "error", "loss", "examples"]
    lines = Workdir(folder / "run").read_metrics()
    first, last = (line for line in lines if line["split"] == "val")
    assert last["error"] < first["error"]
    rows = list(csv.DictReader((folder / "run" / "report" / "val.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [
        f"{path.parent.name}/{path.name}" for path in sorted(folder.glob("images/val/*/*"))
    ]
    errors, biases = (np.array([float(row[k]) for row in rows]) for k in ("error", "bias"))
    best = min((first, last), key=lambda line: line["error"])
    np.testing.assert_allclose(errors.mean(), best["error"], atol=1e-5)
    np.testing.assert_allclose(abs(biases.mean()), best["bias"], atol=1e-5)
    np.testing.assert_allclose(np.abs(biases), errors, atol=1e-5)
    page = (folder / "run" / "report" / "index.html").read_text()
    assert all(part in page for part in ("curves.png", "val.csv", rows[0]["file"], "config.py"))
    again = run("main", "--mode=evaluate", f"--workdir={folder}/run", cwd=TOYS)
    assert again.stdout == printed


@pytest.mark.slow
def test_the_toy_answers_for_a_persons_files(counted, tmp_path):
    folder, _ = counted
    image = folder / "images" / "val" / "3" / "3.png"
    (tmp_path / "text.png").write_text("no image")
    result = run(
        "predict", f"--workdir={folder}/run", f"--output={tmp_path / 'out'}", image,
        tmp_path / "text.png", cwd=TOYS,
    )  # fmt: skip
    assert result.returncode == 1
    (line,) = result.stdout.splitlines()
    answer = line.removeprefix(f"{image}: ")
    assert answer.endswith(" blobs")
    assert f"cannot answer for {tmp_path}/text.png: not an image" in result.stderr
    assert "1 of 2 failed" in result.stderr
    (row,) = csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines())
    assert row == {"file": str(image), "answer": answer}
    result = run("predict", f"--workdir={folder}/run", "--attention", image, cwd=TOYS)
    assert "--attention writes files: say where" in result.stderr
    result = run("predict", f"--workdir={folder}/run", "--ensemble", image, cwd=TOYS)
    assert (
        "--ensemble goes with the task restore, and that of BlobCounter is count" in result.stderr
    )


@pytest.mark.slow
def test_weights_of_the_toy_are_converted_and_inspected(counted, tmp_path):
    folder, _ = counted
    weights, target = folder / "run" / "weights.npz", tmp_path / "again.npz"
    result = run("convert", "--plugins=count,blob_counter", weights, target, cwd=TOYS)
    assert result.returncode == 0, result.stderr
    assert sorted(npz.load(target)) == ["conv", "head"]
    result = run("convert", "--plugins=count,blob_counter", weights, tmp_path / "a.pth", cwd=TOYS)
    assert "BlobCounter has no names in PyTorch: keep it as .npz" in result.stderr
    result = run("convert", f"--inspect={target}", cwd=TOYS)
    assert result.returncode == 0, result.stderr
    image = folder / "images" / "val" / "0" / "0.png"
    result = run("predict", f"--checkpoint={target}", image, cwd=TOYS)
    assert "says that it is of BlobCounter, which nobody has registered" in result.stderr
    result = run("predict", "--plugins", "no_such", f"--checkpoint={target}", image, cwd=TOYS)
    assert result.stderr.startswith("error: plugins: there is no module 'no_such'")
    plugged = ("--plugins=count,blob_counter", target, tmp_path / "run")
    assert run("convert", *plugged, cwd=TOYS).returncode == 0
    answers = [run("predict", f"--workdir={w}", image, cwd=TOYS).stdout
               for w in (folder / "run", tmp_path / "run")]  # fmt: skip
    assert answers[0] == answers[1] != ""


@pytest.mark.slow
def test_other_models_do_not_mind_the_toy(counted, tmp_path):
    """Lists, identification and conversion of a ViT go on with a model that says the least."""
    code = f"""
import blob_counter, count, jax, numpy as np
from checkpoints import npz
from vit_jax import convert, models
assert models.list_models()["BlobCounter"] == 3 * 9 * 8 + 8 + 8 + 1
model = models.get_model("ViT-Ti_16")
shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((224, 224)))["params"]
npz.save("{tmp_path}/vit.npz", jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes))
print(convert.inspect("{tmp_path}/vit.npz").splitlines()[-1])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=TOYS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "it fits ViT-Ti_16, with 1000 classes" in result.stdout, result.stderr


# Who may ask what.


def compared_with(path):
    """String constants that a file compares something with."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare | ast.MatchValue):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_a_task_is_known_by_its_row_alone():
    names = {"classify", "restore", "segment"}
    assert names <= set(TASKS)
    for folder in ("vit_jax", "checkpoints", "input_pipeline", "configs"):
        for path in (ROOT / folder).rglob("*.py"):
            if "tasks" not in path.parts and "benchmark" not in path.parts:
                assert not names & set(compared_with(path)), path


def test_nobody_asks_a_model_for_what_the_contract_does_not_say():
    for folder in ("vit_jax", "checkpoints"):
        for path in (ROOT / folder).rglob("*.py"):
            found = re.search(r"predicts|getattr\(model|hasattr\(model", path.read_text())
            assert not found, (path, found)


def test_what_to_type_after_a_run_fits_the_task():
    needs_folder = {
        "classify": classify.Classifier,
        "flow": flow_predictor.FlowPredictor,
        "image_text": zero_shot_predictor.ZeroShotPredictor,
        "masked_words": text_predictors.WordTeller,
        "restore": restore.RestoringPredictor,
        "segment": segment.SegmentingPredictor,
    }
    for name, task in TASKS.items():
        given = dict(re.findall(r"--(\w+)=(\S+)", task.usage))
        known = {field.name for field in dataclasses.fields(task.options)}
        assert set(given) <= {"output", "labels"} | known
        if name in needs_folder:
            assert ("output" in given) == needs_folder[name].has_files
    assert "--labels" in TASKS["image_text"].usage
    assert TASKS["translate"].usage.startswith('"')
    assert "[MASK]" in TASKS["masked_words"].usage


def test_options_are_known_before_the_tasks_are():
    """As --help shows them; in a process that has not imported JAX."""
    program = (
        "from vit_jax.options import BY_TASK; early = dict(BY_TASK); "
        "from vit_jax.tasks import TASKS; "
        "assert early == {name: task.options for name, task in TASKS.items()}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
