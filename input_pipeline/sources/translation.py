"""Sentences and their translations, as tokens, for an encoder and a decoder.

They are the lines of a table or of two files, a data set of TFDS, or a toy; see `translation_files`
and `input_pipeline.toys`. What the data has no split for is split off by the sources' sentences, so
that one that is there twice is in one split. All are in memory, as numbers: four bytes a token.
"""

import array
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from input_pipeline import toys
from input_pipeline.sources import buckets, splitting, translation_files
from input_pipeline.sources.buckets import BucketedPairs, Ragged
from input_pipeline.toys import Pair

_TFDS = "tfds:"

_LOG = logging.getLogger(__name__)


class Tokenizer(Protocol):
    """What makes numbers of sentences, such as `bpe` of `input_pipeline.tokenizers`."""

    @property
    def spec(self) -> str: ...

    @property
    def length(self) -> int: ...

    @property
    def pad(self) -> int: ...

    @property
    def begin(self) -> int | None: ...

    @property
    def end(self) -> int | None: ...

    def pieces(self, text: str) -> list[int]:
        """The numbers of a text, without special ones."""


def splits(config: Any, tokenizer: Tokenizer) -> dict[str, BucketedPairs]:
    """Makes the sources of a file, a folder, a data set of TFDS or a toy.

    Args:
        config: `config.data`; of it `source`, `test_source`, `val_fraction`, `split_seed`, `tfds`
            and `translation`.
        tokenizer: of the model. Its length is the most that a side of a pair has.

    Returns:
        Sources by split name, whose examples are `source` (m,) int32, tokens and the end, and
        `target_tokens` (m,) int32, the begin, tokens and the end, both filled up to the length of
        the pair's bucket.

    Raises:
        ValueError: if there are no sentences, or they cannot be read.
    """
    limit = _check(config.translation, tokenizer)
    found = _find(config, config.source) if config.source else {}
    parts: Mapping[str, Sequence[Pair]] = {}
    if found:
        parts = splitting.split_off_scenes(found, lambda pair: pair[0], config, "sentence")
    if config.test_source:
        test = splitting.get_test(_find(config, config.test_source), config.test_source)
        parts = {**parts, "test": test}
    made = {split: _make_rows(split, pairs, tokenizer, limit) for split, pairs in parts.items()}
    lengths = _choose_lengths(config.translation.buckets, made, limit)
    tokens = config.translation.batch_tokens
    return {
        split: BucketedPairs(
            rows.source, rows.target, lengths[split], tokens, tokenizer.pad, rows.sentences
        )
        for split, rows in made.items()
    }


def _check(settings: Any, tokenizer: Tokenizer) -> int:
    """The most tokens of a side; a ValueError for settings that do not fit."""
    if tokenizer.begin is None or tokenizer.end is None:
        raise ValueError(
            f"the tokenizer {tokenizer.spec} has nothing to begin and end a sentence with, which a "
            "translation needs: take bpe(128), or words(32)"
        )
    lengths = tuple(settings.buckets)
    is_increasing = all(a < b for a, b in itertools.pairwise(lengths))
    is_whole = all(isinstance(length, int) for length in lengths)
    if lengths and not (is_whole and is_increasing and lengths[0] >= 3):
        raise ValueError(
            f"data.translation.buckets must be increasing lengths of at least 3, not {lengths}"
        )
    if lengths and lengths[-1] > tokenizer.length:
        raise ValueError(
            f"data.translation.buckets has {lengths[-1]}, and no text has more tokens than "
            f"{tokenizer.length}, by {tokenizer.spec}: set model.tokenizer to one of that length"
        )
    if settings.batch_tokens < 0:
        raise ValueError(
            f"data.translation.batch_tokens must be at least 0, not {settings.batch_tokens}"
        )
    return lengths[-1] if lengths else tokenizer.length


