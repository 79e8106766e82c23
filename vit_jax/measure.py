"""Measures images without any model: python -m vit_jax.measure FOLDER, and what to compare with.

    python -m vit_jax.measure RESULTS --truth=FOLDER --protocol=basicsr   PSNR, SSIM and the like
    python -m vit_jax.measure FUSED --sources A B                         figures of image fusion
    python -m vit_jax.measure FOLDER                                      of images alone

RESULTS, FUSED and FOLDER are folders of images, or a file; several are measured one after the
other, and compared. It prints a table, and what each figure means. The exit code is 1 if something
could not be measured; it says what, and measures the rest.
"""

import csv
import functools
import io
import logging
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from vit_jax import legend
from vit_jax.machinery import cli, console
from vit_jax.machinery.output_flag import OUTPUT

if TYPE_CHECKING:  # with JAX and matplotlib, which take seconds to import
    from matplotlib.figure import Figure

    from vit_jax import measuring

_LOG = logging.getLogger("vit_jax.measure")  # also when it is run as __main__

_TRUTH = flags.DEFINE_string("truth", None, "Folder of what the results should be.")
_PROTOCOL = flags.DEFINE_string(
    "protocol", None, "How results are compared with --truth: basicsr (if unset), skimage, "
    "dehazeformer.",
)  # fmt: skip
_SCALE = flags.DEFINE_integer(
    "scale", 1, "How many times the results were enlarged: basicsr leaves out as many pixels along "
    "the border.", lower_bound=1,
)  # fmt: skip
_SOURCES = flags.DEFINE_multi_string(
    "sources", None, "A B: the two folders of what was fused to the results"
)
_PATTERN = flags.DEFINE_string(
    "pattern", "", "How files are called that belong together: '{scene}_*.png {scene}.png', if not "
    "alike.",
)  # fmt: skip

_TABLE, _PLOT = "figures.csv", "figures.png"
_COLUMNS = 4  # of the plot

# The figures of a folder, by file: of the file beside it, or the files, and each by name.
_Rows = list[tuple[tuple[Path, ...], dict[str, float]]]


def main(argv: Sequence[str]) -> int:
    """Measures what is given; returns the exit code."""
    folders = [Path(argument) for argument in argv[1:]]
    if not folders:
        raise ValueError("say what to measure: a folder of images")
    _check_flags()
    import jax

    jax.config.update("jax_platforms", "cpu")  # whatever an accelerator is busy with
    found = [(folder, _find(folder)) for folder in folders]
    meter = _make_meter()
    measured: dict[str, _Rows] = {}
    failures = 0
    for folder, things in found:
        rows, failed = _measure(things, meter)
        failures += failed
        if rows:
            measured[str(folder)] = rows
            print(format_table(things.words, folder, rows))
    if measured:
        print(format_legend(measured))
    if OUTPUT.value is not None and measured:
        _write(Path(OUTPUT.value), measured)
    if failures:
        _LOG.error("%d could not be measured", failures)
    return 1 if failures else 0


def _check_flags() -> None:
    sources = _SOURCES.value or ()
    if sources and len(sources) != 2:
        raise ValueError("--sources takes two folders: --sources A B")
    if sources and _TRUTH.value:
        raise ValueError("--truth or --sources: measure one after the other")
    for flag in (_PROTOCOL, _SCALE) if not _TRUTH.value else ():
        if flag.value != flag.default:
            raise ValueError(f"--{flag.name} is for results with a --truth")
    if _PATTERN.value and not (_TRUTH.value or sources):
        raise ValueError("--pattern is for results with a --truth or --sources")


def _find(folder: Path) -> "measuring.Found":
    from vit_jax import measuring

    if not folder.exists():
        raise ValueError(f"there is no file or folder {folder}")
    if _TRUTH.value:
        return measuring.find_with_truths(folder, Path(_TRUTH.value), _PATTERN.value)
    if _SOURCES.value:
        sources = [Path(source) for source in _SOURCES.value]
        return measuring.find_with_sources(folder, sources, _PATTERN.value)
    return measuring.find_alone(folder)


def _make_meter() -> "measuring.Meter":
    from vit_jax import measuring

    if _TRUTH.value:
        read = functools.partial(measuring.read_with_truth, scale=_SCALE.value)
        compute = measuring.by_protocol(_PROTOCOL.value or "basicsr", _SCALE.value)
        return measuring.Meter(read, compute)
    return measuring.Meter(measuring.read_grey, measuring.of_fusion(bool(_SOURCES.value)))


def _measure(found: "measuring.Found", meter: "measuring.Meter") -> tuple[_Rows, int]:
    """Measures what was found in a folder; also how many things could not be measured."""
    from vit_jax import measuring, photos

    for problem in found.problems:
        _LOG.error("%s", problem)
    rows: _Rows = []
    with console.progress(total=len(found.items)) as bar, console.above(bar):
        for item, figures in measuring.measured(found.items, meter):
            if isinstance(figures, Exception):
                _LOG.error("cannot measure %s: %s", item[0], photos.explain(figures))
            else:
                rows.append((item, figures))
            bar.update()
    return rows, len(found.problems) + len(found.items) - len(rows)


def names_of(rows: _Rows) -> list[str]:
    """Names of the figures of files."""
    return sorted({name for _, figures in rows for name in figures}, key=legend.rank_of)


def values_of(rows: _Rows, name: str) -> np.ndarray:
    """(files,) values of a figure; NaN where it is not defined."""
    return np.array([figures[name] for _, figures in rows])


