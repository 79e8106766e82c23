"""Classification: an image in, the logits of its classes out."""

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np

from input_pipeline.arguments import unknown
from vit_jax import ahead, classification, mixing, ops, photos
from vit_jax.classification import probabilities
from vit_jax.classification_report import make_report
from vit_jax.tasks import plain
from vit_jax.tasks.base import Answer, Batch, Item, Metric, Panel, Pretrained, Task, option

_TOP = 5  # classes that are said of a file
_OF_ONE_LABEL = ("accuracy", "top5_accuracy", "balanced_accuracy", "expected_calibration_error")


def get_metric(name: str, loss: str) -> Metric:
    """Finds a metric by name, see `classification`.

    Raises:
        ValueError: for an unknown name; it lists what there is.
    """
    guesses, scores = classification.guesses, classification.scores_of(loss)
    metrics = {
        "accuracy": Metric(classification.accuracy),
        "top5_accuracy": Metric(classification.top5_accuracy),
        "precision": Metric(guesses, classification.macro("precision")),
        "recall": Metric(guesses, classification.macro("recall")),
        "f1": Metric(guesses, classification.macro("f1")),
        "balanced_accuracy": Metric(guesses, classification.balanced_accuracy),
        "auc": Metric(scores, classification.auc),
        "mean_average_precision": Metric(scores, classification.mean_average_precision),
        "log_loss": Metric(scores, classification.log_loss),
        "expected_calibration_error": Metric(scores, classification.expected_calibration_error),
    }
    if name not in metrics:
        raise ValueError(unknown("metric", name, metrics, "on a label "))
    return metrics[name]


def fit(model: Any, data: Any) -> dict[str, Any]:
    """As many classes as the data has."""
    del model
    return {"num_classes": len(data.class_names)}


def check(config: Any, data: Any) -> None:
    """Raises a ValueError if images can be of several classes, and the config is for one alone."""
    if not classification.has_several(data):
        return
    wrong = []
    if config.loss != "sigmoid_xent":
        wrong.append(f"set loss to sigmoid_xent, not {config.loss}")
    if of_one := [name for name in config.metrics if name in _OF_ONE_LABEL]:
        wrong.append(
            f"take {' and '.join(of_one)} out of metrics for such as mean_average_precision"
        )
    if config.distill.teacher:
        wrong.append("leave distill.teacher empty")
    if wrong:
        raise ValueError(
            f"an image of these data can be of several classes: {'; '.join(wrong)}, as "
            "configs/multilabel.py does"
        )


def prepare(config: Any, model: Any) -> Callable[[jax.Array, Batch], Batch] | None:
    """Label smoothing, mixup and cutmix."""
    if not (config.label_smoothing or config.mixup_alpha or config.cutmix_alpha):
        return None

    def soften(key: jax.Array, batch: Batch) -> Batch:
        labels = classification.one_hot(batch["label"], model.num_classes)
        batch = {**batch, "label": classification.smooth_labels(labels, config.label_smoothing)}
        return mixing.mix(key, batch, config.mixup_alpha, config.cutmix_alpha)

    return soften


# A person's files.


@dataclasses.dataclass(frozen=True)
class Options:
    """How a classifier answers."""

    attention: bool = option(
        False,
        "Also write pictures of where the model looks, to attention/ in --output.",
        writes=True,
    )
    batch_size: int | None = plain.batch_size()


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


