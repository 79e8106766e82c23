"""Trained weights fitted to a model: to be fine-tuned, or ready for use."""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from checkpoints import formats, torch, tree
from vit_jax import class_names, preprocessing
from vit_jax.identify import find_relative, identify, what_fits
from vit_jax.models import MODELS, get_model
from vit_jax.models.base import Model
from vit_jax.tasks import get_task
from vit_jax.weights import UNSEEN, Weights, choose_labels, read

_LOG = logging.getLogger(__name__)

# Fields of how a model is run, which are none of its weights' business.
_RUN = ("dtype", "scan", "remat", "attention_implementation", "band_rows")
_WHICH_GELU = (
    "%s does not say with which GELU it was trained; %s is taken. google-research trained with "
    "gelu_tanh, timm and DINOv2 do with gelu: --%s=gelu"
)


def adapt(
    weights: Weights,
    init: Mapping[str, Any],
    model: Model,
    image_size: tuple[int, int],
    old_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    dont_load: str = "",
    labels: str = "",
) -> dict[str, Any]:
    """Fits weights to a model that is to be fine-tuned.

    A head for other classes is replaced by the model's own, as is one without the pre_logits that
    it stood on; one for the same classes in another order is put in order; position embeddings are
    resized. Weights of the model's backbone begin that alone, and what is not in it is left out;
    what it has as a part of the model alone, such as norms of its maps, stays as initialised.
    Everything else must fit exactly.

    Args:
        weights: from `read`.
        init: the model's own initial variables, unrolled.
        model: to be fine-tuned.
        image_size: (h, w) of its images.
        old_size: (h, w) of the images that the weights were trained with; None: that of their run,
            or of a square.
        class_names: of the model's head; None compares the number of classes alone.
        dont_load: regular expression; parameters in whose path it is found stay as initialised,
            and may be missing from the file, extra in it, or of another shape. "" is none.
        labels: a file with the weights' class names, a line each, or "imagenet1k"; "" for the
            labels.txt beside them, if there is one.

    Returns:
        Variables like `init`, of the same types.

    Raises:
        ValueError: with sorted lists of what is missing, extra, or of another shape.
    """
    backbone = _backbone_of(weights, model)
    if backbone is not None:
        return _adapt_backbone(weights, init, model, image_size, old_size, dont_load)
    old = traverse_util.flatten_dict(weights.tree(model), sep="/")
    new = traverse_util.flatten_dict(tree.merge(init), sep="/")
    regex = compile_pattern(dont_load, (*old, *new))
    # What is not loaded need not fit; but the class token says how the positions are to be read.
    old = {k: v for k, v in old.items() if k == "cls" or not (dont_load and regex.search(k))}
    params = traverse_util.unflatten_dict(old, sep="/")
    old_size = old_size or weights.image_size or _image_size(weights, params, model, image_size)
    shapes = jax.tree.map(np.shape, params)
    params = model.resize_params(params, old_size, image_size)
    if jax.tree.map(np.shape, params) != shapes:
        _LOG.info("resized for images of %s pixels, from %s", _by(image_size), _by(old_size))
    old = traverse_util.flatten_dict(params, sep="/")
    _tell_unseen(weights, model)
    heads = model.class_heads
    bias = f"{heads[0]}/bias"
    old_names = _old_names(weights, labels, len(old.get(bias, ())))
    reason = _why_new_head(old, new, bias, old_names, class_names)
    if reason:
        _LOG.info("the head begins anew: %s", reason)
    elif class_names is not None and bias in new:
        old |= _ordered_heads(old, heads, old_names, class_names)
    own = set(heads) if reason else set()
    if "pre_logits/kernel" in old and "pre_logits/kernel" not in new:
        _LOG.info("pre_logits is left out: the model has none")
        own.add("pre_logits")

    def is_own(name: str) -> bool:
        is_head = any(name.startswith(f"{head}/") for head in own)
        return is_head or bool(dont_load and regex.search(name))

    for name in sorted(name for name in new if dont_load and regex.search(name)):
        _LOG.info("%s stays as initialised", name)
    loaded = {name: array for name, array in old.items() if not is_own(name)}
    wanted = {name: array for name, array in new.items() if not is_own(name)}
    return replaced(new, loaded, wanted, weights)


def replaced(
    new: Mapping[str, Any], loaded: Mapping[str, Any], wanted: Mapping[str, Any], weights: Weights
) -> dict[str, Any]:
    """A model's own variables with those of a file in the place of the ones that are wanted."""
    try:
        tree.check(loaded, wanted)
    except ValueError as error:
        raise ValueError(
            f"{weights.path}: {error}. {what_fits(weights)}; --config.dont_load=REGEX "
            "leaves parameters as they were initialised"
        ) from None
    loaded = {name: np.asarray(array, new[name].dtype) for name, array in loaded.items()}
    return tree.split(traverse_util.unflatten_dict({**new, **loaded}, sep="/"))


