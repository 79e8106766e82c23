"""Which model weights are of: a published one, or a relative of one, by names and shapes alone.

A model says how its fields show in the shapes of its parameters: `fields_in` reads them, and
`deepest` are fields with more blocks than any file has, whose names are all that a file may hold.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from flax import traverse_util

from checkpoints import torch, tree
from vit_jax.models import get_model, list_models
from vit_jax.models.base import Model

if TYPE_CHECKING:
    from vit_jax.weights import Weights

_LEAST_KNOWN = 0.5  # share of a file's names that a model knows, to be related to it
_TOO_FEW = 0.2  # less than others know: of two towers, one knows about half


@dataclasses.dataclass(frozen=True)
class Match:
    """A model that weights fit, or come close to.

    Attributes:
        name: of the published model.
        fields: in which the weights' model differs from it.
        problem: why it does not fit all the same; "" if it fits.
        untold: fields that could not be read from the weights.
    """

    name: str
    fields: Mapping[str, Any]
    problem: str = ""
    untold: tuple[str, ...] = ()

    @property
    def is_sure(self) -> bool:
        """Whether all fields could be read from the weights."""
        return not self.untold

    def __str__(self) -> str:
        """The name, and how it differs, as flags would say it."""
        fields = ", ".join(f"{name}={value}" for name, value in sorted(self.fields.items()))
        unsure = f" and a {' and a '.join(self.untold)} which it does not tell"
        unsure = unsure if self.untold else ""
        return f"{self.name} with {fields}{unsure}" if fields else self.name


def identify(weights: "Weights") -> list[str]:
    """Names of the published models that weights fit, whatever their image size and classes."""
    exact = [match.name for match in _candidates(weights) if not match.fields]
    return sorted(name for name in exact if not _fault(weights, name, {}))


def find_relative(weights: "Weights") -> Match | None:
    """Finds the published model that weights come closest to, in as few fields as can be.

    Returns:
        A model that they fit but for these fields; else one that they nearly fit; None if their
        names are those of no model.
    """
    closest = None
    for match in _candidates(weights):
        problem = _fault(weights, match.name, match.fields)
        if not problem:
            return match
        closest = closest or dataclasses.replace(match, problem=problem)
    return closest


def _candidates(weights: "Weights") -> list[Match]:
    """Published models that know the names in a file, with the fields that it shows to differ.

    Those with the fewest come first, and among them those of about as many parameters.
    """
    found = []
    read: dict[Any, tuple[dict[str, tuple[int, ...]], float]] = {}
    size = sum(array.size for array in weights.arrays.values())
    for name, count in list_models().items():
        model = tree.unrolled(get_model(name))
        try:
            deep = model.clone(**model.deepest)
            key = _names(deep) if weights.is_torch else name
            if key not in read:  # many rows of a table differ in no name
                read[key] = _shapes(weights, deep)
            shapes, known = read[key]
            if known < _LEAST_KNOWN:
                continue
            fields = model.fields_in(shapes)
        except (KeyError, ValueError, IndexError, ZeroDivisionError):
            continue  # names of parts that this model has, and others lack
        told = weights.unseen_fields(model)
        fields |= {field: value for field, value in told.items() if field.endswith("num_heads")}
        own = model.values_of(fields)
        differing = {field: v for field, v in fields.items() if own[field] != v}
        untold = tuple(
            heads
            for heads, width in (
                ("num_heads", "hidden_size"),
                ("text_num_heads", "text_hidden_size"),
            )
            if model.has_field(heads) and width in differing and heads not in fields
        )
        distance = abs(math.log(max(size, 1) / count))
        match = Match(name, differing, untold=untold)
        found.append((known, len(differing), distance, match))
    most = max((row[0] for row in found), default=0)
    likely = [row for row in found if row[0] > most - _TOO_FEW]
    return [match for *_, match in sorted(likely, key=lambda row: row[1:3])]


def what_fits(weights: "Weights") -> str:
    """A sentence that says which models weights fit, or come close to."""
    names = identify(weights)
    if names:
        return f"It fits {' and '.join(names)}"
    relative = find_relative(weights)
    if relative is not None and not relative.problem:
        return f"It fits {relative}"
    closest = "" if relative is None else f"; the closest is {relative}"
    return f"It fits no published model as it is{closest}"


def _fault(weights: "Weights", name: str, fields: Mapping[str, Any]) -> str:
    """Says why weights do not fit a model, whatever its image size and classes; "" if they do."""
    try:
        model = get_model(name, **fields)
        model = model.clone(**weights.head_fields(model))
        arrays = weights.tree(model)
        tree.check(arrays, tree.shapes(model, model.image_size(arrays)))
    except KeyError as error:
        return f"the weights do not fit the model (missing: {str(error).strip(chr(39))})"
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def _names(model: Model) -> Hashable:
    """What decides how a file in PyTorch's names is read."""
    tables = [model.torch_names(naming) for naming in model.torch_namings or ("",)]
    return type(model), tuple(frozenset(table.items()) for table in tables)


def _shapes(weights: "Weights", model: Model) -> tuple[dict[str, tuple[int, ...]], float]:
    """Shapes of a file's arrays by our names and in our layout, and the share that is known."""
    if weights.is_torch:
        return torch.shapes_by_our_names(weights.arrays, model)
    arrays = weights.named(model)
    names = model.parts() or traverse_util.flatten_dict(
        tree.shapes(model, model.image_size({})), sep="/"
    )
    known = [name for name in arrays if name in names or name.rpartition("/")[0] in names]
    return {k: tuple(v.shape) for k, v in arrays.items()}, len(known) / max(len(arrays), 1)
