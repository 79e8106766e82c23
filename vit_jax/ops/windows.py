"""Windows of an image, and attention within them."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.ops import attending, compiling


def window_attention(
    qkv: jax.Array,
    table: jax.Array,
    window: tuple[int, int],
    shift: tuple[int, int] = (0, 0),
) -> jax.Array:
    """Multi-head attention within windows, with relative position biases.

    With a shift, the windows are those of the image rolled up and to the left by it; pixels that
    were not neighbours before then do not see each other (a bias of -100, as published).

    Source: Liu et al., "Swin Transformer" (ICCV 2021), sections 3.2 and 3.3.

    Args:
        qkv: (b, h, w, 3 heads c) queries, keys and values, rolled; h and w divisible by the
            window's sides.
        table: ((2wh - 1) (2ww - 1), heads) biases by offset, query minus key, row-major.
        window: (wh, ww).
        shift: rows and columns by which qkv was rolled.

    Returns:
        (b, h, w, heads c).
    """
    bias = table[relative_position_index(window)].transpose(2, 0, 1)
    return biased_window_attention(qkv, bias, window, shift)


def biased_window_attention(
    qkv: jax.Array,
    bias: jax.Array,
    window: tuple[int, int],
    shift: tuple[int, int] = (0, 0),
) -> jax.Array:
    """Multi-head attention within windows, with a bias for each two of their pixels.

    Args:
        qkv: (b, h, w, 3 heads c), see `window_attention`.
        bias: (heads, n, n), query, then key, for the n pixels of a window in row-major order.
        window: (wh, ww).
        shift: see `window_attention`.

    Returns:
        (b, h, w, heads c).
    """
    b, h, w, features = qkv.shape
    (wh, ww), heads = window, len(bias)
    if compiling.is_for_gpu():
        from vit_jax.ops import window_kernel  # whose imports take a while, which others are spared

        if window_kernel.fits(qkv, heads, window):
            return window_kernel.attend(qkv, bias, window, shift)
    rows, columns, c = h // wh, w // ww, features // (3 * heads)
    q, k, v = _in_windows(qkv, window, heads)
    if any(shift):
        bias = bias + shifted_window_mask((h, w), window, shift)[:, None]
    x = attending.attend(q, k, v, bias).reshape(b, rows, columns, heads, wh, ww, c)
    return x.transpose(0, 1, 4, 2, 5, 3, 6).reshape(b, h, w, heads * c)


def window_weights(
    qkv: jax.Array,
    bias: jax.Array,
    window: tuple[int, int],
    shift: tuple[int, int] = (0, 0),
) -> jax.Array:
    """The weights with which `biased_window_attention` attends, or `window_attention`.

    Args:
        qkv: (b, h, w, 3 heads c), see `window_attention`.
        bias: (heads, n, n), or a table for offsets as `window_attention` takes it.
        window: (wh, ww).
        shift: see `window_attention`.

    Returns:
        (b, windows, heads, n, n) float32: query, then key.
    """
    if bias.ndim == 2:
        bias = bias[relative_position_index(window)].transpose(2, 0, 1)
    _, h, w, _ = qkv.shape
    q, k, _ = _in_windows(qkv.astype(jnp.float32), window, len(bias))
    if any(shift):
        bias = bias + shifted_window_mask((h, w), window, shift)[:, None]
    return jax.nn.softmax(q * q.shape[-1] ** -0.5 @ k.swapaxes(-2, -1) + bias)


def _in_windows(
    qkv: jax.Array, window: tuple[int, int], heads: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(b, h, w, 3 heads c) -> queries, keys and values, (b, windows, heads, n, c) each."""
    (b, h, w, features), (wh, ww) = qkv.shape, window
    rows, columns, c = h // wh, w // ww, features // (3 * heads)
    x = qkv.reshape(b, rows, wh, columns, ww, 3, heads, c)
    # Taken apart first, since XLA on CPUs would copy all three and then each again.
    q, k, v = (
        x[..., i, :, :].transpose(0, 1, 3, 5, 2, 4, 6).reshape(b, rows * columns, heads, wh * ww, c)
        for i in range(3)
    )
    return q, k, v


def relative_position_index(window: tuple[int, int]) -> np.ndarray:
    """(n, n) places in a table of biases, for the n = h w pixels of a window: query, then key."""
    h, w = window
    y, x = np.mgrid[:h, :w].reshape(2, -1)
    return (y[:, None] - y + h - 1) * (2 * w - 1) + x[:, None] - x + w - 1


def shifted_window_mask(
    size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> jax.Array:
    """Biases that keep apart what a roll has brought together.

    In a program they are computed from two small tables, or it would hold as much as n numbers for
    each pixel.

    Args:
        size: (h, w), divisible by the window's sides.
        window: (wh, ww).
        shift: rows and columns by which the image is rolled up and to the left.

    Returns:
        (windows, wh ww, wh ww) float32: 0 or -100.
    """

    def region(side: int, window: int, shift: int) -> np.ndarray:
        """(windows, window) number of the region that a row or column is from."""
        borders = [side - window, side - shift] if shift else []
        return np.digitize(np.arange(side), borders).reshape(-1, window)

    def same(region: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(windows, n, n) whether two pixels of a window are from the same region."""
        of_pixels = region[:, places]
        return of_pixels[:, :, None] == of_pixels[:, None]

    y, x = np.mgrid[: window[0], : window[1]].reshape(2, -1)
    rows = jnp.asarray(same(region(size[0], window[0], shift[0]), y))
    columns = jnp.asarray(same(region(size[1], window[1], shift[1]), x))
    mask = jnp.where(rows[:, None] & columns, 0, jnp.float32(-100))
    return mask.reshape(-1, *mask.shape[2:])


def to_windows(x: jax.Array, side: int) -> jax.Array:
    """Cuts images into square windows.

    Args:
        x: (b, h, w, c); h and w divisible by side.
        side: of the windows.

    Returns:
        (b * windows, side * side, c); windows and the pixels in them in row-major order.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c)
    return x.swapaxes(2, 3).reshape(-1, side * side, c)
