"""What a model of optical flow has to show: pairs of frames, their flows in colours, and errors."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax import flow_colours, flow_pictures, optical_flow
from vit_jax.machinery import processes
from vit_jax.tasks.base import INPUT

if TYPE_CHECKING:  # it takes a while to import
    from matplotlib.figure import Figure

_NAME_COLUMNS = 34
_WIDTH = 3.4  # of a picture, in inches
_UNKNOWN = "0.55"  # grey of an error map where the truth is not known
_LINE = 0.28  # inches, of the text above the pictures
_WHEEL, _WHEEL_SIDE = 0.75, 201  # inches, and pixels


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A pair that is shown: frames (h, w, 3), flows (h, w, 2), and where the truth is known."""

    image: np.ndarray
    image2: np.ndarray
    truth: np.ndarray
    guess: np.ndarray
    known: np.ndarray

    @property
    def scale(self) -> float | None:
        """The length of full saturation, the truth's longest; the guess's if nothing moves."""
        of_truth = flow_colours.longest(self.truth, self.known)
        return of_truth or flow_colours.longest(self.guess) or None

    @property
    def errors(self) -> "np.ma.MaskedArray[Any, Any]":
        """(h, w) lengths of the difference in pixels; masked where either is not known."""
        difference = np.where(self.known[..., None], self.guess - self.truth, 0)
        length = np.linalg.norm(difference, axis=-1)
        return np.ma.masked_where(~(self.known & np.isfinite(length)), length)


