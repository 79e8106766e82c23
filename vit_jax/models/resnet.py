"""ResNet with batch norms: the classifier, and the maps that dense tasks take from it.

Source: He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), in the form of v1.5,
in which a bottleneck's stride lies in its 3x3 convolution. Names, paddings and initialisation are
those of torchvision and timm, which share their names; in timm these are the models `resnetN`, and
not `resnetNd`, `resnetNt` or others with another stem.

Deviations: the last batch norm of a block begins with a scale of 1, as in torchvision, where timm's
training begins with 0. In training, PyTorch's running variance is that of n values divided by
n - 1, and flax's divided by n; with weights of either the outputs are the same.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import batch_norm, count_blocks, uniform_by_fan_in
from vit_jax.models.base import Model

VARIANTS: dict[str, dict[str, Any]] = {
    "ResNet-18": dict(depths=(2, 2, 2, 2), bottleneck=False),
    "ResNet-34": dict(depths=(3, 4, 6, 3), bottleneck=False),
    "ResNet-50": dict(depths=(3, 4, 6, 3), bottleneck=True),
    "ResNet-101": dict(depths=(3, 4, 23, 3), bottleneck=True),
}

PARAMETER_COUNTS = {
    "ResNet-18": 11_689_512,
    "ResNet-34": 21_797_672,
    "ResNet-50": 25_557_032,
    "ResNet-101": 44_549_160,
}

_ROOT_STRIDE = 4
_EXPANSION = 4  # of a bottleneck's last convolution
_KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """Convolution without bias, padded with zeros alike on all sides, as PyTorch's are.

    Attributes:
        features: output channels.
        side: of the square kernel, an odd number.
        stride: in both directions.
        dtype: compute type.
    """

    features: int
    side: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h / stride, w / stride, features), rounded up."""
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", _KAIMING, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.side == 1:
            return ops.pointwise_conv(x, kernel, self.stride)
        border = (self.side // 2,) * 2
        return jax.lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, (border, border),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip


@nn.jit  # so that blocks of the same shape are traced once
class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1, around a shortcut.

    Attributes:
        width: channels inside; a bottleneck puts out four times as many.
        stride: of its first 3x3 convolution, and of the shortcut.
        bottleneck: which of the two it is.
        train: whether the batch's own statistics are used, and the running ones moved.
        drops: whether stochastic depth takes part.
        dtype: compute type.
    """

    width: int
    stride: int
    bottleneck: bool
    train: bool
    drops: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array) -> jax.Array:
        """(b, h, w, c) and its stochastic-depth rate -> (b, h / stride, w / stride, features)."""

        def conv_norm(x: jax.Array, name: str, features: int, side: int, stride: int) -> jax.Array:
            x = Conv(features, side, stride, self.dtype, name=name)(x)
            return batch_norm(self.train, self.dtype, name.replace("conv", "bn"))(x)

        if self.bottleneck:
            features = _EXPANSION * self.width
            y = nn.relu(conv_norm(x, "conv1", self.width, 1, 1))
            y = nn.relu(conv_norm(y, "conv2", self.width, 3, self.stride))
            y = conv_norm(y, "conv3", features, 1, 1)
        else:
            features = self.width
            y = nn.relu(conv_norm(x, "conv1", features, 3, self.stride))
            y = conv_norm(y, "conv2", features, 3, 1)
        if self.stride != 1 or x.shape[-1] != features:
            x = conv_norm(x, "downsample_conv", features, 1, self.stride)
        if self.drops:
            y = ops.stochastic_depth(y, drop_rate, self.make_rng("dropout"))
        return nn.relu(x + y)


class ResNet(Model):
    """ResNet, for images of any size.

    Attributes:
        num_classes: width of the head; 0 returns the features before it.
        depths: blocks of each stage; fewer stages than four leave the last ones out.
        bottleneck: whether blocks are bottlenecks of 1x1, 3x3 and 1x1 convolutions.
        width: channels of the stem and inside the first stage's blocks; those of each further stage
            have twice as many.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 at the first.
        remat: recompute each block in the backward pass instead of storing its activations.
        dtype: compute type; parameters, norm statistics and the head stay float32.
    """

    num_classes: int = 1000
    depths: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    width: int = 64
    drop_path_rate: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    task = "classify"
    input_values = "normalize()"
    torch_namings = ("torchvision", "detectron2")
    deepest = {"depths": (64,) * 4, "bottleneck": True}  # noqa: RUF012

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, feature_maps: bool = False
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Classifies images.

        Args:
            images: (b, h, w, 3) float32, normalised by ImageNet's mean and deviation.
            train: whether norms use the batch's statistics, and stochastic depth is active; then
                "batch_stats" must be mutable, and `rngs` needs "dropout" if drop_path_rate is set.
            feature_maps: whether the stages' outputs are wanted, for dense tasks.

        Returns:
            (b, num_classes) float32 logits, or features (b, c) if num_classes is 0; or else, for
            stage i from 0 on, (b, h / 2^(i+2), w / 2^(i+2), c 2^i), rounded up, where c is width,
            or 4 width of bottlenecks.

        Raises:
            ValueError: if a field's value or the shape of the images does not fit.
        """
        self._validate(images)
        x = Conv(self.width, 7, 2, self.dtype, name="conv1")(images)
        x = nn.relu(batch_norm(train, self.dtype, "bn1")(x))
        # Nothing is below 0 here, so that zeros beyond the border are none's maximum; jax2onnx
        # takes no other padding, and these arguments by name alone.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))

        block_class = nn.remat(Block) if self.remat else Block
        count = sum(self.depths)
        drop_rates = iter(self.drop_path_rate * i / max(count - 1, 1) for i in range(count))
        maps = []
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                x = block_class(
                    width=self.width * 2**stage,
                    stride=2 if stage and not i else 1,
                    bottleneck=self.bottleneck,
                    train=train,
                    drops=train and self.drop_path_rate > 0,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{i}",
                )(x, next(drop_rates))
            maps.append(x)
        if feature_maps:
            return tuple(maps)

        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        init = uniform_by_fan_in(x.shape[-1])
        head = nn.Dense(self.num_classes, kernel_init=init, bias_init=init, name="head")
        return head(x) if self.num_classes else x

    def _validate(self, images: jax.Array) -> None:
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths={self.depths} must be a positive number for each stage")
        if self.width < 1:
            raise ValueError(f"width must be at least 1, not {self.width}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must lie in [0, 1), not {self.drop_path_rate}")
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"images must have shape (b, h, w, 3), not {images.shape}")

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Pixels per position of each stage's output, along either axis."""
        return tuple(_ROOT_STRIDE * 2**stage for stage in range(len(self.depths)))

    @property
    def stride(self) -> int:
        """Pixels per position of the last stage, along either axis."""
        return self.feature_strides[-1]

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """The size at which it is published; it takes any."""
        del params
        return 224, 224

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        return {
            "depths": count_blocks(shapes, r"stage(\d+)_block(\d+)/"),
            "bottleneck": "stage0_block0/conv3/kernel" in shapes,
            "width": shapes["conv1/kernel"][3],
        }

    def torch_names(self, naming: str = "torchvision") -> dict[str, str]:
        """Returns others' names of the submodules, see `checkpoints.torch`.

        Args:
            naming: "torchvision", whose names are timm's as well; or "detectron2", of its backbones
                alone. Detectron2's own R-50 and R-101 have the stride in the first 1x1 convolution
                of a block, and so give other maps with the same names and shapes, unless they
                began with torchvision's weights (`STRIDE_IN_1X1: False`); they also expect images
                of another range of values.
        """
        if naming == "detectron2":
            return self._detectron2_names()
        names = {"conv1": "conv1", "bn1": "bn1", "head": "fc"}
        for ours, stage, block in self._blocks():
            theirs = f"layer{stage + 1}.{block}"
            for i in self._convolutions():
                names[f"{ours}/conv{i}"] = f"{theirs}.conv{i}"
                names[f"{ours}/bn{i}"] = f"{theirs}.bn{i}"
            if self._has_downsample(stage, block):
                names[f"{ours}/downsample_conv"] = f"{theirs}.downsample.0"
                names[f"{ours}/downsample_bn"] = f"{theirs}.downsample.1"
        return names

    def _detectron2_names(self) -> dict[str, str]:
        """There a norm belongs to its convolution, and the stages are counted with the stem."""
        names = {"conv1": "stem.conv1", "bn1": "stem.conv1.norm", "head": "linear"}
        for ours, stage, block in self._blocks():
            theirs = f"res{stage + 2}.{block}"
            for i in self._convolutions():
                names[f"{ours}/conv{i}"] = f"{theirs}.conv{i}"
                names[f"{ours}/bn{i}"] = f"{theirs}.conv{i}.norm"
            if self._has_downsample(stage, block):
                names[f"{ours}/downsample_conv"] = f"{theirs}.shortcut"
                names[f"{ours}/downsample_bn"] = f"{theirs}.shortcut.norm"
        return names

    def _blocks(self) -> list[tuple[str, int, int]]:
        """Our name of each block, its stage, and its place in that."""
        return [
            (f"stage{stage}_block{block}", stage, block)
            for stage, depth in enumerate(self.depths)
            for block in range(depth)
        ]

    def _convolutions(self) -> range:
        return range(1, 4 if self.bottleneck else 3)

    def _has_downsample(self, stage: int, block: int) -> bool:
        return block == 0 and (stage > 0 or self.bottleneck)
