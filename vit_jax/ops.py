"""Pure array functions that several models share."""

import jax
import jax.numpy as jnp
import numpy as np


def sincos2d_position_embedding(height: int, width: int, hidden_size: int) -> jax.Array:
    """Fixed sine-cosine position embedding of a 2-D grid.

    The frequencies are 1 / 10000^(k / (d/4 - 1)) for k in 0 .. d/4 - 1; the channels are
    [sin x, cos x, sin y, cos y] with x the column and y the row.

    Source: MoCo v3 (Chen et al., ICCV 2021), as big_vision uses it for its ViT-S/16 baseline.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        hidden_size: channels d; a multiple of 4, at least 8.

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
    frequencies = 10_000.0 ** -np.linspace(0, 1, hidden_size // 4)
    x = x.reshape(-1, 1) * frequencies
    y = y.reshape(-1, 1) * frequencies
    table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)[None]
    return jnp.asarray(table, jnp.float32)


def resize_position_embedding(
    table: jax.Array, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> jax.Array:
    """Interpolates position embeddings from one grid to another.

    Bilinear with aligned corners: the corners of both grids coincide, as
    `scipy.ndimage.zoom(order=1)` has it and the published fine-tunings used it.

    Args:
        table: (1, h * w, d), row-major.
        old_grid: (h, w).
        new_grid: (h', w').

    Returns:
        (1, h' * w', d) float32.
    """

    def weights(old: int, new: int) -> np.ndarray:
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


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves without padding and with a stride of 1.

    Args:
        x: (b, h, w, c).
        kernel: (kh, kw, c, features).

    Returns:
        (b, h - kh + 1, w - kw + 1, features).
    """

    def convolved(x: jax.Array, kernel: jax.Array, below: int = 0) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((0, below), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def with_more_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
        # XLA gives a convolution whose output is smaller than its input to YNNPACK, which takes
        # 2 to 8 times as long for few channels as Eigen does, which gets the others.
        rows = kernel.shape[0]
        return convolved(x, kernel, below=rows)[:, : x.shape[1] - rows + 1]

    return jax.lax.platform_dependent(x, kernel, cpu=with_more_rows, default=convolved)


def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves each channel with a kernel of its own, without padding.

    XLA is slow at that on CPUs, where shifted products are summed instead.

    Args:
        x: (b, h, w, c).
        kernel: (kh, kw, 1, c).

    Returns:
        (b, h - kh + 1, w - kw + 1, c).
    """

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        rows, columns = kernel.shape[:2]
        h, w = x.shape[1] - rows + 1, x.shape[2] - columns + 1
        return sum(
            x[:, i : i + h, j : j + w] * kernel[i, j] for i in range(rows) for j in range(columns)
        )

    def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=convolved)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al., 2017) with a softmax in float32.

    Where JAX runs on a CPU, the heads go before the tokens, so that XLA makes one program of the
    two products and the softmax between them. What is exported from there is so everywhere, which
    costs accelerators little, and is free of choices that ONNX does not know.

    Args:
        q: (b, n, heads, c).
        k: (b, m, heads, c).
        v: (b, m, heads, c).
        bias: added to the scaled scores, (1 or b, heads, n, m), or None.
        implementation: see `jax.nn.dot_product_attention`, which computes it otherwise.

    Returns:
        (b, n, heads, c).
    """
    if implementation is not None or jax.default_backend() != "cpu":
        return jax.nn.dot_product_attention(q, k, v, bias=bias, implementation=implementation)
    dtype = q.dtype
    q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    scores = jnp.matmul(q, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores if bias is None else scores + bias)
    return (weights.astype(dtype) @ v).swapaxes(1, 2)


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


def from_windows(windows: jax.Array, side: int, size: tuple[int, int]) -> jax.Array:
    """Puts windows together again; the inverse of `to_windows`, size being (h, w)."""
    h, w = size
    x = windows.reshape(-1, h // side, w // side, side, side, windows.shape[-1])
    return x.swapaxes(2, 3).reshape(-1, h, w, windows.shape[-1])


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
