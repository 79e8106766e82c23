"""Translations as a kind of data."""

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest

from configs import common
from input_pipeline import MadeUp, get_dataset
from input_pipeline.sources.base import Shard
from input_pipeline.tokenizers import make_tokenizer
from input_pipeline.train_tokenizer import train_tokenizer
from tests.tiny_translations import TinyTranslations

LOG = "input_pipeline.sources.translation"


def sentences(count=60):
    """Pairs of 1 to 6 words, of which none is there twice."""
    return [
        (" ".join(f"q{i}" for _ in range(i % 6 + 1)), " ".join([f"a{i}"] * (5 - i % 5)))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("translations") / "pairs.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in sentences()))
    return path


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    texts = [text for pair in sentences() for text in pair]
    return train_tokenizer(texts, tmp_path_factory.mktemp("vocabulary"), "words", 1000)


def data_config(source, **fields):
    config = common.get_config().data
    config.source, config.kind = str(source), "translation"
    config.train_pp = config.eval_pp = ""
    for name, value in fields.items():
        group = config if name in config else config.translation
        if isinstance(value, dict):
            group[name].update(value)
        else:
            group[name] = value
    return config


def open_data(source, vocabulary="", length=12, seed=0, batch_size=4, shard=None, **fields):
    tokenizer = make_tokenizer(f"words({length})", vocabulary)
    config = data_config(source, **fields)
    return get_dataset(config, batch_size, seed, shard, tokenize=tokenizer)


def take(data, count, start=0):
    return list(itertools.islice(data.train_batches(start), count))


def words(rows, tokenizer):
    return [tokenizer.decode(row) for row in rows]


def pairs_of(data, batches):
    """The texts of the real rows of batches."""
    found = []
    for batch in batches:
        real = batch.get("_mask", np.ones(len(batch["source"]))) > 0
        sides = (words(batch[key][real], data.tokenize) for key in ("source", "target_tokens"))
        found += zip(*sides, strict=True)
    return found


def test_batches(source, vocabulary):
    data = open_data(source, vocabulary)
    assert data.keys == data.truths == ("source", "target_tokens")
    assert data.example == data.train_example
    assert data.example == {
        "source": ((8,), np.dtype(np.int32)), "target_tokens": ((8,), np.dtype(np.int32)),
    }  # fmt: skip
    assert data.image_shape == data.train_image_shape == data.class_names == ()
    (batch,) = take(data, 1)
    assert {key: (array.shape, array.dtype) for key, array in batch.items()} == {
        key: ((4, 8), np.dtype(np.int32)) for key in ("source", "target_tokens")
    }
    for row, target in zip(batch["source"], batch["target_tokens"]):
        count, answers = (row > 2).sum(), (target > 2).sum()
        assert row.tolist() == [row[0]] * count + [2] + [0] * (7 - count)
        assert target.tolist() == [1] + [target[1]] * answers + [2] + [0] * (6 - answers)


def test_splits_are_complete_and_apart(source, vocabulary):
    data = open_data(source, vocabulary)
    found = {split: pairs_of(data, data.eval_batches(split)) for split in ("val", "test")}
    found["train"] = pairs_of(data, take(data, int(data.steps_per_epoch)))
    assert {split: len(pairs) for split, pairs in found.items()} == {
        "train": 48, "val": 6, "test": 6,
    }  # fmt: skip
    assert sorted(sum(found.values(), [])) == sorted(sentences())  # noqa: RUF017
    for split in ("val", "test"):
        kept = data.splits[split].sentences
        assert sorted(kept) == sorted(found[split])
        assert data.splits[split].names == tuple(source for source, _ in kept)
        for batch in data.eval_batches(split):
            real = batch["_mask"] > 0
            texts = words(batch["source"][real], data.tokenize)
            assert texts == [kept[i][0] for i in batch["index"][real]]
        chosen = list(data.eval_batches(split, rows=[4, 1]))
        assert sorted(pairs_of(data, chosen)) == sorted([kept[4], kept[1]])
    assert data.splits["train"].sentences == ()
    other = open_data(source, vocabulary, split_seed=1)
    assert other.splits["val"].sentences != data.splits["val"].sentences


def test_a_source_is_in_one_split_whatever_its_translations(tmp_path, vocabulary, caplog):
    caplog.set_level(logging.INFO, logger="input_pipeline.sources.splitting")
    path = tmp_path / "twice.tsv"
    path.write_text("".join(f"{a}\t{b}\n{a}\t{b} {b}\n" for a, b in sentences(40)))
    data = open_data(path, vocabulary, length=20, val_fraction=0.2)
    sources = [{source for source, _ in data.splits[split].sentences} for split in ("val", "test")]
    sources.append({source for source, _ in pairs_of(data, data.eval_batches("train"))})
    assert [len(some) for some in sources] == [8, 7, 25]
    assert "8 of 40 training sentences are split off as val" in caplog.text
    assert len(set.union(*sources)) == 40


def test_resuming_at_any_step_and_two_processes(source, vocabulary):
    fields = {"buckets": (5, 8), "batch_tokens": 40}
    whole = take(open_data(source, vocabulary, **fields), 40)
    assert {batch["source"].shape for batch in whole} == {(8, 5), (4, 8)}
    for start in (1, 13, 37):
        found = take(open_data(source, vocabulary, **fields), 3, start)
        for batch, expected in zip(found, whole[start : start + 3], strict=True):
            for key in expected:
                np.testing.assert_array_equal(batch[key], expected[key])
    halves = [
        take(open_data(source, vocabulary, shard=Shard(i, 2), **fields), 40) for i in range(2)
    ]
    for batch, *parts in zip(whole, *halves, strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], np.concatenate([part[key] for part in parts]))
    other = take(open_data(source, vocabulary, seed=1, **fields), 40)
    assert any(not np.array_equal(a["source"], b["source"]) for a, b in zip(whole, other))