def _backbone_of(weights: Weights, model: Model) -> Model | None:
    """A model's backbone, if weights are of that, and not of the model itself."""
    backbone = model.backbone_model
    if backbone is None:
        return None
    if not weights.is_torch:
        is_whole = any(_backbone_part(name, model) for name in weights.arrays)
        return None if is_whole else backbone
    known, known_by_backbone = (
        torch.shapes_by_our_names(weights.arrays, m)[1] for m in (model, backbone)
    )
    return backbone if known_by_backbone > known else None


def _adapt_backbone(
    weights: Weights,
    init: Mapping[str, Any],
    model: Model,
    image_size: tuple[int, int],
    old_size: tuple[int, int] | None,
    dont_load: str,
) -> dict[str, Any]:
    """Fits weights of a backbone to the model that has it, once or more often, see `adapt`."""
    backbone = model.backbone_model
    assert backbone is not None
    new = traverse_util.flatten_dict(tree.merge(init), sep="/")
    params = weights.tree(backbone)
    old_size = old_size or weights.image_size or _image_size(weights, params, backbone, image_size)
    params = backbone.resize_params(params, old_size, image_size)
    _tell_unseen(weights, backbone)
    flat = traverse_util.flatten_dict(params, sep="/")
    old = {f"{place}/{k}": v for place in model.backbones for k, v in flat.items()}
    regex = compile_pattern(dont_load, (*old, *new))
    of_it_alone = tree.shapes(backbone, image_size)

    def is_wanted(name: str) -> bool:
        part = _backbone_part(name, model)
        if not part or (dont_load and regex.search(name)):
            return False
        return name in old or part in of_it_alone

    wanted = {name: array for name, array in new.items() if is_wanted(name)}
    parts = {_backbone_part(name, model) for name in wanted}
    loaded = {k: v for k, v in old.items() if is_wanted(k) and _backbone_part(k, model) in parts}
    left_out = sorted({_backbone_part(k, model) for k in old} - parts)
    _LOG.info(
        "%s begins the backbone; the rest of the model is initialised%s",
        weights.path, f", and these parts are left out: {_some(left_out)}" if left_out else "",
    )  # fmt: skip
    return replaced(new, loaded, wanted, weights)


def _backbone_part(name: str, model: Model) -> str:
    """The part of a backbone that a parameter of a model is in; "" if it is in none."""
    for place in model.backbones:
        if name.startswith(f"{place}/"):
            return name.removeprefix(f"{place}/").partition("/")[0]
    return ""


def _image_size(
    weights: Weights, params: Mapping[str, Any], model: Model, new: tuple[int, int]
) -> tuple[int, int]:
    try:
        return model.image_size(params)
    except KeyError:  # tree.check will say what is missing
        return new
    except ValueError as error:
        raise ValueError(
            f"{weights.path}: {error}: say the size of the images they were made for, "
            "--config.pretrained_size='(HEIGHT, WIDTH)'"
        ) from None


def _why_new_head(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    bias: str,
    old_names: Sequence[str] | None,
    new_names: Sequence[str] | None,
) -> str:
    """Says why a head, of which the name of the bias is known, cannot be kept; "" if it can."""
    if bias not in new:
        return ""
    if bias not in old:
        return "the file has none"
    before, now = len(old[bias]), len(new[bias])
    if before != now:
        return f"it was for {before} classes, and is for {now} now"
    if "pre_logits/kernel" in old and "pre_logits/kernel" not in new:
        return "it stood on pre_logits"
    if old_names is not None and new_names is not None and {*old_names} != {*new_names}:
        return f"it was for other {before} classes"
    return ""


def _old_names(weights: Weights, labels: str, count: int) -> Sequence[str] | None:
    """The names of a head's classes, if they are known."""
    if labels and count:
        return choose_labels(labels, None, count, flag="--config.pretrained_labels")
    beside = weights.labels
    if beside is not None and len(beside) != count:
        if count:
            _LOG.warning("the labels.txt beside %s has %d names, and its head %d classes: it is "
                         "passed over", weights.path, len(beside), count)  # fmt: skip
        return None
    return beside


def _ordered_heads(
    old: Mapping[str, Any],
    heads: Sequence[str],
    old_names: Sequence[str] | None,
    new_names: Sequence[str],
) -> dict[str, Any]:
    """The heads, their classes in the order of the data; says which is assumed if none is known."""
    head = {name: np.asarray(old[name]) for name in old if name.rpartition("/")[0] in heads}
    if old_names is None:
        _LOG.warning(
            "the head is kept, and its %d classes are taken to be, in this order: %s. If they are "
            "others or in another order, say --config.pretrained_labels=FILE, a name per line; "
            "--config.dont_load='^(%s)/' begins it anew",
            len(new_names), _some(new_names), "|".join(heads),
        )  # fmt: skip
        return head
    if tuple(old_names) == tuple(new_names):
        return head
    _LOG.info("the head's classes are put in the order of the data's")
    order = [old_names.index(name) for name in new_names]
    return {name: array[..., order] for name, array in head.items()}


