"""DehazeFormer: image dehazing with a U-shaped window Transformer.

Source: Song et al., "Vision Transformers for Single Image Dehazing" (IEEE TIP 2023), and the
published code and weights, whose names `DehazeFormer.torch_names` maps.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ops
from vit_jax.layers import Conv, Init, count_blocks, uniform_by_fan_in
from vit_jax.models import piecewise
from vit_jax.models.base import Model
from vit_jax.ops import window_maps
from vit_jax.ops.windows import window_weights

_NARROW, _WIDE = (24, 48, 96, 48, 24), (48, 96, 192, 96, 48)
_MIXED = (0.25, 0.5, 0.75, 0.0, 0.0)

VARIANTS: dict[str, dict[str, Any]] = {
    "DehazeFormer-T": dict(
        hidden_sizes=_NARROW, depths=(4, 4, 4, 2, 2), attention_ratios=(0.0, 0.5, 1.0, 0.0, 0.0)
    ),
    "DehazeFormer-S": dict(hidden_sizes=_NARROW, depths=(8, 8, 8, 4, 4), attention_ratios=_MIXED),
    "DehazeFormer-B": dict(
        hidden_sizes=_NARROW, depths=(16, 16, 16, 8, 8), attention_ratios=_MIXED
    ),
    "DehazeFormer-D": dict(
        hidden_sizes=_NARROW, depths=(32, 32, 32, 16, 16), attention_ratios=_MIXED
    ),
    "DehazeFormer-W": dict(hidden_sizes=_WIDE, depths=(16, 16, 16, 8, 8), attention_ratios=_MIXED),
    "DehazeFormer-M": dict(
        hidden_sizes=_NARROW, depths=(12, 12, 12, 6, 6), attention_ratios=_MIXED, conv="full"
    ),
    "DehazeFormer-L": dict(
        hidden_sizes=_WIDE, depths=(16, 16, 16, 12, 12), attention_ratios=_MIXED, conv="full"
    ),
}

PARAMETER_COUNTS = {
    "DehazeFormer-T": 687_404,
    "DehazeFormer-S": 1_284_884,
    "DehazeFormer-B": 2_517_612,
    "DehazeFormer-D": 4_983_068,
    "DehazeFormer-W": 9_686_724,
    "DehazeFormer-M": 4_635_952,
    "DehazeFormer-L": 25_451_652,
}

# Benchmark -> its number of test images, and PSNR in dB and SSIM by the protocol of the paper.
PUBLISHED_SCORES: dict[str, tuple[int, dict[str, dict[str, float]]]] = {
    "SOTS-indoor": (
        500,
        {
            "DehazeFormer-T": {"dehazeformer/psnr": 35.15, "dehazeformer/ssim": 0.989},
            "DehazeFormer-S": {"dehazeformer/psnr": 36.82, "dehazeformer/ssim": 0.992},
            "DehazeFormer-B": {"dehazeformer/psnr": 37.84, "dehazeformer/ssim": 0.994},
            "DehazeFormer-M": {"dehazeformer/psnr": 38.46, "dehazeformer/ssim": 0.994},
            "DehazeFormer-L": {"dehazeformer/psnr": 40.05, "dehazeformer/ssim": 0.996},
        },
    ),
    "RESIDE-6K": (1000, {"DehazeFormer-T": {"dehazeformer/psnr": 30.36}}),
}

WINDOW = 8
SMALLEST_SIDE = 25  # reflection needs features that are larger than what is padded
_SHIFT = WINDOW // 2
_STAGES = 5
_CONVS = ("depthwise", "full")
_RUN = 4  # blocks that do not attend, of which each sees two pixels further


def _xavier_normal(gain: float) -> tuple[Init, Init]:
    """Of the attention's and the MLPs' convolutions: kernels, and biases of 0."""

    def kernel_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        side, _, inputs, outputs = shape
        std = gain * math.sqrt(2 / (side**2 * (inputs + outputs)))
        return std * jax.random.normal(key, shape, dtype)

    return kernel_init, nn.initializers.zeros


_Statistics = tuple[jax.Array, jax.Array]


def image_statistics(x: jax.Array) -> _Statistics:
    """Mean and deviation over height, width and channels, (b, 1, 1, 1) float32 each."""
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    return mean, jnp.sqrt(jnp.var(x, axis=(1, 2, 3), keepdims=True) + 1e-5)


class RescaleNorm(nn.Module):
    """Normalises an image by its one mean and deviation, and says how to undo it (section III-B).

    The statistics are those of the whole image, over height, width and channels.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, statistics: _Statistics
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(b, h, w, c), maybe a part -> like x; and (b, 1, 1, c) factors and summands for after."""
        features = x.shape[-1]
        # The file's (1, c, 1, 1) in the order of axes that kernels have.
        scale = self.param("scale", nn.initializers.ones, (1, 1, features, 1), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (1, 1, features, 1), jnp.float32)
        mean, std = statistics
        normal = nn.initializers.normal(0.02)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        rescale = Conv(features, inits=(normal, ones), name="meta1")(std)
        rebias = Conv(features, inits=(normal, zeros), name="meta2")(mean)
        x = (x.astype(jnp.float32) - mean) / std * scale[..., 0] + bias[..., 0]
        return x.astype(self.dtype), rescale.astype(self.dtype), rebias.astype(self.dtype)


class PositionBias(nn.Module):
    """A small network from the offset of two pixels in a window to a bias per head."""

    num_heads: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """The result is (1, heads, 64, 64) float32: the query's pixel, then the key's."""
        side = 2 * WINDOW - 1
        offsets = np.moveaxis(np.mgrid[:side, :side], 0, -1).reshape(-1, 2) - (WINDOW - 1.0)
        offsets = (np.sign(offsets) * np.log1p(np.abs(offsets))).astype(np.float32)  # row first

        def dense(features: int, fan_in: int, name: str) -> nn.Dense:
            init = uniform_by_fan_in(fan_in)
            return nn.Dense(features, kernel_init=init, bias_init=init, name=name)

        hidden = nn.relu(dense(256, 2, "meta_0")(offsets))
        biases = dense(self.num_heads, 256, "meta_2")(hidden)
        rows, columns = np.mgrid[:WINDOW, :WINDOW].reshape(2, -1)
        between = [p[:, None] - p + WINDOW - 1 for p in (rows, columns)]
        return biases[between[0] * side + between[1]].transpose(2, 0, 1)[None]


class Attention(nn.Module):
    """Attention within windows beside a convolution, on the same values (section III-D).

    Padding reflects the projected queries, keys and values; shifted windows begin half a window
    outside the image, so that nothing has to be rolled or masked. Attention's weights are computed
    besides for whoever captures "intermediates". Without heads there is the convolution alone.
    """

    num_heads: int
    shifted: bool
    conv: str
    gain: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h, w, c)."""
        features = x.shape[-1]

        def conv(name: str, side: int = 1, depthwise: bool = False) -> Conv:
            return Conv(
                features, side, inits=_xavier_normal(self.gain), depthwise=depthwise,
                dtype=self.dtype, name=name,
            )  # fmt: skip

        if self.conv == "full" and not self.num_heads:
            return conv("conv_2", 3)(nn.relu(conv("conv_0", 3)(x)))
        values = conv("V")(x)
        if self.conv == "full":
            out = conv("conv_2", 3)(nn.relu(conv("conv_0", 3)(values)))
        else:
            out = conv("conv", 5, depthwise=True)(values)
        if self.num_heads:
            queries_keys = Conv(
                2 * features, inits=_xavier_normal(1.0), dtype=self.dtype, name="QK"
            )(x)
            out = out + self._attend(jnp.concatenate([queries_keys, values], axis=-1))
        return conv("proj")(out)

    def _attend(self, qkv: jax.Array) -> jax.Array:
        """(b, h, w, 3c) -> (b, h, w, c)."""
        h, w = qkv.shape[1:3]
        begin = _SHIFT if self.shifted else 0
        ends = [(-(begin + side)) % WINDOW for side in (h, w)]
        qkv = ops.reflect_pad(qkv, begin, begin, *ends)
        bias = PositionBias(self.num_heads, name="attn")()[0]
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "attention", window_maps.WindowMaps(
                window_weights(qkv, bias, (WINDOW, WINDOW)),
                *(window_maps.mirrored_axis(side, WINDOW, begin) for side in (h, w)),
            ))  # fmt: skip
        out = ops.biased_window_attention(qkv, bias.astype(qkv.dtype), (WINDOW, WINDOW))
        return out[:, begin : begin + h, begin : begin + w]