class FlowReport:
    """Lists the figures of every pair, and shows the worst, the median and the best.

    Args:
        names: of the pairs of a split; () if they have none.
        config: of the run. Pairs are ranked by its `best_metric`, each by its own pixels.
    """

    sees_all = False

    def __init__(self, names: Sequence[str], config: Any) -> None:
        self._names = names
        self._metric = config.best_metric
        self._sign = -1 if config.best_mode == "min" else 1
        self._published = (config.benchmark, config.model_name)
        self._figures: dict[str, np.ndarray] = {}
        self._totals: dict[str, float] = {}
        self._ranks: dict[int, str] = {}
        self._kept: dict[int, _Pair] = {}

    def choose(self, each: Mapping[str, np.ndarray]) -> Sequence[int]:
        """The pairs whose own figure is the worst, the median, and the best."""
        figures = {name: _own(x) for name, x in each.items() if name != "index"}
        self._totals = {
            name: optical_flow.find_figure(name.removeprefix(INPUT)).finish(x)
            for name, x in each.items()
            if x.ndim == 2
        }
        index = each.get("index")
        if index is None:
            self._figures = figures
            return ()
        rank = self._sign * figures[self._metric]
        order = np.argsort(rank, kind="stable")  # those without a pixel that counts come last
        order = order[: max(int(np.sum(~np.isnan(rank))), 1)]
        picked = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
        self._ranks = {int(index[i]): name for name, i in picked.items()}
        self._figures = {name: values[np.argsort(index)] for name, values in figures.items()}
        return list(self._ranks)

    def add(self, batch: Mapping[str, np.ndarray], out: np.ndarray) -> None:
        """Keeps a batch: `image`, `image2`, `flow`, `valid`, and the (b, h, w, 2) output."""
        keys = ("index", "image", "image2", "flow", "valid")
        for row, image, image2, truth, valid, guess in zip(*(batch[key] for key in keys), out):
            known = flow_colours.is_known(truth, valid)
            self._kept[int(row)] = _Pair(image, image2, truth, guess, known)

    def gather(self) -> None:
        for kept in processes.gather(self._kept):
            self._kept |= kept

    def write(self, folder: Any, split: str) -> None:
        """Writes SPLIT.csv with the figures by pair, and flows.png."""
        from vit_jax import report

        report.write_figures(self._names, self._figures, folder, split)
        if self._kept:
            report.save(self.draw_flows(split), folder / "flows.png")

    def draw_flows(self, split: str) -> "Figure":
        """Draws the pairs kept: frames, truth and guess in colours of one scale, and the errors."""
        from matplotlib.figure import Figure

        rows = [row for row in self._ranks if row in self._kept]
        pairs = [self._kept[row] for row in rows]
        heights = [_WIDTH * h / w for h, w in (pair.known.shape for pair in pairs)]
        texts = self.header(split)
        header = _LINE * (len(texts) + 1)
        size = (5 * _WIDTH + 0.6, sum(heights) + 0.45 * len(rows) + header)
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - header / size[1]))
        for i, text in enumerate(texts):
            place = (0.2 / size[0], 1 - _LINE * (i + 1) / size[1])
            figure.text(*place, text, va="center", size=10 if i else 13)
        _draw_wheel(figure, size)
        grid = np.atleast_2d(figure.subplots(len(rows), 5, height_ratios=heights))
        for cells, row, pair in zip(grid, rows, pairs):
            self._draw_pair(cells, row, pair)
        return figure

    def header(self, split: str) -> list[str]:
        """A title, the figures of the whole split, and what was published."""
        from vit_jax import report

        count = len(self._figures[self._metric])
        pairs = ", ".join(f"{k} {self._with_input(k, self._totals)}" for k in self._own_names())
        lines = [
            f"{split}: the pairs of worst, median and best {self._metric} of their own",
            f"all {count} pairs: {pairs}",
        ]
        benchmark, model_name = self._published
        if benchmark:
            figures = {**self._totals, "examples": count}
            lines += report.format_comparison(benchmark, model_name, figures).splitlines()
        return lines

    def _own_names(self) -> list[str]:
        return [name for name in self._totals if not name.startswith(INPUT)]

    def _with_input(self, name: str, figures: Mapping[str, Any]) -> str:
        """A figure, and in parentheses that of no motion."""
        before = figures.get(INPUT + name)
        return f"{figures[name]:.3f}" + ("" if before is None else f" (no motion: {before:.3f})")

    def _draw_pair(self, cells: Sequence[Any], row: int, pair: _Pair) -> None:
        """Draws a pair into five axes."""
        from matplotlib.colors import PowerNorm

        from vit_jax import fonts, report

        scale = pair.scale
        own = {name: values[row] for name, values in self._figures.items()}
        longest = "nothing moves" if scale is None else f"full colour: {scale:.1f} px"
        titles = [
            f"{self._ranks[row]}: {self._name(row)}", "second frame", f"truth, {longest}",
            f"predicted, {self._metric} {self._with_input(self._metric, own)}", "error in pixels",
        ]  # fmt: skip
        shown = [
            report.displayable(pair.image),
            report.displayable(pair.image2),
            flow_colours.flow_to_colours(pair.truth, scale, pair.known),
            flow_colours.flow_to_colours(pair.guess, scale),
        ]
        for axes, title in zip(cells, titles):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("0.7")  # what does not move is as white as the page
            axes.set_title(title, fontsize=8, **fonts.style(title))
        for axes, picture in zip(cells, shown):
            axes.imshow(picture, interpolation="nearest")
        errors = pair.errors
        highest = float(errors.max()) if errors.count() else 0.0
        norm = PowerNorm(0.5, vmin=0, vmax=highest or 1)  # or one outlier would hide all others
        cells[4].set_facecolor(_UNKNOWN)
        drawn = cells[4].imshow(errors, cmap="magma", norm=norm, interpolation="nearest")
        cells[4].figure.colorbar(drawn, ax=cells[4], shrink=0.9)

    def _name(self, row: int) -> str:
        from vit_jax import fonts

        name = self._names[row] if self._names else str(row)
        return fonts.shorten(fonts.legible(name), _NAME_COLUMNS, tail=_NAME_COLUMNS // 2)


def _own(each: np.ndarray) -> np.ndarray:
    """(pairs,) figures of the pairs' own, of what `evaluate_each` has of a loss or a metric."""
    return each if each.ndim == 1 else optical_flow.own_figures(each)


def _draw_wheel(figure: "Figure", size: tuple[float, float]) -> None:
    """Draws the colours of all directions in a corner of a figure, whose size is in inches."""
    wheel = flow_pictures.draw_wheel(_WHEEL_SIDE)
    left, bottom = size[0] - _WHEEL - 0.1, size[1] - _WHEEL - 0.05
    box = (left / size[0], bottom / size[1], _WHEEL / size[0], _WHEEL / size[1])
    axes = figure.add_axes(box)
    axes.axis("off")
    axes.imshow(wheel, extent=(-1, 1, 1, -1))
    axes.annotate(
        "moves to", (-1.15, 0), ha="right", va="center", fontsize=9, annotation_clip=False
    )
