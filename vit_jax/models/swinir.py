"""SwinIR: super-resolution, denoising and JPEG artefact removal with Swin Transformer blocks.

Source: Liang et al., "SwinIR: Image Restoration Using Swin Transformer" (ICCV Workshops 2021), and
the published code and weights, whose names `SwinIR.torch_names` maps. Images are padded by
reflection to whole windows, as BasicSR does it; the published tests repeat the border instead, and
by up to a window more.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ops
from vit_jax.layers import Conv, count_blocks
from vit_jax.models.base import Model
from vit_jax.models.swin import BLOCK_NAMES
from vit_jax.ops import window_maps

_MEDIUM = dict(embed_dim=180, depths=(6,) * 6, num_heads=(6,) * 6)
_LIGHT = dict(embed_dim=60, depths=(6,) * 4, num_heads=(6,) * 4, upsampler="pixelshuffledirect")
_LARGE = dict(
    embed_dim=240, depths=(6,) * 9, num_heads=(8,) * 9, upsampler="nearest+conv",
    resi_connection="3conv",
)  # fmt: skip
_JPEG = dict(_MEDIUM, upsampler="", window_size=7, img_range=255.0)

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"SwinIR-classical-x{s}": dict(_MEDIUM, upscale=s) for s in (2, 3, 4, 8)},
    **{f"SwinIR-lightweight-x{s}": dict(_LIGHT, upscale=s) for s in (2, 3, 4)},
    **{f"SwinIR-real-M-x{s}": dict(_MEDIUM, upscale=s, upsampler="nearest+conv") for s in (2, 4)},
    "SwinIR-real-L-x4": dict(_LARGE, upscale=4),
    "SwinIR-denoise-gray": dict(_MEDIUM, upsampler="", in_channels=1),
    "SwinIR-denoise-color": dict(_MEDIUM, upsampler=""),
    "SwinIR-jpeg-gray": dict(_JPEG, in_channels=1),
    "SwinIR-jpeg-color": _JPEG,
}

PARAMETER_COUNTS = {
    "SwinIR-classical-x2": 11_752_487,
    "SwinIR-classical-x3": 11_937_127,
    "SwinIR-classical-x4": 11_900_199,
    "SwinIR-classical-x8": 12_047_911,
    "SwinIR-lightweight-x2": 910_152,
    "SwinIR-lightweight-x3": 918_267,
    "SwinIR-lightweight-x4": 929_628,
    "SwinIR-real-M-x2": 11_678_631,
    "SwinIR-real-M-x4": 11_715_559,
    "SwinIR-real-L-x4": 28_013_059,
    "SwinIR-denoise-gray": 11_497_681,
    "SwinIR-denoise-color": 11_504_163,
    "SwinIR-jpeg-gray": 11_485_585,
    "SwinIR-jpeg-color": 11_492_067,
}

# Benchmark -> its number of test images, and PSNR in dB, on luma but for noise.
PUBLISHED_SCORES: dict[str, tuple[int, dict[str, dict[str, float]]]] = {
    "Set5-x2": (
        5,
        {
            "SwinIR-classical-x2": {"basicsr/psnr_y": 38.42},
            "SwinIR-lightweight-x2": {"basicsr/psnr_y": 38.14},
        },
    ),
    "Set5-x4": (
        5,
        {
            "SwinIR-classical-x4": {"basicsr/psnr_y": 32.92},
            "SwinIR-lightweight-x4": {"basicsr/psnr_y": 32.44},
        },
    ),
    "CBSD68-noise15": (68, {"SwinIR-denoise-color": {"basicsr/psnr": 34.42}}),
    "CBSD68-noise25": (68, {"SwinIR-denoise-color": {"basicsr/psnr": 31.78}}),
    "CBSD68-noise50": (68, {"SwinIR-denoise-color": {"basicsr/psnr": 28.56}}),
}

UPSAMPLERS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "")
RESI_CONNECTIONS = ("1conv", "3conv")

_RGB_MEAN = np.array([0.4488, 0.4371, 0.4040], np.float32)
_HIDDEN = 64  # channels while the image is enlarged
_TABLE = "relative_position_bias_table"
_NORMAL = nn.initializers.normal(0.02)


def _dense(features: int, dtype: Any, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=_NORMAL, dtype=dtype, name=name)


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


class Attention(nn.Module):
    """Multi-head attention in windows, of which every other block has shifted ones.

    The weights are computed besides for whoever captures "intermediates".
    """

    num_heads: int
    window_size: int
    shifted: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h, w, c), with whole windows; one of them is shifted as well."""
        features, window = x.shape[-1], (self.window_size,) * 2
        shift = (self.window_size // 2,) * 2 if self.shifted else (0, 0)
        places = (2 * self.window_size - 1) ** 2
        table = self.param(_TABLE, _NORMAL, (places, self.num_heads), jnp.float32)
        x = jnp.roll(x, [-s for s in shift], axis=(1, 2)) if self.shifted else x
        qkv = _dense(3 * features, self.dtype, "qkv")(x)
        if self.is_mutable_collection("intermediates"):
            _, h, w, _ = x.shape
            self.sow("intermediates", "attention", window_maps.rolled_window_maps(
                qkv, table, (h, w), window, shift
            ))  # fmt: skip
        x = ops.window_attention(qkv, table, window, shift)
        x = _dense(features, self.dtype, "proj")(x)
        return jnp.roll(x, shift, axis=(1, 2)) if self.shifted else x


@nn.jit  # so that blocks of the same shape are traced once
class Block(nn.Module):
    """Pre-norm Transformer block: x + attention(LN(x)), then x + MLP(LN(x))."""

    num_heads: int
    window_size: int
    shifted: bool
    mlp_ratio: float
    drops: bool  # whether stochastic depth takes part
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array) -> jax.Array:
        """(b, h, w, c) and this block's stochastic-depth rate -> (b, h, w, c)."""

        def maybe_drop(branch: jax.Array) -> jax.Array:
            if not self.drops:
                return branch
            return ops.stochastic_depth(branch, drop_rate, self.make_rng("dropout"))

        attention = Attention(
            self.num_heads, self.window_size, self.shifted, self.dtype, name="attn"
        )
        x = ops.row_major(x)
        x = x + maybe_drop(attention(_norm(self.dtype, "norm1")(x)))
        hidden = int(x.shape[-1] * self.mlp_ratio)
        y = ops.gelu(_dense(hidden, self.dtype, "mlp_fc1")(_norm(self.dtype, "norm2")(x)))
        return x + maybe_drop(_dense(x.shape[-1], self.dtype, "mlp_fc2")(y))


