"""RAFT's encoder of images: residual blocks with instance norms, at an eighth of the size.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (ECCV 2020),
whose code calls it BasicEncoder. Weights begin as there.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import uniform_by_fan_in

WIDTH = 128  # of the last stage
# Of the stages, as shares of the last one's; the second and the third begin with a stride of 2.
_SHARES = (0.5, 0.75, 1.0)
_BLOCKS = 2  # of each stage
_KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """Convolution with a bias, padded with zeros alike on all sides.

    Attributes:
        features: output channels.
        side: of the square kernel, an odd number.
        stride: in both directions.
        dtype: compute type.
    """

    features: int
    side: int = 1
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h / stride, w / stride, features), rounded up."""
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", _KAIMING, shape, jnp.float32).astype(self.dtype)
        init = uniform_by_fan_in(self.side**2 * x.shape[-1])
        bias = self.param("bias", init, (self.features,), jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.side == 1:
            return ops.pointwise_conv(x, kernel, self.stride) + bias
        border = (self.side // 2,) * 2
        x = jax.lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, (border, border),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return x + bias


def instance_norm(x: jax.Array) -> jax.Array:
    """Gives each channel of each of (b, h, w, c) mean 0 and deviation 1, in float32."""
    exact = x.astype(jnp.float32)
    centred = exact - exact.mean(axis=(1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=(1, 2), keepdims=True)
    return (centred * jax.lax.rsqrt(variance + 1e-5)).astype(x.dtype)


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, each with a norm and a ReLU."""

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(x: jax.Array, name: str, side: int, stride: int) -> jax.Array:
            return instance_norm(Conv(self.features, side, stride, self.dtype, name=name)(x))

        y = nn.relu(conv(x, "conv1", 3, self.stride))
        y = nn.relu(conv(y, "conv2", 3, 1))
        if self.stride != 1:
            x = conv(x, "downsample", 1, self.stride)
        return nn.relu(x + y)


class RaftEncoder(nn.Module):
    """Features of images at an eighth of their size.

    Attributes:
        features: output channels.
        dtype: compute type; the norms are float32.
        width: channels of the last stage, a multiple of 4; earlier ones have less in proportion.
    """

    features: int = 256
    dtype: Any = jnp.float32
    width: int = WIDTH

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """(b, h, w, 3) -> (b, h / 8, w / 8, features), rounded up."""
        (_, first, _), *_ = blocks = list(_blocks(self.width))
        x = nn.relu(instance_norm(Conv(first, 7, 2, self.dtype, name="conv1")(images)))
        for name, width, stride in blocks:
            x = _Block(width, stride, self.dtype, name=name)(x)
        return Conv(self.features, dtype=self.dtype, name="conv2")(x)

    @staticmethod
    def torch_names() -> dict[str, str]:
        """Names of its parts in RAFT's files."""
        names = {"conv1": "conv1", "conv2": "conv2"}
        for ours, _, stride in _blocks(WIDTH):
            theirs = ours.replace("_block", ".")
            names |= {f"{ours}/{part}": f"{theirs}.{part}" for part in ("conv1", "conv2")}
            if stride != 1:
                names[f"{ours}/downsample"] = f"{theirs}.downsample.0"
        return names


def _blocks(width: int) -> Iterator[tuple[str, int, int]]:
    """Our name of each block, its width and its stride."""
    for stage, share in enumerate(_SHARES):
        for i in range(_BLOCKS):
            yield f"layer{stage + 1}_block{i}", int(share * width), 2 if stage and not i else 1
