"""What models of optical flow share: reading costs around a place, and enlarging the flow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.ops import sampling


def cost_lookup(cost: jax.Array, xy: jax.Array, radius: int = 4) -> jax.Array:
    """Reads each pixel's map of costs at places around the one where it is thought to be.

    All places of a pixel lie equally far from whole pixels, so that one window is taken and blended
    with itself, shifted by one. Beyond the border costs are zero.

    Source: Teed and Deng, "RAFT" (ECCV 2020), section 3.2, of which this is one level, without
    scaling. As in its code, the slower of the two offsets moves x.

    Args:
        cost: (..., h, w), of a floating type: for each pixel a map over the other image.
        xy: (..., 2) column and row in that map, in pixels; any values.
        radius: how many whole pixels away is read, along either axis.

    Returns:
        (..., (2 radius + 1)^2): number i (2 radius + 1) + j is at xy + (i - radius, j - radius).
    """
    *lead, h, w = cost.shape
    first, share = sampling.split_places(xy.reshape(-1, 2), (w, h), radius)
    side = 2 * radius + 1
    x = _window(cost.reshape(-1, h, w), first - radius, side + 1)
    right, below = (share[:, i, None, None].astype(cost.dtype) for i in range(2))
    x = x[:, :, :-1] * (1 - right) + x[:, :, 1:] * right
    x = x[:, :-1] * (1 - below) + x[:, 1:] * below
    return x.swapaxes(1, 2).reshape(*lead, side**2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _window(maps: jax.Array, first: jax.Array, side: int) -> jax.Array:
    """Cuts one window out of each of (n, h, w), from (n, 2) column and row on: (n, side, side)."""
    _, h, w = maps.shape
    x, y = (first[:, i, None] + np.arange(side) for i in range(2))
    inside = sampling.is_inside(y, h)[:, :, None] & sampling.is_inside(x, w)[:, None]
    index = jnp.clip(y, 0, h - 1)[:, :, None] * w + jnp.clip(x, 0, w - 1)[:, None]
    found = jnp.take_along_axis(
        maps.reshape(maps.shape[0], -1),
        index.reshape(maps.shape[0], -1),
        axis=1,
        mode="promise_in_bounds",
    )
    return jnp.where(inside, found.reshape(inside.shape), 0)


def _window_forward(maps: jax.Array, first: jax.Array, side: int) -> tuple[jax.Array, tuple]:
    return _window(maps, first, side), (first, maps.shape[1:])


def _window_backward(side: int, kept: tuple, grad: jax.Array) -> tuple[jax.Array, None]:
    """Puts the window back by two products: XLA is slow at adding numbers at many places."""
    first, (h, w) = kept

    def matrix(i: int, count: int) -> jax.Array:
        """(n, side, count) 1 where a row or column of the window lies in the map, else 0."""
        at = first[:, i, None] + np.arange(side)
        return (at[..., None] == np.arange(count)).astype(grad.dtype)

    rows = jnp.einsum("nsh,nst->nht", matrix(1, h), grad)
    return jnp.einsum("nht,ntw->nhw", rows, matrix(0, w)), None


_window.defvjp(_window_forward, _window_backward)


def convex_upsample(flow: jax.Array, mask: jax.Array) -> jax.Array:
    """Enlarges a flow 8 times: each new vector is a mean of the nine around the old pixel.

    Source: Teed and Deng, "RAFT" (ECCV 2020), section 3.3. Vectors beyond the border are zero.

    Args:
        flow: (b, h, w, 2) float32, in pixels.
        mask: (b, h, w, 9 * 64); number 64 k + 8 i + j is the logit of neighbour k, in row-major
            order, for row i and column j of the new pixels.

    Returns:
        (b, 8 h, 8 w, 2) float32, in new pixels.
    """
    b, h, w, _ = flow.shape
    shares = jax.nn.softmax(mask.reshape(b, h, w, 9, 64).astype(jnp.float32), axis=3)
    around = jnp.pad(8 * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = (
        shares[:, :, :, 3 * i + j, :, None] * around[:, i : i + h, j : j + w, None]
        for i in range(3)
        for j in range(3)
    )
    x = jnp.asarray(sum(parts)).reshape(b, h, w, 8, 8, 2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, 8 * h, 8 * w, 2)


def upflow8(flow: jax.Array) -> jax.Array:
    """Enlarges a flow 8 times by bilinear interpolation, the corners of both staying together.

    Args:
        flow: (b, h, w, 2), in pixels.

    Returns:
        (b, 8 h, 8 w, 2), in new pixels.
    """

    def matrix(count: int) -> np.ndarray:
        """(8 count, count) shares of the old pixels in each new one."""
        at = np.arange(8 * count) * ((count - 1) / (8 * count - 1))
        return np.maximum(0, 1 - abs(at[:, None] - np.arange(count)))

    rows, columns = (jnp.asarray(matrix(side), flow.dtype) for side in flow.shape[1:3])
    highest = jax.lax.Precision.HIGHEST
    x = jnp.einsum("yh,bhwc->bywc", rows, 8 * flow, precision=highest)
    return jnp.einsum("xw,bywc->byxc", columns, x, precision=highest)
