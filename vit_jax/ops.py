"""Pure array functions that several models share."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import layout


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


def _is_for_cpu() -> bool:
    """Whether JAX runs on a CPU, where some computations are better done in another way.

    What is exported from there is so everywhere, which costs accelerators little, and is free of
    choices between platforms, which ONNX does not know.
    """
    return jax.default_backend() == "cpu"


_is_portable = False


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Leaves out what only one kind of device can run, for programs that others are to run."""
    global _is_portable
    before, _is_portable = _is_portable, True
    jax.clear_caches()  # of what was traced outside
    try:
        yield
    finally:
        _is_portable = before
        jax.clear_caches()


def _is_for_gpu() -> bool:
    """Whether JAX runs on an NVIDIA GPU, and nothing else is to run the program."""
    return not _is_portable and jax.default_backend() == "gpu" and cuda_capability() > 0


def compiler_options() -> dict[str, Any] | None:
    """What `jax.jit` is to tell XLA about our programs.

    On an NVIDIA GPU all products go to cuBLASLt, which adds biases, and applies a GELU, before it
    writes the result; XLA's own products by Triton, which it would choose among, have it done
    afterwards. What the variable XLA_FLAGS names is left to it.
    """
    if not _is_for_gpu():
        return None
    wanted = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_enable_cublaslt": True}
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        name: value
        for name, value in wanted.items()
        if f"--{name}" not in flags and _is_known(name, value)
    }


@functools.cache
def _is_known(name: str, value: bool) -> bool:
    """Whether this version of XLA has an option."""
    try:
        jax.jit(jnp.negative, compiler_options={name: value}).lower(1.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def cuda_capability() -> float:
    """Of the first device, such as 9.0; 0 where it is no NVIDIA GPU."""
    capability = getattr(jax.devices()[0], "compute_capability", "")
    return float(capability) if re.fullmatch(r"\d+\.\d+", str(capability)) else 0.0


def row_major(x: jax.Array) -> jax.Array:
    """Has a GPU keep x, and its gradient, in memory in the order of its axes.

    Left alone, XLA lets the order that a small product at the end likes best spread through all
    blocks, and transposes before and after each of their products.
    """
    if not _is_for_gpu() or (jax.device_count() > 1 and jax.__version_info__ < (0, 11)):
        return x  # the latter would gather a batch that is spread
    return layout.with_layout_constraint(x, layout.Layout(tuple(range(x.ndim))))


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

    return with_more_rows(x, kernel) if _is_for_cpu() else convolved(x, kernel)


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

    return shifted(x, kernel) if _is_for_cpu() else convolved(x, kernel)


def patch_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a stride of the kernel's sides, without padding.

    Accelerators are better at it as a product of matrices.

    Args:
        x: (b, h, w, c); h and w divisible by the kernel's sides.
        kernel: (p, q, c, features).

    Returns:
        (b, h / p, w / q, features).
    """
    p, q, _, features = kernel.shape
    if _is_for_cpu():
        return jax.lax.conv_general_dilated(
            x, kernel, (p, q), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    b, h, w, c = x.shape
    x = x.reshape(b, h // p, p, w // q, q, c).swapaxes(2, 3)
    return x.reshape(b, h // p, w // q, p * q * c) @ kernel.reshape(-1, features)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None = None,
    implementation: str | None = None,
    length: int | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al., 2017) with a softmax in float32.

    On a CPU the heads go before the tokens, so that XLA makes one program of the two products and
    the softmax between them. On an NVIDIA GPU, cuDNN's fused attention takes what it can.

    Args:
        q: (b, n, heads, c).
        k: (b, m, heads, c).
        v: (b, m, heads, c).
        bias: added to the scaled scores, (1 or b, heads, n, m), or None.
        implementation: "xla" or "cudnn" of `jax.nn.dot_product_attention`, or None: the fastest.
        length: how many of the m tokens are attended to, the first; None for all.

    Returns:
        (b, n, heads, c).
    """
    if implementation is None and _is_for_cpu():
        if length is not None:
            hidden = jnp.where(np.arange(k.shape[1]) < length, 0, -jnp.inf)
            bias = hidden if bias is None else bias + hidden
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        return _attend(q, k, v, 0 if bias is None else bias).swapaxes(1, 2)
    if implementation is None:
        implementation = "cudnn" if bias is None and fuses_attention(q) else "xla"
    apply = functools.partial(_attention, implementation=implementation, length=length)
    if implementation == "cudnn" and bias is None and (q.shape[1] % 2 or k.shape[1] % 2):
        return _differentiable_if_even(apply, q, k, v)
    return apply(q, k, v, bias)


def _attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None = None,
    *,
    implementation: str,
    length: int | None,
) -> jax.Array:
    lengths = {}
    if length is not None:
        lengths["key_value_seq_lengths"] = jnp.full(q.shape[0], length, jnp.int32)
    return jax.nn.dot_product_attention(q, k, v, bias, implementation=implementation, **lengths)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable_if_even(
    apply: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array
) -> jax.Array:
    """Attention that JAX differentiates for an even number of tokens alone; others are padded."""
    return apply(q, k, v)