def format_table(words: str, folder: Path, rows: _Rows) -> str:
    """Lays out the figures of a folder: mean, deviation, and the files at both ends.

    Args:
        words: how the files were found.
        folder: that they lie in.
        rows: their figures.
    """
    files = [_inside(item[0], folder) for item, _ in rows]
    table = [["figure", "mean", "deviation", "lowest", "", "highest", ""]]
    remarks = []
    for name in names_of(rows):
        values = values_of(rows, name)
        defined = np.flatnonzero(~np.isnan(values))
        if len(defined) < len(values):
            needs = legend.meaning_of(name).needs
            remarks.append(f"{name} is of {len(defined)} of the {len(values)}: it needs {needs}")
        if not len(defined):
            continue
        low, high = (defined[pick(values[defined])] for pick in (np.argmin, np.argmax))
        cells = [_format(x) for x in (*_mean_and_deviation(values), values[low], values[high])]
        table.append([name, *cells[:3], files[low], cells[3], files[high]])
    return "\n".join([words, *_aligned(table), *remarks, ""])


def _inside(path: Path, folder: Path) -> str:
    return path.name if path == folder else str(path.relative_to(folder))


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    with np.errstate(invalid="ignore"):  # of equal images some figures are infinite
        return float(values.mean()), float(values.std())


def _format(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}" if abs(value) >= 0.1 else f"{value:.4g}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table)]
    left = (0, 4, 6)  # names; numbers end where the column does
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in table
    ]


def format_legend(measured: Mapping[str, _Rows]) -> str:
    """The means of the folders beside each other, if there are several; and what figures mean."""
    names = names_of([row for rows in measured.values() for row in rows])
    lines = []
    if len(measured) > 1:
        head = ["mean of", *map(str, measured)]
        table = [
            [name, *(_format(_mean_or_nan(values_of(rows, name))) for rows in measured.values())]
            for name in names
        ]
        widths = [max(map(len, column)) for column in zip(head, *table)]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in (head, *table)
        ] + [""]
    width = max(map(len, names))
    for name in names:
        words = f"{name:{width}}  {legend.line_of(name)}"
        lines += textwrap.wrap(words, 100, subsequent_indent=" " * (width + 2))
    return "\n".join(lines)


def _mean_or_nan(values: np.ndarray) -> float:
    return np.nan if np.isnan(values).all() else _mean_and_deviation(values)[0]


def _write(folder: Path, measured: Mapping[str, _Rows]) -> None:
    """Writes the figures of all files as a table, and a plot of them; those before are replaced."""
    from checkpoints import files
    from vit_jax import report  # matplotlib takes a while to import

    folder.mkdir(parents=True, exist_ok=True)
    with files.written_whole(folder / _TABLE) as partial:
        partial.write_bytes(to_csv(measured).encode(errors="surrogateescape"))
    report.save(draw(measured), folder / _PLOT)
    _LOG.info("wrote %s and %s", folder / _TABLE, folder / _PLOT)


def to_csv(measured: Mapping[str, _Rows]) -> str:
    """A line for each file: its folder, its path, those it is compared with, and its figures."""
    names = names_of([row for rows in measured.values() for row in rows])
    ((some_item, _), *_), *_ = measured.values()
    partners = {1: (), 2: ("truth",), 3: ("source_a", "source_b")}[len(some_item)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["folder", "file", *partners, *names])
    for folder, rows in measured.items():
        for item, figures in rows:
            cells = ["" if np.isnan(figures[name]) else f"{figures[name]:.9g}" for name in names]
            writer.writerow([folder, *item, *cells])
    return text.getvalue()


def draw(measured: Mapping[str, _Rows]) -> "Figure":
    """Draws each figure of the files of each folder, the lowest first, and its mean."""
    from matplotlib.figure import Figure

    from vit_jax import fonts

    names = names_of([row for rows in measured.values() for row in rows])
    columns = min(_COLUMNS, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.7 * lines + 0.4), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for axes, name in zip(grid, names):
        for i, (folder, rows) in enumerate(measured.items()):
            values = np.sort(values_of(rows, name))
            values = values[np.isfinite(values)]
            label = fonts.shorten(fonts.legible(folder), 30, tail=20)
            places = (np.arange(len(values)) + 0.5) / max(len(values), 1) * 100
            axes.plot(places, values, "." if len(values) < 2 else ".-", ms=4, lw=1, color=f"C{i}",
                      label=label)  # fmt: skip
            if len(values):
                axes.axhline(values.mean(), color=f"C{i}", lw=0.8, ls="--")
        axes.set_title(f"{name}\n{legend.meaning_of(name).direction}", fontsize=9)
        axes.set_xlim(0, 100)
        axes.grid(alpha=0.3)
    for axes in list(figure.axes)[len(names) :]:
        axes.axis("off")
    figure.supxlabel("share of the images, from the lowest figure on, in %; dashed: the mean",
                     fontsize=9)  # fmt: skip
    handles, labels = figure.axes[0].get_legend_handles_labels()
    named = figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=9)
    for text in named.get_texts():
        text.set(**fonts.style(text.get_text()))
    return figure


def join_sources(arguments: Sequence[str]) -> list[str]:
    """Makes --sources A B, of which flags would take A alone, --sources=A --sources=B."""
    joined = list(arguments)
    for i, argument in enumerate(joined):
        pair = joined[i + 1 : i + 3]
        is_pair = len(pair) == 2 and not any(name.startswith("-") for name in pair)
        if argument in ("--sources", "-sources") and is_pair:
            joined[i : i + 3] = [f"--sources={name}" for name in pair]
            break
    return joined


if __name__ == "__main__":
    sys.argv[1:] = join_sources(sys.argv[1:])
    cli.run(main)
