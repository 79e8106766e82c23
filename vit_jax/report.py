"""What a run has to show: curves, images with what was made of them, and tables."""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from checkpoints import files
from vit_jax import fonts
from vit_jax.models import MODELS, PUBLISHED_SCORES, QUOTED
from vit_jax.tasks.base import INPUT

_NO_FIGURES = ("step", "split", "protocol", "examples")  # of a line of metrics.jsonl
_OF_TRAINING = ("learning_rate", "grad_norm", "param_norm", "data_wait")  # drawn last
_WIDTH = 11.6  # of curves, in inches: 1392 pixels of curves.png
_COLUMNS = 12  # of the grid that rows of curves share
_LARGE, _SMALL = 3.6, 2.5  # heights of their rows
_STYLES = {"train": ("-", "C0"), "val": (".-", "C1"), "test": ("*", "C2")}


def write_figures(
    names: Sequence[str], figures: Mapping[str, np.ndarray], folder: epath.Path, split: str
) -> None:
    """Writes SPLIT.csv.

    Args:
        names: of the examples; () numbers them.
        figures: (examples,) by name.
        folder: where to.
        split: its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *figures])
    rows = zip(*figures.values())
    for name, values in zip(names or itertools.count(), rows):
        writer.writerow([name, *[f"{value:.6f}" for value in values]])
    (folder / f"{split}.csv").write_text(text.getvalue(), encoding="utf-8")


def draw_confusion(confusion: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Draws a confusion matrix.

    Args:
        confusion: (classes, classes) numbers of examples by true and by predicted class.
        names: of the classes, legible ones.
        title: of the whole.
    """
    count = len(names)
    side = 3 + 0.32 * count
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    style = fonts.style(*names)
    axes.set_xticks(range(count), names, rotation=90, **style)
    axes.set_yticks(range(count), names, **style)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    for i, j in zip(*np.nonzero(confusion)):
        color = "white" if share[i, j] > 0.5 else "black"
        number = str(confusion[i, j])
        axes.text(j, i, number, ha="center", va="center", color=color, fontsize=8)
    return figure


def format_comparison(benchmark: str, model_name: str, figures: Mapping[str, float]) -> str:
    """Says what was published for a model, and for what is no model here, beside the figures.

    A test set is taken for the published one if it has as many examples. For others there is no
    comparison, and a line says why.

    Args:
        benchmark: a key of `PUBLISHED_SCORES`.
        model_name: of the model.
        figures: of a test set, by name, and its `examples`.

    Returns:
        A line for each.
    """
    count, scores = PUBLISHED_SCORES[benchmark]
    if figures["examples"] != count:
        return (
            f"published scores are of the {count} examples of {benchmark}, and these "
            f"{figures['examples']} are others: no comparison"
        )
    own = [name for name in scores if name.removesuffix(QUOTED) == model_name]
    others = [name for name in scores if name.removesuffix(QUOTED) not in MODELS]
    lines = []
    for name in own + others:
        parts = [
            f"{figure} {value} (here {figures[figure]:.{max(len(str(value).split('.')[1]), 2)}f})"
            for figure, value in scores[name].items()
            if figure in figures
        ]
        if parts:
            lines.append(f"published for {name} on {benchmark}: {', '.join(parts)}")
    if not own:
        lines.insert(0, f"no score of {model_name} on {benchmark} is known here")
    elif not lines:
        known = sorted({figure for name in own for figure in scores[name]})
        lines = [
            f"published for {model_name} on {benchmark}: {', '.join(known)}, which config.metrics "
            "does not have"
        ]
    return "\n".join(lines)


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
    metrics: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None, best: str = ""
) -> Figure:
    """Draws figures over the steps, by split, in rows that fit the screen of a laptop.

    Args:
        metrics: the lines of metrics.jsonl, see `Workdir.read_metrics`.
        names: of the figures; all there are if None: the loss and the best first, and last those
            that say how the training goes, such as the learning rate.
        best: the figure that chooses the best checkpoint.

    Raises:
        ValueError: if there are none.
    """
    there = list(
        dict.fromkeys(
            key
            for line in metrics
            for key, value in line.items()
            if key not in _NO_FIGURES and value is not None
        )
    )
    if names is None:
        shown = [name for name in there if not name.startswith(INPUT)]
        ranks = {name: rank for rank, name in enumerate(("loss", best))}
        ranks |= {name: rank for rank, name in enumerate(_OF_TRAINING, start=len(shown) + 2)}
        names = sorted(shown, key=lambda name: ranks.get(name, 2))
    if not names or not set(names) <= set(there):
        raise ValueError(f"nothing to draw of {names}; there are: {', '.join(there) or 'none'}")
    rows = _arrange(names)
    heights = [_LARGE if len(row) <= 2 and i == 0 else _SMALL for i, row in enumerate(rows)]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(rows), _COLUMNS, height_ratios=heights)
    for i, row in enumerate(rows):
        for j, name in enumerate(row):
            span = _COLUMNS // len(row)
            _draw_curve(figure.add_subplot(grid[i, j * span : (j + 1) * span]), metrics, name)
    return figure


