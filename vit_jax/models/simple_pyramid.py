"""Maps of four strides from the one map of a plain Vision Transformer.

Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (ECCV 2022),
section 3 and figure 2: transposed convolutions with a stride of 2 make finer maps, and max pooling
coarser ones. A 2x2 transposed convolution with a stride of 2 is written as a product with four
times the channels, which then become pixels: the same numbers. The convolutions that follow there
are those of the decoders here.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import Conv

STRIDES = (4, 8, 16, 32)


class SimplePyramid(nn.Module):
    """Maps at strides of 4, 8, 16 and 32 from one.

    Attributes:
        stride: of the one; a power of 2.
        dtype: compute type.
    """

    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """(b, h, w, c) -> four maps, the finest first; each doubling of the sides halves c."""
        if self.stride < 1 or self.stride & (self.stride - 1):
            raise ValueError(
                f"maps at strides of 4, 8, 16 and 32 are made from one at a power of 2, and not "
                f"{self.stride}: choose an encoder with another patch size"
            )
        return tuple(self._at(stride, x) for stride in STRIDES)

    def _at(self, stride: int, x: jax.Array) -> jax.Array:
        if stride > self.stride:
            side = stride // self.stride
            beyond = [(0, -size % side) for size in x.shape[1:3]]
            return nn.max_pool(x, (side, side), (side, side), beyond)
        for i in range(self._doublings(stride)):
            if i:
                norm = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=f"at{stride}_norm{i}")
                x = ops.gelu(norm(x))
            # Half of the channels, in each of four pixels.
            conv = Conv(2 * x.shape[-1], dtype=self.dtype, name=f"at{stride}_up{i}")
            x = ops.pixel_shuffle(conv(x), 2)
        return x

    def _doublings(self, stride: int) -> int:
        return (self.stride // stride).bit_length() - 1

    def torch_names(self) -> dict[str, str]:
        """Names of the parts; nobody has published others."""
        names: dict[str, str] = {}
        for stride in STRIDES:
            for i in range(max(0, self._doublings(stride))):
                names[f"at{stride}_up{i}"] = f"at{stride}.up{i}"
                if i:
                    names[f"at{stride}_norm{i}"] = f"at{stride}.norm{i}"
        return names
