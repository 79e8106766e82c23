"""Pixels that are padded, enlarged, rearranged or made grey."""

import jax
import jax.numpy as jnp
import numpy as np

PADDINGS = ("sintel", "kitti")


def reflect_pad(x: jax.Array, top: int, left: int, bottom: int = -1, right: int = -1) -> jax.Array:
    """Pads height and width by reflection about the border pixels.

    Args:
        x: (b, h, w, c).
        top: rows above; fewer than h.
        left: columns; fewer than w.
        bottom: rows below; as many as above if -1.
        right: columns; as many as left if -1.
    """
    bottom, right = (top if bottom < 0 else bottom), (left if right < 0 else right)
    if not (top or left or bottom or right):
        return x
    _, h, w, _ = x.shape
    if max(top, bottom) >= h or max(left, right) >= w:
        raise ValueError(f"images of {h} x {w} pixels are too small to be reflected that far")
    # One copy into the middle, then the borders in place: jnp.pad copies all for each border.
    y = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    middle = slice(top, top + h)
    y = y.at[:, middle, :left].set(x[:, :, 1 : left + 1][:, :, ::-1])
    y = y.at[:, middle, left + w :].set(x[:, :, w - 1 - right : w - 1][:, :, ::-1])
    y = y.at[:, :top].set(y[:, top + 1 : 2 * top + 1][:, ::-1])
    end = top + h
    return y.at[:, end:].set(y[:, end - 1 - bottom : end - 1][:, ::-1])


def multiple_margins(
    size: tuple[int, int], multiple: int, mode: str = "sintel"
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What is added to an image for its sides to be multiples of a number.

    Args:
        size: (h, w) of the image.
        multiple: the number.
        mode: "sintel" adds to both ends of each side, one pixel more to the second where it is no
            even number; "kitti" adds to the height below alone.

    Returns:
        ((above, below), (left, right)) in pixels.

    Raises:
        ValueError: for another mode.

    Source: RAFT's InputPadder.
    """
    if mode not in PADDINGS:
        raise ValueError(f"unknown padding {mode!r}; there are: {', '.join(PADDINGS)}")
    rows, columns = (-side % multiple for side in size)
    above = 0 if mode == "kitti" else rows // 2
    return (above, rows - above), (columns // 2, columns - columns // 2)


def pad_to_multiple(x: jax.Array, multiple: int, mode: str = "sintel") -> jax.Array:
    """Repeats the border pixels of (b, h, w, c) images until their sides are multiples of a number.

    See `multiple_margins` for where they are added, and so what to cut off again.
    """
    height, width = x.shape[1:3]
    margins = multiple_margins((height, width), multiple, mode)
    return jnp.pad(x, ((0, 0), *margins, (0, 0)), "edge")


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Turns channels into pixels, in PyTorch's order.

    Args:
        x: (b, h, w, c * factor * factor); channel c * factor^2 + i * factor + j becomes channel c
            of the pixel in row i and column j.
        factor: rows and columns per pixel.

    Returns:
        (b, h * factor, w * factor, c).
    """
    b, h, w, channels = x.shape
    x = x.reshape(b, h, w, channels // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * factor, w * factor, -1)


def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """Turns pixels into channels, the inverse of `pixel_shuffle`.

    Args:
        x: (b, h, w, c); h and w divisible by factor.
        factor: rows and columns to one pixel.

    Returns:
        (b, h / factor, w / factor, c * factor * factor).
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // factor, w // factor, -1)


def nearest_upsample(x: jax.Array, factor: int) -> jax.Array:
    """Makes factor x factor equal pixels of each of (b, h, w, c)."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
    return x.reshape(b, h * factor, w * factor, c)


def bicubic_upsample(x: jax.Array, factor: int) -> jax.Array:
    """Enlarges images by bicubic interpolation, mirrored at the border, as MATLAB's imresize does.

    Args:
        x: (b, h, w, c).
        factor: rows and columns of one pixel; 1 leaves the images as they are.

    Returns:
        (b, h * factor, w * factor, c), neither rounded nor clipped.
    """
    if factor == 1:
        return x
    for axis in (1, 2):
        x = _bicubic_upsample(x, factor, axis)
    return x


def _bicubic_upsample(x: jax.Array, factor: int, axis: int) -> jax.Array:
    length, reach = x.shape[axis], 2
    padded = jnp.pad(
        x, [(reach, reach) if i == axis else (0, 0) for i in range(x.ndim)], "symmetric"
    )

    def phase(i: int) -> jax.Array:
        """The new pixel i of each old one."""
        distance = np.abs(np.arange(-reach, reach + 1) - ((i + 0.5) / factor - 0.5))
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
        parts = (
            float(weight) * jax.lax.slice_in_dim(padded, k, k + length, axis=axis)
            for k, weight in enumerate(weights)
            if weight
        )
        return jnp.asarray(sum(parts))

    shape = [side * factor if i == axis else side for i, side in enumerate(x.shape)]
    return jnp.stack([phase(i) for i in range(factor)], axis + 1).reshape(shape)


def luma(x: jax.Array) -> jax.Array:
    """(..., 3) colours -> (..., 1) grey by the weights of BT.601, as Pillow and OpenCV have it."""
    weights = np.array([0.299, 0.587, 0.114], x.dtype)
    return jnp.sum(x * weights, axis=-1, keepdims=True)  # a product may have fewer bits on a GPU
