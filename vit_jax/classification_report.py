"""What a classifier has to show: images with what was said of them, and a table of the classes."""

import abc
import csv
import functools
import io
import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vit_jax import classification
from vit_jax.machinery import processes

if TYPE_CHECKING:  # it takes a while to import
    from matplotlib.figure import Figure

_LOG = logging.getLogger(__name__)

_COLUMNS, _MOST_SHOWN = 8, 32  # images of a report
_MOST_CLASSES = 50  # of a picture that can be read
_MOST_SAID = 3  # classes of an image with several
_MOST_SCORES = 2**28  # probabilities of all examples that are kept, 1 GiB
_NAME_COLUMNS = 16
_RIGHT, _WRONG = "#1b7837", "#b2182b"


class _Example(NamedTuple):
    """An image with what was said of it.

    Attributes:
        image: (h, w, c).
        truth: the class; of several labels (classes,) bool, which are there.
        guess: the same as the model has it.
        p: (classes,) probabilities.
        confidence: of the guess; of a wrong one, how sure the model was of what is wrong.
    """

    image: np.ndarray
    truth: Any
    guess: Any
    p: np.ndarray
    confidence: float


class _Report(abc.ABC):
    """Collects predictions batch by batch.

    Args:
        class_names: in the order of the labels.
        loss: name of the loss, which says how logits become probabilities.
    """

    sees_all = True

    def __init__(self, class_names: Sequence[str], loss: str) -> None:
        self._names = class_names
        self._loss = loss
        self._scores_of = classification.scores_of(loss)
        self._counts = np.zeros((3, len(class_names)), np.int64)
        self._scores: list[np.ndarray] | None = []  # None if they are too many
        self._kept = 0  # numbers in them
        self._wrong: list[_Example] = []
        self._right: list[_Example] = []
        self._mistakes = self._total = 0

    def choose(self, each: Mapping[str, np.ndarray]) -> Sequence[int]:
        """No example is wanted again."""
        del each
        return ()

    def add(self, batch: Mapping[str, np.ndarray], out: np.ndarray) -> None:
        """Counts a batch: `image` (b, h, w, c), `label`, and (b, classes) logits."""
        logits = jnp.asarray(out)
        guesses = np.asarray(classification.guesses(logits, batch))
        scores = np.asarray(self._scores_of(logits, batch))
        self._count(guesses)
        self._keep_scores(scores)
        for image, guessed, row in zip(batch["image"], guesses, scores):
            p = row[1] if row.ndim == 2 else row[1:]
            truth, guess = guessed
            wrong = bool(np.any(truth != guess))
            example = _Example(image, truth, guess, p, self._confidence(truth, guess, p))
            (self._wrong if wrong else self._right).append(example)
            self._mistakes += wrong
            self._total += 1
        self._keep_some()

    def _count(self, guesses: np.ndarray) -> None:
        self._counts += classification.count(guesses, len(self._names))

    def _keep_scores(self, scores: np.ndarray) -> None:
        self._kept += scores.size
        if self._scores is not None and self._kept > _MOST_SCORES:
            self._scores = None
        if self._scores is not None:
            self._scores.append(scores)

    @abc.abstractmethod
    def _confidence(self, truth: Any, guess: Any, p: np.ndarray) -> float:
        """See `_Example`."""

    def _keep_some(self) -> None:
        self._wrong = sorted(self._wrong, key=lambda example: -example.confidence)[:_MOST_SHOWN]
        self._right = self._right[:_MOST_SHOWN]

    def gather(self) -> None:
        own = (self._counts, self._scores, self._wrong, self._right, self._mistakes, self._total)
        counts, scores, wrong, right, mistakes, totals = zip(*processes.gather(own))
        self._counts = np.sum(counts, axis=0)
        self._scores = None if None in scores else list(chain(*scores))
        self._wrong, self._right = list(chain(*wrong)), list(chain(*right))
        self._mistakes, self._total = sum(mistakes), sum(totals)
        self._keep_some()

    def write(self, folder: Any, split: str) -> None:
        """Writes classes.csv and predictions.png."""
        from vit_jax import report

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "classes.csv").write_text(self._class_table(), encoding="utf-8")
        report.save(self.draw_predictions(split), folder / "predictions.png")

    @functools.cached_property
    def _figures(self) -> dict[str, np.ndarray]:
        """Figures of each class by name, NaN where a class has none."""
        figures = classification.class_figures(self._counts)
        if self._scores:
            scores = np.concatenate(self._scores)
            figures["auc"] = classification.roc_areas(scores)
            figures["average_precision"] = classification.average_precisions(scores)
        else:
            _LOG.warning("classes.csv has no auc and no average_precision: of so many examples and "
                         "classes the probabilities are not kept")  # fmt: skip
        return figures

    def _class_table(self) -> str:
        """A row for each class: how many examples there are and were guessed, and its figures."""
        found, guessed, there = self._counts
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["class", "examples", "predicted", "right", *self._figures])
        for i, name in enumerate(self._names):
            cells = ["" if np.isnan(x[i]) else f"{x[i]:.6f}" for x in self._figures.values()]
            writer.writerow([name, there[i], guessed[i], found[i], *cells])
        return text.getvalue()

    @functools.cached_property
    def _shown(self) -> list[str]:
        """The names as pictures have them."""
        from vit_jax import fonts

        return [fonts.shorten(name, _NAME_COLUMNS) for name in fonts.legible_names(self._names)]

    def draw_predictions(self, split: str) -> "Figure":
        """Draws images with what was predicted: the most confident mistakes, then right ones."""
        from vit_jax import report

        examples = (self._wrong + self._right)[:_MOST_SHOWN]
        wrong = min(len(self._wrong), len(examples))
        return report.draw_images(
            [report.displayable(example.image) for example in examples],
            [self._say(example) for example in examples],
            title=self._title(split),
            columns=_COLUMNS,
            colors=[_WRONG] * wrong + [_RIGHT] * (len(examples) - wrong),
        )

    def _title(self, split: str) -> str:
        wrong = f"{self._mistakes} of {self._total} wrong"
        return f"{split}: {wrong}, the most confident mistakes first"

    @abc.abstractmethod
    def _say(self, example: _Example) -> str:
        """What stands above an image."""


