"""Two towers, one of images and one of texts, whose embeddings meet: LiT, CLIP and SigLIP.

Each family is a file with its subclass, which says the activation, the pooling and the rest that
its weights were trained with: `lit`, `clip`, `siglip`.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import count_blocks
from vit_jax.models import published_images
from vit_jax.models.base import Model
from vit_jax.models.bert import BertEncoder
from vit_jax.models.text_transformer import TextTransformer
from vit_jax.models.vit import VisionTransformer

TEXT_KINDS = ("bert", "transformer")
TEXT_POOLS = ("first", "last", "end")
TEXT_HEADS = ("none", "linear", "projection")

PAD = 0  # of BERT's vocabulary, whose tokens are hidden from the others

_OF_IMAGES = (
    "patch_size", "hidden_size", "num_layers", "num_heads", "mlp_dim", "classifier", "pre_norm",
    "norm_epsilon", "patch_bias", "activation", "representation", "initialization", "preparation",
    "position_resize", "dropout_rate", "remat", "scan", "attention_implementation", "dtype",
)  # fmt: skip


def recalls(image_to_text: float, text_to_image: float) -> dict[str, float]:
    """Names the shares of images and of captions whose nearest neighbour is a right one."""
    return {"image_to_text/recall@1": image_to_text, "text_to_image/recall@1": text_to_image}


class BertTower(nn.Module):
    """Embeds texts: the state of BERT's first token, and a dense layer.

    Attributes:
        fields: of the `BertEncoder`.
        features: width of the dense layer; None for none.
        head_bias: whether it has a bias.
    """

    fields: Mapping[str, Any]
    features: int | None
    head_bias: bool = True

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
        """(b, n) int32 ids, 0 for padding -> (b, features) float32, of any length."""
        encoder = BertEncoder(**self.fields, name="bert")
        x = encoder(tokens, mask=tokens != PAD, train=train)[:, 0]
        if self.features is not None:
            x = nn.Dense(self.features, self.head_bias, self.fields["dtype"], name="head")(x)
        return x.astype(jnp.float32)


class TwoTowers(Model):
    """A Vision Transformer and a tower of texts, with embeddings of one width.

    Attributes:
        activation: of both towers' MLPs, see `ops.activation`; a family has to say it.
        patch_size, hidden_size, num_layers, num_heads, mlp_dim, classifier, pre_norm,
            norm_epsilon, patch_bias, representation, initialization, preparation, position_resize:
            of the image tower, see `VisionTransformer`; the epsilon and the initialisation are also
            those of a text tower that is no BERT.
        embedding_size: width of the embeddings, to which images are projected; None if they are
            not, and it is the image tower's.
        image_side: in pixels, of the square images that published weights were made for. Others
            can be given to it all the same.
        text_kind: "bert", or "transformer", a pre-norm one.
        text_hidden_size, text_num_layers, text_num_heads, text_mlp_dim: of the text tower.
        vocabulary_size: tokens that there are.
        text_length: tokens of a text, padding included.
        text_positions: of which BERT has embeddings; None: as many as tokens of a text.
        text_causal: whether a token attends to itself and those before it alone.
        text_pool: whose state becomes the embedding: the "first" token's, which is all that BERT
            does; the "last" one's; or the "end" token's, see `TextTransformer`.
        text_head: what makes the embedding of that state: "linear"; "projection", without a bias;
            or "none".
        initial_scale: what products of embeddings are multiplied by before training.
        has_bias: whether a number is added to them, for a sigmoid loss.
        initial_bias: that number before training.
        tokenizer: what makes tokens of texts, see `input_pipeline.tokenizers`.
        dropout_rate: of the image tower.
        text_dropout_rate: of the text tower, and of the attention of a BERT.
        remat: recompute each block in the backward pass.
        scan: one compiled block for each tower, its parameters stacked.
        attention_implementation: None, "xla" or "cudnn", see `ops.attention`.
        dtype: compute type; parameters, embeddings and their products stay float32.
    """

    activation: str
    patch_size: int = 16
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    classifier: str = "token"
    pre_norm: bool = False
    norm_epsilon: float = 1e-6
    patch_bias: bool = True
    representation: str = "linear"
    initialization: str = "xavier"
    preparation: str = ""
    position_resize: str = "linear"
    embedding_size: int | None = None
    image_side: int = 224
    text_kind: str = "transformer"
    text_hidden_size: int = 768
    text_num_layers: int = 12
    text_num_heads: int = 12
    text_mlp_dim: int = 3072
    vocabulary_size: int = 32_000
    text_length: int = 16
    text_positions: int | None = None
    text_causal: bool = False
    text_pool: str = "last"
    text_head: str = "linear"
    initial_scale: float = 10.0
    has_bias: bool = False
    initial_bias: float = 0.0
    tokenizer: str = ""
    dropout_rate: float = 0.0
    text_dropout_rate: float = 0.0
    remat: bool = False
    scan: bool = False
    attention_implementation: str | None = None
    dtype: Any = jnp.float32

    task = "image_text"
    class_heads = ()
    backbones = ("img",)
    deepest = {"num_layers": 64, "text_num_layers": 64}  # noqa: RUF012

    @nn.compact
    def __call__(
        self, image: jax.Array | None, text: jax.Array | None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Embeds images, texts, or both.

        Args:
            image: (b, h, w, 3) float32 in [-1, 1], or as `input_values` says; None for no images.
            text: (t, text_length) int32 ids; None for no texts.
            train: whether dropout is active; then `rngs` needs "dropout", and there are no logits,
                so that all of the output has a row for each example.

        Returns:
            `image` (b, d) and `text` (t, d) of length 1, as far as they are given; and if both are,
            `logits` (b, t), which are scale times their products plus bias, `scale` (b,) and `bias`
            (b,), which are the same for all. All are float32.

        Raises:
            ValueError: for no input, one of a wrong shape, or fields that do not fit each other.
        """
        self._validate(image, text)
        log_scale = self.param(
            "t", nn.initializers.constant(math.log(self.initial_scale)), (1,), jnp.float32
        )
        bias = jnp.zeros(1, jnp.float32)
        if self.has_bias:
            bias = self.param("b", nn.initializers.constant(self.initial_bias), (1,), jnp.float32)
        out = {}
        if image is not None:
            embedding: Any = VisionTransformer(**self._image_fields, name="img")(image, train)
            out["image"] = ops.unit_length(embedding)
        if text is not None:
            out["text"] = ops.unit_length(self._text_tower()(text, train))
        if image is None or text is None:
            return out
        b = image.shape[0]
        out["scale"] = jnp.broadcast_to(jnp.exp(log_scale), (b,))
        out["bias"] = jnp.broadcast_to(bias, (b,))
        if not train:
            products = jnp.matmul(out["image"], out["text"].T, precision=jax.lax.Precision.HIGHEST)
            out["logits"] = products * jnp.exp(log_scale) + bias
        return out

    @property
    def _image_fields(self) -> dict[str, Any]:
        size = self.embedding_size
        return dict(self.values_of(_OF_IMAGES), num_classes=0, representation_size=size)

    def image_tower(self) -> VisionTransformer:
        """The tower of images alone, whose parameters are those in `img`.

        It gives embeddings before they are made of length 1.
        """
        return VisionTransformer(**self._image_fields, parent=None)

    def _text_tower(self) -> nn.Module:
        width = self.embedding_size or self.hidden_size
        head: dict[str, Any] = dict(
            features=None if self.text_head == "none" else width,
            head_bias=self.text_head == "linear",
        )
        shared: dict[str, Any] = dict(
            activation=self.activation,
            vocabulary_size=self.vocabulary_size,
            hidden_size=self.text_hidden_size,
            num_layers=self.text_num_layers,
            num_heads=self.text_num_heads,
            mlp_dim=self.text_mlp_dim,
            dropout_rate=self.text_dropout_rate,
            **self.values_of(("remat", "scan", "attention_implementation", "dtype")),
        )
        if self.text_kind == "bert":
            rate = self.text_dropout_rate
            length = self.text_positions or self.text_length
            bert = dict(shared, attention_dropout_rate=rate, length=length)
            return BertTower(bert, **head, name="txt")
        return TextTransformer(
            **shared,
            **head,
            length=self.text_length,
            pool=self.text_pool,
            causal=self.text_causal,
            norm_epsilon=self.norm_epsilon,
            initialization=self.initialization,
            name="txt",
        )

    @property
    def input_values(self) -> str:  # type: ignore[override]
        """The values that its published weights expect."""
        return published_images.input_values(self.preparation)

    def preprocessing(self, size: tuple[int, int]) -> str:
        """See the field `preparation`."""
        return published_images.preprocessing(self.preparation, size)

    @property
    def backbone_model(self) -> VisionTransformer:
        """The tower of images."""
        return self.image_tower()

    @property
    def usual_size(self) -> tuple[int, int]:
        """See the field `image_side`."""
        return self.image_side, self.image_side

    def inputs(self, image_size: tuple[int, int]) -> tuple[jax.ShapeDtypeStruct, ...]:
        """An image of (h, w) pixels, and a text."""
        text = jax.ShapeDtypeStruct((1, self.text_length), jnp.int32)
        return (*super().inputs(image_size), text)

    @property
    def input_limits(self) -> tuple[int, ...]:
        """See `Model.input_limits`."""
        return 0, self.vocabulary_size

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of the square images that parameters were made for.

        Raises:
            KeyError: if they lack the position embeddings.
            ValueError: if the position embeddings are those of no square.
        """
        return self.image_tower().image_size(params["img"])

    def resize_params(
        self, params: Mapping[str, Any], old_size: tuple[int, int], new_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Fits parameters that were made for images of one (h, w) to those of another."""
        images = self.image_tower().resize_params(params["img"], old_size, new_size)
        return {**params, "img": images}

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        images, texts = (
            {k.removeprefix(head): v for k, v in shapes.items() if k.startswith(head)}
            for head in ("img/", "txt/")
        )
        found = VisionTransformer.fields_in(images)
        fields = {name: value for name, value in found.items() if name in _OF_IMAGES}
        projection = images.get("pre_logits/kernel")
        fields["embedding_size"] = None if projection is None else projection[1]
        count = images["Transformer/posembed_input/pos_embedding"][1] - ("cls" in images)
        if math.isqrt(count) ** 2 == count and "patch_size" in fields:
            fields["image_side"] = math.isqrt(count) * fields["patch_size"]
        return {**fields, **_text_fields_in(texts), "has_bias": "b" in shapes}

    def _validate(self, image: jax.Array | None, text: jax.Array | None) -> None:
        choices = {
            "text_kind": TEXT_KINDS,
            "text_pool": ("first",) if self.text_kind == "bert" else TEXT_POOLS[1:],
            "text_head": TEXT_HEADS,
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r} is not one of {allowed}")
        if self.text_kind == "bert" and self.text_causal:
            raise ValueError("text_causal=True is for text_kind='transformer': BERT sees all words")
        width = self.embedding_size or self.hidden_size
        if self.text_head == "none" and self.text_hidden_size != width:
            raise ValueError(
                f"texts of width {self.text_hidden_size} need a text_head to become embeddings of "
                f"width {width}"
            )
        if self.initial_scale <= 0:
            raise ValueError(f"initial_scale must be positive, not {self.initial_scale}")
        if image is None and text is None:
            raise ValueError("give two towers images, texts or both, not None twice")


def _text_fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads fields of the text tower off the shapes of its arrays, by our names inside of it."""
    is_bert = "bert/token_embedding" in shapes
    table = shapes["bert/token_embedding" if is_bert else "Embed_0/embedding"]
    blocks = "bert" if is_bert else "Encoder_0"
    mlp = "mlp" if is_bert else "MlpBlock_3"
    fields = {
        "text_kind": "bert" if is_bert else "transformer",
        "vocabulary_size": table[0],
        "text_hidden_size": table[1],
        "text_num_layers": sum(count_blocks(shapes, rf"{blocks}/encoderblock_()(\d+)/")),
        "text_mlp_dim": shapes[f"{blocks}/encoderblock_0/{mlp}/Dense_0/kernel"][1],
    }
    if is_bert:
        fields["text_positions"] = shapes["bert/position_embedding"][0]
    else:
        fields["text_length"] = shapes["pos_embedding"][1]
    query = shapes.get("Encoder_0/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel", ())
    if len(query) == 3:  # which PyTorch's layout does not say
        fields["text_num_heads"] = query[1]
    if "head/kernel" in shapes:
        fields["text_head"] = "linear" if "head/bias" in shapes else "projection"
    else:
        fields["text_head"] = "none"
    return fields
