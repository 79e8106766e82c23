"""Feature maps brought to another size, as PyTorch's `interpolate` does it."""

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes by bilinear interpolation between the centres of pixels, without antialiasing.

    It is PyTorch's `interpolate(mode="bilinear", align_corners=False)` to a given size.

    Args:
        x: (b, h, w, c), of a floating type.
        size: (height, width) of the result.

    Returns:
        (b, *size, c), of the type of x.
    """
    x = _resize_axis(x, 1, size[0])
    return _resize_axis(x, 2, size[1])


def _resize_axis(x: jax.Array, axis: int, count: int) -> jax.Array:
    length = x.shape[axis]
    if count == length:
        return x
    if length == 1:
        return jnp.repeat(x, count, axis)
    if count % length == 0:
        return _enlarge_axis(x, axis, count // length)
    matrix = jnp.asarray(_linear_matrix(length, count), x.dtype)
    highest = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    rows = jnp.tensordot(matrix, x, axes=(1, axis), precision=highest)
    return jnp.moveaxis(rows, 0, axis)


def _enlarge_axis(x: jax.Array, axis: int, factor: int) -> jax.Array:
    """A whole number of times: each of the `factor` new pixels of an old one has a fixed share."""
    length = x.shape[axis]

    def neighbours(step: int) -> jax.Array:
        """Each pixel's neighbour on one side; at the border itself."""
        border = jax.lax.slice_in_dim(x, *((0, 1) if step < 0 else (length - 1, length)), axis=axis)
        if step < 0:
            return jnp.concatenate(
                [border, jax.lax.slice_in_dim(x, 0, length - 1, axis=axis)], axis
            )
        return jnp.concatenate([jax.lax.slice_in_dim(x, 1, length, axis=axis), border], axis)

    before, after = neighbours(-1), neighbours(1)
    parts = []
    for i in range(factor):
        offset = (i + 0.5) / factor - 0.5
        share = jnp.asarray(abs(offset), x.dtype)
        parts.append(x + share * ((before if offset < 0 else after) - x))
    shape = (*x.shape[:axis], length * factor, *x.shape[axis + 1 :])
    return jnp.stack(parts, axis + 1).reshape(shape)


def _linear_matrix(length: int, count: int) -> np.ndarray:
    """(count, length) share of each old pixel in each new one."""
    at = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
    return np.maximum(0, 1 - abs(at[:, None] - np.arange(length))).astype(np.float32)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes (b, h, w, c) to (b, *size, c) by copying pixels, PyTorch's "nearest".

    Pixel i of n comes from floor(i m / n) of m; twice as many are each pixel doubled.
    """
    for axis, count in zip((1, 2), size):
        length = x.shape[axis]
        if count % length == 0:
            x = jnp.repeat(x, count // length, axis)
        else:
            x = jnp.take(x, np.arange(count) * length // count, axis=axis)
    return x
