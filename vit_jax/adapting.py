"""Trained weights fitted to another model, to be fine-tuned, or which has them as a part."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from checkpoints import torch, tree
from input_pipeline import imagenet
from vit_jax.class_names import are_imagenet1k
from vit_jax.identify import what_fits
from vit_jax.models.base import Model
from vit_jax.tasks import get_task
from vit_jax.weights import UNSEEN, Weights, choose_labels

_LOG = logging.getLogger(__name__)

_PROJECTION = "pre_logits"  # the part of a tower of images

# Parts of a file that a model may lack: a layer before the head, and the norm of all tokens, if the
# model has one of what the head sees, which is a part of the model that a file may lack.
_OPTIONAL = (_PROJECTION, "Transformer/encoder_norm")
_HEAD_NORM = "head_norm"

_SURE = ("gelu", "silu")  # what files without a word of it have, if the model has it
_WHICH_GELU = (
    "%s does not say with which GELU it was trained; %s is taken. google-research trained with "
    "gelu_tanh, OpenAI's CLIP with quick_gelu, timm, DINOv2 and most of open_clip do with gelu: "
    "--%s=gelu"
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
    it stood on, and a norm of what the head sees where the file has one of all tokens; a head for
    the same classes in another order is put in order, and of one for more classes those of the
    model are kept; position embeddings are resized. Weights of the model's backbone begin that
    alone, and what is not in it is left out; what it has as a part of the model alone, such as
    norms of its maps, stays as initialised. Everything else must fit exactly.

    Args:
        weights: from `read`.
        init: the model's own initial variables, unrolled.
        model: to be fine-tuned.
        image_size: (h, w) of its images.
        old_size: (h, w) of the images that the weights were trained with; None: that of their run,
            or of a square.
        class_names: of the model's head; None compares the number of classes alone. Those of
            ImageNet-1k may be WordNet ids, or numbers, whatever the weights call them.
        dont_load: regular expression; parameters in whose path it is found stay as initialised,
            and may be missing from the file, extra in it, or of another shape. "" is none.
        labels: a file with the weights' class names, a line each, or "imagenet1k"; "" for the
            labels.txt beside them, if there is one.

    Returns:
        Variables like `init`, of the same types.

    Raises:
        ValueError: with sorted lists of what is missing, extra, or of another shape.
    """
    weights = fit_for(model, weights)
    backbone = backbone_of(weights, model)
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
    tell_unseen(weights, model)
    heads = model.class_heads
    bias = f"{heads[0]}/bias" if heads else ""
    old_names = _old_names(weights, labels, len(old.get(bias, ())))
    kept = _kept_classes(len(old.get(bias, ())), old_names, class_names)
    reason = _why_new_head(old, new, bias, old_names, class_names, kept)
    if reason:
        _LOG.info("the head begins anew: %s", reason)
    elif class_names is not None and bias in new:
        old |= _ordered_heads(old, heads, class_names, kept)
    own = {*(heads if reason else ()), *_parts_of_one(old, new)}

    def is_own(name: str) -> bool:
        is_head = any(name.startswith(f"{head}/") for head in own)
        return is_head or bool(dont_load and regex.search(name))

    for name in sorted(name for name in new if dont_load and regex.search(name)):
        _LOG.info("%s stays as initialised", name)
    loaded = {name: array for name, array in old.items() if not is_own(name)}
    wanted = {name: array for name, array in new.items() if not is_own(name)}
    return replaced(new, loaded, wanted, weights)


