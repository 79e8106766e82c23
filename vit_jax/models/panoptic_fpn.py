"""Feature pyramid network, and the head of semantic segmentation that stands on it.

Sources: Lin et al., "Feature Pyramid Networks for Object Detection" (CVPR 2017); Kirillov et al.,
"Panoptic Feature Pyramid Networks" (CVPR 2019), section 3.1 and figure 3; detectron2's code, whose
names `PanopticFPN.torch_names` gives. One deviation: a map is enlarged to the size of the next
finer one, whatever that is, so that images need not be padded to multiples of 32; for these it is
exactly twice as large, as published.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import Conv

_ZEROS = nn.initializers.zeros
# detectron2 takes Caffe2's way of Xavier's, by the inputs alone, and He's by the outputs.
_BY_INPUTS = (nn.initializers.variance_scaling(1.0, "fan_in", "uniform"), _ZEROS)
_BY_OUTPUTS = (nn.initializers.variance_scaling(2.0, "fan_out", "normal"), _ZEROS)
GROUPS = 32  # of the norms in the head


class FPN(nn.Module):
    """Feature pyramid network: coarse maps are added to finer ones, from the coarsest on.

    Attributes:
        features: channels of the maps that it makes.
        dtype: compute type.
    """

    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """Maps (b, h, w, c), the finest first -> as many of the same sizes, with `features`."""
        outputs: list[jax.Array] = []
        above = None
        for i, x in reversed(list(enumerate(maps))):
            x = self._conv(1, f"lateral{i}")(x)
            if above is not None:
                x = x + ops.resize_nearest(above, (x.shape[1], x.shape[2]))
            outputs.append(self._conv(3, f"output{i}")(x))
            above = x
        return tuple(reversed(outputs))

    def _conv(self, side: int, name: str) -> Conv:
        return Conv(
            self.features, side, inits=_BY_INPUTS, padding="zero", dtype=self.dtype, name=name
        )

    @staticmethod
    def torch_names(count: int) -> dict[str, str]:
        """detectron2's names within `backbone`, for `count` maps from a stride of 4 on."""
        return {
            f"{part}{i}": f"fpn_{part}{i + 2}"
            for i in range(count)
            for part in ("lateral", "output")
        }


class SemanticHead(nn.Module):
    """Logits from a pyramid: each map is convolved and enlarged to the finest, and all are summed.

    Map i passes max(1, i) times through a 3x3 convolution without bias, GroupNorm, ReLU and, but
    for the finest, bilinear enlargement to the next finer map's size.

    Attributes:
        num_classes: width of the logits.
        features: channels between; divisible by 32, which are the groups of the norms.
        dtype: compute type; the statistics of norms and the predictor stay float32.
    """

    num_classes: int
    features: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        """Maps (b, h, w, c), the finest first -> (b, h, w, num_classes) float32 of the finest."""
        if self.features % GROUPS:
            raise ValueError(f"features={self.features} must be divisible by {GROUPS}")
        sizes = [(x.shape[1], x.shape[2]) for x in maps]
        total = jnp.zeros((), self.dtype)
        for i, x in enumerate(maps):
            for j in range(max(1, i)):
                x = self._convolved(x, f"scale{i}_conv{j}")
                x = ops.resize_bilinear(x, sizes[max(0, i - 1 - j)])
            total = total + x
        predictor = Conv(self.num_classes, inits=_BY_OUTPUTS, name="predictor")
        return predictor(total.astype(jnp.float32))

    def _convolved(self, x: jax.Array, name: str) -> jax.Array:
        conv = Conv(
            self.features, 3, inits=_BY_OUTPUTS, use_bias=False, padding="zero", dtype=self.dtype,
            name=name,
        )  # fmt: skip
        norm = nn.GroupNorm(
            GROUPS, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=f"{name}_norm"
        )
        return nn.relu(norm(conv(x)))

    @staticmethod
    def torch_names(count: int) -> dict[str, str]:
        """detectron2's names within `sem_seg_head`, for `count` maps from a stride of 4 on."""
        names = {"predictor": "predictor"}
        for i in range(count):
            for j in range(max(1, i)):  # every other entry there is an enlargement
                names[f"scale{i}_conv{j}"] = f"p{i + 2}.{2 * j}"
                names[f"scale{i}_conv{j}_norm"] = f"p{i + 2}.{2 * j}.norm"
        return names


class PanopticFPN(nn.Module):
    """The semantic branch of a panoptic FPN: the pyramid and its head, as a decoder.

    Attributes:
        num_classes: width of the logits.
        features: channels of the pyramid.
        head_features: channels in the head.
        dtype: compute type; the statistics of norms and the logits are float32.
    """

    num_classes: int
    features: int = 256
    head_features: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> jax.Array:
        """Maps (b, h, w, c), the finest first -> (b, h, w, num_classes) float32 of the finest."""
        del train  # it has neither dropout nor statistics
        maps = FPN(self.features, self.dtype, name="fpn")(maps)
        head = SemanticHead(self.num_classes, self.head_features, self.dtype, name="head")
        return head(maps)

    @staticmethod
    def torch_names(count: int) -> dict[str, str]:
        """detectron2's names, for `count` maps from a stride of 4 on."""
        return {
            **{f"fpn/{k}": f"backbone.{v}" for k, v in FPN.torch_names(count).items()},
            **{
                f"head/{k}": f"sem_seg_head.{v}" for k, v in SemanticHead.torch_names(count).items()
            },
        }
