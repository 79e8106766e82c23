"""Trained weights fitted to their model, ready for use."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from checkpoints import files, formats, hub_images, packages, published, tree
from configs import common
from input_pipeline import preprocess, tokenizers, vocabularies
from vit_jax import class_names, preprocessing
from vit_jax.adapting import adapt, backbone_of, fit_for, tell_gelu
from vit_jax.identify import find_relative, find_twins, identify, what_fits
from vit_jax.models import MODELS, get_model, resolve
from vit_jax.models.base import Model
from vit_jax.tasks import get_task
from vit_jax.weights import UNSEEN, Weights, choose_labels, read

__all__ = ["Pretrained", "adapt", "load", "say_all", "say_made_for"]

_LOG = logging.getLogger(__name__)

# Fields of how a model is run, which are none of its weights' business.
_RUN = ("dtype", "scan", "remat", "attention_implementation", "part_side")
_TWINS = (
    "%s is taken for %s; nothing tells it from weights of %s, which may prepare images in another "
    "way or have another activation: --model=NAME says which it is"
)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its weights, ready for use.

    Attributes:
        name: of the model.
        fields: of the model that differ from the published ones.
        model: with as many classes as the head has, if it has one; unrolled.
        variables: its variables, numpy.
        image_size: (h, w) of the images that it takes, or of an example if it takes any.
        labels: class names, or None if they are not known.
        eval_pp: preprocessing of a file, see `input_pipeline.preprocess`.
        loss: name of the loss that it was trained with; it decides how logits are read.
        settings: of its task in the run that it comes from; {} without a run.
        plugins: modules that brought the model or its task, if they are not of this package.
        vocabulary: path of the vocabulary of a model that takes texts; "" for that of an installed
            package, if there is one.
        data_kind: `data.kind` of the run that it comes from; "" without a run.
    """

    name: str
    fields: Mapping[str, Any]
    model: Model
    variables: dict[str, Any]
    image_size: tuple[int, int]
    labels: tuple[str, ...] | None
    eval_pp: str
    loss: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    vocabulary: str = ""
    data_kind: str = ""


def load(
    path: str | os.PathLike[str],
    name: str | None = None,
    fields: Mapping[str, Any] | None = None,
    image_size: tuple[int, int] | None = None,
    labels: str | tuple[str, ...] | None = None,
    old_size: tuple[int, int] | None = None,
    key: str = "",
    vocabulary: str = "",
) -> Pretrained:
    """Loads a model for use.

    Args:
        path: as for `weights.read`.
        name: of the model, for a file without a run; that of published weights, or found out if
            only one model fits.
        fields: of the model that differ from the published ones, for a file without a run.
        image_size: (h, w) to use it at; None for what it was trained with.
        labels: names of classes, or a file with one per line, "imagenet1k" or "none"; None for the
            labels.txt beside the weights, if there is one.
        old_size: (h, w) that the weights were made for, where no run and no square tells.
        key: which weights of a PyTorch file with several, see `checkpoints.torch.read`.
        vocabulary: path of a model's of texts; "" for that of the run, or beside the weights.

    Returns:
        The model with its weights; of two towers that of images alone, if the name is of such.

    Raises:
        ValueError: if something is missing or does not fit; the message says what.
    """
    row = published.find(os.fspath(path))
    if row is not None and name in (None, row.model):
        name, fields = row.model, {**row.fields, **(fields or {})}
    weights = read(path, key)
    name, fields = _which_model(weights, name, fields or {})
    model = tree.unrolled(get_model(name, **fields))
    weights = fit_for(model, weights)
    if weights.workdir is None and backbone_of(weights, model) is not None:
        raise ValueError(f"{path} holds weights of the backbone of {name} alone, with which a "
                         "training of it can begin: --config.pretrained")  # fmt: skip
    head = weights.head_fields(model)
    wrong = [k for k, v in head.items() if fields.get(k, v) != v]
    if wrong:
        raise ValueError(f"{path} has {wrong[0]}={head[wrong[0]]}, and not {fields[wrong[0]]}")
    model = model.clone(**head)
    if weights.is_torch and "activation" not in fields:
        tell_gelu(path, model, "field=activation")
    arrays = weights.tree(model)
    old_size = old_size or weights.image_size or _square_or(image_size, path, model, arrays)
    size = image_size or old_size
    if size != old_size:
        arrays = model.resize_params(arrays, old_size, size)
    try:
        shapes = tree.shapes(model, size)
        tree.check(arrays, shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. {what_fits(weights)}") from None
    arrays = jax.tree.map(lambda a, s: np.asarray(a, s.dtype), arrays, shapes)
    config = weights.workdir.read_config() if weights.workdir else None
    eval_pp, loss = _trained_with(weights, name, model, size, old_size)
    task = get_task(model)
    return Pretrained(
        name=name,
        fields=fields,
        model=model,
        variables=tree.split(arrays),
        image_size=size,
        labels=_choose_labels(labels, weights, model),
        eval_pp=preprocessing.choose(model, size, old_size, eval_pp),
        loss=loss or next(iter(task.losses)),
        settings=task.settings_in(config) if config else {},
        plugins=tuple(config.plugins) if config else (),
        vocabulary=_find_vocabulary(vocabulary, weights, model),
        data_kind=config.data.kind if config else "",
    )


def _find_vocabulary(wanted: str, weights: Weights, model: Model) -> str:
    """The path of the vocabulary of a model of texts, or "" where only a package may have it."""
    if not model.tokenizer:
        if wanted:
            raise ValueError(f"{weights.path} reads no texts: leave the vocabulary {wanted} out")
        return ""
    path = os.path.expanduser(wanted) or weights.path
    if packages.is_packaged(path):
        return packages.find_vocabulary(path)
    if path.startswith("hf://"):
        return _fetch_vocabulary(path, model.tokenizer)
    if weights.workdir is not None and not wanted:
        folder = weights.workdir.vocabulary
        return tokenizers.find_vocabulary(folder, model.tokenizer) if folder.exists() else ""
    if files.is_download(path):
        return ""
    found = tokenizers.find_vocabulary(path, model.tokenizer)
    if wanted and not found:
        raise ValueError(f"there is no vocabulary {wanted} for {model.tokenizer}")
    return found


def check_vocabulary_beside(folder: epath.Path, model: Pretrained) -> None:
    """Raises a ValueError if a folder holds another vocabulary of the name of a model's."""
    for file in _vocabulary_files(model):
        there = folder / file.name
        if there.exists() and there.read_bytes() != file.read_bytes():
            raise ValueError(f"{there} is another vocabulary than {file}: choose another folder")


def write_vocabulary(folder: epath.Path, model: Pretrained) -> None:
    """Copies a model's vocabulary to a folder, if it is known."""
    for file in _vocabulary_files(model):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / file.name).exists():
            file.copy(folder / file.name)


