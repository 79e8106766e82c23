"""Metrics: functions (out, batch) -> one number per example; a score is their mean."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]
Metric = Callable[[jax.Array, Batch], jax.Array]


def accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Top-1 accuracy: 1 where the largest of the (b, classes) logits is the label's."""
    return _in_top(out, batch["label"], 1)


def top5_accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Top-5 accuracy: 1 where the label is among the five largest of the (b, classes) logits."""
    return _in_top(out, batch["label"], min(5, out.shape[-1]))


def _in_top(out: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    if labels.ndim == 2:
        labels = jnp.argmax(labels, axis=-1)
    _, top = jax.lax.top_k(out, k)
    return jnp.any(top == labels[:, None], axis=-1).astype(jnp.float32)


METRICS: dict[str, Metric] = {"accuracy": accuracy, "top5_accuracy": top5_accuracy}


def get_metric(name: str) -> Metric:
    """Finds a metric by name; a ValueError lists what there is."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; there are: {', '.join(METRICS)}")
    return METRICS[name]
