"""Uses a model on a person's own images: python -m vit_jax.predict --workdir=DIR FILE_OR_FOLDER...

A classifier prints the likeliest classes; a model that restores images writes them to --output.
"""

import csv
import functools
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from absl import flags

from checkpoints import files
from vit_jax import classify, photos, restore
from vit_jax.machinery import cli, model_flags

if TYPE_CHECKING:  # it takes seconds to import
    from vit_jax.pretrained import Pretrained

_LOG = logging.getLogger("vit_jax.predict")  # also when it is run as __main__

_TOP = 5

_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for predictions.csv, which is optional, or for the restored images."
)
_ATTENTION = flags.DEFINE_bool(
    "attention",
    False,
    "Classifying: also write pictures of where the model looks, to attention/ in --output.",
)
_METHOD = flags.DEFINE_enum(
    "method",
    None,
    restore.METHODS,
    "Restoring: the whole image at once; the same result in bounded memory, which DehazeFormer "
    "alone can; or tiles, whose result differs: much where a model uses statistics of the whole "
    "image, as DehazeFormer does, else by little. auto is the first of them that fits.",
)
_TILE = flags.DEFINE_integer("tile", None, "Restoring: side of the tiles in pixels; implies tiles.")
_MEMORY = flags.DEFINE_float(
    "memory", None, "Restoring: GiB that auto may use; unset: what is available."
)
_ENSEMBLE = flags.DEFINE_bool(
    "ensemble", False, "Restoring: average over eight rotations and reflections of the image."
)
_COMPARE = flags.DEFINE_bool(
    "compare", False, "Restoring: also write before and after side by side, to compare/."
)


def main(argv: Sequence[str]) -> int:
    """Classifies or restores the images; returns the exit code."""
    if len(argv) < 2:
        raise ValueError("say which images: one or more files or folders")
    if _ATTENTION.value and _OUTPUT.value is None:
        raise ValueError("--attention writes pictures: say where, --output=FOLDER")
    # Or TensorFlow would import Keras 3, of which nothing is used here: half of its start.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    pretrained = model_flags.load()
    if pretrained.model.predicts == "target":
        return _restore(pretrained, argv[1:])
    return _classify(pretrained, argv[1:])


def _restore(pretrained: "Pretrained", arguments: Sequence[str]) -> int:
    if _OUTPUT.value is None:
        raise ValueError("say where the restored images go: --output=FOLDER")
    if _ATTENTION.value:
        raise ValueError(f"--attention is for classifiers, and {pretrained.name} is none")
    if _TILE.value is not None and _METHOD.value not in (None, "tiles"):
        raise ValueError(f"--tile is for --method=tiles, and not for {_METHOD.value}")
    if _MEMORY.value is not None and (_METHOD.value != "auto" and (_METHOD.value or _TILE.value)):
        raise ValueError("--memory is for --method=auto")
    for flag in ("image_size", "labels"):
        if flags.FLAGS[flag].value is not None:
            raise ValueError(f"--{flag} is for classifiers: images are restored at their own size")
    by_tiles = {} if _TILE.value is None else {"method": "tiles", "tile": _TILE.value}
    restorer = restore.make_restorer(
        pretrained,
        **{"method": _METHOD.value or "auto", **by_tiles},
        memory=None if _MEMORY.value is None else int(_MEMORY.value * 2**30),
        ensemble=_ENSEMBLE.value,
    )
    output = Path(_OUTPUT.value)
    compare = output / "compare" if _COMPARE.value else None
    named = restore.name_outputs(arguments, output, compare)
    output.mkdir(parents=True, exist_ok=True)  # or raises, before anything is restored
    problems = restore.restore_files(restorer, named, output, compare)
    return _report_problems(problems, len(named))


def _report_problems(problems: Sequence[str], count: int) -> int:
    for problem in problems:
        _LOG.error("%s", problem)
    if problems:
        _LOG.error("%d of %d files failed", len(problems), count)
    return 1 if problems else 0


def _classify(pretrained: "Pretrained", arguments: Sequence[str]) -> int:
    """Prints, and with --output writes, the five likeliest classes of each image."""
    given = {"method": _METHOD.value, "tile": _TILE.value, "memory": _MEMORY.value,
             "ensemble": _ENSEMBLE.value, "compare": _COMPARE.value}  # fmt: skip
    wrong = [f"--{flag}" for flag, value in given.items() if value]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} is for models that restore images")
    classifier = classify.make_classifier(pretrained)
    draw = _attention_writer(pretrained, classifier.labels) if _ATTENTION.value else None
    paths = photos.find_images(arguments)
    if _OUTPUT.value is not None:
        Path(_OUTPUT.value).mkdir(parents=True, exist_ok=True)
    count = min(_TOP, len(classifier.labels))
    rows, unreadable, undrawn = [], 0, 0
    for prediction in classify.classify_files(classifier, paths):
        path = prediction.path
        if prediction.problem:
            _LOG.error("cannot read %s: %s", path, prediction.problem)
            unreadable += 1
            continue
        top = np.argsort(-prediction.probabilities)[:count]
        best = [(classifier.labels[i], float(prediction.probabilities[i])) for i in top]
        print(f"{path}: " + "; ".join(f"{label} {p:.1%}" for label, p in best))
        rows.append([path, *[cell for label, p in best for cell in (label, f"{p:.6f}")]])
        if draw is not None:
            try:
                draw(prediction)
            except Exception as error:  # whatever one file does, the others are drawn
                _LOG.error("cannot draw where it looks in %s: %s", path, photos.explain(error))
                undrawn += 1
    if _OUTPUT.value is not None:
        _write_csv(Path(_OUTPUT.value), rows, count)
    for failed, what in ((unreadable, "could not be read"), (undrawn, "have no picture")):
        if failed:
            _LOG.error("%d of %d files %s", failed, len(paths), what)
    return 1 if unreadable or undrawn else 0


def _attention_writer(
    pretrained: "Pretrained", labels: Sequence[str]
) -> Callable[[classify.Prediction], None]:
    """Makes the function that draws where the model looks, into attention/ of --output."""
    from vit_jax import attention_maps, fonts, report

    model, size = pretrained.model, pretrained.image_size
    variables = jax.device_put(pretrained.variables)

    look = jax.jit(functools.partial(attention_maps.look, model))
    jax.eval_shape(look, variables, jax.ShapeDtypeStruct((1, *size, 3), np.float32))  # or raises
    folder = Path(_OUTPUT.value) / "attention"
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()

    names = fonts.legible_names(labels)

    def draw(prediction: classify.Prediction) -> None:
        name = prediction.path.stem
        for i in itertools.count(2):  # of another folder, or with another suffix
            if name not in taken:
                break
            name = f"{prediction.path.stem}_{i}"
        taken.add(name)
        (rolled,), (heads,) = jax.device_get(look(variables, prediction.image[None]))
        image = report.displayable(prediction.image)
        best = int(np.argmax(prediction.probabilities))
        title = f"{names[best]} {prediction.probabilities[best]:.1%}"
        figure = attention_maps.draw(image, rolled, heads, title)
        with files.written_whole(folder / files.with_ending(name, ".png")) as partial:
            figure.savefig(partial, dpi=110, format="png")

    return draw


def _write_csv(folder: Path, rows: Sequence[Sequence[object]], count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "predictions.csv"
    header = [
        "file",
        *[f"{name}_{i + 1}" for i in range(count) for name in ("class", "probability")],
    ]
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    _LOG.info("wrote %s", path)


if __name__ == "__main__":
    cli.run(main)
