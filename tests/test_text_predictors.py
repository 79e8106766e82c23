"""Words in the place of [MASK], and embeddings of texts."""

import csv
import functools
import io
from pathlib import Path, PurePath

import jax
import numpy as np
import pytest

from tests.helpers import random_variables
from vit_jax import pretrained, text_predictors
from vit_jax.models import get_model
from vit_jax.options import MaskedWordsOptions
from vit_jax.results import answer_items, check_outputs
from vit_jax.tasks import TASKS
from vit_jax.tasks.masked_words import make_predictor

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "##b"]
TINY = dict(
    tokenizer="bert_pair(40)", vocabulary_size=len(PIECES), length=40, hidden_size=16, num_layers=1,
    num_heads=2, mlp_dim=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(PIECES))
    model = get_model("BERT-base", **TINY)
    return pretrained.Pretrained(
        name="BERT-base",
        fields=TINY,
        model=model,
        variables=jax.device_get(random_variables(model, (1, 1), deviation=0.5)),
        image_size=(1, 1),
        labels=None,
        eval_pp="",
        loss="masked_words",
        vocabulary=str(path),
    )


@pytest.fixture(scope="module")
def teller(loaded):
    return make_predictor(loaded, MaskedWordsOptions(words=3), None)


@functools.cache
def jitted(model):
    return jax.jit(model.apply)


def outputs_of(loaded, tokens):
    """What the model says to at most 8 tokens."""
    n = len(tokens)
    rows = np.zeros((2, 1, 8), np.int32)
    rows[:, 0, :n] = tokens, np.ones(n)
    out = jitted(loaded.model)(loaded.variables, rows[0], None, rows[1])
    return {**out, "states": out["states"][:, :n]}


def test_the_likeliest_words(loaded, teller):
    answers = list(teller.answers(teller.find(["A [MASK] c [MASK]", "b [MASK]"])))
    assert len(answers) == 2
    logits = np.asarray(outputs_of(loaded, [2, 5, 4, 7, 4, 3])["words"][0])
    said, filled = [], []
    for place in (2, 4):
        shares = np.exp(logits[place]) / np.exp(logits[place]).sum()
        best = np.argsort(-shares)[:3]
        said.append(", ".join(f"{_shown(i)} {shares[i]:.1%}" for i in best))
        filled.append(_shown(best[0]))
    assert answers[0].line == f"A [MASK] c [MASK]: {' | '.join(said)}"
    text = f"A {filled[0]} c {filled[1]}"
    assert answers[0].row == (1, "A [MASK] c [MASK]", text, " | ".join(said))
    assert answers[1].row[:2] == (2, "b [MASK]")
    assert not answers[0].problems


def _shown(i):
    """As the tokenizer decodes one piece."""
    return PIECES[i].removeprefix("##") if i > 3 else f"[{i}]"


def test_lines_of_files_beside_what_is_typed(teller, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("a [MASK]\n\n  b [MASK]  \n")
    (tmp_path / "b.text").write_text("c [MASK]\n")
    items = teller.find([str(tmp_path / "deep"), "d [MASK]", str(tmp_path / "b.text")])
    assert [item.count for item in items] == [2, 1, 1]
    check_outputs(items, teller, None)
    count, failures = answer_items(teller, items, tmp_path)
    assert (count, failures) == (4, [])
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "line", "text", "filled", "words"]
    assert [row[:3] for row in rows[1:]] == [
        [str(tmp_path / "deep" / "a.txt"), "1", "a [MASK]"],
        [str(tmp_path / "deep" / "a.txt"), "3", "b [MASK]"],
        ["command line", "1", "d [MASK]"],
        [str(tmp_path / "b.text"), "1", "c [MASK]"],
    ]