def test_what_is_too_long(source, vocabulary, caplog):
    """It is left out to train on, and cut to evaluate."""
    caplog.set_level(logging.WARNING, logger=LOG)
    data = open_data(source, vocabulary, length=6)
    splits = {split: sum(_is_long(pair) for pair in data.splits[split].sentences)
              for split in ("val", "test")}  # fmt: skip
    long = sum(map(_is_long, sentences())) - sum(splits.values())
    assert data.splits["train"].num_examples == 48 - long
    assert (
        f"train: {long} of 48 pairs have more than 6 tokens and are left out, such" in caplog.text
    )
    assert f"val: {splits['val']} of 6 pairs have more than 6 tokens and are cut, s" in caplog.text
    batches = list(data.eval_batches("test"))
    assert len(pairs_of(data, batches)) == 6
    for source_text, target in pairs_of(data, batches):
        assert len(source_text.split()) <= 5
        assert len(target.split()) <= 4
    for batch in batches:
        real = batch["_mask"] > 0
        assert ((batch["source"] == 2).sum(axis=1)[real] == 1).all()
        assert ((batch["target_tokens"] == 2).sum(axis=1)[real] == 1).all()
    # So does the last of the buckets that are said.
    assert open_data(source, vocabulary, buckets=(4, 6)).identity == data.identity
    with pytest.raises(ValueError, match="train: there is no pair of sentences of at most 3 tok"):
        open_data(_write_long(source), vocabulary, length=3, val_fraction=0.0)


def _is_long(pair):
    return len(pair[0].split()) > 5 or len(pair[1].split()) > 4


def _write_long(source):
    path = source.parent / "long.tsv"
    path.write_text("q1 q1 q1\ta1 a1 a1\n")
    return path


def test_buckets_of_the_training_and_one_for_what_is_longer(tmp_path, vocabulary):
    for split, count in (("train", 5), ("val", 3), ("test", 30)):
        lines = "".join("q1 " * (i % count + 1) + f"\ta{i % 5}\n" for i in range(30))
        (tmp_path / f"{split}.tsv").write_text(lines)
    data = open_data(tmp_path, vocabulary, length=40)
    lengths = {split: one.lengths for split, one in data.splits.items()}
    assert lengths == {"train": (8,), "val": (8,), "test": (8, 32)}
    del data
    (tmp_path / "train.tsv").unlink()
    (tmp_path / "val.tsv").unlink()
    alone = open_data(tmp_path, vocabulary, length=40)
    assert alone.splits["test"].lengths == (16, 24, 32)
    assert alone.example["source"][0] == (32,)


def test_a_test_elsewhere(source, vocabulary, tmp_path):
    path = tmp_path / "more.tsv"
    path.write_text("q1 q2\ta3\nq4\ta5\n")
    data = open_data(source, vocabulary, test_source=str(path))
    assert data.splits["test"].sentences == (("q1 q2", "a3"), ("q4", "a5"))
    assert data.splits["train"].num_examples == 48
    alone = open_data("", vocabulary, test_source=str(path))
    assert list(alone.splits) == ["test"]


def test_the_identity_tells_texts_and_vocabularies_apart(source, vocabulary, tmp_path):
    data = open_data(source, vocabulary)
    assert set(data.identity["contents"]) == {"train", "val", "test", "vocabulary"}
    assert open_data(source, vocabulary, seed=1).identity == data.identity
    text = source.read_text()
    for name, changed in (
        ("other.tsv", text.replace("q7\t", "q8\t").replace("a7", "a8")),
        ("fewer.tsv", text.removesuffix(text.splitlines()[-1] + "\n")),
    ):
        (tmp_path / name).write_text(changed)
        assert open_data(tmp_path / name, vocabulary).identity != data.identity
    turned = "".join("\t".join(line.split("\t")[::-1]) + "\n" for line in text.splitlines())
    (tmp_path / "turned.tsv").write_text(turned)
    assert open_data(tmp_path / "turned.tsv", vocabulary).identity != data.identity
    lines = Path(vocabulary).read_text().split("\n")
    (tmp_path / "words.txt").write_text("\n".join([*lines[:4], *lines[5:-1], lines[4]]))
    assert open_data(source, tmp_path / "words.txt").identity != data.identity


