"""Classification: an image in, the logits of its classes out."""

import collections
import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from input_pipeline.arguments import unknown
from vit_jax import mixing, ops, photos
from vit_jax.machinery import processes
from vit_jax.tasks import plain
from vit_jax.tasks.base import Answer, Batch, Item, Loss, Metric, Out, Pretrained, Task, option

if TYPE_CHECKING:  # it takes a while to import
    from matplotlib.figure import Figure

_TOP = 5  # classes that are said of a file
_BATCH = 16  # files at a time
_COLUMNS, _MOST_SHOWN = 8, 32  # images of a report
_MOST_CLASSES = 50  # of a confusion matrix that can be read
_NAME_COLUMNS = 16
_RIGHT, _WRONG = "#1b7837", "#b2182b"


def softmax_xent(out: jax.Array, batch: Batch) -> jax.Array:
    """Softmax cross-entropy in nats.

    Args:
        out: (b, classes) logits, or a dict of them, see `logits_of`.
        batch: `label`, (b,) int32 or (b, classes) float32 that sums to 1.

    Returns:
        (b,) float32.
    """
    logits = logits_of(out)
    return optax.softmax_cross_entropy(logits, _labels(logits, batch))


def sigmoid_xent(out: jax.Array, batch: Batch) -> jax.Array:
    """Sigmoid cross-entropy in nats, summed over the classes.

    Source: Beyer et al., "Are we done with ImageNet?" (2020).

    Args:
        out: (b, classes) logits, or a dict of them, see `logits_of`.
        batch: `label`, (b,) int32 or (b, classes) float32 in [0, 1].

    Returns:
        (b,) float32.
    """
    logits = logits_of(out)
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, _labels(logits, batch)), axis=-1)


def logits_of(out: Out) -> jax.Array:
    """The (b, classes) float32 logits that are compared with the labels.

    Args:
        out: they themselves; or in training, of a model with a head for a teacher, a dict of
            "logits" and "distilled", which is that head's, see `vit_jax.distillation`.
    """
    return (out["logits"] if isinstance(out, Mapping) else out).astype(jnp.float32)


def _labels(logits: jax.Array, batch: Batch) -> jax.Array:
    if logits.ndim != 2:
        raise ValueError(
            f"a loss on labels needs (b, classes) logits, and the model gives {logits.shape}: "
            "choose another classifier than the unpooled ones"
        )
    return one_hot(batch["label"], logits.shape[-1])


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Turns (b,) class numbers into (b, classes) float32; the latter stay as they are."""
    if labels.ndim == 2:
        return labels
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def smooth_labels(labels: jax.Array, smoothing: float) -> jax.Array:
    """Moves a share of each label's weight to all classes alike.

    Source: Szegedy et al., "Rethinking the Inception Architecture" (CVPR 2016).

    Args:
        labels: (b, classes) float32 that sums to 1.
        smoothing: the share, in [0, 1).

    Returns:
        (b, classes) float32 that sums to 1.
    """
    return labels * (1 - smoothing) + smoothing / labels.shape[-1]


def probabilities(logits: jax.Array | np.ndarray, loss: str) -> jax.Array:
    """Turns (..., classes) logits into probabilities, as the loss they were trained with means."""
    if loss == "sigmoid_xent":
        return jax.nn.sigmoid(logits)
    return jax.nn.softmax(logits, axis=-1)


# Metrics.


def accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Top-1 accuracy: 1 where the largest of the (b, classes) logits is the label's."""
    return _in_top(out, batch, 1)