def _find(config: Any, source: str) -> Mapping[str, Sequence[Pair]]:
    """Pairs by split; "all" if there are no splits."""
    translation = config.translation
    if source.startswith(toys.PREFIX):
        name = source.removeprefix(toys.PREFIX)
        return toys.make(name, translation.examples, config.split_seed)
    languages = (translation.source_language, translation.target_language)
    if any(languages) and languages[0].lower() == languages[1].lower():
        raise ValueError(
            f"data.translation.source_language and target_language are both {languages[0]!r}"
        )
    if source.startswith(_TFDS):
        from input_pipeline.sources import translation_tfds  # takes seconds to import

        return translation_tfds.read(config, source, languages)
    return translation_files.read(source, languages)


class _Rows(NamedTuple):
    """Tokens of the pairs of a split, see `BucketedPairs`."""

    source: Ragged
    target: Ragged
    sentences: tuple[Pair, ...]


def _make_rows(split: str, pairs: Sequence[Pair], tokenizer: Tokenizer, limit: int) -> _Rows:
    """Makes tokens of pairs.

    What has more than `limit` tokens is left out of what is trained on, and cut in what is
    evaluated, of which the texts are kept besides.

    Raises:
        ValueError: if no pair remains.
    """
    is_trained = split == "train"
    first, last = [tokenizer.begin], [tokenizer.end]
    sides = (_Builder(), _Builder())
    kept: list[Pair] = []
    long: list[Pair] = []
    silent: list[Pair] = []
    for pair in pairs:
        source, target = map(tokenizer.pieces, pair)
        is_long = len(source) > limit - 1 or len(target) > limit - 2
        if not (source and target):
            silent.append(pair)
        elif is_long:
            long.append(pair)
        if not (source and target) or (is_long and is_trained):
            continue
        sides[0].add([*source[: limit - 1], *last])
        sides[1].add([*first, *target[: limit - 2], *last])
        if not is_trained:
            kept.append(pair)
    if long:
        what = "left out" if is_trained else "cut"
        _LOG.warning("%s: %d of %d pairs have more than %d tokens and are %s, such as %r",
                     split, len(long), len(pairs), limit, what, long[0][0][:80])  # fmt: skip
    if silent:
        _LOG.warning("%s: %d of %d pairs have a side that has no tokens and are left out, such as "
                     "%r", split, len(silent), len(pairs), silent[0])  # fmt: skip
    source_rows, target_rows = (side.rows() for side in sides)
    if not len(source_rows.lengths):
        raise ValueError(
            f"{split}: there is no pair of sentences of at most {limit} tokens on either side: set "
            "model.tokenizer, or data.translation.buckets, to longer ones"
        )
    _LOG.info("%s: %s pairs of %s and %s tokens", split, *(
        f"{n:,}" for n in (len(source_rows.lengths), len(source_rows.numbers),
                           len(target_rows.numbers))))  # fmt: skip
    return _Rows(source_rows, target_rows, tuple(kept))


class _Builder:
    """Collects rows; lists of Python's would take ten times the memory."""

    def __init__(self) -> None:
        self._numbers = array.array("i")
        self._bounds = array.array("q", [0])

    def add(self, row: Sequence[int | None]) -> None:
        """Adds a row."""
        self._numbers.extend(row)  # type: ignore[arg-type]  # none is None, see `_check`
        self._bounds.append(len(self._numbers))

    def rows(self) -> Ragged:
        """All of them."""
        return Ragged(np.frombuffer(self._numbers, np.int32), np.frombuffer(self._bounds, np.int64))


def _choose_lengths(
    wanted: Sequence[int], made: Mapping[str, _Rows], limit: int
) -> dict[str, tuple[int, ...]]:
    """Lengths of the buckets by split: those of the training, and a longer one if need be."""
    if wanted:
        return dict.fromkeys(made, tuple(wanted))
    needed = {split: buckets.longer_side(rows.source, rows.target) for split, rows in made.items()}
    lengths = {split: buckets.choose_lengths(sizes, limit) for split, sizes in needed.items()}
    common = lengths.get("train")
    if common is None:
        return lengths
    return {
        split: common if own[-1] <= common[-1] else (*common, own[-1])
        for split, own in lengths.items()
    }
