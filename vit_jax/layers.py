"""Modules that several models share."""

import math
import re
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops

Init = Any

PADDINGS = ("reflect", "zero")


def uniform_by_fan_in(fan_in: int) -> Init:
    """PyTorch's default for weights and biases of convolutions and linear layers."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def count_blocks(names: Iterable[str], pattern: str) -> tuple[int, ...]:
    """Counts a model's blocks, stage by stage, by the names of its parameters.

    Args:
        names: of parameters.
        pattern: of the beginning of a block's names: a regular expression that captures the number
            of the stage, or nothing, and that of the block in it.
    """
    found = {(int(m[1] or 0), int(m[2])) for m in (re.match(pattern, name) for name in names) if m}
    stages = max((stage for stage, _ in found), default=-1) + 1
    return tuple(sum(stage == i for stage, _ in found) for i in range(stages))


def batch_norm(train: bool, dtype: Any, name: str) -> nn.BatchNorm:
    """PyTorch's batch norm, of its default momentum; parameters and statistics are float32."""
    return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


class Conv(nn.Module):
    """Convolution that keeps the size, or cuts into patches; 1x1 ones are matrix products.

    Attributes:
        features: output channels.
        side: of the square kernel.
        stride: 1, or `side` for patches, which are not padded.
        inits: of kernel and bias; None is PyTorch's default.
        depthwise: whether each channel has a kernel of its own.
        use_bias: whether there is a bias.
        padding: what lies beyond the border, "reflect" or "zero".
        dtype: compute type.
    """

    features: int
    side: int = 1
    stride: int = 1
    inits: tuple[Init, Init] | None = None
    depthwise: bool = False
    use_bias: bool = True
    padding: str = "reflect"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h / stride, w / stride, features)."""
        assert self.padding in PADDINGS
        inputs = 1 if self.depthwise else x.shape[-1]
        default = uniform_by_fan_in(self.side**2 * inputs)
        kernel_init, bias_init = self.inits or (default, default)
        shape = (self.side, self.side, inputs, self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.stride == 1:
            border = self.side // 2
            if self.padding == "reflect":
                x = ops.reflect_pad(x, border, border)
            elif border:
                x = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
        if self.depthwise:
            x = ops.depthwise_conv(x, kernel)
        elif self.side == 1:
            x = x @ kernel[0, 0]
        elif self.stride == 1:
            x = ops.conv(x, kernel)
        else:
            b, h, w, _ = x.shape
            patches = ops.to_windows(x, self.side).reshape(b, h // self.side, w // self.side, -1)
            x = patches @ kernel.reshape(-1, self.features)
        if self.use_bias:
            x = x + self.param("bias", bias_init, (self.features,), jnp.float32).astype(self.dtype)
        return x