def _some(names: Sequence[str], most: int = 20) -> str:
    rest = f", ... {names[-1]}" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _tell_unseen(weights: Weights, model: Model) -> None:
    """Says if a model computes otherwise than the weights' own, or if that is not known."""
    known = weights.unseen_fields(model)
    for name, own in model.values_of(known).items():
        if own != known[name]:
            _LOG.warning(
                "%s was trained with %s=%s, and the model has %s: say --config.model.%s=%s",
                weights.path, name, known[name], own, name, known[name],
            )  # fmt: skip
    if weights.is_torch and "activation" not in known and model.has_field("activation"):
        _LOG.info(_WHICH_GELU, weights.path, model.activation, "config.model.activation")


def compile_pattern(pattern: str, names: Sequence[str]) -> re.Pattern[str]:
    """Compiles `config.dont_load`; a ValueError says if it is found in no name."""
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"dont_load={pattern!r} is not a regular expression: {error}") from None
    if not any(map(regex.search, names)):
        raise ValueError(
            f"dont_load={pattern!r} is found in none of: {', '.join(sorted(set(names)))}"
        )
    return regex


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


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


def load(
    path: str | os.PathLike[str],
    name: str | None = None,
    fields: Mapping[str, Any] | None = None,
    image_size: tuple[int, int] | None = None,
    labels: str | None = None,
    old_size: tuple[int, int] | None = None,
    key: str = "",
) -> Pretrained:
    """Loads a model for use.

    Args:
        path: as for `weights.read`.
        name: of the model, for a file without a run; found out if only one model fits.
        fields: of the model that differ from the published ones, for a file without a run.
        image_size: (h, w) to use it at; None for what it was trained with.
        labels: a file with a class name per line, "imagenet1k" or "none"; None for the labels.txt
            beside the weights, if there is one.
        old_size: (h, w) that the weights were made for, where no run and no square tells.
        key: which weights of a PyTorch file with several, see `checkpoints.torch.read`.

    Returns:
        The model with its weights.

    Raises:
        ValueError: if something is missing or does not fit; the message says what.
    """
    weights = read(path, key)
    name, fields = _which_model(weights, name, fields or {})
    model = tree.unrolled(get_model(name, **fields))
    if weights.workdir is None and _backbone_of(weights, model) is not None:
        raise ValueError(f"{path} holds weights of the backbone of {name} alone, with which a "
                         "training of it can begin: --config.pretrained")  # fmt: skip
    head = weights.head_fields(model)
    wrong = [k for k, v in head.items() if fields.get(k, v) != v]
    if wrong:
        raise ValueError(f"{path} has {wrong[0]}={head[wrong[0]]}, and not {fields[wrong[0]]}")
    model = model.clone(**head)
    if weights.is_torch and model.has_field("activation") and "activation" not in fields:
        _LOG.info(_WHICH_GELU, path, model.activation, "field=activation")
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
    eval_pp, loss = _trained_with(weights, name)
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
    )


def _choose_labels(labels: str | None, weights: Weights, model: Model) -> tuple[str, ...] | None:
    """The names of a head's classes; or what a model of images and texts is to look for."""
    if "text" in get_task(model).inputs and labels not in (None, "", "none"):
        return class_names.find(labels)
    classes = model.num_classes if model.has_field("num_classes") else 0
    return choose_labels(labels, weights.labels, classes)


def _trained_with(weights: Weights, name: str) -> tuple[str | None, str]:
    """The preprocessing and the loss that weights say; None and "" for what they do not."""
    if weights.workdir is not None:
        config = weights.workdir.read_config()
        return config.data.eval_pp, config.loss
    made_for = weights.made_for
    if made_for is None or made_for.model != name:
        return None, ""
    return made_for.eval_pp or None, made_for.loss


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
    if made_for is not None and made_for.model in MODELS and name in (None, made_for.model):
        name, fields = made_for.model, {**made_for.fields, **fields}
    if name is None:
        name, read_fields = _choose_model(weights)
        fields = {**read_fields, **fields}
    return name, {**weights.unseen_fields(get_model(name)), **fields}


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


def say_made_for(name: str, fields: Mapping[str, Any]) -> formats.MadeFor:
    """What a file of weights is to say of its model: all but how it is run."""
    model = get_model(name, **fields)
    fields = {**fields, **model.values_of(UNSEEN)}
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
