"""Classifies a person's own images: python -m vit_jax.predict --workdir=DIR FILE_OR_FOLDER..."""

import csv
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from checkpoints import npz
from vit_jax import cli
from vit_jax.models import get_model
from vit_jax.workdir import Workdir

_LOG = logging.getLogger("vit_jax.predict")  # also when it is run as __main__

_TOP = 5
_BATCH = 16

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run's folder.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for predictions.csv; none is written if unset."
)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained model with all it needs to classify a file.

    Attributes:
        labels: class names.
        prepare: from the bytes of an image file to (h, w, c) float32; raises a ValueError for what
            is no image.
        predict: from (b, h, w, c) float32 to (b, classes) probabilities.
    """

    labels: Sequence[str]
    prepare: Callable[[bytes], np.ndarray]
    predict: Callable[[np.ndarray], np.ndarray]


def load(path: str) -> Classifier:
    """Loads the classifier that a training left behind.

    Args:
        path: the run's folder, with config.json, weights.npz and labels.txt.

    Returns:
        The classifier.

    Raises:
        ValueError: if there is no finished run, or its weights do not fit its config.
    """
    from vit_jax import report  # matplotlib and, next, TensorFlow take seconds to import

    workdir = Workdir(path)
    config = workdir.read_config()
    if not workdir.weights.exists():
        raise ValueError(
            f"{workdir.path} has no weights.npz: the run has not finished. Finish it, or export "
            f"its best checkpoint so far with: python -m vit_jax.main --mode=evaluate "
            f"--workdir={path}"
        )
    params = npz.load(workdir.weights)
    labels = workdir.read_labels()
    fields = {**config.model, "num_classes": len(labels), "dtype": config.dtype, "scan": False}
    model = get_model(config.model_name, **fields)

    prepare, image_shape = _preparer(config.data.eval_pp)
    images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    npz.check(params, jax.eval_shape(model.init, jax.random.key(0), images)["params"])

    @jax.jit
    def logits(images: jax.Array) -> jax.Array:
        return model.apply({"params": params}, images, train=False)

    return Classifier(
        labels=labels,
        prepare=prepare,
        predict=lambda images: report.probabilities(np.asarray(logits(images)), config.loss),
    )


def _preparer(spec: str) -> tuple[Callable[[bytes], np.ndarray], tuple[int, ...]]:
    """Makes the function from a file's bytes to an image, and says the image's shape."""
    import tensorflow as tf

    from input_pipeline import images, pipeline, preprocess

    if preprocess.reads_files(spec):
        _, _, spec = spec.partition("|")
    apply = tf.function(
        preprocess.build(spec, train=False),
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), tf.int32)],
    )

    def prepare(data: bytes) -> np.ndarray:
        try:
            return apply(images.decode_in_python(data), np.zeros(2, np.int32)).numpy()
        except tf.errors.OpError as error:
            raise ValueError(pipeline.explain(error)) from error

    return prepare, tuple(apply.get_concrete_function().structured_outputs.shape)


def find_images(paths: Iterable[str]) -> list[Path]:
    """Lists the images that are meant.

    Args:
        paths: files, which are taken as they are, and folders, which are searched through.

    Returns:
        Paths of files, those of a folder sorted.

    Raises:
        ValueError: if a folder holds no images.
    """
    from input_pipeline.images import SUFFIXES

    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            p
            for p in path.rglob("*")
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
        )
        if not inside:
            raise ValueError(f"folder {path} holds no images ({', '.join(SUFFIXES)})")
        found.extend(inside)
    return found


def classify(
    classifier: Classifier, paths: Sequence[Path]
) -> Iterator[tuple[Path, np.ndarray | str]]:
    """Classifies files, a batch at a time.

    Args:
        classifier: from `load`.
        paths: of the files.

    Yields:
        Each path with its (classes,) probabilities, or with what is wrong with the file.
    """
    for start in range(0, len(paths), _BATCH):
        prepared: dict[Path, np.ndarray] = {}
        problems: dict[Path, str] = {}
        batch = paths[start : start + _BATCH]
        for path in batch:
            try:
                prepared[path] = classifier.prepare(path.read_bytes())
            except OSError as error:
                problems[path] = error.strerror or str(error)
            except ValueError as error:
                problems[path] = str(error)
        results: dict[Path, np.ndarray] = {}
        if prepared:
            images = np.stack(list(prepared.values()))
            rows = min(_BATCH, len(paths))  # one shape, so that the model compiles once
            padding = [(0, rows - len(images))] + [(0, 0)] * 3
            results = dict(zip(prepared, classifier.predict(np.pad(images, padding))))
        for path in batch:
            yield path, results[path] if path in results else problems[path]


def main(argv: Sequence[str]) -> int:
    """Prints, and with --output writes, the five likeliest classes of each image."""
    if _WORKDIR.value is None:
        raise ValueError("say which model: --workdir=DIR, a trained run's folder")
    if len(argv) < 2:
        raise ValueError("say which images: one or more files or folders")
    classifier = load(_WORKDIR.value)
    paths = find_images(argv[1:])
    count = min(_TOP, len(classifier.labels))
    rows, unreadable = [], 0
    for path, result in classify(classifier, paths):
        if isinstance(result, str):
            _LOG.error("cannot read %s: %s", path, result)
            unreadable += 1
            continue
        top = np.argsort(-result)[:count]
        best = [(classifier.labels[i], float(result[i])) for i in top]
        print(f"{path}: " + ", ".join(f"{label} {p:.1%}" for label, p in best))
        rows.append([path, *[cell for label, p in best for cell in (label, f"{p:.6f}")]])
    if _OUTPUT.value is not None:
        _write_csv(Path(_OUTPUT.value), rows, count)
    if unreadable:
        _LOG.error("%d of %d files could not be read", unreadable, len(paths))
    return 1 if unreadable else 0


def _write_csv(folder: Path, rows: Sequence[Sequence[object]], count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "predictions.csv"
    header = [
        "file",
        *[f"{name}_{i + 1}" for i in range(count) for name in ("class", "probability")],
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    _LOG.info("wrote %s", path)


if __name__ == "__main__":
    cli.run(main)
