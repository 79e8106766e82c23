"""FlowFormer: optical flow from a memory of costs that a Transformer has encoded.

Source: Huang et al., "FlowFormer: A Transformer Architecture for Optical Flow" (ECCV 2022), and the
published weights. Deviation: with more than one pair in a batch, each pair's tokens see the context
of that pair; the published code gives them that of another.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ops
from vit_jax.layers import Conv, count_blocks
from vit_jax.models.base import Model
from vit_jax.models.flowformer_decoder import POSITIONS, FlowDecoder
from vit_jax.models.flowformer_encoder import CostEncoder
from vit_jax.models.raft_encoder import RaftEncoder
from vit_jax.models.twins import VARIANTS as TWINS
from vit_jax.models.twins import Twins

VARIANTS: dict[str, dict[str, Any]] = {
    "FlowFormer": {},
    "FlowFormer-small": dict(encoder="raft", tokens=4, features=32, depth=1, context_features=0),
}

PARAMETER_COUNTS = {"FlowFormer": 16_168_113, "FlowFormer-small": 6_184_337}

# Training sets, of weights that were trained on FlyingChairs and FlyingThings3D (C + T) -> number
# of pairs, and figures. Those on Sintel are the published code's, of whole frames, and of tiles of
# 432 x 960 pixels, which the paper has; RAFT's are quoted from the same paper.
PUBLISHED_SCORES: dict[str, tuple[int, dict[str, dict[str, float]]]] = {
    "Sintel-clean-train": (
        1041,
        {
            "FlowFormer": {"sintel/epe": 1.01},
            "FlowFormer-small": {"sintel/epe": 1.32},
            "RAFT (quoted)": {"sintel/epe": 1.43},
        },
    ),
    "Sintel-final-train": (
        1041,
        {
            "FlowFormer": {"sintel/epe": 2.40},
            "FlowFormer-small": {"sintel/epe": 2.68},
            "RAFT (quoted)": {"sintel/epe": 2.71},
        },
    ),
    "Sintel-clean-train-tiles": (
        1041,
        {"FlowFormer": {"sintel/epe": 0.94}, "FlowFormer-small": {"sintel/epe": 1.21}},
    ),
    "Sintel-final-train-tiles": (
        1041,
        {"FlowFormer": {"sintel/epe": 2.33}, "FlowFormer-small": {"sintel/epe": 2.61}},
    ),
    "KITTI-2015-train": (
        200,
        {
            "FlowFormer (quoted)": {"kitti/epe": 4.09, "kitti/f1_all": 14.7},
            "RAFT (quoted)": {"kitti/epe": 5.04, "kitti/f1_all": 17.4},
        },
    ),
}

STRIDE = 8  # pixels per place, along either axis
_ENCODED = 256  # channels of both encoders
_ENCODERS = ("twins", "raft")
_STAGES: dict[str, Any] = dict(
    num_classes=0, embed_dims=(128, _ENCODED), depths=(2, 2), reductions=(8, 4)
)  # of Twins-SVT-L
_TWINS_WIDTH = 1024  # of its last stage, whose norm the published files hold, and nothing uses


class _Norm(nn.Module):
    """The parameters of a norm."""

    features: int

    @nn.compact
    def __call__(self) -> None:
        self.param("scale", nn.initializers.ones, (self.features,), jnp.float32)
        self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)


class TwinsEncoder(nn.Module):
    """The first two stages of Twins-SVT-L.

    Attributes:
        remat: recompute blocks in the backward pass instead of storing their activations.
        dtype: compute type; softmax and norm statistics are float32.
    """

    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """(b, h, w, 3) -> (b, h / 8, w / 8, 256), rounded up."""
        _Norm(_TWINS_WIDTH, name="norm")()
        stages = Twins(**_STAGES, remat=self.remat, dtype=self.dtype, name="svt")
        return stages(images, feature_maps=True)[-1]

    @staticmethod
    def torch_names() -> dict[str, str]:
        """Names of its parts in FlowFormer's files."""
        names = {
            "svt/" + ours: f"svt.{theirs}"
            for ours, theirs in Twins(**_STAGES, parent=None).torch_names().items()
        }
        return {"norm": "svt.norm", **names}


