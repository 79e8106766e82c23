"""Attention within windows as one program of an NVIDIA GPU, in Pallas by way of Triton.

XLA writes the scores of all windows to memory, several times, and takes the image apart into
windows and together again in further passes. Here a program takes a window and a head from where
they lie in the image, and nothing but the result is written. The backward pass computes the scores
anew.

Measured on an H100 in bfloat16, forward and backward: 3.1 to 4.6 times as fast as XLA.

JAX 0.11 announces that Pallas will do without Triton one day; without it `fits` is False.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas

from vit_jax.ops import compiling

try:
    from jax.experimental.pallas import triton
except ImportError:
    triton = None

Pair = tuple[int, int]

_FAR_BELOW = -1e30  # a score whose weight is 0
_APART = -100.0  # what a score loses between pixels that were no neighbours, as published
_LARGEST_WINDOW, _LARGEST_HEAD = 64, 64  # what the registers hold
_WINDOWS_PER_PROGRAM = 8  # at most; they share the biases, and add up their gradient


def fits(qkv: jax.Array, heads: int, window: Pair) -> bool:
    """Whether the kernel takes queries, keys and values such as these, on this machine's device."""
    return (
        triton is not None
        and jax.default_backend() == "gpu"
        and jax.device_count() == 1  # nothing says how it is spread over several
        and qkv.dtype in (jnp.bfloat16, jnp.float16)
        and compiling.cuda_capability() >= 8
        and math.prod(window) <= _LARGEST_WINDOW
        and qkv.shape[-1] // (3 * heads) <= _LARGEST_HEAD
    )


def attend(qkv: jax.Array, bias: jax.Array, window: Pair, shift: Pair = (0, 0)) -> jax.Array:
    """Multi-head attention within windows.

    Args:
        qkv: (b, h, w, 3 heads c) queries, keys and values; h and w divisible by the window's sides.
        bias: (heads, n, n) for the n pixels of a window, query, then key.
        window: (wh, ww).
        shift: rows and columns by which qkv was rolled; pixels that this has made neighbours do
            not see each other.

    Returns:
        (b, h, w, heads c).
    """
    n = math.prod(window)
    beyond = _power_of_two(n) - n
    bias = jnp.pad(bias.astype(jnp.float32), ((0, 0), (0, beyond), (0, 0)))
    bias = jnp.pad(bias, ((0, 0), (0, 0), (0, beyond)), constant_values=_FAR_BELOW)
    return _attend(qkv, bias, window, shift)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _attend(qkv: jax.Array, bias: jax.Array, window: Pair, shift: Pair) -> jax.Array:
    return _forward(qkv, bias, window, shift)[0]


