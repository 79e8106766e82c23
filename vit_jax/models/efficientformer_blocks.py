"""The blocks of EfficientFormerV2: convolutions with batch norms, attention, downsampling.

Source: see `efficientformer_v2`.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ops
from vit_jax.layers import batch_norm, uniform_by_fan_in

TABLE = "attention_biases"
_VALUE_RATIO = 4  # channels of a value for each one of a key
_LAYER_SCALE = 1e-5


class Conv(nn.Module):
    """Convolution with zeros beyond the border, so that a side becomes side / stride, rounded up.

    Attributes:
        features: output channels.
        side: of the square kernel, an odd number.
        stride: in both directions.
        depthwise: whether each channel has a kernel of its own.
        dtype: compute type.
    """

    features: int
    side: int = 1
    stride: int = 1
    depthwise: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, ceil(h / stride), ceil(w / stride), features)."""
        inputs = 1 if self.depthwise else x.shape[-1]
        init = uniform_by_fan_in(self.side**2 * inputs)
        shape = (self.side, self.side, inputs, self.features)
        kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", init, (self.features,), jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.side == 1:
            return x @ kernel[0, 0] + bias
        border = (self.side // 2,) * 2
        if self.depthwise:
            x = jnp.pad(x, ((0, 0), border, border, (0, 0)))
            return ops.depthwise_conv(x, kernel, self.stride) + bias
        x = jax.lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, (border, border),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return x + bias


class ConvNorm(nn.Module):
    """Convolution and batch norm; see `Conv`."""

    features: int
    side: int = 1
    stride: int = 1
    depthwise: bool = False
    train: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, ceil(h / stride), ceil(w / stride), features)."""
        conv = Conv(self.features, self.side, self.stride, self.depthwise, self.dtype, name="conv")
        return batch_norm(self.train, self.dtype, "bn")(conv(x))


class TalkingHeads(nn.Module):
    """Mixes the maps of all heads, a product over the heads at each pair of positions.

    Source: Shazeer et al., "Talking-Heads Attention" (2020).
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, heads, queries, keys) -> the same."""
        heads = x.shape[1]
        init = uniform_by_fan_in(heads)
        kernel = self.param("kernel", init, (1, 1, heads, heads), jnp.float32)
        bias = self.param("bias", init, (heads,), jnp.float32).astype(self.dtype)
        x = jnp.einsum("bhqk,hg->bgqk", x.astype(self.dtype), kernel[0, 0].astype(self.dtype))
        return x + bias[:, None, None]


@functools.lru_cache(maxsize=64)
def _bias_index(grid: tuple[int, int], step: int) -> np.ndarray:
    """Where in a row of the table the bias of each pair of positions is.

    Args:
        grid: (h, w) of the keys.
        step: of the queries on that grid, which begin at its first position.

    Returns:
        (queries, keys) int32: |dy| w + |dx|, with w that of the keys.
    """
    y, x = (axis.reshape(-1) for axis in np.mgrid[: grid[0], : grid[1]])
    query_y, query_x = (axis.reshape(-1) for axis in np.mgrid[: grid[0] : step, : grid[1] : step])
    dy, dx = abs(query_y[:, None] - y), abs(query_x[:, None] - x)
    return (dy * grid[1] + dx).astype(np.int32)


class Attention(nn.Module):
    """Attention over all positions, with biases by distance and a convolution of the values.

    Attributes:
        features: output channels.
        num_heads: attention heads.
        key_dim: channels of a head's queries and keys; its values have 4 times as many.
        stride: of all that attends, in stage 3; the output is enlarged again.
        downsamples: whether the queries alone are those of every other position, and so the output;
            then the heads do not talk.
        train: whether the batch norms use the batch's statistics, and move their own.
        dtype: compute type; softmax is float32.
    """

    features: int
    num_heads: int
    key_dim: int
    stride: int = 1
    downsamples: bool = False
    train: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h, w, features), or (b, ceil(h / 2), ceil(w / 2), features)."""
        conv = functools.partial(ConvNorm, train=self.train, dtype=self.dtype)
        b, h, w, c = x.shape
        if self.stride > 1:
            x = conv(c, 3, self.stride, depthwise=True, name="stride_conv")(x)
        step = 2 if self.downsamples else 1
        near = x
        if self.downsamples:
            local = Conv(c, 3, 2, depthwise=True, dtype=self.dtype, name="q_local")
            near = local(x) + x[:, ::2, ::2]
        keys = self.num_heads * self.key_dim
        values = keys * _VALUE_RATIO
        q = conv(keys, name="q")(near)
        k = conv(keys, name="k")(x)
        v = conv(values, name="v")(x)
        around = conv(values, 3, step, depthwise=True, name="v_local")(v)
        weights = self._weights(q, k, step)
        v = v.reshape(b, -1, self.num_heads, self.key_dim * _VALUE_RATIO)
        x = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(around.shape) + around
        if self.stride > 1:
            larger = (self.stride * x.shape[1], self.stride * x.shape[2])
            x = ops.resize_bilinear(x, larger)[:, :h, :w]
        return conv(self.features, name="proj")(ops.gelu(x))

    def _weights(self, q: jax.Array, k: jax.Array, step: int) -> jax.Array:
        """Feature maps of queries and keys -> (b, heads, queries, keys) weights."""
        b, *grid, _ = k.shape
        heads = (b, -1, self.num_heads, self.key_dim)
        shape = (self.num_heads, math.prod(grid))
        table = self.param(TABLE, nn.initializers.zeros, shape, jnp.float32)
        biases = table[:, _bias_index(tuple(grid), step)].astype(self.dtype)
        q = q.reshape(heads) * jnp.asarray(self.key_dim**-0.5, self.dtype)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k.reshape(heads)) + biases
        if not self.downsamples:
            logits = TalkingHeads(self.dtype, name="talking_head1")(logits)
        weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(self.dtype)
        if not self.downsamples:
            weights = TalkingHeads(self.dtype, name="talking_head2")(weights)
        return weights