class Classifier:
    """Classifies files.

    Args:
        pretrained: the model, with a head.
        options: how to answer.
        output: folder for results; it does not matter here.

    Attributes:
        labels: class names.

    Raises:
        ValueError: if the model has no head, or cannot do what the options say.
    """

    has_files = False
    find = staticmethod(plain.find_images)
    take = staticmethod(plain.take_images)

    def __init__(
        self, pretrained: Pretrained, options: Options = Options(), output: Path | None = None
    ) -> None:
        del output  # answers are written by whoever asks
        if not pretrained.model.values_of(["num_classes"]).get("num_classes"):
            raise ValueError("these weights have no head to classify with: fine-tune them first")
        self._pretrained = pretrained
        self._batches = ahead.Batches(options.batch_size)
        self._variables = self._batches.place(pretrained.variables)
        self.labels = plain.class_names(pretrained)
        self._keys = plain.told_apart(self.labels)
        count = min(_TOP, len(self.labels))
        self.header = tuple(
            f"{name}_{i + 1}" for i in range(count) for name in ("class", "probability")
        )
        self._has_several = pretrained.data_kind == "multilabel"
        if self._has_several:
            self.header = self.labels
        self._draw = self._make_drawer() if options.attention else None

    @functools.cached_property
    def prepare(self) -> Callable[[bytes], np.ndarray]:
        """From the bytes of an image file to (h, w, c) float32, or a ValueError."""
        from input_pipeline import one_file  # TensorFlow takes seconds to import

        return one_file.make_preparer(self._pretrained.eval_pp)

    @functools.cached_property
    def _apply(self) -> Callable[..., jax.Array]:
        @functools.partial(jax.jit, compiler_options=ops.compiler_options())
        def apply(variables: Any, images: np.ndarray) -> jax.Array:
            logits = self._pretrained.model.apply(variables, images, train=False)
            return probabilities(logits, self._pretrained.loss)

        return apply

    def predict(self, images: np.ndarray) -> np.ndarray:
        """From (b, h, w, c) float32 to (b, classes) probabilities."""
        return np.asarray(self._apply(self._variables, images))

    def predictions(self, items: Sequence[Item]) -> Iterator[Prediction]:
        """Classifies images in their order, a batch at a time, while the next ones are read."""
        prepare, apply = self.prepare, functools.partial(self._apply, self._variables)
        found = self._batches.compute(items, lambda item: prepare(item.read()), apply)
        for item, image, result in found:
            if isinstance(result, Exception):
                yield Prediction(item.paths[0], problem=photos.explain(result))
            else:
                yield Prediction(item.paths[0], image, result)

    def outputs(self, item: Item) -> Sequence[PurePath]:
        return () if self._draw is None else (_drawn(item.inside),)

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        for item, prediction in zip(items, self.predictions(items), strict=True):
            path, p = prediction.path, prediction.probabilities
            if p is None:
                yield Answer(path, problems=(f"cannot read {path}: {prediction.problem}",))
                continue
            best = [(self.labels[i], float(p[i])) for i in np.argsort(-p)[:_TOP]]
            line = f"{path}: " + "; ".join(f"{label} {share:.1%}" for label, share in best)
            row = tuple(cell for label, share in best for cell in (label, f"{share:.6f}"))
            if self._has_several:
                row = tuple(f"{share:.6f}" for share in p)
            pictures: dict[PurePath, bytes] = {}
            problems: tuple[str, ...] = ()
            if self._draw is not None:
                try:
                    pictures[_drawn(item.inside)] = self._draw(prediction.image, p)
                except Exception as error:  # whatever one file does, the others are drawn
                    reason = photos.explain(error)
                    problems = (f"cannot draw where it looks in {path}: {reason}",)
            yield Answer(path, line, row, pictures, problems, plain.ranked(self._keys, p))

    def _make_drawer(self) -> Callable[[Any, np.ndarray], bytes]:
        """Makes what draws a PNG of where it looks, of an image and its probabilities."""
        from vit_jax import attention_maps, fonts, report

        model, size = self._pretrained.model, self._pretrained.image_size
        look = jax.jit(functools.partial(attention_maps.look, model))
        shape = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
        jax.eval_shape(look, self._variables, shape)  # or raises
        names = fonts.legible_names(self.labels)

        def draw(image: np.ndarray, p: np.ndarray) -> bytes:
            rolled, heads = jax.device_get(look(self._variables, image[None]))
            best = int(np.argmax(p))
            title = f"{names[best]}: {p[best]:.1%}"
            figure = attention_maps.draw(report.displayable(image), rolled[0], heads[0], title)
            data = io.BytesIO()
            figure.savefig(data, dpi=110, format="png")
            return data.getvalue()

        return draw


def _drawn(inside: PurePath) -> PurePath:
    """Where the picture of where a model looks in an image goes."""
    return "attention" / plain.picture_of(inside)


def make_panel(pretrained: Pretrained) -> Panel:
    """Classes as bars, and where the model looks, if it can be told."""
    try:
        classifier, looks = Classifier(pretrained, Options(attention=True)), True
    except ValueError:  # of a model without attention; or without a head, which is raised again
        classifier, looks = Classifier(pretrained), False

    def answer(path: str) -> Sequence[Any]:
        found = plain.ask(classifier, path)
        return found.value, *(found.files.values() or [None] if looks else ())

    shows = {"Classes": "shares"} | ({"Where it looks": "picture"} if looks else {})
    return Panel("drop a photo to see what it shows", {"Photo": "image"}, shows, answer)


TASK = Task(
    name="classify",
    truths=("label",),
    losses={
        "softmax_xent": classification.softmax_xent,
        "sigmoid_xent": classification.sigmoid_xent,
    },
    metric=get_metric,
    metrics=("accuracy",),
    settings=("label_smoothing", "mixup_alpha", "cutmix_alpha", "distill.teacher"),
    fit=fit,
    check=check,
    output=plain.class_output,
    prepare=prepare,
    report=make_report,
    predictor=Classifier,
    options=Options,
    pipeline_tag="image-classification",
    panel=make_panel,
)
