"""Translations: their losses and figures, and how a Transformer comes to them.

A batch has `source` (b, m) int32, tokens and the end, and `target_tokens` (b, n) int32, the begin,
tokens and the end; both are filled up with `PAD`. What a model returns at token i of the target is
compared with token i + 1.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.arguments import unknown
from vit_jax import decoding, token_losses

PAD = 0  # of which losses and figures take no notice

Batch = Mapping[str, Any]
Out = Any  # logits (b, n, vocabulary), or a mapping with `logits`, and `tokens` of a translation


def gold(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The tokens that a model is to tell, (b, n - 1) int32, and whether each counts, bool."""
    tokens = batch["target_tokens"][:, 1:]
    return tokens, tokens != PAD


def _logits(out: Out) -> jax.Array:
    """(b, n - 1, vocabulary), those that are compared with `gold`."""
    return (out["logits"] if isinstance(out, Mapping) else out)[:, :-1]


def cross_entropy(out: Out, batch: Batch) -> jax.Array:
    """Minus the mean log-probability of each target's tokens, times its weight; (b,) in nats."""
    return _of_tokens(token_losses.cross_entropy, out, batch)


def smoothed_torch(out: Out, batch: Batch, smoothing: float = 0.1) -> jax.Array:
    """See `token_losses.smoothed_torch`; (b,)."""
    return _of_tokens(token_losses.smoothed_torch, out, batch, smoothing=smoothing)


def smoothed_tensor2tensor(out: Out, batch: Batch, smoothing: float = 0.1) -> jax.Array:
    """See `token_losses.smoothed_tensor2tensor`; (b,)."""
    return _of_tokens(token_losses.smoothed_tensor2tensor, out, batch, smoothing=smoothing)


def smoothed_annotated(out: Out, batch: Batch, smoothing: float = 0.1) -> jax.Array:
    """See `token_losses.smoothed_annotated`; (b,)."""
    loss = functools.partial(token_losses.smoothed_annotated, pad=PAD)
    return _of_tokens(loss, out, batch, smoothing=smoothing)


def _of_tokens(
    loss: Callable[..., jax.Array], out: Out, batch: Batch, **settings: float
) -> jax.Array:
    tokens, is_counted = gold(batch)
    return token_losses.per_text(loss(_logits(out), tokens, **settings), is_counted, batch)


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": cross_entropy,
    "smoothed_torch": smoothed_torch,
    "smoothed_tensor2tensor": smoothed_tensor2tensor,
    "smoothed_annotated": smoothed_annotated,
}


def with_weight(key: jax.Array, batch: Batch) -> Batch:
    """Adds the `weight` of each pair to a batch, by which all tokens of it count alike."""
    del key
    return token_losses.with_weight(batch, gold(batch)[1])


def _accuracy(out: Out, batch: Batch) -> jax.Array:
    tokens, is_counted = gold(batch)
    return token_losses.sums(jnp.argmax(_logits(out), axis=-1) == tokens, is_counted)


def _entropy(out: Out, batch: Batch) -> jax.Array:
    tokens, is_counted = gold(batch)
    return token_losses.sums(token_losses.cross_entropy(_logits(out), tokens), is_counted)


def _tokens(out: Out, batch: Batch) -> jax.Array:
    """What was answered, (b, length) int32; of all figures of texts, which it is computed once."""
    del batch
    return out["tokens"]


def read(
    data: Any, split: str, tokens: np.ndarray, index: np.ndarray
) -> tuple[list[str], list[str], list[str]]:
    """The texts of a split, in the order of some answers to them.

    Args:
        data: with a tokenizer, of whose split the sentences are kept.
        split: its name.
        tokens: (examples, length) int32, the answers.
        index: (examples,) the pairs' numbers.

    Returns:
        Sources, references and answers, without blanks at either end.

    Raises:
        ValueError: if there are no sentences.
    """
    sentences = getattr(data.splits[split], "sentences", ())
    if not sentences:
        raise ValueError(
            f"the split {split} keeps no sentences to compare answers with: set metrics to "
            "token_accuracy or perplexity, or evaluate another split"
        )
    pairs = [sentences[i] for i in index]
    answers = [data.tokenize.decode(row) for row in tokens]
    return [source for source, _ in pairs], [target.strip() for _, target in pairs], answers


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """The share of the answers that are their reference, but for the number of blanks."""
    pairs = zip(answers, references, strict=True)
    return float(np.mean([answer.split() == reference.split() for answer, reference in pairs]))


