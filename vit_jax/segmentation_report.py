"""What a segmenter has to show: images with their classes in colours, and tables of the classes."""

import csv
import functools
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from input_pipeline.palettes import palette_for
from vit_jax import segmentation
from vit_jax.machinery import processes

if TYPE_CHECKING:  # it takes a while to import
    from matplotlib.figure import Figure

_NAME_COLUMNS = 20
_MOST_NUMBERS = 25  # classes of a confusion matrix with a number in each cell
_LEGEND = 24  # classes that a legend names
_UNLABELLED, _WRONG = (1.0, 1.0, 1.0), (0.85, 0.1, 0.1)
_SHARE = 0.55  # of the colours, over a photo
_SMALLEST, _LARGEST = 480, 2000  # pixels of the longer side of a photo with colours over it
_DPI = 100

_confusion = jax.jit(segmentation.confusion)


class SegmentationReport:
    """Counts all pixels of a split by class, and shows the worst, the median and the best image.

    Args:
        names: of the images of a split; () if they have none.
        class_names: in the order of the labels.
        metric: by which images are ranked, each by its own pixels; if it is none of pixels, the
            first of them that was computed, or else the loss.
    """

    sees_all = True

    def __init__(self, names: Sequence[str], class_names: Sequence[str], metric: str) -> None:
        self._names = names
        self._classes = class_names
        self._metric = metric
        self._confusion = np.zeros((len(class_names),) * 2, np.int64)
        self._is_chosen = False
        self._figures: dict[str, np.ndarray] = {}
        self._ranks: dict[int, str] = {}
        self._kept: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def choose(self, each: Mapping[str, np.ndarray]) -> Sequence[int]:
        """The images whose own figure is the worst, the median, and the best."""
        self._is_chosen = True
        counts = {name: values for name, values in each.items() if values.ndim == 3}
        figures = {
            name: segmentation.split_figures(values)[name] for name, values in counts.items()
        }
        figures |= {k: v for k, v in each.items() if v.ndim == 1 and k != "index"}
        index = each.get("index")
        if index is None:
            self._figures = figures
            return ()
        if self._metric not in counts:
            self._metric = next(iter(counts), "loss")
        rank = figures[self._metric] if counts else -figures["loss"]
        order = np.argsort(rank, kind="stable")
        order = order[: max(int(np.sum(~np.isnan(rank))), 1)]  # those with a labelled pixel
        picked = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
        self._ranks = {int(index[i]): name for name, i in picked.items()}
        self._figures = {name: values[np.argsort(index)] for name, values in figures.items()}
        return list(self._ranks)

    def add(self, batch: Mapping[str, np.ndarray], out: np.ndarray) -> None:
        """Counts a batch: `image`, `mask` (b, h, w), and (b, h', w', classes) logits.

        Once images are chosen, it keeps them instead.
        """
        if not self._is_chosen:
            counts = np.asarray(_confusion(out, {"mask": batch["mask"]}))
            self._confusion += counts.sum(axis=0, dtype=np.int64)  # JAX would sum in int32
            return
        for i, (row, image, mask) in enumerate(zip(batch["index"], batch["image"], batch["mask"])):
            resized = segmentation.resized_logits(jnp.asarray(out[i : i + 1]), mask.shape)
            self._kept[int(row)] = (image, mask, np.asarray(resized[0].argmax(axis=-1)))

    def gather(self) -> None:
        everyones = processes.gather((self._confusion, self._kept))
        self._confusion = np.sum([confusion for confusion, _ in everyones], axis=0)
        for _, kept in everyones:
            self._kept |= kept

    def write(self, folder: Any, split: str) -> None:
        """Writes segments.png, confusion.png, classes.csv, and SPLIT.csv with images' figures."""
        from vit_jax import report

        report.write_figures(self._names, self._figures, folder, split)
        (folder / "classes.csv").write_text(self._class_table(), encoding="utf-8")
        report.save(self.draw_confusion(split), folder / "confusion.png")
        if self._kept:
            report.save(self.draw_segments(split), folder / "segments.png")

    def _class_table(self) -> str:
        """A row for each class: its figures, empty where it does not occur, and its pixels."""
        counts = segmentation.counts_of(self._confusion)
        figures = segmentation.class_figures(counts)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["class", *figures, "pixels", "predicted_pixels"])
        for i, name in enumerate(self._classes):
            cells = ["" if np.isnan(x[i]) else f"{x[i]:.6f}" for x in figures.values()]
            writer.writerow([name, *cells, counts[2, i], counts[1, i]])
        return text.getvalue()

    @functools.cached_property
    def _shown_names(self) -> list[str]:
        """The names as pictures have them."""
        from vit_jax import fonts

        return [fonts.shorten(name, _NAME_COLUMNS) for name in fonts.legible_names(self._classes)]

    def draw_confusion(self, split: str) -> "Figure":
        """Draws which share of each true class is taken for which, of the whole split's pixels."""
        from matplotlib.colors import PowerNorm
        from matplotlib.figure import Figure

        from vit_jax import fonts

        count = len(self._classes)
        has_numbers = count <= _MOST_NUMBERS
        cell, size = (0.42, 9) if has_numbers else (0.14, 6)
        side = 3 + cell * count
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        axes = figure.subplots()
        share = self._confusion / np.maximum(self._confusion.sum(axis=1, keepdims=True), 1)
        norm = PowerNorm(0.5, vmin=0, vmax=1)  # or mistakes among many classes could not be seen
        picture = axes.imshow(share, cmap="Blues", norm=norm)
        figure.colorbar(picture, ax=axes, label="share of the true class's pixels", shrink=0.7)
        style = {"fontsize": size, **fonts.style(*self._shown_names)}
        axes.set_xticks(range(count), self._shown_names, rotation=90, **style)
        axes.set_yticks(range(count), self._shown_names, **style)
        title = f"{split}: pixels by class" + (", in %" if has_numbers else "")
        axes.set(xlabel="predicted", ylabel="true", title=title)
        if not has_numbers:
            axes.tick_params(labelright=True, labeltop=True, length=1)
            axes.tick_params(axis="x", labelrotation=90)
        for i, j in zip(*np.nonzero(np.round(share * 100) if has_numbers else [])):
            color = "white" if share[i, j] > 0.3 else "black"
            text = f"{share[i, j] * 100:.0f}"
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize=8)
        return figure

    def draw_segments(self, split: str) -> "Figure":
        """Draws the images kept: as they are, the truth, what was predicted, and the errors."""
        from matplotlib.figure import Figure

        from vit_jax import fonts

        rows = [row for row in self._ranks if row in self._kept]
        colours = palette_for(self._classes) / 255
        legend = self._legend(rows, colours)
        heights = [3.4 * h / w for h, w in (self._kept[row][1].shape for row in rows)]
        size = (14, sum(heights) + 0.4 * len(rows) + 0.25 * -(-len(legend) // 6) + 0.7)
        figure = Figure(figsize=size, layout="constrained")
        metric = self._metric.replace("_", " ")
        figure.suptitle(f"{split}: the images of worst, median and best {metric} of their own")
        grid = np.atleast_2d(figure.subplots(len(rows), 4, height_ratios=heights))
        for cells, row in zip(grid, rows):
            image, mask, guess = self._kept[row]
            photo = _resized_photo(image, mask.shape)
            name = self._names[row] if self._names else str(row)
            name = fonts.shorten(fonts.legible(name), 34)
            own = f"{metric} {self._figures[self._metric][row]:.3f}"
            titles = [f"{self._ranks[row]}: {name}", "truth", "predicted", f"errors ({own})"]
            labelled = segmentation.is_labelled(mask, len(colours))
            shown = [photo, _coloured(mask, labelled, colours), colours[guess],
                     _errors(photo, mask, labelled, guess)]  # fmt: skip
            for axes, picture, title in zip(cells, shown, titles):
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_color("0.7")  # what is not labelled is as white as the page
                axes.imshow(picture, interpolation="nearest")
                axes.set_title(title, fontsize=8, **fonts.style(title))
        font = {"size": 9, "family": fonts.style(*self._shown_names)["fontfamily"]}
        figure.legend(handles=legend, loc="outside lower center", ncols=6, frameon=False, prop=font)
        return figure

    def _legend(self, rows: Sequence[int], colours: np.ndarray) -> list[Any]:
        """Patches of the classes of some images, those of most pixels first."""
        from matplotlib.patches import Patch

        total = np.zeros(len(colours), np.int64)
        has_unlabelled = False
        for _, mask, guess in (self._kept[row] for row in rows):
            labelled = segmentation.is_labelled(mask, len(colours))
            has_unlabelled |= not labelled.all()
            total += np.bincount(mask[labelled].ravel(), minlength=len(colours))
            total += np.bincount(guess.ravel(), minlength=len(colours))
        order = [i for i in np.argsort(-total, kind="stable") if total[i]]
        patches = [
            Patch(facecolor=colours[i], edgecolor="0.5", label=self._shown_names[i])
            for i in order[:_LEGEND]
        ]
        if len(order) > _LEGEND:
            more = f"and {len(order) - _LEGEND} more"
            patches.append(Patch(facecolor="none", label=more))
        if has_unlabelled:
            patches.append(Patch(facecolor=_UNLABELLED, edgecolor="0.5", label="not labelled"))
        patches.append(Patch(facecolor=_WRONG, edgecolor="0.5", label="error"))
        return patches


def _resized_photo(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """An image of the model's value range in [0, 1], and as large as its mask of (h, w)."""
    from vit_jax import report

    pixels = np.round(report.displayable(image) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize(size[::-1])) / 255


def _coloured(mask: np.ndarray, labelled: np.ndarray, colours: np.ndarray) -> np.ndarray:
    picture = colours[np.where(labelled, mask, 0)]
    picture[~labelled] = _UNLABELLED
    return picture


def _errors(
    photo: np.ndarray, mask: np.ndarray, labelled: np.ndarray, guess: np.ndarray
) -> np.ndarray:
    """The photo in pale grey, with what is wrong in red, and white where nothing is known."""
    picture = np.repeat(0.3 + 0.5 * photo.mean(axis=-1, keepdims=True), 3, axis=-1)
    picture[labelled & (mask != guess)] = _WRONG
    picture[~labelled] = _UNLABELLED
    return picture


# A photo with the colours of its classes over it.


def draw_overlay(
    pixels: np.ndarray, classes: np.ndarray, palette: np.ndarray, class_names: Sequence[str]
) -> bytes:
    """Draws the classes of a photo's pixels over it, and a legend beside it.

    Args:
        pixels: (h, w, 3) uint8; the picture is made smaller, or some times larger, where this is
            larger or smaller than a screen.
        classes: (h, w) class numbers.
        palette: (n, 3) uint8.
        class_names: n of them.

    Returns:
        A PNG.
    """
    size = _picture_size(pixels.shape[:2])
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), np.float32)
    numbers = np.asarray(
        Image.fromarray(classes.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    )
    blended = (1 - _SHARE) * small + _SHARE * palette[numbers]
    shares = np.bincount(classes.ravel(), minlength=len(palette)) / classes.size
    legend = _draw_legend(shares, palette, class_names, size[1])
    height = max(size[1], legend.height)
    picture = Image.new("RGB", (size[0] + legend.width, height), "white")
    picture.paste(Image.fromarray(np.round(blended).astype(np.uint8)), (0, 0))
    picture.paste(legend, (size[0], 0))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def _picture_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture of a photo of (h, w) pixels."""
    longer = max(size)
    scale = min(_LARGEST / longer, 1) if longer >= _SMALLEST else -(-_SMALLEST // longer)
    return max(round(size[1] * scale), 1), max(round(size[0] * scale), 1)


def _draw_legend(
    shares: np.ndarray, palette: np.ndarray, class_names: Sequence[str], height: int
) -> Image.Image:
    """Draws the classes that are there, those of most pixels first, as far as there is room."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from vit_jax import fonts

    order = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i]]
    line, points = max(22, height // 50), max(22, height // 50) / 2
    room = max(height // line - 1, _LEGEND)
    names = fonts.legible_names(class_names)
    texts = [f"{fonts.shorten(names[i], _NAME_COLUMNS)}  {_percent(shares[i])}" for i in order]
    left_out = len(order) - room
    if left_out > 0:
        order, texts = order[:room], [*texts[:room], f"and {left_out} more"]
    width, total = round(line * 0.42 * max(map(len, texts))) + 3 * line, line * (len(texts) + 1)
    figure = Figure(figsize=(width / _DPI, total / _DPI), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set(xlim=(0, width), ylim=(total, 0))
    for i, text in enumerate(texts):
        top = line * (i + 0.5)
        if i < len(order):
            colour = palette[order[i]] / 255
            side = 0.7 * line
            axes.add_patch(Rectangle((0.5 * line, top + 0.15 * line), side, side, fc=colour,
                                     ec="0.5"))  # fmt: skip
        axes.text(1.6 * line, top + 0.5 * line, text, va="center", fontsize=points,
                  **fonts.style(text))  # fmt: skip
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI)
    return Image.open(data).convert("RGB")


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"
