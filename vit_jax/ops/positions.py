"""Positions in a row or on a grid: their embeddings, and tables of them for another grid."""

import math

import jax
import jax.numpy as jnp
import numpy as np

POSITION_RESIZES = ("linear", "bicubic", "dino")


def sincos1d_position_embedding(length: int, hidden_size: int) -> jax.Array:
    """Fixed sine-cosine position embedding of a row of tokens.

    Channels 2i and 2i + 1 are the sine and the cosine of p / 10000^(2i / d) at position p. The code
    of tensor2tensor has all sines first and slightly other frequencies.

    Source: Vaswani et al., "Attention Is All You Need" (NeurIPS 2017), section 3.5.

    Args:
        length: positions, from 0.
        hidden_size: channels d; even.

    Returns:
        (1, length, hidden_size) float32, values in [-1, 1].

    Raises:
        ValueError: if hidden_size does not fit.
    """
    if hidden_size % 2 or hidden_size < 2:
        raise ValueError(
            f"sinusoids come in pairs, so that hidden_size must be even, not {hidden_size}"
        )
    frequencies = 10_000.0 ** (-np.arange(0, hidden_size, 2) / hidden_size)
    angles = np.arange(length)[:, None] * frequencies
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(1, length, hidden_size)
    return jnp.asarray(table, jnp.float32)


def sincos2d_position_embedding(
    height: int, width: int, hidden_size: int, endpoint: bool = True
) -> jax.Array:
    """Fixed sine-cosine position embedding of a 2-D grid.

    The frequencies are 1 / 10000^(k / (d/4 - 1)) for k in 0 .. d/4 - 1, or 1 / 10000^(k / (d/4))
    without the endpoint; the channels are [sin x, cos x, sin y, cos y] with x the column and y the
    row.

    Source: MoCo v3 (Chen et al., ICCV 2021), as big_vision uses it for its ViT-S/16 baseline;
    without the endpoint: the code of MAE (He et al., CVPR 2022).

    Args:
        height: rows of the grid.
        width: columns of the grid.
        hidden_size: channels d; a multiple of 4, at least 8.
        endpoint: whether the lowest frequency is 1 / 10000.

    Returns:
        (1, height * width, hidden_size) float32, values in [-1, 1], row-major order.

    Raises:
        ValueError: if hidden_size does not fit.
    """
    if hidden_size % 4 or hidden_size < 8:
        raise ValueError(
            f"sincos2d position embeddings need a hidden_size that is a multiple of 4 and at "
            f"least 8, not {hidden_size}"
        )
    y, x = np.mgrid[:height, :width]
    frequencies = 10_000.0 ** -np.linspace(0, 1, hidden_size // 4, endpoint)
    x = x.reshape(-1, 1) * frequencies
    y = y.reshape(-1, 1) * frequencies
    table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)[None]
    return jnp.asarray(table, jnp.float32)


def resize_position_embedding(
    table: jax.Array,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    method: str = "linear",
) -> jax.Array:
    """Interpolates position embeddings from one grid to another.

    "linear" is bilinear with aligned corners: the corners of both grids coincide, as
    `scipy.ndimage.zoom(order=1)` has it and the published fine-tunings used it. "bicubic" is
    antialiased, and the borders of both grids coincide, as in open_clip and timm. "dino" is
    PyTorch's bicubic, not antialiased, with the scales (h' + .1) / h and (w' + .1) / w, as in the
    code of DINO and DINOv2.

    Args:
        table: (1, h * w, d), row-major.
        old_grid: (h, w).
        new_grid: (h', w').
        method: one of `POSITION_RESIZES`.

    Returns:
        (1, h' * w', d) float32.
    """
    if method == "bicubic":
        grid = jnp.asarray(table, jnp.float32).reshape(*old_grid, -1)
        resized = jax.image.resize(grid, (*new_grid, grid.shape[-1]), "cubic", antialias=True)
        return resized.reshape(1, math.prod(new_grid), -1)

    def weights(old: int, new: int) -> np.ndarray:
        if method == "dino":
            return _cubic_weights(old, new)
        position = np.linspace(0, old - 1, new)[:, None]  # in float64
        return np.maximum(0, 1 - np.abs(position - np.arange(old))).astype(np.float32)

    (h, w), (new_h, new_w) = old_grid, new_grid
    table = jnp.einsum(
        "ya,xb,abd->yxd",
        weights(h, new_h),
        weights(w, new_w),
        jnp.asarray(table, jnp.float32).reshape(h, w, -1),
        precision=jax.lax.Precision.HIGHEST,
    )
    return table.reshape(1, new_h * new_w, -1)


