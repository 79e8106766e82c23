"""Trained weights for the tower of texts alone: a BERT's, or those of other two towers."""

import logging
from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from checkpoints import torch, tree
from vit_jax import pretrained
from vit_jax.models.base import Model
from vit_jax.models.bert import BERT
from vit_jax.models.two_towers import TwoTowers
from vit_jax.weights import Weights

_LOG = logging.getLogger(__name__)

_TOWER, _BERT = "txt/", "txt/bert/"
_ENCODER = "encoder/"


def adapt(
    weights: Weights, init: Mapping[str, Any], model: Model, dont_load: str = ""
) -> dict[str, Any]:
    """Begins a tower of texts with weights, and leaves the rest of a model as it is.

    Of a BERT the encoder is taken; its heads are left out, and a projection to the width of the
    embeddings begins anew. Of other two towers the whole tower of texts is.

    Args:
        weights: from `weights.read`.
        init: the model's own initial variables, unrolled.
        model: two towers.
        dont_load: regular expression; parameters in whose path it is found stay as initialised.

    Returns:
        Variables like `init`.

    Raises:
        ValueError: for weights without a tower of texts, or with one that does not fit.
    """
    if not isinstance(model, TwoTowers):
        raise ValueError(
            f"text.pretrained={weights.path} is for a model of images and texts, and "
            f"{type(model).__name__} has no tower of texts: leave it empty"
        )
    bert = _bert_of(model)
    place = _TOWER if bert is None or not _is_bert(weights, model, bert) else _BERT
    if place == _BERT:
        assert bert is not None
        found = _begun(_ENCODER, traverse_util.flatten_dict(weights.tree(bert), sep="/"))
    else:
        found = _begun(_TOWER, traverse_util.flatten_dict(weights.tree(model), sep="/"))
    if not found:
        raise ValueError(
            f"{weights.path} has no tower of texts as {type(model).__name__} has it"
            f"{' and is no BERT' if bert is not None else ''}: take other weights for "
            "--config.text.pretrained"
        )
    new = traverse_util.flatten_dict(tree.merge(init), sep="/")
    loaded = {f"{place}{name}": array for name, array in found.items()}
    wanted = {name: array for name, array in new.items() if name.startswith(place)}
    regex = pretrained.compile_pattern(dont_load, (*loaded, *new))
    if dont_load:
        loaded, wanted = (
            {k: v for k, v in arrays.items() if not regex.search(k)} for arrays in (loaded, wanted)
        )
    _LOG.info("%s begins %s; the rest of the model is left to it", weights.path, place.rstrip("/"))
    return pretrained.replaced(new, loaded, wanted, weights)


def _begun(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _bert_of(model: TwoTowers) -> BERT | None:
    """The BERT whose encoder is a model's tower of texts, or None."""
    if model.text_kind != "bert":
        return None
    return BERT(
        activation=model.activation,
        vocabulary_size=model.vocabulary_size,
        length=model.text_positions or model.text_length,
        hidden_size=model.text_hidden_size,
        num_layers=model.text_num_layers,
        num_heads=model.text_num_heads,
        mlp_dim=model.text_mlp_dim,
    )


def _is_bert(weights: Weights, model: TwoTowers, bert: BERT) -> bool:
    """Whether weights are of a BERT, and not of two towers with one."""
    if not weights.is_torch:
        return any(name.startswith(_ENCODER) for name in weights.arrays)
    ours, whole = (torch.shapes_by_our_names(weights.arrays, m)[1] for m in (bert, model))
    return ours > whole
