"""BERT's losses and figures: which words were masked, and whether a segment follows another.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding" (NAACL 2019), section 3.1, and the published code.

How tokens count in losses and figures is said in `token_losses`; those that count here are the
masked ones.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import token_losses

Batch = Mapping[str, Any]
Out = Mapping[str, jax.Array]  # of `models.bert.BERT`


def word_loss(out: Out, batch: Batch) -> jax.Array:
    """The mean cross-entropy of each text's masked words, times its weight; (b,) in nats.

    Args:
        out: `words` (b, p, vocabulary) logits.
        batch: `words` (b, p) int32, what was masked, below 0 for none; `weight` (b,), or none.
    """
    loss, is_masked = _word_losses(out, batch)
    return token_losses.per_text(loss, is_masked, batch)


def next_loss(out: Out, batch: Batch) -> jax.Array:
    """The cross-entropy of whether the second segment follows the first; (b,) in nats."""
    return token_losses.cross_entropy(_next(out), batch["next"])


def add_weight(key: jax.Array, batch: Batch) -> Batch:
    """Adds `weight` (b,): the number of a text's masked words, by the mean of the batch's."""
    del key
    return token_losses.with_weight(batch, batch["words"] >= 0)


def _word_losses(out: Out, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(b, p) cross-entropies, and whether there was a word."""
    words = batch["words"]
    logits = _words(out)
    return token_losses.cross_entropy(logits, jnp.maximum(words, 0)), words >= 0


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
        return token_losses.sums(of_word(out, batch), batch["words"] >= 0)

    return each


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
    "masked_accuracy": Figure(_each_of_words(_is_right), token_losses.mean_of_tokens),
    "next_accuracy": Figure(_is_next_right, lambda each: float(np.mean(each, dtype=np.float64))),
    # exp of the mean cross-entropy of the masked words.
    "perplexity": Figure(
        _each_of_words(lambda out, batch: _word_losses(out, batch)[0]), token_losses.perplexity
    ),
}