class FlowFormer(Model):
    """FlowFormer, for pairs of images of any size.

    Attributes:
        encoder: of the images: "twins", the first two stages of Twins-SVT-L, or "raft", RAFT's.
        tokens: of the cost memory, per place.
        features: channels of a token.
        depth: layers of the cost encoder.
        context_features: channels of the context that queries and keys of the cost encoder see; 0
            for none.
        iterations: of the decoder; published: 12 in training, 32 in evaluation, or 24 for KITTI.
        padding: where replicated borders are added to sides that 8 does not divide: "sintel" shares
            them among both sides, "kitti" adds rows below alone.
        dropout: rate, in the MLPs of attention within a place; published: 0.
        remat: recompute blocks and iterations in the backward pass instead of storing them.
        dtype: compute type; parameters, costs, coordinates, softmax, norms' statistics and the flow
            stay float32.
        width: channels of the decoder's state, and of RAFT's encoder, whose other parts have more
            or less in proportion, a multiple of 4; published: 128.
    """

    encoder: str = "twins"
    tokens: int = 8
    features: int = 128
    depth: int = 3
    context_features: int = 64
    iterations: int = 12
    padding: str = "sintel"
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    width: int = 128

    task = "flow"
    any_size = True
    onnx = False  # its converter takes no such loop, nor sums over several axes for any batch
    torch_buffers = ("rel_ind",)
    deepest = {"depth": 16}  # noqa: RUF012
    backbones = ("feature_encoder/svt", "context_encoder/svt")

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        image2: jax.Array,
        train: bool = False,
        initial: jax.Array | None = None,
        low: bool = False,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Finds where each pixel of an image is in another one.

        Args:
            image: (b, h, w, 3) float32 in [-1, 1].
            image2: the same for the second image.
            train: whether every iteration's flow is wanted, and dropout is active; then `rngs`
                needs "dropout" if the field is set.
            initial: (b, ceil(h / 8), ceil(w / 8), 2) flow to begin with, in places of 8 pixels;
                None for zeros.
            low: whether the last flow is wanted as it was before it was enlarged as well.

        Returns:
            (b, h, w, 2) float32: columns to the right and rows down, in pixels; in training
            (iterations, b, h, w, 2). With `low` a pair, of that and (b, ceil(h / 8), ceil(w / 8),
            2), in places of 8 pixels, of the image with its borders.

        Raises:
            ValueError: if a field's value or the shapes do not fit.
        """
        self._validate(image, image2, initial)
        _, h, w, _ = image.shape
        image, image2 = (ops.pad_to_multiple(x, STRIDE, self.padding) for x in (image, image2))
        context = self._encoder("context_encoder")(image)
        both = self._encoder("feature_encoder")(jnp.concatenate([image, image2]))
        both = Conv(_ENCODED, use_bias=False, dtype=self.dtype, name="feature_conv")(both)
        first, second = both[: image.shape[0]], both[image.shape[0] :]
        cost = jnp.einsum("byxc,bvuc->byxvu", first, second, preferred_element_type=jnp.float32)
        memory = CostEncoder(
            self.tokens, self.features, self.depth, self.context_features, self.dropout,
            self.remat, self.dtype, name="cost_encoder",
        )(cost, context, train)  # fmt: skip
        decoder = FlowDecoder(
            self.dropout, train, self.remat, self.dtype, self.width, name="decoder"
        )
        flow, coarse = decoder(cost, memory, context, self.iterations, initial)
        (top, _), (left, _) = ops.multiple_margins((h, w), STRIDE, self.padding)
        flow = flow[..., top : top + h, left : left + w, :]
        return (flow, coarse) if low else flow

    def _encoder(self, name: str) -> nn.Module:
        if self.encoder == "raft":
            return RaftEncoder(_ENCODED, self.dtype, self.width, name=name)
        return TwinsEncoder(self.remat, self.dtype, name=name)

    def _validate(self, image: jax.Array, image2: jax.Array, initial: jax.Array | None) -> None:
        for field, known in (("encoder", _ENCODERS), ("padding", ops.PADDINGS)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r} is not one of {known}")
        for field in ("tokens", "iterations"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        for field in ("depth", "context_features"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} must not be negative, as {getattr(self, field)} is")
        if self.features < 8 or self.features % 8 or self.context_features % 4:
            raise ValueError(
                f"features={self.features} must be divisible by its 8 heads, and "
                f"context_features={self.context_features} by 4"
            )
        if self.width < 4 or self.width % 4:
            raise ValueError(f"width={self.width} must be a multiple of 4")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")
        if image.ndim != 4 or 0 in image.shape or image.shape[-1] != 3:
            raise ValueError(f"images must have shape (b, h, w, 3), not {image.shape}")
        if image2.shape != image.shape:
            raise ValueError(
                f"the second image must have the shape of the first, {image.shape}, and has "
                f"{image2.shape}"
            )
        b, h, w, _ = image.shape
        wanted = (b, -(-h // STRIDE), -(-w // STRIDE), 2)
        if initial is not None and initial.shape != wanted:
            raise ValueError(f"initial must have shape {wanted}, not {initial.shape}")

    @property
    def backbone_model(self) -> Model | None:
        """The classifier whose first stages are the encoders of images, which its weights begin."""
        return Twins(**TWINS["Twins-SVT-L"], parent=None) if self.encoder == "twins" else None

    def inputs(self, image_size: tuple[int, int]) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Both images, for one example."""
        return 2 * super().inputs(image_size)

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        _, tokens, features = shapes["cost_encoder/latent_tokens"]
        depth = count_blocks(shapes, r"()cost_encoder/layer(\d+)/")
        context = shapes.get("cost_encoder/local0/context_proj/kernel", (0, 0))
        is_raft = "feature_encoder/conv1/kernel" in shapes
        return {
            "encoder": "raft" if is_raft else "twins",
            "tokens": tokens,
            "features": features,
            "depth": sum(depth),
            "context_features": context[1],
            "width": shapes["decoder/to_v/kernel"][-1],
        }

    def torch_names(self, naming: str = "") -> dict[str, str]:
        """Names in the published files, see `checkpoints.torch`."""
        del naming
        encoder = "memory_encoder.cost_perceiver_encoder"
        names = {"feature_conv": "memory_encoder.channel_convertor"}
        names |= {f"cost_encoder/{k}": f"{encoder}.{v}" for k, v in self._cost_names().items()}
        names |= {f"decoder/{k}": f"memory_decoder.{v}" for k, v in _DECODER_NAMES.items()}
        places = {
            "feature_encoder": "memory_encoder.feat_encoder",
            "context_encoder": "context_encoder",
        }
        parts = (RaftEncoder if self.encoder == "raft" else TwinsEncoder).torch_names()
        for ours, theirs in places.items():
            names |= {f"{ours}/{k}": f"{theirs}.{v}" for k, v in parts.items()}
        return names

    def torch_tables(self) -> dict[str, np.ndarray]:
        """Places in the unused embeddings of positions, by offset."""
        at = np.arange(POSITIONS)
        return {"memory_decoder.att.pos_emb.rel_ind": at - at[:, None] + POSITIONS - 1}

    def _cost_names(self) -> dict[str, str]:
        """Names within the cost encoder."""
        names = {"latent_tokens": "latent_tokens", **_EMBEDDING_NAMES}
        for i in range(self.depth):
            names |= {f"layer{i}/{k}": f"encoder_layers.{i}.{v}" for k, v in _LAYER_NAMES.items()}
            for block in ("local", "global"):
                theirs = f"vertical_encoder_layers.{i}.{block}_block"
                names |= {f"{block}{i}/{k}": f"{theirs}.{v}" for k, v in _BLOCK_NAMES.items()}
        return names


