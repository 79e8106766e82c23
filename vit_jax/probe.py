"""Says what a model's features are worth: python -m vit_jax.probe FOLDER --checkpoint=FILE.

The model learns nothing: of each image the features before its head are computed once. On those of
the training images stand a linear classifier by least squares, which sees --shots images of each
class, and the classifier by which the nearest --neighbours vote; both classify the test images.

FOLDER holds {train,test}/CLASS/IMAGE, or what else a training on classes takes: a table of labels,
CLASS/IMAGE alone, tfds:NAME, or tfds:NAME:SPLIT to test on another split than test.

It prints a table, and writes it to probe.csv in --output. The exit code is 1 if images could not be
read; it names them, and goes on without them.
"""

import csv
import dataclasses
import io
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

from vit_jax.machinery import cli, model_flags
from vit_jax.machinery.output_flag import OUTPUT

if TYPE_CHECKING:  # with TensorFlow, which takes seconds to import
    from vit_jax.labelled_features import Features

_LOG = logging.getLogger("vit_jax.probe")  # also when it is run as __main__

_SHOTS = flags.DEFINE_string(
    "shots", "1,5,10,25", "Images of each class for the linear classifier; empty: none."
)
_NEIGHBOURS = flags.DEFINE_string(
    "neighbours",
    "20",
    "How many of the nearest images vote; several, such as 10,20; empty: none.",
)
_EVAL_PP = flags.DEFINE_string(
    "eval_pp",
    None,
    "How images are prepared, as --config.data.eval_pp of a training; unset: as the model has "
    "images to evaluate on.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Images that are looked at together; unset: what suits the devices."
)

_TABLE = "probe.csv"
_OF_FEW, _BY_NEIGHBOURS = "few_shot", "neighbours"
_TOP = 5


class Row(NamedTuple):
    """What came of a classifier.

    Attributes:
        probe: "few_shot" or "neighbours".
        number: of images per class, or of neighbours.
        seed: with which the images were drawn; None where all are taken.
        accuracy: in [0, 1].
        top5_accuracy: in [0, 1].
    """

    probe: str
    number: int
    seed: int | None
    accuracy: float
    top5_accuracy: float


def main(argv: Sequence[str]) -> int:
    """Probes the model; returns the exit code."""
    if len(argv) != 2:
        raise ValueError("say which images: one FOLDER that holds train/CLASS and test/CLASS")
    shots, neighbours = _numbers(_SHOTS), _numbers(_NEIGHBOURS)
    if not shots + neighbours:
        raise ValueError("--shots and --neighbours are both empty: say how many of one of them")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # see vit_jax.predict
    from vit_jax import labelled_features
    from vit_jax.embedder import Embedder, image_tower

    data = labelled_features.open_data(argv[1])
    pretrained = image_tower(model_flags.load())
    if _EVAL_PP.value is not None:
        pretrained = _prepared_by(pretrained, _EVAL_PP.value)
    embedder = Embedder(pretrained, _BATCH_SIZE.value, keeps_length=True)
    train, test = (
        labelled_features.compute(embedder, source, split)
        for source, split in zip((data.train, data.test), data.names)
    )
    if not (len(train.labels) and len(test.labels)):
        raise ValueError(f"{argv[1]}: no image can be read to learn from, or none to test on")
    print(
        f"{pretrained.name}: {embedder.size} features; {len(data.class_names)} classes, "
        f"{len(train.labels)} images to learn from ({data.names[0]}), {len(test.labels)} to test "
        f"on ({data.names[1]})"
    )
    rows = list(probe(train, test, data.class_names, shots, neighbours))
    print(format_table(rows, len(data.class_names)))
    if OUTPUT.value is not None:
        _write(Path(OUTPUT.value), rows)
    failures = train.failures + test.failures
    if failures:
        total = failures + len(train.labels) + len(test.labels)
        _LOG.error("%d of %d could not be read", failures, total)
    return 1 if failures else 0


