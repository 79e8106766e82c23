"""Statistics of batch norms go wherever parameters go."""

import shutil
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import npz, torch, tree
from tests.helpers import tiny_digits_config, write_image
from vit_jax import convert, evaluate, experiment, export, models, pretrained, train
from vit_jax import weights as weight_files
from vit_jax.machinery import sharding
from vit_jax.models.base import Model
from vit_jax.step import make_train_step
from vit_jax.workdir import Workdir


class Normed(Model):
    """A convolution, a batch norm, a mean and a head, with names as torchvision would give them."""

    num_classes: int = 10
    features: int = 4
    dtype: Any = jnp.float32

    task = "classify"
    any_size = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(self.features, (3, 3), use_bias=False, dtype=self.dtype, name="conv1")(images)
        x = nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype, name="bn1")(x)
        x = nn.relu(x).mean(axis=(1, 2)).astype(jnp.float32)
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x

    def torch_names(self, naming: str = "") -> dict[str, str]:
        return {"conv1": "conv1", "bn1": "bn1", "head": "fc"}

    @staticmethod
    def fields_in(shapes: Any) -> dict[str, Any]:
        return {"features": shapes["conv1/kernel"][3]}


@pytest.fixture(autouse=True, scope="module")
def registered():
    models.register(Normed, {"Normed": {}})
    yield
    del models.MODELS["Normed"]


def make_config():
    config = tiny_digits_config()
    config.model_name, config.model = "Normed", type(config)()
    config.ema_decay = 0.5
    return config


@pytest.fixture
def config():
    return make_config()


