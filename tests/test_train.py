"""The trainer, on the digits: a model of 7,000 parameters and runs of a few steps."""

import contextlib
import io
import json
import logging
import re
import shutil
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import npz
from checkpoints.train_state import Checkpointer
from tests.helpers import tiny_digits_config
from vit_jax import evaluate, experiment, train
from vit_jax.machinery import monitor, sharding
from vit_jax.step import make_train_step
from vit_jax.workdir import Workdir


def run_steps(config, steps=3):
    """Trains for some steps; returns the state and the metrics of each step."""
    exp = experiment.build(config)
    state = exp.init_state()
    step = make_train_step(exp)
    metrics = []
    batches = exp.data.train_batches()
    for batch, _ in zip(sharding.to_devices(batches, exp.mesh), range(steps)):
        state, m = step(state, batch)
        metrics.append({k: float(v) for k, v in m.items()})
    batches.close()
    return state, metrics


def largest_gap(a, b):
    gaps = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)
    return max(jax.tree.leaves(gaps))


def metrics_of(workdir):
    return Workdir(workdir).read_metrics()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of 60 steps, its figures and what it printed."""
    workdir = tmp_path_factory.mktemp("trained")
    config = tiny_digits_config()
    config.total_steps = 60
    config.eval_every = 30
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        figures = train.train_and_evaluate(config, workdir)
    return workdir, figures, printed.getvalue()


def test_training_leaves_a_workdir_that_describes_itself(trained):
    workdir, figures, printed = trained
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["hidden_size"] == 32
    lines = metrics_of(workdir)
    assert [m["step"] for m in lines if m["split"] == "train"] == list(range(1, 61))
    losses = [m["loss"] for m in lines if m["split"] == "train"]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert [m["step"] for m in lines if m["split"] == "val"] == [30, 60]
    test = lines[-1]
    protocol = config["data"]["eval_pp"]
    assert test == {"step": 60, "split": "test", "protocol": protocol, **figures["test"]}
    assert test["examples"] == 360
    assert test["accuracy"] > 0.5
    assert f"{test['accuracy']:.4f}" in printed
    assert "checkpoint of step 60" in printed
    assert (workdir / "labels.txt").read_text() == "".join(f"{i}\n" for i in range(10))
    assert npz.load(workdir / "weights.npz")["head"]["kernel"].shape == (32, 10)
    for name in ("curves", "predictions", "confusion"):
        assert (workdir / "report" / f"{name}.png").stat().st_size > 5000
    assert list(workdir.glob("events.out.tfevents*"))


@pytest.mark.slow
def test_running_again_changes_nothing_but_reprints(trained, capsys):
    workdir, figures, printed = trained
    lines, weights = metrics_of(workdir), (workdir / "weights.npz").read_bytes()
    config = Workdir(workdir).read_config()
    assert train.train_and_evaluate(config, workdir) == figures
    assert capsys.readouterr().out == printed
    assert metrics_of(workdir) == lines
    assert (workdir / "weights.npz").read_bytes() == weights


def test_another_config_is_refused(trained):
    workdir, _, _ = trained
    config = Workdir(workdir).read_config()
    config.optim.learning_rate = 0.5
    with pytest.raises(
        ValueError, match=r"of another config \(optim.learning_rate was 0.01, is now"
    ):
        train.train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_the_report_is_of_the_best_checkpoint(digits_config, tmp_path):
    """Here the best is the worst, which is surely not the last."""
    digits_config.total_steps = 12
    digits_config.eval_every = 3
    digits_config.best_metric = "loss"
    digits_config.best_mode = "max"
    digits_config.keep_checkpoints = 1
    figures = train.train_and_evaluate(digits_config, tmp_path)
    val = {m["step"]: m["loss"] for m in metrics_of(tmp_path) if m["split"] == "val"}
    chosen = max(val, key=val.get)
    assert chosen != 12
    assert metrics_of(tmp_path)[-1]["step"] == chosen
    np.testing.assert_allclose(figures["val"]["loss"], val[chosen], rtol=1e-6)


def test_evaluating_nothing_says_so(digits_config, tmp_path):
    workdir = Workdir(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"empty holds no run \(it has no config.json\)"):
        workdir.read_config()
    exp = experiment.build(digits_config)
    with pytest.raises(ValueError, match="holds no checkpoint: train first"):
        evaluate.evaluate_workdir(exp, evaluate.make_eval_step(exp), workdir)


# Equality of ways to compute the same.


@pytest.mark.slow
def test_accumulation_is_the_large_batch(digits_config):
    digits_config.loss = "sigmoid_xent"
    digits_config.mixup_alpha = 0.5
    digits_config.label_smoothing = 0.1
    # SGD, since Adam divides by the gradient's size and so makes rounding of small ones large.
    digits_config.optim.name = "sgd"
    whole, whole_metrics = run_steps(digits_config)
    digits_config.unlock()
    digits_config.accum_steps = 4
    parts, parts_metrics = run_steps(digits_config)
    assert largest_gap(whole.params, parts.params) < 1e-6
    np.testing.assert_allclose(whole_metrics[-1]["loss"], parts_metrics[-1]["loss"], rtol=1e-6)


def test_each_step_has_a_dropout_key_of_its_own(digits_config):
    """At a learning rate of 0, a batch's loss changes from step to step by the dropout alone."""
    digits_config.optim.learning_rate = 0.0
    digits_config.model.dropout_rate = 0.5
    digits_config.model.representation_size = 8
    exp = experiment.build(digits_config)
    state = exp.init_state()
    kernel = state.params["head"]["kernel"]
    state.params["head"]["kernel"] = kernel + jax.random.normal(jax.random.key(0), kernel.shape)
    batch = next(sharding.to_devices(exp.data.train_batches(), exp.mesh))
    step = make_train_step(exp)
    losses = []
    for i in (0, 1, 0):
        state, metrics = step(state.replace(step=jnp.asarray(i, jnp.int32)), batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.slow
def test_fsdp_and_replication_train_alike(digits_config, monkeypatch):
    digits_config.optim.name = "sgd"
    plain, _ = run_steps(digits_config)
    digits_config.unlock()
    digits_config.fsdp = 2
    monkeypatch.setattr(sharding, "_MIN_SHARDED_SIZE", 64)
    spread, _ = run_steps(digits_config)
    assert largest_gap(plain.params, spread.params) < 1e-6
    kernel = spread.params["Transformer"]["encoderblock_0"]["MlpBlock_3"]["Dense_0"]["kernel"]
    assert [shard.data.shape for shard in kernel.addressable_shards] == [(16, 32)] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        # That these compute the same as without is tested elsewhere.
        pytest.param({"model.remat": True}, marks=pytest.mark.slow),
        pytest.param({"model.scan": True}, marks=pytest.mark.slow),
        pytest.param({"accum_steps": 4}, marks=pytest.mark.slow),
        {"optim.momentum_dtype": "bfloat16", "optim.name": "lion"},
        {"cutmix_alpha": 1.0, "mixup_alpha": 0.2, "label_smoothing": 0.1},
        {"model.stochastic_depth_rate": 0.1, "model.attention_dropout_rate": 0.1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_ways_to_train_learn(digits_config, changes):
    for key, value in changes.items():
        part, _, field = key.rpartition(".")
        (digits_config[part] if part else digits_config)[field] = value
    digits_config.total_steps = 60
    _, metrics = run_steps(digits_config, steps=60)
    assert np.mean([m["loss"] for m in metrics[-5:]]) < 2.0  # 2.3 is chance


@pytest.mark.slow
def test_ema_is_the_average_and_is_what_is_evaluated(digits_config):
    digits_config.ema_decay = 0.75
    one, _ = run_steps(digits_config, steps=1)
    start = experiment.build(digits_config).init_state().params
    expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, start, one.params)
    assert largest_gap(one.ema_params, expected) < 1e-7
    assert one.eval_variables()["params"] is one.ema_params


@pytest.mark.slow
def test_seed_decides_weights_and_order(digits_config):
    first, first_metrics = run_steps(digits_config)
    again, again_metrics = run_steps(digits_config)
    assert largest_gap(first.params, again.params) == 0
    assert first_metrics == again_metrics
    digits_config.unlock()
    digits_config.seed = 1
    other, _ = run_steps(digits_config)
    assert largest_gap(first.params, other.params) > 1e-3


def test_frozen_parameters_stay(digits_config):
    digits_config.optim.freeze = "^(?!head)"
    state, _ = run_steps(digits_config)
    start = experiment.build(digits_config).init_state()
    head, start_head = state.params.pop("head"), start.params.pop("head")
    assert largest_gap(state.params, start.params) == 0
    assert largest_gap(head, start_head) > 0


def test_a_loss_that_is_not_finite_stops_the_run(digits_config, tmp_path):
    digits_config.optim.name = "sgd"
    digits_config.optim.learning_rate = 1e7
    digits_config.schedule.warmup_steps = 0
    digits_config.total_steps = 20
    digits_config.eval_every = 1
    with pytest.raises(
        FloatingPointError, match=r"step \d+: not all \w+ figures .*learning rate of [\d.]+e\+\d+"
    ) as e:
        train.train_and_evaluate(digits_config, tmp_path)
    good = int(str(e.value).split("last good checkpoint is ")[1].split("/")[-1].split(".")[0])
    assert (tmp_path / "checkpoints" / str(good)).is_dir()
    failed = int(str(e.value).split()[1].rstrip(":"))
    assert good < failed
    exp = experiment.build(Workdir(tmp_path).read_config())
    with evaluate.open_checkpoints(exp, Workdir(tmp_path)) as checkpointer:
        state = checkpointer.restore(good, exp.abstract_state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_validation_loss_that_is_not_finite_is_not_saved(digits_config, tmp_path, monkeypatch):
    digits_config.eval_every = 2
    figures = iter([{"loss": 1.0, "accuracy": 0.1}, {"loss": float("nan"), "accuracy": 0.1}])
    monkeypatch.setattr(evaluate, "evaluate", lambda *args: next(figures))
    with pytest.raises(FloatingPointError, match=r"step 4: not all val .*loss nan.*checkpoints/2"):
        train.train_and_evaluate(digits_config, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["2"]


def test_an_interruption_keeps_the_checkpoint_that_is_being_written(
    digits_config, tmp_path, monkeypatch
):
    def save_and_interrupt(self, *args):
        save(self, *args)
        raise KeyboardInterrupt

    save = Checkpointer.save
    monkeypatch.setattr(Checkpointer, "save", save_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(digits_config, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["3"]


@pytest.mark.slow
def test_renamed_classes_are_refused(folder_config, image_folder, tmp_path):
    workdir = Workdir(tmp_path / "w")
    folder_config.total_steps = 2
    train.train_and_evaluate(folder_config, workdir.path)
    lines = (workdir.path / "metrics.jsonl").read_text()
    for split in ("train", "test"):
        (image_folder / split / "blue").rename(image_folder / split / "zebra")
    exp = experiment.build(workdir.read_config())
    for action in (
        lambda: evaluate.evaluate_workdir(exp, evaluate.make_eval_step(exp), workdir),
        lambda: train.train_and_evaluate(workdir.read_config(), workdir.path),
    ):
        with pytest.raises(
            ValueError, match=r"began with other data \(classes: \['blue', 'red'\] t"
        ):
            action()
    assert workdir.read_config().data.source == str(image_folder)
    assert (workdir.path / "metrics.jsonl").read_text() == lines
    assert (workdir.path / "labels.txt").read_text() == "blue\nred\n"


@pytest.mark.slow
def test_without_val_and_test_there_is_still_a_model(folder_config, image_folder, tmp_path):
    shutil.rmtree(image_folder / "test")
    folder_config.data.val_fraction = 0.0
    folder_config.total_steps = 2
    assert train.train_and_evaluate(folder_config, tmp_path / "w") == {}
    assert (tmp_path / "w" / "weights.npz").exists()


# Evaluation.


def test_evaluation_is_exact_whatever_the_batch(digits_config):
    """Against the metrics of all 360 images at once; 360 is no multiple of 32 or 77."""
    exp = experiment.build(digits_config)
    variables = exp.init_state().eval_variables()
    kernel = jax.random.normal(jax.random.key(0), (32, 10))
    variables["params"]["head"]["kernel"] = kernel

    images, labels = zip(*[(b["image"], b["label"]) for b in exp.data.eval_batches("test")])
    images, labels = np.concatenate(images)[:360], np.concatenate(labels)[:360]
    out = np.asarray(jax.jit(exp.model.apply)(variables, images), np.float64)
    logp = out - np.log(np.exp(out).sum(-1, keepdims=True))
    expected = -logp[np.arange(360), labels].mean()

    seen = []

    def observe(batch, out):
        seen.extend(zip(batch["label"], out.argmax(-1)))

    for batch_size in (32, 86, 1024):
        digits_config.unlock()
        digits_config.batch_size = batch_size
        exp = experiment.build(digits_config)
        batches = exp.data.eval_batches("test")
        seen.clear()
        eval_step = evaluate.make_eval_step(exp)
        each = evaluate.evaluate_each(eval_step, variables, batches, exp.mesh, observe)
        figures = eval_step.summarize(each, "test")
        assert figures["examples"] == 360
        np.testing.assert_allclose(figures["loss"], expected, rtol=1e-5)
        assert figures["accuracy"] == (out.argmax(-1) == labels).mean()
        assert [label for label, _ in seen] == labels.tolist()
        assert [guess for _, guess in seen] == out.argmax(-1).tolist()


# What a person can get wrong.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "ViT"}, "unknown model 'ViT'"),
        ({"batch_size": 7}, r"batch_size=7 is not divisible by 2 device\(s\)"),
        ({"total_steps": None}, "say how long to train"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"metrics": ("f2",)}, "unknown metric 'f2'"),
        ({"best_metric": "psnr"}, "'psnr' is not evaluated; there are: loss, accuracy"),
        ({"best_metric": "acc"}, "'acc' is not evaluated; did you mean 'accuracy'"),
        ({"best_mode": "most"}, "best_mode must be max or min, and is 'most'"),
        ({"total_steps": 2**31}, r"total_steps must lie in \[0, 2\^31\), and is 2147483648"),
        ({"mixup_alpha": float("inf")}, "mixup_alpha must be a finite number, and is inf"),
        ({"label_smoothing": 1.5}, r"label_smoothing must lie in \[0, 1\)"),
        ({"mixup_alpha": -1.0}, "mixup_alpha must not be negative"),
        ({"seed": -1}, r"seed must lie in"),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"eval_every": 0}, "eval_every must be positive"),
        ({"fsdp": 3}, "fsdp=3 does not divide"),
        ({"model.num_classes": 5}, "num_classes, which is 10: leave model.num_classes unset"),
        ({"dtype": "int8"}, "dtype='int8' is not one of"),
        ({"data.source": "/no/such/place"}, "there is no such folder"),
        ({"data.eval_pp": "grayscale_to_rgb|resize(9)|value_range(-1, 1)"}, "9 x 9 pixels cannot"),
        (
            {"data.train_pp": "grayscale_to_rgb|resize(12)|value_range(-1, 1)"},
            "images of the size the weights were made for",
        ),
    ],
)
def test_wrong_configs(digits_config, changes, message):
    for key, value in changes.items():
        part, _, field = key.rpartition(".")
        (digits_config[part] if part else digits_config)[field] = value
    with pytest.raises(ValueError, match=message):
        experiment.build(digits_config)


