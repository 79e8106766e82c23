"""Pairs of rows of tokens, in batches of about equal length whose shapes are known before.

A bucket holds the pairs whose longer side fits into its length and not into that of the bucket
before. A batch is of one bucket, and all of it is padded to that length, so that a program is
compiled for each bucket and not for each length.

The order is a function of the seed and the epoch. In each epoch the pairs are shuffled and cut into
batches, bucket by bucket, from the shortest on; those that are too few for a batch move to the next
longer bucket. Those that are too few for one of the longest wait, and are the first of its first
batch in the next epoch. So every batch is full, every pair is there once per epoch, and where an
epoch begins can be counted without going through those before.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from input_pipeline.sources.base import BatchedSource, Shapes, Shard

Batch = dict[str, np.ndarray]

TRUTHS = ("source", "target_tokens")

# What random numbers are for.
_PAIRS, _BATCHES = 0, 1


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Rows of numbers of different lengths, one after the other: four bytes each.

    Attributes:
        numbers: (all,) int32.
        bounds: (rows + 1,) int64, where each row begins, and the last one ends.
    """

    numbers: np.ndarray
    bounds: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) int64."""
        return np.diff(self.bounds)

    def padded(self, rows: np.ndarray, length: int, pad: int) -> np.ndarray:
        """Some rows, each filled up; (rows, length) int32. None of them may be longer."""
        begins = self.bounds[rows]
        columns = np.arange(length)
        is_inside = columns < (self.bounds[rows + 1] - begins)[:, None]
        at = np.where(is_inside, begins[:, None] + columns, 0)
        return np.where(is_inside, self.numbers[at], pad).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which examples make which batch.

    Attributes:
        bucket: (examples,) of each, counted from the shortest.
        rows: of a batch of each bucket.
        seed: of the order.
    """

    bucket: np.ndarray
    rows: tuple[int, ...]
    seed: int

    def first_step(self, epoch: int) -> int:
        """The number of batches before an epoch."""
        return epoch * self._per_epoch // self.rows[-1]

    def epoch_of(self, step: int) -> int:
        """The epoch to which a batch belongs, all of them counted from 0."""
        return ((step + 1) * self.rows[-1] - 1) // self._per_epoch

    @property
    def steps_per_epoch(self) -> float:
        """Batches of an epoch, on average."""
        return self._per_epoch / self.rows[-1]

    @property
    def _per_epoch(self) -> int:
        """What an epoch has, in rows of the longest bucket if each of its batches were of that."""
        batches, moved = 0, 0
        for count, rows in zip(self._counts[:-1], self.rows):
            new, moved = divmod(count + moved, rows)
            batches += new
        return batches * self.rows[-1] + moved + self._counts[-1]

    @property
    def _counts(self) -> list[int]:
        return np.bincount(self.bucket, minlength=len(self.rows)).tolist()

    def batches(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """The batches of an epoch in their order: the bucket, and the numbers of the examples."""
        full, longest = self._divide(epoch)
        rows = self.rows[-1]
        # Those that wait from the epochs before; more than one where there are few examples.
        waiting = epoch * len(longest) % rows
        before: list[np.ndarray] = []
        for earlier in range(epoch - 1, -1, -1):
            if not waiting:
                break
            before.insert(0, self._divide(earlier)[1][-waiting:])
            waiting -= len(before[0])
        longest = np.concatenate([*before, longest])
        full += [(len(self.rows) - 1, batch) for batch in _cut(longest, rows)[0]]
        order = self._random(epoch, _BATCHES).permutation(len(full))
        return [full[i] for i in order]

    def _divide(self, epoch: int) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
        """The batches of all buckets but the longest, and the examples that it gets."""
        order = self._random(epoch, _PAIRS).permutation(len(self.bucket))
        its_bucket = self.bucket[order]
        batches: list[tuple[int, np.ndarray]] = []
        moved = order[:0]
        for i, rows in enumerate(self.rows):
            moved = np.concatenate([moved, order[its_bucket == i]])
            if i + 1 < len(self.rows):
                full, moved = _cut(moved, rows)
                batches += [(i, batch) for batch in full]
        return batches, moved

    def _random(self, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed % 2**32, epoch, purpose])


