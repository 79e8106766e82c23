"""What `predict` does with answers: says and writes them, and remembers what is done.

A folder of results has a hidden file in which each item is noted as its answers are written, so
that the same command goes on where it was interrupted. Each of several processes has its own.
"""

import csv
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
from tqdm import tqdm

from checkpoints import files
from vit_jax import photos
from vit_jax.machinery import console, processes
from vit_jax.tasks.base import Answer, Item, Predictor

_LOG = logging.getLogger(__name__)

TABLE = "predictions.csv"
_NOTES, _ENDING = ".predict-", ".jsonl"

Row: TypeAlias = Sequence[object]


class Notes:
    """Remembers which items are done, in the folder of their results.

    Args:
        folder: of the results, which need not exist yet.
        items: all that are to be answered.
        made_with: what the answers depend on besides the items, by name: numbers, texts, lists.

    Attributes:
        items: the same.
        rows: of the items that are done, by their `key_of`, in the order in which they were.
        begun: `key_of` items of which something may be written.
        others: items that were done with other settings: these, by their `key_of`.
    """

    def __init__(self, folder: Path, items: Sequence[Item], made_with: Mapping[str, Any]) -> None:
        self.items = items
        self._folder = folder
        self._made_with = json.loads(json.dumps(made_with))  # as it is read again
        self.begun: set[str] = set()
        self.others: dict[str, Mapping[str, Any]] = {}
        self.rows: dict[str, list[Row]] = {}
        for path in sorted(folder.glob(f"{_NOTES}*{_ENDING}")):
            self._read(path)
        self._file = folder / f"{_NOTES}{jax.process_index()}{_ENDING}"
        self._is_new = True

    def _read(self, path: Path) -> None:
        made_with: Mapping[str, Any] = {}
        for line in path.read_text(encoding="ascii").splitlines():
            try:
                note = json.loads(line)
            except ValueError:
                continue  # written in part by a process that was killed
            if "made_with" in note:
                made_with = note["made_with"]
            elif made_with != self._made_with:
                self.others |= {} if note["rows"] is None else {note["item"]: made_with}
            elif note["rows"] is None:
                self.begun.add(note["item"])
            else:
                self.rows[note["item"]] = note["rows"]

    def is_done(self, item: Item, results: Sequence[os.PathLike[str]]) -> bool:
        """Whether an item needs nothing more.

        Args:
            item: as it is now; if a file of it has changed, it is another.
            results: what its answers write, inside of the folder.

        Raises:
            ValueError: if it was done with other weights or options.
        """
        key = key_of(item)
        if key in self.rows:
            return all((self._folder / result).exists() for result in results)
        if key in self.others:
            before, now = self.others[key], self._made_with
            name = next(k for k in now if before.get(k) != now[k])
            raise ValueError(
                f"{self._folder} holds what came of {item.paths[0]} with other settings: {name} "
                f"was {before.get(name)!r}, and not {now[name]!r}; choose another --output"
            )
        return False

    def begin(self, item: Item) -> None:
        """Notes that what is in the place of an item's results is its own from now on."""
        self._add(item, None)

    def end(self, item: Item, rows: Sequence[Row]) -> None:
        """Notes that an item's answers are said and written."""
        self.rows[key_of(item)] = [[str(cell) for cell in row] for row in rows]
        self._add(item, self.rows[key_of(item)])

    def _add(self, item: Item, rows: Sequence[Row] | None) -> None:
        lines = [json.dumps({"item": key_of(item), "rows": rows})]
        if self._is_new:  # after what a killed process may have written of a line
            lines = ["", json.dumps({"made_with": self._made_with}), *lines]
            self._is_new = False
        with self._file.open("a", encoding="ascii") as file:
            file.write("\n".join([*lines, ""]))


def key_of(item: Item) -> str:
    """What stands for an item: its place, and its files as they are now."""
    parts = [os.fspath(item.inside)]
    for path in item.paths:
        parts.append(os.path.abspath(path))
        if path.exists():  # which what was typed does not
            found = path.stat()
            parts.append(f"{found.st_size} {found.st_mtime_ns}")
    return "\0".join(parts)