class ClassificationReport(_Report):
    """Predictions of one label for each image; which class is taken for which."""

    def __init__(self, class_names: Sequence[str], loss: str) -> None:
        super().__init__(class_names, loss)
        count = len(class_names) if len(class_names) <= _MOST_CLASSES else 0
        self._confusion = np.zeros((count, count), np.int64)

    def _count(self, guesses: np.ndarray) -> None:
        super()._count(guesses)
        if self._confusion.size:
            np.add.at(self._confusion, tuple(guesses.T), 1)

    def gather(self) -> None:
        super().gather()
        self._confusion = np.sum(processes.gather(self._confusion), axis=0)

    def write(self, folder: Any, split: str) -> None:
        """Also writes confusion.png, if there are not too many classes."""
        from vit_jax import report

        super().write(folder, split)
        if self._confusion.size:
            report.save(self.draw_confusion(split), folder / "confusion.png")

    def _confidence(self, truth: Any, guess: Any, p: np.ndarray) -> float:
        del truth
        return float(p[guess])

    def _say(self, example: _Example) -> str:
        says = f"{self._shown[example.guess]}: {example.confidence:.0%}"
        right = example.truth == example.guess
        return says if right else f"{says}\nis {self._shown[example.truth]}"

    def draw_confusion(self, split: str) -> "Figure":
        """Draws the confusion matrix: numbers of images by true and by predicted class."""
        from vit_jax import report

        return report.draw_confusion(self._confusion, self._shown, f"{split}: number of images")


class MultiLabelReport(_Report):
    """Predictions of several labels for an image; how well each class is found."""

    def write(self, folder: Any, split: str) -> None:
        """Also writes average_precision.png, if the classes have one."""
        from vit_jax import report

        super().write(folder, split)
        if "average_precision" in self._figures:
            report.save(self.draw_classes(split), folder / "average_precision.png")

    def _confidence(self, truth: Any, guess: Any, p: np.ndarray) -> float:
        return float(np.where(guess, p, 1 - p)[truth != guess].max(initial=0))

    def _say(self, example: _Example) -> str:
        """The classes said or there, what is wrong of them first."""
        wrong = example.truth != example.guess
        there = np.flatnonzero(example.truth | example.guess)
        order = sorted(there, key=lambda i: (not wrong[i], -example.p[i]))
        signs = {(0, 1): "+ ", (1, 0): "- ", (1, 1): ""}
        lines = [
            f"{signs[int(example.truth[i]), int(example.guess[i])]}{self._shown[i]}: "
            f"{example.p[i]:.0%}"
            for i in order
        ]
        if len(lines) > _MOST_SAID:
            lines[_MOST_SAID - 1 :] = [f"and {len(lines) - _MOST_SAID + 1} more"]
        return "\n".join(lines) or "none"

    def _title(self, split: str) -> str:
        return f"{super()._title(split)}\n+ said and not there, - there and not said"

    def draw_classes(self, split: str) -> "Figure":
        """Draws the average precision of each class, of many the worst ones."""
        from matplotlib.figure import Figure

        from vit_jax import fonts

        values = self._figures["average_precision"]
        order = np.argsort(values, kind="stable")[: np.sum(~np.isnan(values))][:_MOST_CLASSES]
        names = [f"{self._shown[i]} ({self._counts[2, i]})" for i in order]
        figure = Figure(figsize=(7, 1.2 + 0.25 * len(order)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(range(len(order)), values[order], color="C0")
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axes.set_yticks(range(len(order)), names, **fonts.style(*names))
        axes.invert_yaxis()
        axes.set(xlim=(0, 1.08), xlabel="average precision; in brackets the number of images",
                 title=f"{split}: the worst first")  # fmt: skip
        return figure


def make_report(data: Any, split: str, config: Any) -> _Report:
    """Makes the report of data with one label, or several, for each image."""
    del split
    kind = MultiLabelReport if classification.has_several(data) else ClassificationReport
    return kind(data.class_names, config.loss)
