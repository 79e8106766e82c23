"""Sentences and their translations in files: tables of two columns, or two files of equal lines.

A table is a .tsv, a .txt with tabs, or a .csv, with a pair per row, the source first, or with a
first row that names the columns. Two files are such as `train.de` and `train.en`.
"""

import csv
import glob
import io
import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from input_pipeline import files
from input_pipeline.sources import captions_files, splitting
from input_pipeline.toys import Pair

_LOG = logging.getLogger(__name__)

_TABLES = (".tsv", ".csv", ".txt", ".tab")
_CSV = ".csv"
_DELIMITERS = (",", ";")  # of .csv, as programs of different countries write it
# What the first row may call the columns where no language is said.
_COLUMNS = (("source", "src"), ("target", "tgt", "trg"))
_QUOTED = " (a sentence with a comma in it must be in quotes)"

Languages = tuple[str, str]  # of the source and of the target, each "" if it is not said
Files = tuple[Path, ...]  # a table, or the files of the source and of the target
Key = tuple[Path, str]  # the folder, and what the names of two files have in common


class _Row(NamedTuple):
    """Fields of a table, or of two files."""

    line: int  # where it begins, from 1
    fields: list[str]


def read(
    source: str, languages: Languages, tell: Callable[[str], None] = _LOG.warning
) -> Mapping[str, Sequence[Pair]]:
    """Reads all pairs.

    Args:
        source: path of a table; of a folder of tables or of pairs of files, which may have folders
            or names of splits, such as train.tsv and val.tsv; or what the names of two files have
            in common, such as corpus/train of corpus/train.de and corpus/train.en.
        languages: what the names of files end in, or what columns are called.
        tell: takes what is left out of a file.

    Returns:
        Pairs by split name, "all" if there are no splits.

    Raises:
        ValueError: if there are none, or they cannot be read; the message names the file.
    """
    path = Path(source).expanduser()
    found = _find(path, languages)
    return {
        split: [pair for part in parts for pair in read_pairs(part, languages, tell)]
        for split, parts in found.items()
    }


def read_pairs(
    paths: Files, languages: Languages = ("", ""), tell: Callable[[str], None] = _LOG.warning
) -> list[Pair]:
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
        tell(say_empty(name, empty, len(empty) + len(pairs), "line"))
    if not pairs:
        raise ValueError(f"{name}: there is no sentence with a translation")
    return pairs


def say_empty(name: str, empty: Sequence[int], count: int, what: str) -> str:
    """A line about the numbers of lines, or such, of which a side is empty."""
    numbers = files.some([f"{what} {number}" for number in empty], most=5)
    return f"{name}: {len(empty)} of {count} {what}s have an empty side and are left out: {numbers}"


# Tables.


def _rows_of_table(path: Path, languages: Languages) -> Iterator[_Row]:
    text = captions_files.read_text(path)
    is_csv = path.suffix.lower() == _CSV
    rows = _rows_of_csv(text, path, languages) if is_csv else _rows_of_tabs(text)
    first = next(rows, None)
    if first is None:
        return
    columns = _columns_in(path, first.fields, languages)
    width = len(first.fields) if columns else 2
    for row in rows if columns else itertools.chain([first], rows):
        fields = row.fields
        if not any(field.strip() for field in fields):
            yield _Row(row.line, ["", ""])
            continue
        while len(fields) > width and not fields[-1].strip():  # as spreadsheets add them
            fields = fields[:-1]
        if len(fields) != width:
            raise ValueError(_say_width(path, row, width, columns is not None))
        yield _Row(row.line, [fields[k] for k in columns] if columns else fields)