def test_unknown_keys_list_what_there_is(digits_config):
    digits_config.data.sauce = "x"
    with pytest.raises(
        ValueError, match=r"key data\.sauce; did you mean data\.source\? .*data\.tr"
    ):
        experiment.build(digits_config)
    del digits_config.data.sauce
    digits_config.model.depth = 3
    with pytest.raises(ValueError, match="no field 'depth'"):
        experiment.build(digits_config)
    del digits_config.model.depth
    del digits_config.seed
    with pytest.raises(ValueError, match="lacks seed"):
        experiment.build(digits_config)


# Memory, and waiting for data.


@pytest.mark.slow
def test_the_memory_of_a_step_is_said_once(digits_config, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train.train_and_evaluate(digits_config, tmp_path)
    said = [text for text in caplog.messages if text.startswith("a step takes")]
    assert len(said) == 1
    sizes = [float(number) for number in re.findall(r"([\d.]+) MiB", said[0])]
    assert sizes[0] == pytest.approx(sizes[1] + sizes[2], abs=0.11)
    exp = experiment.build(digits_config)
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(exp.abstract_state))
    batch = digits_config.batch_size * 8 * 8 * 3 * 4 / jax.device_count()
    assert sizes[1] == pytest.approx((state + batch) / 2**20, abs=0.06)


