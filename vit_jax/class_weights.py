"""Weights of classes in the loss of a classifier, for data of which some classes are rare."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vit_jax import classification
from vit_jax.tasks.base import Batch, Loss, Out

BALANCED = "balanced"
_MOST_NAMES = 10  # of classes that a message lists


def read(text: str) -> tuple[float, ...]:
    """Reads numbers with commas between, such as "1, 4".

    Raises:
        ValueError: if it is anything else, or if one is negative, or all are 0.
    """
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if not weights or not all(0 <= w < float("inf") for w in weights) or not any(weights):
        raise ValueError(
            f"class_weights={text!r} must be {BALANCED}, or a number of at least 0 for each class "
            "with commas between, as in 1,4"
        )
    return weights


def of_classes(config: ConfigDict, data: Any) -> np.ndarray:
    """The weights of a run's classes, (classes,) float32.

    The balanced ones are n / (classes * count), as scikit-learn's `compute_class_weight` has them,
    so that their mean over the examples is 1; a class without an example has 1, and is not counted.

    Raises:
        ValueError: if there are not as many as there are classes, or if nobody knows how many
            examples each class has.
    """
    names = data.class_names
    if config.class_weights != BALANCED:
        weights = read(config.class_weights)
        if len(weights) != len(names):
            raise ValueError(
                f"class_weights has {len(weights)} numbers, and there are {len(names)} classes: "
                f"say one for each, in the order {', '.join(names[:_MOST_NAMES])}"
                f"{', ...' if len(names) > _MOST_NAMES else ''}"
            )
        return np.array(weights, np.float32)
    counts = getattr(data, "class_counts", None)
    if counts is None:
        raise ValueError(
            f"class_weights={BALANCED} needs the number of examples of each class, which these "
            "data do not say: give a number for each class, as in --config.class_weights=1,4"
        )
    there = counts > 0
    balanced = counts.sum() / (there.sum() * np.maximum(counts, 1))
    return np.where(there, balanced, 1).astype(np.float32)


def weighted(loss: Loss, config: ConfigDict, data: Any) -> Loss:
    """A loss to train by, times each example's weight; the loss itself if the config has none.

    That of an example with a mixed label is the mean of its classes' by their shares, before any
    label smoothing. The mean of a batch is over its rows, not over the sum of their weights, which
    would undo them where a batch is of one class.

    Raises:
        ValueError: see `of_classes`.
    """
    if not config.class_weights:
        return loss
    return functools.partial(_weighted, loss, of_classes(config, data), config.label_smoothing)


def _weighted(
    loss: Loss, weights: np.ndarray, smoothing: float, out: Out, batch: Batch
) -> jax.Array:
    labels = classification.one_hot(batch["label"], len(weights))
    smoothed = smoothing * jnp.sum(labels, axis=-1) * weights.mean()
    return loss(out, batch) * (labels @ weights - smoothed) / (1 - smoothing)
