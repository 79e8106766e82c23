"""Uses a model on a person's own files: python -m vit_jax.predict --workdir=DIR FILE_OR_FOLDER...

A classifier prints the likeliest classes; a model of images and texts compares photos with the
words of --labels; a model that restores or segments images writes to --output. One of optical flow
takes pairs of frames (FRAME1 FRAME2), folders of frames, and videos. What is answered, and how, is
its task's business, see `vit_jax.tasks.base.Predictor`. If no model is named, photos are dehazed,
by the small DehazeFormer that comes with the package.
"""

import dataclasses
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from vit_jax.machinery import huge_pages

if __name__ == "__main__":
    huge_pages.ask_for()  # before what takes seconds to import

import jax

from vit_jax import answering, plugins, results
from vit_jax.machinery import cli, model_flags, process_flags, processes
from vit_jax.machinery.output_flag import OUTPUT
from vit_jax.tasks import TASKS, Task, get_task
from vit_jax.tasks.base import Pretrained

_LOG = logging.getLogger("vit_jax.predict")  # also when it is run as __main__

_OF_SPEED = ("batch_size", "memory")  # options that change no answer


def main(argv: Sequence[str]) -> int:
    """Answers for what is given; returns the exit code."""
    if len(argv) < 2:
        raise ValueError("say what to look at: one or more files or folders")
    output = None if OUTPUT.value is None else Path(OUTPUT.value)
    for flag, (_, field, _) in _options(TASKS.values()).items():
        if output is None and field.metadata["writes"] and flags.FLAGS[flag].value:
            raise ValueError(f"--{flag} writes files: say where, --output=FOLDER")
    # Or TensorFlow, where it is needed, would import Keras 3, of which nothing is used here.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    with process_flags.joined():
        return _predict(argv[1:], output)


def _predict(arguments: Sequence[str], output: Path | None) -> int:
    if model_flags.is_silent():
        from checkpoints import packages  # takes a while to import

        flags.FLAGS["checkpoint"].value = packages.DEHAZER
        _LOG.info(
            "no --weights or --workdir is given: this is %s, which takes haze out of photos, see "
            "docs/dehazer.md",
            packages.DEHAZER,
        )
    pretrained = model_flags.load()
    task = get_task(pretrained.model)
    _check_flags(pretrained, task)
    options = _read_options(task)
    predictor = task.predictor(pretrained, options, output)
    if output is None and (predictor.has_files or jax.process_count() > 1):
        raise ValueError(f"say where the results of {pretrained.name} go: --output=FOLDER")
    items = predictor.find(arguments)
    notes = None
    if output is not None:
        notes = results.Notes(output, items, _made_with(pretrained, options))
    left = results.check_outputs(items, predictor, output, notes)
    if len(left) < len(items):
        _LOG.info("%d of %d are done already, in %s", len(items) - len(left), len(items), output)
    processes.gather(None)  # nobody writes before all have looked
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # or raises, before anything is done
    count, failures = results.answer_items(predictor, left, output, notes)
    if failures:
        _LOG.error("%d of %d failed", len(failures), count)
    return 1 if failures else 0


def _made_with(pretrained: Any, options: Any) -> dict[str, Any]:
    """What answers depend on besides what is asked."""
    from vit_jax import weights  # takes a while to import

    said = {k: v for k, v in dataclasses.asdict(options).items() if k not in _OF_SPEED}
    return {
        "model": pretrained.name,
        "weights": weights.get_absolute(str(model_flags.path_given())),
        "fields": repr(sorted(pretrained.fields.items())),
        "image_size": list(pretrained.image_size),
        "labels": repr(pretrained.labels),
        **{f"--{name}": value for name, value in said.items()},
    }


def define_options(tasks: Iterable[Task]) -> None:
    """Makes a flag of each option of each task; tasks that share a name share the flag."""
    for name, (kind, field, owners) in _options(tasks).items():
        text = " ".join(
            f"Of {' and '.join(owner for owner in owners if owners[owner] == words)}: {words}"
            for words in dict.fromkeys(owners.values())
        )
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


if __name__ == "__main__":
    cli.before_flags(lambda: plugins.load(model_flags.plugins_in(sys.argv)))
    define_options(TASKS.values())
    cli.run(main)
