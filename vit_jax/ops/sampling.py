"""Images read at places between their pixels, and grids of such places."""

import jax
import jax.numpy as jnp
import numpy as np

MODES = ("bilinear", "nearest")
BEYOND = ("zeros", "border", "reflection")


def affine_grid(theta: jax.Array, size: tuple[int, int], align_corners: bool = True) -> jax.Array:
    """Where the pixels of an output come from by an affine map of its places to the input's.

    Places are columns and rows from -1 to 1; theta maps those of the output: (x, y) of the input is
    theta (x, y, 1).

    Source: Jaderberg et al., "Spatial Transformer Networks" (NeurIPS 2015), equation 1.

    Args:
        theta: (b, 2, 3) of a floating type; the first row gives x.
        size: (h, w) of the output in pixels.
        align_corners: whether -1 and 1 are the middles of the outermost pixels, as published, or
            the borders of the image.

    Returns:
        (b, h, w, 2) columns and rows of `grid_sample`, of theta's type.

    Raises:
        ValueError: if theta has another shape.
    """
    if theta.ndim != 3 or theta.shape[1:] != (2, 3):
        raise ValueError(f"theta must have shape (b, 2, 3), not {theta.shape}")

    def places(count: int) -> np.ndarray:
        if not align_corners:
            return (2 * np.arange(count) + 1) / count - 1
        return np.linspace(-1, 1, count) if count > 1 else np.zeros(1)

    y, x = (
        jnp.asarray(each, theta.dtype)
        for each in np.meshgrid(*(places(count) for count in size), indexing="ij")
    )
    # Not a product of matrices, which a GPU may round to fewer bits.
    columns, rows, offset = (theta[:, None, None, :, i] for i in range(3))
    return columns * x[..., None] + rows * y[..., None] + offset


def grid_sample(
    image: jax.Array,
    grid: jax.Array,
    mode: str = "bilinear",
    beyond: str = "zeros",
    align_corners: bool = True,
) -> jax.Array:
    """Reads images at places from -1 to 1, as PyTorch's function of this name does.

    Args:
        image: (b, h, w, c), of a floating type.
        grid: (b, ..., 2) columns and rows; -1 and 1 are the ends of the image.
        mode: "bilinear", or "nearest", with halves rounded to even numbers.
        beyond: what lies outside of the image: "zeros"; "border", its outermost pixels; or
            "reflection", itself mirrored, about the ends, for as far as it takes.
        align_corners: whether the ends are the middles of the outermost pixels or the borders of
            the image; PyTorch's default is the latter.

    Returns:
        (b, ..., c), of the type of image; differentiable by the image, and by the grid if bilinear.

    Raises:
        ValueError: for another mode, or another `beyond`.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is not one of {', '.join(MODES)}")
    if beyond not in BEYOND:
        raise ValueError(f"beyond={beyond!r} is not one of {', '.join(BEYOND)}")
    h, w = image.shape[1:3]
    size = np.array([w, h])
    if align_corners:
        xy = (grid + 1) / 2 * (size - 1).astype(grid.dtype)
    else:
        xy = ((grid + 1) * size.astype(grid.dtype) - 1) / 2
    if beyond == "reflection":
        xy = jnp.stack([_mirror(xy[..., i], int(size[i]), align_corners) for i in (0, 1)], axis=-1)
    if beyond != "zeros":
        xy = jnp.clip(xy, 0, (size - 1).astype(grid.dtype))
    if mode == "bilinear":
        return bilinear_sample(image, xy)
    return _read(image, jnp.round(_near(xy, (w, h), 2)).astype(jnp.int32))


def _mirror(x: jax.Array, count: int, align_corners: bool) -> jax.Array:
    """Reflects pixel coordinates about the first and the last of them, or half a pixel beyond."""
    low, span = (0.0, count - 1) if align_corners else (-0.5, count)
    if not span:
        return jnp.zeros_like(x)
    distance = abs(x - low)
    times = jnp.floor(distance / span)
    rest = distance - times * span
    return jnp.where(times % 2 == 0, rest, span - rest) + low


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
    h, w = image.shape[1:3]
    first, share = split_places(xy, (w, h))

    def corner(dx: int, dy: int) -> jax.Array:
        """The pixels of one corner of each place, by their shares."""
        parts = abs(share - jnp.asarray([1 - dx, 1 - dy], share.dtype))
        return _read(image, first + jnp.asarray([dx, dy]), parts[..., 0] * parts[..., 1])

    return corner(0, 0) + corner(1, 0) + corner(0, 1) + corner(1, 1)


def _read(image: jax.Array, xy: jax.Array, weight: jax.Array | int = 1) -> jax.Array:
    """Pixels (b, ..., c) at whole places (b, ..., 2), times their weights; 0 outside."""
    b, h, w, c = image.shape
    x, y = xy[..., 0].reshape(b, -1), xy[..., 1].reshape(b, -1)
    index = jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)
    found = jnp.take_along_axis(
        image.reshape(b, h * w, c), index[..., None], axis=1, mode="promise_in_bounds"
    )
    inside = is_inside(x, w) & is_inside(y, h)
    weight = jnp.where(inside, jnp.reshape(weight, (b, -1)) if jnp.ndim(weight) else weight, 0)
    return (found * weight[..., None].astype(image.dtype)).reshape(*xy.shape[:-1], c)


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
    near = _near(xy, size, reach + 2)
    first = jnp.floor(near)
    return first.astype(jnp.int32), near - first


def _near(xy: jax.Array, size: tuple[int, int], pixels: int) -> jax.Array:
    """Moves places to at most so many pixels beyond the border, where nothing lies either."""
    return jnp.clip(xy, -pixels, jnp.asarray(size, xy.dtype) - 1 + pixels)


def is_inside(index: jax.Array, count: int) -> jax.Array:
    """Whether each number is one of a row or column of `count` pixels."""
    return (index >= 0) & (index < count)
