"""Texts in examples, and examples that have no image."""

import logging

import numpy as np
import pytest

from configs import common
from input_pipeline import MadeUp, Shard, get_dataset, texts
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import KINDS, Kind
from input_pipeline.sources.base import IndexedSource
from tests.captioned_images import Letters
from tests.helpers import data_config
from vit_jax.models import get_model
from vit_jax.tasks import get_task
from vit_jax.validation import check_data

WORDS = ("ab", "", "a long one", "ü", "b", "cab")


def lines(config):
    """Examples without an image: a text, and a number of its own."""
    del config

    def source(words):
        columns = {"text": np.array(words, object), "number": np.arange(len(words), dtype=np.int32)}

        def draw(example, seed):
            drawn = tf.random.stateless_uniform((), seed, 0, 1000, tf.int32)
            return {**example, "number": example["number"] + 1000 * drawn}

        return IndexedSource(
            columns,
            truths=("text", "number"),
            has_image=False,
            drawer=draw,
            finisher=lambda example, seed: {**example, "seed": seed},
            digest=str(words),
        )

    return {"train": source(WORDS), "val": source(WORDS[:3]), "test": source(WORDS)}


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(KINDS, "lines", Kind(lines, ("text", "number")))
    return data_config("anywhere", "lines", train_pp="", eval_pp="")


def take(batches, count):
    return [next(batches) for _ in range(count)]


def test_examples_need_no_image(config):
    data = get_dataset(config, 2, seed=0, tokenize=Letters())
    assert data.keys == data.truths == ("text", "number")
    assert data.image_shape == data.train_image_shape == ()
    assert data.example["text"] == ((4,), np.int32)
    assert data.train_example["number"] == ((), np.int32)
    epoch = take(data.train_batches(), 3)
    assert {key: value.shape for key, value in epoch[0].items()} == {
        "text": (2, 4), "number": (2,), "seed": (2, 2)
    }  # fmt: skip
    numbers = np.concatenate([batch["number"] for batch in epoch]) % 1000
    assert sorted(numbers) == list(range(6))
    rows = np.concatenate([batch["text"] for batch in epoch])
    np.testing.assert_array_equal(rows, Letters()([WORDS[i] for i in numbers]))