def _vocabulary_files(model: Pretrained) -> list[epath.Path]:
    """Its file, and what belongs to it: the merges of vocab.json."""
    if not model.vocabulary:
        return []
    found = epath.Path(model.vocabulary)
    merges = found.with_name("merges.txt")
    return [found, merges] if found.name == "vocab.json" and merges.exists() else [found]


def _fetch_vocabulary(path: str, spec: str) -> str:
    """The vocabulary of a repository of the hub, with what belongs to it."""
    names = vocabularies.NAMES[tokenizers.parse(spec)[0].family]
    found = files.find_beside(path, names)
    if found is not None and found.name == "vocab.json":
        files.find_beside(path, ["merges.txt"])  # into the same folder
    return "" if found is None else os.fspath(found)


def _choose_labels(
    labels: str | tuple[str, ...] | None, weights: Weights, model: Model
) -> tuple[str, ...] | None:
    """The names of a head's classes; or what a model of images and texts is to look for."""
    if "text" in get_task(model).inputs and labels not in (None, "", "none"):
        return class_names.find(labels)
    classes = model.num_classes if model.has_field("num_classes") else 0
    return choose_labels(labels, weights.labels, classes)


def _trained_with(
    weights: Weights, name: str, model: Model, size: tuple[int, int], old_size: tuple[int, int]
) -> tuple[str | None, str]:
    """The preprocessing and the loss that weights say; None and "" for what they do not."""
    if weights.workdir is not None:
        config = weights.workdir.read_config()
        return config.data.eval_pp, config.loss
    made_for = weights.made_for
    if made_for is None or made_for.model != name:
        loss = weights.described_loss
        known = loss in get_task(model).losses
        return _said_beside(weights, model, size, old_size) or None, loss if known else ""
    return made_for.eval_pp or None, made_for.loss


def _said_beside(
    weights: Weights, model: Model, size: tuple[int, int], old_size: tuple[int, int]
) -> str:
    """How a file beside weights from the hub has images prepared, if not as they were trained.

    It is of the size that the weights were made for, and said of the one that they are used at.
    """
    usual = model.preprocessing(old_size)
    has_prepared_images = bool(usual) or model.has_field("num_classes")
    if not has_prepared_images or not weights.is_torch or packages.is_packaged(weights.path):
        return ""
    said = hub_images.read_preprocessing(weights.path, old_size)
    if not said or (usual and preprocess.read_calls(said) == preprocess.read_calls(usual)):
        return ""
    used = preprocessing.choose(model, size, old_size, said)
    trained = f"; such models were trained with {model.preprocessing(size)}" if usual else ""
    _LOG.info("images are prepared by %s, as a file beside %s says%s", used, weights.path, trained)
    return said