def bleu(answers: Sequence[str], references: Sequence[str], tokenize: str = "") -> tuple[Any, str]:
    """BLEU of a corpus, as sacrebleu counts it.

    Source: Post, "A Call for Clarity in Reporting BLEU Scores" (WMT 2018).

    Args:
        answers: texts.
        references: one for each.
        tokenize: sacrebleu's name of what cuts the texts into words; "" for its own choice, 13a.

    Returns:
        sacrebleu's score, whose `score` lies in 0 .. 100, and its signature, without which the
        score means little.

    Raises:
        ModuleNotFoundError: if sacrebleu is not installed.
        ValueError: if it knows no such tokenizer.
    """
    metric = _make_bleu(tokenize)
    return metric.corpus_score(list(answers), [list(references)]), str(metric.get_signature())


def _make_bleu(tokenize: str) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"BLEU is counted by sacrebleu, and {error.name} is not installed: pip install "
            "'vit_jax[translate]', or take bleu out of config.metrics"
        ) from None
    known = sorted(BLEU.TOKENIZERS)
    if tokenize and tokenize not in known:
        raise ValueError(f"unknown metric bleu/{tokenize}; sacrebleu has: {', '.join(known)}")
    try:
        return BLEU(tokenize=tokenize or None)
    except (ImportError, RuntimeError) as error:  # of what some of them need besides
        raise ValueError(f"the metric bleu/{tokenize} cannot be computed: {error}") from None


class Figure(NamedTuple):
    """A figure of translations, see `tasks.base.Metric`.

    Attributes:
        each: from an output and its batch to (b, ...) numbers.
        finish: from those of a split to the figure, if it is one of numbers.
        compare: from the data, the split's name, the numbers and the examples' `index` to the
            figure, if it is one of texts.
    """

    each: Callable[[Out, Batch], jax.Array]
    finish: Callable[[np.ndarray], float] | None = None
    compare: Callable[[Any, str, np.ndarray, np.ndarray], float] | None = None


def _of_texts(figure: Callable[[Sequence[str], Sequence[str]], float]) -> Figure:
    def compare(data: Any, split: str, tokens: np.ndarray, index: np.ndarray) -> float:
        _, references, answers = read(data, split, tokens, index)
        return figure(answers, references)

    return Figure(_tokens, compare=compare)


def find_figure(name: str) -> Figure:
    """Finds a figure: token_accuracy, perplexity, exact_match, bleu, or bleu/TOKENIZER.

    The first two are of the tokens that are told when those before are given, the others of whole
    translations: exact_match is a share, and BLEU lies in 0 .. 100.

    Raises:
        ModuleNotFoundError: for bleu, if sacrebleu is not installed.
        ValueError: for an unknown name.
    """
    if name in _FIGURES:
        return _FIGURES[name]
    kind, _, tokenize = name.partition("/")
    if kind != "bleu":
        known = (*_FIGURES, "bleu", "bleu/TOKENIZER")
        raise ValueError(unknown("metric", name, known, "of translations "))
    _make_bleu(tokenize)  # or it would fail after the first evaluation
    return _of_texts(lambda answers, references: bleu(answers, references, tokenize)[0].score)


_FIGURES = {
    "token_accuracy": Figure(_accuracy, token_losses.mean_of_tokens),
    "perplexity": Figure(_entropy, token_losses.perplexity),
    "exact_match": _of_texts(exact_match),
}


class Search(NamedTuple):
    """How a translation is looked for.

    Attributes:
        beams: sequences that are followed at once; 1 is greedy.
        length_penalty: alpha of `decoding.length_penalty`.
        extra_length: tokens that an answer may have more than its source.
    """

    beams: int = 1
    length_penalty: float = 0.6
    extra_length: int = 50


def translate(model: Any, variables: Any, source: jax.Array, search: Search) -> decoding.Decoded:
    """Looks for the translations of sources.

    Args:
        model: a `models.transformer.Transformer`.
        variables: its own.
        source: (b, m) int32; a row of padding alone has an empty answer.
        search: how.

    Returns:
        Tokens (b, m + extra_length), and scores (b,).
    """
    memory = model.apply(variables, source, method="encode")
    length = source.shape[1] + search.extra_length
    cache = model.apply(variables, memory, source, length, method="start")

    def step(tokens: jax.Array, position: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        logits, cache = model.apply(variables, tokens, position, cache, method="decode_step")
        return jax.nn.log_softmax(logits), cache

    counts = (source != model.pad).sum(axis=1)
    limits = jnp.where(counts > 0, counts + search.extra_length, 0)
    ends = (model.begin, model.end, limits, length)
    alpha = search.length_penalty
    if search.beams > 1:
        return decoding.beam_search(step, cache, *ends, search.beams, alpha, model.pad)
    return decoding.greedy(step, cache, *ends, model.pad, alpha)
