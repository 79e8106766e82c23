"""Greedy and beam search: from a model that says what comes next to whole sequences.

A model is a step function: from the tokens at a position and a state to the log-probabilities of
what follows, and the next state. Every leaf of a state begins with the axis of the sequences, so
that a search can keep some of them and drop others; keys and values that were computed before are
such a state, see `models.transformer.Transformer.decode_step`. All shapes are static.

Source: Vaswani et al., "Attention Is All You Need" (NeurIPS 2017), section 6.1; the penalty of the
length: Wu et al., "Google's Neural Machine Translation System" (2016), section 7.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Step = Callable[[Array, Array, Any], tuple[Array, Any]]


class Decoded(NamedTuple):
    """Sequences that were found.

    Attributes:
        tokens: (b, length) int32, without the begin, with the end, and padding after it.
        scores: (b,) float32, the log-probability of each by the penalty of its length.
    """

    tokens: Array
    scores: Array


def length_penalty(length: Array | int, alpha: float) -> Array:
    """((5 + length) / 6)^alpha, which is 1 for one token; the length counts the end."""
    return ((5.0 + length) / 6.0) ** alpha


def greedy(
    step: Step,
    state: Any,
    begin: int,
    end: int,
    limits: Array,
    length: int,
    pad: int = 0,
    alpha: float = 0.0,
) -> Decoded:
    """Takes the likeliest token at each position.

    Args:
        step: (tokens (b,) int32, position () int32, state) -> (log-probabilities (b, v) float32,
            state), called for positions 0, 1, ...; the first token is the begin.
        state: of the first step.
        begin: token that begins a sequence.
        end: token that ends it.
        limits: (b,) int32, the most tokens that each can have, the end included.
        length: the most that any can have, which is static.
        pad: what follows the end.
        alpha: of `length_penalty`, for the score alone.
    """
    b = len(limits)

    def is_going(carry: Any) -> Array:
        return (carry[0] < length) & ~carry[3].all()

    def body(carry: Any) -> Any:
        i, tokens, last, is_done, total, count, state = carry
        log_probs, state = step(last, i, state)
        best = jnp.argmax(log_probs, axis=-1).astype(jnp.int32)
        gain = jnp.take_along_axis(log_probs, best[:, None], axis=-1)[:, 0]
        new = jnp.where(is_done, pad, best)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, new[:, None], i, axis=1)
        total = total + jnp.where(is_done, 0.0, gain)
        count = count + ~is_done
        is_done = is_done | (best == end) | (i + 1 >= limits)
        return i + 1, tokens, best, is_done, total, count, state

    carry = (
        jnp.int32(0),
        jnp.full((b, length), pad, jnp.int32),
        jnp.full((b,), begin, jnp.int32),
        limits <= 0,
        jnp.zeros(b, jnp.float32),
        jnp.zeros(b, jnp.int32),
        state,
    )
    _, tokens, _, _, total, count, _ = jax.lax.while_loop(is_going, body, carry)
    return Decoded(tokens, total / length_penalty(count, alpha))


class _Beams(NamedTuple):
    """Of each of b searches: k sequences that go on, and the k best that have ended.

    Attributes:
        position: () int32, how many tokens those that go on have.
        live: (b, k, length) int32.
        live_sums: (b, k) their log-probabilities; -inf for none.
        ended: (b, k, length) int32.
        ended_scores: (b, k), the best first; -inf for none.
        is_done: (b,) whether nothing better can come.
        state: of the step function, of b * k sequences.
    """

    position: Array
    live: Array
    live_sums: Array
    ended: Array
    ended_scores: Array
    is_done: Array
    state: Any


def beam_search(
    step: Step,
    state: Any,
    begin: int,
    end: int,
    limits: Array,
    length: int,
    beams: int,
    alpha: float = 0.6,
    pad: int = 0,
) -> Decoded:
    """Follows the k likeliest beginnings at once.

    At each position the 2 k likeliest continuations are looked at: those that end join the k best
    that have ended, by log-probability over `length_penalty`; the first k others go on. A search is
    over when k have ended and none that goes on, as if it were as long as the limit, is better than
    the worst of them; or at its limit. What was likelier before stays before in ties. What it
    answers is the best that has ended, or else the best that has not.

    Args:
        step: see `greedy`; it gets b * k sequences.
        state: of the first step, of b sequences.
        begin: see `greedy`, as for the other arguments.
        end: see there.
        limits: see there.
        length: see there.
        beams: how many k; 1 is greedy search but for when it ends.
        alpha: of `length_penalty`; 0 compares log-probabilities as they are.
        pad: see there.
    """
    b = len(limits)

    def is_going(carry: _Beams) -> Array:
        return (carry.position < length) & ~carry.is_done.all()

    def body(carry: _Beams) -> _Beams:
        new = _advance(step, carry, begin, end, alpha, limits)
        kept = carry.is_done[:, None]

        def choose(old: Array, new: Array) -> Array:
            return jnp.where(kept if new.ndim == 2 else kept[..., None], old, new)

        return new._replace(
            live=choose(carry.live, new.live),
            live_sums=choose(carry.live_sums, new.live_sums),
            ended=choose(carry.ended, new.ended),
            ended_scores=choose(carry.ended_scores, new.ended_scores),
            is_done=carry.is_done | new.is_done,
        )

    nothing = jnp.full((b, beams, length), pad, jnp.int32)
    worst = jnp.full((b, beams), -jnp.inf)
    first = _Beams(
        position=jnp.int32(0),
        live=nothing,
        live_sums=worst.at[:, 0].set(0.0),
        ended=nothing,
        ended_scores=worst,
        is_done=limits <= 0,
        state=jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), state),
    )
    last = jax.lax.while_loop(is_going, body, first)
    has_ended = jnp.isfinite(last.ended_scores[:, 0])
    scores = last.live_sums[:, 0] / length_penalty(limits, alpha)
    return Decoded(
        jnp.where(has_ended[:, None], last.ended[:, 0], last.live[:, 0]),
        jnp.where(has_ended, last.ended_scores[:, 0], scores),
    )


def _advance(
    step: Step, carry: _Beams, begin: int, end: int, alpha: float, limits: Array
) -> _Beams:
    """Adds a token to each sequence that goes on; see `beam_search`."""
    i = carry.position
    b, k, _ = carry.live.shape
    before = jax.lax.dynamic_index_in_dim(carry.live, jnp.maximum(i - 1, 0), 2, keepdims=False)
    tokens = jnp.where(i == 0, begin, before).reshape(b * k)
    log_probs, state = step(tokens, i, carry.state)
    sums = carry.live_sums[..., None] + log_probs.reshape(b, k, -1)
    v = sums.shape[-1]
    found, place = jax.lax.top_k(sums.reshape(b, k * v), min(2 * k, k * v))
    origin, token = place // v, (place % v).astype(jnp.int32)
    longer = _rows(carry.live, origin)
    longer = jax.lax.dynamic_update_slice_in_dim(longer, token[..., None], i, axis=2)
    is_end = token == end

    scores = jnp.where(is_end, found / length_penalty(i + 1, alpha), -jnp.inf)
    scores = jnp.concatenate([carry.ended_scores, scores], axis=1)
    ended_scores, best = jax.lax.top_k(scores, k)
    ended = _rows(jnp.concatenate([carry.ended, longer], axis=1), best)

    live_sums, going = jax.lax.top_k(jnp.where(is_end, -jnp.inf, found), k)
    origin = jnp.take_along_axis(origin, going, axis=1)
    rows = (jnp.arange(b)[:, None] * k + origin).reshape(-1)
    hope = live_sums[:, 0] / length_penalty(limits, alpha)
    return _Beams(
        position=i + 1,
        live=_rows(longer, going),
        live_sums=live_sums,
        ended=ended,
        ended_scores=ended_scores,
        is_done=(hope < ended_scores[:, -1]) | (i + 1 >= limits),
        state=jax.tree.map(lambda leaf: leaf[rows], state),
    )


def _rows(x: Array, index: Array) -> Array:
    """Rows (b, j, n) of x (b, k, n) by index (b, j)."""
    return jnp.take_along_axis(x, index[..., None], axis=1)