def test_texts_that_have_no_answer(teller, caplog):
    long = " ".join(["a"] * 38)
    texts = ["a b", f"{long} [MASK]", f"[MASK] {long}", "[MASK]"]
    answers = list(teller.answers(teller.find(texts)))
    assert answers[0].problems == ("text 1 has no [MASK] to fill in: 'a b'",)
    assert answers[1].problems[0].startswith("text 2 is too long, and 1 of its [MASK] were cut off")
    assert not answers[2].problems
    assert "text 3 is too long for bert_pair(40), and its end is not looked at" in caplog.text
    assert not answers[3].problems


def test_many_texts_are_answered_alike_alone_and_together(teller):
    texts = [f"{'abcdefghij'[i % 10]} [MASK] {' c' * (i % 34)}" for i in range(40)]
    together = [answer.row[3] for answer in teller.answers(teller.find(texts))]
    alone = [next(teller.answers(teller.find([text]))).row[3] for text in texts[::13]]
    assert together[::13] == alone


@pytest.mark.parametrize("pool", text_predictors.POOLS)
def test_embeddings(loaded, pool, tmp_path):
    predictor = make_predictor(loaded, MaskedWordsOptions(embed=True, pool=pool), tmp_path)
    (tmp_path / "t.txt").write_text("a b\nc\n")
    items = predictor.find([str(tmp_path / "t.txt"), "a ab j"])
    assert predictor.outputs(items[0]) == (PurePath("embeddings.npz"), PurePath("embeddings.csv"))
    *others, last = predictor.answers(items)
    assert [bool(answer.files) for answer in others] == [False, False]
    arrays = np.load(io.BytesIO(last.files[PurePath("embeddings.npz")]))
    assert arrays["texts"].tolist() == ["a b", "c", "a ab j"]
    assert arrays["lines"].tolist() == [1, 2, 1]
    for tokens, found in zip([[2, 5, 6, 3], [2, 7, 3], [2, 5, 5, 15, 14, 3]], arrays["embeddings"]):
        out = outputs_of(loaded, tokens)
        expected = {
            "mean": out["states"][0].mean(axis=0),
            "first": out["states"][0, 0],
            "pooler": out["pooled"][0],
        }[pool]
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)
    table = last.files[PurePath("embeddings.csv")].decode().splitlines()
    rows = list(csv.reader(table))
    assert rows[0][:5] == ["file", "line", "text", "embedding_0", "embedding_1"]
    np.testing.assert_array_equal(
        np.array([row[3:] for row in rows[1:]], np.float32), arrays["embeddings"]
    )


def test_what_is_refused(loaded, teller, tmp_path):
    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            make_predictor(loaded, MaskedWordsOptions(**options), None)

    refused("--words is for", embed=True, words=2)
    refused("--pool says which embedding --embed writes: add --embed", pool="mean")
    refused("--words must lie between 1 and the model's 16, not 17", words=17)
    without = pretrained.dataclasses.replace(
        loaded, model=loaded.model.clone(heads=False, pooler=False)
    )
    with pytest.raises(ValueError, match="has no head that tells words, and embeds texts alone"):
        make_predictor(without, MaskedWordsOptions(), None)
    with pytest.raises(ValueError, match="has no pooler: take --pool=mean or first"):
        make_predictor(without, MaskedWordsOptions(embed=True, pool="pooler"), None)
    other = pretrained.dataclasses.replace(loaded, model=loaded.model.clone(vocabulary_size=17))
    with pytest.raises(ValueError, match=r"BERT-base has 17 words, and the vocabulary .* 16: say"):
        make_predictor(other, MaskedWordsOptions(), None)
    for arguments, match in (
        ([str(tmp_path / "no.txt")], "there is no file"),
        ([" ", ""], "there are no texts: give some"),
        ([str(tmp_path)], "there are no texts"),
    ):
        with pytest.raises(ValueError, match=match):
            teller.find(arguments)
    (tmp_path / "bad.txt").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match=r"cannot read the texts .*bad\.txt: "):
        teller.find([str(tmp_path / "bad.txt")])
    assert teller.find(["x" * 5000])[0].paths == (Path("command line"),)


def test_the_task():
    task = TASKS["masked_words"]
    assert task.kind == "text"
    assert next(iter(task.losses)) == "masked_words"