def _attend_even(
    apply: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array
) -> tuple[jax.Array, Any]:
    length = apply.keywords["length"] or k.shape[1]

    def padded(*args: jax.Array) -> jax.Array:
        args = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in args)
        return functools.partial(apply, length=length)(*args)[:, : q.shape[1]]

    return jax.vjp(padded, q, k, v)


_differentiable_if_even.defvjp(_attend_even, lambda apply, pull, grad: pull(grad))


def fuses_attention(q: jax.Array) -> bool:
    """Whether cuDNN's fused attention takes queries like (b, n, heads, c), without a bias.

    Whoever trains had better give it an even number of tokens: else they are padded in every call.
    """
    if not _is_for_gpu() or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    return cuda_capability() >= 8 and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | int) -> jax.Array:
    """Attention of (..., n, c) over (..., m, c), heads being among the leading axes."""
    q = q * q.shape[-1] ** -0.5
    scores = jnp.matmul(q, k.swapaxes(-2, -1), preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores + bias).astype(v.dtype) @ v


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
    if _is_for_gpu():
        from vit_jax import window_kernel  # whose imports take a while, which others are spared

        if window_kernel.fits(qkv, heads, window):
            return window_kernel.attend(qkv, bias, window, shift)
    rows, columns, c = h // wh, w // ww, features // (3 * heads)
    x = qkv.reshape(b, rows, wh, columns, ww, 3, heads, c)
    # Taken apart first, since XLA on CPUs would copy all three and then each again.
    q, k, v = (
        x[..., i, :, :].transpose(0, 1, 3, 5, 2, 4, 6).reshape(b, rows * columns, heads, wh * ww, c)
        for i in range(3)
    )
    if any(shift):
        bias = bias + shifted_window_mask((h, w), window, shift)[:, None]
    x = _attend(q, k, v, bias).reshape(b, rows, columns, heads, wh, ww, c)
    return x.transpose(0, 1, 4, 2, 5, 3, 6).reshape(b, h, w, heads * c)


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


def leaky_relu(x: jax.Array, slope: float) -> jax.Array:
    """x, or slope times x where it is negative; JAX's own is none that jax2onnx reads."""
    return jnp.where(x >= 0, x, slope * x)


# erf(x) is x P(x^2) / Q(x^2) to the last bits of a float32, and 1 beyond the limit: as XLA has it.
_ERF_P = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06,
          -5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03,
          -1.60960333262415e-02)  # fmt: skip
_ERF_Q = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03,
          -7.37332916720468e-03, -1.42647390514189e-02)  # fmt: skip
_ERF_LIMIT = 3.832506856900711


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function of a name: "gelu" is exact, as in PyTorch, "gelu_tanh" its approximation.

    Raises:
        ValueError: for another name.
    """
    known = {"gelu_tanh": gelu_tanh, "gelu": gelu}
    if name not in known:
        raise ValueError(f"activation={name!r} is not one of {', '.join(known)}")
    return known[name]


def gelu(x: jax.Array) -> jax.Array:
    """Gaussian error linear unit (Hendrycks & Gimpel, 2016), exact, as PyTorch's default is.

    With the formula in place of `jax.lax.erf`, TensorFlow can read what is exported.
    """
    return _keeping_input(_gelu)(x)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU in its approximation by tanh, as the published ViTs have it."""
    return _keeping_input(jax.nn.gelu)(x)


def _keeping_input(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Has an accelerator keep the argument alone for the backward pass, and compute the rest anew.

    It takes a fifth of a ViT's memory away, and no longer. A CPU would compute for longer.
    """
    return function if _is_for_cpu() or _is_portable else jax.checkpoint(function)


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
    return (x * _normal_cdf(x)).astype(x.dtype)


@_gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    cdf = _normal_cdf(x)
    density = jnp.exp(-0.5 * jnp.square(x.astype(jnp.float32))) * (2 * np.pi) ** -0.5
    return (x * cdf).astype(x.dtype), ((cdf + x * density) * dx).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    """Of the standard normal distribution, in float32."""
    z = jnp.clip(x.astype(jnp.float32) * 2**-0.5, -_ERF_LIMIT, _ERF_LIMIT)
    p, q = (jnp.polyval(np.array(c, np.float32), z * z) for c in (_ERF_P, _ERF_Q))
    return 0.5 + 0.5 * z * p / q


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


def luma(x: jax.Array) -> jax.Array:
    """(..., 3) colours -> (..., 1) grey by the weights of BT.601, as Pillow and OpenCV have it."""
    weights = np.array([0.299, 0.587, 0.114], x.dtype)
    return jnp.sum(x * weights, axis=-1, keepdims=True)  # a product may have fewer bits on a GPU


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
        return sum(
            float(weight) * jax.lax.slice_in_dim(padded, k, k + length, axis=axis)
            for k, weight in enumerate(weights)
            if weight
        )

    shape = [side * factor if i == axis else side for i, side in enumerate(x.shape)]
    return jnp.stack([phase(i) for i in range(factor)], axis + 1).reshape(shape)
