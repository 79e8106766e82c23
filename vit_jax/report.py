"""What a run has to show: curves, images with what was made of them, and tables."""

import collections
import csv
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from checkpoints import files
from vit_jax import fonts, losses
from vit_jax.machinery import processes
from vit_jax.models import PUBLISHED_SCORES

INPUT = "input/"  # begins the names of figures of images before they are restored

_GALLERY = (4, 8)  # rows and columns
_MOST_CLASSES = 50  # of a confusion matrix that can be read
_NO_FIGURES = ("step", "split", "protocol", "examples")  # of a line of metrics.jsonl
_STYLES = {"train": ("-", "C0"), "val": (".-", "C1"), "test": ("*", "C2")}
_RIGHT, _WRONG = "#1b7837", "#b2182b"


class ClassificationReport:
    """Collects predictions batch by batch, and draws them.

    Args:
        class_names: in the order of the labels.
        loss: name of the loss, which says how logits become probabilities.
    """

    def __init__(self, class_names: Sequence[str], loss: str) -> None:
        self._names = class_names
        self._loss = loss
        self._counts: collections.Counter[tuple[int, int]] = collections.Counter()
        self._wrong: list[tuple[np.ndarray, int, int, float]] = []
        self._right: list[tuple[np.ndarray, int, int, float]] = []

    def add(self, batch: Mapping[str, np.ndarray], logits: np.ndarray) -> None:
        """Counts a batch: `image` (b, h, w, c), `label` (b,), and (b, classes) logits."""
        confidence = np.asarray(losses.probabilities(logits, self._loss))
        predicted = logits.argmax(axis=-1)
        self._counts.update(zip(batch["label"].tolist(), predicted.tolist()))
        for image, truth, guess, p in zip(batch["image"], batch["label"], predicted, confidence):
            examples = self._right if truth == guess else self._wrong
            examples.append((image, int(truth), int(guess), float(p[guess])))
        self._keep_some()

    def _keep_some(self) -> None:
        most = _GALLERY[0] * _GALLERY[1]
        self._wrong = sorted(self._wrong, key=lambda example: -example[-1])[:most]
        self._right = self._right[:most]

    def gather(self) -> None:
        """Adds what the other processes of a run have seen; each must call it."""
        everyones = processes.gather((self._counts, self._wrong, self._right))
        self._counts, self._wrong, self._right = collections.Counter(), [], []
        for counts, wrong, right in everyones:
            self._counts += counts
            self._wrong += wrong
            self._right += right
        self._keep_some()

    def write(self, folder: epath.Path, split: str) -> None:
        """Writes predictions.png, and confusion.png if there are not too many classes."""
        folder.mkdir(parents=True, exist_ok=True)
        _save(self.draw_predictions(split), folder / "predictions.png")
        if len(self._names) <= _MOST_CLASSES:
            _save(self.draw_confusion(split), folder / "confusion.png")

    @functools.cached_property
    def _shown(self) -> list[str]:
        """The names as pictures have them."""
        return [_short(name) for name in fonts.legible_names(self._names)]

    def draw_predictions(self, split: str) -> Figure:
        """Draws images with what was predicted: the most confident mistakes, then right ones."""
        examples = (self._wrong + self._right)[: _GALLERY[0] * _GALLERY[1]]
        titles, colors = [], []
        for _, truth, guess, p in examples:
            right = truth == guess
            says = f"{self._shown[guess]} {p:.0%}"
            titles.append(says if right else f"{says}\nis {self._shown[truth]}")
            colors.append(_RIGHT if right else _WRONG)
        total = self._counts.total()
        wrong = sum(count for (truth, guess), count in self._counts.items() if truth != guess)
        return draw_images(
            [displayable(image) for image, *_ in examples],
            titles,
            title=f"{split}: {wrong} of {total} wrong, the most confident mistakes first",
            columns=_GALLERY[1],
            colors=colors,
        )

    def draw_confusion(self, split: str) -> Figure:
        """Draws the confusion matrix: numbers of images by true and by predicted class."""
        count = len(self._names)
        side = 3 + 0.32 * count
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        confusion = np.zeros((count, count), np.int64)
        for cell, number in self._counts.items():
            confusion[cell] = number
        share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
        style = fonts.style(*self._shown)
        axes.set_xticks(range(count), self._shown, rotation=90, **style)
        axes.set_yticks(range(count), self._shown, **style)
        axes.set(xlabel="predicted", ylabel="true", title=f"{split}: number of images")
        for (i, j), number in self._counts.items():
            color = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, str(number), ha="center", va="center", color=color, fontsize=8)
        return figure