def _parts_of_one(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Parts that a file has and a model may lack, and the other way round; says which."""
    parts = set()
    for part in _OPTIONAL:
        in_file, in_model = (any(k.startswith(f"{part}/") for k in names) for names in (old, new))
        if in_file and not in_model:
            _LOG.info("%s is left out: the model has none", part)
            parts.add(part)
    if f"{_HEAD_NORM}/scale" in new and f"{_HEAD_NORM}/scale" not in old:
        _LOG.info("%s begins anew: the file has none", _HEAD_NORM)
        parts.add(_HEAD_NORM)
    return parts


def fit_for(model: Model, weights: Weights) -> Weights:
    """Weights, but only what the model has of them.

    That is the tower of images of two towers, for a model that reads no texts, and the encoder of a
    masked autoencoder, for any other model.
    """
    if weights.has_decoder and "mask_token" not in model.parts():
        _LOG.info("of %s the encoder is taken, and the decoder is left out", weights.path)
        return weights.encoder()
    if model.tokenizer or "text" in get_task(model).inputs or not weights.has_two_towers:
        return weights
    _LOG.info("of %s the tower of images is taken, and that of texts is left out", weights.path)
    return weights.image_tower()


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


def backbone_of(weights: Weights, model: Model) -> Model | None:
    """A model's backbone, if weights are of that, and not of the model itself."""
    backbone = model.backbone_model
    if backbone is None:
        return None
    if not weights.is_torch:
        is_whole = any(_backbone_part(name, model) for name in weights.arrays)
        return None if is_whole else backbone
    (shapes, known), (_, known_by_backbone) = (
        torch.shapes_by_our_names(weights.arrays, m) for m in (model, backbone)
    )
    if known_by_backbone == known:  # as a tower's that has the same names alone
        return None if any(not _backbone_part(name, model) for name in shapes) else backbone
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
    tell_unseen(weights, backbone)
    flat = traverse_util.flatten_dict(params, sep="/")
    old = {f"{place}/{k}": v for place in model.backbones for k, v in flat.items()}
    regex = compile_pattern(dont_load, (*old, *new))
    of_it_alone = tree.shapes(backbone, image_size)

    keeps_projection = _has_same(_PROJECTION, flat, of_it_alone)
    if _PROJECTION in of_it_alone and not keeps_projection:
        _LOG.info("the projection of images begins anew")

    def is_wanted(name: str) -> bool:
        part = _backbone_part(name, model)
        if not part or (dont_load and regex.search(name)):
            return False
        if part == _PROJECTION and not keeps_projection:
            return False
        return name in old or part in of_it_alone

    wanted = {name: array for name, array in new.items() if is_wanted(name)}
    parts = {_backbone_part(name, model) for name in wanted}
    loaded = {k: v for k, v in old.items() if is_wanted(k) and _backbone_part(k, model) in parts}
    left_out = sorted({_backbone_part(k, model) for k in old} - parts)
    _LOG.info(
        "%s begins the backbone; the rest of the model is initialised%s",
        weights.path, f", and these parts are left out: {some(left_out)}" if left_out else "",
    )  # fmt: skip
    return replaced(new, loaded, wanted, weights)


def _has_same(part: str, old: Mapping[str, Any], of_new: Mapping[str, Any]) -> bool:
    """Whether weights have a part that a model has, with the same parameters, of which none adds.

    What AugReg's files have in the place of a projection has a bias, and an activation after it.
    """
    names = {name for name in old if name.startswith(f"{part}/")}
    own = traverse_util.flatten_dict(of_new.get(part, {}), sep="/")
    return names == {f"{part}/{k}" for k in own} == {f"{part}/kernel"} and all(
        np.shape(old[f"{part}/{k}"]) == leaf.shape for k, leaf in own.items()
    )


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
    kept: Sequence[int] | None,
) -> str:
    """Says why a head, of which the name of the bias is known, cannot be kept; "" if it can."""
    if bias not in new:
        return ""
    if bias not in old:
        return "the file has none"
    before, now = len(old[bias]), len(new[bias])
    if before != now and kept is None:
        return f"it was for {before} classes, and is for {now} now"
    if "pre_logits/kernel" in old and "pre_logits/kernel" not in new:
        return "it stood on pre_logits"
    if kept is None and old_names is not None and new_names is not None:
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


def _kept_classes(
    count: int, old_names: Sequence[str] | None, new_names: Sequence[str] | None
) -> list[int] | None:
    """Which of a head's classes the data's are, in their order; None if that is not known.

    Args:
        count: of the head's classes.
        old_names: of them, if they are known.
        new_names: of the data's.
    """
    if new_names is None or not count:
        return None
    are_numbers = all(name.isdecimal() for name in new_names)  # which say little of some of them
    if old_names is not None and (
        {*old_names} == {*new_names} or ({*old_names} > {*new_names} and not are_numbers)
    ):
        return [old_names.index(name) for name in new_names]
    if count != 1000 or not (old_names is None or are_imagenet1k(old_names)):
        return None
    kept = imagenet.class_numbers(new_names)
    if kept is not None and old_names is None:
        _LOG.warning("the head's 1000 classes are taken to be ImageNet-1k's in their order")
    return kept


def _ordered_heads(
    old: Mapping[str, Any],
    heads: Sequence[str],
    new_names: Sequence[str],
    kept: Sequence[int] | None,
) -> dict[str, Any]:
    """The heads, their classes those of the data; says which are assumed if none are known."""
    head = {name: np.asarray(old[name]) for name in old if name.rpartition("/")[0] in heads}
    if kept is None:
        _LOG.warning(
            "the head is kept, and its %d classes are taken to be, in this order: %s. If they are "
            "others or in another order, say --config.pretrained_labels=FILE, a name per line; "
            "--config.dont_load='^(%s)/' begins it anew",
            len(new_names), some(new_names), "|".join(heads),
        )  # fmt: skip
        return head
    count = len(old[f"{heads[0]}/bias"])
    if list(kept) == list(range(count)):
        return head
    if len(kept) < count:
        _LOG.info("of the head's %d classes the data's %d are kept", count, len(kept))
    else:
        _LOG.info("the head's classes are put in the order of the data's")
    return {name: array[..., list(kept)] for name, array in head.items()}


def some(names: Sequence[str], most: int = 20) -> str:
    """Lists names, and the last one where there are too many."""
    rest = f", ... {names[-1]}" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def tell_unseen(weights: Weights, model: Model, of: Sequence[str] = UNSEEN) -> None:
    """Says if a model computes otherwise than the weights' own, or if that is not known.

    Args:
        weights: that begin the model.
        model: to be fine-tuned, or the part of it that they begin.
        of: which fields of those that do not show.
    """
    known = {name: value for name, value in weights.unseen_fields(model).items() if name in of}
    for name, own in model.values_of(known).items():
        if own != known[name]:
            _LOG.warning(
                "%s was trained with %s=%s, and the model has %s: say --config.model.%s=%s",
                weights.path, name, known[name], own, name, known[name],
            )  # fmt: skip
    if weights.is_torch and "activation" not in known:
        tell_gelu(weights.path, model, "config.model.activation")


def tell_gelu(path: Any, model: Model, flag: str) -> None:
    """Says which GELU a model has, if the file of its weights could have been trained with another.

    Args:
        path: of the weights.
        model: that they are for.
        flag: of another, without what stands before it.
    """
    activation = model.values_of(["activation"]).get("activation", "gelu")
    if activation not in _SURE:
        _LOG.info(_WHICH_GELU, path, activation, flag)


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
