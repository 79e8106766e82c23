import collections

import numpy as np
import pytest

from input_pipeline import word_pairs
from input_pipeline.word_pairs import Ids

IDS = Ids(pad=0, cls=101, sep=102, mask=103, vocabulary_size=1000)


def documents(count=60, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(1, 12, random.integers(1, 15)) for _ in range(count)]


def places(documents):
    """The document, and the sentence, of each token of all documents in a row."""
    of = [(i, j) for i, doc in enumerate(documents) for j, n in enumerate(doc) for _ in range(n)]
    return np.array(of)


def test_pairs_are_segments_of_documents_and_half_of_them_follow():
    docs, length = documents(), 32
    pairs = word_pairs.choose_pairs(docs, length, 20, seed=1)
    of = places(docs)
    sizes = []
    for a, b, c, d, is_random in pairs:
        assert a < b
        assert c < d
        assert (b - a) + (d - c) <= length - 3
        first, second = of[a:b], of[c:d]
        assert len(set(first[:, 0])) == len(set(second[:, 0])) == 1
        if is_random:
            assert first[0, 0] != second[0, 0]
        else:
            assert first[0, 0] == second[0, 0]
            assert second[0, 1] == first[-1, 1] + 1 or b - a + d - c == length - 3
        sizes.append((b - a) + (d - c))
    several = [len(doc) > 6 for doc in docs]
    of_long = pairs[np.array(several)[of[pairs[:, 0], 0]]]
    assert 0.45 < of_long[:, 4].mean() < 0.65  # what is left of a document is followed by another
    assert np.mean(np.array(sizes) == length - 3) > 0.3
    np.testing.assert_array_equal(pairs, word_pairs.choose_pairs(docs, length, 20, seed=1))
    assert not np.array_equal(pairs[:50], word_pairs.choose_pairs(docs, length, 20, seed=2)[:50])
    first_pass = word_pairs.choose_pairs(docs, length, 1, seed=1)
    np.testing.assert_array_equal(pairs[: len(first_pass)], first_pass)


def test_nothing_is_lost_where_nothing_is_short_or_cut(monkeypatch):
    """Every token begins in some pair as what was not drawn from elsewhere."""
    monkeypatch.setattr(word_pairs, "_SHORT", 0.0)
    docs = [np.full(9, 2) for _ in range(8)]
    pairs = word_pairs.choose_pairs(docs, 15, 1, seed=3)
    counts = collections.Counter()
    for a, b, c, d, is_random in pairs:
        counts.update(range(a, b))
        counts.update(() if is_random else range(c, d))
    assert counts == dict.fromkeys(range(8 * 9 * 2), 1)


def test_one_in_ten_is_short():
    docs = [np.ones(4000, np.int64) for _ in range(8)]
    pairs = word_pairs.choose_pairs(docs, 43, 1, seed=0)
    follow = pairs[pairs[:, 4] == 0]
    sizes = follow[:, 3] - follow[:, 2] + follow[:, 1] - follow[:, 0]
    assert sizes.max() == 40
    assert 0.06 < np.mean(sizes < 40) < 0.14


def test_one_document_pairs_with_itself():
    pairs = word_pairs.choose_pairs([np.array([3, 4, 5])], 20, 3, seed=0)
    assert len(pairs)
    assert pairs[:, :4].max() <= 12
    assert word_pairs.choose_pairs([], 20, 3, seed=0).shape == (0, 5)
    with pytest.raises(ValueError, match="texts of 4 tokens have no room for two segments"):
        word_pairs.choose_pairs([np.array([3])], 4, 1, seed=0)