class RestorationReport:
    """Lists the figures of every image, and shows the worst, the median and the best.

    Args:
        names: of the images of a split.
        each: figures of each example and its `index`, from `evaluate.evaluate_each`.
        metric: by which images are ranked, lowest first.

    Attributes:
        rows: numbers of the images to show, of which `add` expects the batches.
    """

    def __init__(self, names: Sequence[str], each: Mapping[str, np.ndarray], metric: str) -> None:
        self._names = names
        order = np.argsort(each[metric], kind="stable")
        self._figures = {k: v[np.argsort(each["index"])] for k, v in each.items() if k != "index"}
        self._metric = metric
        picked = {"lowest": order[0], "median": order[len(order) // 2], "highest": order[-1]}
        self._ranks = {int(each["index"][i]): rank for rank, i in picked.items()}
        self.rows = list(self._ranks)
        self._images: dict[int, tuple[np.ndarray, ...]] = {}

    def add(self, batch: Mapping[str, np.ndarray], out: np.ndarray) -> None:
        """Keeps a batch: `image`, `target` and the output, (b, h, w, 3) in [-1, 1]."""
        for row, *images in zip(batch["index"], batch["image"], out, batch["target"]):
            self._images[int(row)] = tuple((np.clip(x, -1, 1) + 1) / 2 for x in images)

    def gather(self) -> None:
        """Adds what the other processes of a run have kept; each must call it."""
        for images in processes.gather(self._images):
            self._images |= images

    def write(self, folder: epath.Path, split: str) -> None:
        """Writes SPLIT.csv with the figures by image, and restored.png."""
        folder.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", *self._figures])
        for name, *values in zip(self._names, *self._figures.values()):
            writer.writerow([name, *[f"{value:.6f}" for value in values]])
        (folder / f"{split}.csv").write_text(text.getvalue(), encoding="utf-8")
        _save(self.draw_restored(split), folder / "restored.png")

    def draw_restored(self, split: str) -> Figure:
        """Draws the images kept: before, after, the truth, and where the error is."""
        rows = [row for row in self.rows if row in self._images]
        figure = Figure(figsize=(14, 2.9 * len(rows) + 0.6), layout="constrained")
        figure.suptitle(f"{split}: the images of lowest, median and highest {self._metric}")
        grid = np.atleast_2d(figure.subplots(len(rows), 4))
        for axes in grid.flat:
            axes.axis("off")
        for cells, row in zip(grid, rows):
            hazy, restored, truth = self._images[row]
            before, after = (
                f"\n{self._figures[name][row]:.2f}" if name in self._figures else ""
                for name in (INPUT + self._metric, self._metric)
            )
            name = _short(fonts.legible(self._names[row]), 24)
            shown = [f"input {name}{before}", f"restored ({self._ranks[row]}){after}", "truth"]
            for axes, image, title in zip(cells, (hazy, restored, truth), shown):
                axes.imshow(image)
                axes.set_title(title, fontsize=9, **fonts.style(title))
            error = np.abs(restored - truth).mean(axis=-1) * 255
            picture = cells[3].imshow(error, cmap="magma", vmin=0)
            cells[3].set_title("mean absolute error, of 255", fontsize=9)
            figure.colorbar(picture, ax=cells[3], shrink=0.8)
        return figure


def format_comparison(benchmark: str, model_name: str, figures: Mapping[str, float]) -> str:
    """Says what was published for a model, beside the figures of a test set."""
    count, scores = PUBLISHED_SCORES[benchmark]
    if model_name not in scores:
        return f"no score of {model_name} on {benchmark} is known here"
    published = scores[model_name]
    parts = [
        f"{name} {value} (here {figures[name]:.{len(str(value).split('.')[1])}f})"
        for name, value in published.items()
        if name in figures
    ]
    line = f"published for {model_name} on {benchmark}: {', '.join(parts)}"
    if figures["examples"] != count:
        line += f"; not the same images: {benchmark} has {count}, here are {figures['examples']}"
    return line


def draw_images(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    title: str = "",
    columns: int = 8,
    width: float = 1.7,
    colors: Sequence[str] | None = None,
) -> Figure:
    """Draws images in rows.

    Args:
        images: each (h, w, 3), from 0 to 1 or uint8.
        titles: one per image.
        title: of the whole.
        columns: images in a row.
        width: of an image, in inches.
        colors: of the titles; black if None.
    """
    titles = [fonts.legible(text) for text in titles]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = width * max(image.shape[0] / image.shape[1] for image in images)
    lines = max(text.count("\n") for text in titles) + 1
    size = (width * columns, (height + 0.1 + 0.17 * lines) * rows + (0.4 if title else 0))
    figure = Figure(figsize=size, layout="constrained")
    if title:
        title = fonts.legible(title)
        figure.suptitle(title, **fonts.style(title))
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image, text, color in zip(
        figure.axes, images, titles, colors or ["black"] * len(images)
    ):
        axes.imshow(image)
        axes.set_title(text, fontsize=9, color=color, **fonts.style(text))
    return figure


def draw_curves(
    metrics: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
) -> Figure:  # fmt: skip
    """Draws figures over the steps, by split.

    Args:
        metrics: the lines of metrics.jsonl, see `Workdir.read_metrics`.
        names: of the figures; all there are if None.

    Raises:
        ValueError: if there are none.
    """
    there = list(dict.fromkeys(key for line in metrics for key in line if key not in _NO_FIGURES))
    if names is None:
        names = [name for name in there if not name.startswith(INPUT)]
    if not names or not set(names) <= set(there):
        raise ValueError(f"nothing to draw of {names}; there are: {', '.join(there) or 'none'}")
    figure = Figure(figsize=(4.5 * len(names), 3.5), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        for split, (style, color) in _STYLES.items():
            lines = [line for line in metrics if line["split"] == split and name in line]
            if lines:
                steps = [line["step"] for line in lines]
                axes.plot(steps, [line[name] for line in lines], style, color=color, label=split)
        axes.set(xlabel="step", title=name.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def write_curves(metrics: Sequence[Mapping[str, Any]], folder: epath.Path) -> None:
    """Draws every figure of metrics.jsonl over the steps, to curves.png, if there are any."""
    if metrics:
        folder.mkdir(parents=True, exist_ok=True)
        _save(draw_curves(metrics), folder / "curves.png")


def format_table(step: int, figures: Mapping[str, Mapping[str, float]]) -> str:
    """Lays figures by split out as a table for the terminal."""
    names = list(next(iter(figures.values()), {}))
    names = [name for name in names if not name.startswith(INPUT)]
    rows = [["split", *names]]
    for split, values in figures.items():
        before = [_format(values[INPUT + k]) if INPUT + k in values else "" for k in names]
        if any(before):
            rows.append([f"{split}, input", *before])
        rows.append([split, *[_format(values[name]) for name in names]])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join([f"checkpoint of step {step}", *lines])


def _save(figure: Figure, path: epath.Path) -> None:
    with files.written_whole(path) as partial, partial.open("wb") as file:
        figure.savefig(file, format="png", dpi=120)


def _format(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def displayable(image: np.ndarray) -> np.ndarray:
    """Maps an image of the model's value range, [-1, 1] or normalised, to [0, 1]."""
    low, high = -1.0, 1.0
    if image.min() < low or image.max() > high:  # normalised by mean and deviation
        low, high = image.min(), image.max()
    return (image - low) / (high - low)


def _short(name: str, most: int = 16) -> str:
    return fonts.shorten(name, most)
