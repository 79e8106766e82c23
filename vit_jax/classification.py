"""What a classifier says of images: its losses, and the figures of examples and of a split."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Batch = Mapping[str, Any]
Out = Any  # (b, classes) logits, or a dict of them, see `logits_of`


def softmax_xent(out: jax.Array, batch: Batch) -> jax.Array:
    """Softmax cross-entropy in nats.

    Args:
        out: (b, classes) logits, or a dict of them, see `logits_of`.
        batch: `label`, (b,) int32 or (b, classes) float32 that sums to 1.

    Returns:
        (b,) float32.
    """
    logits = logits_of(out)
    return optax.softmax_cross_entropy(logits, _labels(logits, batch))


def sigmoid_xent(out: jax.Array, batch: Batch) -> jax.Array:
    """Sigmoid cross-entropy in nats, summed over the classes.

    Source: Beyer et al., "Are we done with ImageNet?" (2020).

    Args:
        out: (b, classes) logits, or a dict of them, see `logits_of`.
        batch: `label`, (b,) int32 or (b, classes) float32 in [0, 1].

    Returns:
        (b,) float32.
    """
    logits = logits_of(out)
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, _labels(logits, batch)), axis=-1)


def logits_of(out: Out) -> jax.Array:
    """The (b, classes) float32 logits that are compared with the labels.

    Args:
        out: they themselves; or in training, of a model with a head for a teacher, a dict of
            "logits" and "distilled", which is that head's, see `vit_jax.distillation`.
    """
    return (out["logits"] if isinstance(out, Mapping) else out).astype(jnp.float32)


def _labels(logits: jax.Array, batch: Batch) -> jax.Array:
    if logits.ndim != 2:
        raise ValueError(
            f"a loss on labels needs (b, classes) logits, and the model gives {logits.shape}: "
            "choose another classifier than the unpooled ones"
        )
    return one_hot(batch["label"], logits.shape[-1])


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Turns (b,) class numbers into (b, classes) float32; the latter stay as they are."""
    if labels.ndim == 2:
        return labels
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def smooth_labels(labels: jax.Array, smoothing: float) -> jax.Array:
    """Moves a share of each label's weight to all classes alike.

    Source: Szegedy et al., "Rethinking the Inception Architecture" (CVPR 2016).

    Args:
        labels: (b, classes) float32 that sums to 1.
        smoothing: the share, in [0, 1).

    Returns:
        (b, classes) float32 that sums to 1.
    """
    return labels * (1 - smoothing) + smoothing / labels.shape[-1]


def probabilities(logits: jax.Array | np.ndarray, loss: str) -> jax.Array:
    """Turns (..., classes) logits into probabilities, as the loss they were trained with means."""
    if loss == "sigmoid_xent":
        return jax.nn.sigmoid(logits)
    return jax.nn.softmax(logits, axis=-1)


# Metrics.


def accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Top-1 accuracy: 1 where the largest of the (b, classes) logits is the label's."""
    return _in_top(out, batch, 1)


def top5_accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Top-5 accuracy: 1 where the label is among the five largest of the (b, classes) logits."""
    return _in_top(out, batch, min(5, out.shape[-1]))


def _in_top(out: jax.Array, batch: Batch, k: int) -> jax.Array:
    _, top = jax.lax.top_k(out, k)
    return jnp.any(top == _class_numbers(batch)[:, None], axis=-1).astype(jnp.float32)


def _class_numbers(batch: Batch) -> jax.Array:
    labels = batch["label"]
    return jnp.argmax(labels, axis=-1) if labels.ndim == 2 else labels


def guesses(out: jax.Array, batch: Batch) -> jax.Array:
    """(b, 2) int32: the class, and which one has the largest logit."""
    return jnp.stack([_class_numbers(batch), jnp.argmax(out, axis=-1)], axis=-1)


def macro_of(name: str) -> Callable[[np.ndarray], float]:
    """Makes what finishes precision, recall or F1: their mean over the classes.

    Classes that neither occur nor were guessed are left out, as scikit-learn does; a figure is 0
    where it would divide by 0.
    """

    def finish(each: np.ndarray) -> float:
        truth, guess = each.T
        count = int(each.max()) + 1
        there, guessed = (np.bincount(x, minlength=count) for x in (truth, guess))
        right = np.bincount(truth[truth == guess], minlength=count)
        known = (there + guessed) > 0
        right, guessed, there = right[known], guessed[known], there[known]
        parts = {
            "precision": (right, guessed),
            "recall": (right, there),
            "f1": (2 * right, guessed + there),
        }
        part, whole = parts[name]
        return float(np.mean(part / np.maximum(whole, 1)))

    return finish


def auc(each: np.ndarray) -> float:
    """Area under the ROC curve of each class against the rest, averaged over the classes.

    Classes of which a split has no example, or nothing else, are left out.

    Args:
        each: (examples, 1 + classes): the class, and the probability of each.
    """
    import scipy.stats  # takes a while

    truth, scores = each[:, 0].astype(int), each[:, 1:]
    areas = []
    for number, column in enumerate(scores.T):
        is_it = truth == number
        positive = int(is_it.sum())
        negative = len(truth) - positive
        if positive and negative:  # Mann and Whitney's U, as a share of all pairs
            ranks = scipy.stats.rankdata(column)[is_it].sum()
            areas.append((ranks - positive * (positive + 1) / 2) / (positive * negative))
    return float(np.mean(areas)) if areas else float("nan")


def scores_of(loss: str) -> Callable[[Out, Batch], jax.Array]:
    """Makes what gives (b, 1 + classes) float32: the class, and the probability of each."""

    def scores(out: jax.Array, batch: Batch) -> jax.Array:
        p = probabilities(out.astype(jnp.float32), loss)
        return jnp.concatenate([_class_numbers(batch)[:, None].astype(jnp.float32), p], axis=-1)

    return scores