def _say_width(path: Path, row: _Row, width: int, is_named: bool) -> str:
    is_csv = path.suffix.lower() == _CSV
    columns = "1 column" if len(row.fields) == 1 else f"{len(row.fields)} columns"
    where = f"{path} line {row.line}: it has {columns}, and"
    if is_named:
        return f"{where} its first row has {width}{_QUOTED if is_csv else ''}"
    if len(row.fields) < width:
        between = "a comma" if is_csv else "a tab"
        return f"{where} a sentence, {between} and its translation are expected"
    return (
        f"{where} 2 are expected, a sentence and its translation: take the others out, or write a "
        "first line that names the columns, source and target among them, or as "
        "data.translation.source_language and target_language say"
        f"{_QUOTED if is_csv else ''}"
    )


def _columns_in(path: Path, fields: Sequence[str], languages: Languages) -> tuple[int, int] | None:
    """The columns of source and target, if a row names them.

    Raises:
        ValueError: if it names one of two languages alone.
    """
    names = [field.strip().strip('"').lower() for field in fields]
    found = []
    for language, usual in zip(languages, _COLUMNS):
        known = (language.lower(),) if language else usual
        found.append(next((names.index(name) for name in known if name in names), None))
    first, second = found
    if first is not None and second is not None:
        return first, second
    if all(languages) and (first, second) != (None, None):
        raise ValueError(
            f"{path}: of the languages {' and '.join(languages)} its first row has one alone: "
            f"{', '.join(names)[:80]}"
        )
    if len(names) > 1 and all(re.fullmatch(r"[a-z]{2,3}([-_]\w+)?", name) for name in names):
        _LOG.warning(
            "%s: its first row, %s, is taken for sentences; if it names columns, say "
            "data.translation.source_language and target_language", path, ", ".join(names),
        )  # fmt: skip
    return None


def _rows_of_tabs(text: str) -> Iterator[_Row]:
    """Fields between tabs, in which a quote is just a quote."""
    for number, line in enumerate(_lines(text), 1):
        yield _Row(number, line.split("\t"))


def _rows_of_csv(text: str, path: Path, languages: Languages) -> Iterator[_Row]:
    """Fields between commas, or semicolons, which may be quoted and go on in the next line."""
    text = _with_newlines(text).rstrip("\n")
    delimiter = _delimiter_of(text, languages)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before = 0
    try:
        for fields in reader:
            yield _Row(before + 1, fields or [""])
            before = reader.line_num
    except csv.Error as error:
        raise ValueError(f"{path} line {before + 1}: {error}: is a quote not closed?") from None


def _delimiter_of(text: str, languages: Languages) -> str:
    """The sign between columns: the one that makes two of the first row, or known names."""

    def fits(delimiter: str) -> bool:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            names = [name.strip().lower() for name in next(reader, [])]
        except csv.Error:
            return False
        wanted = {language.lower() for language in languages if language}
        usual = {name for known in _COLUMNS for name in known}
        return len(names) == 2 or len((wanted or usual) & set(names)) == 2

    return next(filter(fits, _DELIMITERS), _DELIMITERS[0])


def _lines(text: str) -> list[str]:
    """Lines as files have them: other signs that end a line in Unicode are inside of sentences.

    Empty lines at the end are none.
    """
    lines = _with_newlines(text).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _with_newlines(text: str) -> str:
    """Text whose lines end as in Unix, if they ended as in Windows or in old Macs."""
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


# Two files.


def _rows_of_files(paths: Files) -> Iterator[_Row]:
    """Lines of two files, of which the n-th belong together."""
    texts = [_with_newlines(captions_files.read_text(path)) for path in paths]
    lines = [text.removesuffix("\n").split("\n") for text in texts]
    fewest = min(map(len, lines))
    if any(line.strip() for side in lines for line in side[fewest:]):  # else empty ones at the end
        counts = " and ".join(f"{path} has {len(side)}" for path, side in zip(paths, lines))
        raise ValueError(
            f"{counts} lines: the n-th line of one must be the translation of the n-th line of the "
            "other, so that both have the same number"
        )
    last = next((i for i in range(fewest, 0, -1) if any(side[i - 1].strip() for side in lines)), 0)
    for i in range(last):
        yield _Row(i + 1, [side[i] for side in lines])


# Where they are.


