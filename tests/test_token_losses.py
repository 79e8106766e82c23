"""Label smoothing by its definition, against golden losses, and how tokens count."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import token_losses

GOLDEN = Path(__file__).parent / "golden" / "transformer.npz"
GOLDEN_NAMES = {
    "nll": token_losses.cross_entropy,
    "smooth_torch": token_losses.smoothed_torch,
    "smooth_over_others_minus_entropy": token_losses.smoothed_tensor2tensor,
    "smooth_annotated_kl": token_losses.smoothed_annotated,
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_losses_weighted_by_tokens(golden, name):
    gold = golden["gold"]
    is_word = gold != 0
    assert len(set(is_word.sum(axis=1))) > 1, "or it would not matter how texts are weighed"
    each = GOLDEN_NAMES[name](jnp.asarray(golden["pre_final/logits"]), gold)
    batch = token_losses.with_weight({}, jnp.asarray(is_word))
    found = token_losses.per_text(each, is_word, batch)
    assert found.shape == (3,)
    expected = json.loads(str(golden["loss"]))[name]
    np.testing.assert_allclose(found.mean(), expected, rtol=1e-6)
    np.testing.assert_allclose(
        token_losses.mean_of_tokens(np.asarray(token_losses.sums(each, is_word))), expected,
        rtol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("name", ["torch", "tensor2tensor", "annotated"])
def test_smoothing_by_its_definition(name, smoothing):
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 5, 7)).astype(np.float32)
    gold = random.integers(1, 7, (2, 5))
    logs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    targets = np.zeros(logits.shape)
    targets[...] = smoothing / {"torch": 7, "tensor2tensor": 6, "annotated": 5}[name]
    if name == "annotated":
        targets[..., 0] = 0
    right = np.eye(7)[gold] > 0
    targets = np.where(right, 1 - smoothing + targets * (name == "torch"), targets)
    np.testing.assert_allclose(targets.sum(axis=-1), 1, err_msg="of this test")
    expected = -(targets * logs).sum(axis=-1)
    if name != "torch":
        expected += np.where(targets > 0, targets * np.log(np.maximum(targets, 1e-9)), 0).sum(-1)
    found = getattr(token_losses, f"smoothed_{name}")(logits, gold, smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_least_that_a_loss_can_be():
    """The logs of the targets themselves as logits."""
    gold = jnp.array([[3]])
    others = jnp.full((1, 1, 43), 0.1 / 42).at[0, 0, 3].set(0.9)
    words = jnp.full((1, 1, 43), 0.1 / 41).at[0, 0, 3].set(0.9).at[0, 0, 0].set(1e-30)
    everyone = jnp.full((1, 1, 43), 0.1 / 43).at[0, 0, 3].add(0.9)
    assert abs(token_losses.smoothed_tensor2tensor(jnp.log(others), gold)) < 1e-6
    assert abs(token_losses.smoothed_annotated(jnp.log(words), gold)) < 1e-6
    np.testing.assert_allclose(
        token_losses.smoothed_torch(jnp.log(everyone), gold), 0.685, atol=1e-3
    )


def test_figures_of_a_split_count_tokens_alike():
    each = token_losses.sums(jnp.array([[1.0, 9.0], [2.0, 3.0]]), jnp.array([[1, 0], [1, 1]]))
    np.testing.assert_array_equal(each, [[1, 1], [5, 2]])
    assert token_losses.mean_of_tokens(np.asarray(each)) == 2
    np.testing.assert_allclose(token_losses.perplexity(np.asarray(each)), np.exp(2))
    assert np.isnan(token_losses.mean_of_tokens(np.zeros((3, 2))))
    empty = jnp.zeros((2, 3), bool)
    batch = token_losses.with_weight({"x": 1}, empty)
    np.testing.assert_array_equal(token_losses.per_text(jnp.ones((2, 3)), empty, batch), 0)


def test_what_is_no_share_is_refused():
    logits, gold = jnp.zeros((1, 1, 5)), jnp.ones((1, 1), int)
    for name in ("torch", "tensor2tensor", "annotated"):
        loss = getattr(token_losses, f"smoothed_{name}")
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\), not 1.0"):
            loss(logits, gold, 1.0)
    with pytest.raises(ValueError, match="a vocabulary of 2 tokens leaves none"):
        token_losses.smoothed_annotated(logits[..., :2], gold)
