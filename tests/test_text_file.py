"""Texts as a kind of data, and a run on them."""

import numpy as np
import pytest

from configs import common
from input_pipeline import get_dataset, sample_texts
from input_pipeline.sources import text_file
from input_pipeline.tokenizers import make_tokenizer
from tests.runs import assert_same_runs
from vit_jax import experiment, pretrained, step, train
from vit_jax.options import MaskedWordsOptions
from vit_jax.tasks import TASKS

WORDS = tuple("abcdefghijklmnopqrstuvwxyz")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n\n".join(map("\n".join, documents())) + "\n")
    return path


def documents(count=40, seed=0):
    """In each document words follow each other as in the alphabet."""
    random = np.random.default_rng(seed)

    def sentence():
        begin, length = random.integers(26), random.integers(2, 9)
        return " ".join(WORDS[(begin + i) % 26] for i in range(length))

    return [[sentence() for _ in range(random.integers(2, 7))] for _ in range(count)]


def data_config(source, **fields):
    config = common.get_config().data
    config.source, config.kind = str(source), "text"
    config.train_pp = config.eval_pp = ""
    config.text.passes = 2
    for name, value in fields.items():
        config[name] = value
    return config


def open_data(source, vocabulary, seed=0, length=24, **fields):
    tokenizer = make_tokenizer(f"bert_pair({length})", vocabulary)
    return get_dataset(data_config(source, **fields), 8, seed, tokenize=tokenizer)


def first_batches(data, count=3, start=0):
    batches = data.train_batches(start)
    return [next(batches) for _ in range(count)]


def words_of(batch):
    """The words of each text before they were masked, as numbers from 5 on."""
    tokens = batch["tokens"].copy()
    for row, positions, words in zip(tokens, batch["positions"], batch["words"]):
        row[positions[words >= 0]] = words[words >= 0]
    return tokens


def test_batches(source, vocabulary):
    data = open_data(source, vocabulary)
    (batch, *_) = first_batches(data)
    assert {key: array.shape for key, array in batch.items()} == {
        "tokens": (8, 24), "segments": (8, 24), "mask": (8, 24), "positions": (8, 4),
        "words": (8, 4), "next": (8,),
    }  # fmt: skip
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
    sentences = {line for document in documents() for line in document}
    letters = " ".join(WORDS)
    for row, segments, mask, is_random in zip(
        words_of(batch), batch["segments"], batch["mask"], batch["next"]
    ):
        assert row[0] == 2
        assert (row == 3).sum() == 2
        np.testing.assert_array_equal(mask, row != 0)
        first, second = row[(segments == 0) & (mask == 1)][1:-1], row[segments == 1][:-1]
        assert row[segments == 1][-1] == 3
        for part in (first, second):
            text = " ".join(letters[2 * (i - 5)] for i in part)
            assert any(line in text or text in line for line in sentences)
        assert is_random in (0, 1)


