"""The Transformer: an encoder of one text, and a decoder that writes another, word by word.

Source: Vaswani et al., "Attention Is All You Need" (NeurIPS 2017), section 3. Tokens become the
rows of one embedding, times sqrt(d), plus sinusoids; the same embedding, transposed, gives the
logits. Each sublayer's output is dropped out, added and then normalised, as published
(`pre_norm=False`), or its input is normalised before and both stacks end in a norm
(`pre_norm=True`; Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML
2020). PyTorch's nn.Transformer ends in these norms either way (`final_norm=True`).

The sizes are those of the paper's table 3, all projections have biases, as in PyTorch, and the
vocabulary is the 37,000 shared pieces of its section 5.1. That this has 63 million parameters, and
the paper says 65, no one number of pieces explains for both sizes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import count_blocks
from vit_jax.models.attention import MultiHeadAttention, torch_attention_names
from vit_jax.models.base import Model, Shapes
from vit_jax.models.encoder import MlpBlock

VARIANTS: dict[str, dict[str, Any]] = {
    "Transformer-base": dict(hidden_size=512, num_layers=6, num_heads=8, mlp_dim=2048),
    "Transformer-big": dict(
        hidden_size=1024, num_layers=6, num_heads=16, mlp_dim=4096, dropout_rate=0.3
    ),
}

PARAMETER_COUNTS = {"Transformer-base": 63_082_496, "Transformer-big": 214_245_376}

Array = jax.Array
# Of a layer: `key` and `value` (b, length, heads, c) of the target's tokens so far, `source_key`
# and `source_value` (b, m, heads, c) of the source's. Those of all layers are listed in `layers`,
# or, if the blocks are scanned, stacked behind the first axis; `is_word` (b, m) bool is of the
# source. Every leaf begins with the batch, so that a beam search can gather rows.
Cache = dict[str, Any]


class Block(nn.Module):
    """A block of either side: attention to its own tokens, to the source's if `cross`, and an MLP.

    Attributes:
        num_heads: of both attentions.
        mlp_dim: hidden width of the MLP.
        activation: of the MLP, see `ops.activation`.
        cross: whether it attends to the source, as a decoder's does.
        causal: whether a token attends to itself and those before it alone, of its own.
        pre_norm: whether the sublayers' inputs are normalised; else the sums are.
        norm_epsilon: of the norms.
        dropout_rate: of each sublayer's output, before it is added.
        attention_dropout_rate: of the weights of the attention.
        attention_implementation: see `ops.attention`.
        dtype: compute type.
    """

    num_heads: int
    mlp_dim: int
    activation: str
    cross: bool
    causal: bool
    pre_norm: bool
    norm_epsilon: float
    dropout_rate: float
    attention_dropout_rate: float
    attention_implementation: str | None
    dtype: Any

    def setup(self) -> None:
        """Makes the sublayers and their norms."""

        def attention(causal: bool) -> MultiHeadAttention:
            return MultiHeadAttention(
                num_heads=self.num_heads,
                attention_dropout_rate=self.attention_dropout_rate,
                implementation=self.attention_implementation,
                causal=causal,
                dtype=self.dtype,
            )

        self.self_attention, self.self_attention_norm = attention(self.causal), self._norm()
        if self.cross:
            self.cross_attention, self.cross_attention_norm = attention(False), self._norm()
        self.mlp = MlpBlock(self.mlp_dim, self.activation, dtype=self.dtype)
        self.mlp_norm = self._norm()
        self.dropout = nn.Dropout(self.dropout_rate)

    def _norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype)

    def __call__(self, x: Array, source: Array | None, is_word: Array, train: bool) -> Array:
        """Applies the block.

        Args:
            x: (b, n, d).
            source: (b, m, d), which is attended to if `cross`.
            is_word: of the source, or of x if there is no cross attention, whether a token is more
                than padding; (b, m or n) bool.
            train: whether to drop out.

        Returns:
            (b, n, d).
        """

        def attend(y: Array) -> Array:
            mask = None if self.cross else is_word
            return self.self_attention(y, y, mask=mask, deterministic=not train)

        def cross(y: Array) -> Array:
            assert source is not None
            return self.cross_attention(y, source, mask=is_word, deterministic=not train)

        return self._sublayers(x, attend, cross, train)

    def _sublayers(
        self,
        x: Array,
        attend: Callable[[Array], Array],
        cross: Callable[[Array], Array],
        train: bool,
    ) -> Array:
        x = self._add(x, attend, self.self_attention_norm, train)
        if self.cross:
            x = self._add(x, cross, self.cross_attention_norm, train)
        return self._add(x, self.mlp, self.mlp_norm, train)

    def _add(
        self, x: Array, sublayer: Callable[[Array], Array], norm: nn.LayerNorm, train: bool
    ) -> Array:
        y = self.dropout(sublayer(norm(x) if self.pre_norm else x), deterministic=not train)
        return x + y if self.pre_norm else norm(x + y)

    def start(self, source: Array, length: int) -> Cache:
        """What the block remembers of a source (b, m, d), and room for `length` tokens."""
        key, value = self.cross_attention.project(source)
        room = jnp.zeros((len(source), length, *key.shape[2:]), key.dtype)
        return {"key": room, "value": room, "source_key": key, "source_value": value}

    def step(self, x: Array, position: Any, is_word: Array, cache: Cache) -> tuple[Array, Cache]:
        """Applies the block to one token, (b, 1, d), and to those that the cache remembers."""
        is_past = jnp.arange(cache["key"].shape[1]) <= position
        mask = jnp.broadcast_to(is_past, (len(x), len(is_past)))
        kept = dict(cache)

        def attend(y: Array) -> Array:
            for name, new in zip(("key", "value"), self.self_attention.project(y)):
                kept[name] = jax.lax.dynamic_update_slice_in_dim(cache[name], new, position, axis=1)
            return self.self_attention(y, (kept["key"], kept["value"]), mask=mask)

        def cross(y: Array) -> Array:
            return self.cross_attention(
                y, (cache["source_key"], cache["source_value"]), mask=is_word
            )

        return self._sublayers(x, attend, cross, train=False), kept


class Stack(nn.Module):
    """Blocks, one after the other, and maybe a norm at the end.

    Attributes:
        kind: what a block is called, "encoderblock" or "decoderblock".
        num_layers: number of blocks.
        block: fields of `Block`.
        final_norm: whether there is a norm at the end.
        remat: whether blocks are computed anew for the backward pass, which saves memory.
        scan: whether the blocks are one, scanned over stacked parameters, which compiles faster.
    """

    kind: str
    num_layers: int
    block: Mapping[str, Any]
    final_norm: bool
    remat: bool
    scan: bool

    def setup(self) -> None:
        """Makes the blocks."""
        if self.scan:
            self.scanned = Block(**self.block, name=self.kind)
        else:
            names = [f"{self.kind}_{i}" for i in range(self.num_layers)]
            self.blocks = [Block(**self.block, name=name) for name in names]
        if self.final_norm:
            self.norm = nn.LayerNorm(self.block["norm_epsilon"], dtype=self.block["dtype"])

    def __call__(self, x: Array, source: Array | None, is_word: Array, train: bool) -> Array:
        """(b, n, d) -> (b, n, d) float32; see `Block`."""

        def run(block: Block, x: Array, _: None = None) -> tuple[Array, None]:
            return block(x, source, is_word, train), None

        if self.remat:
            run = nn.remat(run, prevent_cse=not self.scan)
        x = x.astype(self.block["dtype"])
        if self.scan:
            x, _ = self._scan(run)(self.scanned, x, None)
        else:
            for block in self.blocks:
                x, _ = run(block, x)
        return self._end(x)

    def _scan(self, run: Any, **axes: Any) -> Any:
        return nn.scan(
            run,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.num_layers,
            **axes,
        )

    def _end(self, x: Array) -> Array:
        return (self.norm(x) if self.final_norm else x).astype(jnp.float32)

    def start(self, source: Array, length: int) -> Any:
        """What the blocks remember of a source, see `Block.start`."""
        if not self.scan:
            return [block.start(source, length) for block in self.blocks]
        start = self._scan(lambda block, _, __: ((), block.start(source, length)), out_axes=1)
        return start(self.scanned, (), None)[1]

    def step(self, x: Array, position: Any, is_word: Array, layers: Any) -> tuple[Array, Any]:
        """(b, 1, d) -> (b, 1, d) float32; see `Block.step`."""
        x = x.astype(self.block["dtype"])
        if self.scan:
            step = self._scan(
                lambda block, x, cache: block.step(x, position, is_word, cache),
                in_axes=1,
                out_axes=1,
            )
            x, layers = step(self.scanned, x, layers)
            return self._end(x), layers
        kept = []
        for block, cache in zip(self.blocks, layers, strict=True):
            x, cache = block.step(x, position, is_word, cache)
            kept.append(cache)
        return self._end(x), kept


class Transformer(Model):
    """An encoder and a decoder of tokens.

    Attributes:
        vocabulary_size: tokens that there are, of both languages.
        hidden_size: width of the states, an even number.
        num_layers: number of blocks of either side.
        num_heads: heads of the attention; must divide hidden_size.
        mlp_dim: hidden width of the MLPs.
        activation: of the MLPs, see `ops.activation`.
        dropout_rate: of the sums of embeddings and positions, and of each sublayer's output.
        attention_dropout_rate: of the weights of the attention.
        pre_norm: whether norms come before the sublayers; else they follow the sums.
        final_norm: whether both sides end in a norm; None: if `pre_norm`, which needs it.
        norm_epsilon: of all norms; PyTorch's default is 1e-5.
        tied: whether the logits are products with the embedding; else a dense layer makes them.
        positions: whether sinusoids are added to the embeddings. Without them a text is a bag of
            words; this is here to be seen.
        causal: whether the decoder sees no token before it is written. Without that it copies what
            it is to tell, and tells nothing; this is here to be seen.
        pad: the token of padding, which is not attended to in a source. In a target it comes last,
            where nothing that counts attends to it.
        begin: the token that begins a target.
        end: the token that ends both.
        tokenizer: what makes its tokens of text, see `input_pipeline.tokenizers`.
        attention_implementation: see `ops.attention`.
        remat: see `Stack`.
        scan: see `Stack`.
        dtype: compute type.
    """

    vocabulary_size: int = 37_000
    hidden_size: int = 512
    num_layers: int = 6
    num_heads: int = 8
    mlp_dim: int = 2048
    activation: str = "relu"
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    pre_norm: bool = False
    final_norm: bool | None = None
    norm_epsilon: float = 1e-6
    tied: bool = True
    positions: bool = True
    causal: bool = True
    pad: int = 0
    begin: int = 1
    end: int = 2
    tokenizer: str = "bpe(256)"
    attention_implementation: str | None = None
    remat: bool = False
    scan: bool = False
    dtype: Any = jnp.float32

    task = "translate"
    any_size = True
    token_table = "token_embedding"
    deepest = {"num_layers": 64, "final_norm": True, "tied": False}  # noqa: RUF012
    torch_namings = ("nn.Transformer",)
    naming_fields = {"nn.Transformer": {"norm_epsilon": 1e-5}}  # noqa: RUF012
    must_be_told = {  # noqa: RUF012
        "pre_norm": "True if its layers have norm_first=True, else False",
    }

    def setup(self) -> None:
        """Makes the embedding and both sides."""
        if self.num_heads < 1 or self.hidden_size % self.num_heads or self.hidden_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be even, and divisible by "
                f"num_heads={self.num_heads}"
            )
        d = self.hidden_size
        init = nn.initializers.normal(d**-0.5)  # so that it is of deviation 1, times sqrt(d)
        self.token_embedding = self.param(
            "token_embedding", init, (self.vocabulary_size, d), jnp.float32
        )
        self.encoder = self._stack("encoderblock", cross=False, causal=False)
        self.decoder = self._stack("decoderblock", cross=True, causal=self.causal)
        if not self.tied:
            self.generator = nn.Dense(
                self.vocabulary_size,
                kernel_init=nn.initializers.xavier_uniform(),
                dtype=self.dtype,
            )
        self.dropout = nn.Dropout(self.dropout_rate)

    def _stack(self, kind: str, cross: bool, causal: bool) -> Stack:
        fields = (
            "num_heads", "mlp_dim", "activation", "pre_norm", "norm_epsilon", "dropout_rate",
            "attention_dropout_rate", "attention_implementation", "dtype",
        )  # fmt: skip
        block = {**self.values_of(fields), "cross": cross, "causal": causal}
        final_norm = self.pre_norm if self.final_norm is None else self.final_norm
        return Stack(kind, self.num_layers, block, final_norm, self.remat, self.scan)

    def __call__(self, source: Array, target: Array, train: bool = False) -> Array:
        """Says of each token of a target which comes next.

        Args:
            source: (b, m) int32, in which `pad` is padding.
            target: (b, n) int32, which begins with `begin`; what follows its end does not matter.
            train: whether to drop out, by the key "dropout".

        Returns:
            (b, n, vocabulary_size) float32 logits; those at token i see the first i + 1 alone.

        Raises:
            ValueError: for other shapes, or fields that do not fit each other.
        """
        return self.decode(target, self.encode(source, train), source, train)

    def encode(self, source: Array, train: bool = False) -> Array:
        """(b, m) int32 -> (b, m, hidden_size) float32, which at padding means nothing."""
        _check("source", source)
        return self.encoder(self._embed(source, train), None, self._is_word(source), train)

    def decode(self, target: Array, memory: Array, source: Array, train: bool = False) -> Array:
        """Says which token comes next, given what `encode` has made of the source.

        Args:
            target: (b, n) int32.
            memory: (b, m, hidden_size).
            source: (b, m) int32, for its padding.
            train: whether to drop out.

        Returns:
            (b, n, vocabulary_size) float32 logits.
        """
        _check("target", target)
        x = self._embed(target, train)
        return self._logits(self.decoder(x, memory, self._is_word(source), train))

    def start(self, memory: Array, source: Array, length: int) -> Cache:
        """What `decode_step` begins with.

        Args:
            memory: (b, m, hidden_size) of `encode`.
            source: (b, m) int32, for its padding.
            length: the most tokens that a target can have, `begin` included.

        Returns:
            See `Cache`.
        """
        return {"layers": self.decoder.start(memory, length), "is_word": self._is_word(source)}

    def decode_step(self, tokens: Array, position: Any, cache: Cache) -> tuple[Array, Cache]:
        """Says which token comes next, after one more; as `decode` does, in less time.

        Args:
            tokens: (b,) int32, those at `position`, the first being `begin`.
            position: () int32, from 0; those before it were given in their turn.
            cache: of `start`, or of the step before.

        Returns:
            (b, vocabulary_size) float32 logits, and the next step's cache.
        """
        layers = cache["layers"]
        length = jax.tree.leaves(layers)[0].shape[2 if self.scan else 1]
        x = self._embed(tokens[:, None], False, position, length)
        x, layers = self.decoder.step(x, position, cache["is_word"], layers)
        return self._logits(x)[:, 0], {**cache, "layers": layers}

    def _is_word(self, tokens: Array) -> Array:
        return tokens != self.pad

    def _embed(self, tokens: Array, train: bool, first: Any = 0, length: int = 0) -> Array:
        """(b, n) tokens -> (b, n, d) float32; with a length, from a traced position on."""
        n, d = tokens.shape[1], self.hidden_size
        x = jnp.asarray(self.token_embedding)[tokens] * d**0.5  # numpy's would take no traced token
        if self.positions:
            table = ops.sincos1d_position_embedding(length or n, d)
            x = x + (jax.lax.dynamic_slice_in_dim(table, first, n, axis=1) if length else table)
        return self.dropout(x, deterministic=not train)

    def _logits(self, x: Array) -> Array:
        """(b, n, d) -> (b, n, vocabulary_size) float32."""
        if not self.tied:
            return self.generator(x).astype(jnp.float32)
        table = self.token_embedding.astype(self.dtype)
        return jnp.matmul(x.astype(self.dtype), table.T, preferred_element_type=jnp.float32)

    def inputs(self, image_size: tuple[int, int]) -> tuple[jax.ShapeDtypeStruct, ...]:
        """A source and a target; there is no image."""
        del image_size
        return (jax.ShapeDtypeStruct((1, 64), jnp.int32),) * 2

    @property
    def input_limits(self) -> tuple[int, ...]:
        """See `Model.input_limits`."""
        return self.vocabulary_size, self.vocabulary_size

    @staticmethod
    def fields_in(shapes: Shapes) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`.

        The number of heads does not show, and whether norms come first only if none comes last.
        """
        vocabulary_size, hidden_size = shapes["token_embedding"]
        fields = {
            "vocabulary_size": vocabulary_size,
            "hidden_size": hidden_size,
            "num_layers": sum(count_blocks(shapes, r"decoder/decoderblock_()(\d+)/")),
            "mlp_dim": shapes["decoder/decoderblock_0/mlp/Dense_0/kernel"][1],
            "tied": "generator/kernel" not in shapes,
        }
        return {**fields, "final_norm": True} if "decoder/norm/scale" in shapes else fields

    def torch_names(self, naming: str = "") -> dict[str, str]:
        """Names of nn.Transformer, and of the embedding and the generator that lie beside it."""
        del naming
        names = {"token_embedding": "embedding.weight"}
        if not self.tied:
            names["generator"] = "generator"
        for side, parts in (("encoder", _ENCODER_NAMES), ("decoder", _DECODER_NAMES)):
            for i in range(self.num_layers):
                ours, theirs = f"{side}/{side}block_{i}", f"{side}.layers.{i}"
                names |= {f"{ours}/{part}": f"{theirs}.{name}" for part, name in parts.items()}
            if self.pre_norm if self.final_norm is None else self.final_norm:
                names[f"{side}/norm"] = f"{side}.norm"
        return names


def _check(what: str, tokens: Array) -> None:
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise ValueError(f"the {what} must be tokens of shape (b, n), not {tokens.shape}")


_ENCODER_NAMES = {
    **torch_attention_names("self_attention", "self_attn"),
    "self_attention_norm": "norm1",
    "mlp/Dense_0": "linear1",
    "mlp/Dense_1": "linear2",
    "mlp_norm": "norm2",
}
_DECODER_NAMES = {
    **_ENCODER_NAMES,
    **torch_attention_names("cross_attention", "multihead_attn"),
    "cross_attention_norm": "norm2",
    "mlp_norm": "norm3",
}