def _arrange(names: Sequence[str]) -> list[Sequence[str]]:
    """Rows of at most four figures, as even as can be; of many the first two have one alone."""
    large = 2 if len(names) > 4 else 0
    small = names[large:]
    count = -(-len(small) // 4)
    ends = [-(-len(small) * i // count) for i in range(count + 1)]
    rows = [small[begin:end] for begin, end in itertools.pairwise(ends)]
    return [names[:large], *rows] if large else rows


def _draw_curve(axes: Any, metrics: Sequence[Mapping[str, Any]], name: str) -> None:
    for split, (style, color) in _STYLES.items():
        points = [
            (line["step"], line[name])
            for line in metrics
            if line["split"] == split and line.get(name) is not None
        ]
        if points:
            style = "o" if style == "-" and len(points) == 1 else style
            axes.plot(*zip(*points), style, color=color, label=split)
    axes.set(xlabel="step", title=name.replace("_", " "))
    axes.set_xlim(left=0)
    if name == "data_wait":  # a share, so that without any the axis would begin below 0
        axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(alpha=0.3)
    axes.legend()


def write_curves(metrics: Sequence[Mapping[str, Any]], folder: epath.Path, best: str) -> None:
    """Draws every figure of metrics.jsonl over the steps, to curves.png, if there are any.

    See `draw_curves` for `best`.
    """
    if metrics:
        folder.mkdir(parents=True, exist_ok=True)
        save(draw_curves(metrics, best=best), folder / "curves.png")


def table_rows(figures: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """A header, and a row for each split and for its input, of figures by split."""
    names = list(next(iter(figures.values()), {}))
    names = [name for name in names if not name.startswith(INPUT)]
    rows = [["split", *names]]
    for split, values in figures.items():
        before = [format_figure(values[INPUT + k]) if INPUT + k in values else "" for k in names]
        if any(before):
            rows.append([f"{split}, input", *before])
        rows.append([split, *[format_figure(values[name]) for name in names]])
    return rows


def format_table(step: int, figures: Mapping[str, Mapping[str, float]]) -> str:
    """Lays figures by split out as a table for the terminal."""
    rows = table_rows(figures)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join([f"checkpoint of step {step}", *lines])


def save(figure: Figure, path: epath.Path) -> None:
    """Writes a figure as PNG; the file appears whole or not at all."""
    with files.written_whole(path) as partial, partial.open("wb") as file:
        figure.savefig(file, format="png", dpi=120)


def format_figure(value: float) -> str:
    """A number as tables have it: counts as they are, others with four digits."""
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def displayable(image: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Maps an image of the model's value range, [-1, 1] or normalised, to [0, 1].

    Args:
        image: (h, w, c).
        like: another, whose darkest and brightest values become 0 and 1, and what of the image lies
            beyond is cut off; None for the image itself.
    """
    low, high = -1.0, 1.0
    of = image if like is None else like
    if of.min() < low or of.max() > high:  # normalised by mean and deviation
        low, high = of.min(), of.max()
    shares = (image - low) / (high - low)
    return shares if like is None else np.clip(shares, 0, 1)
