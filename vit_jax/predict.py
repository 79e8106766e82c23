"""Uses a model on a person's own files: python -m vit_jax.predict --workdir=DIR FILE_OR_FOLDER...

A classifier prints the likeliest classes; a model of images and texts compares photos with the
words of --labels; a model that restores or segments images writes to --output. One of optical flow
takes pairs of frames (FRAME1 FRAME2), folders of frames, and videos. What is answered, and how, is
its task's business, see `vit_jax.tasks.base.Predictor`.
"""

import csv
import dataclasses
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from checkpoints import files
from vit_jax import answering, photos, plugins
from vit_jax.machinery import cli, console, model_flags
from vit_jax.machinery.output_flag import OUTPUT
from vit_jax.tasks import TASKS, Task, get_task
from vit_jax.tasks.base import Answer, Item, Predictor, Pretrained

_LOG = logging.getLogger("vit_jax.predict")  # also when it is run as __main__


def main(argv: Sequence[str]) -> int:
    """Answers for what is given; returns the exit code."""
    if len(argv) < 2:
        raise ValueError("say what to look at: one or more files or folders")
    output = None if OUTPUT.value is None else Path(OUTPUT.value)
    for flag, (_, field, _) in _options(TASKS.values()).items():
        if output is None and field.metadata["writes"] and flags.FLAGS[flag].value:
            raise ValueError(f"--{flag} writes files: say where, --output=FOLDER")
    # Or TensorFlow would import Keras 3, of which nothing is used here: half of its start.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    pretrained = model_flags.load()
    task = get_task(pretrained.model)
    _check_flags(pretrained, task)
    predictor = task.predictor(pretrained, _read_options(task), output)
    if predictor.has_files and output is None:
        raise ValueError(f"say where the results of {pretrained.name} go: --output=FOLDER")
    items = predictor.find(argv[1:])
    check_outputs(items, predictor, output)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # or raises, before anything is done
    count, failures = answer_items(predictor, items, output)
    if failures:
        _LOG.error("%d of %d failed", len(failures), count)
    return 1 if failures else 0


def define_options(tasks: Iterable[Task]) -> None:
    """Makes a flag of each option of each task; tasks that share a name share the flag."""
    for name, (kind, field, owners) in _options(tasks).items():
        text = " ".join(f"Of {owner}: {words}" for owner, words in owners.items())
        if kind is bool:
            flags.DEFINE_bool(name, field.default, text)
        elif field.metadata["choices"]:
            flags.DEFINE_enum(name, None, list(field.metadata["choices"]), text)
        else:
            define: dict[type, Any] = {int: flags.DEFINE_integer, float: flags.DEFINE_float}
            define.get(kind, flags.DEFINE_string)(name, None, text)


def _options(tasks: Iterable[Task]) -> dict[str, tuple[type, Any, dict[str, str]]]:
    """Options by name: their type, their field, and their help by the tasks that have them."""
    found: dict[str, tuple[type, Any, dict[str, str]]] = {}
    for task in tasks:
        for name, (kind, field) in answering.kinds_of(task).items():
            owners = found.get(name, (kind, field, {}))[2]
            found[name] = (kind, field, {**owners, task.name: field.metadata["help"]})
    return found


def _read_options(task: Task) -> Any:
    given = {
        field.name: flags.FLAGS[field.name].value
        for field in dataclasses.fields(task.options)
        if field.name in flags.FLAGS  # not so of a plugin that only the run names
    }
    return task.options(**{name: value for name, value in given.items() if value is not None})


def _check_flags(pretrained: Pretrained, task: Task) -> None:
    """Raises a ValueError for a flag that does not go with a model."""
    own = {field.name for field in dataclasses.fields(task.options)}
    for flag, (_, _, owners) in _options(TASKS.values()).items():
        if flag not in own and flag in flags.FLAGS and flags.FLAGS[flag].value:
            raise ValueError(
                f"--{flag} goes with the task {' or '.join(owners)}, and that of "
                f"{pretrained.name} is {task.name}"
            )
    has_size, has_labels = (flags.FLAGS[f].value is not None for f in ("image_size", "labels"))
    answering.check_use(pretrained, has_size, has_labels)


def check_outputs(items: Sequence[Item], predictor: Predictor, output: Path | None) -> None:
    """Sees to it that no result is written over another, or over what is there.

    Args:
        items: what is to be answered.
        predictor: says what it writes for each.
        output: folder for the results, or None.

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
    there = [str(target) for target in taken if target.exists()]
    if there:
        raise ValueError(
            f"{len(there)} of the results are there already, such as {there[0]}: choose another "
            "--output, or remove them"
        )


def answer_items(
    predictor: Predictor, items: Sequence[Item], output: Path | None
) -> tuple[int, list[tuple[str, ...]]]:
    """Says, and writes, what comes of items, as it comes.

    Args:
        predictor: answers for them.
        items: what is to be answered.
        output: folder for the results, or None.

    Returns:
        How many answers there were; and what went wrong with each of those with which something
        did.
    """
    count = 0
    failures: list[tuple[str, ...]] = []
    rows: list[list[object]] = []
    counts = [item.count for item in items]
    total = None if None in counts else sum(filter(None, counts))
    few = total == 1 or not predictor.has_files
    bar = console.progress(predictor.answers(items), total=total, disable=few)
    with console.above(bar):
        for answer in bar:
            unwritten = () if output is None else _write(answer, output)
            if answer.line and not (unwritten and predictor.has_files):
                tqdm.write(answer.line)
            if answer.row:
                rows.append([answer.path, *answer.row])
            problems = (*answer.problems, *unwritten)
            for problem in problems:
                _LOG.error("%s", problem)
            failures.extend([problems] if problems else [])
            count += 1
    if output is not None and predictor.header:
        _write_csv(output / "predictions.csv", ["file", *predictor.header], rows)
    return count, failures


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


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    _LOG.info("wrote %s", path)


if __name__ == "__main__":
    cli.before_flags(lambda: plugins.load(model_flags.plugins_in(sys.argv)))
    define_options(TASKS.values())
    cli.run(main)
