"""Twins-SVT: stages that attend within windows and to a summary of the whole, in turn.

Source: Chu et al., "Twins: Revisiting the Design of Spatial Attention in Vision Transformers"
(NeurIPS 2021), sections 3.2 and 3.3, and the published weights, whose names, timm's too,
`Twins.torch_names` maps. Deviation: sides that patches do not divide are padded, where the
published code leaves the last pixels out.
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

VARIANTS: dict[str, dict[str, Any]] = {
    "Twins-SVT-S": dict(embed_dims=(64, 128, 256, 512), depths=(2, 2, 10, 4), drop_path_rate=0.2),
    "Twins-SVT-B": dict(embed_dims=(96, 192, 384, 768), depths=(2, 2, 18, 2), drop_path_rate=0.3),
    "Twins-SVT-L": dict(embed_dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2), drop_path_rate=0.5),
}

PARAMETER_COUNTS = {
    "Twins-SVT-S": 24_060_776,
    "Twins-SVT-B": 56_070_952,
    "Twins-SVT-L": 99_271_400,
}

_NORMAL = nn.initializers.normal(0.02)


def _by_fan_out(fan_out: int) -> tuple[Any, Any]:
    """Initialisers of a convolution's kernel and bias."""
    return nn.initializers.normal(math.sqrt(2 / fan_out)), nn.initializers.zeros


def _dense(features: int, dtype: Any, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=_NORMAL, dtype=dtype, name=name)


def _norm(epsilon: float, dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, name=name)


