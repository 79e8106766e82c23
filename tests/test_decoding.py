"""Greedy and beam search, over a table of probabilities and over a Transformer."""

import itertools
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import decoding

TABLE = np.load(Path(__file__).parent / "golden" / "beam_table.npz")
CONFIG = json.loads(str(TABLE["config"]))
LIMIT = CONFIG["max_len"]


def log_probs_after(prefix):
    """The recipe of the golden file."""
    seed = zlib.crc32(repr(tuple(prefix)).encode()) ^ CONFIG["seed_xor"]
    logits = np.random.RandomState(seed).standard_normal(CONFIG["vocab"]) * 1.5
    logits[0] -= 3
    return logits - np.log(np.exp(logits).sum())


def make_table():
    """All prefixes as numbers in base V: the table is (positions, V ** LIMIT, V)."""
    v = CONFIG["vocab"]
    table = np.zeros((LIMIT, v ** (LIMIT - 1), v))
    for i in range(LIMIT):
        for place, rest in enumerate(itertools.product(range(v), repeat=i)):
            if CONFIG["eos"] not in rest:
                table[i, place] = log_probs_after((CONFIG["bos"], *rest))
    return jnp.asarray(table, jnp.float32)


@pytest.fixture(scope="module")
def step():
    table = make_table()

    def step(tokens, position, state):
        state = jnp.where(position == 0, 0, state * CONFIG["vocab"] + tokens)
        return table[position, state % table.shape[1]], state

    return step


def test_the_recipe_is_that_of_the_golden_file():
    tables = json.loads(str(TABLE["first_tables"]))
    for prefix, expected in tables.items():
        np.testing.assert_allclose(log_probs_after(map(int, prefix.split())), expected, atol=1e-6)


def test_length_penalty():
    np.testing.assert_allclose(decoding.length_penalty(1, 0.6), 1)
    np.testing.assert_allclose(decoding.length_penalty(13, 0.5), 3**0.5, rtol=1e-6)


@pytest.mark.parametrize("beams", ["1", "2", "4", "64"])
def test_beam_search_finds_what_the_golden_file_has(step, beams):
    expected = json.loads(str(TABLE["beams"]))[beams]
    state = jnp.zeros(2, jnp.int32)
    limits = jnp.full(2, LIMIT)
    found = decoding.beam_search(
        step, state, CONFIG["bos"], CONFIG["eos"], limits, LIMIT, int(beams), CONFIG["alpha"]
    )
    tokens = expected["tokens"] + [0] * (LIMIT - len(expected["tokens"]))
    np.testing.assert_array_equal(found.tokens, [tokens, tokens])
    np.testing.assert_allclose(found.scores, expected["score"], atol=1e-6)


def test_the_widest_search_finds_the_best_of_all(step):
    best = json.loads(str(TABLE["exhaustive"]))
    found = decoding.beam_search(
        step, jnp.zeros(1, jnp.int32), CONFIG["bos"], CONFIG["eos"], jnp.array([LIMIT]), LIMIT, 64
    )
    assert found.tokens[0].tolist()[: len(best["tokens"])] == best["tokens"]
    np.testing.assert_allclose(found.scores[0], best["score"], atol=1e-6)


def test_greedy_search_takes_the_likeliest(step):
    prefix, total = [CONFIG["bos"]], 0.0
    while len(prefix) <= LIMIT and prefix[-1] != CONFIG["eos"]:
        log_probs = log_probs_after(prefix)
        prefix.append(int(log_probs.argmax()))
        total += log_probs.max()
    found = decoding.greedy(
        step, jnp.zeros(1, jnp.int32), CONFIG["bos"], CONFIG["eos"], jnp.array([LIMIT]), LIMIT
    )
    np.testing.assert_array_equal(found.tokens[0], prefix[1:] + [0] * (LIMIT + 1 - len(prefix)))
    np.testing.assert_allclose(found.scores[0], total, rtol=1e-6)


@pytest.mark.parametrize("beams", [0, 3])
def test_each_sequence_has_a_limit_of_its_own(step, beams):
    limits = np.array([0, 1, 2, 4])

    @jax.jit
    def search(limits):
        fixed = (CONFIG["bos"], CONFIG["eos"], limits, LIMIT)
        state = jnp.zeros(4, jnp.int32)
        if beams:
            return decoding.beam_search(step, state, *fixed, beams, pad=9)
        return decoding.greedy(step, state, *fixed, pad=9)

    found = search(limits)
    assert ((found.tokens != 9).sum(axis=1) <= limits).all()
    for row, limit in enumerate(limits):
        alone = search(np.full(4, limit))
        np.testing.assert_array_equal(found.tokens[row], alone.tokens[row])
        np.testing.assert_array_equal(found.scores[row], alone.scores[row])