def _cut(numbers: np.ndarray, rows: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Pieces of so many numbers, and what is left."""
    whole = len(numbers) // rows * rows
    return list(numbers[:whole].reshape(-1, rows)), numbers[whole:]


@dataclasses.dataclass(frozen=True)
class BucketedPairs(BatchedSource):
    """A split of pairs of sentences, as tokens.

    Attributes:
        source: rows of tokens that end with the end.
        target: rows of tokens that begin with the begin and end with the end.
        lengths: of the buckets, increasing; no row is longer than the last.
        batch_tokens: tokens of a batch on either side, padding counted, of which `batch_size` is
            the unit that rows are counted in; 0 for `batch_size` rows.
        pad: what fills up the rows.
        sentences: the texts, source and target, where they are kept: of splits to evaluate.
    """

    source: Ragged
    target: Ragged
    lengths: tuple[int, ...]
    batch_tokens: int = 0
    pad: int = 0
    sentences: tuple[tuple[str, str], ...] = ()

    truths = TRUTHS

    @property
    def num_examples(self) -> int:
        """Number of pairs."""
        return len(self.source.lengths)

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' texts, where they are kept."""
        return tuple(source for source, _ in self.sentences)

    @functools.cached_property  # of gigabytes it takes seconds
    def digest(self) -> str:
        """16 digits of a hash of the tokens."""
        data = hashlib.sha256()
        for side in (self.source, self.target):
            data.update(side.numbers.astype("<i4").tobytes())
            data.update(side.bounds.astype("<i8").tobytes())
        return data.hexdigest()[:16]

    @property
    def example(self) -> Shapes:
        """Shapes and types of an example in the longest bucket."""
        return {key: ((self.lengths[-1],), np.dtype(np.int32)) for key in self.truths}

    def steps_per_epoch(self, batch_size: int) -> float:
        """See `BatchedSource`."""
        return self._schedule(0, batch_size).steps_per_epoch

    def train_batches(
        self, seed: int, start_step: int, shard: Shard, batch_size: int
    ) -> Iterator[Batch]:
        """See `BatchedSource`."""
        schedule = self._schedule(seed, batch_size)
        epoch = schedule.epoch_of(start_step)
        begin = start_step - schedule.first_step(epoch)
        while True:
            for bucket, rows in schedule.batches(epoch)[begin:]:
                own = rows.reshape(shard.count, -1)[shard.index]
                yield self._batch(own, self.lengths[bucket])
            epoch, begin = epoch + 1, 0

    def eval_batches(
        self, shard: Shard, batch_size: int, rows: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        """See `BatchedSource`."""
        wanted = np.arange(self.num_examples) if rows is None else np.asarray(rows, np.int64)
        its_bucket = self._buckets()[wanted]
        for bucket, length in enumerate(self.lengths):
            inside = wanted[its_bucket == bucket]
            size = self._rows(batch_size)[bucket]
            for i in range(0, len(inside), size):
                own = inside[i : i + size][shard.index :: shard.count]
                yield self._padded(own, length, size // shard.count)

    def _batch(self, rows: np.ndarray, length: int) -> Batch:
        sides = (self.source, self.target)
        return {k: side.padded(rows, length, self.pad) for k, side in zip(self.truths, sides)}

    def _padded(self, rows: np.ndarray, length: int, size: int) -> Batch:
        """A batch of fewer rows, with `_mask` and `index`."""
        missing = size - len(rows)
        batch = self._batch(rows, length)
        filled: dict[str, Any] = {
            key: np.pad(array, ((0, missing), (0, 0)), constant_values=self.pad)
            for key, array in batch.items()
        }
        mask = np.pad(np.ones(len(rows), np.float32), (0, missing))
        return {**filled, "index": np.pad(rows, (0, missing)).astype(np.int32), "_mask": mask}

    def _schedule(self, seed: int, batch_size: int) -> Schedule:
        return Schedule(self._buckets(), self._rows(batch_size), seed)

    def _buckets(self) -> np.ndarray:
        """(pairs,) the bucket of each."""
        return np.searchsorted(self.lengths, longer_side(self.source, self.target))

    def _rows(self, batch_size: int) -> tuple[int, ...]:
        """Rows of a batch of each bucket, over all processes."""
        return tuple(
            max(1, self.batch_tokens // (length * batch_size)) * batch_size
            for length in self.lengths
        )


def longer_side(source: Ragged, target: Ragged) -> np.ndarray:
    """(pairs,) the lengths of the longer of two rows."""
    return np.maximum(source.lengths, target.lengths)


def choose_lengths(needed: np.ndarray, most: int) -> tuple[int, ...]:
    """Lengths of buckets for rows of such lengths.

    They are multiples of 8 near the quantiles of 1/4, 1/2, 3/4 and 0.95, and the longest row's, of
    which few are different where rows are short.

    Args:
        needed: (rows,) lengths, none above `most`.
        most: that a bucket may have.
    """
    found = np.quantile(needed, (0.25, 0.5, 0.75, 0.95, 1.0), method="higher")
    return tuple(sorted({min(-(-int(length) // 8) * 8, most) for length in found}))