def _numbers(flag: Any) -> list[int]:
    """The numbers that a flag lists."""
    numbers = [number.strip() for number in flag.value.split(",")] if flag.value else []
    wrong = [number for number in numbers if not number.isdecimal() or not int(number)]
    if wrong:
        raise ValueError(f"--{flag.name} lists numbers from 1 on, such as 1,5, not {wrong[0]!r}")
    return list(dict.fromkeys(map(int, numbers)))


def _prepared_by(pretrained: Any, spec: str) -> Any:
    """The model with another way to prepare images, which has to make them as large."""
    from input_pipeline import preprocess

    size, wanted = preprocess.output_shape(spec)[:2], pretrained.image_size
    if size != wanted and not pretrained.model.any_size:
        raise ValueError(
            f"--eval_pp={spec} makes images of {size[0]} x {size[1]}, and {pretrained.name} takes "
            f"{wanted[0]} x {wanted[1]}: change it, or say --image_size={size[0]}x{size[1]}"
        )
    return dataclasses.replace(pretrained, eval_pp=spec)


def probe(
    train: "Features",
    test: "Features",
    class_names: Sequence[str],
    shots: Sequence[int],
    neighbours: Sequence[int],
) -> Iterator[Row]:
    """Makes the classifiers, and classifies the test images.

    Args:
        train: features of the training images.
        test: those of the test images.
        class_names: of the labels.
        shots: images of each class that a linear classifier sees; it is left out, and the log says
            so, if a class has fewer.
        neighbours: that vote; if there are fewer images, all do.
    """
    from vit_jax import probing

    count = len(class_names)
    sizes = np.bincount(train.labels, minlength=count)
    for number in shots:
        if sizes.min() < number:
            _LOG.warning(
                "no probe of %d images per class: class %s has %d to learn from",
                number, class_names[int(sizes.argmin())], sizes.min(),
            )  # fmt: skip
            continue
        for seed in probing.SEEDS:
            chosen = probing.draw_shots(train.labels, number, seed)
            score = probing.fit_linear(train.vectors[chosen], train.labels[chosen], count)
            figures = probing.measure(score, test.vectors, test.labels)
            yield Row(_OF_FEW, number, seed, *figures)
    total = len(train.labels)
    for number in dict.fromkeys(min(number, total) for number in neighbours):
        score = probing.fit_neighbours(train.vectors, train.labels, count, number)
        yield Row(_BY_NEIGHBOURS, number, None, *probing.measure(score, test.vectors, test.labels))


def format_table(rows: Sequence[Row], classes: int) -> str:
    """Lays out mean and deviation over the seeds; the five likeliest of more than five classes."""
    table = [["probe", "accuracy", "deviation", "top-5"]]
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.probe, row.number), []).append(row)
    for (kind, number), group in groups.items():
        name = f"{number} per class" if kind == _OF_FEW else f"{number} neighbours"
        accuracies = np.array([row.accuracy for row in group])
        deviation = f"{accuracies.std():.1%}" if len(group) > 1 else "-"
        top5 = np.mean([row.top5_accuracy for row in group])
        cells = [f"{accuracies.mean():.1%}", deviation, f"{top5:.1%}"]
        table.append([name, *cells])
    if classes <= _TOP:
        table = [line[:-1] for line in table]
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in table
    )


def _write(folder: Path, rows: Sequence[Row]) -> None:
    """Writes the figures by seed; those before are replaced."""
    from checkpoints import files

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    for row in rows:
        figures = [f"{figure:.6f}" for figure in row[3:]]
        writer.writerow([*row[:2], "" if row.seed is None else row.seed, *figures])
    folder.mkdir(parents=True, exist_ok=True)
    with files.written_whole(folder / _TABLE) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
    _LOG.info("wrote %s", folder / _TABLE)


if __name__ == "__main__":
    cli.run(main)
