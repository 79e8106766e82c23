"""Multi-head attention, and the projections of its heads."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops

# Standard deviations of a block's kernels: query, key and value; out; Dense_0; Dense_1. None is
# Xavier's initialization.
Deviations = tuple[float | None, float | None, float | None, float | None]

XAVIER = nn.initializers.xavier_uniform()


def kernel_init(deviation: float | None) -> nn.initializers.Initializer:
    """Normal of a standard deviation, or Xavier's."""
    return XAVIER if deviation is None else nn.initializers.normal(deviation)


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
            return kernel_init(self.deviation)(key, (d, inner), dtype).reshape(full_shape)

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
        biases: which of queries, keys and values have a bias, such as "qkv" or "qv".
        norm_epsilon: of a norm of each head's queries, and one of its keys; None: there are none.
        dtype: compute type.
    """

    num_heads: int
    attention_dropout_rate: float = 0.0
    deterministic: bool = True
    implementation: str | None = None
    causal: bool = False
    deviations: Deviations | None = None
    head_size: int | None = None
    biases: str = "qkv"
    norm_epsilon: float | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the projections of queries, keys and values."""
        inner = (self.deviations or (None,))[0]
        self.query, self.key, self.value = (
            HeadProjection(self.num_heads, inner, self.head_size, name in self.biases, self.dtype)
            for name in "qkv"
        )

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
        waves: ops.Waves | None = None,
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
            waves: that turn queries and keys of the same tokens, see `ops.rotary_waves`.

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
        if self.norm_epsilon is not None:
            q = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="query_norm")(q)
            k = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="key_norm")(k)
        if waves is not None:
            q, k = ops.rotate(q, waves), ops.rotate(k, waves)
        x = self._attend(q, k, v, length, mask, bias, causal, deterministic)
        return nn.DenseGeneral(
            queries.shape[-1],
            axis=(-2, -1),
            kernel_init=kernel_init(outer),
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
