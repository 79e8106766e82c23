"""MLP-Mixer.

Source: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision" (NeurIPS 2021), and the
published code and weights of google-research/vision_transformer, whose names the submodules carry.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from vit_jax import ops
from vit_jax.layers import count_blocks
from vit_jax.models.base import Model

_BASE = dict(num_blocks=12, hidden_dim=768, tokens_mlp_dim=384, channels_mlp_dim=3072)
_LARGE = dict(num_blocks=24, hidden_dim=1024, tokens_mlp_dim=512, channels_mlp_dim=4096)

VARIANTS: dict[str, dict[str, Any]] = {
    "Mixer-B_16": dict(_BASE, patch_size=16),
    "Mixer-B_32": dict(_BASE, patch_size=32),
    "Mixer-L_16": dict(_LARGE, patch_size=16),
}

PARAMETER_COUNTS = {
    "Mixer-B_16": 59_880_472,
    "Mixer-B_32": 60_293_428,
    "Mixer-L_16": 208_196_168,
}

_FIRST_KERNEL = ("MixerBlock_0", "token_mixing", "Dense_0", "kernel")


class MlpBlock(nn.Module):
    """Two dense layers over the last axis with an activation between them."""

    mlp_dim: int
    activation: str = "gelu_tanh"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., d) -> (..., d)."""
        activate = ops.activation(self.activation)
        y = activate(nn.Dense(self.mlp_dim, dtype=self.dtype, name="Dense_0")(x))
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="Dense_1")(y)


class MixerBlock(nn.Module):
    """An MLP across the tokens, then one across the channels, each with a norm and a shortcut."""

    tokens_mlp_dim: int
    channels_mlp_dim: int
    activation: str = "gelu_tanh"
    drop_rate: float = 0.0  # of stochastic depth
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""

        def maybe_drop(branch: jax.Array) -> jax.Array:
            if not self.drop_rate:
                return branch
            return ops.stochastic_depth(branch, self.drop_rate, self.make_rng("dropout"))

        y = nn.LayerNorm(dtype=self.dtype, name="LayerNorm_0")(x).swapaxes(1, 2)
        y = self._mlp(self.tokens_mlp_dim, "token_mixing")(y)
        x = x + maybe_drop(y.swapaxes(1, 2))
        y = nn.LayerNorm(dtype=self.dtype, name="LayerNorm_1")(x)
        return x + maybe_drop(self._mlp(self.channels_mlp_dim, "channel_mixing")(y))

    def _mlp(self, width: int, name: str) -> MlpBlock:
        return MlpBlock(width, self.activation, dtype=self.dtype, name=name)


