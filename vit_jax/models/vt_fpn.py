"""VT-FPN: a pyramid whose levels exchange tokens, with the semantic head of a panoptic FPN.

Source: Wu et al., "Visual Transformers: Token-based Image Representation and Processing" (ICCV
2021). As in a feature pyramid network, a 1x1 convolution brings each map of the backbone to 256
channels. Visual Transformers then take the place of the top-down path and of the 3x3 convolutions
after it: 8 tokens of each level go together through one Transformer, and are projected back.

The paper does not say which of the 32 tokens a level gets back; here it gets its own 8, which by
then know of the others. That is what its costs tell: at 800 x 1216 pixels on a ResNet-50 it gives
55.1 GFLOPs (products and sums counted as one) for the pyramid, which are the 7.5 of the 1x1 and the
47.6 of the 3x3 convolutions, and 8.5 for VT-FPN; here they are 8.4, and would be 9.4 if each level
got all 32. The equations' form of the modules is taken, without positions.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.layers import Conv
from vit_jax.models.panoptic_fpn import SemanticHead
from vit_jax.models.visual_tokens import Form

_BY_INPUTS = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # as the FPN's laterals
_TOKEN_LAYERS = {
    "tokenizer": ("filter", "value"),
    "projector": ("query", "key", "value"),
}


class VTNeck(nn.Module):
    """The pyramid of VT-FPN.

    Attributes:
        features: channels of the maps that it makes.
        num_tokens: of each level.
        token_dim: channels of a token.
        dtype: compute type; softmax stays float32.
    """

    features: int = 256
    num_tokens: int = 8
    token_dim: int = 1024
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """Maps (b, h, w, c), the finest first -> as many of the same sizes, with `features`."""
        form = Form(self.num_tokens, self.token_dim, dtype=self.dtype)
        form.check(self.features)
        inits = (_BY_INPUTS, nn.initializers.zeros)
        levels, tokens = [], []
        for i, x in enumerate(maps):
            x = Conv(self.features, inits=inits, dtype=self.dtype, name=f"lateral{i}")(x)
            levels.append(x)
            tokens.append(form.tokenizer(f"tokenizer{i}")(x, None))
        mixed = form.transformer("transformer")(jnp.concatenate(tokens, axis=1))
        own = jnp.split(mixed, len(levels), axis=1)
        return tuple(form.projector(f"projector{i}")(x, own[i]) for i, x in enumerate(levels))

    @staticmethod
    def torch_names(count: int) -> dict[str, str]:
        """Names within `backbone`, for `count` maps from a stride of 4 on.

        Those of the 1x1 convolutions are detectron2's for an FPN, the others ours, since nobody has
        published such weights.
        """
        names = {f"transformer/{layer}": f"vt_transformer.{layer}"
                 for layer in ("key", "query", "value", "fc1", "fc2")}  # fmt: skip
        for i in range(count):
            names[f"lateral{i}"] = f"fpn_lateral{i + 2}"
            for part, layers in _TOKEN_LAYERS.items():
                names |= {f"{part}{i}/{k}": f"vt_{part}{i + 2}.{k}" for k in layers}
        return names


class VTFPN(nn.Module):
    """VT-FPN with its semantic head, as a decoder.

    Attributes:
        num_classes: width of the logits.
        features: channels of the pyramid.
        head_features: channels in the head.
        num_tokens: of each level of the pyramid.
        token_dim: channels of a token.
        dtype: compute type; softmax, the statistics of norms and the logits are float32.
    """

    num_classes: int
    features: int = 256
    head_features: int = 128
    num_tokens: int = 8
    token_dim: int = 1024
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> jax.Array:
        """Maps (b, h, w, c), the finest first -> (b, h, w, num_classes) float32 of the finest."""
        del train  # it has neither dropout nor statistics
        neck = VTNeck(self.features, self.num_tokens, self.token_dim, self.dtype, name="fpn")
        head = SemanticHead(self.num_classes, self.head_features, self.dtype, name="head")
        return head(neck(maps))

    @staticmethod
    def torch_names(count: int) -> dict[str, str]:
        """Names for `count` maps from a stride of 4 on; see `VTNeck.torch_names`."""
        return {
            **{f"fpn/{k}": f"backbone.{v}" for k, v in VTNeck.torch_names(count).items()},
            **{
                f"head/{k}": f"sem_seg_head.{v}" for k, v in SemanticHead.torch_names(count).items()
            },
        }
