"""What `predict` does with a model that translates: lines in, lines out."""

import dataclasses
import functools
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np

from vit_jax import text_predictors, translation
from vit_jax.tasks import base
from vit_jax.text_predictors import BATCH, STEP, TYPED, Text

_ENDING = ".txt"


class Translator:
    """Translates texts, line by line.

    Args:
        pretrained: the model.
        search: how translations are looked for.
        draws: whether attention is drawn.
        writes: whether there is a folder for results.

    Raises:
        ValueError: if the vocabulary is not the model's.
    """

    header = ("line", "text", "translation", "score")
    take = staticmethod(text_predictors.take_texts)

    def __init__(
        self, pretrained: base.Pretrained, search: translation.Search, draws: bool, writes: bool
    ) -> None:
        from input_pipeline import tokenizers

        model = pretrained.model
        self._tokenizer = tokenizers.make_tokenizer(model.tokenizer, pretrained.vocabulary)
        text_predictors.check_vocabulary(pretrained, self._tokenizer)
        self._writes = writes
        self._draws = draws
        self._model = model
        self._variables = jax.device_put(pretrained.variables)
        self._translate = jax.jit(
            lambda variables, source: translation.translate(model, variables, source, search)
        )

    @property
    def has_files(self) -> bool:
        """Whether answers have files; a translation is said anyway."""
        return self._draws

    def find(self, arguments: Sequence[str | os.PathLike[str]]) -> list[base.Item]:
        """An item for each file, and one for all that was typed."""
        return text_predictors.find_items(arguments, _name)

    def outputs(self, item: base.Item) -> Sequence[PurePath]:
        """NAME.txt, with a line for each of the file's; and pictures in a folder of its own."""
        drawn = (_folder(item.inside),) if self._draws else ()
        return (item.inside, *drawn) if self._writes else ()

    def answers(self, items: Sequence[base.Item]) -> Iterator[base.Answer]:
        """An answer for each text, the last of which has the file of all of an item."""
        for item in items:
            texts = text_predictors.texts_in(item)
            lines = [""] * _count_lines(item, texts)
            for batch in text_predictors.batches(texts):
                for text, answer in zip(batch, self._answer(batch, item)):
                    lines[text.line - 1] = answer.value
                    if text is texts[-1]:
                        data = "".join(f"{line}\n" for line in lines).encode()
                        files = {**answer.files, item.inside: data}
                        answer = dataclasses.replace(answer, files=files)
                    yield answer

    def _answer(self, texts: Sequence[Text], item: base.Item) -> Iterator[base.Answer]:
        source, is_cut = self._tokenizer.encode([text.text for text in texts], begins=False)
        longest = int((source != self._model.pad).sum(axis=1).max())
        width = min(-(-longest // STEP) * STEP, source.shape[1])
        rows = np.pad(source[:, :width], [(0, BATCH - len(texts)), (0, 0)])
        tokens, scores = jax.device_get(self._translate(self._variables, rows))
        for i, text in enumerate(texts):
            if is_cut[i]:
                text_predictors.say_cut(text, self._tokenizer.spec, "translated")
            said = " ".join(self._tokenizer.decode(tokens[i]).split("\n"))
            files = self._picture(item, text, source[i], tokens[i]) if self._draws else {}
            row = (text.line, text.text, said, f"{scores[i]:.4f}")
            yield base.Answer(text.path, f"{text.text} -> {said}", row, files, value=said)

    @functools.cached_property
    def _draw(self) -> Any:
        from vit_jax import attention_maps  # matplotlib takes a while to import

        return attention_maps.make_alignment_drawer(self._model, self._variables, self._piece)

    def _picture(
        self, item: base.Item, text: Text, source: np.ndarray, tokens: np.ndarray
    ) -> Mapping[PurePath, bytes]:
        """A picture of where the last layer looks as it writes a translation."""
        model = self._model
        source, tokens = source[source != model.pad], tokens[tokens != model.pad]
        figure = self._draw(source, [model.begin, *tokens], text.text)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=100)
        return {_folder(item.inside) / f"{text.line}.png": data.getvalue()}

    def _piece(self, token: int) -> str:
        """A token as a person reads it."""
        return "</s>" if token == self._model.end else self._tokenizer.decode([token])


def _name(path: Path) -> str:
    """That of the file with the translations of a file's lines, or of what was typed."""
    if path == TYPED:
        return f"translations{_ENDING}"
    return path.name if path.name.lower().endswith(_ENDING) else f"{path.name}{_ENDING}"


def _folder(inside: PurePath) -> PurePath:
    """That of the pictures of what a file holds."""
    return PurePath("attention") / inside.stem


def _count_lines(item: base.Item, texts: Sequence[Text]) -> int:
    """The lines of a file, of which those that are empty are no texts."""
    path = item.paths[0]
    return len(texts) if path == TYPED else len(text_predictors.lines_of(path, item.read()))
