"""EfficientFormerV2: convolutions, and attention at low resolution, for small devices.

Source: Li et al., "Rethinking Vision Transformers for MobileNet Size and Speed" (ICCV 2023), as its
published code and timm's `efficientformer_v2` compute it; `EfficientFormerV2.torch_names` has the
names of both.

Images of any size will do, where timm's are of the one for which its model was built. Deviation:
the attention of stage 3 works on every other position, and its result is enlarged twofold; where
the map has an odd side, that is one row or column too many, at which timm fails. The last one is
left out here, so that the others lie as they do on maps with even sides.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from vit_jax import ops
from vit_jax.layers import batch_norm, count_blocks
from vit_jax.models.base import Model, Shapes
from vit_jax.models.efficientformer_blocks import TABLE, Block, ConvNorm, Downsampling

VARIANTS: dict[str, dict[str, Any]] = {
    "EfficientFormerV2-S0": dict(
        embed_dims=(32, 48, 96, 176), depths=(2, 2, 6, 4), attention_depths=(2, 2),
        mlp_ratios=(4,) * 5 + (3,) * 3 + (4,) * 3 + (3,) * 2 + (4,),
    ),
    "EfficientFormerV2-S1": dict(
        embed_dims=(32, 48, 120, 224), depths=(3, 3, 9, 6), attention_depths=(2, 2),
        mlp_ratios=(4,) * 8 + (3,) * 4 + (4,) * 5 + (3,) * 2 + (4,) * 2,
    ),
    "EfficientFormerV2-S2": dict(
        embed_dims=(32, 64, 144, 288), depths=(4, 4, 12, 8), attention_depths=(4, 4),
        mlp_ratios=(4,) * 10 + (3,) * 6 + (4,) * 6 + (3,) * 4 + (4,) * 2,
        drop_path_rate=0.02,
    ),
    "EfficientFormerV2-L": dict(
        embed_dims=(40, 80, 192, 384), depths=(5, 5, 15, 10), attention_depths=(6, 6),
        mlp_ratios=(4,) * 14 + (3,) * 7 + (4,) * 7 + (3,) * 4 + (4,) * 3,
        drop_path_rate=0.1,
    ),
}  # fmt: skip

PARAMETER_COUNTS = {
    "EfficientFormerV2-S0": 3_600_256,
    "EfficientFormerV2-S1": 6_185_560,
    "EfficientFormerV2-S2": 12_710_112,
    "EfficientFormerV2-L": 26_322_288,
}

_STRIDES = (4, 8, 16, 32)  # pixels per position of the stages
_HEADS = ("head", "head_dist")


class EfficientFormerV2(Model):
    """EfficientFormerV2, for images of any size, with a head for the labels and one for a teacher.

    Attributes:
        num_classes: width of the heads; 0 returns the features before them.
        embed_dims: channels of the four stages.
        depths: their blocks.
        attention_depths: how many blocks at the end of the third and of the fourth stage attend.
        mlp_ratios: channels of each block's MLP for each one outside of it, over all stages; or one
            number for all.
        num_heads: attention heads.
        key_dim: channels of a head's queries and keys; half of it before the last stage.
        distilled: whether the heads are trained apart, by the labels and by a teacher; else, as in
            evaluation, their mean is what counts.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 at the first.
        remat: recompute each block in the backward pass instead of storing its activations.
        dtype: compute type; parameters, softmax, norm statistics and the heads stay float32.
    """

    num_classes: int = 1000
    embed_dims: tuple[int, ...] = (32, 48, 96, 176)
    depths: tuple[int, ...] = (2, 2, 6, 4)
    attention_depths: tuple[int, ...] = (2, 2)
    mlp_ratios: tuple[float, ...] = (4,)
    num_heads: int = 8
    key_dim: int = 32
    distilled: bool = False
    drop_path_rate: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    task = "classify"
    input_values = "normalize()"
    class_heads = _HEADS
    torch_namings = ("timm", "official")
    torch_buffers = ("attention_bias_idxs", "ab")
    deepest = {"depths": (64,) * 4, "attention_depths": (64,) * 2}  # noqa: RUF012

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, feature_maps: bool = False
    ) -> jax.Array | dict[str, jax.Array] | tuple[jax.Array, ...]:
        """Classifies images.

        Args:
            images: (b, h, w, 3) float32, normalised by ImageNet's mean and deviation. The tables of
                biases are of one size; see `resize_params`.
            train: whether batch norms use the batch's statistics, and move their own in
                `batch_stats`; and whether stochastic depth is active, when `rngs` needs "dropout".
            feature_maps: whether the stages' outputs are wanted, for dense tasks.

        Returns:
            (b, num_classes) float32 logits, the mean of both heads, or features (b, c) if
            num_classes is 0. In training, if they are `distilled`, a dict of "logits" and
            "distilled", a head each. Or else, for stage i from 0 on, (b, ceil(h / 2^(i+2)),
            ceil(w / 2^(i+2)), embed_dims[i]), without a norm.

        Raises:
            ValueError: if a field's value or the shape of the images does not fit.
        """
        self._validate(images)
        x = images
        for i, features in enumerate((self.embed_dims[0] // 2, self.embed_dims[0]), 1):
            stem = ConvNorm(features, 3, 2, train=train, dtype=self.dtype, name=f"stem{i}")
            x = ops.gelu(stem(x))

        block_class = nn.remat(Block) if self.remat else Block
        count = sum(self.depths)
        ratios = self.mlp_ratios * (count if len(self.mlp_ratios) == 1 else 1)
        blocks = iter(
            (ratio, self.drop_path_rate * i / max(count - 1, 1)) for i, ratio in enumerate(ratios)
        )
        maps = []
        for stage, depth in enumerate(self.depths):
            if stage:
                x = Downsampling(
                    self.embed_dims[stage], self.num_heads * (stage == 3), self.key_dim // 2,
                    train, self.dtype, name=f"downsample{stage}",
                )(x)  # fmt: skip
            for i in range(depth):
                ratio, drop_rate = next(blocks)
                x = block_class(
                    mlp_ratio=ratio,
                    num_heads=self.num_heads * self._attends(stage, i),
                    key_dim=self.key_dim,
                    stride=2 if stage == 2 else 1,
                    drops=train and self.drop_path_rate > 0,
                    train=train,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{i}",
                )(x, drop_rate)
            maps.append(x)
        return tuple(maps) if feature_maps else self._classify(x, train)

    def _classify(self, x: jax.Array, train: bool) -> jax.Array | dict[str, jax.Array]:
        x = jnp.mean(batch_norm(train, jnp.float32, "norm")(x), axis=(1, 2))
        if not self.num_classes:
            return x
        init = nn.initializers.truncated_normal(0.02)
        logits, distilled = (
            nn.Dense(self.num_classes, kernel_init=init, name=name)(x) for name in _HEADS
        )
        if train and self.distilled:
            return {"logits": logits, "distilled": distilled}
        return (logits + distilled) / 2

    def _attends(self, stage: int, block: int) -> bool:
        """Whether a block has attention: the last ones of the last two stages have."""
        return stage >= 2 and block >= self.depths[stage] - self.attention_depths[stage - 2]

    def _validate(self, images: jax.Array) -> None:
        for field, count in (("embed_dims", 4), ("depths", 4), ("attention_depths", 2)):
            values = getattr(self, field)
            if len(values) != count or min(values) < 0:
                raise ValueError(
                    f"{field}={values} must be {count} numbers, one for each "
                    f"{'stage' if count == 4 else 'of the last two stages'}, none below 0"
                )
        if len(self.mlp_ratios) not in (1, sum(self.depths)) or min(self.mlp_ratios) <= 0:
            raise ValueError(
                f"mlp_ratios={self.mlp_ratios} must be a positive number for each of the "
                f"{sum(self.depths)} blocks that depths={self.depths} have, or one for all"
            )
        if min(self.embed_dims) < 2 or self.num_heads < 1 or self.key_dim < 2:
            raise ValueError(
                f"embed_dims={self.embed_dims} and key_dim={self.key_dim} must be at least 2, and "
                f"num_heads={self.num_heads} at least 1"
            )
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must lie in [0, 1), not {self.drop_path_rate}")
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"images must have shape (b, h, w, 3), not {images.shape}")

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Pixels per position of each stage, along either axis."""
        return _STRIDES

    @property
    def stride(self) -> int:
        """Pixels per position of the last stage, along either axis."""
        return _STRIDES[-1]

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of square images that parameters were made for.

        Of all whose maps have the same sides, it is the largest.

        Raises:
            KeyError: if they lack a table of position biases.
            ValueError: if the tables are those of no square.
        """
        flat = traverse_util.flatten_dict(params)
        finest = flat["downsample3", "attn", TABLE].shape[1]
        side = math.isqrt(finest)
        size = (_STRIDES[2] * side,) * 2
        for path, leaf in flat.items():
            if path[-1] == TABLE and leaf.shape[1] != math.prod(_grid(path, size)):
                raise ValueError(
                    "the tables of position biases are those of images that are no squares"
                )
        return size

    def resize_params(
        self, params: Mapping[str, Any], old_size: tuple[int, int], new_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Fits parameters that were made for images of one size to those of another.

        No published code does so. A table is a picture of the biases by |dy| and |dx|, and is
        interpolated as such, bilinearly and with its corners aligned: distance 0 keeps its bias,
        and so does the largest one. What lies between is stretched with the image, since things in
        a larger one are larger.

        Args:
            params: of this model.
            old_size: (h, w) in pixels.
            new_size: (h, w) in pixels.

        Raises:
            ValueError: if a table is not that of old_size.
        """
        flat = traverse_util.flatten_dict(params)
        for path, leaf in flat.items():
            if path[-1] != TABLE:
                continue
            old, new = _grid(path, old_size), _grid(path, new_size)
            if leaf.shape[1] != math.prod(old):
                raise ValueError(
                    f"a table of {leaf.shape[1]} position biases is not that of images of "
                    f"{old_size[0]} x {old_size[1]} pixels"
                )
            if old != new:
                table = jnp.asarray(leaf).T[None]
                flat[path] = ops.resize_position_embedding(table, old, new)[0].T
        return traverse_util.unflatten_dict(flat)

    @staticmethod
    def fields_in(shapes: Shapes) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        depths = count_blocks(shapes, r"stage(\d+)_block(\d+)/")
        hidden = [
            shapes[f"stage{stage}_block{i}/fc1/conv/kernel"]
            for stage, depth in enumerate(depths)
            for i in range(depth)
        ]
        embed_dims = [shapes["stem2/conv/kernel"][3]]
        embed_dims += [shapes[f"downsample{i}/conv/conv/kernel"][3] for i in (1, 2, 3)]
        num_heads = shapes[f"downsample3/attn/{TABLE}"][0]
        attending = count_blocks(shapes, r"stage(\d+)_block(\d+)/attn/")
        return {
            "embed_dims": tuple(embed_dims),
            "depths": depths,
            "attention_depths": (*attending, 0, 0, 0, 0)[2:4],
            "mlp_ratios": tuple(_ratio(outputs, inputs) for *_, inputs, outputs in hidden),
            "num_heads": num_heads,
            "key_dim": 2 * shapes["downsample3/attn/k/conv/kernel"][3] // num_heads,
        }

    def torch_names(self, naming: str = "timm") -> dict[str, str]:
        """Returns timm's or the official code's names of the submodules, see `checkpoints.torch`.

        The official code has all stages and what lies between them in one list.
        """
        is_timm = naming == "timm"
        names = {"norm": "norm", "head": "head"}
        names["head_dist"] = "head_dist" if is_timm else "dist_head"
        for i in (1, 2):
            conv, norm = (f"stem.conv{i}.conv", f"stem.conv{i}.bn")
            if not is_timm:
                conv, norm = (f"patch_embed.{3 * i - 3}", f"patch_embed.{3 * i - 2}")
            names |= {f"stem{i}/conv": conv, f"stem{i}/bn": norm}
        for stage, depth in enumerate(self.depths):
            ours = f"downsample{stage}"
            if stage and is_timm:
                theirs = f"stages.{stage}.downsample"
                names |= _nested(f"{ours}/conv", f"{theirs}.conv", "conv", "bn")
            elif stage:
                theirs = f"network.{2 * stage - 1}"
                pair = ("conv", "bn") if stage == 3 else ("proj", "norm")
                names |= _nested(f"{ours}/conv", theirs, *pair)
            if stage == 3:
                names |= _attention_names(f"{ours}/attn", f"{theirs}.attn", is_timm)
            for i in range(depth):
                ours = f"stage{stage}_block{i}"
                theirs = f"stages.{stage}.blocks.{i}" if is_timm else f"network.{2 * stage}.{i}"
                names |= _mlp_names(ours, theirs, is_timm)
                if self._attends(stage, i):
                    names |= _attention_names(f"{ours}/attn", f"{theirs}.token_mixer", is_timm)
                    names[f"{ours}/ls1"] = _scale_name(theirs, 1, is_timm)
        return names


