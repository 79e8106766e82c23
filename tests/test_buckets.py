"""Batches of about equal length: each pair once per epoch, whatever step a run begins at."""

import collections
import itertools

import numpy as np
import pytest

from input_pipeline.sources.base import Shard
from input_pipeline.sources.buckets import BucketedPairs, Ragged, Schedule, choose_lengths

LENGTHS = (4, 8, 16)


def ragged(rows):
    bounds = np.cumsum([0, *map(len, rows)])
    return Ragged(np.array([i for row in rows for i in row], np.int32), bounds.astype(np.int64))


def make_pairs(count=103, seed=0, lengths=LENGTHS, **fields):
    """Rows of 3 to 16 numbers; the first two of a source tell its own number."""
    random = np.random.default_rng(seed)
    sources, targets = [], []
    for i in range(count):
        m, n = random.integers(3, 17, 2) if i % 3 else random.integers(3, 6, 2)
        sources.append([1 + i // 100, 1 + i % 100, *range(1, m - 1)])
        targets.append([1, *range(5, 3 + n), 2])
    return BucketedPairs(ragged(sources), ragged(targets), lengths, **fields)


def numbers(batch):
    return [(a - 1) * 100 + b - 1 for a, b in batch["source"][:, :2].tolist()]


def count_all(batches):
    """How often each pair is in some batches."""
    return collections.Counter(i for batch in batches for i in numbers(batch))


def train(pairs, steps, start=0, seed=0, shard=Shard(), batch_size=4):  # noqa: B008
    batches = pairs.train_batches(seed, start, shard, batch_size)
    return list(itertools.islice(batches, steps))


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for key, array in batch.items():
        np.testing.assert_array_equal(array, other[key], err_msg=key)


def needed(pairs):
    return np.maximum(pairs.source.lengths, pairs.target.lengths)


def test_rows_are_filled_up():
    rows = ragged([[3, 4, 5], [6], [7, 8]])
    assert rows.lengths.tolist() == [3, 1, 2]
    padded = rows.padded(np.array([2, 0, 1]), 4, 9)
    assert padded.dtype == np.int32
    assert padded.tolist() == [[7, 8, 9, 9], [3, 4, 5, 9], [6, 9, 9, 9]]
    assert rows.padded(np.array([], np.int64), 4, 9).shape == (0, 4)


@pytest.mark.parametrize("batch_tokens", [0, 64])
def test_batches_are_of_one_bucket_and_hold_their_pairs(batch_tokens):
    pairs = make_pairs(batch_tokens=batch_tokens, pad=77)
    sides = (("source", pairs.source), ("target_tokens", pairs.target))
    rows_of = {4: 16, 8: 8, 16: 4} if batch_tokens else dict.fromkeys(LENGTHS, 4)
    seen, moved = [], 0
    for batch in train(pairs, int(pairs.steps_per_epoch(4))):
        assert list(batch) == ["source", "target_tokens"]
        rows, length = batch["source"].shape
        assert batch["target_tokens"].shape == (rows, length)
        assert rows == rows_of[length]
        seen.append(length)
        chosen = numbers(batch)
        for key, side in sides:
            for row, i in zip(batch[key], chosen):
                own = side.numbers[side.bounds[i] : side.bounds[i + 1]]
                assert row[: len(own)].tolist() == own.tolist()
                assert (row[len(own) :] == 77).all()
        moved += (needed(pairs)[chosen] <= length // 2).sum() if length > 4 else 0
    assert set(seen) == set(LENGTHS)
    assert moved < rows_of[4] + rows_of[8] - 1  # what was left over in the bucket before


@pytest.mark.parametrize("count", [103, 104, 5, 1])
@pytest.mark.parametrize("batch_tokens", [0, 64])
def test_each_pair_is_there_once_per_epoch(count, batch_tokens):
    """But for the last remainder, which comes at the begin of the longest bucket's next batches."""
    pairs = make_pairs(count, batch_tokens=batch_tokens)
    epochs = 9
    steps = int(epochs * pairs.steps_per_epoch(4))
    batches = train(pairs, steps + 1)
    for n in range(1, epochs + 1):
        ends = int(n * pairs.steps_per_epoch(4) + 1e-9)
        counts = count_all(batches[:ends])
        assert max(counts.values(), default=0) <= n
        assert min(counts[i] for i in range(count)) >= n - 1 - 4 // count
        assert n * count - counts.total() < 4


def test_what_is_left_over_moves_to_the_next_bucket():
    lengths = [3, 4, 4, 4, 4, 4, 6, 8, 8, 12, 16]  # 6 of the first bucket, 3, and 2
    pairs = make_pairs(0)
    rows = [[1, 1 + i, *[5] * (length - 2)] for i, length in enumerate(lengths)]
    pairs = BucketedPairs(ragged(rows), ragged([[1, 5, 2]] * len(rows)), LENGTHS)
    assert pairs.steps_per_epoch(4) == 1 + 1 + 3 / 4
    waiting = collections.Counter()
    for epoch in range(6):
        schedule = pairs._schedule(3, 4)
        begin, end = schedule.first_step(epoch), schedule.first_step(epoch + 1)
        batches = train(pairs, end - begin, begin, seed=3)
        assert sorted(batch["source"].shape[1] for batch in batches)[:2] == [4, 8]
        own = count_all(batches)
        assert waiting <= own  # of the epoch before
        new = own - waiting
        assert set(new.values()) == {1}
        waiting = collections.Counter(range(11)) - new
        assert waiting.total() == (epoch + 1) * 3 % 4


@pytest.mark.parametrize("batch_tokens", [0, 64])
@pytest.mark.parametrize("count", [103, 5])
def test_a_run_can_begin_at_any_step(batch_tokens, count):
    pairs = make_pairs(count, batch_tokens=batch_tokens)
    whole = train(pairs, 70)
    for start in range(69):
        for batch, expected in zip(train(pairs, 2, start), whole[start:], strict=False):
            assert_same(batch, expected)


def test_the_order_is_of_seed_and_epoch():
    pairs = make_pairs()
    per_epoch = int(pairs.steps_per_epoch(4))
    whole = train(pairs, 2 * per_epoch)
    for batch, same in zip(whole, train(make_pairs(), 2 * per_epoch), strict=True):
        assert_same(batch, same)
    orders = [list(map(numbers, train(pairs, per_epoch, seed=seed))) for seed in (0, 1, -1)]
    orders.append(list(map(numbers, whole[per_epoch:])))
    assert len({str(order) for order in orders}) == 4
    # Pairs meet others in another epoch, and buckets do not come one after the other.
    assert len({str(sorted(map(sorted, order))) for order in orders}) == 4
    lengths = [batch["source"].shape[1] for batch in whole[:per_epoch]]
    assert lengths != sorted(lengths)


def test_other_epochs_have_other_batches_in_another_order():
    """Also where each bucket is full, so that nothing waits for the next epoch."""
    rows = [[1, 1 + i, *[5] * (length - 2)] for i, length in enumerate([4, 8, 16] * 16)]
    pairs = BucketedPairs(ragged(rows), ragged([[1, 5, 2]] * 48), LENGTHS)
    assert pairs.steps_per_epoch(4) == 12
    epochs = [train(pairs, 12, 12 * epoch) for epoch in range(3)]
    for key in ("pairs", "lengths"):
        orders = [
            str(sorted(sorted(numbers(batch)) for batch in batches))
            if key == "pairs"
            else str([batch["source"].shape[1] for batch in batches])
            for batches in epochs
        ]
        assert len(set(orders)) == 3, key


@pytest.mark.parametrize("batch_tokens", [0, 64])
def test_two_processes_have_the_batches_of_one(batch_tokens):
    pairs = make_pairs(batch_tokens=batch_tokens)
    shards = [train(pairs, 60, shard=Shard(i, 2)) for i in range(2)]
    for whole, first, second in zip(train(pairs, 60), *shards, strict=True):
        assert_same(whole, {key: np.concatenate([first[key], second[key]]) for key in whole})


# Evaluation.


@pytest.mark.parametrize("batch_tokens", [0, 64])
@pytest.mark.parametrize("rows", [None, [7, 3, 55, 102, 4]])
def test_evaluation_has_every_pair_once(batch_tokens, rows):
    pairs = make_pairs(batch_tokens=batch_tokens, pad=77)
    wanted = list(range(103)) if rows is None else sorted(rows)
    found = []
    for batch in pairs.eval_batches(Shard(), 4, rows):
        real = batch["_mask"] > 0
        assert batch["_mask"].dtype == np.float32
        assert batch["index"].dtype == np.int32
        assert len(real) % 4 == 0
        assert (batch["source"][~real] == 77).all()
        assert (batch["target_tokens"][~real] == 77).all()
        own = [i for i, is_real in zip(numbers(batch), real) if is_real]
        assert own == batch["index"][real].tolist()
        length = batch["source"].shape[1]
        assert all(length == next(n for n in LENGTHS if n >= needed(pairs)[i]) for i in own)
        found += own
    assert sorted(found) == wanted


def test_processes_share_an_evaluation():
    pairs = make_pairs()
    whole = list(pairs.eval_batches(Shard(), 4))
    shards = [list(pairs.eval_batches(Shard(i, 2), 4)) for i in range(2)]
    for batch, *parts in zip(whole, *shards, strict=True):
        assert all(part["source"].shape == (2, batch["source"].shape[1]) for part in parts)
        own = [part["index"][part["_mask"] > 0].tolist() for part in parts]
        assert sorted(own[0] + own[1]) == sorted(batch["index"][batch["_mask"] > 0].tolist())


# Lengths, and what tells data apart.


def test_lengths_of_the_quantiles():
    assert choose_lengths(np.arange(3, 15), 32) == (8, 16)
    assert choose_lengths(np.arange(1, 201), 256) == (56, 104, 152, 192, 200)
    assert choose_lengths(np.arange(1, 61), 60) == (16, 32, 48, 60)  # no longer than the most
    assert choose_lengths(np.array([3]), 4) == (4,)


def test_the_digest_tells_texts_apart():
    digests = {make_pairs(count, seed).digest for count, seed in ((9, 0), (9, 1), (10, 0))}
    assert len(digests) == 3
    assert make_pairs(9).digest in digests
    one, two = ragged([[1, 2], [3]]), ragged([[1], [2, 3]])  # the same numbers, cut elsewhere
    turned = {BucketedPairs(a, b, (4,)).digest for a, b in ((one, two), (two, one), (one, one))}
    assert len(turned) == 3


def test_where_epochs_begin():
    """As counted one by one."""
    random = np.random.default_rng(0)
    for _ in range(20):
        bucket = random.integers(0, 3, random.integers(1, 40))
        schedule = Schedule(bucket, tuple(random.integers(1, 9, 3).tolist()), 0)
        steps = 0
        for epoch in range(12):
            assert schedule.first_step(epoch) == steps
            batches = schedule.batches(epoch)
            for step in range(steps, steps + len(batches)):
                assert schedule.epoch_of(step) == epoch
            steps += len(batches)
