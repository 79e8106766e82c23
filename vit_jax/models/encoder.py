"""The Transformer's encoder, whatever its tokens are made of: blocks, positions, and pooling.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021); attention pooling: Zhai et
al., "Scaling Vision Transformers" (CVPR 2022); stochastic depth: Huang et al. (ECCV 2016).
The submodules' names are those of the published .npz files, see `vit`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops

INITIALIZATIONS = ("xavier", "clip")

# Standard deviations of a block's kernels: query, key and value; out; Dense_0; Dense_1.
Deviations = tuple[float, float, float, float]

_XAVIER = nn.initializers.xavier_uniform()
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


def _kernel_init(deviation: float | None) -> nn.initializers.Initializer:
    return _XAVIER if deviation is None else nn.initializers.normal(deviation)


class HeadProjection(nn.Module):
    """A dense layer whose outputs are those of several heads: flax's DenseGeneral.

    The bias is added to the product of two matrices, which a GPU does in one; DenseGeneral gives it
    further axes before.
    """

    num_heads: int
    deviation: float | None = None  # of the kernel at first; None: Xavier's
    head_size: int | None = None  # None: d / heads
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, heads, head_size)."""
        d = x.shape[-1]
        shape = (self.num_heads, self.head_size or d // self.num_heads)
        inner = shape[0] * shape[1]

        def init(key: jax.Array, full_shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return _kernel_init(self.deviation)(key, (d, inner), dtype).reshape(full_shape)

        kernel = self.param("kernel", init, (d, *shape), jnp.float32).astype(self.dtype)
        y = x.astype(self.dtype) @ kernel.reshape(d, inner)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
            y = y + bias.astype(self.dtype).reshape(inner)
        return y.reshape(*x.shape[:-1], *shape)


class MultiHeadAttention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al., 2017).

    The softmax is computed in float32. The weights, which `ops.attention` does not return, are
    computed besides for whoever captures "intermediates".

    Attributes:
        num_heads: heads h.
        attention_dropout_rate: of the weights.
        deterministic: whether nothing is dropped.
        implementation: see `ops.attention`: None or "xla" anywhere, "cudnn" for fp16 or bf16 on an
            NVIDIA GPU.
        causal: whether each token attends to itself and to those before it alone.
        deviations: of the kernels at first; None is Xavier's.
        head_size: channels of a head; None is those of what is projected by the heads, which then
            must be as many for queries and keys.
        use_bias: whether queries, keys and values have a bias.
        dtype: compute type.
    """

    num_heads: int
    attention_dropout_rate: float = 0.0
    deterministic: bool = True
    implementation: str | None = None
    causal: bool = False
    deviations: Deviations | None = None
    head_size: int | None = None
    use_bias: bool = True
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the projections of queries, keys and values."""
        inner = (self.deviations or (None,))[0]
        projection = functools.partial(
            HeadProjection, self.num_heads, inner, self.head_size, self.use_bias, self.dtype
        )
        self.query, self.key, self.value = projection(), projection(), projection()

    def project(
        self, keys: jax.Array, values: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Keys and values of (b, m, e), which a call takes as well: two of (b, m, heads, c).

        Args:
            keys: (b, m, e).
            values: (b, m, f); None: they are made of the same.
        """
        return self.key(keys), self.value(keys if values is None else values)

    @nn.compact
    def __call__(
        self,
        queries: jax.Array,
        keys_values: jax.Array | tuple[jax.Array, jax.Array],
        length: int | None = None,
        mask: jax.Array | None = None,
        deterministic: bool | None = None,
        bias: jax.Array | None = None,
        values: jax.Array | None = None,
    ) -> jax.Array:
        """Has (b, n, d) attend over (b, m, e).

        Args:
            queries: (b, n, d).
            keys_values: (b, m, e), or what `project` has made of it: keys that may be kept from
                call to call, of which `mask` alone says who sees which, whether `causal` or not.
            length: how many of the m are attended to, the first; None for all.
            mask: which of the m are attended to, (b, m) or (1 or b, 1 or heads, n, m) bool; None
                for all.
            deterministic: in place of the field; None for the field.
            bias: added to the scaled scores, (1 or b, 1 or heads, n, m), or None; -inf hides a
                token.
            values: (b, m, f), where they are not made of keys_values, which then are the keys.

        Returns:
            (b, n, d).
        """
        outer = (self.deviations or (None, None))[1]
        q = self.query(queries)
        causal = self.causal
        if isinstance(keys_values, tuple):
            k, v = keys_values
            causal = False
        else:
            k, v = self.project(keys_values, values)
        x = self._attend(q, k, v, length, mask, bias, causal, deterministic)
        return nn.DenseGeneral(
            queries.shape[-1],
            axis=(-2, -1),
            kernel_init=_kernel_init(outer),
            dtype=self.dtype,
            name="out",
        )(x)

    def _attend(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        length: int | None,
        mask: jax.Array | None,
        bias: jax.Array | None,
        causal: bool,
        deterministic: bool | None,
    ) -> jax.Array:
        """Attention of the heads, (b, n, heads, c) over (b, m, heads, c); see `__call__`."""
        is_fixed = self.deterministic if deterministic is None else deterministic
        drops = self.attention_dropout_rate > 0 and not is_fixed
        if self.is_mutable_collection("intermediates"):
            allowed = ops.attended_keys(q.shape[1], k.shape[1], mask, causal, bias, length)
            self.sow("intermediates", "attention", _weights(q, k, allowed, bias))
        return ops.attention(
            q,
            k,
            v,
            bias=bias,
            implementation=self.implementation,
            length=length,
            mask=mask,
            causal=causal,
            dropout_rate=self.attention_dropout_rate,
            dropout_key=self.make_rng("dropout") if drops else None,
        )


def _weights(
    q: jax.Array, k: jax.Array, allowed: jax.Array | None, bias: jax.Array | None
) -> jax.Array:
    """The softmax's (b, heads, n, m) float32, 0 for what is not allowed; see `ops.attention`."""
    if bias is not None:
        assert allowed is not None
        bias = jnp.where(allowed, bias, 0)
    q, k = q.astype(jnp.float32), k.astype(jnp.float32)
    weights = nn.dot_product_attention_weights(q, k, bias, allowed)
    return weights if allowed is None else weights * allowed


def torch_attention_names(ours: str, theirs: str) -> dict[str, str]:
    """Names of a `MultiHeadAttention` as PyTorch's nn.MultiheadAttention has them, by ours.

    Args:
        ours: path of the attention.
        theirs: its name in PyTorch.
    """
    projections = ("query", "key", "value")
    names = {f"{ours}/{part}": f"{theirs}.in_proj_[{i}]" for i, part in enumerate(projections)}
    return {**names, f"{ours}/out": f"{theirs}.out_proj"}


class MlpBlock(nn.Module):
    """Two dense layers with an activation between them, see `ops.activation`.

    If it is gated, the first has twice as many outputs, and its first half is multiplied by the
    activation of its second: with "gelu" that is GEGLU, with "relu" ReGLU (Shazeer, "GLU Variants
    Improve Transformer", 2020).
    """

    mlp_dim: int
    activation: str = "gelu_tanh"
    dropout_rate: float = 0.0
    deterministic: bool = True
    deviations: Deviations | None = None
    gated: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""

        def dense(features: int, name: str, deviation: float | None) -> nn.Dense:
            return nn.Dense(
                features,
                kernel_init=_kernel_init(deviation),
                bias_init=_TINY_NORMAL,
                dtype=self.dtype,
                name=name,
            )

        dropout = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)
        hidden_size = x.shape[-1]
        activate = ops.activation(self.activation)
        first, second = (self.deviations or (None,) * 4)[2:]
        if self.gated:
            x, gate = jnp.split(dense(2 * self.mlp_dim, "Dense_0", first)(x), 2, axis=-1)
            x = dropout(x * activate(gate))
        else:
            x = dropout(activate(dense(self.mlp_dim, "Dense_0", first)(x)))
        return dropout(dense(hidden_size, "Dense_1", second)(x))


@nn.jit  # so that blocks, which are all alike, are traced once
class EncoderBlock(nn.Module):
    """Pre-norm Transformer block: x + MSA(LN(x)), then x + MLP(LN(x))."""

    num_heads: int
    mlp_dim: int
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
    def __call__(self, x: jax.Array, drop_rate: float | jax.Array) -> tuple[jax.Array, None]:
        """(b, n, d) and this block's stochastic-depth rate -> (b, n, d); None is for nn.scan."""

        def maybe_drop(branch: jax.Array) -> jax.Array:
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
            dtype=self.dtype,
            name="MultiHeadDotProductAttention_1",
        )(y, y, self.length)
        y = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)(y)
        x = x + maybe_drop(y)

        y = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="LayerNorm_2")(x)
        y = MlpBlock(
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            deterministic=self.deterministic,
            deviations=self.deviations,
            dtype=self.dtype,
            name="MlpBlock_3",
        )(y)
        return x + maybe_drop(y), None


