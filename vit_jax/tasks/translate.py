"""Translation: a text in, another out, such as the same sentence in another language."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax import translation
from vit_jax.options import TranslateOptions
from vit_jax.tasks import plain
from vit_jax.tasks.base import (
    Batch,
    Metric,
    Out,
    Output,
    Panel,
    Predictor,
    Pretrained,
    Task,
)
from vit_jax.translation import Search

_SETTINGS = {
    "beams": "translate.beams",
    "length_penalty": "translate.length_penalty",
    "extra_length": "translate.extra_length",
}
_FLAGS = {"beams": "--beams", "length_penalty": "--length_penalty"}
_LEAST = {"beams": 1, "length_penalty": 0, "extra_length": 1}


def get_search(settings: Mapping[str, Any]) -> Search:
    """How a run's settings say that translations are looked for; what they do not say is usual.

    Raises:
        ValueError: for numbers that are none.
    """
    given = {name: settings.get(key) for name, key in _SETTINGS.items()}
    return _changed(Search(), given, _SETTINGS)


def _changed(search: Search, given: Mapping[str, Any], said: Mapping[str, str]) -> Search:
    """A search with those values that are not None; a ValueError calls one as a person does."""
    values = {name: value for name, value in given.items() if value is not None}
    for name, value in values.items():
        if not value >= _LEAST[name]:  # which is no number, either
            raise ValueError(f"{said[name]} must be at least {_LEAST[name]}, not {value}")
    return search._replace(**values)


def get_metric(name: str, loss: str) -> Metric:
    """Finds a metric by its name, see `translation.find_figure` also for the errors."""
    del loss
    figure = translation.find_figure(name)
    if figure.finish is None:
        return Metric(figure.each, compare=figure.compare)
    return Metric(figure.each, figure.finish)


def fit(model: Any, data: Any) -> dict[str, Any]:
    """The vocabulary's size, begin and end, which are those of the data's tokenizer.

    Raises:
        ValueError: if its padding is not 0.
    """
    del model
    tokenizer = getattr(data, "tokenize", None)  # which made-up data lack
    if tokenizer is None:
        return {}
    if tokenizer.pad != translation.PAD:
        raise ValueError(
            f"the vocabulary {tokenizer.vocabulary} has {tokenizer.pad} for padding, and a "
            f"translation needs {translation.PAD}: train one by input_pipeline.train_tokenizer"
        )
    return {
        "vocabulary_size": tokenizer.vocabulary_size,
        "begin": tokenizer.begin,
        "end": tokenizer.end,
    }


def prepare(config: Any, model: Any) -> Callable[[jax.Array, Batch], Batch]:
    """Weighs the pairs of a batch, see `translation.with_weight`."""
    del config, model
    return translation.with_weight


def answer(model: Any, settings: Mapping[str, Any]) -> Callable[[Any, Batch], Out]:
    """Makes what translates, and says how likely the target is.

    What comes out is `logits` (b, n, vocabulary), given the target, and `tokens` (b, length) int32
    that were found without it; the length is the same for sources of whatever length.
    """
    from input_pipeline import tokenizers

    search = get_search(settings)
    length = tokenizers.parse(model.tokenizer)[1] + search.extra_length

    def apply(variables: Any, batch: Batch) -> Out:
        source = batch["source"]
        logits = model.apply(variables, source, batch["target_tokens"], train=False)
        tokens = translation.translate(model, variables, source, search).tokens
        missing = length - tokens.shape[1]
        tokens = jnp.pad(tokens, ((0, 0), (0, missing)), constant_values=model.pad)
        return {"logits": logits, "tokens": tokens}

    return apply


def make_report(data: Any, split: str, config: Any) -> Any:
    """Makes the report, see `translation_report`."""
    from vit_jax import translation_report  # which imports this package

    return translation_report.TranslationReport(data, split, config.metrics)


def make_predictor(
    pretrained: Pretrained, options: TranslateOptions, output: Path | None
) -> Predictor:
    """Makes what translates a person's texts.

    Raises:
        ValueError: for options that do not fit.
    """
    from vit_jax import translator  # which imports this package

    search = get_search(pretrained.settings)
    if pretrained.settings.get(_SETTINGS["beams"]) is None:
        search = search._replace(beams=4)
    search = _changed(search, {name: getattr(options, name) for name in _FLAGS}, _FLAGS)
    return translator.Translator(pretrained, search, options.attention, output is not None)


def make_panel(pretrained: Pretrained) -> Panel:
    """A text's translation, and which words it looked at as it wrote each of its own."""
    predictor = make_predictor(pretrained, TranslateOptions(attention=True), None)

    def answer(text: str) -> Sequence[Any]:
        found = plain.ask(predictor, text)
        pictures = [data for file, data in found.files.items() if file.suffix == ".png"]
        return found.value, *pictures

    shows = {"Translation": "text", "Where it looked": "picture"}
    return Panel("type a text to be translated", {"Text": "text"}, shows, answer)


TASK = Task(
    name="translate",
    inputs=("source", "target_tokens"),
    truths=("target_tokens",),
    losses=translation.LOSSES,
    metric=get_metric,
    metrics=("exact_match", "token_accuracy", "perplexity"),
    settings=tuple(_SETTINGS.values()),
    kind="translation",
    fit=fit,
    prepare=prepare,
    output=lambda model, loss: Output("logits", "softmax"),
    answer=answer,
    report=make_report,
    predictor=make_predictor,
    options=TranslateOptions,
    usage='"A text."',
    pipeline_tag="translation",
    panel=make_panel,
)