def test_an_epoch_is_a_function_of_seed_and_step(source, vocabulary):
    data = open_data(source, vocabulary)
    batches = first_batches(data, 4)
    for found, expected in zip(first_batches(data, 2, start=2), batches[2:]):
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    other = first_batches(open_data(source, vocabulary, seed=1), 1)[0]
    assert not np.array_equal(other["tokens"], batches[0]["tokens"])
    pairs = data.splits["train"].num_examples
    steps = -(-2 * pairs // 8)
    seen = {}
    for batch in first_batches(data, steps):
        for row, text in zip(batch["tokens"], words_of(batch)):
            seen.setdefault(text.tobytes(), set()).add(row.tobytes())
    assert sum(len(rows) > 1 for rows in seen.values()) > 0.9 * len(seen)  # masked anew
    assert {np.frombuffer(text, np.int32).max() for text in seen} <= set(range(5, 31))


def test_evaluation_is_always_the_same(source, vocabulary):
    first, second = (list(open_data(source, vocabulary, seed).eval_batches("val"))
                     for seed in (0, 7))  # fmt: skip
    config = data_config(source)
    config.text.passes = 5  # which are for training
    tokenizer = make_tokenizer("bert_pair(24)", vocabulary)
    more = get_dataset(config, 8, 0, tokenize=tokenizer).splits
    splits = open_data(source, vocabulary).splits
    assert more["val"].num_examples == splits["val"].num_examples
    assert more["train"].num_examples > 2 * splits["train"].num_examples
    for a, b in zip(first, second, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    tokens = np.concatenate([batch["tokens"][batch["_mask"] > 0] for batch in first])
    assert (tokens == 4).any()


def test_splits_by_document(source, vocabulary, tmp_path):
    splits = open_data(source, vocabulary).splits
    parts = {name: part.columns["pair"] for name, part in splits.items()}
    assert parts.keys() == {"train", "val", "test"}
    data = open_data(source, vocabulary)
    assert data.identity == open_data(source, vocabulary).identity
    assert data.identity != open_data(source, vocabulary, split_seed=1).identity
    twice = tmp_path / "twice.txt"  # what is there twice is in one split
    twice.write_text(source.read_text() + "\n" + source.read_text())
    sources = open_data(twice, vocabulary).splits
    assert sources["val"].num_examples > parts["val"].shape[0]
    texts = {
        split: {row.tobytes() for batch in open_data(twice, vocabulary).eval_batches(split)
                for row in words_of(batch) if row.any()}
        for split in ("val", "test")
    }  # fmt: skip
    assert not texts["val"] & texts["test"]


def test_folders_of_texts(source, vocabulary, tmp_path, caplog):
    text = source.read_text()
    for name in ("train.txt", "valid.txt", "notes.txt"):
        (tmp_path / name).write_text(text[:400] if name == "valid.txt" else text)
    data = open_data(tmp_path, vocabulary)
    assert set(data.splits) == {"train", "val"}
    assert "1 files are of no split and are left out, such as 'notes.txt'" in caplog.text
    (tmp_path / "train.txt").unlink()
    assert set(open_data(tmp_path, vocabulary).splits) == {"train", "val", "test"}
    for split in ("train", "test"):
        (tmp_path / "b" / split).mkdir(parents=True)
        (tmp_path / "b" / split / "1.txt").write_text(text)
        (tmp_path / "b" / split / "2.TXT").write_text(text)
    assert set(open_data(tmp_path / "b", vocabulary).splits) == {"train", "val", "test"}


def test_documents_of_a_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone .\r\n two\r\n \r\n\r\nthree\r\n".encode())
    assert list(text_file.read_documents(path)) == [("one .", "two"), ("three",)]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"cannot read the text .*a\.txt: .*utf-8"):
        list(text_file.read_documents(path))


def test_what_cannot_be_read(source, vocabulary, tmp_path):
    with pytest.raises(ValueError, match=r"holds no texts, files whose names end in \.txt"):
        open_data(tmp_path, vocabulary)
    with pytest.raises(ValueError, match="there is no folder"):
        open_data(tmp_path / "no", vocabulary)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match="the texts to train on have no words"):
        open_data(tmp_path, vocabulary, val_fraction=0.0)
    config = data_config(source)
    with pytest.raises(
        ValueError, match=r"data\.kind='text' is for a model of texts, such as BERT"
    ):
        get_dataset(config, 8, 0)
    config.text.passes = 0
    with pytest.raises(ValueError, match=r"data\.text\.passes must be at least 1, not 0"):
        get_dataset(config, 8, 0, tokenize=make_tokenizer("bert_pair(24)", vocabulary))


# A run.


def run_config(source, vocabulary):
    config = common.get_config()
    config.model_name = "BERT-base"
    config.model = dict(
        tokenizer="bert_pair(24)", length=24, hidden_size=32, num_layers=1, num_heads=2, mlp_dim=64,
        dropout_rate=0.0, attention_dropout_rate=0.0,
    )  # fmt: skip
    config.data = data_config(source)
    config.text.vocabulary = str(vocabulary)
    config.loss = "masked_words + next_sentence"
    config.metrics = ("masked_accuracy", "next_accuracy", "perplexity")
    config.best_metric = "masked_accuracy"
    config.batch_size, config.total_steps, config.eval_every = 32, 300, 100
    config.optim.learning_rate = 1e-2
    config.optim.weight_decay_on = "kernel$|embedding$"
    config.optim.weight_decay = 0.01
    config.schedule.name = "linear"
    return config


