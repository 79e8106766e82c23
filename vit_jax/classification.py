"""What a classifier says of images: its losses, and the figures of examples and of a split."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, Any]
Out = Any  # (b, classes) logits, or a dict of them, see `logits_of`

_BINS = 15  # of confidences


def softmax_xent(out: jax.Array, batch: Batch) -> jax.Array:
    """Softmax cross-entropy in nats.

    Args:
        out: (b, classes) logits, or a dict of them, see `logits_of`.
        batch: `label`, (b,) int32 or (b, classes) float32 that sums to 1.

    Returns:
        (b,) float32.
    """
    import optax  # takes a while to import

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
    import optax  # takes a while to import

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
    return getattr(jax.nn, activation(loss))(logits)


def activation(loss: str) -> str:
    """What makes probabilities of logits that a loss has trained, see `tasks.base.Output`."""
    return "sigmoid" if loss == "sigmoid_xent" else "softmax"


def averaged(views: Sequence[jax.Array], loss: str) -> jax.Array:
    """The logits of the mean of the probabilities that several views of the images have.

    Args:
        views: (b, classes) logits each.
        loss: that they were trained with, which says what they mean.

    Returns:
        (b, classes) float32: `probabilities` of it are the mean of those of the views.
    """
    logits = jnp.stack([view.astype(jnp.float32) for view in views])

    def log_mean(log_p: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(log_p, axis=0) - jnp.log(float(len(views)))

    if activation(loss) == "sigmoid":
        return log_mean(jax.nn.log_sigmoid(logits)) - log_mean(jax.nn.log_sigmoid(-logits))
    return log_mean(jax.nn.log_softmax(logits))


def has_several(data: Any) -> bool:
    """Whether an image of a data set can be of several classes: labels are (b, classes)."""
    shape, _ = data.example["label"]
    return len(shape) == 1


# Figures of each example.


def accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Top-1 accuracy: 1 where the largest of the (b, classes) logits is the label's."""
    return _in_top(out, batch, 1)


def top5_accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Top-5 accuracy: 1 where the label is among the five largest of the (b, classes) logits."""
    return _in_top(out, batch, min(5, out.shape[-1]))


def real_accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Accuracy on ReaL's labels: 1 where the class of the largest logit is one of an image's.

    Source: Beyer et al., "Are we done with ImageNet?" (2020).

    Args:
        out: (b, classes) logits.
        batch: `real`, (b, k) int32 numbers of classes, of which those below 0 are none.

    Returns:
        (b,) float32, NaN for images without labels, which do not count.
    """
    labels = batch["real"]
    is_right = jnp.any(labels == jnp.argmax(out, axis=-1)[:, None], axis=-1)
    return jnp.where(jnp.any(labels >= 0, axis=-1), is_right.astype(jnp.float32), jnp.nan)


def _in_top(out: jax.Array, batch: Batch, k: int) -> jax.Array:
    _, top = jax.lax.top_k(out, k)
    return jnp.any(top == _class_numbers(batch)[:, None], axis=-1).astype(jnp.float32)


def _class_numbers(batch: Batch) -> jax.Array:
    labels = batch["label"]
    return jnp.argmax(labels, axis=-1) if labels.ndim == 2 else labels


def guesses(out: jax.Array, batch: Batch) -> jax.Array:
    """What is there, and what the (b, classes) logits say is there.

    Returns:
        (b, 2) int32: the class, and the one of the largest logit. Of several labels (b, 2, classes)
        int32: 1 for each class that is there, and for each of a logit above 0, which is a
        probability above 1/2.
    """
    if batch["label"].ndim == 2:
        return jnp.stack([batch["label"] > 0.5, out > 0], axis=1).astype(jnp.int32)
    return jnp.stack([batch["label"], jnp.argmax(out, axis=-1)], axis=-1)


@functools.cache  # so that several figures are made of one array
def scores_of(loss: str) -> Callable[[Out, Batch], jax.Array]:
    """Makes what gives the truth and the probabilities, of the loss that says what logits mean.

    Its result is (b, 1 + classes) float32: the class, and the probability of each. Of several
    labels it is (b, 2, classes): 1 for each class that is there, and the probabilities.
    """

    def scores(out: jax.Array, batch: Batch) -> jax.Array:
        p = probabilities(out.astype(jnp.float32), loss)
        label = batch["label"]
        if label.ndim == 2:
            return jnp.stack([label.astype(jnp.float32), p], axis=1)
        return jnp.concatenate([label[:, None].astype(jnp.float32), p], axis=-1)

    return scores


# Figures of each class.


def count(guessed: np.ndarray, classes: int = 0) -> np.ndarray:
    """Counts the examples of each class: all that precision and recall are made of.

    Args:
        guessed: (examples, 2) or (examples, 2, classes) of `guesses`.
        classes: how many there are at least.

    Returns:
        (3, classes) int64: of a class those that are found, those taken for it, and those of it.
    """
    if guessed.ndim == 3:
        truth, guess = np.moveaxis(guessed, 1, 0).astype(bool)
        return np.stack([x.sum(axis=0) for x in (truth & guess, guess, truth)])
    truth, guess = guessed.T
    classes = max(classes, int(guessed.max(initial=-1)) + 1)
    return np.stack(
        [np.bincount(x, minlength=classes) for x in (truth[truth == guess], guess, truth)]
    )


