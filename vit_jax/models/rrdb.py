"""RRDB: the convolutional generator of ESRGAN and Real-ESRGAN.

Source: Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (ECCV
Workshops 2018), and, for factors other than 4, "Real-ESRGAN" (ICCV Workshops 2021).
`RRDB.torch_names` maps the names of both published codes.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import Conv, count_blocks
from vit_jax.models.base import Model

VARIANTS: dict[str, dict[str, Any]] = {f"RRDB-x{s}": dict(upscale=s) for s in (1, 2, 4)}

PARAMETER_COUNTS = {"RRDB-x1": 16_723_907, "RRDB-x2": 16_703_171, "RRDB-x4": 16_697_987}

_ENLARGES = 4  # the network itself; for smaller factors the image is made smaller before
_RESIDUAL = 0.2


def _small_kaiming(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return 0.1 * nn.initializers.he_normal()(key, shape, dtype)


def _relu(x: jax.Array) -> jax.Array:
    return ops.leaky_relu(x, 0.2)


@nn.jit  # so that blocks, which are all alike, are traced once
class Block(nn.Module):
    """Residual in residual dense block: three times five convolutions that see all before them."""

    num_features: int
    growth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h, w, c)."""
        y = x
        for i in range(1, 4):
            y = self._dense_block(y, f"rdb{i}")
        return y * _RESIDUAL + x

    def _dense_block(self, x: jax.Array, name: str) -> jax.Array:
        def conv(features: int, i: int) -> Conv:
            return Conv(
                features, 3, inits=(_small_kaiming, nn.initializers.zeros), padding="zero",
                dtype=self.dtype, name=f"{name}_conv{i}",
            )  # fmt: skip

        seen = x
        for i in range(1, 5):
            seen = jnp.concatenate([seen, _relu(conv(self.growth, i)(seen))], axis=-1)
        return conv(self.num_features, 5)(seen) * _RESIDUAL + x


class RRDB(Model):
    """Enlarges images of any size.

    Attributes:
        num_features: channels.
        growth: channels that each convolution of a dense block adds.
        num_blocks: of three dense blocks each.
        upscale: 4, 2 or 1. For the latter two, 2 x 2 or 4 x 4 pixels become one before.
        remat: recompute each block in the backward pass instead of storing its activations.
        dtype: compute type; parameters and the output stay float32.
    """

    num_features: int = 64
    growth: int = 32
    num_blocks: int = 23
    upscale: int = 4
    remat: bool = False
    dtype: Any = jnp.float32

    task = "restore"
    any_size = True
    metrics = ("basicsr/psnr_y", "basicsr/ssim_y")
    torch_namings = ("basicsr", "esrgan")
    deepest = {"num_blocks": 64}  # noqa: RUF012

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Enlarges images.

        Args:
            images: (b, h, w, 3) float32 in [-1, 1].
            train: takes no part; there is no dropout.

        Returns:
            (b, h upscale, w upscale, 3) float32, about [-1, 1]; not clipped.

        Raises:
            ValueError: if a field's value or the shape of the images does not fit.
        """
        del train
        self._validate(images)
        _, h, w, _ = images.shape
        x = ops.reflect_pad(
            (images + 1) / 2, 0, 0, -h % self.tile_multiple, -w % self.tile_multiple
        )
        x = ops.pixel_unshuffle(x, self.tile_multiple)

        first = self._conv("conv_first")(x)
        block_class = nn.remat(Block) if self.remat else Block
        x = first
        for i in range(self.num_blocks):
            x = block_class(self.num_features, self.growth, self.dtype, name=f"block{i}")(x)
        x = first + self._conv("conv_body")(x)
        for name in ("conv_up1", "conv_up2"):
            x = _relu(self._conv(name)(ops.nearest_upsample(x, 2)))
        x = self._conv("conv_last", 3)(_relu(self._conv("conv_hr")(x)))
        return 2 * x.astype(jnp.float32)[:, : h * self.upscale, : w * self.upscale] - 1

    def _conv(self, name: str, features: int | None = None) -> Conv:
        features = features or self.num_features
        return Conv(features, 3, padding="zero", dtype=self.dtype, name=name)

    def _validate(self, images: jax.Array) -> None:
        if self.upscale not in (1, 2, 4):
            raise ValueError(f"upscale={self.upscale} is not one of (1, 2, 4)")
        for field, least in (("num_features", 1), ("growth", 1), ("num_blocks", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}, not {getattr(self, field)}")
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise ValueError(f"images must have shape (b, h, w, 3), not {images.shape}")
        if min(images.shape[1:3]) < self.tile_multiple:
            h, w = images.shape[1:3]
            raise ValueError(
                f"images of {h} x {w} pixels are too small: both sides must have at least "
                f"{self.tile_multiple}"
            )

    @property
    def tile_multiple(self) -> int:
        """Pixels of the image to one of the features, along either axis; tiles consist of those."""
        return _ENLARGES // self.upscale

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        _, _, channels, num_features = shapes["conv_first/kernel"]
        return {
            "num_features": num_features,
            "growth": shapes["block0/rdb1_conv1/kernel"][3],
            "num_blocks": sum(count_blocks(shapes, r"block()(\d+)/")),
            "upscale": math.isqrt(_ENLARGES**2 * 3 // channels),
        }

    def torch_names(self, naming: str = "basicsr") -> dict[str, str]:
        """Returns BasicSR's or ESRGAN's names of the submodules, see `checkpoints.torch`."""
        is_new = naming == "basicsr"
        names = {"conv_first": "conv_first", "conv_last": "conv_last"}
        for ours, older in {
            "conv_body": "trunk_conv",
            "conv_up1": "upconv1",
            "conv_up2": "upconv2",
            "conv_hr": "HRconv",
        }.items():
            names[ours] = ours if is_new else older
        body, dense = ("body", "rdb") if is_new else ("RRDB_trunk", "RDB")
        for block in range(self.num_blocks):
            for i in range(1, 4):
                names |= {
                    f"block{block}/rdb{i}_conv{j}": f"{body}.{block}.{dense}{i}.conv{j}"
                    for j in range(1, 6)
                }
        return names
