"""Swin Transformer: a hierarchy of stages with attention in shifted windows.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (ICCV
2021), and the published weights, whose names `Swin.torch_names` maps, as well as timm's and
transformers'. Sizes that the windows do not divide are padded as timm does it, and in the dense
form as the authors' fork of mmsegmentation does.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from vit_jax import ops
from vit_jax.layers import Conv, count_blocks
from vit_jax.models.base import Model
from vit_jax.ops import window_maps

_DEEP = (2, 2, 18, 2)

VARIANTS: dict[str, dict[str, Any]] = {
    "Swin-T": dict(embed_dim=96, num_heads=(3, 6, 12, 24), drop_path_rate=0.2),
    "Swin-S": dict(embed_dim=96, depths=_DEEP, num_heads=(3, 6, 12, 24), drop_path_rate=0.3),
    "Swin-B": dict(embed_dim=128, depths=_DEEP, num_heads=(4, 8, 16, 32), drop_path_rate=0.5),
    "Swin-L": dict(embed_dim=192, depths=_DEEP, num_heads=(6, 12, 24, 48), drop_path_rate=0.2),
}
VARIANTS |= {f"{name}-384": dict(fields, window_size=12) for name, fields in VARIANTS.items()}

PARAMETER_COUNTS = {
    "Swin-T": 28_288_354,
    "Swin-S": 49_606_258,
    "Swin-B": 87_768_224,
    "Swin-L": 196_532_476,
    "Swin-T-384": 28_338_034,
    "Swin-S-384": 49_707_778,
    "Swin-B-384": 87_903_584,
    "Swin-L-384": 196_735_516,
}

_PATCH = 4
_TABLE = "relative_position_bias_table"
_NORMAL = nn.initializers.normal(0.02)


class Attention(nn.Module):
    """Multi-head attention in windows, of which every other block has shifted ones.

    The weights are computed besides for whoever captures "intermediates".
    """

    num_heads: int
    window_size: int
    shifted: bool
    dense: bool = False  # see Swin
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h, w, c)."""
        _, h, w, features = x.shape
        window, shift = self._window(h, w)
        table = self.param(_TABLE, _NORMAL, (_places(window), self.num_heads), jnp.float32)
        border = ((0, 0), (0, -h % window[0]), (0, -w % window[1]), (0, 0))
        # What is added belongs to the image if it comes before the roll, which moves it then.
        x = jnp.pad(x, border) if self.dense else x
        x = jnp.roll(x, [-s for s in shift], axis=(1, 2)) if any(shift) else x
        x = x if self.dense else jnp.pad(x, border)
        qkv = _dense(3 * features, self.dtype, "qkv")(x)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "attention", window_maps.rolled_window_maps(
                qkv, table, (h, w), window, shift, self.dense
            ))  # fmt: skip
        x = ops.window_attention(qkv, table, window, shift)
        x = jnp.roll(x, shift, axis=(1, 2)) if self.dense and any(shift) else x
        x = _dense(features, self.dtype, "proj")(x[:, :h, :w])
        return jnp.roll(x, shift, axis=(1, 2)) if any(shift) and not self.dense else x

    def _window(self, h: int, w: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Sides of the windows of an (h, w) map, and by how much they are shifted."""
        side, half = self.window_size, self.window_size // 2 if self.shifted else 0
        if self.dense:
            return (side, side), (half, half)
        # A side that fits into one window has a window of its own, which is not shifted.
        return (min(h, side), min(w, side)), (half if h > side else 0, half if w > side else 0)


def _dense(features: int, dtype: Any, name: str, use_bias: bool = True) -> nn.Dense:
    return nn.Dense(features, use_bias, kernel_init=_NORMAL, dtype=dtype, name=name)


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


@nn.jit  # so that blocks of the same shape are traced once
class Block(nn.Module):
    """Pre-norm Transformer block: x + attention(LN(x)), then x + MLP(LN(x))."""

    num_heads: int
    window_size: int
    shifted: bool
    drops: bool  # whether stochastic depth takes part
    dense: bool = False  # see Swin
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array) -> jax.Array:
        """(b, h, w, c) and this block's stochastic-depth rate -> (b, h, w, c)."""

        def maybe_drop(branch: jax.Array) -> jax.Array:
            if not self.drops:
                return branch
            return ops.stochastic_depth(branch, drop_rate, self.make_rng("dropout"))

        attention = Attention(
            self.num_heads, self.window_size, self.shifted, self.dense, self.dtype, name="attn"
        )
        x = ops.row_major(x)
        x = x + maybe_drop(attention(_norm(self.dtype, "norm1")(x)))
        y = _dense(4 * x.shape[-1], self.dtype, "mlp_fc1")(_norm(self.dtype, "norm2")(x))
        return x + maybe_drop(_dense(x.shape[-1], self.dtype, "mlp_fc2")(ops.gelu(y)))


class PatchMerging(nn.Module):
    """Makes one token of 2 x 2, with twice the channels; odd sides are padded with zeros."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h / 2, w / 2, 2c)."""
        b, h, w, c = x.shape
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        x = x.reshape(b, -(-h // 2), 2, -(-w // 2), 2, c)
        x = x.transpose(0, 1, 3, 4, 2, 5)  # the four in the order of columns, then rows
        x = _norm(self.dtype, "norm")(x.reshape(*x.shape[:3], 4 * c))
        return _dense(2 * c, self.dtype, "reduction", use_bias=False)(x)


class Swin(Model):
    """Swin Transformer, for images of any size.

    Attributes:
        num_classes: width of the head; 0 returns the features before it.
        embed_dim: channels of the first stage; each further one has twice as many.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: side of the windows in tokens. A side of the feature map that is not larger is
            one window, so that the parameters depend on the images' size; see `resize_params`.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 at the first.
        remat: recompute each block in the backward pass instead of storing its activations.
        dense: the form that feeds dense tasks, as the authors' fork of mmsegmentation has it: all
            windows have window_size, to which maps are padded, and are shifted in maps of one
            window as well, so that the parameters suit images of any size; and each feature map
            has a norm of its own.
        dtype: compute type; parameters, softmax, norm statistics and the head stay float32.
    """

    num_classes: int = 1000
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    drop_path_rate: float = 0.0
    remat: bool = False
    dense: bool = False
    dtype: Any = jnp.float32

    task = "classify"
    input_values = "normalize()"
    torch_namings = ("timm", "official", "transformers")
    deepest = {"depths": (64,) * 4}  # noqa: RUF012
    torch_buffers = ("relative_position_index", "attn_mask")

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
            stage i from 0 on, (b, h / 2^(i+2), w / 2^(i+2), embed_dim 2^i), with a norm if `dense`.

        Raises:
            ValueError: if a field's value or the shape of the images does not fit.
        """
        self._validate(images)
        _, h, w, _ = images.shape
        x = jnp.pad(images, ((0, 0), (0, -h % _PATCH), (0, -w % _PATCH), (0, 0)))
        x = Conv(self.embed_dim, _PATCH, _PATCH, dtype=self.dtype, name="patch_embed")(x)
        x = _norm(self.dtype, "patch_norm")(x)

        block_class = nn.remat(Block) if self.remat else Block
        count = sum(self.depths)
        drop_rates = iter(self.drop_path_rate * i / max(count - 1, 1) for i in range(count))
        maps = []
        for stage, (depth, heads) in enumerate(zip(self.depths, self.num_heads)):
            if stage:
                x = PatchMerging(self.dtype, name=f"merging{stage}")(x)
            for i in range(depth):
                x = block_class(
                    num_heads=heads,
                    window_size=self.window_size,
                    shifted=i % 2 == 1,
                    drops=train and self.drop_path_rate > 0,
                    dense=self.dense,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{i}",
                )(x, next(drop_rates))
            if feature_maps:
                maps.append(_norm(self.dtype, f"norm{stage}")(x) if self.dense else x)
        if feature_maps:
            return tuple(maps)

        x = jnp.mean(_norm(jnp.float32, "norm")(x), axis=(1, 2))
        return _dense(self.num_classes, jnp.float32, "head")(x) if self.num_classes else x

    def _validate(self, images: jax.Array) -> None:
        if not 0 < len(self.depths) == len(self.num_heads):
            raise ValueError(
                f"depths={self.depths} and num_heads={self.num_heads} must have a number for each "
                "stage"
            )
        for field in ("embed_dim", "window_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        for stage, heads in enumerate(self.num_heads):
            if heads < 1 or self.embed_dim * 2**stage % heads:
                raise ValueError(
                    f"the {self.embed_dim * 2**stage} channels of stage {stage} are not divisible "
                    f"by num_heads={self.num_heads}"
                )
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must lie in [0, 1), not {self.drop_path_rate}")
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"images must have shape (b, h, w, 3), not {images.shape}")

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Pixels per token of each stage, along either axis."""
        return tuple(_PATCH * 2**stage for stage in range(len(self.depths)))

    @property
    def any_size(self) -> bool:  # type: ignore[override]
        """Whether the parameters suit images of any size."""
        return self.dense

    def as_backbone(self) -> Model:
        """The dense form, see the class."""
        return self.clone(dense=True)

    @property
    def stride(self) -> int:
        """Pixels per token of the last stage, along either axis."""
        return _PATCH * 2 ** (len(self.depths) - 1)

    def _windows(self, size: tuple[int, int], dense: bool) -> list[tuple[int, int]]:
        """The window of each stage for images of (h, w) pixels, in the dense form or not."""
        if dense:
            return [(self.window_size, self.window_size)] * len(self.depths)
        h, w = (-(-side // _PATCH) for side in size)
        windows = []
        for _ in self.depths:
            windows.append((min(h, self.window_size), min(w, self.window_size)))
            h, w = -(-h // 2), -(-w // 2)
        return windows

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of square images that parameters were made for.

        The windows tell: where they become smaller the image was small, else it was large enough.
        In the dense form they tell nothing.

        Raises:
            KeyError: if they lack a table of position biases.
            ValueError: if the tables are those of no square.
        """
        if self.dense:
            return super().image_size(params)
        flat = traverse_util.flatten_dict(params)
        stages = [stage for stage, depth in enumerate(self.depths) if depth]
        found = [_window_side(flat[f"stage{stage}_block0", "attn", _TABLE]) for stage in stages]
        sides = [side for side in found if side is not None]
        if len(sides) < len(found):
            raise ValueError(
                "the tables of position biases are those of windows that are no squares"
            )
        for stage, side in zip(stages, sides):
            if side < sides[0]:
                return (_PATCH * 2**stage * side,) * 2
        return (self.stride * sides[0],) * 2

    def resize_params(
        self, params: Mapping[str, Any], old_size: tuple[int, int], new_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Fits parameters that were made for other windows or images of another size.

        Args:
            params: of this model, or of one with another window_size, in the dense form or not.
            old_size: (h, w) in pixels; it matters if they are those of no square.
            new_size: (h, w) in pixels.
        """
        flat = traverse_util.flatten_dict(params)
        old_windows = self._windows(old_size, dense=False)  # others are squares
        new_windows = self._windows(new_size, self.dense)
        for path, leaf in flat.items():
            if path[-1] == _TABLE:
                stage = int(path[0].partition("_")[0].removeprefix("stage"))
                old, side = old_windows[stage], _window_side(leaf)
                if len(leaf) != _places(old) and side is not None:  # of another window_size
                    old = (side, side)
                if len(leaf) != _places(old):
                    raise ValueError(
                        f"a table of {len(leaf)} position biases is not that of images of "
                        f"{old_size[0]} x {old_size[1]} pixels"
                    )
                flat[path] = ops.resize_bias_table(leaf, old, new_windows[stage])
        return traverse_util.unflatten_dict(flat)

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        depths = count_blocks(shapes, r"stage(\d+)_block(\d+)/")
        tables = [shapes[f"stage{stage}_block0/attn/{_TABLE}"] for stage in range(len(depths))]
        return {
            "embed_dim": shapes["patch_embed/kernel"][3],
            "depths": depths,
            "num_heads": tuple(heads for _, heads in tables),
            "window_size": (math.isqrt(tables[0][0]) + 1) // 2,
        }

    def layer_patterns(self) -> tuple[str, ...]:
        """Patterns of the stem, and of each block, the first of a stage with the merging before."""
        last = (len(self.depths) - 1, self.depths[-1] - 1)
        blocks = [
            f"^stage{stage}_block{i}/"
            + (f"|^merging{stage}/" if i == 0 else "")
            + ("|^norm/" if (stage, i) == last else "")
            for stage, depth in enumerate(self.depths)
            for i in range(depth)
        ]
        return ("^patch_", *blocks)

    def torch_names(self, naming: str = "timm") -> dict[str, str]:
        """Names in files of timm, the official code or transformers, see `checkpoints.torch`.

        A stage begins with the merging of patches in timm; elsewhere the one before it ends so.
        """
        if naming == "transformers":
            return self._transformers_names()
        is_timm = naming == "timm"
        names = {
            "patch_embed": "patch_embed.proj",
            "patch_norm": "patch_embed.norm",
            "norm": "norm",
            "head": "head.fc" if is_timm else "head",
        }
        for stage, i in self._blocks():
            names |= {
                f"stage{stage}_block{i}/{ours}": f"layers.{stage}.blocks.{i}.{theirs}"
                for ours, theirs in BLOCK_NAMES.items()
            }
        for stage in range(len(self.depths)):
            names[f"norm{stage}"] = f"norm{stage}"
            if stage:
                place = stage if is_timm else stage - 1
                names |= _merging_names(stage, f"layers.{place}")
        return names

    def _transformers_names(self) -> dict[str, str]:
        names = {
            "patch_embed": "swin.embeddings.patch_embeddings.projection",
            "patch_norm": "swin.embeddings.norm",
            "norm": "swin.layernorm",
            "head": "classifier",
        }
        for stage, i in self._blocks():
            block = f"swin.encoder.layers.{stage}.blocks.{i}"
            qkv = (f"{block}.attention.self.{part}" for part in ("query", "key", "value"))
            names |= {
                f"stage{stage}_block{i}/{ours}": f"{block}.{theirs}"
                for ours, theirs in _TRANSFORMERS_BLOCK_NAMES.items()
            }
            names[f"stage{stage}_block{i}/attn/qkv"] = "|".join(qkv)
        for stage in range(len(self.depths)):
            names[f"norm{stage}"] = f"swin.hidden_states_norms.stage{stage + 1}"
            if stage:
                names |= _merging_names(stage, f"swin.encoder.layers.{stage - 1}")
        return names

    def _blocks(self) -> list[tuple[int, int]]:
        """Stage and number of each block."""
        return [(stage, i) for stage, depth in enumerate(self.depths) for i in range(depth)]


def _merging_names(stage: int, layer: str) -> dict[str, str]:
    return {
        f"merging{stage}/{part}": f"{layer}.downsample.{part}" for part in ("norm", "reduction")
    }


# Of the parts of a block, here and in SwinIR.
BLOCK_NAMES = {
    "norm1": "norm1",
    f"attn/{_TABLE}": f"attn.{_TABLE}",
    "attn/qkv": "attn.qkv",
    "attn/proj": "attn.proj",
    "norm2": "norm2",
    "mlp_fc1": "mlp.fc1",
    "mlp_fc2": "mlp.fc2",
}

_TRANSFORMERS_BLOCK_NAMES = {
    "norm1": "layernorm_before",
    f"attn/{_TABLE}": f"attention.self.{_TABLE}",
    "attn/proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp_fc1": "intermediate.dense",
    "mlp_fc2": "output.dense",
}


def _places(window: tuple[int, int]) -> int:
    """Number of offsets between two pixels of a window."""
    return math.prod(2 * side - 1 for side in window)


def _window_side(table: Any) -> int | None:
    """Side of the square window that a table of biases is for, or None."""
    offsets = math.isqrt(len(table))
    return (offsets + 1) // 2 if offsets**2 == len(table) and offsets % 2 else None
