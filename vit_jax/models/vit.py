"""Vision Transformer, also with a ResNet in front (hybrid).

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), and the published code
and weights of google-research/vision_transformer. Extensions: sincos2d positions, global average
pooling and attention pooling (Zhai et al., "Scaling Vision Transformers", CVPR 2022; Beyer et al.,
"Better plain ViT baselines for ImageNet-1k", 2022), stochastic depth (Huang et al., ECCV 2016).

Submodules carry the names of the published .npz files, so that the flattened parameters of an
unrolled model *are* the entries of such a file: the numbers in `LayerNorm_0`,
`MultiHeadDotProductAttention_1`, `LayerNorm_2`, `MlpBlock_3` are part of that format.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from vit_jax import ops
from vit_jax.models import bit_resnet, published_images, torch_calls, tower_names, vit_fields
from vit_jax.models.base import Model
from vit_jax.models.encoder import (  # noqa: F401
    RELATIVE_BIASES,
    Encoder,
    Form,
    MAPHead,
    MultiHeadAttention,
)
from vit_jax.models.vit_fields import POSITIONS
from vit_jax.models.vit_table import PARAMETER_COUNTS, VARIANTS  # noqa: F401

_POSITIONS = tuple(POSITIONS.split("/"))


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
            every patch, "token_gap" class token and the mean of the patches, one after the other,
            as DINOv2's linear classifiers do.
        class_token: whether there is one that the head does not see, as in MAE's fine-tuning.
        registers: tokens that are of no patch and no class, between those.
        distillation_token: whether there is one, and a head of its own, whose mean with the other
            head's is the answer, as in DeiT.
        distilled: whether these heads are trained apart, by the labels and by a teacher; else, as
            in evaluation, their mean is what counts.
        placed: whether the tokens of class and distillation have learned positions, too; registers
            have none.
        head_norm: whether the norm at the end is of what the head sees, and not of the tokens.
        layer_scale: at first, of numbers per channel that each branch is multiplied by; None: there
            are none.
        qk_norm: whether queries and keys have a norm, of each head.
        biases: which of queries, keys and values have a bias, such as "qkv" or "qv".
        gated: whether the MLPs are gated: with the activation "silu" SwiGLU.
        mlp_norm: whether the MLPs have a norm before their second layer.
        representation_size: width of a layer before the head, or None.
        representation: what that layer is: "tanh"; "linear"; or "projection", without a bias.
        cosine: whether what the head sees is made of length 1 first, see `ops.unit_length`.
        pre_norm: whether there is a norm before the blocks, after the positions.
        norm_epsilon: of all norms.
        patch_bias: whether the patches' convolution has a bias.
        initialization: of the encoder: "xavier", as in google-research's models, "clip", or "mae",
            whose learned positions begin as sines and cosines.
        preparation: of the images that published weights know: "clip", "clip_squashed",
            "big_vision", "imagenet" as for DeiT, MAE and DINO, "imagenet_whole" as for DeiT III and
            DINOv2, "satellite", or "", a plain resize; see `published_images`.
        position_embedding: "learned"; "sincos2d", or "sincos2d_mae", as MAE has them; or "none".
        rotary: how queries and keys of patches are turned by their place besides: "dinov3",
            "eva02", or "", not at all.
        rotary_side: of "eva02": the side of the grid of patches that the weights were trained on.
        rotary_rescale: in training the places are multiplied by a number between 1 over this and
            this, drawn anew for each call and the same for both axes, as in DINOv3.
        relative_bias: whether each block adds a learned bias by the offset of query and key to the
            scores, as in BEiT.
        position_resize: how learned ones are fitted to other images: "linear", as google-research's
            are, "bicubic", as open_clip and timm do, or "dino"; see
            `ops.resize_position_embedding`.
        image_side: side in pixels of the images that published weights are for; any other will do,
            see `resize_params`.
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
    class_token: bool = False
    registers: int = 0
    distillation_token: bool = False
    distilled: bool = False
    placed: bool = True
    head_norm: bool = False
    layer_scale: float | None = None
    qk_norm: bool = False
    biases: str = "qkv"
    gated: bool = False
    mlp_norm: bool = False
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
    rotary: str = ""
    rotary_side: int = 16
    rotary_rescale: float = 1.0
    relative_bias: bool = False
    image_side: int = 224
    resnet_layers: tuple[int, ...] | None = None
    resnet_width_factor: float = 1.0
    head_bias_init: float = 0.0
    attention_implementation: str | None = None
    remat: bool = False
    scan: bool = False
    dtype: Any = jnp.float32

    task = "classify"
    torch_buffers = tower_names.BUFFERS
    # What whoever published weights with such names computes with; of timm's it is not known.
    naming_fields = {  # noqa: RUF012
        **{f"transformers{of}": {"activation": "gelu"} for of in ("", "-ViTModel", "-DeiT")},
        "dinov3": {"biases": "qv"},  # beside a bias of keys that is not used
    }
    has_twins = True
    deepest = {"num_layers": 64}  # noqa: RUF012

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        feature_maps: bool = False,
        keep: jax.Array | None = None,
    ) -> jax.Array | tuple[jax.Array, ...] | dict[str, jax.Array]:
        """Classifies images.

        Args:
            images: (b, h, w, 3) float32 in [-1, 1]; h and w divisible by `stride`.
            train: whether dropout and stochastic depth are active; then `rngs` needs "dropout".
            feature_maps: whether the patches' features are wanted, for dense tasks.
            keep: (b, k) int32, which patches are seen, in which order, as in masked autoencoders;
                None for all. There are no maps of some, nor rotary positions or relative biases.

        Returns:
            (b, num_classes) float32 logits; (b, n, num_classes) for the unpooled classifiers;
            features in place of logits if num_classes is 0. In training, if two heads are
            `distilled`, a dict of "logits" and "distilled", a head each. Or else one map of the
            encoder's output, after its norm and without tokens of no patch: (b, h / stride,
            w / stride, hidden_size).

        Raises:
            ValueError: if a field's value or the image size does not fit.
        """
        self._validate(images)
        x, grid = self._tokens(images)
        x = Encoder(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            grid=grid,
            form=self._form,
            placed=self._count_places(self._other_tokens),
            has_norm=not self.head_norm,
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
        )(x, self._kept(keep))

        if feature_maps:
            return (x[:, -math.prod(grid) :].reshape(-1, *grid, self.hidden_size),)
        tokens, x = x, self._pooled(x)
        if self.head_norm:
            x = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="head_norm")(x)
        if self.representation_size is not None:
            has_bias = self.representation != "projection"
            x = nn.Dense(self.representation_size, has_bias, self.dtype, name="pre_logits")(x)
            if self.representation == "tanh":
                x = nn.tanh(x)
        x = ops.unit_length(x) if self.cosine else x.astype(jnp.float32)
        if not self.num_classes:
            return x
        if not self.distillation_token:
            return self._head("head")(x)
        second = self._head("head_dist")(tokens[:, 1].astype(jnp.float32))
        first = self._head("head")(x)
        if train and self.distilled:
            return {"logits": first, "distilled": second}
        return (first + second) / 2

    def _tokens(self, images: jax.Array) -> tuple[jax.Array, tuple[int, int]]:
        """(b, n, d), those of no patch first, and the grid of the patches."""
        x = images
        if self.resnet_layers is not None:
            x = bit_resnet.apply_resnet(x, self.resnet_layers, self._resnet_width, self.dtype)
        x = PatchEmbedding(
            self.hidden_size, self.patch_size, self.patch_bias, self.dtype, name="embedding"
        )(x)
        b, rows, columns, _ = x.shape
        x = x.reshape(b, -1, self.hidden_size)

        init = {
            "xavier": nn.initializers.zeros,
            "clip": nn.initializers.normal(self.hidden_size**-0.5),
            "mae": nn.initializers.normal(0.02),
        }[self.initialization]
        others = [
            self.param(name, init, (1, count, self.hidden_size), jnp.float32)
            for name, count in self._other_tokens.items()
        ]
        if others:
            others = [jnp.tile(tokens.astype(x.dtype), (b, 1, 1)) for tokens in others]
            x = jnp.concatenate([*others, x], axis=1)
        return x, (rows, columns)

    def _kept(self, patches: jax.Array | None) -> jax.Array | None:
        """(b, k) patches -> all tokens of no patch, and these."""
        if patches is None:
            return None
        if self.rotary or self.relative_bias:
            raise ValueError("rotary positions and relative biases are of all patches, not of some")
        count = sum(self._other_tokens.values())
        others = jnp.broadcast_to(jnp.arange(count), (patches.shape[0], count))
        return jnp.concatenate([others, count + patches], axis=1)

    def _head(self, name: str) -> nn.Dense:
        return nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(self.head_bias_init),
            name=name,
        )

    @property
    def _form(self) -> Form:
        return Form(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Form)})

    @property
    def _other_tokens(self) -> dict[str, int]:
        """How many tokens of no patch there are, by the name of their parameter, in order."""
        has_class = self.class_token or self.classifier.startswith("token")
        counts = {
            "cls": int(has_class), "dist": int(self.distillation_token), "reg": self.registers,
        }  # fmt: skip
        return {name: count for name, count in counts.items() if count}

    def _pooled(self, x: jax.Array) -> jax.Array:
        """What the head sees of (b, n, d): (b, d), or all."""
        if self.classifier == "token":
            return x[:, 0]
        if self.classifier in ("gap", "token_gap"):
            mean = jnp.mean(x[:, sum(self._other_tokens.values()) :], axis=1)
            return mean if self.classifier == "gap" else jnp.concatenate([x[:, 0], mean], axis=1)
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
    def usual_size(self) -> tuple[int, int]:
        """See the field `image_side`."""
        return self.image_side, self.image_side

    @property
    def _resnet_width(self) -> int:
        return int(bit_resnet.ROOT_WIDTH * self.resnet_width_factor)

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of the square images that parameters were made for.

        Without learned positions any size will do, and one near `image_side` is returned.

        Raises:
            KeyError: if they lack the position embeddings.
            ValueError: if the position embeddings are those of no square.
        """
        if self.relative_bias:
            flat = traverse_util.flatten_dict(params, sep="/")
            rows = next(v for k, v in flat.items() if k.endswith(RELATIVE_BIASES)).shape[-2]
            side = (math.isqrt(rows - 3) + 1) / 2  # of 2 side - 1 offsets along either axis
            count, what = side**2, "biases by offset"
        elif self.position_embedding == "learned":
            table = traverse_util.flatten_dict(params)[_POSITIONS]
            if len(table.shape) != 3:
                raise ValueError(f"position embeddings have shape (1, n, d), not {table.shape}")
            count, what = table.shape[1] - self._count_places(params), "position embeddings"
        else:
            return (max(round(self.image_side / self.stride), 1) * self.stride,) * 2
        side = math.isqrt(max(int(count), 0))
        if side**2 != count or not side:
            raise ValueError(
                f"the {what} are those of {count:g} patches, which do not make a square"
            )
        return (side * self.stride,) * 2

    def resize_params(
        self, params: Mapping[str, Any], old_size: tuple[int, int], new_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Fits parameters that were made for images of one size to those of another.

        Learned positions are interpolated on their grid. Those of tokens of no patch come first and
        are left as they are; one goes if this model has no such token, and is 0 if only this model
        has.

        Args:
            params: of this model, or of one with another classifier.
            old_size: (h, w) in pixels.
            new_size: (h, w) in pixels.
        """
        flat = traverse_util.flatten_dict(params)
        old_grid, new_grid = (
            (size[0] // self.stride, size[1] // self.stride) for size in (old_size, new_size)
        )
        for path, table in flat.items() if self.relative_bias else ():
            if path[-1] == RELATIVE_BIASES:
                flat[path] = ops.resize_class_bias_table(table, old_grid, new_grid)
        if self.position_embedding != "learned" or _POSITIONS not in flat:
            return traverse_util.unflatten_dict(flat)
        table = flat[_POSITIONS]
        split = self._count_places(params)
        if table.shape[1] != split + math.prod(old_grid):
            raise ValueError(
                f"position embeddings of shape {table.shape} are not those of images of "
                f"{old_size[0]} x {old_size[1]} pixels"
            )
        grid = ops.resize_position_embedding(
            table[:, split:], old_grid, new_grid, self.position_resize
        )
        wanted = self._count_places(self._other_tokens)
        kept = table[:, : min(split, wanted)]
        first = jnp.pad(kept, ((0, 0), (0, wanted - kept.shape[1]), (0, 0)))
        grid = jnp.concatenate([first, grid], axis=1)
        return traverse_util.unflatten_dict({**flat, _POSITIONS: grid})

    def _count_places(self, tokens: Mapping[str, Any]) -> int:
        """How many tokens of no patch have learned positions, where these are there."""
        return sum(name in tokens for name in ("cls", "dist")) if self.placed else 0

    def layer_patterns(self) -> tuple[str, ...]:
        """Patterns of the stem, and of each block; the last norm is the last one's, as in timm."""
        blocks = [f"^Transformer/encoderblock_{i}/" for i in range(self.num_layers)]
        stem = "^(?!Transformer/encoder|pre_logits|head|MAPHead)"
        return (stem, *blocks[:-1], f"{blocks[-1]}|^Transformer/encoder_norm/")

    @property
    def class_heads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the parts that give each class a number."""
        return ("head", "head_dist") if self.distillation_token else ("head",)

    @property
    def torch_namings(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `tower_names`."""
        if self.rotary == "dinov3":
            return tower_names.DINOV3_NAMINGS
        is_eva = self.rotary or self.relative_bias
        return tower_names.EVA_NAMINGS if is_eva else tower_names.IMAGE_NAMINGS

    def torch_names(self, naming: str = "timm") -> dict[str, str]:
        """Names of the parts, by one of `torch_namings`."""
        names = tower_names.image_names(naming, self.num_layers, self.gated)
        if self.resnet_layers is not None and naming == "timm":
            names = names | bit_resnet.torch_names(self.resnet_layers, "patch_embed.backbone.")
        return names

    fields_in = staticmethod(vit_fields.fields_in)

    def _validate(self, images: jax.Array) -> None:
        vit_fields.check(self)
        if self.relative_bias and list(self._other_tokens) != ["cls"]:
            raise ValueError("relative_bias is for a class token and no others beside the patches")
        if images.ndim != 4:
            raise ValueError(f"images must have shape (b, h, w, c), not {images.shape}")
        h, w = images.shape[1:3]
        if h % self.stride or w % self.stride or not h or not w:
            raise ValueError(
                f"images of {h} x {w} pixels cannot be cut into patches of {self.stride} x "
                f"{self.stride}: choose a height and width divisible by the patch size"
            )