class AddPositionEmbedding(nn.Module):
    """Adds position embeddings to tokens that lie on an (h, w) grid, after any class token."""

    kind: str
    grid: tuple[int, int]
    deviation: float = 0.02

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d); n is h * w, or one more with a class token in front."""
        n, d = x.shape[1:]
        if self.kind == "none":
            return x
        if self.kind == "sincos2d":
            table = ops.sincos2d_position_embedding(*self.grid, d)
            class_tokens = n - table.shape[1]
            table = jnp.pad(table, ((0, 0), (class_tokens, 0), (0, 0)))
            return x + table.astype(x.dtype)
        if self.has_variable("params", "pos_embedding"):
            stored: Any = self.get_variable("params", "pos_embedding").shape
            if stored != (1, n, d):
                raise ValueError(
                    f"the position embeddings have shape {stored}, but this image size makes "
                    f"{(1, n, d)}: feed images of the size the weights were made for, or resize "
                    "them with vit_jax.pretrained.adapt"
                )
        init = nn.initializers.normal(self.deviation)
        table = self.param("pos_embedding", init, (1, n, d), jnp.float32)
        return x + table.astype(x.dtype)


class Encoder(nn.Module):
    """Position embeddings, a norm if `pre_norm`, a stack of encoder blocks, and the final norm."""

    num_layers: int
    num_heads: int
    mlp_dim: int
    grid: tuple[int, int]
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
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""
        d = x.shape[-1]
        is_clip = self.initialization == "clip"
        x = AddPositionEmbedding(
            self.position_embedding, self.grid, d**-0.5 if is_clip else 0.02, name="posembed_input"
        )(x)
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
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            stochastic_depth=self.stochastic_depth_rate > 0,
            deterministic=self.deterministic,
            attention_implementation=self.attention_implementation,
            length=n if is_padded else None,
            norm_epsilon=self.norm_epsilon,
            causal=self.causal,
            deviations=clip_deviations(d, self.num_layers) if is_clip else None,
            dtype=self.dtype,
        )
        drop_rates = [
            self.stochastic_depth_rate * i / max(self.num_layers - 1, 1)
            for i in range(self.num_layers)
        ]
        if self.scan:
            scanned = nn.scan(
                block_class,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=self.num_layers,
            )
            x, _ = scanned(**block, name="encoderblock")(x, jnp.array(drop_rates))
        else:
            for i, drop_rate in enumerate(drop_rates):
                x, _ = block_class(**block, name=f"encoderblock_{i}")(x, drop_rate)
        x = ops.row_major(x)[:, :n]
        return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="encoder_norm")(x)

    def _wants_even(self, x: jax.Array) -> bool:
        """Whether attention is differentiated faster with an even number of tokens."""
        if self.deterministic or self.is_mutable_collection("intermediates"):
            return False
        if self.attention_dropout_rate or self.attention_implementation == "xla":
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
        probe = self.param("probe", _XAVIER, (1, 1, d), jnp.float32).astype(x.dtype)
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