def _which_model(
    weights: Weights, name: str | None, fields: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Name and fields of the model that weights are of, as far as a person did not say them."""
    if weights.workdir is not None:
        if name or fields:
            raise ValueError(
                f"{weights.path} is a run, which says itself which model it is: leave --model and "
                "--field"
            )
        config = weights.workdir.read_config()
        return config.model_name, {**config.model, "dtype": config.dtype}
    made_for = weights.made_for
    read_fields: Mapping[str, Any] = {}
    if name is not None:
        name, said = resolve(name)
        fields = {**said, **fields}
    if made_for is not None and made_for.model in MODELS and name in (None, made_for.model):
        name, read_fields = made_for.model, made_for.fields
    elif name is None:
        name, read_fields = _choose_model(weights)
    known = {**weights.unseen_fields(get_model(name)), **read_fields, **fields}
    _check_told(weights, name, known)
    return name, known


def _check_told(weights: Weights, name: str, known: Mapping[str, Any]) -> None:
    """Raises a ValueError if nothing says with what weights of others' names were trained."""
    model = get_model(name)
    if not weights.is_torch or (weights.made_for and weights.made_for.model in MODELS):
        return
    for field, what in model.must_be_told.items():
        if field not in known:
            raise ValueError(
                f"{weights.path} does not say with which {field} it was trained, and the wrong one "
                f"would go unnoticed: say --field={field}=VALUE, {what}; a config.json or "
                "open_clip_config.json beside it says it as well"
            )


def _square_or(
    image_size: tuple[int, int] | None, path: Any, model: Model, params: Mapping[str, Any]
) -> tuple[int, int]:
    """The size that weights were made for: a square, or else that which is wanted."""
    try:
        return model.image_size(params)
    except KeyError as error:
        key = error.args[0]
        lacking = key if isinstance(key, str) else "/".join(key)
        raise ValueError(f"{path} is not for this model: it lacks {lacking}") from None
    except ValueError as error:
        if image_size is None:
            raise ValueError(
                f"{path}: {error}: say the size of the images they were made for, "
                "--pretrained_size=HEIGHTxWIDTH"
            ) from None
        return image_size


def config_of(model: Pretrained) -> ConfigDict:
    """The config of a run of no steps that begins, and ends, with a model as it is."""
    config = common.get_config()
    config.model_name = model.name
    config.plugins = model.plugins
    fields = dict(model.fields)
    config.dtype = fields.pop("dtype", config.dtype)
    fields.pop("scan", None)  # the state is written unrolled
    config.model.update(fields)
    config.data.train_pp = model.eval_pp
    config.data.eval_pp = model.eval_pp
    config.loss = model.loss
    config.total_steps = 0
    task = get_task(model.model)
    config.data.kind = task.kind
    if model.model.any_size and model.eval_pp:
        crop = 64 * model.model.upscale
        config.data.train_pp = f"random_crop({crop})|{model.eval_pp.rpartition('|')[2]}"
    config.metrics = model.model.metrics or task.metrics
    config.best_metric = (*config.metrics, "loss")[0]
    return config


def say_made_for(name: str, fields: Mapping[str, Any]) -> formats.MadeFor:
    """What a file of weights is to say of its model: all but how it is run."""
    model = get_model(name, **fields)
    name, said = resolve(name)
    fields = {**said, **fields, **model.values_of(UNSEEN)}
    return formats.MadeFor(name, {k: v for k, v in fields.items() if k not in _RUN})


def say_all(model: Pretrained) -> formats.MadeFor:
    """As `say_made_for`, with what else would be taken for something else when it is loaded."""
    usual_pp = preprocessing.choose(model.model, model.image_size, model.image_size, None)
    usual_loss = next(iter(get_task(model.model).losses))
    return dataclasses.replace(
        say_made_for(model.name, model.fields),
        eval_pp="" if model.eval_pp == usual_pp else model.eval_pp,
        loss="" if model.loss == usual_loss else model.loss,
    )


def _choose_model(weights: Weights) -> tuple[str, Mapping[str, Any]]:
    """The one published model that weights are of, and fields in which theirs differs from it."""
    names = identify(weights)
    if len(names) == 1:
        twins = find_twins(weights, names[0]) if weights.is_torch else []
        if twins:
            _LOG.info(_TWINS, weights.path, names[0], " and ".join(twins))
        return names[0], {}
    if not names:
        relative = find_relative(weights)
        if relative is not None and relative.is_sure and not relative.problem:
            _LOG.info("%s is taken for %s", weights.path, relative)
            return relative.name, relative.fields
        found = "it fits none of them"
        if relative is not None:
            found += f"; the closest is {relative}" + f": {relative.problem}".rstrip(": ")
    else:
        found = f"it fits {' and '.join(names)}"
    if weights.made_for is not None and weights.made_for.model not in MODELS:
        raise ValueError(
            f"{weights.path} says that it is of {weights.made_for.model}, which nobody has "
            "registered: name the module that does, --plugins=MODULE"
        )
    raise ValueError(
        f"{weights.path}: say which model it is, --model=NAME; of the published ones {found}"
    )
