"""What draws random numbers."""

import jax
import jax.numpy as jnp


def stochastic_depth(x: jax.Array, rate: float | jax.Array, key: jax.Array) -> jax.Array:
    """Drops a residual branch for whole examples and rescales the others.

    Source: Huang et al., "Deep Networks with Stochastic Depth" (ECCV 2016), in the form that
    keeps the expected value: survivors are divided by 1 - rate.

    Args:
        x: (b, ...) the branch's output.
        rate: probability in [0, 1) that an example's branch is dropped; may be traced.
        key: random key.

    Returns:
        An array like x; each example is either 0 or x / (1 - rate).
    """
    keep = 1.0 - rate
    mask = jax.random.bernoulli(key, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(mask, x / jnp.asarray(keep, x.dtype), jnp.zeros_like(x))