class LocalAttention(nn.Module):
    """Multi-head attention within windows, without position biases.

    What pads a map to whole windows takes part, as published.
    """

    heads: int
    window: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h, w, c)."""
        _, h, w, c = x.shape
        side = self.window
        x = jnp.pad(x, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
        qkv = _dense(3 * c, self.dtype, "qkv")(ops.as_rows(x)).reshape(*x.shape[:-1], 3 * c)
        no_bias = jnp.zeros((self.heads, side**2, side**2), jnp.float32)
        x = ops.biased_window_attention(qkv, no_bias, (side, side))
        return _dense(c, self.dtype, "proj")(x[:, :h, :w])


class GlobalAttention(nn.Module):
    """Multi-head attention of all positions to a smaller map, made by a strided convolution."""

    heads: int
    reduction: int  # sides of what becomes one key; 1 leaves the map and the convolution as is
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h, w, c)."""
        b, h, w, c = x.shape
        q = _dense(c, self.dtype, "q")(x)
        if self.reduction > 1:
            x = self._reduce(x)
        kv = _dense(2 * c, self.dtype, "kv")(x)
        q, k, v = (
            y.reshape(b, -1, self.heads, c // self.heads) for y in (q, *jnp.split(kv, 2, -1))
        )
        return _dense(c, self.dtype, "proj")(ops.attention(q, k, v).reshape(b, h, w, c))

    def _reduce(self, x: jax.Array) -> jax.Array:
        """Rows and columns that make no whole key are left out, but one key is made at least."""
        (_, h, w, c), side = x.shape, self.reduction
        x = jnp.pad(x, ((0, 0), (0, max(side - h, 0)), (0, max(side - w, 0)), (0, 0)))
        x = x[:, : x.shape[1] // side * side, : x.shape[2] // side * side]
        x = Conv(c, side, side, _by_fan_out(side**2 * c), dtype=self.dtype, name="sr")(x)
        return _norm(1e-5, self.dtype, "norm")(x)


@nn.jit  # so that blocks of the same shape are traced once
class Block(nn.Module):
    """Pre-norm Transformer block: x + attention(LN(x)), then x + MLP(LN(x)).

    Attributes:
        heads: of the attention.
        window: side of the windows within which is attended; 0 for attention to all.
        reduction: of the keys' map in the latter.
        drops: whether stochastic depth takes part.
        dtype: compute type.
    """

    heads: int
    window: int
    reduction: int
    drops: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array) -> jax.Array:
        """(b, h, w, c) and this block's stochastic-depth rate -> (b, h, w, c)."""

        def maybe_drop(branch: jax.Array) -> jax.Array:
            if not self.drops:
                return branch
            return ops.stochastic_depth(branch, drop_rate, self.make_rng("dropout"))

        if self.window:
            attention: nn.Module = LocalAttention(self.heads, self.window, self.dtype, name="attn")
        else:
            attention = GlobalAttention(self.heads, self.reduction, self.dtype, name="attn")
        x = ops.row_major(x)
        x = x + maybe_drop(attention(_norm(1e-6, self.dtype, "norm1")(x)))
        y = ops.as_rows(_norm(1e-6, self.dtype, "norm2")(x))
        y = ops.gelu(_dense(4 * x.shape[-1], self.dtype, "mlp_fc1")(y))
        return x + maybe_drop(_dense(x.shape[-1], self.dtype, "mlp_fc2")(y).reshape(x.shape))


class PatchEmbedding(nn.Module):
    """Makes one token of each patch; sides that they do not divide are padded with zeros."""

    features: int
    side: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, ceil(h / side), ceil(w / side), features)."""
        _, h, w, _ = x.shape
        side, inits = self.side, _by_fan_out(self.side**2 * self.features)
        x = jnp.pad(x, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
        x = Conv(self.features, side, side, inits, dtype=self.dtype, name="proj")(x)
        return _norm(1e-5, self.dtype, "norm")(x)


class Twins(Model):
    """Twins-SVT, for images of any size.

    The first of two blocks attends within windows, the second to all. After the first block of a
    stage a depthwise convolution adds what it sees, the only thing that tells positions.

    Attributes:
        num_classes: width of the head; 0 returns the features before it.
        embed_dims: channels of each stage; fewer than four stages leave the last ones out.
        depths: their blocks.
        head_dim: channels of an attention head.
        window_size: side of the windows, in tokens.
        reductions: sides of the square of tokens that becomes one key of the attention to all.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 at the first.
        remat: recompute each block in the backward pass instead of storing its activations.
        dtype: compute type; parameters, softmax, norm statistics and the head stay float32.
    """

    num_classes: int = 1000
    embed_dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 10, 4)
    head_dim: int = 32
    window_size: int = 7
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    drop_path_rate: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    task = "classify"
    input_values = "normalize()"
    deepest = {"depths": (64,) * 4}  # noqa: RUF012

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, feature_maps: bool = False
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Classifies images.

        Args:
            images: (b, h, w, 3) float32, normalised by ImageNet's mean and deviation.
            train: whether stochastic depth is active; then `rngs` needs "dropout".
            feature_maps: whether the stages' outputs are wanted, for dense tasks.

        Returns:
            (b, num_classes) float32 logits, or features (b, c) if num_classes is 0; or else, for
            stage i from 0 on, (b, ceil(h / 2^(i+2)), ceil(w / 2^(i+2)), embed_dims[i]), without a
            norm.

        Raises:
            ValueError: if a field's value or the shape of the images does not fit.
        """
        self._validate(images)
        block_class = nn.remat(Block) if self.remat else Block
        count = sum(self.depths)
        drop_rates = iter(self.drop_path_rate * i / max(count - 1, 1) for i in range(count))
        x, maps = images, []
        for stage, (features, depth) in enumerate(zip(self.embed_dims, self.depths)):
            side = 2 if stage else 4
            x = PatchEmbedding(features, side, self.dtype, name=f"embed{stage}")(x)
            for i in range(depth):
                x = block_class(
                    heads=features // self.head_dim,
                    window=0 if i % 2 else self.window_size,
                    reduction=self.reductions[stage],
                    drops=train and self.drop_path_rate > 0,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{i}",
                )(x, next(drop_rates))
                if not i:
                    x = x + Conv(
                        features, 3, inits=_by_fan_out(9), depthwise=True, padding="zero",
                        dtype=self.dtype, name=f"positions{stage}",
                    )(x)  # fmt: skip
            maps.append(x)
        if feature_maps:
            return tuple(maps)

        x = jnp.mean(_norm(1e-6, jnp.float32, "norm")(x), axis=(1, 2))
        return _dense(self.num_classes, jnp.float32, "head")(x) if self.num_classes else x

    def _validate(self, images: jax.Array) -> None:
        stages = len(self.embed_dims)
        for field in ("depths", "reductions"):
            values = getattr(self, field)
            if len(values) != stages or not values or min(values) < 1:
                raise ValueError(
                    f"{field}={values} must have a number from 1 on for each of the {stages} "
                    f"stages that embed_dims={self.embed_dims} have"
                )
        for stage, features in enumerate(self.embed_dims):
            if self.head_dim < 1 or features < 1 or features % self.head_dim:
                raise ValueError(
                    f"the {features} channels of stage {stage} are not divisible by "
                    f"head_dim={self.head_dim}"
                )
        if self.window_size < 1:
            raise ValueError(f"window_size must be at least 1, not {self.window_size}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must lie in [0, 1), not {self.drop_path_rate}")
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"images must have shape (b, h, w, 3), not {images.shape}")

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Pixels per token of each stage, along either axis."""
        return tuple(4 * 2**stage for stage in range(len(self.embed_dims)))

    @property
    def stride(self) -> int:
        """Pixels per token of the last stage, along either axis."""
        return self.feature_strides[-1]

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """The size that the published weights were trained at; any will do."""
        del params
        return 224, 224

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`.

        The size of heads and windows does not show.
        """
        depths = count_blocks(shapes, r"stage(\d+)_block(\d+)/")
        stages = max(len(depths), 1)  # of another kind of model the first is lacking
        embed_dims = [shapes[f"embed{stage}/proj/kernel"][3] for stage in range(stages)]
        kernels = [f"stage{stage}_block1/attn/sr/kernel" for stage in range(len(depths))]
        return {
            "embed_dims": tuple(embed_dims),
            "depths": depths,
            "reductions": tuple(shapes[name][0] if name in shapes else 1 for name in kernels),
        }

    def torch_names(self, naming: str = "") -> dict[str, str]:
        """Returns timm's and the authors' names of the submodules, see `checkpoints.torch`."""
        del naming
        names = {"norm": "norm", "head": "head"}
        for stage, depth in enumerate(self.depths):
            names |= {
                f"embed{stage}/{part}": f"patch_embeds.{stage}.{part}" for part in ("proj", "norm")
            }
            names[f"positions{stage}"] = f"pos_block.{stage}.proj.0"
            for i in range(depth):
                parts = _GLOBAL_NAMES if i % 2 else _LOCAL_NAMES
                names |= {
                    f"stage{stage}_block{i}/{ours}": f"blocks.{stage}.{i}.{theirs}"
                    for ours, theirs in parts.items()
                }
        return names


_BLOCK_NAMES = {
    "norm1": "norm1",
    "attn/proj": "attn.proj",
    "norm2": "norm2",
    "mlp_fc1": "mlp.fc1",
    "mlp_fc2": "mlp.fc2",
}
_LOCAL_NAMES = {**_BLOCK_NAMES, "attn/qkv": "attn.qkv"}
_GLOBAL_NAMES = {**_BLOCK_NAMES, **{f"attn/{x}": f"attn.{x}" for x in ("q", "kv", "sr", "norm")}}
