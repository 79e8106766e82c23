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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from vit_jax import plugins
from vit_jax.machinery import cli, huge_pages, model_flags, option_flags, process_flags
from vit_jax.machinery.output_flag import OUTPUT

if __name__ == "__main__":
    huge_pages.ask_for()  # before plugins, which take seconds to import
    cli.before_flags(lambda: plugins.load(model_flags.plugins_in(sys.argv)))  # may bring flags
    option_flags.define()
    cli.parse_early()

import jax

from vit_jax import answering, results
from vit_jax.machinery import processes
from vit_jax.tasks import get_task

_LOG = logging.getLogger("vit_jax.predict")  # also when it is run as __main__

_OF_SPEED = ("batch_size", "memory")  # options that change no answer


def main(argv: Sequence[str]) -> int:
    """Answers for what is given; returns the exit code."""
    if len(argv) < 2:
        raise ValueError("say what to look at: one or more files or folders")
    output = None if OUTPUT.value is None else Path(OUTPUT.value)
    option_flags.check_output(output)
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
    options = option_flags.read(task.name, pretrained.name)
    has_size, has_labels = (flags.FLAGS[f].value is not None for f in ("image_size", "labels"))
    answering.check_use(pretrained, has_size, has_labels)
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


if __name__ == "__main__":
    cli.run(main)