class SwinIR(Model):
    """SwinIR, for images of any height and width of more than half a window.

    Attributes:
        embed_dim: channels.
        depths: blocks of each residual group (RSTB).
        num_heads: attention heads of each.
        window_size: side of the windows in pixels.
        mlp_ratio: hidden width of the MLPs, by embed_dim.
        upscale: how many times as high and as wide the result is.
        upsampler: how it is enlarged: "pixelshuffle", "pixelshuffledirect", "nearest+conv"; "" is
            not at all, and then the image is added to the result.
        resi_connection: convolutions that end a group, "1conv" or "3conv".
        img_range: what values from 0 to 1 are multiplied by inside.
        in_channels: 3, or 1 for grey images.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 at the first.
        remat: recompute each block in the backward pass instead of storing its activations.
        dtype: compute type; parameters, statistics and the output stay float32.
    """

    embed_dim: int = 180
    depths: tuple[int, ...] = (6,) * 6
    num_heads: tuple[int, ...] = (6,) * 6
    window_size: int = 8
    mlp_ratio: float = 2.0
    upscale: int = 1
    upsampler: str = "pixelshuffle"
    resi_connection: str = "1conv"
    img_range: float = 1.0
    in_channels: int = 3
    drop_path_rate: float = 0.1
    remat: bool = False
    dtype: Any = jnp.float32

    task = "restore"
    any_size = True
    metrics = ("basicsr/psnr_y", "basicsr/ssim_y")
    deepest = {"depths": (36,) * 12, "num_heads": (6,) * 12}  # noqa: RUF012
    torch_buffers = ("relative_position_index", "attn_mask")

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Restores or enlarges images.

        Args:
            images: (b, h, w, 3) float32 in [-1, 1]. A model for grey images takes their luma, and
                gives three equal channels.
            train: whether stochastic depth is active; then `rngs` needs "dropout".

        Returns:
            (b, h upscale, w upscale, 3) float32, about [-1, 1]; not clipped.

        Raises:
            ValueError: if a field's value or the shape of the images does not fit.
        """
        self._validate(images)
        _, h, w, channels = images.shape
        mean = _RGB_MEAN if self.in_channels == 3 else np.zeros(1, np.float32)
        x = (images + 1) / 2
        x = ops.luma(x) if self.in_channels == 1 < channels else x
        x = ops.reflect_pad(x, 0, 0, -h % self.window_size, -w % self.window_size)
        x = (x - mean) * self.img_range

        first = self._conv(self.embed_dim, "conv_first")(x)
        features = first + self._deep_features(first, train)
        if self.upsampler:
            x = self._enlarge(features).astype(jnp.float32)
        else:
            x = x + self._conv(self.in_channels, "conv_last")(features).astype(jnp.float32)

        x = (x / self.img_range + mean)[:, : h * self.upscale, : w * self.upscale]
        return jnp.broadcast_to(2 * x - 1, (*x.shape[:3], channels))

    def _conv(self, features: int, name: str, side: int = 3) -> Conv:
        return Conv(features, side, padding="zero", dtype=self.dtype, name=name)

    def _deep_features(self, x: jax.Array, train: bool) -> jax.Array:
        x = _norm(self.dtype, "patch_norm")(x)
        block_class = nn.remat(Block) if self.remat else Block
        count = sum(self.depths)
        drop_rates = iter(self.drop_path_rate * i / max(count - 1, 1) for i in range(count))
        for group, (depth, heads) in enumerate(zip(self.depths, self.num_heads)):
            y = x
            for i in range(depth):
                y = block_class(
                    num_heads=heads,
                    window_size=self.window_size,
                    shifted=i % 2 == 1,
                    mlp_ratio=self.mlp_ratio,
                    drops=train and self.drop_path_rate > 0,
                    dtype=self.dtype,
                    name=f"group{group}_block{i}",
                )(y, next(drop_rates))
            x = x + self._connect(y, f"group{group}_conv")
        return self._connect(_norm(self.dtype, "norm")(x), "conv_after_body")

    def _connect(self, x: jax.Array, name: str) -> jax.Array:
        if self.resi_connection == "1conv":
            return self._conv(self.embed_dim, name)(x)
        x = ops.leaky_relu(self._conv(self.embed_dim // 4, f"{name}_0")(x), 0.2)
        x = ops.leaky_relu(self._conv(self.embed_dim // 4, f"{name}_2", side=1)(x), 0.2)
        return self._conv(self.embed_dim, f"{name}_4")(x)

    def _enlarge(self, x: jax.Array) -> jax.Array:
        scale = self.upscale
        if self.upsampler == "pixelshuffledirect":
            return ops.pixel_shuffle(
                self._conv(self.in_channels * scale**2, "upsample_0")(x), scale
            )
        x = ops.leaky_relu(self._conv(_HIDDEN, "conv_before_upsample")(x), 0.01)
        factors = (3,) if scale == 3 else (2,) * (scale.bit_length() - 1)
        if self.upsampler == "pixelshuffle":
            for i, factor in enumerate(factors):
                x = ops.pixel_shuffle(
                    self._conv(_HIDDEN * factor**2, f"upsample_{2 * i}")(x), factor
                )
            return self._conv(self.in_channels, "conv_last")(x)
        for i in range(len(factors)):
            x = self._conv(_HIDDEN, f"conv_up{i + 1}")(ops.nearest_upsample(x, 2))
            x = ops.leaky_relu(x, 0.2)
        x = ops.leaky_relu(self._conv(_HIDDEN, "conv_hr")(x), 0.2)
        return self._conv(self.in_channels, "conv_last")(x)

    def _validate(self, images: jax.Array) -> None:
        scales = {
            "pixelshuffle": (1, 2, 3, 4, 8),
            "pixelshuffledirect": range(1, 9),
            "nearest+conv": (2, 4),
            "": (1,),
        }
        choices = {
            "upsampler": UPSAMPLERS, "resi_connection": RESI_CONNECTIONS, "in_channels": (1, 3),
        }  # fmt: skip
        for field in ("embed_dim", "window_size", "mlp_ratio", "img_range"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, not {getattr(self, field)}")
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r} is not one of {allowed}")
        if self.upscale not in scales[self.upsampler]:
            raise ValueError(
                f"upscale={self.upscale}: the upsampler {self.upsampler!r} enlarges by one of "
                f"{tuple(scales[self.upsampler])}"
            )
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"depths={self.depths} and num_heads={self.num_heads} must have a number for each "
                "group"
            )
        if any(heads < 1 or self.embed_dim % heads for heads in self.num_heads):
            raise ValueError(
                f"embed_dim={self.embed_dim} is not divisible by num_heads={self.num_heads}"
            )
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must lie in [0, 1), not {self.drop_path_rate}")
        if images.ndim != 4 or images.shape[-1] not in (3, self.in_channels):
            raise ValueError(f"images must have shape (b, h, w, 3), not {images.shape}")
        smallest = self.window_size // 2 + 1
        if min(images.shape[1:3]) < smallest:
            h, w = images.shape[1:3]
            raise ValueError(
                f"images of {h} x {w} pixels are too small for windows of {self.window_size}: both "
                f"sides must have at least {smallest}"
            )

    @property
    def tile_multiple(self) -> int:
        """Where tiles must begin, and what must divide their sides, to have the image's windows."""
        return self.window_size

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        _, _, in_channels, embed_dim = shapes["conv_first/kernel"]
        depths = count_blocks(shapes, r"group(\d+)_block(\d+)/")
        tables = [
            shapes[f"group{group}_block0/attn/relative_position_bias_table"]
            for group in range(len(depths))
        ]
        return {
            "embed_dim": embed_dim,
            "in_channels": in_channels,
            "depths": depths,
            "num_heads": tuple(heads for _, heads in tables),
            "window_size": (math.isqrt(tables[0][0]) + 1) // 2,
            "mlp_ratio": shapes["group0_block0/mlp_fc1/kernel"][1] / embed_dim,
        }

    def torch_names(self, naming: str = "") -> dict[str, str]:
        """Returns the official code's names of the submodules, see `checkpoints.torch`."""
        names = {name: name for name in ("conv_first", "norm", "conv_up1", "conv_up2", "conv_hr",
                                         "conv_last")}  # fmt: skip
        names |= {
            "patch_norm": "patch_embed.norm",
            "conv_before_upsample": "conv_before_upsample.0",
        }
        names |= {f"upsample_{i}": f"upsample.{i}" for i in (0, 2, 4)}
        convs = {"conv_after_body": "conv_after_body"}
        for group, depth in enumerate(self.depths):
            convs[f"group{group}_conv"] = f"layers.{group}.conv"
            for i in range(depth):
                names |= {
                    f"group{group}_block{i}/{ours}": (
                        f"layers.{group}.residual_group.blocks.{i}.{theirs}"
                    )
                    for ours, theirs in BLOCK_NAMES.items()
                }
        if self.resi_connection == "3conv":
            convs = {f"{a}_{i}": f"{b}.{i}" for a, b in convs.items() for i in (0, 2, 4)}
        return names | convs
