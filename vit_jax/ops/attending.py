"""Attention of all tokens to all others."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.ops import compiling


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None = None,
    implementation: str | None = None,
    length: int | None = None,
    mask: jax.Array | None = None,
    causal: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al., 2017) with a softmax in float32.

    On a CPU the heads go before the tokens, so that XLA makes one program of the two products and
    the softmax between them. On an NVIDIA GPU, cuDNN's fused attention takes what it can, which is
    not a mask or a bias: these are always XLA's. Dropout is flax's.

    Args:
        q: (b, n, heads, c).
        k: (b, m, heads, c).
        v: (b, m, heads, c).
        bias: added to the scaled scores, (1 or b, 1 or heads, n, m), or None; -inf hides a token.
        implementation: "xla" or "cudnn" of `jax.nn.dot_product_attention`, or None: the fastest.
        length: how many of the m tokens are attended to, the first; None for all.
        mask: which of the m tokens are attended to, (b, m) bool, or which by each of the n,
            (1 or b, 1 or heads, n, m) bool; None for all.
        causal: whether token i attends to the first i + 1 alone; then n is m.
        dropout_rate: share of the weights that are dropped, if there is a key.
        dropout_key: of the random numbers for it; None drops nothing.

    Returns:
        (b, n, heads, c); 0 where mask and bias leave a token nothing to attend to.
    """
    is_plain = mask is None and bias is None
    if is_plain and dropout_key is None:
        return _attention_of_all(q, k, v, None, implementation, length, causal)
    allowed = attended_keys(q.shape[1], k.shape[1], mask, causal, bias, length)
    if dropout_key is not None:
        out = nn.dot_product_attention(
            q, k, v, None if bias is None else jnp.where(allowed, bias, 0), allowed,
            broadcast_dropout=False, dropout_rng=dropout_key, dropout_rate=dropout_rate,
            force_fp32_for_softmax=True,
        )  # fmt: skip
    else:
        hidden = _hiding(allowed)
        bias = hidden if bias is None else jnp.where(allowed, bias, hidden)
        implementation = None if compiling.is_for_cpu() else "xla"
        out = _attention_of_all(q, k, v, bias, implementation, None)
    if is_plain:
        return out
    return out * jnp.any(allowed, axis=-1).swapaxes(1, 2)[..., None].astype(out.dtype)


def _attention_of_all(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    implementation: str | None,
    length: int | None,
    causal: bool = False,
) -> jax.Array:
    """See `attention`; a bias is finite, and comes without `length` and `causal`."""
    if implementation is None and compiling.is_for_cpu():
        if causal:
            bias = _hiding(attended_keys(q.shape[1], k.shape[1], None, causal))
        if length is not None:
            hidden = jnp.where(np.arange(k.shape[1]) < length, 0, -jnp.inf)
            bias = hidden if bias is None else bias + hidden
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        return attend(q, k, v, 0 if bias is None else bias).swapaxes(1, 2)
    if implementation is None:
        implementation = "cudnn" if bias is None and fuses_attention(q) else "xla"
    apply = functools.partial(
        _attention, implementation=implementation, length=length, causal=causal
    )
    if implementation == "cudnn" and (q.shape[1] % 2 or k.shape[1] % 2):
        return _differentiable_if_even(apply, q, k, v)
    return apply(q, k, v, bias)


def _attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None = None,
    *,
    implementation: Any,
    length: int | None,
    causal: bool,
) -> jax.Array:
    lengths: dict[str, Any] = {}
    if length is not None:
        lengths["key_value_seq_lengths"] = jnp.full(q.shape[0], length, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, bias, is_causal=causal, implementation=implementation, **lengths
    )


def attended_keys(
    n: int,
    m: int,
    mask: jax.Array | None,
    causal: bool,
    bias: jax.Array | None = None,
    length: int | None = None,
) -> Any:
    """Which of m tokens each of n attends to, where not all: see `attention`.

    Returns:
        (b or 1, 1 or heads, n, m) bool, or None if nothing is hidden from anybody.
    """
    past = np.tri(n, m, dtype=bool)[None, None] if causal else None
    first = None if length is None else np.tile(np.arange(m) < length, (1, 1, n, 1))
    if mask is not None and mask.ndim == 2:
        mask = jnp.broadcast_to(mask[:, None, None], (mask.shape[0], 1, n, m))
    seen = [mask, past, first, None if bias is None else ~jnp.isneginf(bias)]
    masks = [each for each in seen if each is not None]
    return functools.reduce(operator.and_, masks) if masks else None


def _hiding(allowed: jax.Array) -> jax.Array:
    """What is added to scores so that nothing but what is allowed has a weight.

    It is finite, since a softmax of nothing but -inf is NaN, and so is its gradient.
    """
    return jnp.where(allowed, 0.0, -1e30).astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable_if_even(
    apply: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array
) -> jax.Array:
    """Attention that JAX differentiates for an even number of tokens alone; others are padded."""
    return apply(q, k, v)


def _attend_even(
    apply: functools.partial[jax.Array], q: jax.Array, k: jax.Array, v: jax.Array
) -> tuple[jax.Array, Any]:
    length = apply.keywords["length"] or k.shape[1]

    def padded(*args: jax.Array) -> jax.Array:
        even = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in args)
        return functools.partial(apply, length=length)(*even)[:, : q.shape[1]]

    return jax.vjp(padded, q, k, v)


_differentiable_if_even.defvjp(_attend_even, lambda apply, pull, grad: pull(grad))


def fuses_attention(q: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether cuDNN's fused attention takes queries like (b, n, heads, c), without a bias.

    Whoever trains had better give it an even number of tokens: else they are padded in every call.
    """
    if not compiling.is_for_gpu() or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    return compiling.cuda_capability() >= 8 and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128


def attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | int) -> jax.Array:
    """Attention of (..., n, c) over (..., m, c), heads being among the leading axes."""
    q = q * q.shape[-1] ** -0.5
    scores = jnp.matmul(q, k.swapaxes(-2, -1), preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores + bias).astype(v.dtype) @ v
