"""Classifies image files."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from vit_jax import photos

if TYPE_CHECKING:  # it takes seconds to import
    from vit_jax.pretrained import Pretrained

_BATCH = 16


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


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What came of a file.

    Attributes:
        path: of the file.
        image: (h, w, c) float32, as the model saw it; None if the file could not be read.
        probabilities: (classes,), or None.
        problem: what is wrong with the file; "" if nothing is.
    """

    path: Path
    image: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    problem: str = ""


def make_classifier(pretrained: "Pretrained") -> Classifier:
    """Makes a classifier of a model, see `pretrained.load`.

    Raises:
        ValueError: if the model has no head.
    """
    from vit_jax import losses, ops

    if not getattr(pretrained.model, "num_classes", 0):
        raise ValueError("these weights have no head to classify with: fine-tune them first")
    variables = jax.device_put(pretrained.variables)

    @functools.partial(jax.jit, compiler_options=ops.compiler_options())
    def apply(variables: Any, images: np.ndarray) -> jax.Array:
        logits = pretrained.model.apply(variables, images, train=False)
        return losses.probabilities(logits, pretrained.loss)

    return Classifier(
        labels=pretrained.labels
        or tuple(f"class {i}" for i in range(pretrained.model.num_classes)),
        prepare=_preparer(pretrained.eval_pp),
        predict=lambda images: np.asarray(apply(variables, images)),
    )


def _preparer(spec: str) -> Callable[[bytes], np.ndarray]:
    """Makes the function from a file's bytes to an image."""
    from input_pipeline import files, pipeline, preprocess
    from input_pipeline.cpu_tf import tf

    apply = preprocess.build_for_decoded(spec)

    def prepare(data: bytes) -> np.ndarray:
        try:
            return apply(files.decode_in_python(data), np.zeros(2, np.int32)).numpy()
        except tf.errors.OpError as error:
            raise ValueError(pipeline.explain(error)) from error

    return prepare


def classify_files(classifier: Classifier, paths: Sequence[Path]) -> Iterator[Prediction]:
    """Classifies files, a batch at a time, in their order.

    Args:
        classifier: from `make_classifier`.
        paths: of the files.

    Yields:
        What came of each; a file that cannot be read has its problem.
    """
    for start in range(0, len(paths), _BATCH):
        images: dict[Path, np.ndarray] = {}
        problems: dict[Path, str] = {}
        batch = paths[start : start + _BATCH]
        for path in batch:
            try:
                images[path] = classifier.prepare(path.read_bytes())
            except Exception as error:  # whatever one file does, the others are classified
                problems[path] = photos.explain(error)
        results: dict[Path, np.ndarray] = {}
        if images:
            stacked = np.stack(list(images.values()))
            rows = min(_BATCH, len(paths))  # one shape, so that the model compiles once
            padding = [(0, rows - len(stacked))] + [(0, 0)] * 3
            results = dict(zip(images, classifier.predict(np.pad(stacked, padding))))
        for path in batch:
            if path in problems:
                yield Prediction(path, problem=problems[path])
            else:
                yield Prediction(path, images[path], results[path])