@pytest.fixture(scope="module")
def run(registered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("normed") / "run"
    return folder, train.train_and_evaluate(make_config(), folder)


@pytest.fixture
def trained(run, tmp_path):
    """A copy of the run, and its figures."""
    folder, figures = run
    return Workdir(shutil.copytree(folder, tmp_path / "run")), figures


def flat(variables):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def assert_same(a, b):
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def one_step(config, accum_steps=1):
    config.accum_steps = accum_steps
    exp = experiment.build(config)
    state = exp.init_state()
    before = jax.device_get(state)
    batch = next(exp.data.train_batches())
    after, _ = make_train_step(exp)(state, next(sharding.to_devices([batch], exp.mesh)))
    return before, jax.device_get(after), batch, exp


def test_statistics_are_those_of_the_global_batch_and_averaged(config):
    before, after, batch, exp = one_step(config)
    assert exp.mesh.size == 2
    x = jax.lax.conv_general_dilated(
        batch["image"], before.params["conv1"]["kernel"], (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    found = after.model_state["batch_stats"]["bn1"]
    np.testing.assert_allclose(found["mean"], 0.1 * x.mean(axis=(0, 1, 2)), rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * x.var(axis=(0, 1, 2)), rtol=2e-4)
    averaged = after.ema_model_state["batch_stats"]["bn1"]
    np.testing.assert_allclose(averaged["mean"], 0.5 * found["mean"], rtol=1e-6)
    np.testing.assert_allclose(averaged["var"], 0.5 * (1 + found["var"]), rtol=1e-6)


def test_one_and_two_devices_agree(config):
    _, two, _, _ = one_step(config)
    config.unlock()
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"), devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda fsdp: mesh)
        _, one, _, exp = one_step(config)
    assert exp.mesh.size == 1
    one, two = flat(one), flat(two)
    assert any("batch_stats" in name for name in one)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_micro_batches_move_the_statistics_one_after_another(config):
    before, after, batch, _ = one_step(config, accum_steps=2)
    moved = before.model_state["batch_stats"]["bn1"]
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        x = jax.lax.conv_general_dilated(
            batch["image"][rows], before.params["conv1"]["kernel"], (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        moved = {
            "mean": 0.9 * moved["mean"] + 0.1 * x.mean(axis=(0, 1, 2)),
            "var": 0.9 * moved["var"] + 0.1 * x.var(axis=(0, 1, 2)),
        }
    found = after.model_state["batch_stats"]["bn1"]
    np.testing.assert_allclose(found["mean"], moved["mean"], rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], moved["var"], rtol=2e-4)


def test_a_runs_weights_do_what_its_checkpoint_did(trained, config):
    workdir, figures = trained
    stored = npz.load(workdir.weights)
    assert sorted(stored["bn1"]) == ["bias", "mean", "scale", "var"]
    model = pretrained.load(workdir.path)
    assert sorted(model.variables) == ["batch_stats", "params"]
    assert_same(tree.merge(model.variables), stored)
    exp = experiment.build(Workdir(workdir.path).read_config())
    eval_step = evaluate.make_eval_step(exp)
    again = evaluate.evaluate(eval_step, model.variables, exp, "test")
    assert again == pytest.approx(figures["test"])
    assert np.abs(stored["bn1"]["mean"]).max() > 1e-3  # they have been trained
    workdir.weights.unlink()
    assert_same(pretrained.load(workdir.path).variables, model.variables)


@pytest.mark.slow
def test_it_resumes_bit_for_bit(trained, config):
    workdir, figures = trained
    whole = npz.load(workdir.weights)
    shutil.rmtree(workdir.checkpoints / "6")  # as if it had been stopped after step 3
    workdir.weights.unlink()
    assert train.train_and_evaluate(config, workdir.path) == figures
    assert_same(npz.load(workdir.weights), whole)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["a.npz", "a.safetensors", "a.pth", "folder"])
def test_conversion_keeps_them(trained, tmp_path, target):
    if target.endswith(".pth"):
        pytest.importorskip("torch")
    workdir, _ = trained
    before = pretrained.load(workdir.path)
    convert.write(tmp_path / target, before)
    after = pretrained.load(tmp_path / target, *((None,) if "." not in target else ("Normed",)))
    assert_same(after.variables, before.variables)
    for with_head in (False, True):
        np.testing.assert_allclose(
            convert.run(before, with_head), convert.run(after, with_head), atol=1e-6
        )


def test_names_and_numbers_in_pytorchs_files(trained):
    model = pretrained.load(trained[0].path)
    arrays = torch.to_state_dict(model.variables, model.model)
    assert sorted(arrays) == [
        "bn1.bias", "bn1.num_batches_tracked", "bn1.running_mean", "bn1.running_var", "bn1.weight",
        "conv1.weight", "fc.bias", "fc.weight",
    ]  # fmt: skip
    assert_same(torch.from_state_dict(arrays, model.model), model.variables)
    del arrays["bn1.running_var"]
    with pytest.raises(ValueError, match=r"missing: bn1\.running_var"):
        torch.from_state_dict(arrays, model.model)


def test_they_are_where_fine_tuning_begins(trained, config):
    workdir, _ = trained
    config.pretrained, config.total_steps = str(workdir.weights), 1
    state = experiment.build(config).init_state()
    expected = pretrained.load(workdir.path).variables
    assert_same(state.model_state["batch_stats"], expected["batch_stats"])
    assert_same(state.ema_model_state["batch_stats"], expected["batch_stats"])
    assert_same(state.params, expected["params"])
    config.unlock()
    config.dont_load = "bn1/(mean|var)"
    fresh = experiment.build(config).init_state().model_state["batch_stats"]["bn1"]
    np.testing.assert_array_equal(fresh["mean"], 0)
    np.testing.assert_array_equal(fresh["var"], 1)


def test_files_are_identified_and_exported(trained, tmp_path):
    workdir, _ = trained
    convert.write(tmp_path / "a.safetensors", pretrained.load(workdir.path))
    assert "it fits Normed, with 10 classes" in convert.inspect(tmp_path / "a.safetensors")
    read = weight_files.read(tmp_path / "a.safetensors")
    assert read.tree(Normed())["bn1"].keys() == {"bias", "scale", "mean", "var"}
    model = pretrained.load(workdir.path, image_size=(8, 8))
    (part,) = export.parts_of(model)
    export.write_stablehlo(part, tmp_path / "a.stablehlo")
    images = convert.random_inputs(model, 3, seed=1)
    expected = model.model.apply(model.variables, *images)
    np.testing.assert_allclose(
        export.read_stablehlo(tmp_path / "a.stablehlo")(*images), expected, atol=1e-5
    )


def test_what_no_file_could_hold_is_refused_before_training(config):
    class Odd(Normed):
        kind: str = "memory"

        @nn.compact
        def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
            if self.kind == "memory":
                self.variable("memory", "state", jnp.zeros, (2,))
            elif self.kind == "stats":
                self.variable("batch_stats", "sigma", jnp.zeros, (2,))
            else:
                self.param("mean", nn.initializers.zeros, (2,))
            return nn.Dense(self.num_classes, name="head")(images.mean(axis=(1, 2)))

    models.register(Odd, {"Odd": {}})
    try:
        config.model_name = "Odd"
        for kind, message in [
            ("memory", "the collection 'memory' cannot be written to a file"),
            ("stats", "sigma of batch_stats cannot be written to a file"),
            ("params", "mean of params cannot be written to a file"),
        ]:
            config.unlock()
            config.model.kind = kind
            with pytest.raises(ValueError, match=message):
                experiment.build(config)
    finally:
        del models.MODELS["Odd"]


def test_a_persons_photo_is_classified_with_them(trained, tmp_path):
    from vit_jax.tasks.classify import Classifier

    model = pretrained.load(trained[0].path)
    path = write_image(tmp_path / "a.png", (30, 30, 200), size=(8, 8))
    classifier = Classifier(model)
    (prediction,) = classifier.predictions(classifier.find([path]))
    logits = model.model.apply(model.variables, prediction.image[None])
    np.testing.assert_allclose(prediction.probabilities, jax.nn.softmax(logits)[0], rtol=1e-4)
