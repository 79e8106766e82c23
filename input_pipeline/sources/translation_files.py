"""Sentences and their translations in files: tables of two columns, or two files of equal lines.

A table is a .tsv, a .txt with tabs, or a .csv, with a pair per row, the source first, or with a
first row that names the columns. Two files are such as `train.de` and `train.en`.
"""

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from input_pipeline import files
from input_pipeline.sources import captions_files
from input_pipeline.toys import Pair

_LOG = logging.getLogger(__name__)

_TABLES = (".tsv", ".csv", ".txt", ".tab")
_CSV = ".csv"
_DELIMITERS = (",", ";")  # of .csv, as programs of different countries write it
# What the first row may call the columns where no language is said.
_COLUMNS = (("source", "src"), ("target", "tgt", "trg"))
Languages = tuple[str, str]  # of the source and of the target, each "" if it is not said


class _Row(NamedTuple):
    """Fields of a table, or of two files."""

    line: int  # where it begins, from 1
    fields: list[str]


def read(source: str, languages: Languages) -> Mapping[str, Sequence[Pair]]:
    """Reads all pairs.

    Args:
        source: path of a table; of a folder of tables or of pairs of files, which may have folders
            or names of splits, such as train.tsv and val.tsv; or what the names of two files have
            in common, such as corpus/train of corpus/train.de and corpus/train.en.
        languages: what the names of files end in, or what columns are called.

    Returns:
        Pairs by split name, "all" if there are no splits.

    Raises:
        ValueError: if there are none, or they cannot be read; the message names the file.
    """
    path = Path(source).expanduser()
    found = _find(path, languages)
    return {
        split: [pair for part in parts for pair in read_pairs(part, languages)]
        for split, parts in found.items()
    }


def read_pairs(paths: tuple[Path, ...], languages: Languages = ("", "")) -> list[Pair]:
    """The pairs of a table, or of two files; none has an empty side.

    Raises:
        ValueError: see `read`.
    """
    rows = _rows_of_files(paths) if len(paths) > 1 else _rows_of_table(paths[0], languages)
    pairs: list[Pair] = []
    empty: list[int] = []
    for line, fields in rows:
        first, second = map(captions_files.clean, fields)
        if first and second:
            pairs.append((first, second))
        else:
            empty.append(line)
    name = " and ".join(map(str, paths))
    if empty:
        _LOG.warning(
            "%s: %d of %d lines have an empty side and are left out: %s",
            name, len(empty), len(empty) + len(pairs),
            files.some([f"line {line}" for line in empty], most=5),
        )  # fmt: skip
    if not pairs:
        raise ValueError(f"{name}: there is no sentence with a translation")
    return pairs


# Tables.


def _rows_of_table(path: Path, languages: Languages) -> Iterator[_Row]:
    text = captions_files.read_text(path)
    rows = _rows_of_csv(text, path) if path.suffix.lower() == _CSV else _rows_of_tabs(text)
    columns: tuple[int, int] | None = None
    width = 2
    for i, row in enumerate(rows):
        if i == 0:
            columns = _columns_in(row.fields, languages)
            width = len(row.fields) if columns else 2
            if columns:
                continue
        if len(row.fields) == 1 and not row.fields[0].strip():
            yield _Row(row.line, ["", ""])  # an empty line
            continue
        if len(row.fields) != width:
            raise ValueError(_say_width(path, row, width, named=columns is not None))
        yield row if columns is None else _Row(row.line, [row.fields[k] for k in columns])


def _say_width(path: Path, row: _Row, width: int, named: bool) -> str:
    is_csv = path.suffix.lower() == _CSV
    between = "a comma" if is_csv else "a tab"
    expected = (
        f"its first row has {width}"
        if named
        else f"2 are expected, a sentence, {between} and its translation; a table of more must "
        "name them in its first row, source and target among them, or as "
        "data.translation.source_language and target_language say"
    )
    quoted = " (a sentence with a comma in it must be in quotes)" if is_csv else ""
    return f"{path} line {row.line}: it has {len(row.fields)} columns, and {expected}{quoted}"


def _columns_in(fields: Sequence[str], languages: Languages) -> tuple[int, int] | None:
    """The columns of source and target, if a row names them."""
    names = [field.strip().strip('"').lower() for field in fields]
    found = []
    for language, usual in zip(languages, _COLUMNS):
        known = (language.lower(),) if language else usual
        found.append(next((names.index(name) for name in known if name in names), None))
    first, second = found
    return None if first is None or second is None else (first, second)


def _rows_of_tabs(text: str) -> Iterator[_Row]:
    """Fields between tabs, in which a quote is just a quote."""
    for number, line in enumerate(_lines(text), 1):
        yield _Row(number, line.split("\t"))


def _rows_of_csv(text: str, path: Path) -> Iterator[_Row]:
    """Fields between commas, or semicolons, which may be quoted and go on in the next line."""
    first = next(iter(_lines(text)), "")
    delimiter = max(_DELIMITERS, key=lambda mark: first.count(mark) > 0 and mark == ",")
    if "," not in first and ";" in first:
        delimiter = ";"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before = 0
    try:
        for fields in reader:
            yield _Row(before + 1, fields or [""])
            before = reader.line_num
    except csv.Error as error:
        raise ValueError(f"{path} line {before + 1}: {error}: is a quote not closed?") from None


def _lines(text: str) -> list[str]:
    """Lines as files have them: other signs that end a line in Unicode are inside of sentences."""
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return lines if lines != [""] else []


# Two files.


def _rows_of_files(paths: tuple[Path, ...]) -> Iterator[_Row]:
    raise ValueError(f"{paths}")


def _find(path: Path, languages: Languages) -> Mapping[str, list[tuple[Path, ...]]]:
    if path.is_file():
        return {"all": [(path,)]}
    raise ValueError(f"there is no file {path}")
