"""BERT: a Transformer's encoder of words, its two heads, and their names in PyTorch.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding" (NAACL 2019), and the published code and weights of google-research/bert as
transformers reads them. Its blocks normalise after each sum and not before, with an epsilon of
1e-12. Which GELU it has is never a default here: weights in PyTorch's files compute with the exact
one, google-research's later code and the text towers of LiT with its approximation by tanh, and the
two differ by 4e-4 of what comes out.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import count_blocks
from vit_jax.models.base import Model

VARIANTS: dict[str, dict[str, Any]] = {
    "BERT-base": dict(
        activation="gelu", hidden_size=768, num_layers=12, num_heads=12, mlp_dim=3072
    ),
    "BERT-large": dict(
        activation="gelu", hidden_size=1024, num_layers=24, num_heads=16, mlp_dim=4096
    ),
}

PARAMETER_COUNTS = {"BERT-base": 110_106_428, "BERT-large": 336_226_108}

_INIT = nn.initializers.truncated_normal(stddev=0.02)
_NUM_SEGMENTS = 2


def _dense(features: int, dtype: Any, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=_INIT, dtype=dtype, name=name)


class BertAttention(nn.Module):
    """Multi-head scaled dot-product attention; its kernels are (d, d), as published files' are.

    The softmax is computed in float32.
    """

    num_heads: int
    dropout_rate: float = 0.0
    deterministic: bool = True
    implementation: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(b, n, d) attends to those of its rows that a mask (b, n) bool allows -> (b, n, d)."""
        d = x.shape[-1]
        shape = (*x.shape[:-1], self.num_heads, d // self.num_heads)
        q, k, v = (
            _dense(d, self.dtype, name)(x).reshape(shape) for name in ("query", "key", "value")
        )
        drops = self.dropout_rate > 0 and not self.deterministic
        y = ops.attention(
            q,
            k,
            v,
            implementation=self.implementation,
            mask=mask,
            dropout_rate=self.dropout_rate,
            dropout_key=self.make_rng("dropout") if drops else None,
        )
        return _dense(d, self.dtype, "out")(y.reshape(x.shape))


class BertMlp(nn.Module):
    """Two dense layers with an activation between them, see `ops.activation`."""

    mlp_dim: int
    activation: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""
        y = ops.activation(self.activation)(_dense(self.mlp_dim, self.dtype, "Dense_0")(x))
        return _dense(x.shape[-1], self.dtype, "Dense_1")(y)


class BertBlock(nn.Module):
    """Post-norm Transformer block: LN(x + MSA(x)), then LN(x + MLP(x))."""

    num_heads: int
    mlp_dim: int
    activation: str
    norm_epsilon: float = 1e-12
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    deterministic: bool = True
    attention_implementation: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, None]:
        """(b, n, d), and (b, n) bool or None -> (b, n, d); the second None is for nn.scan."""

        def add(x: jax.Array, branch: jax.Array, name: str) -> jax.Array:
            y = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)(branch)
            return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name=name)(x + y)

        attention = BertAttention(
            self.num_heads,
            self.attention_dropout_rate,
            self.deterministic,
            self.attention_implementation,
            dtype=self.dtype,
            name="attention",
        )
        x = add(x, attention(x, mask), "attention_norm")
        mlp = BertMlp(self.mlp_dim, self.activation, dtype=self.dtype, name="mlp")
        return add(x, mlp(x), "mlp_norm"), None


