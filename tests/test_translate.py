"""The task: losses and figures of translations, toys that are learned, and a person's texts."""

import csv
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import toy_translation
from vit_jax import experiment, results, token_losses, train, translation
from vit_jax.models import get_model
from vit_jax.options import TranslateOptions
from vit_jax.pretrained import Pretrained
from vit_jax.tasks import translate

TINY = dict(vocabulary_size=43, hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32)


# Losses and figures.


@pytest.fixture(scope="module")
def told():
    """Logits (2, 5, 43) of targets of 4 and of 2 tokens, and the batch."""
    logits = np.random.default_rng(0).normal(size=(2, 5, 43)).astype(np.float32)
    target = np.array([[1, 7, 8, 9, 2], [1, 5, 2, 0, 0]], np.int32)
    return jnp.asarray(logits), {"target_tokens": jnp.asarray(target)}


@pytest.mark.parametrize("name", translation.LOSSES)
def test_losses_count_each_token_once(told, name):
    logits, batch = told
    function = getattr(token_losses, name)
    tokens, _ = translation.gold(batch)
    each = np.asarray(function(logits[:, :-1], tokens))
    expected = (each[0].sum() + each[1, :2].sum()) / 6
    found = translation.LOSSES[name](logits, translation.with_weight(None, batch))
    np.testing.assert_allclose(found.mean(), expected, rtol=1e-6)
    evaluated = translation.LOSSES[name]({"logits": logits, "tokens": None}, batch)
    np.testing.assert_allclose(evaluated, [each[0].mean(), each[1, :2].mean()], rtol=1e-6)


def test_figures_of_tokens(told):
    logits, batch = told
    tokens, is_counted = map(np.asarray, translation.gold(batch))
    chances = np.asarray(jax.nn.log_softmax(logits))[:, :-1]
    told_right = chances.argmax(-1) == tokens
    nll = -np.take_along_axis(chances, tokens[..., None], -1)[..., 0]
    for name, expected in {
        "token_accuracy": told_right[is_counted].mean(),
        "perplexity": np.exp(nll[is_counted].mean()),
    }.items():
        metric = translate.get_metric(name, "")
        np.testing.assert_allclose(
            metric.finish(np.asarray(metric.each(logits, batch))), expected, rtol=1e-5
        )


def test_exact_match_heeds_no_blanks():
    assert translation.exact_match(["a b", "a  b", "a", ""], ["a b", "a b", "b", "b"]) == 0.5


def test_bleu_is_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu")
    answers = ["The cat sat on the mat.", "There is a dog here, now."]
    references = ["The cat sits on the mat.", "There is a dog here now."]
    score, signature = translation.bleu(answers, references)
    assert score.score == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)
    assert "tok:13a" in signature
    assert translation.bleu(answers, references, "char")[1].count("tok:char") == 1
    with pytest.raises(ValueError, match="bleu/nonsense; sacrebleu has: 13a"):
        translate.get_metric("bleu/nonsense", "")


# What does not fit is refused.


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"unknown metric 'f1'; .*of translations"):
        translate.get_metric("f1", "")
    with pytest.raises(ValueError, match=r"translate\.beams must be at least 1, not 0"):
        translate.get_search({"translate.beams": 0})

    class Tokenize:
        vocabulary, pad, begin, end, vocabulary_size = "words.json", 5, 1, 2, 50

    class Data:
        tokenize = Tokenize()

    with pytest.raises(ValueError, match=r"words\.json has 5 for padding"):
        translate.fit(None, Data())
    Tokenize.pad = 0
    assert translate.fit(None, Data()) == {"vocabulary_size": 50, "begin": 1, "end": 2}
    config = toy_translation.get_config()
    config.label_smoothing = 0.1
    with pytest.raises(ValueError, match="label_smoothing is for the task classify"):
        experiment.validate_config(config)


# Runs.


def toy_config(toy, **fields):
    config = toy_translation.get_config(toy)
    config.model.update(fields)
    return config


