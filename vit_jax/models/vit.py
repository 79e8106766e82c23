"""Vision Transformer, also with a ResNet in front (hybrid).

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), and the published code
and weights of google-research/vision_transformer. Extensions: sincos2d positions, global average
pooling and attention pooling (Zhai et al., "Scaling Vision Transformers", CVPR 2022; Beyer et al.,
"Better plain ViT baselines for ImageNet-1k", 2022), stochastic depth (Huang et al., ECCV 2016).

Submodules carry the names of the published .npz files, so that the flattened parameters of an
unrolled model *are* the entries of such a file: the numbers in `LayerNorm_0`,
`MultiHeadDotProductAttention_1`, `LayerNorm_2`, `MlpBlock_3` are part of that format.
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
from vit_jax.models import bit_resnet, published_images, torch_calls, tower_names
from vit_jax.models.base import Model
from vit_jax.models.encoder import (  # noqa: F401
    INITIALIZATIONS,
    Encoder,
    MAPHead,
    MultiHeadAttention,
)

SIZES = {
    "Ti": dict(hidden_size=192, mlp_dim=768, num_heads=3, num_layers=12),
    "S": dict(hidden_size=384, mlp_dim=1536, num_heads=6, num_layers=12),
    "B": dict(hidden_size=768, mlp_dim=3072, num_heads=12, num_layers=12),
    "L": dict(hidden_size=1024, mlp_dim=4096, num_heads=16, num_layers=24),
    "H": dict(hidden_size=1280, mlp_dim=5120, num_heads=16, num_layers=32),
    "So400m": dict(hidden_size=1152, mlp_dim=4304, num_heads=16, num_layers=27),
    "g-opt": dict(hidden_size=1536, mlp_dim=6144, num_heads=16, num_layers=40),
}

VARIANTS: dict[str, dict[str, Any]] = {
    "ViT-Ti_16": dict(SIZES["Ti"], patch_size=16),
    "ViT-S_16": dict(SIZES["S"], patch_size=16),
    "ViT-S_32": dict(SIZES["S"], patch_size=32),
    "ViT-B_8": dict(SIZES["B"], patch_size=8),
    "ViT-B_16": dict(SIZES["B"], patch_size=16),
    "ViT-B_32": dict(SIZES["B"], patch_size=32),
    "ViT-L_16": dict(SIZES["L"], patch_size=16, dropout_rate=0.1),
    "ViT-L_32": dict(SIZES["L"], patch_size=32),
    "ViT-H_14": dict(SIZES["H"], patch_size=14, dropout_rate=0.1),
    "ViT-S_16-gap-norep": dict(SIZES["S"], patch_size=16, classifier="gap"),
    "ViT-S_32-gap-norep": dict(SIZES["S"], patch_size=32, classifier="gap"),
    "ViT-B_16-gap-norep": dict(SIZES["B"], patch_size=16, classifier="gap"),
    "ViT-B_32-gap-norep": dict(SIZES["B"], patch_size=32, classifier="gap"),
    "R+ViT-Ti_16": dict(SIZES["Ti"], patch_size=8, resnet_layers=()),
    "R26+ViT-S_32": dict(SIZES["S"], patch_size=1, resnet_layers=(2, 2, 2, 2)),
    "R26+ViT-B_32": dict(SIZES["B"], patch_size=1, resnet_layers=(2, 2, 2, 2)),
    "R50+ViT-B_16": dict(SIZES["B"], patch_size=1, resnet_layers=(3, 4, 9), dropout_rate=0.1),
    "R50+ViT-L_32": dict(SIZES["L"], patch_size=1, resnet_layers=(3, 4, 6, 3), dropout_rate=0.1),
}

PARAMETER_COUNTS = {
    "ViT-Ti_16": 5_717_416,
    "ViT-S_16": 22_050_664,
    "ViT-S_32": 22_878_952,
    "ViT-B_8": 86_576_872,
    "ViT-B_16": 86_567_656,
    "ViT-B_32": 88_224_232,
    "ViT-L_16": 304_326_632,
    "ViT-L_32": 306_535_400,
    "ViT-H_14": 632_045_800,
    "ViT-S_16-gap-norep": 22_049_896,
    "ViT-S_32-gap-norep": 22_878_184,
    "ViT-B_16-gap-norep": 86_566_120,
    "ViT-B_32-gap-norep": 88_222_696,
    "R+ViT-Ti_16": 6_337_704,
    "R26+ViT-S_32": 36_431_912,
    "R26+ViT-B_32": 101_383_976,
    "R50+ViT-B_16": 98_659_112,
    "R50+ViT-L_32": 328_994_856,
}

REPRESENTATIONS = ("tanh", "linear", "projection")
CLASSIFIERS = ("token", "gap", "map", "unpooled", "token_unpooled")
POSITION_EMBEDDINGS = ("learned", "sincos2d", "none")
ATTENTION_IMPLEMENTATIONS = ("xla", "cudnn")

# Of models with a norm before the blocks: as wide as OpenAI's, whose heads have 64 numbers each.
# Wider ones, such as OpenCLIP's H, have others.
_WIDEST_OF_64 = 1024

_POSITIONS = ("Transformer", "posembed_input", "pos_embedding")


class PatchEmbedding(nn.Module):
    """One token of each patch: a convolution with a stride of its kernel's side."""

    features: int
    patch_size: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) -> (b, h / patch_size, w / patch_size, features)."""
        shape = (self.patch_size, self.patch_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        x = ops.patch_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return x + bias.astype(self.dtype)


class VisionTransformer(Model):
    """Vision Transformer.

    Attributes:
        num_classes: width of the head; 0 returns the features before it.
        patch_size: side of the square patches in pixels.
        hidden_size: width d of the tokens.
        num_layers: number of encoder blocks.
        num_heads: attention heads; must divide hidden_size.
        mlp_dim: hidden width of the MLP blocks.
        activation: of the MLP blocks: "gelu_tanh", as in google-research's models; "gelu", the
            exact one, as in timm's, DINOv2's and transformers'; or "quick_gelu", as in CLIP's.
        dropout_rate: dropout after positions, attention and both MLP layers.
        attention_dropout_rate: dropout of the attention weights.
        stochastic_depth_rate: rate of the last block; rises linearly from 0 at the first.
        classifier: what the head sees: "token" the class token, "gap" the mean of the patches,
            "map" attention pooling, "unpooled" every patch, "token_unpooled" class token and
            every patch.
        representation_size: width of a layer before the head, or None.
        representation: what that layer is: "tanh"; "linear"; or "projection", without a bias.
        cosine: whether what the head sees is made of length 1 first, see `ops.unit_length`.
        pre_norm: whether there is a norm before the blocks, after the positions.
        norm_epsilon: of all norms.
        patch_bias: whether the patches' convolution has a bias.
        initialization: of the encoder: "xavier", as in google-research's models, or "clip".
        preparation: of the images that published weights know: "clip", "big_vision", or "", a plain
            resize; see `published_images`.
        position_embedding: "learned", "sincos2d" or "none".
        position_resize: how learned ones are fitted to other images: "linear", as google-research's
            are, or "bicubic", as open_clip does; see `ops.resize_position_embedding`.
        resnet_layers: units of each stage of a ResNet whose features are cut into patches in place
            of the image; () is its root alone, None no ResNet.
        resnet_width_factor: width of that ResNet; 1 is 64 channels after the root.
        head_bias_init: constant initial bias of the head (-6.9 suits a sigmoid loss on ImageNet).
        attention_implementation: None, "xla" or "cudnn", see `MultiHeadAttention`.
        remat: recompute each block in the backward pass instead of storing its activations.
        scan: one compiled block, run num_layers times; its parameters are stacked, see
            `checkpoints.tree` for the way there and back.
        dtype: compute type; parameters, softmax, norm statistics and the head stay float32.
    """

    num_classes: int = 1000
    patch_size: int = 16
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    activation: str = "gelu_tanh"
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    classifier: str = "token"
    representation_size: int | None = None
    representation: str = "tanh"
    cosine: bool = False
    pre_norm: bool = False
    norm_epsilon: float = 1e-6
    patch_bias: bool = True
    initialization: str = "xavier"
    preparation: str = ""
    position_embedding: str = "learned"
    position_resize: str = "linear"
    resnet_layers: tuple[int, ...] | None = None
    resnet_width_factor: float = 1.0
    head_bias_init: float = 0.0
    attention_implementation: str | None = None
    remat: bool = False
    scan: bool = False
    dtype: Any = jnp.float32

    task = "classify"
    torch_namings = tower_names.IMAGE_NAMINGS
    torch_buffers = tower_names.BUFFERS
    # What whoever published weights with such names computes with; of timm's it is not known.
    naming_fields = {  # noqa: RUF012
        "transformers": {"activation": "gelu"},
        "transformers-ViTModel": {"activation": "gelu"},
    }
    deepest = {"num_layers": 64}  # noqa: RUF012

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, feature_maps: bool = False
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Classifies images.

        Args:
            images: (b, h, w, 3) float32 in [-1, 1]; h and w divisible by `stride`.
            train: whether dropout and stochastic depth are active; then `rngs` needs "dropout".
            feature_maps: whether the patches' features are wanted, for dense tasks.

        Returns:
            (b, num_classes) float32 logits; (b, n, num_classes) for the unpooled classifiers;
            features in place of logits if num_classes is 0. Or else one map of the encoder's
            output, after its norm and without a class token: (b, h / stride, w / stride,
            hidden_size).

        Raises:
            ValueError: if a field's value or the image size does not fit.
        """
        self._validate(images)
        x = images
        if self.resnet_layers is not None:
            x = bit_resnet.apply_resnet(x, self.resnet_layers, self._resnet_width, self.dtype)

        p = self.patch_size
        x = PatchEmbedding(self.hidden_size, p, self.patch_bias, self.dtype, name="embedding")(x)
        b, rows, columns, _ = x.shape
        x = x.reshape(b, -1, self.hidden_size)

        if self.classifier in ("token", "token_unpooled"):
            is_clip = self.initialization == "clip"
            normal, zeros = nn.initializers.normal(self.hidden_size**-0.5), nn.initializers.zeros
            init = normal if is_clip else zeros
            cls = self.param("cls", init, (1, 1, self.hidden_size), jnp.float32)
            x = jnp.concatenate([jnp.tile(cls.astype(x.dtype), (b, 1, 1)), x], axis=1)

        x = Encoder(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            grid=(rows, columns),
            activation=self.activation,
            position_embedding=self.position_embedding,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            stochastic_depth_rate=self.stochastic_depth_rate,
            deterministic=not train,
            attention_implementation=self.attention_implementation,
            remat=self.remat,
            scan=self.scan,
            pre_norm=self.pre_norm,
            norm_epsilon=self.norm_epsilon,
            initialization=self.initialization,
            dtype=self.dtype,
            name="Transformer",
        )(x)

        if feature_maps:
            return (x[:, -rows * columns :].reshape(b, rows, columns, self.hidden_size),)
        x = self._pooled(x)
        if self.representation_size is not None:
            has_bias = self.representation != "projection"
            x = nn.Dense(self.representation_size, has_bias, self.dtype, name="pre_logits")(x)
            if self.representation == "tanh":
                x = nn.tanh(x)
        x = ops.unit_length(x) if self.cosine else x.astype(jnp.float32)
        if self.num_classes:
            x = nn.Dense(
                self.num_classes,
                kernel_init=nn.initializers.zeros,
                bias_init=nn.initializers.constant(self.head_bias_init),
                name="head",
            )(x)
        return x

    def _pooled(self, x: jax.Array) -> jax.Array:
        """What the head sees of (b, n, d): (b, d), or all."""
        if self.classifier == "token":
            return x[:, 0]
        if self.classifier == "gap":
            return jnp.mean(x, axis=1)
        if self.classifier != "map":
            return x
        head = MAPHead(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            attention_implementation=self.attention_implementation,
            norm_epsilon=self.norm_epsilon,
            dtype=self.dtype,
            name="MAPHead_0",
        )
        return head(x)

    @property
    def input_values(self) -> str:  # type: ignore[override]
        """The values that its published weights expect."""
        return published_images.input_values(self.preparation)

    def torch_calls(self, size: tuple[int, int]) -> dict[str, tuple[str, str]]:
        return torch_calls.of_vit(self, size)

    def preprocessing(self, size: tuple[int, int]) -> str:
        """See the field `preparation`."""
        return published_images.preprocessing(self.preparation, size)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Of its one map."""
        return (self.stride,)

    @property
    def stride(self) -> int:
        """Pixels per token, along either axis."""
        if self.resnet_layers is None:
            return self.patch_size
        return self.patch_size * bit_resnet.total_stride(self.resnet_layers)

    @property
    def _resnet_width(self) -> int:
        return int(bit_resnet.ROOT_WIDTH * self.resnet_width_factor)

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of the square images that parameters were made for.

        Without learned positions any size will do, and one near 224 is returned.

        Raises:
            KeyError: if they lack the position embeddings.
            ValueError: if the position embeddings are those of no square.
        """
        if self.position_embedding != "learned":
            return (max(round(224 / self.stride), 1) * self.stride,) * 2
        table = traverse_util.flatten_dict(params)[_POSITIONS]
        if len(table.shape) != 3:
            raise ValueError(f"position embeddings have shape (1, n, d), not {table.shape}")
        count = table.shape[1] - ("cls" in params)
        side = math.isqrt(max(count, 0))
        if side**2 != count or not side:
            raise ValueError(
                f"the position embeddings are those of {count} patches, which do not make a square"
            )
        return (side * self.stride,) * 2

    def resize_params(
        self, params: Mapping[str, Any], old_size: tuple[int, int], new_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Fits parameters that were made for images of one size to those of another.

        Learned positions are interpolated on their grid. The class token's comes first and is
        left as it is; it goes if this model has no class token, and is 0 if only this model has.

        Args:
            params: of this model, or of one with another classifier.
            old_size: (h, w) in pixels.
            new_size: (h, w) in pixels.
        """
        flat = traverse_util.flatten_dict(params)
        if self.position_embedding != "learned" or _POSITIONS not in flat:
            return dict(params)
        table = flat[_POSITIONS]
        split = int("cls" in params)
        old_grid, new_grid = (
            (size[0] // self.stride, size[1] // self.stride) for size in (old_size, new_size)
        )
        if table.shape[1] != split + math.prod(old_grid):
            raise ValueError(
                f"position embeddings of shape {table.shape} are not those of images of "
                f"{old_size[0]} x {old_size[1]} pixels"
            )
        grid = ops.resize_position_embedding(
            table[:, split:], old_grid, new_grid, self.position_resize
        )
        if self.classifier in ("token", "token_unpooled"):
            first = table[:, :1] if split else jnp.zeros_like(grid[:, :1])
            grid = jnp.concatenate([first, grid], axis=1)
        return traverse_util.unflatten_dict({**flat, _POSITIONS: grid})

    def layer_patterns(self) -> tuple[str, ...]:
        """Patterns of the stem, and of each block; the last norm is the last one's, as in timm."""
        blocks = [f"^Transformer/encoderblock_{i}/" for i in range(self.num_layers)]
        stem = "^(?!Transformer/encoder|pre_logits|head|MAPHead)"
        return (stem, *blocks[:-1], f"{blocks[-1]}|^Transformer/encoder_norm/")

    def torch_names(self, naming: str = "timm") -> dict[str, str]:
        """Names of the parts, by one of `tower_names.IMAGE_NAMINGS`."""
        names = tower_names.image_names(naming, self.num_layers)
        if self.resnet_layers is not None and naming == "timm":
            names = names | bit_resnet.torch_names(self.resnet_layers, "patch_embed.backbone.")
        return names

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        height, width, _, hidden_size = shapes["embedding/kernel"]
        first = "Transformer/encoderblock_0"
        query = shapes.get(f"{first}/MultiHeadDotProductAttention_1/query/kernel", ())
        pooled = "map" if "MAPHead_0/probe" in shapes else "gap"
        fields = {
            "hidden_size": hidden_size,
            "num_layers": sum(count_blocks(shapes, r"Transformer/encoderblock_()(\d+)/")),
            "mlp_dim": shapes[f"{first}/MlpBlock_3/Dense_0/kernel"][1],
            "classifier": "token" if "cls" in shapes else pooled,
            "pre_norm": "Transformer/pre_norm/scale" in shapes,
            "patch_bias": "embedding/bias" in shapes,
        }
        if "/".join(_POSITIONS) in shapes:
            fields["position_embedding"] = "learned"
        if height == width and not any(name.startswith("conv_root") for name in shapes):
            fields["patch_size"] = height
        if len(query) == 3:  # which PyTorch's layout does not say
            fields["num_heads"] = query[1]
        elif fields["pre_norm"] and hidden_size <= _WIDEST_OF_64:
            fields["num_heads"] = max(hidden_size // 64, 1)
        return fields

    def _validate(self, images: jax.Array) -> None:
        ops.activation(self.activation)
        choices = {
            "classifier": CLASSIFIERS,
            "representation": REPRESENTATIONS,
            "initialization": INITIALIZATIONS,
            "position_embedding": POSITION_EMBEDDINGS,
            "position_resize": ops.POSITION_RESIZES,
            "attention_implementation": (None, *ATTENTION_IMPLEMENTATIONS),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r} is not one of {allowed}")
        for field in ("patch_size", "hidden_size", "num_heads", "mlp_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        for field in ("dropout_rate", "attention_dropout_rate", "stochastic_depth_rate"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} must lie in [0, 1), not {getattr(self, field)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by num_heads={self.num_heads}"
            )
        if self.resnet_layers is not None:
            if any(units < 1 for units in self.resnet_layers):
                raise ValueError(f"resnet_layers must be positive, not {self.resnet_layers}")
            if self._resnet_width < 32 or self._resnet_width % 32:
                raise ValueError(
                    f"resnet_width_factor={self.resnet_width_factor} makes {self._resnet_width} "
                    "channels, which must be a multiple of 32"
                )
        if images.ndim != 4:
            raise ValueError(f"images must have shape (b, h, w, c), not {images.shape}")
        h, w = images.shape[1:3]
        if h % self.stride or w % self.stride or not h or not w:
            raise ValueError(
                f"images of {h} x {w} pixels cannot be cut into patches of {self.stride} x "
                f"{self.stride}: choose a height and width divisible by the patch size"
            )