def _nested(ours: str, theirs: str, conv: str, norm: str) -> dict[str, str]:
    """Names of a `ConvNorm`."""
    return {f"{ours}/conv": f"{theirs}.{conv}", f"{ours}/bn": f"{theirs}.{norm}"}


def _scale_name(block: str, number: int, is_timm: bool) -> str:
    return f"{block}.ls{number}.gamma" if is_timm else f"{block}.layer_scale_{number}[:,1,1]"


def _mlp_names(ours: str, theirs: str, is_timm: bool) -> dict[str, str]:
    names = {f"{ours}/ls2": _scale_name(theirs, 2, is_timm)}
    for part, norm in (("fc1", "norm1"), ("mid", "mid_norm"), ("fc2", "norm2")):
        pair = (f"{part}.conv", f"{part}.bn") if is_timm else (part, norm)
        names |= _nested(f"{ours}/{part}", f"{theirs}.mlp", *pair)
    return names


def _attention_names(ours: str, theirs: str, is_timm: bool) -> dict[str, str]:
    """Names of an `Attention`, of whichever of its parts it has."""
    names = {f"{ours}/{TABLE}": f"{theirs}.{TABLE}"}
    downsamples = ours.startswith("downsample")
    names |= _nested(f"{ours}/proj", f"{theirs}.proj", *("conv", "bn") if is_timm else ("1", "2"))
    parts = {part: part for part in ("q", "k", "v", "v_local")}
    if downsamples:
        parts["q"] = "q.proj"
        names[f"{ours}/q_local"] = f"{theirs}.q.local" if is_timm else f"{theirs}.q.local.0"
    else:
        names |= {f"{ours}/talking_head{i}": f"{theirs}.talking_head{i}" for i in (1, 2)}
        if ours.startswith("stage2"):
            parts["stride_conv"] = "stride_conv"
    for part, name in parts.items():
        pair = ("conv", "bn") if is_timm else ("0", "1")
        names |= _nested(f"{ours}/{part}", f"{theirs}.{name}", *pair)
    return names


def _grid(path: tuple[str, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the keys to which the table at a path belongs, for images of (h, w)."""
    stride = _STRIDES[2] if path[0].startswith("downsample") else _STRIDES[3]
    return -(-size[0] // stride), -(-size[1] // stride)


def _ratio(outputs: int, inputs: int) -> float:
    ratio = outputs / inputs
    return int(ratio) if ratio.is_integer() else ratio
