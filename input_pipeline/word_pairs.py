"""What BERT is trained on: pairs of segments of texts, with words that are masked.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding" (NAACL 2019), appendix A, and the published script that makes its data. Deviations:
that one draws the masks once, and whether a pair is short once for each document; here masks are
drawn anew in every epoch, and every tenth pair is short.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

SPECIALS = 3  # [CLS] at the begin, and [SEP] after either segment
NOT_MASKED = -1
_SHORT = 0.1  # share of pairs that are shorter than there is room for
_MASKED = 0.15  # share of the tokens that are to be told
_REPLACED = 0.8  # of them, by [MASK]
_KEPT = 0.1
_TRIES = 10  # to find another document


@dataclasses.dataclass(frozen=True)
class Ids:
    """Tokens that mean something of their own, and how many tokens there are."""

    pad: int
    cls: int
    sep: int
    mask: int
    vocabulary_size: int


def count_masked(length: int) -> int:
    """The most tokens of a text of that many that are masked: 20 of 128, as published."""
    return max(1, int(np.ceil(_MASKED * length)))


def choose_pairs(
    documents: Sequence[np.ndarray], length: int, passes: int, seed: int
) -> np.ndarray:
    """Chooses pairs of segments of documents; in half of them the second follows the first.

    A segment is one or more sentences of a document in a row. In the other half, the second is of
    another document, if there is one, and what would have followed is left for the next pair.

    Args:
        documents: the numbers of tokens of the sentences of each, none of them 0.
        length: of a pair in tokens, with the special ones.
        passes: how often the documents are gone through, with other segments each time.
        seed: of all that is drawn.

    Returns:
        (pairs, 5) int64: begin and end of the first and of the second segment, as places in all
        tokens of all documents in a row, and 1 if the second does not follow the first, else 0.

    Raises:
        ValueError: if the length leaves no room for two segments.
    """
    if length < SPECIALS + 2:
        raise ValueError(f"texts of {length} tokens have no room for two segments and 3 more")
    counts = np.concatenate([*documents, np.zeros(0, np.int64)]).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])  # of the sentences, in tokens
    firsts = np.concatenate([[0], np.cumsum([len(each) for each in documents])]).astype(np.int64)
    random = np.random.default_rng(seed)
    room = length - SPECIALS
    rows = [
        pair
        for _ in range(passes)
        for document in range(len(documents))
        for pair in _pairs_of(document, starts, firsts, room, random)
    ]
    return np.array(rows, np.int64).reshape(-1, 5)


def _pairs_of(
    document: int, starts: np.ndarray, firsts: np.ndarray, room: int, random: np.random.Generator
) -> Iterator[tuple[int, int, int, int, int]]:
    """Yields the pairs that begin with a segment of one document.

    Args:
        document: its number.
        starts: of all sentences, in tokens, and the end of the last.
        firsts: the number of the first sentence of each document, and that of all sentences.
        room: for both segments, in tokens.
        random: draws.
    """
    begin, end = firsts[document : document + 2]
    while begin < end:
        wanted = int(random.integers(2, room + 1)) if random.random() < _SHORT else room
        last = _fill(starts, begin, end, wanted)
        middle = begin + (random.integers(1, last - begin) if last - begin > 1 else 1)
        first = (starts[begin], starts[middle])
        is_random = last - begin == 1 or random.random() < 0.5
        if is_random:
            other = _another(document, len(firsts) - 1, random)
            at = random.integers(firsts[other], firsts[other + 1])
            left = max(wanted - (first[1] - first[0]), 1)
            second = (starts[at], starts[_fill(starts, at, firsts[other + 1], left)])
            begin = middle
        else:
            second = (starts[middle], starts[last])
            begin = last
        first, second = _truncate(first, second, room, random)
        yield (*first, *second, int(is_random))


def _fill(starts: np.ndarray, begin: int, end: int, wanted: int) -> int:
    """The end of the fewest sentences from one on that have as many tokens as are wanted."""
    enough = int(np.searchsorted(starts, starts[begin] + wanted))
    return min(max(enough, begin + 1), end)


def _another(document: int, count: int, random: np.random.Generator) -> int:
    """Another document; the same if it is drawn too often, as where there is but one."""
    for _ in range(_TRIES):
        other = int(random.integers(count))
        if other != document:
            return other
    return document


def _truncate(
    first: tuple[int, int], second: tuple[int, int], room: int, random: np.random.Generator
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Takes tokens off the longer segment, at either end at random, until both have room."""
    sizes = [first[1] - first[0], second[1] - second[0]]
    excess = max(sum(sizes) - room, 0)
    # The longer one until they are alike, and then the second and the first in turn.
    longer = int(sizes[1] >= sizes[0])
    lost = [0, 0]
    lost[longer] = min(excess, abs(sizes[0] - sizes[1]))
    rest = excess - lost[longer]
    lost[1] += (rest + 1) // 2
    lost[0] += rest // 2
    found = []
    for (begin, end), count in zip((first, second), lost):
        at_begin = int(random.binomial(count, 0.5))
        found.append((begin + at_begin, end - (count - at_begin)))
    return found[0], found[1]


