"""Attention whose cost grows with the number of tokens, and not with its square."""

import jax
import jax.numpy as jnp

_CHUNK = 64  # queries whose scores are computed at once where attention is causal


def linear_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None = None,
    causal: bool = False,
) -> jax.Array:
    """Attention with elu(x) + 1 of queries and keys in place of the softmax of their products.

    The sums over keys are computed once for all queries: o_i = f(q_i)' S / (f(q_i)' z) where S is
    the sum of f(k_j) v_j' and z that of f(k_j), of j up to i where causal. Nothing is divided by
    the root of the number of channels. Sums are float32.

    Source: Katharopoulos et al., "Transformers are RNNs" (ICML 2020), equations 4 to 12.

    Args:
        q: (b, n, heads, c).
        k: (b, m, heads, c).
        v: (b, m, heads, e).
        mask: which of the m tokens are attended to, (b, m) bool; None for all.
        causal: whether token i attends to the first i + 1 alone; then n is m.

    Returns:
        (b, n, heads, e) of v's type; 0 for a token that has nothing to attend to.

    Raises:
        ValueError: if attention is causal and n is not m.
    """
    if causal and q.shape[1] != k.shape[1]:
        raise ValueError(
            f"causal attention is one of tokens to themselves, not of {q.shape[1]} queries to "
            f"{k.shape[1]} keys: give as many, or leave causal out"
        )
    queries, keys = (jax.nn.elu(x.astype(jnp.float32)) + 1 for x in (q, k))
    if mask is not None:
        keys = keys * mask[..., None, None]
    # With ones as a last channel of the values, the same sums give what is divided by.
    ones = jnp.ones((*v.shape[:-1], 1), jnp.float32)
    values = jnp.concatenate([v.astype(jnp.float32), ones], axis=-1)
    if causal:
        sums = _causal_sums(queries, keys, values)
    else:
        sums = jnp.einsum("bnhc,bhce->bnhe", queries, jnp.einsum("bmhc,bmhe->bhce", keys, values))
    total = sums[..., -1:]
    return (sums[..., :-1] / jnp.where(total > 0, total, 1)).astype(v.dtype)


def _causal_sums(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Sums over j <= i of (q_i k_j) v_j, chunk by chunk, so that memory grows with n alone."""
    b, n, heads, _ = q.shape
    size = min(n, _CHUNK)
    count = -(-n // size)

    def chunks(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, count * size - n), (0, 0), (0, 0)))
        return x.reshape(b, count, size, *x.shape[2:]).swapaxes(0, 1)

    def step(state: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v = chunk
        scores = jnp.einsum("bnhc,bmhc->bhnm", q, k) * jnp.tri(size)
        out = jnp.einsum("bhnm,bmhe->bnhe", scores, v) + jnp.einsum("bnhc,bhce->bnhe", q, state)
        return state + jnp.einsum("bmhc,bmhe->bhce", k, v), out

    state = jnp.zeros((b, heads, k.shape[-1], v.shape[-1]), jnp.float32)
    _, out = jax.lax.scan(step, state, (chunks(q), chunks(k), chunks(v)))
    return out.swapaxes(0, 1).reshape(b, count * size, heads, -1)[:, :n]


def softmax_linear_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, softmax_of_queries: bool = False
) -> jax.Array:
    """Attention by a softmax of the keys over all tokens, in place of one of products.

    Each channel of the keys so is a weighting of the tokens, and makes one mean of their values;
    a query then sums these means. The softmax is computed in float32.

    Sources: Shen et al., "Efficient Attention" (WACV 2021); without a softmax of the queries it is
    that of latent diffusion's code (Rombach et al., CVPR 2022), with one that of denoising
    diffusion's successors, which scale the queries by c^-.5 besides.

    Args:
        q: (b, n, heads, c).
        k: (b, m, heads, c).
        v: (b, m, heads, e).
        softmax_of_queries: whether queries are the softmax over their channels, times c^-.5.

    Returns:
        (b, n, heads, e), of v's type.
    """
    weights = jax.nn.softmax(k.astype(jnp.float32), axis=1)
    if softmax_of_queries:
        q = jax.nn.softmax(q.astype(jnp.float32), axis=-1) * q.shape[-1] ** -0.5
    means = jnp.einsum("bmhc,bmhe->bhce", weights, v.astype(jnp.float32))
    return jnp.einsum("bnhc,bhce->bnhe", q.astype(jnp.float32), means).astype(v.dtype)
