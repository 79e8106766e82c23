"""Images read at places between their pixels."""

import jax
import jax.numpy as jnp


def bilinear_sample(image: jax.Array, xy: jax.Array) -> jax.Array:
    """Reads images between four pixels; beyond the border lie zeros.

    It is PyTorch's `grid_sample(align_corners=True)` with places in pixels: (0, 0) is the middle of
    the first pixel. Between the border pixels and the zeros around them is interpolated as well.

    Args:
        image: (b, h, w, c), of a floating type.
        xy: (b, ..., 2) columns and rows, in pixels; any values, infinite ones are outside.

    Returns:
        (b, ..., c), of the type of image; differentiable by both.
    """
    b, h, w, c = image.shape
    places = xy.reshape(b, -1, 2)
    first, share = split_places(places, (w, h))
    pixels = image.reshape(b, h * w, c)

    def corner(dx: int, dy: int) -> jax.Array:
        """The pixels of one corner of each place, by their shares."""
        x, y = first[..., 0] + dx, first[..., 1] + dy
        parts = abs(share - jnp.asarray([1 - dx, 1 - dy], share.dtype))
        weight = jnp.where(is_inside(x, w) & is_inside(y, h), parts[..., 0] * parts[..., 1], 0)
        index = jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)
        found = jnp.take_along_axis(pixels, index[..., None], axis=1, mode="promise_in_bounds")
        return found * weight[..., None].astype(image.dtype)

    out = corner(0, 0) + corner(1, 0) + corner(0, 1) + corner(1, 1)
    return out.reshape(*xy.shape[:-1], c)


def split_places(xy: jax.Array, size: tuple[int, int], reach: int = 0) -> tuple[jax.Array, ...]:
    """Splits places into whole pixels and the rest.

    Args:
        xy: (..., 2) columns and rows.
        size: (width, height) of what is read there.
        reach: how many pixels away from a place are read as well.

    Returns:
        (..., 2) int32 pixels above and to the left of each place, and shares in [0, 1) by which it
        lies further to the right and below. Places from which nothing inside is reached are moved
        so near that numbers do not overflow.
    """
    beyond = reach + 2
    near = jnp.clip(xy, -beyond, jnp.asarray(size, xy.dtype) - 1 + beyond)
    first = jnp.floor(near)
    return first.astype(jnp.int32), near - first


def is_inside(index: jax.Array, count: int) -> jax.Array:
    """Whether each number is one of a row or column of `count` pixels."""
    return (index >= 0) & (index < count)