def test_texts_are_a_function_of_seed_and_step(config):
    """What is drawn of an example in an epoch as well, and however many processes there are."""
    whole = take(get_dataset(config, 6, seed=0, tokenize=Letters()).train_batches(), 4)
    parts = [
        take(get_dataset(config, 6, 0, Shard(i, 3), tokenize=Letters()).train_batches(2), 2)
        for i in range(3)
    ]
    for step in range(2):
        for key, value in whole[2 + step].items():
            joined = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(joined, value)
    drawn = [batch["number"][np.argsort(batch["number"] % 1000)] // 1000 for batch in whole]
    assert len({tuple(numbers) for numbers in drawn}) == 4  # another draw in each epoch


@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_sees_each_text_once(config, count):
    seen = []
    for i in range(count):
        data = get_dataset(config, 4, seed=0, shard=Shard(i, count), tokenize=Letters())
        batches = list(data.eval_batches("test"))
        assert len(batches) == 2 if count == 1 else 2
        for batch in batches:
            assert batch["text"].shape == (4 // count, 4)
            seen += batch["index"][batch["_mask"] > 0].tolist()
            for row, mask, i in zip(batch["text"], batch["_mask"], batch["index"]):
                expected = Letters()([WORDS[i]])[0] if mask else np.zeros(4)
                np.testing.assert_array_equal(row, expected)
        assert all((batch["number"] < 1000).all() for batch in batches)  # nothing was drawn
    assert sorted(seen) == list(range(6))
    data = get_dataset(config, 4, seed=0, tokenize=Letters())
    assert [b["index"].tolist() for b in data.eval_batches("test", [4, 1])] == [[4, 1, 0, 0]]


def test_captions_that_are_not_there_are_padding():
    captions = tf.constant([["ab", ""], ["abcde", "c"]])
    dataset = tf.data.Dataset.from_tensor_slices({"captions": captions})

    made = dataset.map(lambda fields: texts.tokenized(fields, Letters()))
    assert made.element_spec["captions"] == tf.TensorSpec((2, 4), tf.int32)
    first, second = (fields["captions"] for fields in made.as_numpy_iterator())
    np.testing.assert_array_equal(first, [[97, 98, 9, 9], [9, 9, 9, 9]])
    np.testing.assert_array_equal(second, [[97, 98, 99, 100], [99, 9, 9, 9]])


def test_texts_that_are_cut_are_counted(config, caplog):
    with caplog.at_level(logging.WARNING):
        get_dataset(config, 4, seed=0, tokenize=Letters())
    assert [record.message for record in caplog.records] == [
        f"{split}: 1 of {count} texts are longer than 4 tokens, and their ends are cut off, such "
        "as 'a long one'"
        for split, count in (("train", 5), ("val", 2), ("test", 5))
    ]


def test_texts_stay_as_they_are_without_a_tokenizer(config):
    batch = next(get_dataset(config, 6, seed=0).eval_batches("test"))
    assert [text.decode() for text in batch["text"]] == list(WORDS)


def test_there_is_preprocessing_just_where_there_are_images(config):
    config.eval_pp = "value_range(-1, 1)"
    with pytest.raises(ValueError, match=r"no image to prepare: leave data.eval_pp empty"):
        get_dataset(config, 2, seed=0)
    digits = data_config("digits", train_pp="value_range(-1, 1)", eval_pp="")
    with pytest.raises(ValueError, match=r"data.eval_pp is empty, and the images of"):
        get_dataset(digits, 2, seed=0)


def test_data_that_differ_in_their_texts_alone_are_others(config):
    first = get_dataset(config, 2, seed=0).identity
    assert first["contents"]["val"] == str(WORDS[:3])
    assert (
        "contents"
        not in get_dataset(
            data_config("digits", train_pp="value_range(-1, 1)", eval_pp="value_range(-1, 1)"), 2, 0
        ).identity
    )


def test_another_vocabulary_makes_other_data(config):
    found = {}
    for digest in ("letters", "others"):
        tokenize = Letters()
        tokenize.digest = digest
        found[digest] = get_dataset(config, 2, seed=0, tokenize=tokenize).identity
    assert found["letters"] != found["others"]
    assert found["letters"]["contents"]["vocabulary"] == "letters"


def test_a_cache_keeps_texts(config):
    config.cache = True
    cached = take(get_dataset(config, 6, seed=0, tokenize=Letters()).train_batches(), 3)
    config.cache = False
    plain = take(get_dataset(config, 6, seed=0, tokenize=Letters()).train_batches(), 3)
    for one, other in zip(cached, plain):
        np.testing.assert_array_equal(one["text"], other["text"])
        np.testing.assert_array_equal(one["number"], other["number"])


def test_examples_of_several_lengths_are_refused(config, monkeypatch):
    def ragged(config):
        del config
        loader = lambda row: {"text": tf.strings.bytes_split(row["text"])}  # noqa: E731
        source = IndexedSource(
            {"text": np.array(WORDS, object)}, truths=("text",), has_image=False, loader=loader
        )
        return {"train": source}

    monkeypatch.setitem(KINDS, "lines", Kind(ragged, ("text",)))
    with pytest.raises(ValueError, match="'text' is of several shapes"):
        _ = get_dataset(config, 2, seed=0).train_example


def test_made_up_texts():
    data = MadeUp((4, 4, 3), 50, num_classes=7, truth="text", text_length=5)
    batch = next(data.train_batches())
    assert data.keys == ("image", "text")
    assert data.example["text"] == ((5,), np.int32)
    assert batch["text"].shape == (50, 5)
    assert batch["text"].dtype == np.int32
    assert set(batch["text"].ravel()) == {1, 2, 3, 4, 5, 6}


def test_of_many_texts_some_are_looked_at(monkeypatch, caplog):
    monkeypatch.setattr(texts, "_MOST_COUNTED", 10)
    texts.tell_cut("train", [f"{i:05}" for i in range(25)], Letters())
    assert "train: 9 of 9 texts are longer than 4 tokens" in caplog.text
    caplog.clear()
    texts.tell_cut("train", ["abcd", "abcde", "ab"], Letters())
    assert "train: 1 of 3 texts are longer" in caplog.text


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("ViT-S_16", ("text", "number"), "task classify .* with image and label, .* to classes"),
        (
            "CLIP-B_32",
            ("image", "label"),
            r"CLIP-B_32 .* with text, .* to captions, or model_name .*, as ViT-Ti_16, Mixer-B",
        ),
    ],
)
def test_data_without_what_a_model_reads_are_refused(name, keys, message):
    config = common.get_config()
    config.model_name = name
    with pytest.raises(ValueError, match=message):
        check_data(config, get_task(get_model(name)), keys)