def test_the_vocabulary_decides_the_size_of_the_embedding(source, vocabulary):
    config = run_config(source, vocabulary)
    exp = experiment.build(config)
    assert exp.model.vocabulary_size == 31
    config = run_config(source, vocabulary)
    config.model["vocabulary_size"] = 30
    with pytest.raises(ValueError, match="decides vocabulary_size, which is 31: leave"):
        experiment.build(config)


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_the_batch(source, vocabulary):
    """Though its parts have different numbers of masked words."""
    states = []
    for accum_steps in (1, 4):
        config = run_config(source, vocabulary)
        config.accum_steps, config.optim.name = accum_steps, "sgd"
        config.optim.weight_decay = 0.0
        exp = experiment.build(config)
        batch = next(exp.data.train_batches())
        counts = (batch["words"] >= 0).sum(axis=1).reshape(-1, 4).sum(axis=0)
        assert len(set(counts)) > 1
        _, metrics = step.make_train_step(exp)(exp.init_state(), batch)
        states.append((np.asarray(metrics["loss"]), np.asarray(metrics["grad_norm"])))
    np.testing.assert_allclose(*states, rtol=1e-5)


@pytest.fixture(scope="module")
def trained(vocabulary, tmp_path_factory):
    """A run, its figures, and its texts."""
    workdir = tmp_path_factory.mktemp("run")
    source = workdir.parent / "many.txt"
    source.write_text("\n\n".join(map("\n".join, documents(300))) + "\n")
    return workdir, train.train_and_evaluate(run_config(source, vocabulary), workdir), source


@pytest.mark.slow
def test_a_run_learns_the_alphabet_and_says_it(trained):
    """By chance a word in 26 is right."""
    workdir, figures, _ = trained
    assert figures["test"]["masked_accuracy"] > 0.6
    assert figures["test"]["perplexity"] < 4
    loaded = pretrained.load(workdir)
    assert (workdir / "vocabulary" / "vocab.txt").exists()
    teller = TASKS["masked_words"].predictor(loaded, MaskedWordsOptions(words=1), None)
    (answer,) = teller.answers(teller.find(["d e f [MASK] h i"]))
    assert answer.line.startswith("d e f [MASK] h i: g ")


@pytest.mark.slow
def test_it_resumes_bit_for_bit(trained, vocabulary, tmp_path, monkeypatch):
    """Stopped after step 120, of which the checkpoint of step 100 is left."""
    workdir, _, source = trained

    def stop(monitor, step, metrics):
        monitor_train(monitor, step, metrics)
        if step == 120:
            raise RuntimeError("as if it were killed")

    monitor_train = train.Monitor.train
    monkeypatch.setattr(train.Monitor, "train", stop)
    with pytest.raises(RuntimeError, match="as if"):
        train.train_and_evaluate(run_config(source, vocabulary), tmp_path)
    monkeypatch.setattr(train.Monitor, "train", monitor_train)
    train.train_and_evaluate(run_config(source, vocabulary), tmp_path)
    assert_same_runs(workdir, tmp_path, has_means=False)


# A text to try things on.


def test_sentences_of_docstrings():
    docstring = """Return the sum of x. It is not rounded, whatever U.S. readers think.

    >>> f(1)
    1

    Args:
      x: a number. It is added to another one

    This is another paragraph of prose! Is this one a question? Yes."""
    assert sample_texts.split_sentences(docstring) == [
        "Return the sum of x.",
        "It is not rounded, whatever U.S. readers think.",
        "This is another paragraph of prose!",
        "Is this one a question?",
    ]


def test_the_sample_text(tmp_path, monkeypatch, capsys):
    (tmp_path / "lib" / "test").mkdir(parents=True)
    (tmp_path / "lib" / "a.py").write_text(
        '"""One sentence is this here. Another one comes after it."""\n'
        'def f():\n    """One alone is left out."""\n'
        'def g():\n    """One sentence is this here. Another one comes after it."""\n'
    )
    (tmp_path / "lib" / "bad.py").write_text("def")
    (tmp_path / "lib" / "test" / "b.py").write_text('"""A b c d. E f g h."""')
    monkeypatch.setattr(sample_texts, "_folders", lambda: [tmp_path / "lib"])
    assert sample_texts.main([str(tmp_path / "out" / "t.txt")]) == 0
    assert "1 documents of 2 sentences" in capsys.readouterr().out
    assert list(text_file.read_documents(tmp_path / "out" / "t.txt")) == [
        ("One sentence is this here.", "Another one comes after it.")
    ]
