"""Images that can be of several classes each, as a table beside them says."""

import collections
import csv
import difflib
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline import files, images
from input_pipeline.sources import captions_files, image_folder, splitting
from input_pipeline.sources.base import IndexedSource, Source

_LOG = logging.getLogger(__name__)

_IMAGE = (*captions_files.IMAGE, "image_index")
_LABELS = ("labels", "label", "classes", "class", "tags", "categories", "finding_labels")
_SEPARATORS = "|;,"
_CELLS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "": False}
_HOW = (
    "its first line must name the columns: image, and either labels, whose cells are such as "
    "cat|dog, or one column of 0 and 1 for each class"
)


class _Labelled(NamedTuple):
    """An image and its classes.

    Attributes:
        name: of it in the data set.
        path: of its file.
        labels: names of its classes, maybe none.
        where: the file and line that say so.
    """

    name: str
    path: str
    labels: frozenset[str]
    where: str


class _Table(NamedTuple):
    """What a file says.

    Attributes:
        splits: images by "train", "val" and "test"; "all" where nothing says a split.
        columns: the classes in the order of their columns; () if they are joined in one.
        faults: what is wrong, with the line.
        folder: from which on the images' names are paths.
    """

    splits: dict[str, list[_Labelled]]
    columns: tuple[str, ...]
    faults: list[str]
    folder: Path


def splits(config: Any) -> dict[str, Source]:
    """Finds the images of a table, and what they show.

    The table is `data.source` itself, or the only .csv or .tsv in that folder, or there is one for
    each split, called train.csv, val.csv, test.csv, or in folders of these names. Images' names are
    paths from its folder on, or from one in it. Rows can say the split in a column, or by such a
    folder that all names begin with. What is missing is split off train by the images'
    names, see `splitting.split_off_scenes`.

    Args:
        config: `config.data`, of which `source`, `val_fraction`, `split_seed` and `skip_corrupt`
            are read.

    Returns:
        Sources by split name, whose `label` is (classes,) float32, 1 for each class that the image
        is of. The classes are those to train on: in the order of their columns, or sorted by name.

    Raises:
        ValueError: for what is missing, or cannot be used; it names the lines.
    """
    return dict(find(config))


def find(config: Any, has_one_each: bool = False) -> dict[str, IndexedSource]:
    """Does what `splits` says; or, where each image is to have one class, refuses other rows."""
    splitting.check_fraction(config.val_fraction)
    tables = {
        path: _read(path, split, has_one_each) for path, split in _find(Path(config.source)).items()
    }
    found: dict[str, list[_Labelled]] = collections.defaultdict(list)
    faults = [fault for table in tables.values() for fault in table.faults]
    seen: dict[str, str] = {}
    for table in tables.values():
        for split, items in table.splits.items():
            for item in items:
                if item.path in seen:
                    faults.append(f"{item.where}: {item.name!r} is in {seen[item.path]} already")
                seen.setdefault(item.path, item.where)
                found[split].append(item)
    if "all" in found and len(found) > 1:
        faults.append(f"{found['all'][0].where} says no split, and other rows do")
    class_names, unknown = _classes(tables, found) if found else ((), [])
    faults += unknown
    if faults:
        raise ValueError(
            f"{len(faults)} rows of labels cannot be used: {files.some(faults, most=3)}"
        )
    _tell_unlisted(tables, seen)
    if not has_one_each:
        _warn_of_joined(found)
    parts: dict[str, Sequence[_Labelled]] = dict(found)
    if config.skip_corrupt:
        parts = {
            name: files.without_faults(some, lambda one: images.check_file(one.path), name)
            for name, some in parts.items()
        }
    parts = splitting.split_off_scenes(parts, lambda one: one.name, config)
    sources = {name: _source(some, class_names) for name, some in parts.items() if some}
    _warn_of_lacking(sources, class_names)
    return sources


def _find(source: Path) -> dict[Path, str]:
    """The tables, and the split that each is of; "all" if nothing says so."""
    source = source.expanduser()
    if source.is_file():
        return {source: "all"}
    if not source.is_dir():
        raise ValueError(f"data.source={str(source)!r}: there is no such folder or table")
    own = files.list_tables(source)
    if own:
        found = {path: splitting.split_of(path.stem) or "all" for path in own}
        hint = f", or say which: --config.data.source={own[0]}"
    else:
        parts = splitting.find_splits(source)
        by_part = {split: files.list_tables(path) for split, path in parts.items()}
        lacking = [str(parts[split]) for split, some in by_part.items() if not some]
        if lacking:
            raise ValueError(f"{', '.join(lacking)} holds no table: put in labels.csv; {_HOW}")
        found = {path: split for split, some in by_part.items() for path in some}
        hint = ""
    if len(set(found.values())) < len(found) or (len(found) > 1 and "all" in found.values()):
        raise ValueError(
            f"several tables may hold the labels: {', '.join(map(str, found))}. Keep one, or one "
            f"for each split, called train.csv, val.csv and test.csv{hint}"
        )
    return found


