"""A teacher's share of the loss: DeiT's two schemes, with one head and with two."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import npz
from tests.helpers import random_params, tiny_digits_config
from vit_jax import classification, experiment, models, pretrained
from vit_jax.distillation import hard_loss, soft_loss
from vit_jax.machinery import sharding
from vit_jax.models.base import Model
from vit_jax.step import make_train_step

TEACHER = dict(patch_size=4, hidden_size=16, num_layers=1, num_heads=2, mlp_dim=16)


class TwoHeads(Model):
    """Has a head for the teacher, and says the mean of both when it is not trained."""

    num_classes: int = 10
    dtype: Any = jnp.float32

    task = "classify"
    any_size = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Any:
        x = nn.Dense(8, name="hidden")(images.reshape(images.shape[0], -1))
        logits = nn.Dense(self.num_classes, name="head")(x)
        distilled = nn.Dense(self.num_classes, name="head_dist")(x)
        return {"logits": logits, "distilled": distilled} if train else (logits + distilled) / 2


@pytest.fixture(autouse=True, scope="module")
def _registered():
    models.register(TwoHeads, {"TwoHeads": {}})
    yield
    del models.MODELS["TwoHeads"]


@pytest.fixture
def config(tmp_path):
    """Digits, with a teacher of random weights for their ten classes."""
    _, params = random_params("ViT-Ti_16", (8, 8), num_classes=10, **TEACHER)
    npz.save(tmp_path / "teacher.npz", params, pretrained.say_made_for("ViT-Ti_16", TEACHER))
    config = tiny_digits_config()
    config.distill.teacher = str(tmp_path / "teacher.npz")
    config.distill.weight = 0.3
    config.optim.name, config.optim.learning_rate = "sgd", 0.1
    config.optim.args.momentum = 0.0
    config.schedule.name = "constant"
    return config


def first_step(config):
    exp = experiment.build(config)
    state = exp.init_state()
    before = jax.device_get(state)
    batch = next(exp.data.train_batches())
    after, metrics = make_train_step(exp)(state, next(sharding.to_devices([batch], exp.mesh)))
    return exp, before, jax.device_get(after), jax.device_get(metrics), batch


def test_losses():
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(2, 5, 7)).astype(np.float32)
    log_p = ours - np.log(np.exp(ours).sum(-1, keepdims=True))
    expected = -log_p[np.arange(5), theirs.argmax(-1)]
    np.testing.assert_allclose(hard_loss(ours, theirs), expected, rtol=1e-5)
    p, q = (np.exp(x / 3) / np.exp(x / 3).sum(-1, keepdims=True) for x in (ours, theirs))
    expected = (q * np.log(q / p)).sum(-1) * 9 / 7
    np.testing.assert_allclose(soft_loss(ours, theirs, 3.0), expected, rtol=1e-4)
    np.testing.assert_allclose(soft_loss(theirs, theirs, 2.0), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("hard", "DeiT-Ti_16-distilled"),
        ("soft", "ViT-Ti_16"),
        pytest.param("hard", "TwoHeads", marks=pytest.mark.slow),
        pytest.param("hard", "ViT-Ti_16", marks=pytest.mark.slow),
        pytest.param("soft", "TwoHeads", marks=pytest.mark.slow),
    ],
)
def test_a_step_is_of_both_losses(config, kind, model):
    config.distill.kind, config.distill.temperature = kind, 2.0
    config.label_smoothing = 0.1
    has_two_heads = model != "ViT-Ti_16"
    config.model_name = model
    if model == "TwoHeads":
        config.model = type(config)()
    elif has_two_heads:
        config.model.classifier = "token"
    exp, before, after, metrics, batch = first_step(config)
    teacher = pretrained.load(config.distill.teacher)
    theirs = teacher.model.apply(teacher.variables, batch["image"])
    labels = classification.smooth_labels(jax.nn.one_hot(batch["label"], 10), 0.1)

    def total(params):
        out = exp.model.apply({"params": params}, batch["image"], train=True)
        own, distilled = (out["logits"], out["distilled"]) if has_two_heads else (out, out)
        each = hard_loss(distilled, theirs) if kind == "hard" else soft_loss(distilled, theirs, 2.0)
        loss = jnp.mean(classification.softmax_xent(own, {"label": labels}))
        return 0.7 * loss + 0.3 * jnp.mean(each), (loss, jnp.mean(each))

    (value, parts), grads = jax.value_and_grad(total, has_aux=True)(before.params)
    np.testing.assert_allclose(metrics["total_loss"], value, rtol=1e-5)
    np.testing.assert_allclose([metrics["loss"], metrics["distillation"]], parts, rtol=1e-5)
    moved = jax.tree.map(lambda a, b: (a - b) / 0.1, before.params, after.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), moved, grads)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["head"]))
    if has_two_heads:
        assert np.abs(grads["head_dist"]["kernel"]).max() > 0


@pytest.mark.slow
def test_two_heads_without_a_teacher_learn_as_they_are_evaluated(config):
    config.model_name, config.distill.teacher = "DeiT-Ti_16-distilled", ""
    config.model.classifier = "token"
    exp, before, after, *_ = first_step(config)
    out = exp.model.apply({"params": before.params}, np.zeros((1, 8, 8, 3)), train=True)
    assert out.shape == (1, 10)
    for head in ("head", "head_dist"):
        assert np.abs(after.params[head]["bias"] - before.params[head]["bias"]).max() > 0


@pytest.mark.slow
def test_both_heads_are_made_anew_for_other_classes(config, tmp_path):
    model, params = random_params("DeiT-Ti_16-distilled", (8, 8), num_classes=4, **TEACHER)
    fields = {**TEACHER, "num_classes": 4}
    npz.save(
        tmp_path / "student.npz", params, pretrained.say_made_for("DeiT-Ti_16-distilled", fields)
    )
    weights = pretrained.read(tmp_path / "student.npz")
    wider = model.clone(num_classes=10)
    init = wider.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    fitted = pretrained.adapt(weights, init, wider, (8, 8))["params"]
    assert fitted["head"]["bias"].shape == fitted["head_dist"]["bias"].shape == (10,)
    np.testing.assert_array_equal(fitted["dist"], params["dist"])


@pytest.mark.slow
def test_the_teacher_sees_the_mixed_images_in_each_micro_batch(config):
    config.mixup_alpha, config.accum_steps = 0.5, 2
    *_, metrics, _ = first_step(config)
    expected = 0.7 * metrics["loss"] + 0.3 * metrics["distillation"]
    np.testing.assert_allclose(metrics["total_loss"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "/no/such.npz"}, r"no/such\.npz"),
        ({"kind": "soft and hard"}, "distill.kind='soft and hard' is not one of"),
        ({"weight": 0.0}, r"distill.weight must lie in \(0, 1\], not 0.0"),
        ({"temperature": -1.0}, "distill.temperature must be positive"),
    ],
)
def test_wrong_settings(config, changes, message):
    config.distill.update(changes)
    with pytest.raises(ValueError, match=message):
        make_train_step(experiment.build(config))


def test_teachers_that_do_not_fit(config, tmp_path):
    config.data.train_pp = "grayscale_to_rgb|value_range(0, 1)"
    with pytest.raises(ValueError, match=r"ends with value_range\(-1,1\), and data.train_pp ends"):
        make_train_step(experiment.build(config))
    config.unlock()
    config.data.train_pp = config.data.eval_pp
    (tmp_path / "labels.txt").write_text("\n".join("9876543210"))
    with pytest.raises(ValueError, match="has other classes, or has them in another order"):
        make_train_step(experiment.build(config))
    (tmp_path / "labels.txt").unlink()
    _, params = random_params("ViT-Ti_16", (8, 8), num_classes=4, **TEACHER)
    npz.save(tmp_path / "four.npz", params, pretrained.say_made_for("ViT-Ti_16", TEACHER))
    config.unlock()
    config.distill.teacher = str(tmp_path / "four.npz")
    with pytest.raises(ValueError, match="tells 4 classes apart, and the data has 10"):
        make_train_step(experiment.build(config))
