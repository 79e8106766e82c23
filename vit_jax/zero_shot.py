"""Zero-shot classification as a conversion: a model of images and texts becomes a classifier.

The vectors of the classes' names, times the model's scale, are the kernel of an ordinary head on
the image tower, and its bias is the model's; so the classifier's logits are those of the two
towers, and whatever takes a classifier takes it.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(CLIP, 2021), section 3.1.2: the text tower makes the weights of a linear classifier.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.embedder import Embedder, has_two_towers
from vit_jax.models import MODELS, get_model
from vit_jax.models.base import Model
from vit_jax.pretrained import Pretrained


def make_classifier(
    pretrained: Pretrained, class_names: Sequence[str], prompts: Sequence[str]
) -> Pretrained:
    """Makes a classifier of classes that are named.

    Args:
        pretrained: a model of images and texts, with its vocabulary.
        class_names: in the order of the classes; underscores are read as blanks.
        prompts: each with {} for the name, see `prompts.find`.

    Returns:
        A Vision Transformer whose head sees vectors of length 1: logits are exp(t) times cosine,
        plus the model's bias, which then is read by a sigmoid, class by class.

    Raises:
        ValueError: if the model has no tower for texts, or no vocabulary.
    """
    check(pretrained)
    embedder = Embedder(pretrained)
    kernel = embedder.scale * embedder.classes(class_names, prompts).T
    tower = pretrained.model.image_tower().clone(num_classes=len(class_names), cosine=True)
    name, fields = _registered(tower)
    params = {
        **pretrained.variables["params"]["img"],
        "head": {
            "kernel": kernel.astype(np.float32),
            "bias": np.full(len(class_names), embedder.bias, np.float32),
        },
    }
    return dataclasses.replace(
        pretrained,
        name=name,
        fields=fields,
        model=tower,
        variables={"params": params},
        labels=tuple(class_names),
        loss="sigmoid_xent" if embedder.has_bias else "softmax_xent",
        settings={},
        vocabulary="",
    )


def check(pretrained: Pretrained) -> None:
    """Raises a ValueError for a model that has no tower for texts."""
    if not has_two_towers(pretrained.model):
        raise ValueError(
            f"{pretrained.name} knows no words, which classes are made of: take a model of images "
            "and texts, such as CLIP"
        )


def _registered(model: Model) -> tuple[str, Mapping[str, Any]]:
    """The published model of the same kind that differs in the fewest fields, and these fields."""
    wanted = _fields(model)
    best: tuple[int, str, dict[str, Any]] | None = None
    for name, (kind, _) in MODELS.items():
        if kind is not type(model):
            continue
        own = _fields(get_model(name))
        differing = {k: v for k, v in wanted.items() if own[k] != v and k != "num_classes"}
        if best is None or len(differing) < best[0]:
            best = len(differing), name, differing
    assert best is not None, f"{type(model).__name__} is registered under no name"
    return best[1], best[2]


def _fields(model: Model) -> dict[str, Any]:
    own = {field.name for field in dataclasses.fields(model)} - {"parent", "name"}
    return model.values_of(sorted(own))