def _forward(qkv: jax.Array, bias: jax.Array, window: Pair, shift: Pair) -> tuple[jax.Array, Any]:
    b, h, w, features = qkv.shape
    tokens = (b * h * w, features // 3)
    call = _caller(_attend_in_windows, qkv, bias, window, shift)
    out = call(jax.ShapeDtypeStruct(tokens, qkv.dtype))(qkv.reshape(-1, features), bias)
    return out.reshape(b, h, w, features // 3), (qkv, bias)


def _backward(
    window: Pair, shift: Pair, kept: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    qkv, bias = kept
    features = qkv.shape[-1]
    flat = qkv.reshape(-1, features)
    programs = _windows(qkv, window) // _per_program(qkv, window)
    call = _caller(_differentiate_in_windows, qkv, bias, window, shift)
    shapes = (
        jax.ShapeDtypeStruct(flat.shape, qkv.dtype),
        jax.ShapeDtypeStruct((programs, *bias.shape), jnp.float32),
    )
    qkv_grad, bias_grads = call(shapes)(flat, bias, grad.reshape(-1, features // 3))
    return qkv_grad.reshape(qkv.shape), jnp.sum(bias_grads, axis=0)


_attend.defvjp(_forward, _backward)


def _caller(kernel: Any, qkv: jax.Array, bias: jax.Array, window: Pair, shift: Pair) -> Any:
    heads, count = len(bias), _per_program(qkv, window)
    _, height, width, features = qkv.shape
    geometry = _Geometry((height, width), window, shift, heads, features // (3 * heads))
    return functools.partial(
        pallas.pallas_call,
        functools.partial(kernel, geometry=geometry, count=count),
        grid=(_windows(qkv, window) // count, heads),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        name=kernel.__name__.strip("_"),
    )


def _windows(qkv: jax.Array, window: Pair) -> int:
    b, h, w, _ = qkv.shape
    return b * (h // window[0]) * (w // window[1])


def _per_program(qkv: jax.Array, window: Pair) -> int:
    return math.gcd(_windows(qkv, window), _WINDOWS_PER_PROGRAM)


def _power_of_two(n: int) -> int:
    """At least n, and at least 16, as Triton has its tiles."""
    return max(16, 1 << (n - 1).bit_length())


class _Geometry:
    """Where the pixels of a window, and the channels of a head, lie."""

    def __init__(self, size: Pair, window: Pair, shift: Pair, heads: int, channels: int) -> None:
        self.size, self.window, self.shift = size, window, shift
        self.heads, self.channels = heads, channels
        self.tile = (_power_of_two(math.prod(window)), _power_of_two(channels))

    def pixels(self, number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of window `number`, counted over all images: row of the token, whether it is one, region.

        Regions are numbered; those of different numbers do not see each other.
        """
        (h, w), (wh, ww) = self.size, self.window
        columns = w // ww
        per_image = (h // wh) * columns
        image, place = number // per_image, number % per_image
        i = jnp.arange(self.tile[0], dtype=jnp.int32)
        y, x = (place // columns) * wh + i // ww, (place % columns) * ww + i % ww
        is_real = i < wh * ww
        region = 3 * _region(y, h, wh, self.shift[0]) + _region(x, w, ww, self.shift[1])
        return jnp.where(is_real, (image * h + y) * w + x, 0), is_real, region

    def at(self, ref: Any, rows: jax.Array, first: jax.Array) -> Any:
        """The place in an array of tokens: some rows, and a head's channels from the first on."""
        i = jnp.arange(self.tile[1], dtype=jnp.int32)
        columns = jnp.where(i < self.channels, first + i, 0)
        return ref.at[
            jnp.broadcast_to(rows[:, None], self.tile),
            jnp.broadcast_to(columns[None], self.tile),
        ]

    def mask(self, is_real: jax.Array) -> jax.Array:
        """Which numbers of a tile are there."""
        return is_real[:, None] & (jnp.arange(self.tile[1], dtype=jnp.int32) < self.channels)[None]


def _region(at: jax.Array, side: int, window: int, shift: int) -> jax.Array:
    if not shift:
        return jnp.zeros_like(at)
    return (at >= side - window).astype(jnp.int32) + (at >= side - shift).astype(jnp.int32)


def _load(ref: Any, mask: jax.Array) -> jax.Array:
    return triton.load(ref, mask=mask, other=0.0)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _weights(
    q: jax.Array, k: jax.Array, bias: jax.Array, region: jax.Array, geometry: _Geometry
) -> jax.Array:
    scores = _product(q, k.T) * geometry.channels**-0.5 + bias
    if any(geometry.shift):
        scores = jnp.where(region[:, None] == region[None], scores, scores + _APART)
    weights = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _attend_in_windows(
    qkv_ref: Any, bias_ref: Any, out_ref: Any, *, geometry: _Geometry, count: int
) -> None:
    program, head = pallas.program_id(0), pallas.program_id(1)
    heads, c = geometry.heads, geometry.channels
    bias = bias_ref[head]

    def attend_in_one(j: jax.Array, carry: int) -> int:
        rows, is_real, region = geometry.pixels(program * count + j)
        mask = geometry.mask(is_real)
        q, k, v = (
            _load(geometry.at(qkv_ref, rows, (part * heads + head) * c), mask) for part in range(3)
        )
        weights = _weights(q, k, bias, region, geometry)
        out = _product(weights.astype(v.dtype), v).astype(v.dtype)
        triton.store(geometry.at(out_ref, rows, head * c), out, mask=mask)
        return carry

    jax.lax.fori_loop(0, count, attend_in_one, 0)


def _differentiate_in_windows(
    qkv_ref: Any,
    bias_ref: Any,
    grad_ref: Any,
    qkv_grad_ref: Any,
    bias_grads_ref: Any,
    *,
    geometry: _Geometry,
    count: int,
) -> None:
    program, head = pallas.program_id(0), pallas.program_id(1)
    heads, c = geometry.heads, geometry.channels
    bias = bias_ref[head]

    def differentiate_in_one(j: jax.Array, bias_grad: jax.Array) -> jax.Array:
        rows, is_real, region = geometry.pixels(program * count + j)
        mask = geometry.mask(is_real)
        q, k, v = (
            _load(geometry.at(qkv_ref, rows, (part * heads + head) * c), mask) for part in range(3)
        )
        grad = _load(geometry.at(grad_ref, rows, head * c), mask)
        weights = jnp.where(is_real[:, None], _weights(q, k, bias, region, geometry), 0.0)
        v_grad = _product(weights.astype(v.dtype).T, grad)
        weights_grad = _product(grad, v.T)
        mean = jnp.sum(weights_grad * weights, axis=1, keepdims=True)
        scores_grad = weights * (weights_grad - mean)
        scaled = (scores_grad * c**-0.5).astype(q.dtype)
        grads = _product(scaled, k), _product(scaled.T, q), v_grad
        for part, part_grad in enumerate(grads):
            place = geometry.at(qkv_grad_ref, rows, (part * heads + head) * c)
            triton.store(place, part_grad.astype(q.dtype), mask=mask)
        return bias_grad + scores_grad

    zeros = jnp.zeros((geometry.tile[0],) * 2, jnp.float32)
    bias_grads_ref[program, head] = jax.lax.fori_loop(0, count, differentiate_in_one, zeros)
