"""Losses that compare a whole batch, on one, two and four devices, and retrieval."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from tests import contrastive_on_devices as pairs
from tests.commands import ROOT
from vit_jax import contrastive

GOLDEN = pairs.GOLDEN
DEVICES = [1, 2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def on_four():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    result = subprocess.run(
        [sys.executable, "-m", "tests.contrastive_on_devices"],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
    )  # fmt: skip
    devices, floats, found = json.loads(result.stdout)
    assert devices == 4
    return floats, {
        name: {key: np.array(value) for key, value in arrays.items()}
        for name, arrays in found.items()
    }


def mesh_of(devices):
    grid = np.array(jax.devices()[:devices]).reshape(devices, 1)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def found_on(devices, name, is_padded, request):
    if devices == 4:
        return request.getfixturevalue("on_four")[1][f"{name}/{is_padded}"]
    return pairs.over(mesh_of(devices), name, is_padded)


def assert_near(actual, expected, rounding=1e-6):
    """Within so much of the largest entry."""
    largest = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rounding * max(largest, 1e-9))


@pytest.mark.parametrize("name", pairs.LOSSES)
@pytest.mark.parametrize("devices", DEVICES)
def test_losses_and_gradients_are_the_references(devices, name, request):
    found = found_on(devices, name, False, request)
    assert_near(found["each"], GOLDEN[f"{name}/per_example"], 3e-6)
    assert_near(np.mean(found["each"]), GOLDEN[f"{name}/loss"])
    assert_near(found["each"].reshape(2, 4).mean(axis=1), GOLDEN[f"{name}/per_device_2"], 5e-6)
    for key in ("image", "text"):
        assert_near(found[key], GOLDEN[f"{name}/grad/{key}"])
        assert_near(np.linalg.norm(found[key]), GOLDEN[f"{name}/grad_norm/{key}"])
    # What CLIP's rows would each do to the scale is up to 1, and cancels.
    np.testing.assert_allclose(found["t"], GOLDEN[f"{name}/grad/t"], rtol=1e-6, atol=1e-6)
    expected = GOLDEN.get(f"{name}/grad/b", 0.0)  # CLIP has no bias
    np.testing.assert_allclose(found["b"], expected, rtol=1e-6)


def plain_loss(name, raw):
    """(b,) losses by their definitions, of the whole matrix."""
    out = pairs.out_of(raw)
    logits = out["scale"][:, None] * out["image"] @ out["text"].T + out["bias"][:, None]
    own = jnp.eye(len(logits))
    if name == "clip":
        both = jax.nn.log_softmax(logits, axis=1) + jax.nn.log_softmax(logits, axis=0)
        return -jnp.sum(own * both, axis=1) / 2
    return -jnp.sum(jax.nn.log_sigmoid((2 * own - 1) * logits), axis=1)


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("devices", DEVICES)
def test_padding_is_never_a_negative(devices, name, request):
    found = found_on(devices, name, True, request)
    kept = pairs.ORDER[pairs.KEPT[pairs.ORDER] > 0]
    raw = pairs.raw_of(name)
    few = raw | {key: raw[key][kept] for key in ("image", "text")}
    expected = np.zeros(8)

    def total(raw):
        each = plain_loss(name, raw)
        return jnp.sum(each) / 8, each

    grads, each = jax.jit(jax.grad(total, has_aux=True))(few)
    expected[pairs.KEPT[pairs.ORDER] > 0] = each
    assert_near(found["each"], expected, 1e-5)
    assert np.all(found["image"][pairs.KEPT[pairs.ORDER] == 0] == 0)
    assert np.all(found["text"][pairs.KEPT[pairs.ORDER] == 0] == 0)
    assert_near(found["image"][pairs.KEPT[pairs.ORDER] > 0], np.asarray(grads["image"]), 1e-5)
    np.testing.assert_allclose(found["t"], grads["t"], rtol=1e-5, atol=1e-6)


def test_a_batch_of_padding_alone_has_a_loss_of_0():
    for name, loss in pairs.LOSSES.items():
        out = pairs.out_of(pairs.raw_of(name))
        np.testing.assert_array_equal(jax.jit(loss)(out, {"_mask": jnp.zeros(8)}), 0)


@pytest.mark.parametrize("count", [3, 4])
def test_rows_are_looked_at_some_at_a_time(count, monkeypatch):
    monkeypatch.setattr(contrastive, "_ROWS_AT_ONCE", count)
    found = pairs.over(mesh_of(1), "clip")
    assert_near(found["each"], GOLDEN["clip/per_example"], 3e-6)
    assert_near(found["text"], GOLDEN["clip/grad/text"])


def test_no_device_holds_the_matrix_of_all_pairs(on_four):
    """Of 16 b^2 products on four devices it makes those of 512 rows, or b^2, at a time.

    Some are there more than once: the products, their exponentials, their gradients.
    """
    floats, _ = on_four
    assert floats["clip"] < 7 * 512 * 4096
    assert floats["siglip"] < 7 * 1024**2


# Retrieval.


@pytest.fixture
def retrieval():
    return GOLDEN["retrieval/image"], GOLDEN["retrieval/text"], GOLDEN["retrieval/text_image"]


@pytest.mark.parametrize("at_once", [1024, 7])
def test_recalls_are_the_references(retrieval, at_once, monkeypatch):
    monkeypatch.setattr(contrastive, "_QUERIES_AT_ONCE", at_once)
    for name, find in (
        ("text_to_image", contrastive.text_to_image_ranks),
        ("image_to_text", contrastive.image_to_text_ranks),
    ):
        ranks = find(*retrieval)
        for k in (1, 5, 10):
            expected = GOLDEN[f"retrieval/{name}/recall@{k}"]
            assert contrastive.recall(ranks, k) == pytest.approx(float(expected), abs=1e-12)


def test_ranks_count_what_is_liked_better():
    image = np.array([[1, 0], [0, 1], [0.6, 0.8]])
    text = np.array([[0.8, 0.6], [0, 1], [1, 0], [0.6, 0.8]])
    owners = np.array([2, 1, 0, 2])
    np.testing.assert_array_equal(
        contrastive.text_to_image_ranks(image, text, owners), [0, 0, 0, 0]
    )
    owners = np.array([1, 2, 0, 0])
    np.testing.assert_array_equal(
        contrastive.text_to_image_ranks(image, text, owners), [2, 1, 0, 2]
    )
    np.testing.assert_array_equal(contrastive.image_to_text_ranks(image, text, owners), [0, 2, 2])


def test_a_model_that_says_the_same_to_all_has_the_recall_of_chance():
    image, text, owners = np.ones((5, 2)), np.ones((10, 2)), np.arange(10) // 2
    ranks = contrastive.text_to_image_ranks(image, text, owners)
    assert contrastive.recall(ranks, 1) == 1 / 5
    ranks = contrastive.image_to_text_ranks(image, text, owners)
    assert contrastive.recall(ranks, 1) == 1 / 5


def test_an_image_without_a_text_finds_none():
    ranks = contrastive.image_to_text_ranks(np.eye(2), np.eye(2)[:1], np.array([0]))
    np.testing.assert_array_equal(ranks, [0, 1])
