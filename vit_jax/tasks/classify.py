"""Classification: an image in, the logits of its classes out."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np

from input_pipeline import one_file
from input_pipeline.arguments import unknown
from vit_jax import ahead, class_weights, classification, mixing, ops, photos, views
from vit_jax.classification import probabilities
from vit_jax.classification_report import make_report
from vit_jax.options import ClassifyOptions
from vit_jax.tasks import plain
from vit_jax.tasks.base import Answer, Batch, Item, Metric, Out, Panel, Pretrained, Task

_TOP = 5  # classes that are said of a file
_UNSET = ClassifyOptions()
_REAL = "real_accuracy"
_FLIP = "classify.flip"  # the setting
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
        _REAL: Metric(classification.real_accuracy, np.nanmean, needs=("real",)),
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
    """Raises a ValueError if images can be of several classes, and the config is for one alone.

    Also if they have ReaL's labels, of which it wants no figure, or if the classes' weights do not
    fit them.
    """
    if config.data.real and _REAL not in config.metrics:
        metrics = (*config.metrics, _REAL)
        raise ValueError(f"data.real is for {_REAL}: say --config.metrics='{metrics}'")
    if not classification.has_several(data):
        if config.class_weights:
            class_weights.of_classes(config, data)  # or raises
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
    if config.class_weights:
        wrong.append("leave class_weights empty")
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


def make_answer(model: Any, settings: Mapping[str, Any]) -> Callable[[Any, Batch], Out] | None:
    """Averages the probabilities of an image and of its mirror image, see `Task.answer`."""
    if not settings.get(_FLIP):
        return None

    def answer(variables: Any, batch: Batch) -> jax.Array:
        images = batch["image"]
        views = [model.apply(variables, x, train=False) for x in (images, images[:, :, ::-1])]
        return classification.averaged(views, settings["loss"])

    return answer


# A person's files.


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What came of a file.

    Attributes:
        path: of the file.
        image: (h, w, c) float32, as the model saw it; None if the file could not be read.
        probabilities: (classes,); or None, as of a model without a head.
        problem: what is wrong with the file; "" if nothing is.
    """

    path: Path
    image: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    problem: str = ""


