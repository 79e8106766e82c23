"""Losses of tokens that are to be told: cross-entropy, label smoothing, and how tokens count.

Label smoothing (Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR
2016) takes a share s of the probability from the right token and spreads it over others. Published
code does it in three ways, which differ in who gets a part of it and in what is subtracted; V is
the size of the vocabulary:

| function                 | who gets a part of s, each   | subtracted            |
|--------------------------|------------------------------|-----------------------|
| `smoothed_torch`         | all V, s / V                 | nothing               |
| `smoothed_tensor2tensor` | all but the right one, s / (V - 1) | the targets' entropy |
| `smoothed_annotated`     | all but it and padding, s / (V - 2) | the targets' entropy |

What has the entropy subtracted is 0 at best; `smoothed_torch` cannot fall below it (0.685 for
s = .1 and 43 tokens).

Sources: torch.nn.CrossEntropyLoss; tensor2tensor (Vaswani et al., "Tensor2Tensor for Neural Machine
Translation", 2018), as "Attention Is All You Need" was trained; Rush, "The Annotated Transformer"
(2018). The gradients of the first two are the same but for the value of s.

A published loss is the mean over the tokens of a batch that are not padding. Here a loss is a
number per text, as everywhere: the mean over the text's own, times its `weight`, which is how many
tokens it has beside the batch's mean. So the batch's mean is the published one to the last bits,
also when gradients are accumulated. Where a batch has no `weight`, as in evaluation, the texts
count alike; there figures are exact, since they are finished over all tokens of a split.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, Any]

WEIGHT = "weight"


def cross_entropy(logits: jax.Array, gold: jax.Array) -> jax.Array:
    """Minus the log of the probability of the right tokens, in nats.

    Args:
        logits: (..., vocabulary) float32.
        gold: (...) int32, the right tokens.

    Returns:
        (...) float32.
    """
    import optax  # takes a while to import

    return optax.softmax_cross_entropy_with_integer_labels(logits, gold)


def smoothed_torch(logits: jax.Array, gold: jax.Array, smoothing: float = 0.1) -> jax.Array:
    """Cross-entropy with targets smoothed over all tokens; see the head of this file.

    Args:
        logits: (..., vocabulary) float32.
        gold: (...) int32, the right tokens.
        smoothing: the share that is spread, in [0, 1).

    Returns:
        (...) float32, in nats.

    Raises:
        ValueError: for a share that is none.
    """
    _check(smoothing, logits.shape[-1])
    over_all = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
    return (1 - smoothing) * cross_entropy(logits, gold) + smoothing * over_all


def smoothed_tensor2tensor(logits: jax.Array, gold: jax.Array, smoothing: float = 0.1) -> jax.Array:
    """Relative entropy to targets smoothed over the wrong tokens; as `smoothed_torch` otherwise."""
    size = logits.shape[-1]
    _check(smoothing, size)
    right = cross_entropy(logits, gold)
    wrong = size * jax.nn.logsumexp(logits, axis=-1) - logits.sum(axis=-1) - right
    return _relative(right, wrong, smoothing, size - 1)


def smoothed_annotated(
    logits: jax.Array, gold: jax.Array, smoothing: float = 0.1, pad: int = 0
) -> jax.Array:
    """Relative entropy to targets smoothed over the wrong tokens that are not padding.

    Args:
        logits: (..., vocabulary) float32.
        gold: (...) int32, the right tokens; where it is padding, what comes out means nothing.
        smoothing: the share that is spread, in [0, 1).
        pad: the token of padding.

    Returns:
        (...) float32, in nats.

    Raises:
        ValueError: for a share that is none.
    """
    size = logits.shape[-1]
    _check(smoothing, size)
    right = cross_entropy(logits, gold)
    words = logits.sum(axis=-1) - logits[..., pad]
    wrong = (size - 1) * jax.nn.logsumexp(logits, axis=-1) - words - right
    return _relative(right, wrong, smoothing, size - 2)


def per_text(losses: jax.Array, is_counted: jax.Array, batch: Batch) -> jax.Array:
    """The mean over the tokens of each text that count, times the text's weight.

    Args:
        losses: (b, n) of the tokens; those that do not count may be anything finite.
        is_counted: (b, n) bool.
        batch: `weight` (b,) of `weights_of`, or none.

    Returns:
        (b,); 0 for a text without such tokens.
    """
    counts = jnp.maximum(is_counted.sum(axis=1), 1)
    return (losses * is_counted).sum(axis=1) / counts * batch.get(WEIGHT, 1.0)


def with_weight(batch: Batch, is_counted: jax.Array) -> Batch:
    """Adds `weight` (b,) to a batch: how many tokens of a text count, by the mean of the batch's.

    Args:
        batch: of b texts.
        is_counted: (b, n) bool.
    """
    counts = is_counted.sum(axis=1).astype(jnp.float32)
    return {**batch, WEIGHT: counts / jnp.maximum(counts.mean(), 1e-6)}


def sums(values: jax.Array, is_counted: jax.Array) -> jax.Array:
    """What figures of a split's tokens are made of: `mean_of_tokens`, `perplexity`.

    Args:
        values: (b, n) of the tokens, such as whether they were told right.
        is_counted: (b, n) bool.

    Returns:
        (b, 2) float32, a text's sum over the tokens that count, and their number.
    """
    counted = is_counted.astype(jnp.float32)
    return jnp.stack([(values * counted).sum(axis=1), counted.sum(axis=1)], axis=1)


def mean_of_tokens(each: np.ndarray) -> float:
    """From `sums` (texts, 2) to the mean over all tokens; nan if there is none."""
    total, count = each.astype(np.float64).sum(axis=0).tolist()
    return total / count if count else float("nan")


def perplexity(each: np.ndarray) -> float:
    """From `sums` (texts, 2) of cross-entropies to exp of their mean over all tokens."""
    return float(np.exp(mean_of_tokens(each)))


def _relative(right: jax.Array, wrong: jax.Array, smoothing: float, others: int) -> jax.Array:
    """The relative entropy of targets that give `others` tokens a part each.

    Args:
        right: (...) minus the log of the right token's probability.
        wrong: (...) the sum of minus the logs of the others'.
        smoothing: the share of the others.
        others: how many there are.
    """
    if not smoothing:
        return right
    part = smoothing / others
    entropy = -(1 - smoothing) * math.log(1 - smoothing) - smoothing * math.log(part)
    return (1 - smoothing) * right + part * wrong - entropy


def _check(smoothing: float, size: int) -> None:
    if not 0 <= smoothing < 1:
        raise ValueError(f"the smoothing of labels must lie in [0, 1), not {smoothing}")
    if size < 3:
        raise ValueError(f"a vocabulary of {size} tokens leaves none to smooth labels over")
