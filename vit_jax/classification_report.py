"""What a classifier has to show: images with what was predicted, and the confusion matrix."""

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.classification import probabilities
from vit_jax.machinery import processes

if TYPE_CHECKING:  # it takes a while to import
    from matplotlib.figure import Figure

_COLUMNS, _MOST_SHOWN = 8, 32  # images of a report
_MOST_CLASSES = 50  # of a confusion matrix that can be read
_NAME_COLUMNS = 16
_RIGHT, _WRONG = "#1b7837", "#b2182b"


class ClassificationReport:
    """Collects predictions batch by batch, and draws them.

    Args:
        class_names: in the order of the labels.
        loss: name of the loss, which says how logits become probabilities.
    """

    sees_all = True

    def __init__(self, class_names: Sequence[str], loss: str) -> None:
        self._names = class_names
        self._loss = loss
        self._counts: collections.Counter[tuple[int, int]] = collections.Counter()
        self._wrong: list[tuple[np.ndarray, int, int, float]] = []
        self._right: list[tuple[np.ndarray, int, int, float]] = []

    def choose(self, each: Mapping[str, np.ndarray]) -> Sequence[int]:
        """No example is wanted again."""
        del each
        return ()

    def add(self, batch: Mapping[str, np.ndarray], out: np.ndarray) -> None:
        """Counts a batch: `image` (b, h, w, c), `label` (b,), and (b, classes) logits."""
        confidence = np.asarray(probabilities(out, self._loss))
        predicted = out.argmax(axis=-1)
        self._counts.update(zip(batch["label"].tolist(), predicted.tolist()))
        for image, truth, guess, p in zip(batch["image"], batch["label"], predicted, confidence):
            examples = self._right if truth == guess else self._wrong
            examples.append((image, int(truth), int(guess), float(p[guess])))
        self._keep_some()

    def _keep_some(self) -> None:
        self._wrong = sorted(self._wrong, key=lambda example: -example[-1])[:_MOST_SHOWN]
        self._right = self._right[:_MOST_SHOWN]

    def gather(self) -> None:
        everyones = processes.gather((self._counts, self._wrong, self._right))
        self._counts, self._wrong, self._right = collections.Counter(), [], []
        for counts, wrong, right in everyones:
            self._counts += counts
            self._wrong += wrong
            self._right += right
        self._keep_some()

    def write(self, folder: Any, split: str) -> None:
        """Writes predictions.png, and confusion.png if there are not too many classes."""
        from vit_jax import report

        folder.mkdir(parents=True, exist_ok=True)
        report.save(self.draw_predictions(split), folder / "predictions.png")
        if len(self._names) <= _MOST_CLASSES:
            report.save(self.draw_confusion(split), folder / "confusion.png")

    @functools.cached_property
    def _shown(self) -> list[str]:
        """The names as pictures have them."""
        from vit_jax import fonts

        return [fonts.shorten(name, _NAME_COLUMNS) for name in fonts.legible_names(self._names)]

    def draw_predictions(self, split: str) -> "Figure":
        """Draws images with what was predicted: the most confident mistakes, then right ones."""
        from vit_jax import report

        examples = (self._wrong + self._right)[:_MOST_SHOWN]
        titles, colors = [], []
        for _, truth, guess, p in examples:
            right = truth == guess
            says = f"{self._shown[guess]} {p:.0%}"
            titles.append(says if right else f"{says}\nis {self._shown[truth]}")
            colors.append(_RIGHT if right else _WRONG)
        total = self._counts.total()
        wrong = sum(count for (truth, guess), count in self._counts.items() if truth != guess)
        return report.draw_images(
            [report.displayable(image) for image, *_ in examples],
            titles,
            title=f"{split}: {wrong} of {total} wrong, the most confident mistakes first",
            columns=_COLUMNS,
            colors=colors,
        )

    def draw_confusion(self, split: str) -> "Figure":
        """Draws the confusion matrix: numbers of images by true and by predicted class."""
        from vit_jax import report

        confusion = np.zeros((len(self._names),) * 2, np.int64)
        for cell, number in self._counts.items():
            confusion[cell] = number
        return report.draw_confusion(confusion, self._shown, f"{split}: number of images")
