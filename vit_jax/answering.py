"""A trained model that answers in Python: `vit_jax.load`, on which the commands stand as well."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax import plugins as plugin_modules
from vit_jax.options import kinds_of
from vit_jax.tasks import TASKS, get_task, plain
from vit_jax.tasks.base import Answer, Pretrained

_LOG = logging.getLogger(__name__)

_SOME = 3  # labels that are shown


def load(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    fields: Mapping[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    pretrained_size: int | tuple[int, int] | None = None,
    labels: str | Sequence[str] | None = None,
    key: str = "",
    vocabulary: str = "",
    plugins: Sequence[str] = (),
    **options: Any,
) -> "LoadedModel":
    """Loads a trained model that answers for a person's images or texts.

    Args:
        path: a run's folder; a .npz, .safetensors or PyTorch file, local or gs://, https://, hf://;
            package:NAME; or the name of published weights.
        model: name of the model, for a file that does not say which it is of.
        fields: of the model that differ from the published ones, for such a file.
        image_size: n or (h, w) to use it at; None for what it was trained with.
        pretrained_size: n or (h, w) that a file was made for, where no square tells.
        labels: names of the classes, or of what is looked for; or, as the command's --labels, a
            file with a name per line, the name of a set, or "none".
        key: which weights of a PyTorch file that holds several.
        vocabulary: file or folder, of a model of texts.
        plugins: modules with models and tasks of one's own.
        **options: of the model's task, by the names of `predict`'s flags, such as method="tiles".

    Raises:
        ValueError: if something is missing or does not fit; the message says what.
    """
    from vit_jax import pretrained  # takes seconds to import

    plugin_modules.load(plugins)
    size, old_size = (
        (side, side) if isinstance(side, int) else side for side in (image_size, pretrained_size)
    )
    names = labels if labels is None or isinstance(labels, str) else tuple(labels)
    found: Any = pretrained.load(path, model, fields, size, names, old_size, key, vocabulary)
    check_use(found, size is not None, labels is not None)
    return LoadedModel(found, **options)


class LoadedModel:
    """A trained model that answers; see `load`, and `__call__` for what it takes and says.

    Args:
        pretrained: the model with its weights.
        **options: of its task.

    Attributes:
        pretrained: the same.
        labels: names of the classes that it tells apart; () if it tells none.

    Raises:
        ValueError: for options that the task has not, or that do not fit.
    """

    def __init__(self, pretrained: Pretrained, **options: Any) -> None:
        self.pretrained = pretrained
        task = get_task(pretrained.model)
        self._predictor = task.predictor(pretrained, make_options(pretrained, options), None)
        self.labels = plain.class_names(pretrained)

    @property
    def name(self) -> str:
        """That of the model, such as ViT-B_16."""
        return self.pretrained.name

    @property
    def task(self) -> str:
        """The name of what it does, such as classify."""
        return self.pretrained.model.task

    @property
    def model(self) -> Any:
        """The flax module."""
        return self.pretrained.model

    @property
    def variables(self) -> Mapping[str, Any]:
        """Its variables, numpy."""
        return self.pretrained.variables

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
        said = [f"{self.name}, {self.task}"]
        if self.labels:
            more = ", ..." if len(self.labels) > _SOME else ""
            said.append(f"{len(self.labels)} labels ({', '.join(self.labels[:_SOME])}{more})")
        if "image" in get_task(self.model).inputs:
            height, width = self.pretrained.image_size
            any_size = self.model.any_size
            said.append("images of any size" if any_size else f"images of {height} x {width}")
        return f"<{'; '.join(said)}; {count:,} parameters>"

    def __call__(self, *inputs: Any) -> Any:
        """Answers for one thing, or for many.

        Args:
            *inputs: one thing: an image, that is a path, a PIL image, an array or the bytes of a
                file, see `in_memory.encode`; two of them for optical flow; a text for a model of
                texts. Or many: one list, or anything else that can be gone through, of such things,
                for optical flow of pairs; an array (n, h, w, 3) is n images.

        Returns:
            What the task says of a thing, see docs/predict.md; of many a list of it, in their
            order, in which a ValueError stands for a thing without an answer, and is logged.

        Raises:
            ValueError: for one thing that has no answer; or for what is no such thing.
        """
        if len(inputs) != 1 or not _is_many(inputs[0]):
            (answer,) = self._answers([inputs[0] if len(inputs) == 1 else inputs])
            value = _value_of(answer)
            if isinstance(value, ValueError):
                raise value
            return value
        values = [_value_of(answer) for answer in self._answers(list(inputs[0]))]
        for value in values:
            if isinstance(value, ValueError):
                _LOG.error("%s", value)
        return values

    def _answers(self, things: Sequence[Any]) -> Iterable[Answer]:
        if not things:
            return []
        return self._predictor.answers(self._predictor.take(things))


def _is_many(thing: Any) -> bool:
    """Whether it is none of the things that can be answered for, but several."""
    if hasattr(thing, "__array__"):
        return np.ndim(thing) in (1, 4)  # of paths, or of images
    is_one = isinstance(thing, str | bytes | os.PathLike | tuple)
    return isinstance(thing, Iterable) and not is_one


def _value_of(answer: Answer) -> Any:
    return ValueError("; ".join(answer.problems)) if answer.value is None else answer.value


# What the command and Python have in common.


def make_options(pretrained: Pretrained, given: Mapping[str, Any]) -> Any:
    """Makes the options of a model's task for use in Python, where nothing is written.

    Raises:
        ValueError: for a name that is none, a value of another type or that is no choice, or an
            option of files.
    """
    task = get_task(pretrained.model)
    kinds = kinds_of(task.options)
    for name, value in given.items():
        if name not in kinds:
            others = [other.name for other in TASKS.values() if name in kinds_of(other.options)]
            hint = f" (it is one of {' and '.join(others)})" if others else ""
            raise ValueError(
                f"{pretrained.name} has no option {name!r}{hint}; of the task {task.name} there "
                f"are: {', '.join(kinds) or 'none'}"
            )
        kind, field = kinds[name]
        choices = field.metadata["choices"]
        fits = isinstance(value, (int, float) if kind is float else kind)
        if value is not None and (not fits or (kind is not bool and isinstance(value, bool))):
            raise ValueError(f"{name} must be of type {kind.__name__}, not {value!r}")
        if choices and value is not None and value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        if field.metadata["writes"] and not field.metadata["is_value"] and value:
            raise ValueError(
                f"{name} is about files that the command predict writes: leave it out here"
            )
    return task.options(**given)


def check_use(pretrained: Pretrained, has_size: bool, has_labels: bool) -> None:
    """Raises a ValueError if a size or labels were said of a model that has none."""
    model = pretrained.model
    if model.any_size and has_size:
        raise ValueError(
            f"{pretrained.name} takes images at their own size: leave --image_size out"
        )
    takes_labels = model.has_field("num_classes") or {"image", "text"} <= set(
        get_task(model).inputs
    )
    if not takes_labels and has_labels:
        raise ValueError(f"{pretrained.name} tells no classes apart: leave --labels out")
