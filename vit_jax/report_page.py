"""A run's report as one page, report/index.html, that needs no other file and can be mailed.

It is made of what the folder of the run holds, whatever the task: `report/`, in which a task's
report has written pictures and tables, metrics.jsonl and the config. So a task writes no HTML.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import jax
from etils import epath

import vit_jax
from checkpoints import files
from vit_jax import report, report_files
from vit_jax.report_files import Picture, Table, Text
from vit_jax.run_summary import RunSummary
from vit_jax.workdir import Workdir

_CURVES = "curves.png"
_MOST_EVALUATIONS = 20
_NO_FIGURES = ("step", "split", "protocol")
_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?|nan|inf|", re.IGNORECASE)
_LONG = 24  # characters of a cell that is not squeezed on narrow screens
_NARROWEST = 720  # pixels of a picture, below which one scrolls instead

# Nothing is loaded, whatever a name might say.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c1e21; --soft: #5c636b; --line: #d9dde1;
  --box: #f4f6f8; --mark: #1f5fbf; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --text: #e6e8ea; --soft: #a0a8b0;
  --line: #343a40; --box: #1e2327; --mark: #7fb0ff; }
  img.chart { filter: invert(0.92) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; padding-top: 0.5rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 0.3rem; overflow-wrap: anywhere; unicode-bidi: isolate; }
p, figcaption { overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); font-size: 0.9rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible { outline: 2px solid var(--mark); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; white-space: pre-wrap; max-width: 30rem; overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 600; }
td.long { min-width: 16rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
figure { margin: 0.5rem 0 1.5rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 4px; padding: 0.7rem;
  margin: 0.3rem 0; font: 0.85rem/1.45 ui-monospace, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--mark); }
"""


def write(workdir: Workdir, summary: RunSummary) -> epath.Path:
    """Writes a run's page, once its pictures and tables are written; returns its path."""
    workdir.report.mkdir(parents=True, exist_ok=True)
    path = workdir.report / report_files.PAGE
    page = make(summary, report_files.read(workdir.report), workdir.read_metrics())
    with files.written_whole(path) as partial:
        partial.write_bytes(page.encode("utf-8", "replace"))  # names of files can be of any bytes
    return path


def make(
    summary: RunSummary,
    found: report_files.ReportFiles,
    metrics: Sequence[Mapping[str, Any]],
) -> str:
    """Makes a page.

    Args:
        summary: of the run.
        found: in its report folder.
        metrics: the lines of metrics.jsonl.

    Returns:
        HTML that loads nothing.
    """
    curves = [picture for picture in found.pictures if picture.name == _CURVES]
    others = [picture for picture in found.pictures if picture.name != _CURVES]
    body = [
        f"<h1>{escape(summary.title)}</h1>",
        f'<p class="soft">{escape(_introduce(summary))}</p>',
        *_figures(summary),
        *_section("Curves", map(_picture, curves)),
        *_section("Pictures", map(_picture, others)),
        *_section("Tables", map(_table_of_file, found.tables)),
        *_section("Texts", map(_text, found.texts)),
        *_section("Evaluations", _evaluations(metrics)),
        *_section("How it was made", _recipe(summary)),
        *_section("Further files", [_list(found.others)] if found.others else []),
        f'<p class="soft">vit_jax {vit_jax.__version__}, JAX {jax.__version__}</p>',
    ]
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(summary.title)}: {escape(summary.name)}</title>",
        f"<style>{_STYLE}</style>",
    ]
    return "\n".join(
        ["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body,
         "</body>", "</html>", ""]
    )  # fmt: skip


def _introduce(summary: RunSummary) -> str:
    """What it is, in a line."""
    parts = [f"run {summary.name}", f"{summary.parameters:,} parameters", summary.checkpoint]
    parts += [f"examples: {summary.sizes}"] if summary.sizes else []
    parts += [f"{len(summary.classes)} classes"] if summary.classes else []
    return "; ".join(parts)


def _section(title: str, parts: Iterable[str]) -> list[str]:
    """A heading and what is below it; nothing if that is nothing."""
    content = [part for part in parts if part]
    return [f"<h2>{escape(title)}</h2>", *content] if content else []


