"""Classifiers that look at the mirrored image, too: in evaluations and at a person's photos."""

import jax
import numpy as np
import pytest

import vit_jax
from tests.answerers import made
from tests.commands import run
from tests.helpers import TINY, pairs_config, random_variables, tiny_digits_config, write_image
from vit_jax import classification, convert, evaluate, experiment
from vit_jax.machinery import sharding
from vit_jax.models import get_model
from vit_jax.tasks import classify


@pytest.mark.parametrize("loss", ["softmax_xent", "sigmoid_xent"])
def test_probabilities_are_averaged_and_not_logits(loss):
    views = np.random.default_rng(0).normal(scale=5, size=(3, 4, 6)).astype(np.float32)
    found = classification.probabilities(classification.averaged(list(views), loss), loss)
    expected = np.mean(classification.probabilities(views, loss), axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    far = [np.array([[200.0, -200.0]], np.float32)] * 2  # without an infinite logit
    assert np.isfinite(classification.averaged(far, loss)).all()


@pytest.fixture
def mirroring():
    """The answer of a model, its variables and images whose left is not their right."""
    model = get_model("ViT-Ti_16", **TINY, num_classes=5)
    variables = random_variables(model, (8, 12))
    images = np.random.default_rng(1).uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)

    def expected(loss):
        views = (images, np.flip(images, axis=2))
        logits = [model.apply(variables, view, train=False) for view in views]
        return np.mean([classification.probabilities(x, loss) for x in logits], axis=0)

    return model, variables, images, expected


@pytest.mark.parametrize("loss", ["softmax_xent", "sigmoid_xent"])
def test_a_batch_is_answered_by_both_views(mirroring, loss):
    model, variables, images, expected = mirroring
    answer = classify.make_answer(model, {"classify.flip": True, "loss": loss})
    found = classification.probabilities(answer(variables, {"image": images}), loss)
    np.testing.assert_allclose(found, expected(loss), atol=1e-6)
    plain = classification.probabilities(model.apply(variables, images, train=False), loss)
    assert np.abs(found - plain).max() > 1e-3
    assert classify.make_answer(model, {"classify.flip": False, "loss": loss}) is None


@pytest.mark.slow
def test_evaluations_look_as_the_config_says():
    config = tiny_digits_config()
    outs = {}
    for flip in (False, True):
        config.unlock()
        config.classify.flip = flip
        exp = experiment.build(config)
        variables = exp.init_state().eval_variables()
        batch = next(sharding.to_devices(exp.data.eval_batches("val"), exp.mesh))
        figures, outs[flip] = evaluate.make_eval_step(exp)(variables, batch)
        expected = classification.softmax_xent(outs[flip], batch)
        np.testing.assert_allclose(figures["loss"], expected, rtol=1e-4)
    mirrored = exp.model.apply(variables, batch["image"][:, :, ::-1], train=False)
    p = [jax.nn.softmax(logits) for logits in (outs[False], mirrored)]
    np.testing.assert_allclose(jax.nn.softmax(outs[True]), np.mean(p, axis=0), atol=1e-5)


@pytest.fixture
def weights(tmp_path):
    fields = dict(TINY, num_classes=3)
    known = dict(name="ViT-Ti_16", fields=fields, labels=("a", "b", "c"), loss="softmax_xent")
    convert.write(tmp_path / "w.npz", made(get_model("ViT-Ti_16", **fields), **known))
    return tmp_path / "w.npz"


def test_a_photo_and_its_mirror_image_are_answered_alike(weights):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    plain, both = vit_jax.load(weights), vit_jax.load(weights, flip="on")
    found, mirrored = both(pixels), both(np.flip(pixels, axis=1))
    assert found == pytest.approx(mirrored, abs=1e-6)
    shares = {name: (plain(pixels)[name] + plain(np.flip(pixels, axis=1))[name]) / 2
              for name in "abc"}  # fmt: skip
    assert found == pytest.approx(shares, abs=1e-6)
    assert plain(pixels) != plain(np.flip(pixels, axis=1))


@pytest.mark.slow
def test_predict_has_the_flag(weights, tmp_path):
    path = write_image(tmp_path / "photo.png", (200, 30, 30), size=(31, 22))
    both = vit_jax.load(weights, flip="on")
    result = run("predict", f"--weights={weights}", "--flip=on", path)
    assert result.returncode == 0, result.stderr
    (first, share) = max(both(path).items(), key=lambda item: item[1])
    assert f"{path}: {first} {share:.1%}" in result.stdout


def test_it_is_for_classifiers(pairs_folder):
    config = pairs_config(pairs_folder)
    config.classify.flip = True
    with pytest.raises(ValueError, match=r"classify\.flip is for the task classify, .* to False"):
        experiment.build(config)