def check_outputs(
    items: Sequence[Item], predictor: Predictor, output: Path | None, notes: Notes | None = None
) -> list[Item]:
    """Sees to it that no result is written over another, or over what is there.

    Args:
        items: what is to be answered.
        predictor: says what it writes for each.
        output: folder for the results, or None.
        notes: say what is done already.

    Returns:
        The items that are not done yet.

    Raises:
        ValueError: if two results would get the same name, or one would be a folder of another's,
            or one is there already.
    """
    taken: dict[Path, Item] = {}

    def check(target: Path, owner: Item, item: Item) -> None:
        if owner is not item:
            raise ValueError(
                f"{owner.paths[0]} and {item.paths[0]} would both be written to {target}: rename "
                "one, or give them one at a time"
            )

    for item in items:
        for result in predictor.outputs(item):
            target = (output or Path()) / result
            check(target, taken.setdefault(target, item), item)
    for target, item in taken.items():
        for folder in target.parents:
            check(folder, taken.get(folder, item), item)
    left = [
        item for item in items if notes is None or not notes.is_done(item, predictor.outputs(item))
    ]
    others = [item for item in left if notes is None or key_of(item) not in notes.begun]
    there = [
        target for item in others for result in predictor.outputs(item)
        if (target := (output or Path()) / result).exists()
    ]  # fmt: skip
    if there:
        raise ValueError(
            f"{len(there)} of the results are there already, such as {there[0]}: choose another "
            "--output, or remove them"
        )
    return left


def answer_items(
    predictor: Predictor, items: Sequence[Item], output: Path | None, notes: Notes | None = None
) -> tuple[int, list[tuple[str, ...]]]:
    """Says, and writes, what comes of items, as it comes; of several processes each its share.

    Args:
        predictor: answers for them.
        items: what is to be answered.
        output: folder for the results, or None.
        notes: say what is done already, and remember what is done without problems.

    Returns:
        How many answers there were; and what went wrong with each of those with which something
        did.
    """
    everything = items if notes is None else notes.items
    rows = {} if notes is None else dict(notes.rows)
    share = items[jax.process_index() :: jax.process_count()]
    everyones = processes.gather(_answer_share(predictor, share, output, notes))
    if output is not None and predictor.header and processes.is_first():
        for _, _, found in everyones:
            rows |= found
        keys = dict.fromkeys(key_of(item) for item in everything)
        ordered = [key for key in rows if key not in keys]  # of other commands
        ordered += [key for key in keys if key in rows]
        table = [row for key in ordered for row in rows[key]]
        _write_table(output / TABLE, ["file", *predictor.header], table)
    return sum(count for count, _, _ in everyones), [f for _, some, _ in everyones for f in some]


def _answer_share(
    predictor: Predictor, items: Sequence[Item], output: Path | None, notes: Notes | None
) -> tuple[int, list[tuple[str, ...]], dict[str, list[Row]]]:
    """Does what `answer_items` does, of one process; returns the rows by item as well."""
    count = 0
    failures: list[tuple[str, ...]] = []
    rows: dict[str, list[Row]] = {}
    counts = [item.count for item in items]
    total = None if None in counts else sum(filter(None, counts))
    few = total == 1 or not predictor.has_files
    with console.progress(total=total, disable=few) as bar, console.above(bar):
        for item, answers in _answers(predictor, items):
            of_item, failed = rows.setdefault(key_of(item), []), len(failures)
            for i, answer in enumerate(answers):
                if notes is not None and i == 0 and predictor.outputs(item):
                    notes.begin(item)
                unwritten = () if output is None else _write(answer, output)
                if answer.line and not (unwritten and predictor.has_files):
                    tqdm.write(answer.line)
                of_item.extend([[answer.path, *answer.row]] if answer.row else [])
                problems = (*answer.problems, *unwritten)
                for problem in problems:
                    _LOG.error("%s", problem)
                failures.extend([problems] if problems else [])
                count += 1
                bar.update()
            if notes is not None and len(failures) == failed:
                notes.end(item, of_item)
    return count, failures, rows


def _answers(
    predictor: Predictor, items: Sequence[Item]
) -> Iterator[tuple[Item, Iterable[Answer]]]:
    """Each item with its answers: those of one answer are answered together, others alone."""
    for is_one, group in itertools.groupby(items, lambda item: item.count == 1):
        some = list(group)
        if is_one:
            for item, answer in zip(some, predictor.answers(some), strict=True):
                yield item, [answer]
        else:
            for item in some:
                yield item, predictor.answers([item])


def _write(answer: Answer, output: Path) -> tuple[str, ...]:
    """Writes an answer's files; returns what went wrong."""
    for inside, data in answer.files.items():
        target = output / inside
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with files.written_whole(target) as partial:
                partial.write_bytes(data)
        except OSError as error:
            return (f"cannot write {target} of {answer.path}: {photos.explain(error)}",)
    return ()


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    _LOG.info("wrote %s", path)