def top5_accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Top-5 accuracy: 1 where the label is among the five largest of the (b, classes) logits."""
    return _in_top(out, batch, min(5, out.shape[-1]))


def _in_top(out: jax.Array, batch: Batch, k: int) -> jax.Array:
    _, top = jax.lax.top_k(out, k)
    return jnp.any(top == _class_numbers(batch)[:, None], axis=-1).astype(jnp.float32)


def _class_numbers(batch: Batch) -> jax.Array:
    labels = batch["label"]
    return jnp.argmax(labels, axis=-1) if labels.ndim == 2 else labels


def _guesses(out: jax.Array, batch: Batch) -> jax.Array:
    """(b, 2) int32: the class, and which one has the largest logit."""
    return jnp.stack([_class_numbers(batch), jnp.argmax(out, axis=-1)], axis=-1)


def _macro(figure: Callable[..., np.ndarray]) -> Callable[[np.ndarray], float]:
    """The mean over the classes of a figure of how often each was right, guessed, and there.

    Classes that neither occur nor were guessed are left out, as scikit-learn does; a figure is 0
    where it would divide by 0.
    """

    def finish(each: np.ndarray) -> float:
        truth, guess = each.T
        count = int(each.max()) + 1
        there, guessed = (np.bincount(x, minlength=count) for x in (truth, guess))
        right = np.bincount(truth[truth == guess], minlength=count)
        known = (there + guessed) > 0
        return float(np.mean(figure(right[known], guessed[known], there[known])))

    return finish


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)


def _auc(each: np.ndarray) -> float:
    """Area under the ROC curve of each class against the rest, averaged over the classes.

    Classes of which a split has no example, or nothing else, are left out.

    Args:
        each: (examples, 1 + classes): the class, and the probability of each.
    """
    import scipy.stats  # takes a while

    truth, scores = each[:, 0].astype(int), each[:, 1:]
    areas = []
    for number, column in enumerate(scores.T):
        is_it = truth == number
        positive = int(is_it.sum())
        negative = len(truth) - positive
        if positive and negative:  # Mann and Whitney's U, as a share of all pairs
            ranks = scipy.stats.rankdata(column)[is_it].sum()
            areas.append((ranks - positive * (positive + 1) / 2) / (positive * negative))
    return float(np.mean(areas)) if areas else float("nan")


def _scores(loss: str) -> Loss:
    def scores(out: jax.Array, batch: Batch) -> jax.Array:
        p = probabilities(out.astype(jnp.float32), loss)
        return jnp.concatenate([_class_numbers(batch)[:, None].astype(jnp.float32), p], axis=-1)

    return scores


def get_metric(name: str, loss: str) -> Metric:
    """Finds a metric by name: accuracies, and precision, recall, F1 and AUC as macro averages.

    Raises:
        ValueError: for an unknown name; it lists what there is.
    """
    metrics = {
        "accuracy": Metric(accuracy),
        "top5_accuracy": Metric(top5_accuracy),
        "precision": Metric(_guesses, _macro(lambda right, guessed, _: _share(right, guessed))),
        "recall": Metric(_guesses, _macro(lambda right, _, there: _share(right, there))),
        "f1": Metric(_guesses, _macro(lambda r, guessed, there: _share(2 * r, guessed + there))),
        "auc": Metric(_scores(loss), _auc),
    }
    if name not in metrics:
        raise ValueError(unknown("metric", name, metrics, "on a label "))
    return metrics[name]


def fit(model: Any, data: Any) -> dict[str, Any]:
    """As many classes as the data has."""
    del model
    return {"num_classes": len(data.class_names)}


def prepare(config: Any, model: Any) -> Callable[[jax.Array, Batch], Batch] | None:
    """Label smoothing, mixup and cutmix."""
    if not (config.label_smoothing or config.mixup_alpha or config.cutmix_alpha):
        return None

    def soften(key: jax.Array, batch: Batch) -> Batch:
        labels = one_hot(batch["label"], model.num_classes)
        batch = {**batch, "label": smooth_labels(labels, config.label_smoothing)}
        return mixing.mix(key, batch, config.mixup_alpha, config.cutmix_alpha)

    return soften


# The report.


class ClassificationReport:
    """Collects predictions batch by batch, and draws them.

    Args:
        class_names: in the order of the labels.
        loss: name of the loss, which says how logits become probabilities.
    """

    sees_all = True

    def __init__(self, class_names: Sequence[str], loss: str) -> None:
        self._names = class_names
        self._loss = loss
        self._counts: collections.Counter[tuple[int, int]] = collections.Counter()
        self._wrong: list[tuple[np.ndarray, int, int, float]] = []
        self._right: list[tuple[np.ndarray, int, int, float]] = []

    def choose(self, each: Mapping[str, np.ndarray]) -> Sequence[int]:
        """No example is wanted again."""
        del each
        return ()

    def add(self, batch: Mapping[str, np.ndarray], out: np.ndarray) -> None:
        """Counts a batch: `image` (b, h, w, c), `label` (b,), and (b, classes) logits."""
        confidence = np.asarray(probabilities(out, self._loss))
        predicted = out.argmax(axis=-1)
        self._counts.update(zip(batch["label"].tolist(), predicted.tolist()))
        for image, truth, guess, p in zip(batch["image"], batch["label"], predicted, confidence):
            examples = self._right if truth == guess else self._wrong
            examples.append((image, int(truth), int(guess), float(p[guess])))
        self._keep_some()

    def _keep_some(self) -> None:
        self._wrong = sorted(self._wrong, key=lambda example: -example[-1])[:_MOST_SHOWN]
        self._right = self._right[:_MOST_SHOWN]

    def gather(self) -> None:
        everyones = processes.gather((self._counts, self._wrong, self._right))
        self._counts, self._wrong, self._right = collections.Counter(), [], []
        for counts, wrong, right in everyones:
            self._counts += counts
            self._wrong += wrong
            self._right += right
        self._keep_some()

    def write(self, folder: Any, split: str) -> None:
        """Writes predictions.png, and confusion.png if there are not too many classes."""
        from vit_jax import report

        folder.mkdir(parents=True, exist_ok=True)
        report.save(self.draw_predictions(split), folder / "predictions.png")
        if len(self._names) <= _MOST_CLASSES:
            report.save(self.draw_confusion(split), folder / "confusion.png")

    @functools.cached_property
    def _shown(self) -> list[str]:
        """The names as pictures have them."""
        from vit_jax import fonts

        return [fonts.shorten(name, _NAME_COLUMNS) for name in fonts.legible_names(self._names)]

    def draw_predictions(self, split: str) -> "Figure":
        """Draws images with what was predicted: the most confident mistakes, then right ones."""
        from vit_jax import report

        examples = (self._wrong + self._right)[:_MOST_SHOWN]
        titles, colors = [], []
        for _, truth, guess, p in examples:
            right = truth == guess
            says = f"{self._shown[guess]} {p:.0%}"
            titles.append(says if right else f"{says}\nis {self._shown[truth]}")
            colors.append(_RIGHT if right else _WRONG)
        total = self._counts.total()
        wrong = sum(count for (truth, guess), count in self._counts.items() if truth != guess)
        return report.draw_images(
            [report.displayable(image) for image, *_ in examples],
            titles,
            title=f"{split}: {wrong} of {total} wrong, the most confident mistakes first",
            columns=_COLUMNS,
            colors=colors,
        )

    def draw_confusion(self, split: str) -> "Figure":
        """Draws the confusion matrix: numbers of images by true and by predicted class."""
        from vit_jax import report

        confusion = np.zeros((len(self._names),) * 2, np.int64)
        for cell, number in self._counts.items():
            confusion[cell] = number
        return report.draw_confusion(confusion, self._shown, f"{split}: number of images")


# A person's files.


@dataclasses.dataclass(frozen=True)
class Options:
    """How a classifier answers."""

    attention: bool = option(
        False,
        "Also write pictures of where the model looks, to attention/ in --output.",
        writes=True,
    )


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

    def __init__(
        self, pretrained: Pretrained, options: Options = Options(), output: Path | None = None
    ) -> None:
        del output  # answers are written by whoever asks
        if not pretrained.model.values_of(["num_classes"]).get("num_classes"):
            raise ValueError("these weights have no head to classify with: fine-tune them first")
        self._pretrained = pretrained
        self._variables = jax.device_put(pretrained.variables)
        numbered = tuple(f"class {i}" for i in range(pretrained.model.num_classes))
        self.labels = pretrained.labels or numbered
        count = min(_TOP, len(self.labels))
        self.header = tuple(
            f"{name}_{i + 1}" for i in range(count) for name in ("class", "probability")
        )
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

    def predictions(self, paths: Sequence[Path]) -> Iterator[Prediction]:
        """Classifies files in their order, a batch at a time."""
        for start in range(0, len(paths), _BATCH):
            images: dict[Path, np.ndarray] = {}
            problems: dict[Path, str] = {}
            batch = paths[start : start + _BATCH]
            for path in batch:
                try:
                    images[path] = self.prepare(path.read_bytes())
                except Exception as error:  # whatever one file does, the others are classified
                    problems[path] = photos.explain(error)
            results: dict[Path, np.ndarray] = {}
            if images:
                stacked = np.stack(list(images.values()))
                rows = min(_BATCH, len(paths))  # one shape, so that the model compiles once
                padding = [(0, rows - len(stacked))] + [(0, 0)] * 3
                results = dict(zip(images, self.predict(np.pad(stacked, padding))))
            for path in batch:
                if path in problems:
                    yield Prediction(path, problem=problems[path])
                else:
                    yield Prediction(path, images[path], results[path])

    def outputs(self, item: Item) -> Sequence[PurePath]:
        """Pictures of attention get names of their own as they come."""
        del item
        return ()

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        for prediction in self.predictions([path for item in items for path in item.paths]):
            path, p = prediction.path, prediction.probabilities
            if p is None:
                yield Answer(path, problems=(f"cannot read {path}: {prediction.problem}",))
                continue
            best = [(self.labels[i], float(p[i])) for i in np.argsort(-p)[: len(self.header) // 2]]
            line = f"{path}: " + "; ".join(f"{label} {share:.1%}" for label, share in best)
            row = tuple(cell for label, share in best for cell in (label, f"{share:.6f}"))
            pictures: dict[PurePath, bytes] = {}
            problems: tuple[str, ...] = ()
            if self._draw is not None:
                try:
                    pictures = self._draw(path, prediction.image, p)
                except Exception as error:  # whatever one file does, the others are drawn
                    reason = photos.explain(error)
                    problems = (f"cannot draw where it looks in {path}: {reason}",)
            yield Answer(path, line, row, pictures, problems)

    def _make_drawer(self) -> Callable[[Path, Any, np.ndarray], dict[PurePath, bytes]]:
        """Makes what draws where it looks, of a path, an image and its probabilities."""
        from checkpoints import files
        from vit_jax import attention_maps, fonts, report

        model, size = self._pretrained.model, self._pretrained.image_size
        look = jax.jit(functools.partial(attention_maps.look, model))
        shape = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
        jax.eval_shape(look, self._variables, shape)  # or raises
        names = fonts.legible_names(self.labels)
        taken: set[str] = set()

        def draw(path: Path, image: np.ndarray, p: np.ndarray) -> dict[PurePath, bytes]:
            stem = path.stem  # maybe of another folder, or with another suffix
            numbered = (f"{stem}_{i}" for i in itertools.count(2))
            name = next(name for name in itertools.chain([stem], numbered) if name not in taken)
            taken.add(name)
            rolled, heads = jax.device_get(look(self._variables, image[None]))
            best = int(np.argmax(p))
            title = f"{names[best]} {p[best]:.1%}"
            figure = attention_maps.draw(report.displayable(image), rolled[0], heads[0], title)
            data = io.BytesIO()
            figure.savefig(data, dpi=110, format="png")
            return {PurePath("attention", files.with_ending(name, ".png")): data.getvalue()}

        return draw


TASK = Task(
    name="classify",
    truths=("label",),
    losses={"softmax_xent": softmax_xent, "sigmoid_xent": sigmoid_xent},
    metric=get_metric,
    metrics=("accuracy",),
    settings=("label_smoothing", "mixup_alpha", "cutmix_alpha", "distill.teacher"),
    fit=fit,
    prepare=prepare,
    report=lambda data, split, config: ClassificationReport(data.class_names, config.loss),
    predictor=Classifier,
    options=Options,
)