def _find(path: Path, languages: Languages) -> Mapping[str, list[Files]]:
    """Files by split name, "all" if there are no splits."""
    if path.is_file():
        if path.suffix.lower() in _TABLES:
            return {"all": [(path,)]}
        raise ValueError(
            f"{path} is no table ({', '.join(_TABLES)}): if it is one of two files such as "
            "corpus/train.de and corpus/train.en, say --config.data.source=corpus/train, "
            "--config.data.translation.source_language=de and target_language=en"
        )
    if path.is_dir():
        return _find_inside(path, languages)
    beside = sorted(path.parent.glob(f"{glob.escape(path.name)}[._-]*")) if path.name else []
    if not beside:
        raise ValueError(f"there is no file or folder {path}, and none such as {path}.de")
    pairs = _pair(beside, languages)
    wanted = [files_ for (_, stem), files_ in pairs.items() if stem == path.name]
    if not wanted:
        raise ValueError(
            f"{path}: there are {files.some([other.name for other in beside], most=4)}; "
            f"{_say_languages(languages)}"
        )
    return {"all": wanted}


def _say_languages(languages: Languages) -> str:
    return (
        "of two files one must end in data.translation.source_language and one in target_language, "
        f"such as .de and .en, which are {languages[0]!r} and {languages[1]!r}"
    )


def _find_inside(folder: Path, languages: Languages) -> Mapping[str, list[Files]]:
    """The same of a folder: by folders of splits, else by names of splits."""
    folders = splitting.find_splits(folder)
    if "all" not in folders:
        return {split: list(_list(one, languages).values()) for split, one in folders.items()}
    named: dict[str, list[Files]] = {}
    unnamed: list[Files] = []
    for (_, stem), some in _list(folder, languages).items():
        split = splitting.split_of(stem) or splitting.split_of(stem.split(".")[0])
        (named.setdefault(split, []) if split else unnamed).append(some)
    if not named:
        return {"all": unnamed}
    if "train" not in named and unnamed:  # europarl.de beside dev.de and test.de
        return {"train": unnamed, **named}
    left_out = [path for some in unnamed for path in some]
    files.tell_left_out(folder, left_out, "files are of no split and are left out")
    return named


def _list(folder: Path, languages: Languages) -> dict[Key, Files]:
    """Tables, or pairs of files, in a folder and below it, by folder and stem."""
    found = files.list_files(folder)
    pairs = _pair(found, languages) if all(languages) else {}
    if pairs:
        left_out = set(found) - {path for some in pairs.values() for path in some}
        if left_out:
            files.tell_left_out(folder, left_out, "files are of no pair and are left out")
        return pairs
    tables = [path for path in found if path.suffix.lower() in _TABLES]
    # Where there are others, a .txt is a README.
    tables = [path for path in tables if path.suffix.lower() != ".txt"] or tables
    if not tables:
        names = files.some([path.name for path in found], most=4) or "no files"
        raise ValueError(
            f"{folder} has {names}, and no sentences: it takes tables ({', '.join(_TABLES)}), or "
            f"two files; {_say_languages(languages)}"
        )
    return {(path.parent, path.stem): (path,) for path in tables}


def _pair(found: Sequence[Path], languages: Languages) -> dict[Key, Files]:
    """Pairs of files by what their names have in common; a ValueError names one that is alone."""
    sides: list[dict[Key, Path]] = []
    for language in languages:
        end = re.compile(rf"((?P<stem>.*)[._-])?{re.escape(language)}(\.txt)?", re.IGNORECASE)
        matches = ((path, end.fullmatch(path.name)) for path in found) if language else ()
        sides.append({(path.parent, match["stem"] or ""): path for path, match in matches if match})
    first, second = sides
    for key in sorted(first.keys() ^ second.keys()):
        there = first.get(key) or second[key]
        raise ValueError(f"{there} has no file beside it with its translations: "
                         f"{_say_languages(languages)}")  # fmt: skip
    return {key: (first[key], second[key]) for key in sorted(first)}
