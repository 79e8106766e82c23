"""BERT's pretraining, and what its models are used for: to tell words, and to embed texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from input_pipeline.arguments import unknown
from vit_jax import masked_words
from vit_jax.options import MaskedWordsOptions
from vit_jax.tasks import plain
from vit_jax.tasks.base import Batch, Metric, Output, Predictor, Pretrained, Task


def get_metric(name: str, loss: str) -> Metric:
    """Finds a metric by its name, see `masked_words.FIGURES`.

    Raises:
        ValueError: for an unknown name.
    """
    del loss
    if name not in masked_words.FIGURES:
        raise ValueError(unknown("metric", name, masked_words.FIGURES, "of masked words "))
    return Metric(*masked_words.FIGURES[name])


def fit(model: Any, data: Any) -> dict[str, Any]:
    """The size of the vocabulary, which is that of the data's tokenizer."""
    del model
    tokenizer = getattr(data, "tokenize", None)  # which made-up data lack
    return {} if tokenizer is None else {"vocabulary_size": tokenizer.vocabulary_size}


def prepare(config: Any, model: Any) -> Callable[[jax.Array, Batch], Batch]:
    """Weighs the texts of a batch, see `masked_words.add_weight`."""
    del config, model
    return masked_words.add_weight


def make_predictor(
    pretrained: Pretrained, options: MaskedWordsOptions, output: Path | None
) -> Predictor:
    """Makes what fills in [MASK] in a person's texts, or embeds them.

    Raises:
        ValueError: for options that do not fit each other or the model.
    """
    from vit_jax import text_predictors  # which imports this package

    if options.embed:
        if options.words is not None:
            raise ValueError("--words is for [MASK]: leave it out, or --embed")
        return text_predictors.Embedder(pretrained, options.pool or "mean", output is not None)
    if options.pool is not None:
        raise ValueError("--pool says which embedding --embed writes: add --embed")
    return text_predictors.WordTeller(pretrained, 5 if options.words is None else options.words)


TASK = Task(
    name="masked_words",
    inputs=("tokens", "segments", "mask", "positions"),
    truths=("words", "next"),
    losses={
        "masked_words": masked_words.word_loss,
        "next_sentence": masked_words.next_loss,
    },
    metric=get_metric,
    metrics=("masked_accuracy", "next_accuracy", "perplexity"),
    kind="text",
    fit=fit,
    prepare=prepare,
    output=lambda model, loss: Output("states"),
    report=plain.report,
    predictor=make_predictor,
    options=MaskedWordsOptions,
    usage='"A text with a [MASK]."',
    pipeline_tag="fill-mask",
)