def _figures(summary: RunSummary) -> list[str]:
    parts = [_table(report.table_rows(summary.figures))] if summary.figures else []
    parts += [f"<p>{escape(line)}</p>" for line in summary.comparison.splitlines()]
    if summary.protocol and parts:
        parts.append(f'<p class="soft">Images are prepared by {escape(summary.protocol)}</p>')
    return _section("Figures", parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its header; columns of numbers are flush right."""
    columns = max(map(len, rows), default=0)
    cells = [[*row, *[""] * (columns - len(row))] for row in rows]
    is_number = [
        len(cells) > 1 and all(_NUMBER.fullmatch(row[i].strip()) for row in cells[1:])
        for i in range(columns)
    ]
    lines = []
    for kind, row in zip(["th", *["td"] * (len(cells) - 1)], cells):
        parts = [
            f"<{kind}{_class(cell, number)}>{escape(cell)}</{kind}>"
            for cell, number in zip(row, is_number)
        ]
        lines.append(f"<tr>{''.join(parts)}</tr>")
    return f'<div class="scroll" tabindex="0"><table>{"".join(lines)}</table></div>'


def _class(cell: str, is_number: bool) -> str:
    name = "number" if is_number else "long" if len(cell) > _LONG else ""
    return f' class="{name}"' if name else ""


def _note(note: str, name: str) -> str:
    """What of a file is not here."""
    return f'<p class="soft">{escape(note)} in report/{escape(name)}</p>' if note else ""


def _table_of_file(table: Table) -> str:
    return f"<h3>{escape(table.name)}</h3>{_table(table.rows)}{_note(table.note, table.name)}"


def _text(text: Text) -> str:
    shown = f"<pre>{escape(text.text)}</pre>"
    return f"<h3>{escape(text.name)}</h3>{shown}{_note(text.note, text.name)}"


def _picture(picture: Picture) -> str:
    name = escape(picture.name)
    caption = f"<figcaption>report/{name}{escape(f', {picture.note}' if picture.note else '')}"
    image = ""
    if picture.data:
        width, height = picture.size
        data = base64.b64encode(picture.data).decode()
        kind = "chart" if picture.name == _CURVES else "picture"
        image = (
            f'<div class="scroll" tabindex="0"><img class="{kind}" alt="{name}" '
            f'width="{width}" height="{height}" '
            f'style="min-width: {min(width, _NARROWEST)}px" '
            f'src="data:image/{picture.kind};base64,{data}"></div>'
        )
    return f"<figure>{image}{caption}</figcaption></figure>"


def _evaluations(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """The last evaluations of the training, as a table that one need not open."""
    lines = [line for line in metrics if line["split"] == "val"]
    if not lines:
        return []
    names = list(dict.fromkeys(k for line in lines for k in line if k not in _NO_FIGURES))
    shown = lines[-_MOST_EVALUATIONS:]
    rows = [["step", *names]]
    rows += [[str(line["step"]), *(_say(line.get(name)) for name in names)] for line in shown]
    earlier = len(lines) - len(shown)
    title = f"<summary>{len(shown)} of the validation split</summary>"
    note = f'<p class="soft">{earlier:,} earlier ones in metrics.jsonl</p>' if earlier else ""
    return [f"<details>{title}{_table(rows)}{note}</details>"]


def _say(value: Any) -> str:
    return report.format_figure(value) if isinstance(value, int | float) else str(value or "")


def _recipe(summary: RunSummary) -> list[str]:
    settings = [["key", "value"], *sorted(summary.settings.items())]
    command = f"<pre>{escape(summary.command)}</pre>"
    return [
        command if summary.command else "<p>It was started from Python, or nobody kept how.</p>",
        "<p>To use it:</p>",
        f"<pre>{escape(summary.predict(summary.path))}</pre>",
        "<h3>Settings that differ from configs/common.py</h3>",
        _table(settings),
        f"<details><summary>config.json</summary><pre>{escape(summary.config)}</pre></details>",
    ]


def _list(names: Sequence[str]) -> str:
    items = "".join(f"<li>report/{escape(name)}</li>" for name in names)
    return f"<ul>{items}</ul>"
