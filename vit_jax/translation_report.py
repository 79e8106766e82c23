"""What an evaluation of translations has to show: each of them, and what BLEU was counted by."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax import translation

_COLUMNS = ("source", "reference", "translation", "is_exact", "loss")


class TranslationReport:
    """Lists sources, references and translations, the worst last.

    Args:
        data: of the run.
        split: its name.
        metrics: of the run; without one of texts, there are no translations to list.
    """

    sees_all = False

    def __init__(self, data: Any, split: str, metrics: Sequence[str]) -> None:
        self._data = data
        self._split = split
        self._metrics = [name for name in metrics if translation.find_figure(name).compare]
        self._texts: tuple[list[str], list[str], list[str]] = ([], [], [])
        self._loss = np.zeros(0)

    def choose(self, each: Mapping[str, np.ndarray]) -> Sequence[int]:
        """Keeps the texts; no example is wanted again."""
        order = np.argsort(each["loss"], kind="stable")
        self._loss = each["loss"][order]
        if self._metrics:
            tokens, index = each[self._metrics[0]][order], each["index"][order]
            self._texts = translation.read(self._data, self._split, tokens, index)
        return ()

    def add(self, batch: Mapping[str, np.ndarray], out: Any) -> None:
        raise AssertionError("no example was wanted")

    def gather(self) -> None:
        """Nothing is missing: figures are whole on every process."""

    def write(self, folder: Any, split: str) -> None:
        """Writes translations.csv, and bleu.txt with BLEU, its parts and its signatures."""
        if not self._metrics:
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "translations.csv").write_bytes(self._table())
        _, references, answers = self._texts
        names = [name.partition("/") for name in self._metrics]
        scores = [translation.bleu(answers, references, cut) for kind, _, cut in names
                  if kind == "bleu"]  # fmt: skip
        if scores:
            lines = [f"{split}: {score} ({signature})\n" for score, signature in scores]
            (folder / "bleu.txt").write_text("".join(lines))

    def _table(self) -> bytes:
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(_COLUMNS)
        for source, reference, answer, loss in zip(*self._texts, self._loss, strict=True):
            is_exact = int(translation.exact_match([answer], [reference]))
            writer.writerow([source, reference, answer, is_exact, f"{loss:.4f}"])
        return table.getvalue().encode("utf-8", errors="surrogateescape")
