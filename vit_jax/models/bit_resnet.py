"""The ResNet in front of a hybrid Vision Transformer.

Source: Kolesnikov et al., "Big Transfer (BiT)" (ECCV 2020) for weight-standardised convolutions
with GroupNorm; the published hybrids of google-research/vision_transformer for the rest: the
non-linearity follows the sum, and the stride lies in the 3x3 convolution.

Submodules carry the names of the published .npz files.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

ROOT_STRIDE = 4
ROOT_WIDTH = 64
_GROUPS = 32


class StdConv(nn.Module):
    """Convolution without bias, whose kernel is standardised over height, width and inputs.

    Source: Qiao et al., "Weight Standardization" (2019); 1e-5 is added to the deviation.
    """

    features: int
    side: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h / stride, w / stride, features), rounded up."""
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        kernel = kernel - jnp.mean(kernel, axis=(0, 1, 2))
        kernel = kernel / (jnp.std(kernel, axis=(0, 1, 2)) + 1e-5)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class ResidualUnit(nn.Module):
    """Bottleneck: 1x1, 3x3 and 1x1 convolutions around a shortcut, to 4 times `width`."""

    width: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h / stride, w / stride, 4 * width), rounded up."""

        def conv_norm(
            x: jax.Array, which: str, features: int, side: int = 1, stride: int = 1,
            scale_init: Any = nn.initializers.ones,
        ) -> jax.Array:  # fmt: skip
            x = StdConv(features, side, stride, dtype=self.dtype, name=f"conv{which}")(x)
            return nn.GroupNorm(
                _GROUPS, scale_init=scale_init, dtype=self.dtype, name=f"gn{which}"
            )(x)

        features = 4 * self.width
        shortcut = x
        if x.shape[-1] != features or self.stride != 1:
            shortcut = conv_norm(x, "_proj", features, stride=self.stride)
        y = nn.relu(conv_norm(x, "1", self.width))
        y = nn.relu(conv_norm(y, "2", self.width, side=3, stride=self.stride))
        y = conv_norm(y, "3", features, scale_init=nn.initializers.zeros)
        return nn.relu(shortcut + y)


class ResNetStage(nn.Module):
    """Units of one resolution; the first one has the stride."""

    units: int
    width: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h / stride, w / stride, 4 * width), rounded up."""
        for i in range(self.units):
            stride = self.stride if i == 0 else 1
            x = ResidualUnit(self.width, stride, dtype=self.dtype, name=f"unit{i + 1}")(x)
        return x


def apply_resnet(images: jax.Array, layers: Sequence[int], width: int, dtype: Any) -> jax.Array:
    """Adds the ResNet to the module that calls this in its `__call__`, and applies it.

    Args:
        images: (b, h, w, 3).
        layers: units of each stage; without any, the root alone is applied.
        width: channels after the root; a multiple of 32.
        dtype: compute type.

    Returns:
        (b, h / s, w / s, c) features, with s from `total_stride`.
    """
    x = StdConv(width, side=7, stride=2, dtype=dtype, name="conv_root")(images)
    x = nn.relu(nn.GroupNorm(_GROUPS, dtype=dtype, name="gn_root")(x))
    x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="SAME")
    for i, units in enumerate(layers):
        stage = ResNetStage(units, width * 2**i, 1 if i == 0 else 2, dtype, name=f"block{i + 1}")
        x = stage(x)
    return x


def total_stride(layers: Sequence[int]) -> int:
    """Pixels per output position, along either axis."""
    return ROOT_STRIDE * 2 ** max(len(layers) - 1, 0)


def torch_names(layers: Sequence[int], prefix: str) -> dict[str, str]:
    """Returns timm's names of the submodules, see `VisionTransformer.torch_names`.

    Args:
        layers: units of each stage.
        prefix: of timm's names, such as "patch_embed.backbone.".
    """
    stem = f"{prefix}stem." if layers else prefix
    names = {"conv_root": f"{stem}conv", "gn_root": f"{stem}norm"}
    for stage, units in enumerate(layers):
        for unit in range(units):
            ours = f"block{stage + 1}/unit{unit + 1}"
            theirs = f"{prefix}stages.{stage}.blocks.{unit}"
            for i in (1, 2, 3):
                names[f"{ours}/conv{i}"] = f"{theirs}.conv{i}"
                names[f"{ours}/gn{i}"] = f"{theirs}.norm{i}"
            if unit == 0:
                names[f"{ours}/conv_proj"] = f"{theirs}.downsample.conv"
                names[f"{ours}/gn_proj"] = f"{theirs}.downsample.norm"
    return names