@pytest.mark.slow
def test_a_run_reports_its_translations(tmp_path):
    pytest.importorskip("sacrebleu")
    config = toy_config("number_words", hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32)
    config.data.translation.examples = 40
    config.batch_size, config.total_steps, config.eval_every = 8, 2, 2
    config.translate.extra_length, config.schedule.warmup_steps = 2, 0
    config.metrics, config.best_metric = ("bleu", "exact_match"), "bleu"
    figures = train.train_and_evaluate(config, tmp_path)
    with open(tmp_path / "report" / "translations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == figures["test"]["examples"] == 1000
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses)
    answers, references = ([row[key] for row in rows] for key in ("translation", "reference"))
    score, signature = translation.bleu(answers, references)
    assert figures["test"]["bleu"] == pytest.approx(score.score)
    assert figures["test"]["exact_match"] == np.mean([row["is_exact"] == "1" for row in rows])
    assert signature in (tmp_path / "report" / "bleu.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("toy", ["reversal", pytest.param("number_words", marks=pytest.mark.rare)])
def test_toys_are_learned(toy, tmp_path):
    figures = train.train_and_evaluate(toy_config(toy), tmp_path)
    assert figures["test"]["exact_match"] >= 0.99


@pytest.mark.slow
@pytest.mark.rare
def test_without_the_causal_mask_the_loss_says_nothing(tmp_path):
    """The model copies what it is to tell: no loss is lower, and no answer is right."""
    config = toy_config("reversal", causal=False)
    config.total_steps, config.eval_every = 600, 600
    figures = train.train_and_evaluate(config, tmp_path)["test"]
    aim = np.full(43, 0.1 / 43)
    aim[0] += 0.9
    assert figures["loss"] == pytest.approx(-(aim * np.log(aim)).sum(), abs=5e-3)
    assert figures["exact_match"] == 0


@pytest.mark.slow
@pytest.mark.rare
def test_without_positions_nothing_is_reversed(tmp_path):
    config = toy_config("reversal", positions=False)
    config.total_steps, config.eval_every = 600, 600
    figures = train.train_and_evaluate(config, tmp_path)["test"]
    assert figures["loss"] > 1.2
    assert figures["exact_match"] < 0.05


# A person's texts.


@pytest.fixture(scope="module")
def pretrained():
    model = get_model("Transformer-base", tokenizer="words(8)", **TINY)
    variables = jax.jit(model.init)(jax.random.key(1), *(np.ones((1, 4), np.int32),) * 2)
    return Pretrained(
        "Transformer-base", {}, model, jax.device_get(variables), (1, 1), None, "",
        "cross_entropy", {"translate.extra_length": 3},
    )  # fmt: skip


def answers_of(pretrained, output, texts, **options):
    predictor = translate.make_predictor(pretrained, TranslateOptions(**options), output)
    items = predictor.find(texts)
    results.check_outputs(items, predictor, output)
    if output is not None:
        output.mkdir()
    return results.answer_items(predictor, items, output)


def test_lines_of_a_file_are_translated_line_by_line(pretrained, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    texts = tmp_path / "numbers.txt"
    texts.write_text("one\n\nseven hundred two\n\n1 2 3 4 5 6 7 8 9\n")
    count, failures = answers_of(pretrained, tmp_path / "out", [texts], beams=2, attention=True)
    assert (count, failures) == (3, [])
    lines = (tmp_path / "out" / "numbers.txt").read_text().split("\n")
    assert len(lines) == 6
    assert lines[1] == lines[3] == lines[5] == ""
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["line"]) for row in rows] == [1, 3, 5]
    assert [row["translation"] for row in rows] == lines[::2][:3]
    assert "line 5 of" in caplog.text
    assert "too long" in caplog.text
    pictures = sorted(path.name for path in (tmp_path / "out" / "attention" / "numbers").iterdir())
    assert pictures == ["1.png", "3.png", "5.png"]
    predictor = translate.make_predictor(pretrained, TranslateOptions(), tmp_path / "out")
    items = predictor.find([texts])
    with pytest.raises(ValueError, match="there already"):
        results.check_outputs(items, predictor, tmp_path / "out")


@pytest.mark.slow
def test_answers_are_those_of_the_search(pretrained):
    tokens = np.array([[10, 31, 2, 0]], np.int32)  # "seven hundred"
    for beams in (1, 3):
        found = translation.translate(
            pretrained.model,
            pretrained.variables,  # numpy's arrays, as they were loaded
            tokens,
            translation.Search(beams, 0.6, 3),
        )
        predictor = translate.make_predictor(pretrained, TranslateOptions(beams=beams), None)
        (item,) = predictor.find(["seven hundred"])
        (answer,) = predictor.answers([item])
        said = predictor._tokenizer.decode(found.tokens[0])
        assert answer.line == f"seven hundred -> {said}"
        assert float(answer.row[3]) == pytest.approx(float(found.scores[0]), abs=1e-3)
    for options, message in (
        ({"beams": 0}, "--beams must be at least 1, not 0"),
        ({"length_penalty": float("nan")}, "--length_penalty must be at least 0, not nan"),
    ):
        with pytest.raises(ValueError, match=message):
            translate.make_predictor(pretrained, TranslateOptions(**options), None)