def test_too_little_memory_comes_with_remedies(digits_config, tmp_path, monkeypatch):
    def flush(monitor):
        if monitor._pending is not None and monitor._pending[0] == 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory, 9 bytes")

    monkeypatch.setattr(train.Monitor, "flush", flush)
    with pytest.raises(
        ValueError,
        match=r"\(RESOURCE_EXHAUSTED: Out of memory, 9 bytes\)\. a step takes .*: a smaller "
        r"batch_size, more accum_steps, .*remat.*bfloat16.*fsdp",
    ):
        train.train_and_evaluate(digits_config, tmp_path)


def test_waiting_for_data_is_counted(monkeypatch):
    """Of a wait for data of 5 s, the part in which no step is being computed."""
    now, may_end = [0.0], threading.Event()
    monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=lambda: now[0]))
    clock = monitor.WaitClock()

    class Loss:
        """An array that is being computed."""

        def block_until_ready(self):
            may_end.wait(600)
            return self

    def end_the_steps():
        """At this time; waits until the clock has seen it, for a minute at most."""
        may_end.set()
        for _ in range(6000):
            if clock._ended == clock._started:
                return
            time.sleep(0.01)

    def waited_while(before, inside):
        """With a step that ends before the wait for data, in the middle of it, or after it."""
        may_end.clear()
        clock.watch({"loss": Loss()})
        now[0] += 10
        if before:
            end_the_steps()
        with clock:
            now[0] += 3
            if inside:
                end_the_steps()
            now[0] += 2
        end_the_steps()
        return clock.take()

    with clock:
        now[0] += 5  # before the first step
    assert clock.take() == 0
    assert waited_while(before=True, inside=False) == 5
    assert waited_while(before=False, inside=True) == 2
    assert waited_while(before=False, inside=False) == 0
    clock.close()
    assert clock.take() == 0


@pytest.mark.slow
def test_much_waiting_is_warned_of_once(digits_config, tmp_path, monkeypatch, caplog):
    """Not for the first figures, since to begin takes longer."""
    monkeypatch.setattr(monitor.WaitClock, "take", lambda clock: 1e3)
    train.train_and_evaluate(digits_config, tmp_path)
    warnings = [text for text in caplog.messages if "the devices wait for data" in text]
    assert len(warnings) == 1
    assert "input_pipeline.prepare" in warnings[0]
    assert all(line["data_wait"] > 1 for line in metrics_of(tmp_path) if line["split"] == "train")
