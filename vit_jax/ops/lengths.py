"""Lengths of vectors."""

import jax
import jax.numpy as jnp


def unit_length(x: jax.Array) -> jax.Array:
    """Divides vectors (..., d) by their length plus 1e-8, in float32, as LiT and SigLIP do.

    CLIP has no such summand; for vectors of about its lengths, a float32 does not see it.
    A vector of zeros stays one, and its gradient is finite.
    """
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    is_zero = square == 0
    return x / (jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, square))) + 1e-8)
