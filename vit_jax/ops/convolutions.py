"""Convolutions, each as the device at hand computes it fastest."""

import jax
import jax.numpy as jnp

from vit_jax.ops import compiling

_ADDED_ROWS = 8  # of products that are summed before they are written to memory


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

    return with_more_rows(x, kernel) if compiling.is_for_cpu() else convolved(x, kernel)


def looped_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a stride of 1, padded with zeros to the same size, in a loop of XLA's.

    Within loops XLA's CPU leaves the convolutions that a gradient is made of to code that takes 20
    to 80 times as long; here these are convolutions as outside, and products.

    Args:
        x: (b, h, w, c).
        kernel: (kh, kw, c, features), of odd sides.

    Returns:
        (b, h, w, features).
    """
    if kernel.shape[:2] == (1, 1):
        return pointwise_conv(x, kernel)
    return (_looped_conv if compiling.is_for_cpu() else _same_conv)(x, kernel)


def _same_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    border = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), border, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


_looped_conv = jax.custom_vjp(_same_conv)


def _looped_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return _same_conv(x, kernel), (x, kernel)


def _looped_backward(kept: tuple, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    rows, columns, inputs, outputs = kernel.shape
    h, w = grad.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)))
    grads = grad.reshape(-1, outputs)
    of_kernel = [
        padded[:, i : i + h, j : j + w].reshape(-1, inputs).T @ grads
        for i in range(rows)
        for j in range(columns)
    ]
    of_x = _same_conv(grad, kernel[::-1, ::-1].swapaxes(2, 3))
    return of_x, jnp.stack(of_kernel).reshape(kernel.shape)


_looped_conv.defvjp(_looped_forward, _looped_backward)


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves each channel with a kernel of its own, without padding.

    XLA is slow at that on CPUs, where shifted products are summed instead.

    Args:
        x: (b, h, w, c).
        kernel: (kh, kw, 1, c).
        stride: in both directions.

    Returns:
        (b, (h - kh) // stride + 1, (w - kw) // stride + 1, c).
    """
    if compiling.is_for_cpu():
        return _shifted_conv(stride, x, kernel)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _sum_shifted(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    rows, columns = kernel.shape[:2]
    h, w = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    parts = (
        x[:, i : i + h : stride, j : j + w : stride] * kernel[i, j]
        for i in range(rows)
        for j in range(columns)
    )
    return jnp.asarray(sum(parts))


_shifted_conv = jax.custom_vjp(_sum_shifted, nondiff_argnums=(0,))


def _shifted_forward(stride: int, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return _sum_shifted(stride, x, kernel), (x, kernel)


def _shifted_backward(stride: int, kept: tuple, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Left alone, JAX would keep each shifted copy of x, and XLA add up their products slowly."""
    x, kernel = kept
    rows, columns, _, c = kernel.shape
    padding = [
        (side - 1, of_x - stride * (of_grad - 1) - 1, stride - 1)
        for side, of_x, of_grad in zip((rows, columns), x.shape[1:3], grad.shape[1:3])
    ]
    spread = jax.lax.pad(grad, jnp.zeros((), grad.dtype), [(0, 0, 0), *padding, (0, 0, 0)])
    of_x = _sum_shifted(1, spread, kernel[::-1, ::-1])

    more = -grad.shape[1] % _ADDED_ROWS
    x, grad = (
        jnp.pad(y, ((0, 0), (0, rows), (0, 0), (0, 0)))
        for y, rows in ((x, more * stride), (grad, more))
    )
    h, w = (side * stride for side in grad.shape[1:3])

    def added(i: int, j: int) -> jax.Array:
        parts = (
            x[:, i + k * stride : i + h : _ADDED_ROWS * stride, j : j + w : stride]
            * grad[:, k::_ADDED_ROWS]
            for k in range(_ADDED_ROWS)
        )
        return jnp.asarray(sum(parts)).reshape(-1, c)

    sums = jnp.concatenate([added(i, j) for i in range(rows) for j in range(columns)], axis=1)
    of_kernel = jnp.ones((1, sums.shape[0]), sums.dtype) @ sums  # faster than a sum
    return of_x, of_kernel.reshape(kernel.shape)


_shifted_conv.defvjp(_shifted_forward, _shifted_backward)


def pointwise_conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves with a kernel of one pixel.

    On CPUs a product of matrices takes less time.

    Args:
        x: (b, h, w, c).
        kernel: (1, 1, c, features).
        stride: in both directions.

    Returns:
        (b, ceil(h / stride), ceil(w / stride), features).
    """
    if compiling.is_for_cpu():
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


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
    if compiling.is_for_cpu():
        return jax.lax.conv_general_dilated(
            x, kernel, (p, q), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    b, h, w, c = x.shape
    x = x.reshape(b, h // p, p, w // q, q, c).swapaxes(2, 3)
    return x.reshape(b, h // p, w // q, p * q * c) @ kernel.reshape(-1, features)


def as_rows(x: jax.Array) -> jax.Array:
    """Makes (..., c) a matrix (n, c) on CPUs; elsewhere it stays as it is.

    Between two products XLA takes up to twice as long there for what has four or five axes.
    """
    return x.reshape(-1, x.shape[-1]) if compiling.is_for_cpu() else x