def class_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class.

    Args:
        counts: (3, classes) of `count`.

    Returns:
        (classes,) float64 by name: NaN for a class that neither occurs nor was guessed; else 0
        where it would divide by 0, which is scikit-learn's `zero_division=0`.
    """
    found, guessed, there = counts
    parts = {
        "precision": (found, guessed),
        "recall": (found, there),
        "f1": (2 * found, guessed + there),
    }
    known = (guessed + there) > 0
    return {k: np.where(known, a / np.maximum(b, 1), np.nan) for k, (a, b) in parts.items()}


def roc_areas(scores: np.ndarray) -> np.ndarray:
    """The area under the ROC curve of each class against the rest.

    Args:
        scores: of all examples, from `scores_of`.

    Returns:
        (classes,) float64 in [0, 1]; NaN for a class of which there is no example, or nothing else.
    """
    return np.array([_roc_area(truth, p) for truth, p in _columns(scores)])


def average_precisions(scores: np.ndarray) -> np.ndarray:
    """The average precision of each class: the area under its steps of precision over recall.

    It is the sum of (R_n - R_(n-1)) P_n over the distinct probabilities, from the highest on, with
    the recall R_n and precision P_n of what is at least as likely. Nothing is interpolated.

    Args:
        scores: of all examples, from `scores_of`.

    Returns:
        (classes,) float64 in [0, 1]; NaN for a class of which there is no example.
    """
    return np.array([_average_precision(truth, p) for truth, p in _columns(scores)])


def _columns(scores: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each class (examples,) bool, whether it is there, and (examples,) its probabilities."""
    if scores.ndim == 3:
        yield from zip(scores[:, 0].T > 0.5, scores[:, 1].T)
        return
    for number, p in enumerate(scores[:, 1:].T):
        yield scores[:, 0] == number, p


def _roc_area(truth: np.ndarray, p: np.ndarray) -> float:
    import scipy.stats  # takes a while

    positive = int(truth.sum())
    negative = len(truth) - positive
    if not (positive and negative):
        return float("nan")
    ranks = scipy.stats.rankdata(p)[truth].sum()  # Mann and Whitney's U, as a share of all pairs
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def _average_precision(truth: np.ndarray, p: np.ndarray) -> float:
    if not truth.any() or np.isnan(p).any():
        return float("nan")
    order = np.argsort(-p, kind="stable")
    ends = np.flatnonzero(np.diff(p[order], append=np.nan))  # the last of each probability
    found = np.cumsum(truth[order])[ends]
    return float(np.sum(np.diff(found, prepend=0) * (found / (ends + 1))) / found[-1])


# Figures of a split.


def macro(name: str) -> Callable[[np.ndarray], float]:
    """Makes what finishes `guesses`: the mean over the classes of one of `class_figures`.

    Classes that neither occur nor were guessed are left out, as scikit-learn does with one label.
    """
    return lambda guessed: _mean_of_known(class_figures(count(guessed))[name])


def balanced_accuracy(guessed: np.ndarray) -> float:
    """The mean over the classes that occur of their recall, of all examples' `guesses`."""
    found, _, there = count(guessed)
    return float(np.mean(found[there > 0] / there[there > 0]))


def auc(scores: np.ndarray) -> float:
    """The mean of `roc_areas` over the classes that have one; NaN if none has."""
    return _mean_of_known(roc_areas(scores))


def mean_average_precision(scores: np.ndarray) -> float:
    """The mean of `average_precisions` over the classes that occur; NaN if none does."""
    return _mean_of_known(average_precisions(scores))


def log_loss(scores: np.ndarray) -> float:
    """The mean of -ln(p) of what is there, in nats, with p cut to [eps, 1 - eps] of its type.

    Of several labels it is that of being there or not, averaged over the classes.
    """
    eps = np.finfo(scores.dtype).eps
    if scores.ndim == 3:
        truth, p = np.moveaxis(scores, 1, 0)
        right = np.where(truth > 0.5, p, 1 - p)
    else:
        right = np.take_along_axis(scores[:, 1:], scores[:, :1].astype(int), axis=1)
    return float(-np.mean(np.log(np.clip(right, eps, 1 - eps), dtype=np.float64)))


def expected_calibration_error(scores: np.ndarray) -> float:
    """How far the confidence is from the accuracy: the mean of `|accuracy - confidence|` over bins.

    The confidence is the largest probability. Examples are put by it into 15 bins of equal width,
    (0, 1/15], (1/15, 2/15], ..., and a bin counts by its examples.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), equation 3.

    Args:
        scores: (examples, 1 + classes) from `scores_of`.

    Returns:
        In [0, 1]; 0 if of what is said with p, the share p is right.
    """
    p = scores[:, 1:].astype(np.float64)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == scores[:, 0]
    bins = np.searchsorted(np.linspace(0, 1, _BINS + 1)[1:-1], confidence, side="left")
    gaps = np.bincount(bins, weights=right - confidence, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(p))


def _mean_of_known(figures: np.ndarray) -> float:
    known = figures[~np.isnan(figures)]
    return float(np.mean(known)) if known.size else float("nan")
