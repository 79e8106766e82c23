"""Uses a model on a person's own files: python -m vit_jax.predict --workdir=DIR FILE_OR_FOLDER...

A classifier prints the likeliest classes; a model that restores images writes them to --output.
"""

import csv
import dataclasses
import logging
import os
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from checkpoints import files
from vit_jax import photos, plugins
from vit_jax.machinery import cli, console, model_flags
from vit_jax.models.base import Model
from vit_jax.tasks import TASKS, Task, get_task
from vit_jax.tasks.base import Answer, Predictor

_LOG = logging.getLogger("vit_jax.predict")  # also when it is run as __main__

_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for what is written: predictions.csv, or the restored images."
)


def main(argv: Sequence[str]) -> int:
    """Answers for each file; returns the exit code."""
    if len(argv) < 2:
        raise ValueError("say which images: one or more files or folders")
    output = None if _OUTPUT.value is None else Path(_OUTPUT.value)
    for flag, (_, field, _) in _options(TASKS.values()).items():
        if output is None and field.metadata["writes"] and flags.FLAGS[flag].value:
            raise ValueError(f"--{flag} writes pictures: say where, --output=FOLDER")
    # Or TensorFlow would import Keras 3, of which nothing is used here: half of its start.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    pretrained = model_flags.load()
    task = get_task(pretrained.model)
    _check_flags(pretrained.name, pretrained.model, task)
    predictor = task.predictor(pretrained, _read_options(task), output)
    if predictor.has_files and output is None:
        raise ValueError(f"say where the results of {pretrained.name} go: --output=FOLDER")
    inside = name_outputs(argv[1:], predictor, output)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # or raises, before anything is done
    failed = answer_files(predictor, inside, output)
    if failed:
        _LOG.error("%d of %d files failed", len(failed), len(inside))
    return 1 if failed else 0


def define_options(tasks: Iterable[Task]) -> None:
    """Makes a flag of each option of each task; tasks that share a name share the flag."""
    for name, (kind, field, owners) in _options(tasks).items():
        text = f"Of {' and '.join(owners)}: {field.metadata['help']}"
        if kind is bool:
            flags.DEFINE_bool(name, field.default, text)
        elif field.metadata["choices"]:
            flags.DEFINE_enum(name, None, list(field.metadata["choices"]), text)
        else:
            define: dict[type, Any] = {int: flags.DEFINE_integer, float: flags.DEFINE_float}
            define.get(kind, flags.DEFINE_string)(name, None, text)


def _options(tasks: Iterable[Task]) -> dict[str, tuple[type, Any, list[str]]]:
    """Options by name: their type, their field, and the tasks that have them."""
    found: dict[str, tuple[type, Any, list[str]]] = {}
    for task in tasks:
        hints = typing.get_type_hints(task.options)
        for field in dataclasses.fields(task.options):
            kind = hints[field.name]
            if typing.get_origin(kind) in (types.UnionType, typing.Union):  # such as int | None
                (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
            owners = found.get(field.name, (kind, field, []))[2]
            found[field.name] = (kind, field, [*owners, task.name])
    return found


def _read_options(task: Task) -> Any:
    given = {
        field.name: flags.FLAGS[field.name].value
        for field in dataclasses.fields(task.options)
        if field.name in flags.FLAGS  # not so of a plugin that only the run names
    }
    return task.options(**{name: value for name, value in given.items() if value is not None})


def _check_flags(name: str, model: Model, task: Task) -> None:
    """Raises a ValueError for a flag that does not go with a model."""
    own = {field.name for field in dataclasses.fields(task.options)}
    for flag, (_, _, owners) in _options(TASKS.values()).items():
        if flag not in own and flag in flags.FLAGS and flags.FLAGS[flag].value:
            raise ValueError(
                f"--{flag} is for models that {' or '.join(owners)}, and {name} is made to "
                f"{task.name}"
            )
    if model.any_size and flags.FLAGS["image_size"].value is not None:
        raise ValueError(f"{name} takes images at their own size: leave --image_size out")
    if not model.has_field("num_classes") and flags.FLAGS["labels"].value is not None:
        raise ValueError(f"{name} tells no classes apart: leave --labels out")


def name_outputs(
    arguments: Sequence[str | os.PathLike[str]], predictor: Predictor, output: Path | None
) -> dict[Path, Path]:
    """Says where files lie in the folders that were given, which is where their results go.

    Args:
        arguments: files and folders.
        predictor: says what it writes.
        output: folder for the results, or None.

    Returns:
        The place by file.

    Raises:
        ValueError: if two results would get the same name, or one is there already.
    """
    named: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for argument in map(Path, arguments):
        for path in photos.find_images([str(argument)]):
            inside = path.relative_to(argument) if argument.is_dir() else Path(path.name)
            for result in predictor.outputs(inside):
                target = (output or Path()) / result
                if taken.setdefault(target, path) != path:
                    raise ValueError(
                        f"{taken[target]} and {path} would both be written to {target}: rename "
                        "one, or give them one at a time"
                    )
            named[path] = inside
    there = [str(target) for target in taken if target.exists()]
    if there:
        raise ValueError(
            f"{len(there)} of the results are there already, such as {there[0]}: choose another "
            "--output, or remove them"
        )
    return named


def answer_files(
    predictor: Predictor, inside: Mapping[Path, Path], output: Path | None
) -> dict[Path, tuple[str, ...]]:
    """Says, and writes, what comes of files.

    Args:
        predictor: answers for them.
        inside: where they lie in the folders that were given, from `name_outputs`.
        output: folder for the results, or None.

    Returns:
        What went wrong, by file.
    """
    problems: dict[Path, tuple[str, ...]] = {}
    rows: list[list[object]] = []
    few = len(inside) == 1 or not predictor.has_files
    bar = console.progress(predictor.answers(inside), total=len(inside), unit="image", disable=few)
    with console.above(bar):
        for answer in bar:
            unwritten = () if output is None else _write(answer, output)
            if answer.line and not (unwritten and predictor.has_files):
                tqdm.write(answer.line)
            if answer.row:
                rows.append([answer.path, *answer.row])
            for problem in (*answer.problems, *unwritten):
                _LOG.error("%s", problem)
                problems[answer.path] = (*problems.get(answer.path, ()), problem)
    if output is not None and predictor.header:
        _write_csv(output / "predictions.csv", ["file", *predictor.header], rows)
    return problems


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
