"""What a task is: all that differs between kinds of work, as one row of plain functions.

A task says which parts of a batch a model gets and which say what should come out, its losses and
metrics, what a report shows, and what is done with a person's own files. The trainer, the
evaluation and the commands know tasks by this row alone.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from vit_jax.options import NoOptions

Batch = Mapping[str, Any]
Out = Any  # what a model returns: an array, or a tree of them
Loss = Callable[[Out, Batch], jax.Array]
Probe = Callable[[Any], Callable[[Any], float]]

INPUT = "input/"  # begins the names of figures of the input itself, see `Task.baseline`


def mean(each: np.ndarray) -> float:
    """Averages (examples,) figures, in float64."""
    return float(np.mean(each, dtype=np.float64))


class Metric(NamedTuple):
    """A figure of a split.

    Attributes:
        each: from a model's output and its batch to (b, ...) numbers, on the device.
        finish: from the (examples, ...) numbers of a whole split to the figure: their mean, or one
            that no mean of examples is, such as F1, AUC, mIoU or recall@k.
        needs: keys of a batch that it is computed from, besides the task's truths.
        compare: in place of `finish`, for a figure that numbers alone do not give, such as one of
            texts: from the data, the split's name, the (examples, ...) numbers and the examples'
            `index` to the figure.
    """

    each: Loss
    finish: Callable[[np.ndarray], float] = mean
    needs: tuple[str, ...] = ()
    compare: Callable[[Any, str, np.ndarray, np.ndarray], float] | None = None


class Output(NamedTuple):
    """What a model's output is, to those who know nothing of the model.

    Attributes:
        name: such as "logits"; a tree's key of it is called the same.
        activation: function of `jax.nn` that makes probabilities of its last axis, "softmax" or
            "sigmoid"; "" if there are none.
    """

    name: str = "output"
    activation: str = ""


class Report(Protocol):
    """What an evaluation has to show of a split, collected batch by batch.

    Attributes:
        sees_all: whether `add` gets every example, while the figures are computed.
    """

    @property
    def sees_all(self) -> bool: ...

    def choose(self, each: Mapping[str, np.ndarray]) -> Sequence[int]:
        """Takes the figures of every example, and their `index`; says which `add` is to get."""

    def add(self, batch: Mapping[str, np.ndarray], out: Any) -> None:
        """Takes the real rows of a batch, and this process's outputs for them."""

    def gather(self) -> None:
        """Adds what the other processes of a run have seen; each must call it."""

    def write(self, folder: Any, split: str) -> None:
        """Writes pictures and tables to a folder, an `epath.Path`."""


