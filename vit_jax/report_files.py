"""What a report folder holds, in portions that a page can show."""

import csv
import io
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath
from PIL import Image

PAGE = "index.html"

_PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}
_MOST_BYTES = 4 * 2**20  # of all pictures together
_WIDTHS = (1600, 1000)  # of pictures that are made smaller, in pixels
_MOST_PICTURES = 40
_MOST_ROWS, _MOST_COLUMNS, _MOST_CHARACTERS = 20, 24, 160  # of a table, and of a cell
_MOST_LINES = 40  # of a text


class Picture(NamedTuple):
    """A picture of a report.

    Attributes:
        name: of its file.
        kind: of image, such as png.
        data: of the file, or of a smaller one; b"" if it is left out.
        size: (width, height) in pixels.
        note: what was done to it; "" if it is as it was.
    """

    name: str
    kind: str
    data: bytes
    size: tuple[int, int]
    note: str = ""


class Table(NamedTuple):
    """The beginning of a table.

    Attributes:
        name: of its file.
        rows: the header first.
        note: what is left out; "" if it is all here.
    """

    name: str
    rows: Sequence[Sequence[str]]
    note: str = ""


class Text(NamedTuple):
    """The beginning of a text, as `Table`."""

    name: str
    text: str
    note: str = ""


class ReportFiles(NamedTuple):
    """What a report folder holds, each in the order of the names.

    Attributes:
        pictures: those of one kind that browsers know.
        tables: the .csv files.
        texts: the .txt files.
        others: names of all others, and what cannot be read, with the reason.
    """

    pictures: Sequence[Picture]
    tables: Sequence[Table]
    texts: Sequence[Text]
    others: Sequence[str]


def read(folder: epath.Path) -> ReportFiles:
    """Reads a report folder; of what cannot be read the reason is kept."""
    pictures: list[tuple[str, bytes]] = []
    tables, texts, others = [], [], []
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.name == PAGE or path.name.startswith("."):
            continue
        suffix = path.suffix.lower()
        try:
            if path.is_dir():
                others.append(f"{path.name}/")
            elif suffix in _PICTURES:
                pictures.append((path.name, path.read_bytes()))
            elif suffix == ".csv":
                tables.append(_read_table(path))
            elif suffix == ".txt":
                texts.append(_read_text(path))
            else:
                others.append(path.name)
        except (OSError, csv.Error) as error:
            others.append(f"{path.name} (cannot be read: {error})")
    shown, unread = _fit(pictures)
    return ReportFiles(shown, tables, texts, [*others, *unread])


def _read_table(path: epath.Path) -> Table:
    text = path.read_bytes().decode("utf-8", "replace")
    lines = csv.reader(io.StringIO(text, newline=""))
    rows = list(itertools.islice(lines, _MOST_ROWS + 1))
    more = sum(1 for _ in lines)
    columns = max(map(len, rows), default=0)
    notes = [f"{more:,} more rows"] if more else []
    notes += [f"{columns - _MOST_COLUMNS:,} more columns"] if columns > _MOST_COLUMNS else []
    cut = [[_cut(cell) for cell in row[:_MOST_COLUMNS]] for row in rows]
    return Table(path.name, cut, " and ".join(notes))


def _read_text(path: epath.Path) -> Text:
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    more = len(lines) - _MOST_LINES
    shown = "\n".join(map(_cut, lines[:_MOST_LINES]))
    return Text(path.name, shown, f"{more:,} more lines" if more > 0 else "")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def _fit(pictures: Sequence[tuple[str, bytes]]) -> tuple[list[Picture], list[str]]:
    """Shares the room among pictures, of which the small ones leave more to the large ones."""
    fitted: dict[str, Picture] = {}
    unread = []
    room = _MOST_BYTES
    by_size = sorted(pictures, key=lambda picture: len(picture[1]))
    left = min(len(pictures), _MOST_PICTURES)
    for name, data in by_size:
        try:
            fitted[name] = _make_fit(name, data, room // left if left else 0)
        except Exception as error:  # whatever a broken picture does, the others are shown
            unread.append(f"{name} (no picture: {type(error).__name__})")
            continue
        room -= len(fitted[name].data)
        left -= left > 0
    return [fitted[name] for name, _ in pictures if name in fitted], unread


def _make_fit(name: str, data: bytes, room: int) -> Picture:
    """A picture of at most so many bytes, or without any."""
    kind = _PICTURES[epath.Path(name).suffix.lower()]
    megabytes = f"{len(data) / 2**20:.1f} MB"
    with Image.open(io.BytesIO(data)) as image:
        if len(data) <= room:
            return Picture(name, kind, data, image.size)
        for width in _WIDTHS if room else ():
            smaller = _shrink(image, width)
            if len(smaller[0]) <= room:
                return Picture(name, "webp", *smaller, f"made smaller; the file has {megabytes}")
        return Picture(name, kind, b"", image.size, f"left out: the file has {megabytes}")


def _shrink(image: Any, width: int) -> tuple[bytes, tuple[int, int]]:
    """A picture as WebP, of at most so many pixels in width, and its size."""
    small = image.convert("RGB")
    small.thumbnail((width, 8 * width))
    file = io.BytesIO()
    small.save(file, "webp", quality=85)
    return file.getvalue(), small.size
