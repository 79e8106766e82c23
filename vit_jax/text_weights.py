"""Trained weights for the tower of texts alone: a BERT's, or those of other two towers."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from checkpoints import tree
from vit_jax import adapting
from vit_jax.models.base import Model
from vit_jax.models.bert import BERT
from vit_jax.models.two_towers import TwoTowers
from vit_jax.weights import Weights

_LOG = logging.getLogger(__name__)

_TOWER, _BERT, _HEAD = "txt/", "txt/bert/", "txt/head/"  # how names begin
_ENCODER = "encoder/"


def adapt(
    weights: Weights, init: Mapping[str, Any], model: Model, dont_load: str = ""
) -> dict[str, Any]:
    """Begins a tower of texts with weights, and leaves the rest of a model as it is.

    Of a BERT the encoder is taken, and its heads are left out; of other two towers the whole tower
    of texts is. The projection to the width of the embeddings stays as initialised if the weights
    have none, or one of another shape. Where a BERT has more positions, the first are taken.

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
    is_bert = bert is not None and weights.is_bert
    found = _of_bert(weights, bert) if bert is not None and is_bert else _of_tower(weights, model)
    old = {name: array for name, array in found.items() if name.startswith(_TOWER)}
    if not old:
        raise ValueError(
            f"{weights.path} has no tower of texts as {type(model).__name__} has it"
            f"{' and is no BERT' if bert is not None else ''}: take other weights for "
            "--config.text.pretrained"
        )
    new = traverse_util.flatten_dict(tree.merge(init), sep="/")
    regex = adapting.compile_pattern(dont_load, (*old, *new))
    keeps_head = _shapes_of_head(old) == _shapes_of_head(new)
    if _shapes_of_head(new) and not keeps_head:
        _LOG.info("the projection of texts begins anew: %s",
                  "it had another shape" if _shapes_of_head(old) else "there was none")  # fmt: skip

    def is_wanted(name: str) -> bool:
        is_own = dont_load and regex.search(name)
        return name.startswith(_TOWER) and not is_own and (keeps_head or name[:9] != _HEAD)

    left_out = sorted({name.partition("/")[0] for name in found.keys() - old.keys()})
    _LOG.info(
        "%s begins the tower of texts; the rest of the model is left to it%s", weights.path,
        f", and these parts are left out: {adapting.some(left_out)}" if left_out else "",
    )  # fmt: skip
    loaded, wanted = ({k: v for k, v in each.items() if is_wanted(k)} for each in (old, new))
    return adapting.replaced(new, loaded, wanted, weights)


def _shapes_of_head(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {k: np.shape(v) for k, v in arrays.items() if k.startswith(_HEAD)}


def _of_tower(weights: Weights, model: TwoTowers) -> dict[str, np.ndarray]:
    adapting.tell_unseen(weights, model, of=("activation", "text_num_heads"))
    return traverse_util.flatten_dict(weights.tree(model), sep="/")


def _of_bert(weights: Weights, bert: BERT) -> dict[str, np.ndarray]:
    """A BERT's parameters, by the names of a tower of texts where they are of its encoder."""
    trained_with = weights.unseen_fields(bert).get("activation", bert.activation)
    if trained_with != bert.activation:  # by 4e-4 of what comes out, between the two of BERT
        _LOG.info("%s was trained with activation=%s, and goes on with %s, as the images have it",
                  weights.path, trained_with, bert.activation)  # fmt: skip
    arrays = traverse_util.flatten_dict(weights.tree(bert), sep="/")
    table = arrays.get("encoder/position_embedding")
    if table is not None and len(table) > bert.length:
        _LOG.info("of %d positions the first %d are taken", len(table), bert.length)
        arrays["encoder/position_embedding"] = table[: bert.length]
    is_inside = {name: name.startswith(_ENCODER) for name in arrays}
    return {
        _BERT + name.removeprefix(_ENCODER) if is_inside[name] else name: array
        for name, array in arrays.items()
    }


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
