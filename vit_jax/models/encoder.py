"""The Transformer's encoder, whatever its tokens are made of: blocks, positions, and pooling.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021); attention pooling: Zhai et
al., "Scaling Vision Transformers" (CVPR 2022); stochastic depth: Huang et al. (ECCV 2016).
The submodules' names are those of the published .npz files, see `vit`.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.models.attention import XAVIER, Deviations, MultiHeadAttention, kernel_init

INITIALIZATIONS = ("xavier", "clip", "mae")

RELATIVE_BIASES = "relative_position_bias_table"

_TINY_NORMAL = nn.initializers.normal(stddev=1e-6)


def clip_deviations(hidden_size: int, num_layers: int) -> Deviations:
    """Standard deviations of the kernels of CLIP's blocks, before training.

    Source: the published code of Radford et al., "Learning Transferable Visual Models From Natural
    Language Supervision" (ICML 2021), which has them for the text tower. Here they serve the image
    tower as well, as in transformers; its blocks begin with PyTorch's defaults there.
    """
    width = hidden_size**-0.5
    deep = width * (2 * num_layers) ** -0.5
    return width, deep, (2 * hidden_size) ** -0.5, deep


def mae_deviations(hidden_size: int) -> Deviations:
    """Those of MAE's blocks, which have Xavier's of queries, keys and values as one matrix.

    Source: the published code of He et al., "Masked Autoencoders Are Scalable Vision Learners"
    (CVPR 2022), where the distribution is uniform.
    """
    return (2 * hidden_size) ** -0.5, None, None, None


class MlpBlock(nn.Module):
    """Two dense layers with an activation between them, see `ops.activation`.

    If it is gated, the first has twice as many outputs, and its first half is multiplied by the
    activation of its second: with "gelu" that is GEGLU, with "relu" ReGLU, with "silu" SwiGLU
    (Shazeer, "GLU Variants Improve Transformer", 2020). With `gate_first` the halves change places.
    """

    mlp_dim: int
    activation: str = "gelu_tanh"
    dropout_rate: float = 0.0
    deterministic: bool = True
    deviations: Deviations | None = None
    gated: bool = False
    gate_first: bool = False
    norm_epsilon: float | None = None  # of a norm before the second layer; None: there is none
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""

        def dense(features: int, name: str, deviation: float | None) -> nn.Dense:
            return nn.Dense(
                features,
                kernel_init=kernel_init(deviation),
                bias_init=_TINY_NORMAL,
                dtype=self.dtype,
                name=name,
            )

        dropout = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)
        hidden_size = x.shape[-1]
        activate = ops.activation(self.activation)
        first, second = (self.deviations or (None,) * 4)[2:]
        if self.gated:
            halves = jnp.split(dense(2 * self.mlp_dim, "Dense_0", first)(x), 2, axis=-1)
            x, gate = halves[::-1] if self.gate_first else halves
            x = dropout(x * activate(gate))
        else:
            x = dropout(activate(dense(self.mlp_dim, "Dense_0", first)(x)))
        if self.norm_epsilon is not None:
            x = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="LayerNorm_0")(x)
        return dropout(dense(hidden_size, "Dense_1", second)(x))


@dataclasses.dataclass(frozen=True)
class Form:
    """What the blocks of later ViTs have besides those of the first, or lack.

    Attributes:
        layer_scale: at first, of numbers per channel that each branch is multiplied by; None: there
            are none.
        qk_norm: whether queries and keys have a norm, of each head.
        biases: which of queries, keys and values have a bias, such as "qkv" or "qv".
        gated: whether the MLP is gated, its first half being the gate: with "silu" SwiGLU.
        rotary: how queries and keys of patches are turned by their place, one of `ops.ROTARIES`.
        rotary_side: see `ops.rotary_waves`.
        rotary_rescale: in training all places are multiplied by a number between 1 over this and
            this, drawn anew for each call.
        mlp_norm: whether the MLP has a norm before its second layer.
        relative_bias: whether scores have a bias by the offset of query and key on the grid, with
            a class token before the patches; see `ops.class_bias_index`.
    """

    layer_scale: float | None = None
    qk_norm: bool = False
    biases: str = "qkv"
    gated: bool = False
    rotary: str = ""
    rotary_side: int = 16
    rotary_rescale: float = 1.0
    mlp_norm: bool = False
    relative_bias: bool = False


@nn.jit  # so that blocks, which are all alike, are traced once
class EncoderBlock(nn.Module):
    """Pre-norm Transformer block: x + MSA(LN(x)), then x + MLP(LN(x))."""

    num_heads: int
    mlp_dim: int
    form: Form = Form()
    grid: tuple[int, int] = (0, 0)  # of the patches, for what depends on it
    activation: str = "gelu_tanh"
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    stochastic_depth: bool = False
    deterministic: bool = True
    attention_implementation: str | None = None
    length: int | None = None  # of the tokens that are not padding
    norm_epsilon: float = 1e-6
    causal: bool = False
    deviations: Deviations | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, drop_rate: float | jax.Array, scale: jax.Array | None = None
    ) -> tuple[jax.Array, None]:
        """(b, n, d) and this block's stochastic-depth rate -> (b, n, d); None is for nn.scan.

        The scale is that of rotary places, see `Form.rotary_rescale`.
        """

        def weigh(branch: jax.Array, name: str) -> jax.Array:
            if self.form.layer_scale is not None:
                init = nn.initializers.constant(self.form.layer_scale)
                scale = self.param(name, init, branch.shape[-1:], jnp.float32)
                branch = branch * scale.astype(branch.dtype)
            if self.deterministic or not self.stochastic_depth:
                return branch
            return ops.stochastic_depth(branch, drop_rate, self.make_rng("dropout"))

        x = ops.row_major(x)
        y = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="LayerNorm_0")(x)
        y = MultiHeadAttention(
            num_heads=self.num_heads,
            attention_dropout_rate=self.attention_dropout_rate,
            deterministic=self.deterministic,
            implementation=self.attention_implementation,
            causal=self.causal,
            deviations=self.deviations,
            biases=self.form.biases,
            norm_epsilon=self.norm_epsilon if self.form.qk_norm else None,
            dtype=self.dtype,
            name="MultiHeadDotProductAttention_1",
        )(y, y, self.length, bias=self._bias(), waves=self._waves(x.shape[1], x.shape[2], scale))
        y = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)(y)
        x = x + weigh(y, "layer_scale_1")

        y = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="LayerNorm_2")(x)
        y = MlpBlock(
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            deterministic=self.deterministic,
            deviations=self.deviations,
            gated=self.form.gated,
            gate_first=True,
            norm_epsilon=self.norm_epsilon if self.form.mlp_norm else None,
            dtype=self.dtype,
            name="MlpBlock_3",
        )(y)
        return x + weigh(y, "layer_scale_2"), None

    def _bias(self) -> jax.Array | None:
        """(1, heads, n, n), of scores."""
        if not self.form.relative_bias:
            return None
        index = ops.class_bias_index(self.grid)
        shape = (index.max() + 1, self.num_heads)
        table = self.param(RELATIVE_BIASES, nn.initializers.zeros, shape, jnp.float32)
        return table[index].transpose(2, 0, 1)[None]

    def _waves(self, count: int, d: int, scale: jax.Array | None) -> ops.Waves | None:
        """Of `count` tokens, of which the patches are the last that are no padding."""
        if not self.form.rotary:
            return None
        length = self.length or count
        before = length - math.prod(self.grid)
        return ops.rotary_waves(
            self.form.rotary, self.grid, d // self.num_heads, before, count - length,
            self.form.rotary_side, scale,
        )  # fmt: skip


class AddPositionEmbedding(nn.Module):
    """Adds position embeddings to tokens that lie on an (h, w) grid, after those of no patch.

    Of the latter the first `placed` have a learned one; None is all.
    """

    kind: str
    grid: tuple[int, int]
    initialization: str = "xavier"
    placed: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d); n is h * w, or more with other tokens in front."""
        n, d = x.shape[1:]
        if self.kind == "none":
            return x
        if self.kind.startswith("sincos2d"):
            return x + self._waves(n, d, endpoint=self.kind == "sincos2d").astype(x.dtype)
        others = n - math.prod(self.grid)
        placeless = others - (others if self.placed is None else self.placed)
        n -= placeless
        if self.has_variable("params", "pos_embedding"):
            stored: Any = self.get_variable("params", "pos_embedding").shape
            if stored != (1, n, d):
                raise ValueError(
                    f"the position embeddings have shape {stored}, but this image size makes "
                    f"{(1, n, d)}: feed images of the size the weights were made for, or resize "
                    "them with vit_jax.pretrained.adapt"
                )
        table = self.param("pos_embedding", self._init, (1, n, d), jnp.float32)
        if placeless:
            of_others, of_patches = jnp.split(table, [others - placeless], axis=1)
            of_others = jnp.pad(of_others, ((0, 0), (0, placeless), (0, 0)))
            table = jnp.concatenate([of_others, of_patches], axis=1)
        return x + table.astype(x.dtype)

    def _init(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        if self.initialization == "mae":
            _, n, d = shape
            return self._waves(n, d, endpoint=False).astype(dtype)
        deviation = shape[-1] ** -0.5 if self.initialization == "clip" else 0.02
        return nn.initializers.normal(deviation)(key, shape, dtype)

    def _waves(self, n: int, d: int, endpoint: bool) -> jax.Array:
        """(1, n, d) sines and cosines, 0 for tokens of no patch."""
        table = ops.sincos2d_position_embedding(*self.grid, d, endpoint)
        return jnp.pad(table, ((0, 0), (n - table.shape[1], 0), (0, 0)))


class Encoder(nn.Module):
    """Position embeddings, a norm if `pre_norm`, a stack of encoder blocks, and the final norm."""

    num_layers: int
    num_heads: int
    mlp_dim: int
    grid: tuple[int, int]
    form: Form = Form()
    placed: int | None = None  # see AddPositionEmbedding
    has_norm: bool = True  # at the end
    activation: str = "gelu_tanh"
    position_embedding: str = "learned"
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    deterministic: bool = True
    attention_implementation: str | None = None
    remat: bool = False
    scan: bool = False
    pre_norm: bool = False
    norm_epsilon: float = 1e-6
    causal: bool = False
    initialization: str = "xavier"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """(b, n, d) -> (b, n, d); or (b, k, d), of (b, k) numbers of tokens that alone are kept."""
        x = AddPositionEmbedding(
            self.position_embedding,
            self.grid,
            self.initialization,
            self.placed,
            name="posembed_input",
        )(x)
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
        if self.pre_norm:
            x = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="pre_norm")(x)
        x = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)(x)
        n = x.shape[1]
        is_padded = n % 2 == 1 and self._wants_even(x)
        if is_padded:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))

        block_class = (
            nn.remat(EncoderBlock, prevent_cse=not self.scan) if self.remat else EncoderBlock
        )
        block = dict(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            form=self.form,
            grid=self.grid if self.form.rotary or self.form.relative_bias else (0, 0),
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            stochastic_depth=self.stochastic_depth_rate > 0,
            deterministic=self.deterministic,
            attention_implementation=self.attention_implementation,
            length=n if is_padded else None,
            norm_epsilon=self.norm_epsilon,
            causal=self.causal,
            deviations=self._deviations(x.shape[-1]),
            dtype=self.dtype,
        )
        drop_rates = [
            self.stochastic_depth_rate * i / max(self.num_layers - 1, 1)
            for i in range(self.num_layers)
        ]
        scale = self._rotary_scale()
        if self.scan:
            scanned = nn.scan(
                block_class,
                in_axes=(0, *(nn.broadcast for _ in scale)),
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=self.num_layers,
            )
            x, _ = scanned(**block, name="encoderblock")(x, jnp.array(drop_rates), *scale)
        else:
            for i, drop_rate in enumerate(drop_rates):
                x, _ = block_class(**block, name=f"encoderblock_{i}")(x, drop_rate, *scale)
        x = ops.row_major(x)[:, :n]
        if not self.has_norm:
            return x
        return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="encoder_norm")(x)

    def _deviations(self, d: int) -> Deviations | None:
        if self.initialization == "mae":
            return mae_deviations(d)
        return clip_deviations(d, self.num_layers) if self.initialization == "clip" else None

    def _rotary_scale(self) -> tuple[jax.Array, ...]:
        """Of rotary places, the same for all blocks; () is 1."""
        if not self.form.rotary or self.form.rotary_rescale == 1 or self.deterministic:
            return ()
        return (ops.random_scale(self.make_rng("dropout"), self.form.rotary_rescale),)

    def _wants_even(self, x: jax.Array) -> bool:
        """Whether attention is differentiated faster with an even number of tokens."""
        if self.deterministic or self.is_mutable_collection("intermediates"):
            return False
        if self.attention_dropout_rate or self.attention_implementation == "xla":
            return False
        if self.form.relative_bias:
            return False
        b, n, d = x.shape
        shape = (b, n, self.num_heads, d // self.num_heads)
        return ops.fuses_attention(jax.ShapeDtypeStruct(shape, self.dtype))


class MAPHead(nn.Module):
    """Multi-head attention pooling (Zhai et al., CVPR 2022): one learned query and an MLP."""

    num_heads: int
    mlp_dim: int
    activation: str = "gelu_tanh"
    attention_implementation: str | None = None
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, d)."""
        b, _, d = x.shape
        probe = self.param("probe", XAVIER, (1, 1, d), jnp.float32).astype(x.dtype)
        x = MultiHeadAttention(
            num_heads=self.num_heads,
            implementation=self.attention_implementation,
            dtype=self.dtype,
            name="MultiHeadDotProductAttention_0",
        )(jnp.tile(probe, (b, 1, 1)), x)
        y = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="LayerNorm_0")(x)
        mlp = MlpBlock(self.mlp_dim, self.activation, dtype=self.dtype, name="MlpBlock_0")
        x = x + mlp(y)
        return x[:, 0]
