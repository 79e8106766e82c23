"""UPerNet's head of semantic segmentation, and the auxiliary head that helps to train it.

Sources: Xiao et al., "Unified Perceptual Parsing for Scene Understanding" (ECCV 2018), with the
pyramid pooling of Zhao et al., "Pyramid Scene Parsing Network" (CVPR 2017), as mmsegmentation has
them for Swin; its names, and those of the files that transformers publishes, are given by
`torch_names`.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ops
from vit_jax.layers import Conv, batch_norm

_POOLED = (1, 2, 3, 6)  # cells along either axis
_DROPOUT = 0.1  # of whole channels, before the last layer
_ZEROS = nn.initializers.zeros
_HE = (nn.initializers.variance_scaling(2.0, "fan_out", "normal"), _ZEROS)
_NORMAL = (nn.initializers.normal(0.01), _ZEROS)


def adaptive_mean(x: jax.Array, count: int) -> jax.Array:
    """Means of count x count cells, PyTorch's adaptive average pooling.

    Cell i of n pixels goes from floor(i n / count) up to ceil((i + 1) n / count), so that cells may
    overlap, and there may be more of them than pixels.

    Args:
        x: (b, h, w, c).
        count: of cells along either axis.

    Returns:
        (b, count, count, c).
    """
    for axis in (1, 2):
        shares = jnp.asarray(_shares(x.shape[axis], count), x.dtype)
        means = jnp.tensordot(shares, x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
        x = jnp.moveaxis(means, 0, axis)
    return x


def _shares(length: int, count: int) -> np.ndarray:
    """(count, length) share of each pixel in each cell."""
    cell, at = np.arange(count)[:, None], np.arange(length)
    inside = (at >= cell * length // count) & (at < -(-(cell + 1) * length // count))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU.

    Attributes:
        features: output channels.
        side: of the square kernel.
        dtype: compute type; statistics stay float32.
    """

    features: int
    side: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) -> (b, h, w, features)."""
        x = Conv(
            self.features, self.side, inits=_HE, use_bias=False, padding="zero", dtype=self.dtype,
            name="conv",
        )(x)  # fmt: skip
        return nn.relu(batch_norm(train, self.dtype, "bn")(x))


class _Classifier(nn.Module):
    """Logits of each pixel, from features of which whole channels are left out in training."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dropout(_DROPOUT, broadcast_dims=(1, 2), deterministic=not train)(x)
        return Conv(self.num_classes, inits=_NORMAL, name="conv_seg")(x.astype(jnp.float32))


class UPerHead(nn.Module):
    """Logits from maps of four scales: pyramid pooling of the coarsest, then a feature pyramid.

    Attributes:
        num_classes: width of the logits.
        features: channels between.
        dtype: compute type; statistics, the last layer and its logits are float32.
    """

    num_classes: int
    features: int = 512
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> jax.Array:
        """Maps (b, h, w, c), the finest first -> (b, h, w, num_classes) float32 of the finest."""

        def conv(side: int, name: str, x: jax.Array) -> jax.Array:
            return ConvNorm(self.features, side, self.dtype, name=name)(x, train)

        coarsest = maps[-1].astype(self.dtype)
        pooled = [
            conv(1, f"psp{i}", adaptive_mean(coarsest, count)) for i, count in enumerate(_POOLED)
        ]
        context = [coarsest, *(_resized_like(x, coarsest) for x in pooled)]
        x = conv(3, "bottleneck", jnp.concatenate(context, axis=-1))
        pyramid = [x]
        for i in reversed(range(len(maps) - 1)):
            lateral = conv(1, f"lateral{i}", maps[i])
            x = lateral + _resized_like(x, lateral)
            pyramid.insert(0, conv(3, f"fpn{i}", x))
        together = [_resized_like(x, pyramid[0]) for x in pyramid]
        x = conv(3, "fpn_bottleneck", jnp.concatenate(together, axis=-1))
        classifier = _Classifier(self.num_classes, name="classifier")
        return classifier(x, train)

    @staticmethod
    def torch_names(count: int, naming: str = "mmsegmentation") -> dict[str, str]:
        """Names within `decode_head`, for `count` maps."""
        names = {
            "bottleneck": "bottleneck",
            "fpn_bottleneck": "fpn_bottleneck",
            **{f"psp{i}": f"psp_modules.{i}.1" for i in range(len(_POOLED))},
            **{f"lateral{i}": f"lateral_convs.{i}" for i in range(count - 1)},
            **{f"fpn{i}": f"fpn_convs.{i}" for i in range(count - 1)},
        }
        return _with_parts(names, naming)


class FCNHead(nn.Module):
    """Logits from one map, by a 3x3 convolution and the last layer.

    Attributes:
        num_classes: width of the logits.
        features: channels between.
        dtype: compute type; statistics, the last layer and its logits are float32.
    """

    num_classes: int
    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(b, h, w, c) -> (b, h, w, num_classes) float32."""
        x = ConvNorm(self.features, 3, self.dtype, name="conv")(x, train)
        classifier = _Classifier(self.num_classes, name="classifier")
        return classifier(x, train)

    @staticmethod
    def torch_names(naming: str = "mmsegmentation") -> dict[str, str]:
        """Names within `auxiliary_head`."""
        return _with_parts({"conv": "convs.0"}, naming)


def _resized_like(x: jax.Array, other: jax.Array) -> jax.Array:
    return ops.resize_bilinear(x, (other.shape[1], other.shape[2]))


def _with_parts(names: dict[str, str], naming: str) -> dict[str, str]:
    """Names of the layers of each `ConvNorm`, and of the last layer."""
    is_ours = naming == "mmsegmentation"
    norm, last = ("bn", "conv_seg") if is_ours else ("batch_norm", "classifier")
    parts = {"conv": "conv", "bn": norm}
    return {
        "classifier/conv_seg": last,
        **{f"{k}/{part}": f"{v}.{to}" for k, v in names.items() for part, to in parts.items()},
    }