class BertEncoder(nn.Module):
    """The states of the tokens of texts.

    Attributes:
        activation: "gelu" is exact, "gelu_tanh" its approximation; see the head of this file.
        vocabulary_size: tokens that there are.
        length: the most tokens that a text can have.
        hidden_size: width of the states.
        num_layers: number of blocks.
        num_heads: heads of the attention.
        mlp_dim: hidden width of the MLPs.
        norm_epsilon: of all norms.
        dropout_rate: after the embeddings and each branch.
        attention_dropout_rate: of the weights of the attention.
        attention_implementation: see `ops.attention`.
        remat: whether blocks are computed anew for the backward pass, which saves memory.
        scan: whether the blocks are one, scanned over stacked parameters, which compiles faster.
        dtype: compute type.
    """

    activation: str
    vocabulary_size: int = 30_522
    length: int = 512
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    norm_epsilon: float = 1e-12
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    attention_implementation: str | None = None
    remat: bool = False
    scan: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        segments: jax.Array | None = None,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Computes the last block's states.

        Args:
            tokens: (b, n) int32 ids; n is at most `length`.
            segments: (b, n) int32, 0 or 1; None is 0 everywhere.
            mask: (b, n), not 0 for tokens that are attended to; None attends to all. The states of
                the others are computed like any, and mean nothing.
            train: whether to drop out, by the key "dropout".

        Returns:
            (b, n, hidden_size) float32.

        Raises:
            ValueError: if the tokens are too many, or fields do not fit each other.
        """
        self._validate(tokens)
        n = tokens.shape[1]
        words, positions, kinds = (
            self.param(name, _INIT, (count, self.hidden_size), jnp.float32)
            for name, count in (
                ("token_embedding", self.vocabulary_size),
                ("position_embedding", self.length),
                ("segment_embedding", _NUM_SEGMENTS),
            )
        )
        x = words[tokens] + positions[:n] + (kinds[0] if segments is None else kinds[segments])
        x = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="embedding_norm")(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        is_seen = None if mask is None else mask.astype(bool)
        return self._blocks(x, is_seen, train).astype(jnp.float32)

    def _blocks(self, x: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
        block = nn.remat(BertBlock, prevent_cse=not self.scan) if self.remat else BertBlock
        fields = dict(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            deterministic=not train,
            attention_implementation=self.attention_implementation,
            dtype=self.dtype,
        )
        if not self.scan:
            for i in range(self.num_layers):
                x, _ = block(**fields, name=f"encoderblock_{i}")(x, mask)
            return x
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.num_layers,
        )
        return scanned(**fields, name="encoderblock")(x, mask)[0]

    def _validate(self, tokens: jax.Array) -> None:
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be divisible by num_heads={self.num_heads}"
            )
        if tokens.ndim != 2 or not 0 < tokens.shape[1] <= self.length:
            raise ValueError(
                f"tokens must have shape (b, n) with n from 1 to {self.length}, of which there are "
                f"positions, and not {tokens.shape}: cut the text, or set the model's length"
            )

    def to_words(self, x: jax.Array) -> jax.Array:
        """(..., hidden_size) -> (..., vocabulary_size): products with the embedding of each token.

        It is for a parent that has called the encoder before.
        """
        table: Any = self.get_variable("params", "token_embedding")
        return x @ table.T.astype(x.dtype)


class WordHead(nn.Module):
    """What a state is turned into before it is compared with the tokens, and their bias."""

    vocabulary_size: int
    activation: str
    norm_epsilon: float = 1e-12
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(..., d) -> (..., d), and (vocabulary_size,)."""
        y = ops.activation(self.activation)(_dense(x.shape[-1], self.dtype, "transform")(x))
        y = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm")(y)
        return y, self.param("bias", nn.initializers.zeros, (self.vocabulary_size,), jnp.float32)