@dataclasses.dataclass(frozen=True)
class Item:
    """What a person gives to be answered by itself: an image, two frames, a video.

    Attributes:
        paths: its files, in order; or what stands for them in messages, if there is `data`.
        inside: where it lies in the folder that was given, or its name: so do its results.
        count: how many answers come of it; None if nobody knows before they have come.
        data: for each of `paths` the contents of a file that is in memory alone, or None for one
            that is to be read; () if all are to be read.
    """

    paths: tuple[Path, ...]
    inside: PurePath
    count: int | None = 1
    data: tuple[bytes | None, ...] = ()

    def read(self, i: int = 0) -> bytes:
        """The contents of one of its files; raises an OSError if it cannot be read."""
        data = self.data[i] if self.data else None
        return self.paths[i].read_bytes() if data is None else data


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of an item, or of a part of it.

    Attributes:
        path: of its file, or the first one.
        line: what the terminal says; "" if nothing came of it.
        row: its cells in predictions.csv, after the file's name.
        files: what to write, by path inside of the output folder.
        problems: what went wrong, a line each.
        value: what a program gets, see `vit_jax.load`; None if nothing came of it.
    """

    path: Path
    line: str = ""
    row: tuple[object, ...] = ()
    files: Mapping[PurePath, bytes] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()
    value: Any = None


class Predictor(Protocol):
    """Finds what a person wants answered, and answers.

    Attributes:
        header: of predictions.csv, after the file's name; () if there is none.
        has_files: whether answers have files, so that an output folder must be given.
    """

    @property
    def header(self) -> tuple[str, ...]: ...

    @property
    def has_files(self) -> bool: ...

    def find(self, arguments: Sequence[str | os.PathLike[str]]) -> Sequence[Item]:
        """Says what is to be answered, see `plain.find_images` for items of one image each.

        Args:
            arguments: files and folders, as they were typed.

        Raises:
            ValueError: if it makes no sense of them.
        """

    def take(self, things: Sequence[Any]) -> Sequence[Item]:
        """Does what `find` does of what a program has, see `vit_jax.answering`.

        Args:
            things: one or more; see `plain.take_images` for things of one image each.

        Returns:
            Items of which as many answers come as there are things, in their order.

        Raises:
            ValueError: if it makes no sense of them.
        """

    def outputs(self, item: Item) -> Sequence[PurePath]:
        """Says which files its answers will have that need a name of their own.

        Where they cannot be counted, it is a folder that is theirs alone.
        """

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        """Answers for each item in turn; whatever one does, the others get an answer."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """What the page in the browser asks a visitor for and shows, see `vit_jax.page`.

    Attributes:
        says: what a visitor is to do.
        asks: by what is written over it, what is asked for: "image", "text", or "labels", which are
            texts with commas between them. An image is answered for as soon as it is there.
        shows: by what is written over it, what is shown of the answer: "shares", numbers from 0 to
            1 by name, drawn as bars; "picture", the bytes of a PNG; "comparison", two PIL images of
            one size with a slider between them; "text"; "file", a name and the bytes of a file.
        answer: from what was asked for, in order, an image as the path of its file, to what is
            shown, in order; None is not shown. Raises a ValueError for what has no answer.
    """

    says: str
    asks: Mapping[str, str]
    shows: Mapping[str, str]
    answer: Callable[..., Sequence[Any]]


class Pretrained(Protocol):
    """A model with its weights, see `vit_jax.pretrained.Pretrained`."""

    name: str
    model: Any
    variables: Mapping[str, Any]
    image_size: tuple[int, int]
    labels: tuple[str, ...] | None
    eval_pp: str
    loss: str
    settings: Mapping[str, Any]
    vocabulary: str
    data_kind: str


def _no_fields(model: Any, data: Any) -> dict[str, Any]:
    del model, data
    return {}


def _no_check(config: Any, data: Any) -> None:
    del config, data


def _no_probes(config: Any) -> Mapping[str, Probe]:
    del config
    return {}


def _no_answer(model: Any, settings: Mapping[str, Any]) -> None:
    del model, settings


def _no_preparation(config: Any, model: Any) -> None:
    del config, model


def _any_output(model: Any, loss: str) -> Output:
    del model, loss
    return Output()


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of work.

    Attributes:
        name: what models call it, see `models.base.Model.task`.
        truths: keys of a batch that say what should come out.
        losses: by name; the first is that of weights whose training is not known.
        metric: makes a metric of its name and that of the loss, which says what an output means;
            raises a ValueError that lists what there is.
        report: makes the report of a split, of the data, the split's name and the config.
        predictor: makes what `predict` does with files, of a model, the options and the folder for
            results; of None, answers need no files. It raises a ValueError for a model or options
            that do not fit.
        options: a dataclass of fields by `vit_jax.options.option`, each a flag of `predict`.
        usage: what a person types after `predict --workdir=DIR`, at least.
        kind: `data.kind` of a folder from which it is usually learned.
        inputs: keys of a batch that the model gets, in the order of its arguments.
        metrics: of a model that says none itself.
        settings: keys of the config that this task alone reads; unset they are 0, "", (),
            False or None.
        is_independent: whether the loss of an example depends on that example alone. If not, it
            compares a whole batch, and must leave out those that `_mask` marks as padding. With
            accum_steps it still sees the whole batch, for which every array that the model returns
            in training has a row for each example.
        fit: fields of the model that the data decides, given the model and the data; raises a
            ValueError if they do not fit each other.
        check: raises a ValueError if a config, given with the data, does not fit these: a loss or a
            metric that is for other truths, say.
        prepare: makes what is done to a batch on the device before a training step, a function of
            a random key and the batch, given the config and the model; or None for nothing.
        baseline: what the input itself is worth, as an output of the model, given the model and a
            batch; its metrics are called input/NAME. None if an input is no output.
        output: says what the output of a model is, given the name of the loss that it was trained
            with.
        answer: makes what a trained model says to a batch, where that is not what it returns when
            it is applied, but decoded, say: a function of its variables and the batch, given the
            model and the `settings_in` its run's config, none if they are not known; or None.
        probes: what is measured at each evaluation besides, on other data: by the figure's name,
            what makes of an `Experiment` a function from the model's variables to the figure, given
            the config; raises a ValueError for what does not fit.
        pipeline_tag: what the Hugging Face Hub calls such work; "" if it has no word for it.
        panel: makes what the page asks and shows of a model; None for `plain.make_panel`. Raises a
            ValueError for a model that has no answers.
    """

    name: str
    truths: tuple[str, ...]
    losses: Mapping[str, Loss]
    metric: Callable[[str, str], Metric]
    report: Callable[[Any, str, Any], Report]
    predictor: Callable[[Pretrained, Any, Path | None], Predictor]
    options: type = NoOptions
    usage: str = "FILE_OR_FOLDER..."
    kind: str = "classes"
    inputs: tuple[str, ...] = ("image",)
    metrics: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    is_independent: bool = True
    fit: Callable[[Any, Any], dict[str, Any]] = _no_fields
    check: Callable[[Any, Any], None] = _no_check
    prepare: Callable[[Any, Any], Callable[[jax.Array, Batch], Batch] | None] = _no_preparation
    baseline: Callable[[Any, Batch], Out] | None = None
    output: Callable[[Any, str], Output] = _any_output
    answer: Callable[[Any, Mapping[str, Any]], Callable[[Any, Batch], Out] | None] = _no_answer
    probes: Callable[[Any], Mapping[str, Probe]] = _no_probes
    pipeline_tag: str = ""
    panel: Callable[[Pretrained], Panel] | None = None

    def apply(self, model: Any, variables: Any, batch: Batch, **how: Any) -> Out:
        """Applies a model to what it gets of a batch; `how` are flax's arguments, and `train`."""
        return model.apply(variables, *(batch[key] for key in self.inputs), **how)

    def make_answer(self, model: Any, settings: Mapping[str, Any]) -> Callable[[Any, Batch], Out]:
        """Makes what a trained model says to a batch, of its variables and the batch."""
        return self.answer(model, settings) or functools.partial(self.apply, model, train=False)

    def settings_in(self, config: Any) -> dict[str, Any]:
        """The task's settings in a config, by key, and its `loss`, which says what outputs mean."""
        keys = ("loss", *self.settings)
        return {key: functools.reduce(getattr, key.split("."), config) for key in keys}