_SPARE = 0.1  # of a patch, by which DINO's new grid is larger, so that rounding loses none


def _cubic_weights(old: int, new: int) -> np.ndarray:
    """(new, old) float32 of PyTorch's cubic interpolation with DINO's scale."""
    if old == new:
        return np.eye(old, dtype=np.float32)
    at = (np.arange(new) + 0.5) * old / (new + _SPARE) - 0.5
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        pixel = np.floor(at) + offset
        distance = np.abs(at - pixel)
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        share = np.where(distance <= 1, near, far)
        np.add.at(weights, (np.arange(new), np.clip(pixel, 0, old - 1).astype(int)), share)
    return weights.astype(np.float32)


def class_bias_index(grid: tuple[int, int]) -> np.ndarray:
    """Which row of a table of biases belongs to each query and key, BEiT's way.

    The first (2h - 1) (2w - 1) rows are of two patches, row-major by the offset of query and key;
    then come those of the class token's query, of its key, and of both.

    Source: Bao et al., "BEiT" (ICLR 2022), the published code.

    Args:
        grid: (h, w) of the patches, which the class token precedes.

    Returns:
        (1 + h * w, 1 + h * w) int, of the query and the key.
    """
    h, w = grid
    y, x = (place.reshape(-1) for place in np.mgrid[:h, :w])
    rows = (2 * h - 1) * (2 * w - 1)
    index = np.empty((1 + h * w, 1 + h * w), np.int64)
    index[1:, 1:] = (y[:, None] - y + h - 1) * (2 * w - 1) + (x[:, None] - x + w - 1)
    index[0], index[:, 0], index[0, 0] = rows, rows + 1, rows + 2
    return index


def resize_bias_table(
    table: jax.Array, old_window: tuple[int, int], new_window: tuple[int, int]
) -> jax.Array:
    """Interpolates a table of relative position biases from one window to another.

    The old offsets are spread so that the outermost ones meet, close ones less than far ones: their
    distances grow by a constant factor of at least 1.01. In between it is linear. A smaller window
    so keeps about the biases of the offsets that it has.

    Source: BEiT (Bao et al., ICLR 2022), in timm's form.

    Args:
        table: ((2h - 1) (2w - 1), heads), row-major by the offset of query and key.
        old_window: (h, w).
        new_window: (h', w').

    Returns:
        ((2h' - 1) (2w' - 1), heads) float32.
    """

    def positions(old: int, new: int) -> np.ndarray:
        low, high = 1.01, 1.5
        while high - low > 1e-6:
            factor = (low + high) / 2
            too_far = np.sum(factor ** np.arange(old - 1)) > new - 1
            low, high = (low, factor) if too_far else (factor, high)
        distances = np.cumsum(factor ** np.arange(old - 1))
        return np.concatenate([-distances[::-1], [0], distances])

    def weights(old: int, new: int) -> np.ndarray:
        if old == new:
            return np.eye(2 * old - 1, dtype=np.float32)
        offsets, at = np.arange(1 - new, new), positions(old, new)
        return np.stack(
            [np.interp(offsets, at, row) for row in np.eye(2 * old - 1)], axis=1
        ).astype(np.float32)

    (h, w), (new_h, new_w) = old_window, new_window
    if old_window == new_window:
        return jnp.asarray(table, jnp.float32)
    resized = jnp.einsum(
        "ya,xb,abn->yxn",
        weights(h, new_h),
        weights(w, new_w),
        jnp.asarray(table, jnp.float32).reshape(2 * h - 1, 2 * w - 1, -1),
        precision=jax.lax.Precision.HIGHEST,
    )
    return resized.reshape(-1, table.shape[-1])


def resize_class_bias_table(
    table: jax.Array, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> jax.Array:
    """As `resize_bias_table`, with three rows of a class token after it, which stay as they are.

    Args:
        table: ((2h - 1) (2w - 1) + 3, heads), or a stack of such of several blocks.
        old_grid: (h, w).
        new_grid: (h', w').
    """
    if table.ndim == 3:
        return jnp.stack([resize_class_bias_table(each, old_grid, new_grid) for each in table])
    resized = resize_bias_table(table[:-3], old_grid, new_grid)
    return jnp.concatenate([resized, table[-3:]])