class BERT(Model):
    """BERT with the heads of its pretraining, or without.

    Attributes:
        activation: "gelu" is exact, "gelu_tanh" its approximation; see the head of this file.
        pooler: whether it has the dense layer with tanh on the first token's state.
        heads: whether it has that which tells a masked token and, if there is a pooler, that which
            tells whether the second segment is what follows the first.
        tokenizer: what makes its tokens of text, see `input_pipeline.tokenizers`.
        vocabulary_size, length, hidden_size, num_layers, num_heads, mlp_dim, norm_epsilon,
            dropout_rate, attention_dropout_rate, attention_implementation, remat, scan, dtype: see
            `BertEncoder`.
    """

    activation: str
    pooler: bool = True
    heads: bool = True
    tokenizer: str = "bert_pair(128)"
    vocabulary_size: int = 30_522
    length: int = 512
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    norm_epsilon: float = 1e-12
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    attention_implementation: str | None = None
    remat: bool = False
    scan: bool = False
    dtype: Any = jnp.float32

    task = "masked_words"
    any_size = True
    token_table = "encoder/token_embedding"
    deepest = {"num_layers": 64, "pooler": True, "heads": True}  # noqa: RUF012
    torch_namings = ("BertForPreTraining", "BertModel")
    naming_fields = {name: {"activation": "gelu"} for name in torch_namings}  # noqa: RUF012
    # The decoder is the tokens' embedding once more, and its bias that of the head.
    torch_buffers = ("position_ids", "predictions.decoder.weight", "predictions.decoder.bias")
    torch_aliases = {  # noqa: RUF012
        "LayerNorm.gamma": "LayerNorm.weight",
        "LayerNorm.beta": "LayerNorm.bias",
    }

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        segments: jax.Array | None = None,
        mask: jax.Array | None = None,
        positions: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Reads texts.

        Args:
            tokens: (b, n) int32 ids.
            segments: (b, n) int32, 0 or 1; None is 0 everywhere.
            mask: (b, n), not 0 for tokens that are attended to; None attends to all.
            positions: (b, p) int32, of the tokens to be told; None for all n.
            train: whether to drop out, by the key "dropout".

        Returns:
            `states` (b, n, d); `pooled` (b, d) in (-1, 1), with a pooler; and with heads `words`
            (b, p or n, vocabulary_size) logits, and `next` (b, 2) logits, with a pooler. In
            `next`, 0 says that the second segment follows the first. All are float32.

        Raises:
            ValueError: see `BertEncoder`.
        """
        own = {field.name for field in dataclasses.fields(BertEncoder)} - {"parent", "name"}
        encoder = BertEncoder(**self.values_of(own), name="encoder")
        states = encoder(tokens, segments, mask, train)
        out = {"states": states}
        if self.pooler:
            out["pooled"] = jnp.tanh(_dense(self.hidden_size, jnp.float32, "pooler")(states[:, 0]))
        if self.heads and self.pooler:
            out["next"] = _dense(2, jnp.float32, "next")(out["pooled"])
        if self.heads:
            head = WordHead(
                self.vocabulary_size, self.activation, self.norm_epsilon, self.dtype, name="words"
            )
            if positions is not None:
                states = jnp.take_along_axis(states, positions[..., None], axis=1)
            x, bias = head(states)
            out["words"] = encoder.to_words(x).astype(jnp.float32) + bias
        return out

    def inputs(self, image_size: tuple[int, int]) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Tokens, segments and mask of an example; there is no image."""
        del image_size
        return (jax.ShapeDtypeStruct((1, min(self.length, 128)), jnp.int32),) * 3

    @property
    def input_limits(self) -> tuple[int, ...]:
        """See `Model.input_limits`."""
        return self.vocabulary_size, _NUM_SEGMENTS, 2

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`.

        The number of heads and the activation do not show.
        """
        vocabulary_size, hidden_size = shapes["encoder/token_embedding"]
        return {
            "vocabulary_size": vocabulary_size,
            "length": shapes["encoder/position_embedding"][0],
            "hidden_size": hidden_size,
            "num_layers": sum(count_blocks(shapes, r"encoder/encoderblock_()(\d+)/")),
            "mlp_dim": shapes["encoder/encoderblock_0/mlp/Dense_0/kernel"][1],
            "pooler": "pooler/kernel" in shapes,
            "heads": "words/bias" in shapes,
        }

    def torch_names(self, naming: str = "") -> dict[str, str]:
        """Names of transformers' classes, of which BertModel has no prefix, and no heads."""
        prefix = "" if naming == "BertModel" else "bert."
        names = encoder_names(prefix, "encoder/", self.num_layers)
        if self.pooler:
            names["pooler"] = f"{prefix}pooler.dense"
        if self.heads:
            names |= {
                "words/transform": "cls.predictions.transform.dense",
                "words/norm": "cls.predictions.transform.LayerNorm",
                "words/bias": "cls.predictions.bias",
            }
        if self.heads and self.pooler:
            names["next"] = "cls.seq_relationship"
        return names


def encoder_names(theirs: str, ours: str, num_layers: int) -> dict[str, str]:
    """Names in PyTorch's files of a `BertEncoder`, see `base.Model.torch_names`.

    Args:
        theirs: what their names begin with, such as "bert.".
        ours: what ours begin with, such as "encoder/".
        num_layers: number of blocks.
    """
    names = {
        f"{ours}token_embedding": f"{theirs}embeddings.word_embeddings.weight",
        f"{ours}position_embedding": f"{theirs}embeddings.position_embeddings.weight",
        f"{ours}segment_embedding": f"{theirs}embeddings.token_type_embeddings.weight",
        f"{ours}embedding_norm": f"{theirs}embeddings.LayerNorm",
    }
    for i in range(num_layers):
        names |= {
            f"{ours}encoderblock_{i}/{part}": f"{theirs}encoder.layer.{i}.{name}"
            for part, name in _BLOCK_NAMES.items()
        }
    return names


_BLOCK_NAMES = {
    **{f"attention/{part}": f"attention.self.{part}" for part in ("query", "key", "value")},
    "attention/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/Dense_0": "intermediate.dense",
    "mlp/Dense_1": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