class MlpMixer(Model):
    """MLP-Mixer.

    Its weights depend on the number of patches: a model takes images of the size that it was
    trained with, or of another height and width with as many patches.

    Attributes:
        num_classes: width of the head; 0 returns the features before it.
        patch_size: side of the square patches in pixels.
        num_blocks: number of Mixer blocks.
        hidden_dim: width of the tokens.
        tokens_mlp_dim: hidden width of the MLPs across the tokens.
        channels_mlp_dim: hidden width of the MLPs across the channels.
        activation: of the MLPs: "gelu_tanh", as in google-research's, or "gelu", as in timm's.
        stochastic_depth_rate: of the last block; rises linearly from 0 at the first.
        head_bias_init: initial bias of the head, such as -6.9 for the sigmoid loss of 1000 classes.
        dtype: compute type; parameters, norm statistics and the head stay float32.
    """

    num_classes: int = 1000
    patch_size: int = 16
    num_blocks: int = 12
    hidden_dim: int = 768
    tokens_mlp_dim: int = 384
    channels_mlp_dim: int = 3072
    activation: str = "gelu_tanh"
    stochastic_depth_rate: float = 0.0
    head_bias_init: float = 0.0
    dtype: Any = jnp.float32

    task = "classify"
    deepest = {"num_blocks": 64}  # noqa: RUF012

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Classifies images.

        Args:
            images: (b, h, w, 3) float32 in [-1, 1]; h and w divisible by the patch size.
            train: whether stochastic depth drops branches; `rngs` then needs "dropout".

        Returns:
            (b, num_classes) float32 logits, or features if num_classes is 0.

        Raises:
            ValueError: if the image size does not fit the patch size or the weights.
        """
        if not 0 <= self.stochastic_depth_rate < 1:
            raise ValueError(
                f"stochastic_depth_rate must lie in [0, 1), not {self.stochastic_depth_rate}"
            )
        b, h, w, _ = images.shape
        p = self.patch_size
        if h % p or w % p or not h or not w:
            raise ValueError(
                f"images of {h} x {w} pixels cannot be cut into patches of {p} x {p}: choose a "
                "height and width divisible by the patch size"
            )
        self._check_tokens((h // p) * (w // p))
        x = nn.Conv(
            self.hidden_dim, (p, p), strides=(p, p), padding="VALID", dtype=self.dtype, name="stem"
        )(images)
        x = x.reshape(b, -1, self.hidden_dim)
        for i in range(self.num_blocks):
            drop_rate = self.stochastic_depth_rate * i / max(self.num_blocks - 1, 1)
            x = MixerBlock(
                self.tokens_mlp_dim,
                self.channels_mlp_dim,
                self.activation,
                drop_rate if train else 0.0,
                dtype=self.dtype,
                name=f"MixerBlock_{i}",
            )(x)
        x = nn.LayerNorm(dtype=self.dtype, name="pre_head_layer_norm")(x)
        x = jnp.mean(x, axis=1).astype(jnp.float32)
        if self.num_classes:
            x = nn.Dense(
                self.num_classes,
                kernel_init=nn.initializers.zeros,
                bias_init=nn.initializers.constant(self.head_bias_init),
                name="head",
            )(x)
        return x

    def _check_tokens(self, count: int) -> None:
        if not self.num_blocks or not self.has_variable("params", "MixerBlock_0"):
            return
        first: Any = self.get_variable("params", "MixerBlock_0")
        kernel = first["token_mixing"]["Dense_0"]["kernel"]
        if kernel.shape[0] != count:
            raise ValueError(
                f"these weights mix {kernel.shape[0]} patches, but this image size makes {count}: "
                "feed images of the size the weights were made for"
            )

    @property
    def stride(self) -> int:
        """Pixels per token, along either axis."""
        return self.patch_size

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of the square images that parameters were made for.

        Raises:
            KeyError: if they lack the first block.
            ValueError: if their number of patches is that of no square.
        """
        kernel = traverse_util.flatten_dict(params)[_FIRST_KERNEL]
        count = kernel.shape[0]
        side = math.isqrt(count)
        if side**2 != count:
            raise ValueError(f"the weights mix {count} patches, which do not make a square")
        return (side * self.patch_size,) * 2

    def resize_params(
        self, params: Mapping[str, Any], old_size: tuple[int, int], new_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Raises a ValueError if the sizes differ in their number of patches; see the class."""
        old, new = (
            (h // self.patch_size) * (w // self.patch_size) for h, w in (old_size, new_size)
        )
        if old != new:
            raise ValueError(
                f"a Mixer's weights for {old} patches cannot be fitted to {new}: use images of "
                f"{old_size[0]} x {old_size[1]} pixels"
            )
        return dict(params)

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        patch_size, _, _, hidden_dim = shapes["stem/kernel"]
        return {
            "patch_size": patch_size,
            "num_blocks": sum(count_blocks(shapes, r"MixerBlock_()(\d+)/")),
            "hidden_dim": hidden_dim,
            "tokens_mlp_dim": shapes["MixerBlock_0/token_mixing/Dense_0/kernel"][1],
            "channels_mlp_dim": shapes["MixerBlock_0/channel_mixing/Dense_0/kernel"][1],
        }

    def layer_patterns(self) -> tuple[str, ...]:
        """Patterns of the stem, and of each block; the last norm is the last one's, as in timm."""
        blocks = [f"^MixerBlock_{i}/" for i in range(self.num_blocks)]
        return ("^stem/", *blocks[:-1], f"{blocks[-1]}|^pre_head_layer_norm/")

    def torch_names(self, naming: str = "") -> dict[str, str]:
        """Returns timm's names of the submodules, see `checkpoints.torch`."""
        names = {"stem": "stem.proj", "pre_head_layer_norm": "norm", "head": "head"}
        for i in range(self.num_blocks):
            for ours, theirs in {
                "LayerNorm_0": "norm1",
                "token_mixing/Dense_0": "mlp_tokens.fc1",
                "token_mixing/Dense_1": "mlp_tokens.fc2",
                "LayerNorm_1": "norm2",
                "channel_mixing/Dense_0": "mlp_channels.fc1",
                "channel_mixing/Dense_1": "mlp_channels.fc2",
            }.items():
                names[f"MixerBlock_{i}/{ours}"] = f"blocks.{i}.{theirs}"
        return names