class _Header(NamedTuple):
    """The columns of a table.

    Attributes:
        titles: of all.
        delimiter: between them.
        image: number of that of images.
        split: of that of splits, if there is one.
        joined: of the one that has all labels; None if there is one for each class.
    """

    titles: tuple[str, ...]
    delimiter: str
    image: int
    split: int | None
    joined: int | None

    @property
    def classes(self) -> tuple[int, ...]:
        """Numbers of the columns that are of a class each."""
        others = (self.image, self.split)
        found = (i for i in range(len(self.titles)) if i not in others)
        return tuple(found) if self.joined is None else ()


class _Row(NamedTuple):
    """What a line says."""

    image: str
    labels: frozenset[str]
    split: str


def _read(path: Path, split: str, has_one_each: bool) -> _Table:
    """Reads a table; `split` is that of rows which say none."""
    text = captions_files.read_text(path)
    header = _read_header(path, text)
    lines = captions_files.lines_of_csv(text, header.delimiter, path)
    next(lines)
    rows, faults = [], []
    for number, cells in lines:
        try:
            row = _read_row([cell.strip() for cell in cells], header, has_one_each)
            rows.append((number, row))
        except ValueError as error:
            faults.append(f"{path} line {number}: {error}")
    if not (rows or faults):
        raise ValueError(f"{path} has no rows below its first line")
    names = [row.image for _, row in rows]
    folder, in_names = _folder_of(names, path.parent), _splits_in(names)
    found: dict[str, list[_Labelled]] = collections.defaultdict(list)
    for (number, row), split_in_name in zip(rows, in_names):
        where, file = f"{path} line {number}", folder / row.image
        if not file.is_file():
            faults.append(f"{where}: there is no image {file}")
        elif not files.is_image(file):
            faults.append(f"{where}: {file} is no image ({', '.join(files.SUFFIXES)})")
        else:
            item = _Labelled(row.image, os.path.normpath(file), row.labels, where)
            found[row.split or split_in_name or split].append(item)
    return _Table(dict(found), tuple(header.titles[i] for i in header.classes), faults, folder)


def _read_header(path: Path, text: str) -> _Header:
    first, _, _ = text.lstrip().partition("\n")
    for delimiter in captions_files.DELIMITERS:
        cells = next(csv.reader([first], delimiter=delimiter), [])
        titles = tuple(title.strip() for title in cells)
        plain = [captions_files.plain_name(title) for title in titles]
        image = captions_files.find_column(plain, _IMAGE)
        if image is None or len(titles) == 1:
            continue
        split = captions_files.find_column(plain, captions_files.SPLIT)
        joined = captions_files.find_column(plain, _LABELS)
        header = _Header(titles, delimiter, image, split, joined)
        if joined is not None or (header.classes and len(set(titles)) == len(titles)):
            return header
    raise ValueError(f"{path}: {_HOW}, each title once; it is {first.strip()[:80]!r}")


def _read_row(cells: Sequence[str], header: _Header, has_one_each: bool) -> _Row:
    """What a line says; raises a ValueError if it is nothing that can be used."""
    titles, split = header.titles, ""
    if len(cells) != len(titles):
        raise ValueError(f"it has {len(cells)} fields, and the first line {len(titles)}")
    if not cells[header.image]:
        raise ValueError("it names no image")
    if header.split is not None and cells[header.split]:
        split = splitting.split_of(cells[header.split]) or ""
        if not split:
            raise ValueError(f"the split {cells[header.split]!r} is none of train, val and test")
    labels = _labels_in(cells, header, has_one_each)
    if has_one_each and len(labels) != 1:
        raise ValueError(
            f"it has {len(labels) or 'no'} classes, and one is needed; data.kind=multilabel is for "
            "images of several or none"
        )
    return _Row(cells[header.image], frozenset(labels), split)


