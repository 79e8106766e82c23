import numpy as np
import pytest

from input_pipeline import Shard, get_dataset, pipeline
from input_pipeline.pipeline import pad_batch
from input_pipeline.sources.base import IndexedSource


def take(batches, count):
    return [next(batches) for _ in range(count)]


def keys(batches):
    """The images as bytes; the digits are all different."""
    return [image.tobytes() for batch in batches for image in batch["image"]]


@pytest.fixture
def plain_digits(digits_config):
    digits_config.data.train_pp = "value_range(-1, 1)"
    digits_config.data.eval_pp = "value_range(-1, 1)"
    return digits_config.data


def test_every_epoch_has_every_example_once(plain_digits):
    dataset = get_dataset(plain_digits, 419, seed=3)  # 3 batches are the 1,257 training digits
    assert dataset.steps_per_epoch == 3
    stream = dataset.train_batches()
    epochs = [keys(take(stream, 3)) for _ in range(3)]
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    assert keys(take(get_dataset(plain_digits, 419, seed=4).train_batches(), 3)) != epochs[0]


@pytest.mark.slow
def test_the_order_is_as_good_as_random():
    """Rows sorted by class make batches as mixed as a true shuffle does."""
    labels = np.repeat(np.arange(10, dtype=np.int32), 54)
    source = IndexedSource({"label": labels}, tuple("abcdefghij"))
    stream = source.stream(seed=0, start=0, shard=Shard(), local_batch=30).take(30 * 540)
    order = np.array([example["label"] for example in stream.as_numpy_iterator()])
    counts = np.stack([np.bincount(batch, minlength=10) for batch in order.reshape(-1, 30)])
    expected = 30 * 0.1 * 0.9 * (540 - 30) / (540 - 1)  # of the hypergeometric distribution
    np.testing.assert_allclose(counts.var(), expected, rtol=0.1)
    epochs = order.reshape(30, 540)
    assert abs(np.mean([np.corrcoef(e[:-1], e[1:])[0, 1] for e in epochs])) < 0.03


@pytest.mark.parametrize("fixture", ["digits_config", "folder_config"])
def test_a_batch_is_a_function_of_seed_and_step(fixture, request):
    config = request.getfixturevalue(fixture)
    dataset = get_dataset(config.data, 8, seed=0)
    batches = take(dataset.train_batches(), 12)
    for start in (1, 9):
        for expected, batch in zip(batches[start:], take(dataset.train_batches(start), 3)):
            np.testing.assert_array_equal(batch["image"], expected["image"])
            np.testing.assert_array_equal(batch["label"], expected["label"])


def test_resuming_late_is_fast_and_right(plain_digits):
    """A step far away is read at once, and is where counting on would have come."""
    dataset = get_dataset(plain_digits, 419, seed=0)
    far = take(dataset.train_batches(3_000_000_000), 4)
    np.testing.assert_array_equal(
        far[1]["image"], next(dataset.train_batches(3_000_000_001))["image"]
    )
    assert len(set(keys(far[:3]))) == 1257


def test_augmentation_differs_between_epochs(digits_config):
    digits_config.data.train_pp = "grayscale_to_rgb|shift(1)|value_range(-1, 1)"
    dataset = get_dataset(digits_config.data, 1257, seed=0)
    first, second = take(dataset.train_batches(), 2)
    assert len(set(keys([first])) & set(keys([second]))) < 500  # a shift repeats by 1 in 9


def test_processes_share_each_batch(plain_digits):
    """However many processes there are, the batches are the same."""
    whole = take(get_dataset(plain_digits, 12, seed=0).train_batches(5), 3)
    parts = [
        take(get_dataset(plain_digits, 12, seed=0, shard=Shard(i, 3)).train_batches(5), 3)
        for i in range(3)
    ]
    for step in range(3):
        joined = np.concatenate([parts[i][step]["image"] for i in range(3)])
        np.testing.assert_array_equal(joined, whole[step]["image"])


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_counts_every_example_once(plain_digits, split, count):
    seen, lengths = [], []
    for i in range(count):
        dataset = get_dataset(plain_digits, 84, seed=0, shard=Shard(i, count))
        batches = list(dataset.eval_batches(split))
        lengths.append(len(batches))
        assert all(len(batch["_mask"]) == 84 // count for batch in batches)
        seen += [
            image.tobytes()
            for batch in batches
            for image, real in zip(batch["image"], batch["_mask"])
            if real
        ]
    assert len(set(lengths)) == 1
    assert len(seen) == len(set(seen)) == {"val": 180, "test": 360}[split]


def test_pad_batch():
    batch = pad_batch({"image": np.ones((2, 3, 3, 1)), "label": np.array([4, 5])}, 5)
    np.testing.assert_array_equal(batch["_mask"], [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(batch["label"], [4, 5, 0, 0, 0])
    assert batch["image"].shape == (5, 3, 3, 1)
    assert batch["image"].sum() == 18


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_pp": "value_range(-1, 1)|foo"}, "unknown op 'foo'"),
        ({"eval_pp": "shift(1)|value_range(-1, 1)"}, "must be deterministic"),
        ({"eval_pp": "resize(8)"}, "must end with value_range"),
        ({"eval_pp": "decode|value_range(-1, 1)"}, "must not begin with decode"),
        (
            {"eval_pp": "value_range(0, 1)|value_range(0, 1)"},
            "^value_range works on 8-bit or 16-bit images",
        ),
    ],
)
def test_wrong_preprocessing(plain_digits, changes, message):
    plain_digits.update(changes)
    with pytest.raises(ValueError, match=message):
        _ = get_dataset(plain_digits, 8, seed=0).image_shape


@pytest.mark.parametrize(
    ("eval_pp", "message"),
    [
        ("resize(8)|value_range(-1, 1)", "must begin with decode"),
        ("decode|resize_small(8)|value_range(-1, 1)", "different sizes, which make no batch"),
    ],
)
def test_wrong_preprocessing_of_files(folder_config, eval_pp, message):
    folder_config.data.eval_pp = eval_pp
    with pytest.raises(ValueError, match=message):
        _ = get_dataset(folder_config.data, 8, seed=0).image_shape


@pytest.mark.parametrize("batch_size", [0, 7])
def test_batches_must_divide(plain_digits, batch_size):
    with pytest.raises(ValueError, match="divisible by 2 process"):
        get_dataset(plain_digits, batch_size, seed=0, shard=Shard(0, 2))


def test_reading_stops_when_python_ends(plain_digits):
    """Or its threads may abort the process, or keep it from ending."""
    stream = get_dataset(plain_digits, 4, 0).train_batches()
    next(stream)
    pipeline._stop_reading()
    with pytest.raises(StopIteration):
        next(stream)
