"""Greedy and beam search, over a table of probabilities and over a Transformer."""

import itertools
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_transformer import FORMS, GOLDEN, tiny, weights
from vit_jax import decoding, translation

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


# Of a Transformer.


def strip(row):
    """What a sequence says, up to its end."""
    row = [int(token) for token in row]
    return row[: row.index(2) + 1] if 2 in row else [token for token in row if token]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def transformer(golden):
    model = tiny(**FORMS["pre_final"], tied=False)
    return model, jax.device_put(weights(golden, model))


@pytest.mark.parametrize("beams", [1, 4])
def test_a_transformer_decodes_what_the_golden_file_has(golden, transformer, beams):
    model, variables = transformer
    expected = json.loads(str(golden["decoded"]))
    length = expected["max_len"]

    @jax.jit
    def search(source):
        memory = model.apply(variables, source, method="encode")
        cache = model.apply(variables, memory, source, length, method="start")

        def step(tokens, position, cache):
            logits, cache = model.apply(variables, tokens, position, cache, method="decode_step")
            return jax.nn.log_softmax(3 * logits), cache

        given = (step, cache, 1, 2, jnp.full(len(source), length), length)
        return decoding.beam_search(*given, beams) if beams > 1 else decoding.greedy(*given)

    found = search(golden["src"])
    name = "greedy" if beams == 1 else "beam4_alpha06"
    assert [strip(row) for row in found.tokens] == expected[name]
    if beams > 1:
        np.testing.assert_allclose(found.scores, expected["beam_scores"], atol=3e-5)


@pytest.fixture(scope="module")
def sources():
    random = np.random.default_rng(0)
    rows = np.zeros((4, 9), np.int32)
    for row, length in zip(rows, (9, 2, 5, 7)):
        row[:length] = [*random.integers(3, 23, length - 1), 2]
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_a_translation_does_not_depend_on_its_batch(transformer, sources, beams):
    model, variables = transformer
    search = translation.Search(beams, 0.6, extra_length=6)
    find = jax.jit(lambda source: translation.translate(model, variables, source, search))
    found = find(sources)
    wider = find(np.pad(sources, ((0, 0), (0, 4))))
    for i, row in enumerate(sources[:2]):
        alone = find(row[None, : np.count_nonzero(row)])
        assert strip(found.tokens[i]) == strip(alone.tokens[0]) == strip(wider.tokens[i])
        np.testing.assert_allclose(alone.scores[0], found.scores[i], atol=1e-5)
    empty = find(np.zeros_like(sources))
    assert not empty.tokens.any()
    assert np.isfinite(empty.scores).all()


def test_greedy_search_with_a_cache_is_that_without(transformer, sources):
    model, variables = transformer
    search = translation.Search(extra_length=6)
    found = jax.jit(lambda x: translation.translate(model, variables, x, search))(sources)
    length = sources.shape[1] + 6
    decode = jax.jit(lambda target: model.apply(variables, sources, target).argmax(-1))
    target = np.zeros((len(sources), length + 1), np.int32)
    target[:, 0] = 1
    for i in range(length):  # what comes after is not seen
        target[:, i + 1] = np.asarray(decode(target))[:, i]
    for row, uncached, source in zip(found.tokens, target[:, 1:], sources):
        assert strip(row) == strip(uncached[: np.count_nonzero(source) + 6])
