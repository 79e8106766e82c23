"""How many examples each class has, and a source that draws rare classes more often than that."""

import dataclasses
from typing import Any

import numpy as np

from input_pipeline.cpu_tf import tf
from input_pipeline.sources.base import IndexedSource, permute


def count_classes(source: Any) -> np.ndarray | None:
    """Counts the examples of each class.

    Returns:
        (classes,) int64; None of a source that does not know each example's one class, such as one
        that is read in sequence, or whose examples have several labels.
    """
    labels = _labels(source)
    return None if labels is None else np.bincount(labels, minlength=len(source.class_names))


def _labels(source: Any) -> np.ndarray | None:
    labels = source.columns.get("label") if isinstance(source, IndexedSource) else None
    if labels is None or np.ndim(labels) != 1:
        return None
    return labels if source.order is None else labels[source.order]


def quotas(counts: np.ndarray, balance: float) -> np.ndarray:
    """How often each class is drawn in an epoch.

    A class of n examples has a share in proportion to n^(1 - balance): with 0 each example is drawn
    once, with 1/2 classes by the square root of their size, and with 1 all classes evenly.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition"
    (ICLR 2020), equation 1, whose q is 1 - balance.

    Args:
        counts: (classes,) int, of the examples of each class.
        balance: in [0, 1].

    Returns:
        (classes,) int64 with the sum of the counts, each at least 1 where there are examples.
    """
    weights = np.where(counts > 0, np.maximum(counts, 1) ** (1.0 - balance), 0)
    exact = counts.sum() * weights / weights.sum()
    whole = np.floor(exact + 1e-9).astype(np.int64)
    by_remainder = np.argsort(whole - exact, kind="stable")
    whole[by_remainder[: counts.sum() - whole.sum()]] += 1
    return whole


def balance(source: Any, share: float) -> Any:
    """Has a source to train on draw its classes more evenly, see `quotas`.

    Raises:
        ValueError: if it does not know each example's one class, or for a share out of its range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"data.balance must lie in [0, 1], not {share}")
    if not share:
        return source
    if count_classes(source) is None:
        raise ValueError(
            f"data.balance={share} needs data that know the one class of each example before it is "
            "read, as a folder of classes or a table of labels does: keep these so, or set it to 0"
        )
    fields = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    return BalancedSource(**fields, balance=share)


@dataclasses.dataclass(frozen=True)
class BalancedSource(IndexedSource):
    """Draws as many examples in an epoch as there are, of each class as many as its quota.

    All examples of a class are drawn before any is again. What is drawn is a function of the seed
    and the position, as it is of any `IndexedSource`.

    Attributes:
        balance: see `quotas`.
    """

    balance: float = 0.0

    def _row_at(self, slot: tf.Tensor, seed: int, epoch: tf.Tensor) -> tf.Tensor:
        labels, counts = _labels(self), count_classes(self)
        assert labels is not None
        assert counts is not None  # or `balance` would not have made it
        drawn = quotas(counts, self.balance)
        rows = tf.constant(np.argsort(labels, kind="stable"), tf.int64)  # by class
        label = tf.searchsorted(tf.constant(np.cumsum(drawn)), slot[None], side="right")[0]

        def of_class(numbers: np.ndarray) -> tf.Tensor:
            return tf.constant(numbers, tf.int64)[label]

        before = of_class(np.cumsum(drawn) - drawn)
        number = epoch * of_class(drawn) + slot - before  # of all draws of this class
        size = of_class(counts)
        place = permute(number % size, size, seed, number // size, tf.cast(label, tf.int64) + 1)
        return rows[of_class(np.cumsum(counts) - counts) + place]