@nn.jit  # so that blocks of the same shape are traced once
class Block(nn.Module):
    """x + attention or convolution, then x + MLP; only attention is normalised."""

    num_heads: int  # 0: it does not attend
    mlp_ratio: float
    shifted: bool
    conv: str
    gain: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, statistics: _Statistics | None) -> jax.Array:
        """(b, h, w, c), maybe a part, and what `image_statistics` says of the whole, if needed."""
        mix = Attention(
            self.num_heads, self.shifted, self.conv, self.gain, self.dtype, name="attn"
        )  # fmt: skip
        x = ops.row_major(x)
        if statistics is not None:
            y, rescale, rebias = RescaleNorm(self.dtype, name="norm1")(x, statistics)
            x = x + mix(y) * rescale + rebias
        else:
            x = x + mix(x)

        def dense(features: int, name: str) -> Conv:
            return Conv(features, inits=_xavier_normal(self.gain), dtype=self.dtype, name=name)

        y = nn.relu(dense(int(x.shape[-1] * self.mlp_ratio), "mlp_0")(x))
        return x + dense(x.shape[-1], "mlp_2")(y)


class SKFusion(nn.Module):
    """Adds the decoder's path and a skip connection, weighted by channel (section III-A)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, decoder: jax.Array, skip: jax.Array, pooled: jax.Array) -> jax.Array:
        """Two (b, h, w, c) and the mean of their sum, (b, 1, 1, c) -> (b, h, w, c)."""
        b, *_, features = decoder.shape
        hidden = Conv(max(features // 8, 4), use_bias=False, name="mlp_0")(pooled)
        weights = Conv(2 * features, use_bias=False, name="mlp_2")(nn.relu(hidden))
        weights = jax.nn.softmax(weights.reshape(b, 1, 1, 2, features), axis=3).astype(self.dtype)
        return decoder * weights[..., 0, :] + skip * weights[..., 1, :]


# Of the model and parts of maps.
_Apply = Callable[..., jax.Array]


def _layer(name: str) -> _Apply:
    """What a layer makes of the first map; without a name, the map itself."""
    return lambda module, x, *_: getattr(module, name)(x) if name else x


def _in_turn(
    begin: _Apply, blocks: Sequence[str], statistics: _Statistics | None, ends: bool
) -> _Apply:
    """What some blocks, and if it ends the last layer, make of parts of maps."""

    def apply(module: Any, *parts: jax.Array) -> jax.Array:
        x = begin(module, *parts)
        for block in blocks:
            x = getattr(module, block)(x, statistics)
        return module._restored(x, parts[-1]) if ends else x

    return apply


def _block_name(stage: int, i: int) -> str:
    return f"layer{stage + 1}_block{i}"


class DehazeFormer(Model):
    """DehazeFormer, for images of any height and width of at least 25 pixels.

    RescaleNorm and SKFusion see the whole image: neither padding nor tiles leave the result as it
    is.

    Attributes:
        hidden_sizes: channels of the five stages, from the image down and up again.
        depths: blocks of each.
        num_heads: attention heads of each.
        mlp_ratios: hidden width of each stage's MLPs, by its channels.
        attention_ratios: share of each stage's blocks, the last ones, that attend.
        conv: "depthwise" 5x5 or two "full" 3x3 convolutions beside the attention.
        part_side: side in features of the squares that are computed at a time; 0 is all. The result
            is the same, and takes a fraction of the memory.
        dtype: compute type; parameters, statistics and the output stay float32.
    """

    hidden_sizes: tuple[int, ...] = _NARROW
    depths: tuple[int, ...] = (4, 4, 4, 2, 2)
    num_heads: tuple[int, ...] = (2, 4, 6, 1, 1)
    mlp_ratios: tuple[float, ...] = (2.0, 4.0, 4.0, 2.0, 2.0)
    attention_ratios: tuple[float, ...] = (0.0, 0.5, 1.0, 0.0, 0.0)
    conv: str = "depthwise"
    part_side: int = 0
    dtype: Any = jnp.float32

    task = "restore"
    any_size = True
    metrics = ("dehazeformer/psnr", "dehazeformer/ssim")
    deepest = {"depths": (64,) * _STAGES, "attention_ratios": (1.0,) * _STAGES}  # noqa: RUF012

    def setup(self) -> None:
        self._validate()

        d, conv = self.hidden_sizes, functools.partial(Conv, dtype=self.dtype)
        self.patch_embed = conv(d[0], 3)
        self.patch_merge1, self.patch_merge2 = conv(d[1], 2, 2), conv(d[2], 2, 2)
        self.patch_split1, self.patch_split2 = conv(4 * d[3]), conv(4 * d[4])
        self.skip1, self.skip2 = conv(d[4]), conv(d[3])
        self.fusion1, self.fusion2 = SKFusion(self.dtype), SKFusion(self.dtype)
        self.patch_unembed = conv(4, 3)
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                attends = self._attends(stage, i)
                block = Block(  # those that do not attend are all alike, and traced once
                    num_heads=self.num_heads[stage] if attends else 0,
                    mlp_ratio=self.mlp_ratios[stage],
                    shifted=attends and i % 2 == 1,
                    conv=self.conv,
                    gain=(8 * sum(self.depths)) ** -0.25,
                    dtype=self.dtype,
                )
                setattr(self, _block_name(stage, i), block)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Restores hazy images.

        Args:
            images: (b, h, w, 3) float32 in [-1, 1]; h and w at least 25.
            train: takes no part; there is no dropout.

        Returns:
            (b, h, w, 3) float32, about [-1, 1]; not clipped.

        Raises:
            ValueError: if a field's value or the image size does not fit.
        """
        del train
        if images.ndim != 4:
            raise ValueError(f"images must have shape (b, h, w, 3), not {images.shape}")
        _, h, w, _ = images.shape
        if min(h, w) < SMALLEST_SIDE:
            raise ValueError(
                f"images of {h} x {w} pixels are too small for DehazeFormer: both sides must have "
                f"at least {SMALLEST_SIDE}"
            )
        padded = ops.reflect_pad(images, 0, 0, -h % 4, -w % 4)

        first = self._stage(0, _layer("patch_embed"), [padded], reach=1)
        second = self._stage(1, _layer("patch_merge1"), [first])
        x = self._stage(2, _layer("patch_merge2"), [second])
        x = self._stage(3, self._fusion("1", "2", x, second), [x, second])
        x = self._stage(4, self._fusion("2", "1", x, first), [x, first], padded)
        return x[:, :h, :w]

    def _fusion(self, decoder: str, encoder: str, x: jax.Array, skip: jax.Array) -> _Apply:
        """What makes the first map of a stage of the decoder, of parts of x and of the skip.

        What is pooled is convolved by single pixels, and so is their mean, which costs nothing.
        """

        def mean(x: jax.Array) -> jax.Array:
            return jnp.mean(x.astype(jnp.float32), axis=(1, 2), keepdims=True)

        def paths(module: Any, x: jax.Array, skip: jax.Array) -> tuple[jax.Array, jax.Array]:
            split, convolve = _layer(f"patch_split{decoder}"), _layer(f"skip{encoder}")
            return ops.pixel_shuffle(split(module, x), 2), convolve(module, skip)

        pooled = jnp.asarray(sum(mean(path) for path in paths(self, mean(x), mean(skip))))

        def fuse(module: Any, x: jax.Array, skip: jax.Array, *_: jax.Array) -> jax.Array:
            x, skip = paths(module, x, skip)
            return getattr(module, f"fusion{decoder}")(x, skip, pooled) + x

        return fuse

    def _restored(self, x: jax.Array, images: jax.Array) -> jax.Array:
        x = self.patch_unembed(x).astype(jnp.float32)
        gain, offset = x[..., :1], x[..., 1:]
        return gain * images - offset + images

    def _stage(
        self,
        stage: int,
        begin: _Apply,
        maps: Sequence[jax.Array],
        images: jax.Array | None = None,
        reach: int = 0,
    ) -> jax.Array:
        """Computes the map of a stage, with one on the way for each block that attends.

        Args:
            stage: which.
            begin: from the model and parts of maps to what the first block gets.
            maps: the maps.
            images: which the last stage restores.
            reach: how far a pixel of what `begin` makes sees.
        """
        shape = list(maps[-1].shape)
        if stage in (1, 2):
            shape[1:3] = shape[1] // 2, shape[2] // 2
        runs = self._runs(stage)
        for i, run in enumerate(runs):
            attends = any(self._attends(stage, block) for block in run)
            ends = images is not None and i == len(runs) - 1
            apply = _in_turn(
                _layer("") if i else begin,
                [_block_name(stage, block) for block in run],
                image_statistics(maps[0]) if attends else None,
                ends,
            )
            shape[3] = 3 if ends else self.hidden_sizes[stage]
            made = jax.ShapeDtypeStruct(shape, jnp.float32 if ends else self.dtype)
            sees = (0 if i else reach) + (WINDOW if attends else 2 * len(run)) + ends
            within = piecewise.Reach(sees, WINDOW if attends else 2)
            sources = [*maps, images] if images is not None and ends else maps
            maps = [piecewise.compute(self, apply, sources, made, within, self.part_side)]
        return maps[0]

    def _runs(self, stage: int) -> list[list[int]]:
        """Blocks of a stage that are computed at once: a few, or one that attends."""
        plain = [i for i in range(self.depths[stage]) if not self._attends(stage, i)]
        runs = [plain[i : i + _RUN] for i in range(0, len(plain), _RUN)] or [[]]
        return runs + [[i] for i in range(len(plain), self.depths[stage])]

    def _attends(self, stage: int, i: int) -> bool:
        depth = self.depths[stage]
        return i >= depth - self.attention_ratios[stage] * depth

    def _validate(self) -> None:
        for field in ("hidden_sizes", "depths", "num_heads", "mlp_ratios", "attention_ratios"):
            values = getattr(self, field)
            if len(values) != _STAGES or min(values) < 0:
                raise ValueError(f"{field} must be {_STAGES} numbers of at least 0, not {values}")
        d = self.hidden_sizes
        if d[0] != d[4] or d[1] != d[3]:
            raise ValueError(f"hidden_sizes={d}: the first and last, second and fourth must agree")
        for size, heads in zip(d, self.num_heads):
            if size < 1 or heads < 1 or size % heads:
                raise ValueError(
                    f"hidden_sizes={d} are not divisible by num_heads={self.num_heads}"
                )
        if self.conv not in _CONVS:
            raise ValueError(f"conv={self.conv!r} is not one of {_CONVS}")
        if self.part_side < 0 or self.part_side % WINDOW:
            raise ValueError(f"part_side={self.part_side} must be a multiple of {WINDOW}")

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        down = [shapes[f"patch_{name}/kernel"][3] for name in ("embed", "merge1", "merge2")]
        up = [shapes[f"patch_split{i}/kernel"][3] // 4 for i in (1, 2)]
        depths = count_blocks(shapes, r"layer(\d+)_block(\d+)/")[1:]
        attending = count_blocks(shapes, r"layer(\d+)_block(\d+)/norm1/")[1:]
        attending += (0,) * (_STAGES - len(attending))
        hidden = [shapes[f"layer{i + 1}_block0/mlp_0/kernel"][3] for i in range(_STAGES)]
        sizes = (*down, *up)
        return {
            "hidden_sizes": sizes,
            "depths": depths,
            "mlp_ratios": tuple(width / size for width, size in zip(hidden, sizes)),
            "attention_ratios": tuple(some / depth for some, depth in zip(attending, depths)),
        }

    def torch_names(self, naming: str = "") -> dict[str, str]:
        """Returns the official code's names of the submodules, see `checkpoints.torch`."""
        names = {f"{name}": f"{name}.proj" for name in ("patch_embed", "patch_merge1",
                                                         "patch_merge2")}  # fmt: skip
        names |= {name: f"{name}.proj.0" for name in ("patch_split1", "patch_split2",
                                                       "patch_unembed")}  # fmt: skip
        names |= {"skip1": "skip1", "skip2": "skip2"}
        names |= {f"fusion{f}/mlp_{i}": f"fusion{f}.mlp.{i}" for f in (1, 2) for i in (0, 2)}
        convs = ["conv"] if self.conv == "depthwise" else ["conv_0", "conv_2"]
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                ours, theirs = f"layer{stage + 1}_block{i}", f"layer{stage + 1}.blocks.{i}"
                attends = self._attends(stage, i)
                names |= {f"{ours}/mlp_{j}": f"{theirs}.mlp.mlp.{j}" for j in (0, 2)}
                names |= {f"{ours}/attn/{c}": f"{theirs}.attn.{c.replace('_', '.')}" for c in convs}
                if attends or self.conv == "depthwise":
                    names |= {f"{ours}/attn/{c}": f"{theirs}.attn.{c}" for c in ("V", "proj")}
                if attends:
                    names[f"{ours}/attn/QK"] = f"{theirs}.attn.QK"
                    names |= {
                        f"{ours}/attn/attn/meta_{j}": f"{theirs}.attn.attn.meta.{j}" for j in (0, 2)
                    }
                    names[f"{ours}/norm1"] = f"{theirs}.norm1"
                    names |= {f"{ours}/norm1/meta{j}": f"{theirs}.norm1.meta{j}" for j in (1, 2)}
        return names
