"""Losses and figures of segmentation."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import segmentation
from vit_jax.losses import get_loss
from vit_jax.tasks import segment

GOLDEN = Path(__file__).parent / "golden"
LOSSES = segment.TASK.losses


def golden(name):
    with np.load(GOLDEN / name) as arrays:
        return dict(arrays)


def draw(seed=0, count=3, classes=5, size=(6, 9), low=(3, 5)):
    """Logits, and masks of a larger size, a quarter of whose pixels is not labelled."""
    random = np.random.default_rng(seed)
    mask = random.integers(0, classes, (count, *size)).astype(np.int32)
    mask[random.random(mask.shape) < 0.25] = 255
    logits = random.normal(size=(count, *low, classes)).astype(np.float32)
    return jnp.asarray(logits), {"mask": jnp.asarray(mask)}


def one_hot_logits(labels, classes):
    return jnp.asarray(np.eye(classes, dtype=np.float32)[labels])[None]


# Figures.


def test_figures_of_a_split_are_the_golden_ones():
    arrays = golden("segmentation_metrics.npz")
    expected, classes = json.loads(str(arrays["expected"])), int(arrays["classes"])
    matrix, each = 0, {name: [] for name in segmentation.FIGURES}
    metrics = {name: segment.get_metric(name, "pixel_xent") for name in each}
    for i in range(3):  # of three sizes
        out = one_hot_logits(arrays[f"pred{i}"], classes)
        batch = {"mask": jnp.asarray(arrays[f"gt{i}"][None].astype(np.int32))}
        matrix = matrix + np.asarray(jax.jit(segmentation.confusion)(out, batch)[0])
        for name, metric in metrics.items():
            each[name].append(np.asarray(jax.jit(metric.each)(out, batch)))
    np.testing.assert_array_equal(matrix, arrays["confusion"])
    found = {name: metrics[name].finish(np.concatenate(each[name])) for name in each}
    assert found == pytest.approx(
        {
            "miou": expected["miou_nan"],
            "pixel_accuracy": expected["pixel_acc"],
            "mean_accuracy": expected["mean_acc_nan"],
            "dice": expected["mdice_nan"],
            "frequency_weighted_iou": expected["frequency_weighted_iou"],
        },
        rel=1e-8,  # one of them was computed in float32
    )
    by_class = segmentation.class_figures(segmentation.counts_of(matrix))
    for ours, theirs in (("iou", "iou"), ("accuracy", "acc")):
        values = [np.nan if value is None else value for value in expected[theirs]]
        np.testing.assert_allclose(by_class[ours], values, rtol=1e-12)
    images = segmentation.split_figures(np.concatenate(each["miou"]))
    assert images["miou"].mean() == pytest.approx(expected["mean_of_images_miou"], rel=1e-12)


@pytest.mark.slow
def test_the_class_of_a_pixel_is_that_of_the_resized_logits():
    out, batch = draw(1)
    resized = jax.image.resize(out, (3, 6, 9, 5), "bilinear", antialias=False)
    guess, mask = np.asarray(resized.argmax(-1)), np.asarray(batch["mask"])
    expected = np.zeros((3, 5, 5), int)
    for i, truth, said in zip(np.indices(mask.shape)[0].ravel(), mask.ravel(), guess.ravel()):
        if truth != 255:
            expected[i, truth, said] += 1
    np.testing.assert_array_equal(segmentation.confusion(out, batch), expected)
    counts = segmentation.count_pixels(out, batch)
    np.testing.assert_array_equal(counts[:, 1], expected.sum(axis=1))
    np.testing.assert_array_equal(counts[:, 2], expected.sum(axis=2))


def test_a_split_without_a_label_has_no_figures():
    out, batch = draw()
    metric = segment.get_metric("miou", "pixel_xent")
    none = {"mask": jnp.full_like(batch["mask"], 255)}
    assert not np.asarray(metric.each(out, none)).any()
    assert np.isnan(metric.finish(np.asarray(metric.each(out, none))))
    with pytest.raises(ValueError, match=r"unknown metric 'iou'; .*of masks there are: miou, pix"):
        segment.get_metric("iou", "pixel_xent")


def test_pixels_are_counted_once_for_all_figures():
    """XLA finds that they are made of the same numbers."""
    out, batch = draw()
    each = [segment.get_metric(name, "pixel_xent").each for name in segmentation.FIGURES]
    assert len(each) == 5
    compiled = jax.jit(lambda out, batch: [count(out, batch) for count in each]).lower(out, batch)
    one = jax.jit(each[0]).lower(out, batch).compile()
    assert compiled.compile().cost_analysis()["flops"] <= 1.1 * one.cost_analysis()["flops"]


# Losses.


def test_losses_are_the_golden_ones():
    arrays = golden("segmentation_losses.npz")
    expected = json.loads(str(arrays["upernet_losses"]))
    out = {"logits": arrays["upernet_logits"], "auxiliary": arrays["upernet_auxiliary"]}
    out = {name: jnp.asarray(x.transpose(0, 2, 3, 1)) for name, x in out.items()}
    batch = {"mask": jnp.asarray(arrays["upernet_labels"].astype(np.int32))}
    for name, key in (("pixel_xent", "valid_mean"), ("pixel_xent_all", "mmseg")):
        decode, weighted = expected[f"{key}_decode"], expected[f"{key}_aux_weighted"]
        loss = jax.jit(get_loss(name, LOSSES))
        assert loss(out["logits"], batch).mean() == pytest.approx(decode, rel=1e-5)
        assert loss(out, batch).mean() == pytest.approx(decode + weighted, rel=1e-5)
        twice = jax.jit(get_loss(f"{name}(0.8)", LOSSES))
        assert twice(out, batch).mean() == pytest.approx(decode + 2 * weighted, rel=1e-5)
    batch = {"mask": jnp.asarray(arrays["fpn_labels"].astype(np.int32))}
    logits = jnp.asarray(arrays["fpn_logits"].transpose(0, 2, 3, 1))
    pixels = (arrays["fpn_labels"] != 255).sum(axis=(1, 2))
    assert pixels[0] != pixels[1]
    each = jax.jit(LOSSES["pixel_xent"])(logits, batch)
    assert each.mean() == pytest.approx(float(arrays["fpn_loss"]), rel=1e-5)


def pulled_back(loss, out, batch):
    """A loss by example, and the gradient of their sum."""
    each, pull = jax.vjp(lambda out: loss(out, batch), out)
    return each, pull(jnp.ones_like(each))[0]


def test_padding_and_unlabelled_examples_count_nothing():
    out, batch = draw(2)
    few = {"mask": batch["mask"].at[1].set(255)}
    none = {"mask": jnp.full_like(batch["mask"], 255)}
    for name, loss in LOSSES.items():
        value_and_gradient = jax.jit(functools.partial(pulled_back, loss))
        each, _ = value_and_gradient(out, few)
        assert each[1] == 0, name
        assert each[0] > 0, name
        value, gradient = value_and_gradient(out, none)
        assert not np.asarray(value).any()
        assert not np.asarray(gradient).any()
    padded = {**batch, "_mask": jnp.array([1.0, 1.0, 0.0])}
    loss = jax.jit(LOSSES["pixel_xent"])
    expected = loss(out[:2], {"mask": batch["mask"][:2]})
    np.testing.assert_allclose(loss(out, padded)[:2], expected, rtol=1e-6)


def test_dice_is_what_its_formula_says():
    logits, batch = draw(3, size=(3, 5))
    p = np.asarray(jax.nn.softmax(logits, axis=-1), np.float64)
    each = jax.jit(segmentation.dice)(logits, batch)
    for i, mask in enumerate(np.asarray(batch["mask"])):
        terms = []
        for c in range(5):
            known, truth = mask != 255, mask == c
            if truth.any():
                inside = p[i, ..., c][known]
                terms.append((2 * p[i, ..., c][truth].sum() + 1) / (inside.sum() + truth.sum() + 1))
        assert each[i] == pytest.approx(1 - np.mean(terms), rel=1e-5)
    right = one_hot_logits(np.maximum(np.asarray(batch["mask"]) % 255, 0)[0], 5) * 50
    assert jax.jit(segmentation.dice)(right, {"mask": batch["mask"][:1]}) == pytest.approx(
        0, abs=1e-6
    )


def test_logits_of_a_classifier_are_refused():
    with pytest.raises(
        ValueError, match=r"\(b, h, w, classes\) logits, and the model gives \(2, 3"
    ):
        segmentation.pixel_xent(jnp.zeros((2, 3)), {"mask": jnp.zeros((2, 4, 4), jnp.int32)})