class Classifier:
    """Classifies files, and shows what a model sees in them.

    Args:
        pretrained: the model; one without a head shows what it sees alone.
        options: how to answer.
        output: folder for results; without one, features are values and no files.

    Attributes:
        labels: class names.

    Raises:
        ValueError: if the model has no head and nothing is to be shown, or if it cannot do what the
            options say.
    """

    has_files = False
    take = staticmethod(plain.take_images)

    def __init__(
        self,
        pretrained: Pretrained,
        options: ClassifyOptions = _UNSET,
        output: Path | None = None,
    ) -> None:
        self._has_head = _has_head(pretrained)
        _check_head(self._has_head, options)
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
        settings = {**pretrained.settings, "loss": pretrained.loss}
        if options.flip is not None:
            settings[_FLIP] = options.flip == "on"
        self._answer = TASK.make_answer(pretrained.model, settings)
        self._found: Sequence[Item] = ()
        self._views: list[views.Attention | views.Features] = []
        if options.attention:
            self._views.append(views.Attention(pretrained, self._variables))
        if options.features:
            self._views.append(
                views.Features(
                    pretrained, self._variables, lambda item: self.prepare(item.read()),
                    draws=output is not None,
                )
            )  # fmt: skip

    def find(self, arguments: Sequence[str | os.PathLike[str]]) -> Sequence[Item]:
        self._found = plain.find_images(arguments)
        return self._found

    @functools.cached_property
    def prepare(self) -> Callable[[bytes], np.ndarray]:
        """From the bytes of an image file to (h, w, c) float32, or a ValueError."""
        return one_file.make_preparer(self._pretrained.eval_pp)

    @functools.cached_property
    def _apply(self) -> Callable[..., jax.Array]:
        @functools.partial(jax.jit, compiler_options=ops.compiler_options())
        def apply(variables: Any, images: np.ndarray) -> jax.Array:
            logits = self._answer(variables, {"image": images})
            return probabilities(logits, self._pretrained.loss)

        return apply

    def predict(self, images: np.ndarray) -> np.ndarray:
        """From (b, h, w, c) float32 to (b, classes) probabilities."""
        return np.asarray(self._apply(self._variables, images))

    def predictions(self, items: Sequence[Item]) -> Iterator[Prediction]:
        """Classifies images in their order, a batch at a time, while the next ones are read."""
        prepare, apply = self.prepare, functools.partial(self._apply, self._variables)
        if not self._has_head:
            for item, image in ahead.prepared(items, lambda item: prepare(item.read())):
                if isinstance(image, Exception):
                    yield Prediction(item.paths[0], problem=photos.explain(image))
                else:
                    yield Prediction(item.paths[0], image)
            return
        found = self._batches.compute(items, lambda item: prepare(item.read()), apply)
        for item, image, result in found:
            if isinstance(result, Exception):
                yield Prediction(item.paths[0], problem=photos.explain(result))
            else:
                yield Prediction(item.paths[0], image, result)

    def outputs(self, item: Item) -> Sequence[PurePath]:
        return [path for view in self._views for path in view.outputs(item.inside)]

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        for view in self._views:
            if isinstance(view, views.Features):
                view.choose_by(self._found or items)
        for item, prediction in zip(items, self.predictions(items), strict=True):
            path = prediction.path
            if prediction.image is None:
                yield Answer(path, problems=(f"cannot read {path}: {prediction.problem}",))
                continue
            answer = self._say(path, prediction.probabilities)
            yield self._show(item, prediction, answer) if self._views else answer

    def _say(self, path: Path, p: np.ndarray | None) -> Answer:
        """The answer in words and numbers; a bare one of a model without a head."""
        if p is None:
            return Answer(path)
        best = [(self.labels[i], float(p[i])) for i in np.argsort(-p)[:_TOP]]
        line = f"{path}: " + "; ".join(f"{label} {share:.1%}" for label, share in best)
        row = tuple(cell for label, share in best for cell in (label, f"{share:.6f}"))
        if self._has_several:
            row = tuple(f"{share:.6f}" for share in p)
        return Answer(path, line, row, value=plain.ranked(self._keys, p))

    def _show(self, item: Item, prediction: Prediction, answer: Answer) -> Answer:
        """The answer with what the views show."""
        p, title = prediction.probabilities, item.inside.name
        if p is not None:
            best = int(np.argmax(p))
            title = f"{self._legible[best]}: {p[best]:.1%}"
        words: list[str] = []
        problems: list[str] = []
        pictures: dict[PurePath, bytes] = {}
        value = answer.value
        for view in self._views:
            try:
                assert prediction.image is not None
                seen = view.see(item, prediction.image, title)
            except Exception as error:  # whatever one file does, the others are drawn
                problems.append(f"cannot {view.failed} {answer.path}: {photos.explain(error)}")
                value = None if isinstance(view, views.Features) else value
                continue
            words.append(seen.words)
            pictures |= seen.files
            value = value if seen.value is None else seen.value
        line = answer.line or (f"{answer.path}: {'; '.join(words)}" if words else "")
        return dataclasses.replace(
            answer, line=line, files=pictures, problems=tuple(problems), value=value
        )

    @functools.cached_property
    def _legible(self) -> Sequence[str]:
        from vit_jax import fonts  # matplotlib takes a while to import

        return fonts.legible_names(self.labels)


def _has_head(pretrained: Pretrained) -> bool:
    return bool(pretrained.model.values_of(["num_classes"]).get("num_classes"))


def _check_head(has_head: bool, options: ClassifyOptions) -> None:
    """Raises a ValueError if a model without a head has nothing to do, or is to classify."""
    if has_head:
        return
    if not (options.features or options.attention):
        raise ValueError(
            "these weights have no head to classify with: fine-tune them first, or have shown what "
            "they see by --features or --attention"
        )
    if options.flip is not None:
        raise ValueError("--flip averages probabilities, which weights without a head have not")


def make_panel(pretrained: Pretrained) -> Panel:
    """Classes as bars, and where the model looks, if it can be told."""
    _check_head(_has_head(pretrained), _UNSET)
    try:
        classifier, looks = Classifier(pretrained, ClassifyOptions(attention=True)), True
    except ValueError:  # of a model without attention
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
    settings=(
        "label_smoothing",
        "mixup_alpha",
        "cutmix_alpha",
        "class_weights",
        "distill.teacher",
        _FLIP,
    ),
    fit=fit,
    check=check,
    output=plain.class_output,
    answer=make_answer,
    prepare=prepare,
    report=make_report,
    predictor=Classifier,
    options=ClassifyOptions,
    pipeline_tag="image-classification",
    panel=make_panel,
)
