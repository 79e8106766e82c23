"""BERT's losses and figures: which words were masked, and whether a segment follows another.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding" (NAACL 2019), section 3.1, and the published code.

The published loss of words is their mean over the masked words of a batch, in which a text with
more of them counts for more. It is a number per text here, as every loss is: the mean over the
text's own, times its `weight`, which is how many masked words it has beside the batch's mean. So
the batch's mean is the published one to the last bits, also when gradients are accumulated. Where
a batch has no `weight`, as in evaluation, the texts count alike; there the figures below are exact,
since they are finished over all masked words of the split.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Batch = Mapping[str, Any]
Out = Mapping[str, jax.Array]  # of `models.bert.BERT`

WEIGHT = "weight"


def word_loss(out: Out, batch: Batch) -> jax.Array:
    """The mean cross-entropy of each text's masked words, times its weight; (b,) in nats.

    Args:
        out: `words` (b, p, vocabulary) logits.
        batch: `words` (b, p) int32, what was masked, below 0 for none; `weight` (b,), or none.
    """
    loss, is_masked = _word_losses(out, batch)
    counts = jnp.maximum(is_masked.sum(axis=1), 1)
    return (loss * is_masked).sum(axis=1) / counts * batch.get(WEIGHT, 1.0)


def next_loss(out: Out, batch: Batch) -> jax.Array:
    """The cross-entropy of whether the second segment follows the first; (b,) in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(_next(out), batch["next"])


def add_weight(key: jax.Array, batch: Batch) -> Batch:
    """Adds `weight` (b,): the number of a text's masked words, by the mean of the batch's."""
    del key
    counts = (batch["words"] >= 0).sum(axis=1).astype(jnp.float32)
    return {**batch, WEIGHT: counts / jnp.maximum(counts.mean(), 1e-6)}


def _word_losses(out: Out, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(b, p) cross-entropies, and whether there was a word."""
    words = batch["words"]
    logits = _words(out)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(words, 0))
    return loss, words >= 0


def _words(out: Out) -> jax.Array:
    if "words" not in out:
        raise ValueError("the model tells no masked words: set model.heads to True")
    return out["words"]


def _next(out: Out) -> jax.Array:
    if "next" not in out:
        raise ValueError(
            "the model does not tell whether a segment follows another: set model.heads and "
            "model.pooler to True, or take next_sentence out of loss and metrics"
        )
    return out["next"]


def _each_of_words(of_word: Callable[[Out, Batch], jax.Array]) -> Callable[[Out, Batch], jax.Array]:
    """Makes the sum over a text's masked words, and their number: (b, 2)."""

    def each(out: Out, batch: Batch) -> jax.Array:
        is_masked = (batch["words"] >= 0).astype(jnp.float32)
        sums = (of_word(out, batch) * is_masked).sum(axis=1)
        return jnp.stack([sums, is_masked.sum(axis=1)], axis=1)

    return each


def _mean_of_words(each: np.ndarray) -> float:
    """From (texts, 2) sums and numbers to the mean over all words; nan if there is none."""
    total, count = each.astype(np.float64).sum(axis=0).tolist()
    return total / count if count else float("nan")


def _perplexity(each: np.ndarray) -> float:
    return float(np.exp(_mean_of_words(each)))


def _is_right(out: Out, batch: Batch) -> jax.Array:
    return (jnp.argmax(_words(out), axis=-1) == batch["words"]).astype(jnp.float32)


def _is_next_right(out: Out, batch: Batch) -> jax.Array:
    return (jnp.argmax(_next(out), axis=-1) == batch["next"]).astype(jnp.float32)


class Figure(NamedTuple):
    """A figure of texts.

    Attributes:
        each: from an output and its batch to (b,) or (b, 2) numbers.
        finish: from those of a split to the figure.
    """

    each: Callable[[Out, Batch], jax.Array]
    finish: Callable[[np.ndarray], float]


FIGURES = {
    # Shares of the masked words, and of the pairs, that are told right.
    "masked_accuracy": Figure(_each_of_words(_is_right), _mean_of_words),
    "next_accuracy": Figure(_is_next_right, lambda each: float(np.mean(each, dtype=np.float64))),
    # exp of the mean cross-entropy of the masked words.
    "perplexity": Figure(
        _each_of_words(lambda out, batch: _word_losses(out, batch)[0]), _perplexity
    ),
}
