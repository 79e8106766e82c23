"""Losses: functions (out, batch) -> one number per example."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

Batch = Mapping[str, jax.Array]
Loss = Callable[[jax.Array, Batch], jax.Array]


def softmax_xent(out: jax.Array, batch: Batch) -> jax.Array:
    """Softmax cross-entropy in nats.

    Args:
        out: (b, classes) logits.
        batch: `label`, (b,) int32 or (b, classes) float32 that sums to 1.

    Returns:
        (b,) float32.
    """
    labels = _labels(out, batch)
    return optax.softmax_cross_entropy(out.astype(jnp.float32), labels)


def sigmoid_xent(out: jax.Array, batch: Batch) -> jax.Array:
    """Sigmoid cross-entropy in nats, summed over the classes.

    Source: Beyer et al., "Are we done with ImageNet?" (2020).

    Args:
        out: (b, classes) logits.
        batch: `label`, (b,) int32 or (b, classes) float32 in [0, 1].

    Returns:
        (b,) float32.
    """
    labels = _labels(out, batch)
    return jnp.sum(optax.sigmoid_binary_cross_entropy(out.astype(jnp.float32), labels), axis=-1)


LOSSES: dict[str, Loss] = {"softmax_xent": softmax_xent, "sigmoid_xent": sigmoid_xent}


def get_loss(name: str) -> Loss:
    """Finds a loss by name; a ValueError lists what there is."""
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; there are: {', '.join(LOSSES)}")
    return LOSSES[name]


def _labels(out: jax.Array, batch: Batch) -> jax.Array:
    if out.ndim != 2:
        raise ValueError(
            f"a loss on labels needs (b, classes) logits, and the model gives {out.shape}: choose "
            "another classifier than the unpooled ones"
        )
    return one_hot(batch["label"], out.shape[-1])


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