@pytest.mark.parametrize(
    ("sizes", "room", "expected"),
    [
        ((10, 3), 8, (5, 3)),  # off the longer alone
        ((3, 10), 8, (3, 5)),
        ((10, 3), 5, (3, 2)),  # alike, and then the second first
        ((6, 6), 11, (6, 5)),
        ((6, 6), 10, (5, 5)),
        ((2, 2), 8, (2, 2)),
        ((500, 1), 2, (1, 1)),
    ],
)
def test_the_longer_segment_is_cut_at_either_end(sizes, room, expected):
    random = np.random.default_rng(0)
    begins = set()
    for _ in range(30):
        first, second = word_pairs._truncate((0, sizes[0]), (600, 600 + sizes[1]), room, random)
        assert (first[1] - first[0], second[1] - second[0]) == expected
        assert min(first[0], second[0] - 600) >= 0
        assert first[1] <= sizes[0]
        assert second[1] <= 600 + sizes[1]
        begins.add(first[0])
        slow = _cut_slowly(list(range(sizes[0])), list(range(sizes[1])), room)
        assert tuple(map(len, slow)) == expected
    assert (len(begins) > 1) == (expected[0] < sizes[0])


def _cut_slowly(a, b, room):
    """As the published code does, token by token."""
    while len(a) + len(b) > room:
        (a if len(a) > len(b) else b).pop()
    return a, b


def test_packing():
    packed = word_pairs.pack(np.array([7, 8]), np.array([9]), 8, IDS)
    np.testing.assert_array_equal(packed["tokens"], [101, 7, 8, 102, 9, 102, 0, 0])
    np.testing.assert_array_equal(packed["segments"], [0, 0, 0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(packed["mask"], [1, 1, 1, 1, 1, 1, 0, 0])
    assert {array.dtype for array in packed.values()} == {np.dtype(np.int32)}


def test_masking():
    tokens = np.array([101, *range(200, 300), 102, *range(300, 318), 102, *[0] * 7], np.int32)
    assert len(tokens) == 128
    mask = (tokens > 0).astype(np.int32)
    fates, where = collections.Counter(), collections.Counter()
    for seed in range(400):
        made = word_pairs.mask_words(tokens, mask, IDS, (seed, 5))
        positions, words, hidden = made["positions"], made["words"], made["tokens"]
        assert positions.shape == words.shape == (20,)
        assert (np.count_nonzero(words >= 0)) == 18  # 15 % of 121 is 18.15
        assert (words[18:] == -1).all()
        assert (positions[18:] == 0).all()
        positions, words = positions[:18], words[:18]
        assert (np.diff(positions) > 0).all()
        np.testing.assert_array_equal(words, tokens[positions])
        assert not {101, 102, 0} & set(words)
        where.update(positions.tolist())
        others = np.setdiff1d(np.arange(128), positions)
        np.testing.assert_array_equal(hidden[others], tokens[others])
        now = hidden[positions]
        fates["mask"] += (now == IDS.mask).sum()
        fates["kept"] += (now == words).sum()
        fates["other"] += ((now != words) & (now != IDS.mask)).sum()
    total = 400 * 18
    shares = {fate: count / total for fate, count in fates.items()}
    # Their deviations are .005 and .0035.
    assert abs(shares["mask"] - 0.8) < 0.02
    assert abs(shares["kept"] - 0.1) < 0.015
    assert abs(shares["other"] - 0.1) < 0.015
    assert len(where) == 118  # each of the words in turn
    assert max(where.values()) < 100
    again = word_pairs.mask_words(tokens, mask, IDS, (0, 5))
    np.testing.assert_array_equal(
        again["tokens"], word_pairs.mask_words(tokens, mask, IDS, (0, 5))["tokens"]
    )


def test_how_many_are_masked():
    assert [word_pairs.count_masked(n) for n in (128, 512, 5)] == [20, 77, 1]
    for count, expected in ((3, 1), (10, 2), (17, 3), (128, 19)):  # 10 % 2: round half to even
        tokens = np.arange(200, 328, dtype=np.int32)
        made = word_pairs.mask_words(tokens, np.arange(128) < count, IDS, (0,))
        assert (made["words"] >= 0).sum() == expected