_LAYER_NAMES = {
    "norm1": "norm1",
    "q": "q",
    "k": "k",
    "v": "v",
    "proj": "proj",
    "mlp/norm2": "norm2",
    "mlp/ffn0": "ffn.0",
    "mlp/ffn1": "ffn.3",
}
_EMBEDDING_NAMES = {
    **{f"embedding/conv{i}": f"patch_embed.proj.{2 * i}" for i in range(3)},
    **{f"embedding/place{i}": f"patch_embed.ffn_with_coord.{2 * i}" for i in range(2)},
    "embedding/patch_norm": "patch_embed.norm",
    **{
        f"embedding/{ours.replace('norm1', 'query_norm')}": f"input_layer.{theirs}"
        for ours, theirs in _LAYER_NAMES.items()
    },
}
_BLOCK_NAMES = {
    "norm1": "norm1",
    "mlp/norm2": "norm2",
    **{f"mlp/fc{i}": f"mlp.fc{i}" for i in (1, 2)},
    "context_proj": "attn.context_proj",
    **{f"attn/{part}": f"attn.{part}" for part in ("q", "k", "v", "proj", "norm")},
    **{f"attn/{part}": f"attn.{part}" for part in ("sr", "sr_key", "sr_value")},
}
_CROSS = "decoder_layer.cross_attend"
_DECODER_NAMES = {
    "proj": "proj",
    "flow_tokens/conv0": "flow_token_encoder.0",
    "flow_tokens/conv1": "flow_token_encoder.2",
    **{
        f"cross_attend/{ours.replace('norm1', 'query_norm')}": f"{_CROSS}.{theirs}"
        for ours, theirs in _LAYER_NAMES.items()
    },
    **{
        f"motion/{part}": f"update_block.encoder.{part}"
        for part in ("convc1", "convc2", "convf1", "convf2", "conv")
    },
    **{f"gru/conv{gate}{i}": f"update_block.gru.conv{gate}{i}" for gate in "zrq" for i in (1, 2)},
    **{f"flow_head/conv{i}": f"update_block.flow_head.conv{i}" for i in (1, 2)},
    "upsampling/mask0": "update_block.mask.0",
    "upsampling/mask1": "update_block.mask.2",
    "gamma": "update_block.aggregator.gamma",
    "to_v": "update_block.aggregator.to_v",
    "to_qk": "att.to_qk",
    "rel_height": "att.pos_emb.rel_height.weight",
    "rel_width": "att.pos_emb.rel_width.weight",
}