@pytest.mark.parametrize("toy", ["reversal", "number_words"])
def test_toys(toy):
    data = open_data(f"toy:{toy}", length=16, batch_size=128, examples=2000)
    sizes = {split: one.num_examples for split, one in data.splits.items()}
    assert sizes == {"train": 2000, "val": 500, "test": 1000}
    assert data.steps_per_epoch == 2000 / 128
    assert data.tokenize.vocabulary_size == 43
    assert data.splits["train"].lengths == (8, 16)
    found = pairs_of(data, data.eval_batches("val"))
    assert sorted(found) == sorted(data.splits["val"].sentences)


@pytest.mark.parametrize("stored", ["tfrecord", "array_record"])
def test_tfds(tmp_path, stored, caplog):
    TinyTranslations(data_dir=tmp_path, file_format=stored).download_and_prepare()
    texts = ["der train test Nummer ü the number 0 1 2 3 4 5 6 7 8 9 10 11"]
    words_file = train_tokenizer(texts, tmp_path, "words", 100)
    tfds = {"data_dir": str(tmp_path)}
    data = open_data("tfds:tiny_translations", words_file, tfds=tfds, val_fraction=0.2)
    assert "train: 1 of 12 examples have an empty side and are left out: example " in caplog.text
    assert {split: one.num_examples for split, one in data.splits.items()} == {
        "train": 8, "val": 3, "test": 3,
    }  # fmt: skip
    expected = sorted((f"der test Nummer {i} ü", f"the test number {i}") for i in range(3))
    assert sorted(data.splits["test"].sentences) == expected
    turned = {"source_language": "EN", "target_language": "de"}
    data = open_data("tfds:tiny_translations", words_file, tfds=tfds, **turned)
    assert sorted(data.splits["test"].sentences) == sorted(pair[::-1] for pair in expected)
    with pytest.raises(ValueError, match=r"has the texts de, en: name two of them by data.transl"):
        open_data("tfds:tiny_translations", words_file, tfds=tfds, source_language="fr")
    with pytest.raises(ValueError, match=r"data.tfds.val_split='dev' does not fit"):
        open_data("tfds:tiny_translations", words_file, tfds={**tfds, "val_split": "dev"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "toy:sums"}, "the toys are reversal, number_words"),
        (
            {"source": "digits"},
            "needs a folder or tfds:NAME or toy:NAME, and data.source is 'digits'",
        ),
        ({"buckets": (8, 8)}, r"buckets must be increasing lengths of at least 3, not \(8, 8\)"),
        ({"buckets": (2, 8)}, r"increasing lengths of at least 3, not \(2, 8\)"),
        ({"buckets": (4.5, 8)}, r"increasing lengths of at least 3, not \(4.5, 8\)"),
        ({"buckets": (8, 16)}, r"buckets has 16, and no text has more tokens than 12, by words\("),
        ({"batch_tokens": -1}, "batch_tokens must be at least 0, not -1"),
        ({"source_language": "de", "target_language": "DE"}, "_language are both 'de'"),
        ({"train_pp": "decode"}, "the examples of data.kind='translation' have no image"),
    ],
)
def test_settings_that_do_not_fit(source, vocabulary, fields, message):
    with pytest.raises(ValueError, match=message):
        open_data(fields.pop("source", source), vocabulary, **fields)


def test_words_that_are_not_known(source, tmp_path):
    with pytest.raises(ValueError, match="the vocabulary of the toys has no word 'q"):
        open_data(source)


def test_a_tokenizer_without_begin_is_refused(source, tmp_path):
    path = train_tokenizer(["one two three"] * 9, tmp_path, "siglip", 30)
    tokenizer = make_tokenizer("siglip(8)", path)
    with pytest.raises(ValueError, match=r"siglip\(8\) has nothing to begin and end a sentence"):
        get_dataset(data_config(source), 4, 0, tokenize=tokenizer)


def test_there_are_no_images_to_cache(source, vocabulary):
    data = open_data(source, vocabulary, cache=True)
    with pytest.raises(ValueError, match=r"data\.cache is for folders of images"):
        next(data.train_batches())


def test_made_up_pairs():
    data = MadeUp((), 3, num_classes=20, truth="target_tokens", text_length=7)
    assert data.keys == data.truths == ("source", "target_tokens")
    assert data.example["source"] == data.train_example["target_tokens"] == ((7,), np.int32)
    batch = next(data.train_batches(5))
    assert batch["source"].shape == batch["target_tokens"].shape == (3, 7)
    assert (batch["source"][:, -1] == 2).all()
    assert (batch["target_tokens"][:, [0, -1]] == [1, 2]).all()
    words = np.concatenate([batch["source"][:, :-1], batch["target_tokens"][:, 1:-1]], axis=1)
    assert words.min() >= 3
    assert words.max() < 20


def test_a_model_without_texts_is_refused(source):
    with pytest.raises(ValueError, match="is for a model of texts, such as BERT-base or Trans"):
        get_dataset(data_config(source), 4, 0)