def pack(first: np.ndarray, second: np.ndarray, length: int, ids: Ids) -> dict[str, np.ndarray]:
    """Puts two segments together: [CLS] first [SEP] second [SEP] and padding.

    Args:
        first: (m,) tokens.
        second: (n,) tokens; m + n is at most length - 3.
        length: of the result.
        ids: of the special tokens.

    Returns:
        `tokens`; `segments`, 1 for the second and the [SEP] after it, else 0; and `mask`, 0 for
        padding, else 1; (length,) int32 each.
    """
    tokens = np.concatenate([[ids.cls], first, [ids.sep], second, [ids.sep]]).astype(np.int32)
    packed = np.full(length, ids.pad, np.int32)
    packed[: len(tokens)] = tokens
    places = np.arange(length)
    is_second = (places >= len(first) + 2) & (places < len(tokens))
    return {
        "tokens": packed,
        "segments": is_second.astype(np.int32),
        "mask": (places < len(tokens)).astype(np.int32),
    }


def mask_words(
    tokens: np.ndarray, mask: np.ndarray, ids: Ids, seed: Sequence[int]
) -> dict[str, np.ndarray]:
    """Hides words of a text, which are to be told.

    Of all tokens 15 % are chosen, though never [CLS] or [SEP], and at least one. Of these 80 %
    become [MASK], 10 % any token of the vocabulary, and 10 % stay.

    Args:
        tokens: (n,) int32.
        mask: (n,), 0 for padding.
        ids: of the special tokens.
        seed: of all that is drawn; integers from 0 on.

    Returns:
        `tokens` (n,) int32 with the words hidden; and of p = `count_masked(n)`: `positions` (p,)
        int32 of the chosen in ascending order, and `words` (p,) int32, what was there. Both are
        filled up, with 0 and with -1.
    """
    random = np.random.default_rng(list(seed))
    candidates = np.flatnonzero((mask > 0) & (tokens != ids.cls) & (tokens != ids.sep))
    most = count_masked(len(tokens))
    count = min(most, max(1, round(_MASKED * int((mask > 0).sum()))), len(candidates))
    chosen = np.sort(random.permutation(candidates)[:count])
    fate = random.random(count)
    others = random.integers(0, ids.vocabulary_size, count)
    old = tokens[chosen]
    hidden = tokens.copy()
    hidden[chosen] = np.where(
        fate < _REPLACED, ids.mask, np.where(fate < _REPLACED + _KEPT, old, others)
    )
    positions = np.zeros(most, np.int32)
    words = np.full(most, NOT_MASKED, np.int32)
    positions[:count], words[:count] = chosen, old
    return {"tokens": hidden, "positions": positions, "words": words}