def _labels_in(cells: Sequence[str], header: _Header, has_one_each: bool) -> set[str]:
    """The classes that a line says."""
    if header.joined is not None:
        cell = cells[header.joined]
        return {cell} - {""} if has_one_each else set(_separate(cell))
    wrong = [i for i in header.classes if cells[i].lower() not in _CELLS]
    if wrong:
        title = header.titles[wrong[0]]
        raise ValueError(f"{title!r} must be 0 or 1, and is {cells[wrong[0]]!r}")
    return {header.titles[i] for i in header.classes if _CELLS[cells[i].lower()]}


def _separate(cell: str) -> Iterator[str]:
    """The names in a cell: between bars, semicolons or commas; they can have blanks."""
    for separator in _SEPARATORS[1:]:
        cell = cell.replace(separator, _SEPARATORS[0])
    return (name.strip() for name in cell.split(_SEPARATORS[0]) if name.strip())


def _folder_of(names: Sequence[str], beside: Path) -> Path:
    """The folder from which on the most names are paths: that of the table, or one in it."""
    folders = [beside, *files.list_folders(beside)]
    return max(folders, key=lambda folder: sum(os.path.isfile(folder / name) for name in names))


def _splits_in(names: Sequence[str]) -> list[str]:
    """The splits that the first folders of names tell; "" if some do not, or none is train."""
    firsts = [Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in names]
    found = [splitting.split_of(first) or "" for first in firsts]
    return found if all(found) and "train" in found else [""] * len(found)


def _classes(
    tables: Mapping[Path, _Table], found: Mapping[str, Sequence[_Labelled]]
) -> tuple[tuple[str, ...], list[str]]:
    """The classes that can be learned, and what is wrong with rows and tables that have others."""
    part = next((name for name in ("train", "all") if name in found), next(iter(found)))
    learned = [table for table in tables.values() if part in table.splits]
    columns = next((table.columns for table in learned if table.columns), ())
    names = set(columns) or {label for item in found[part] for label in item.labels}
    if not names:
        return (), ["no row to train on has a label"]
    faults = [
        f"{path} line 1: it has no column {name!r}"
        for path, table in tables.items()
        for name in (columns if table.columns else ())
        if name not in table.columns
    ]
    faults += [
        f"{item.where}: the class {label!r} is that of no image to train on{_guess(label, names)}"
        for items in found.values()
        for item in items
        for label in sorted(item.labels - names)
    ]
    return columns or tuple(image_folder.sorted_names(names)), faults


def _guess(label: str, names: set[str]) -> str:
    close = difflib.get_close_matches(label, sorted(names), 1)
    return f", did you mean {close[0]!r}?" if close else ""


def _tell_unlisted(tables: Mapping[Path, _Table], seen: Mapping[str, str]) -> None:
    """Warns of images without a row."""
    for folder in dict.fromkeys(table.folder for table in tables.values()):
        others = [
            path
            for path in files.list_files(folder)
            if files.is_image(path) and os.path.normpath(path) not in seen
        ]
        files.tell_left_out(folder, others, "images are in no row of the labels and are left out")


def _warn_of_joined(found: Mapping[str, Sequence[_Labelled]]) -> None:
    """Warns of names that seem to be several."""
    labels = [item.labels for items in found.values() for item in items]
    together = [name for some in labels for name in some if " " in name]
    if together and all(len(some) < 2 for some in labels):
        _LOG.warning(
            "no image has several labels, and some have blanks, such as %r: if that is several "
            "classes, put | between them", together[0],
        )  # fmt: skip


def _warn_of_lacking(sources: Mapping[str, IndexedSource], class_names: Sequence[str]) -> None:
    train = sources.get("train")
    if train is not None:
        counts = train.columns["label"].sum(axis=0)
        lacking = [name for name, count in zip(class_names, counts) if not count]
        if lacking:
            _LOG.warning("no image to train on is of %s", files.some(lacking))


def _source(found: Sequence[_Labelled], class_names: Sequence[str]) -> IndexedSource:
    number = {name: i for i, name in enumerate(class_names)}
    labels = np.zeros((len(found), len(class_names)), np.float32)
    hashed = hashlib.sha256()
    for row, item in zip(labels, found):
        row[[number[label] for label in item.labels]] = 1
        hashed.update("\0".join((item.name, *sorted(item.labels), "\0")).encode())
    paths = [item.path for item in found]
    return IndexedSource(
        {"path": np.array(paths), "label": labels},
        tuple(class_names),
        digest=hashed.hexdigest()[:16],
        loader=image_folder.read_file,
        names=tuple(item.name for item in found),
        explainer=lambda message: image_folder.explain(paths, message),
    )