@nn.jit  # so that blocks of the same shape are traced once
class Block(nn.Module):
    """x + attention(x), in some; then x + MLP(x), with a depthwise convolution in its middle.

    Attributes:
        mlp_ratio: channels of the MLP for each one of x.
        num_heads: attention heads; 0 is no attention.
        key_dim: see `Attention`, as are the others.
        drops: whether stochastic depth takes part.
    """

    mlp_ratio: float
    num_heads: int
    key_dim: int
    stride: int
    drops: bool
    train: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array) -> jax.Array:
        """(b, h, w, c) and this block's stochastic-depth rate -> (b, h, w, c)."""
        features = x.shape[-1]

        def residual(branch: jax.Array, scale: str) -> jax.Array:
            init = nn.initializers.constant(_LAYER_SCALE)
            branch = branch * self.param(scale, init, (features,), jnp.float32).astype(self.dtype)
            if not self.drops:
                return branch
            return ops.stochastic_depth(branch, drop_rate, self.make_rng("dropout"))

        conv = functools.partial(ConvNorm, train=self.train, dtype=self.dtype)
        if self.num_heads:
            attention = Attention(
                features, self.num_heads, self.key_dim, self.stride,
                train=self.train, dtype=self.dtype, name="attn",
            )  # fmt: skip
            x = x + residual(attention(x), "ls1")
        hidden = round(features * self.mlp_ratio)
        y = ops.gelu(conv(hidden, name="fc1")(x))
        y = ops.gelu(conv(hidden, 3, depthwise=True, name="mid")(y))
        return x + residual(conv(features, name="fc2")(y), "ls2")


class Downsampling(nn.Module):
    """Makes one position of 2 x 2, by a convolution, and before the last stage attention as well.

    Attributes:
        features: output channels.
        num_heads: of the attention; 0 is none.
        key_dim: see `Attention`, as are the others.
    """

    features: int
    num_heads: int
    key_dim: int
    train: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, ceil(h / 2), ceil(w / 2), features)."""
        y = ConvNorm(self.features, 3, 2, train=self.train, dtype=self.dtype, name="conv")(x)
        if not self.num_heads:
            return y
        attention = Attention(
            self.features, self.num_heads, self.key_dim, downsamples=True,
            train=self.train, dtype=self.dtype, name="attn",
        )  # fmt: skip
        return attention(x) + y
