"""A report, a predictor and an output for tasks that need nothing of their own."""

import collections
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np

from checkpoints import files
from input_pipeline import one_file
from vit_jax import ahead, classification, in_memory, photos
from vit_jax.tasks import base


class FiguresReport:
    """Lists the figures of every example.

    Args:
        names: of the examples, in the order of their `index`; () numbers them.
    """

    sees_all = False

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = names
        self._figures: dict[str, np.ndarray] = {}

    def choose(self, each: Mapping[str, np.ndarray]) -> Sequence[int]:
        """Keeps the figures that are one number per example; no example is wanted again."""
        count = len(next(iter(each.values())))
        order = np.argsort(each.get("index", np.arange(count)))
        self._figures = {k: v[order] for k, v in each.items() if k != "index" and v.ndim == 1}
        return ()

    def add(self, batch: Mapping[str, np.ndarray], out: Any) -> None:
        raise AssertionError("no example was wanted")

    def gather(self) -> None:
        """Nothing is missing: figures are whole on every process."""

    def write(self, folder: Any, split: str) -> None:
        """Writes SPLIT.csv with the figures by example."""
        from vit_jax import report  # matplotlib takes a while to import

        report.write_figures(self._names, self._figures, folder, split)


def find_images(arguments: Sequence[str | os.PathLike[str]]) -> list[base.Item]:
    """A `Predictor.find` whose items are images, each once; see `photos.find_images`.

    Raises:
        ValueError: if a folder holds none.
    """
    inside: dict[Path, PurePath] = {}
    for argument in map(Path, arguments):
        for path in photos.find_images([str(argument)]):
            is_below = argument.is_dir()
            inside[path] = path.relative_to(argument) if is_below else PurePath(path.name)
    return [base.Item((path,), place) for path, place in inside.items()]


def picture_of(inside: PurePath) -> PurePath:
    """Where a PNG drawn of an image goes, from where that lies: a.png, or a.jpg.png."""
    is_png = inside.suffix.lower() == ".png"
    return inside.with_name(files.with_ending(inside.name, "" if is_png else ".png"))


def take_images(things: Sequence[Any]) -> list[base.Item]:
    """A `Predictor.take` whose things are images: paths, or see `in_memory.encode`."""
    return [item_of([thing], i) for i, thing in enumerate(things, 1)]


def item_of(images: Sequence[Any], number: int = 1) -> base.Item:
    """An item of one or more images; those in memory are called by numbers in messages."""
    paths: list[Path] = []
    data: list[bytes | None] = []
    for i, image in enumerate(images, number):
        is_path = isinstance(image, str | os.PathLike)
        paths.append(Path(image).expanduser() if is_path else Path(f"image {i}"))
        data.append(None if is_path else in_memory.encode(image))
    return base.Item(tuple(paths), PurePath(paths[0].name), data=tuple(data))


def class_names(pretrained: base.Pretrained) -> tuple[str, ...]:
    """The labels of a model, or numbers in their place if they are not known; () without any."""
    count = pretrained.model.values_of(["num_classes"]).get("num_classes") or 0
    return pretrained.labels or tuple(f"class {i}" for i in range(count))


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names, of which those that are there twice get their number, as in "crane (134)"."""
    counts = collections.Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names))


def ranked(names: Sequence[str], shares: np.ndarray) -> dict[str, float]:
    """(n,) shares by n names that differ, the largest first."""
    order = np.argsort(-shares, kind="stable")
    return dict(zip(map(names.__getitem__, order.tolist()), shares[order].tolist()))


def ask(predictor: base.Predictor, *things: Any) -> base.Answer:
    """The answer for one thing, see `Predictor.take`; raises a ValueError if there is none."""
    (answer,) = predictor.answers(predictor.take(things))
    if answer.value is None:
        raise ValueError("; ".join(answer.problems))
    return answer


def make_panel(pretrained: base.Pretrained) -> base.Panel:
    """A `Task.panel` that shows what `predict` says."""
    from vit_jax.tasks import get_task

    task = get_task(pretrained.model)
    predictor = task.predictor(pretrained, task.options(), None)
    is_photo = "image" in task.inputs
    return base.Panel(
        "drop a photo" if is_photo else "type a text",
        {"Photo": "image"} if is_photo else {"Text": "text"},
        {"Answer": "text"},
        lambda thing: (ask(predictor, thing).line,),
    )


class FilesPredictor:
    """Says what a model makes of an image file, one by one.

    Args:
        pretrained: the model.
        say: turns what it makes of one image into words, unless `answer` is another.
    """

    header = ("answer",)
    has_files = False
    find = staticmethod(find_images)
    take = staticmethod(take_images)

    def __init__(self, pretrained: base.Pretrained, say: Callable[[Any], str] = str) -> None:
        from vit_jax.tasks import get_task

        task, model = get_task(pretrained.model), pretrained.model
        self._spec = pretrained.eval_pp
        self._say = say
        variables = jax.device_put(pretrained.variables)
        apply = jax.jit(task.make_answer(model, pretrained.settings))
        self._apply = functools.partial(apply, variables)

    @functools.cached_property
    def _prepare(self) -> Callable[[bytes], np.ndarray]:
        return one_file.make_preparer(self._spec)

    def outputs(self, item: base.Item) -> Sequence[PurePath]:
        del item
        return ()

    def answers(self, items: Sequence[base.Item]) -> Iterator[base.Answer]:
        prepare = self._prepare
        for item, image in ahead.prepared(items, lambda item: prepare(item.read())):
            (path,) = item.paths
            try:
                if isinstance(image, Exception):
                    raise image
                outs = jax.device_get(self._apply({"image": image[None]}))
                answer = self.answer(item, image, jax.tree.map(lambda leaf: leaf[0], outs))
            except Exception as error:  # whatever one file does, the others get an answer
                problem = f"cannot answer for {path}: {photos.explain(error)}"
                answer = base.Answer(path, problems=(problem,))
            yield answer

    def answer(self, item: base.Item, image: np.ndarray, out: Any) -> base.Answer:
        """Says what the model's output for an image, (h, w, c) float32 as it saw it, means."""
        del image
        said, path = self._say(out), item.paths[0]
        return base.Answer(path, f"{path}: {said}", (said,), value=out)


def report(data: Any, split: str, config: Any) -> FiguresReport:
    """A `Task.report` that lists figures."""
    del config
    return FiguresReport(data.splits[split].names)


def predictor(
    say: Callable[[Any], str],
) -> Callable[[base.Pretrained, Any, Path | None], FilesPredictor]:
    """A `Task.predictor` that says what a model makes of an image, in a line."""
    return lambda pretrained, options, output: FilesPredictor(pretrained, say)


def class_output(model: Any, loss: str) -> base.Output:
    """A `Task.output` of logits; or of features, if a model has no head."""
    if not model.values_of(["num_classes"]).get("num_classes"):
        return base.Output("features")
    return base.Output("logits", classification.activation(loss))
