"""The moving average of a run's parameters, with or without a warmup."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


def decay_at(config: ConfigDict, step: jax.Array | int) -> jax.Array | float:
    """What the average keeps of itself at an update, a number in [0, 1).

    With `config.ema_warmup` it is min(ema_decay, (1 + step) / (10 + step)), so that the parameters
    that a run began with are soon forgotten: they have 0.1 of the average after the first update,
    and 1 / 92378 of it after ten, where a constant 0.999 leaves them 0.99.

    Source: `num_updates` of TensorFlow's `tf.train.ExponentialMovingAverage`.

    Args:
        config: of the run.
        step: () int, the updates made before, on which alone it depends.
    """
    if not config.ema_warmup:
        return config.ema_decay
    return jnp.minimum(config.ema_decay, (1 + step) / (10 + step))


def follow(config: ConfigDict, new: Any, old: Any, step: jax.Array | int) -> Any:
    """Moves an average towards the new values; None, which is no average, stays."""
    if old is None:
        return None
    return optax.incremental_update(new, old, 1 - decay_at(config, step))
