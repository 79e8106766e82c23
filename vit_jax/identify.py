"""Which model weights are of: a published one, or a relative of one, by names and shapes alone.

A model says how its fields show in the shapes of its parameters: `fields_in` reads them, and
`deepest` are fields with more blocks than any file has, whose names are all that a file may hold.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flax import traverse_util

from checkpoints import torch, tree
from vit_jax.models import MODELS, get_model, list_models
from vit_jax.models.base import Model

if TYPE_CHECKING:
    from vit_jax.weights import Weights

_LEAST_KNOWN = 0.5  # share of a file's names that a model knows, to be related to it
_SEEN_TO_BE = ("layer_scale",)  # weights show that it is there, and not what it was at first
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
    """Names of the published models that weights fit, whatever their image size and classes.

    Of Vision Transformers that differ in nothing that weights show the one that came first stands
    for all, unless a config beside the weights says which it is; see `find_twins`.
    """
    told = _closest(weights, weights.told_models)
    if told is not None and not told.problem:
        return [] if told.fields else [told.name]
    exact = _exact(weights, tuple(MODELS))
    return sorted(name for name in exact if not _fault(weights, name, {}))


def find_twins(weights: "Weights", name: str) -> list[str]:
    """Published models that weights fit as well as the one they are taken for, in whose stead."""
    if not MODELS[name][0].has_twins or weights.told_models:
        return []
    alike = [other for other in MODELS if MODELS[other][0] is MODELS[name][0]]
    return [other for other in _exact(weights, alike, with_twins=True) if other != name]


def find_relative(weights: "Weights") -> Match | None:
    """Finds the published model that weights come closest to, in as few fields as can be.

    Returns:
        A model that they fit but for these fields, of those that a config beside them names if it
        can be; else one that they nearly fit; None if their names are those of no model.
    """
    told = _closest(weights, weights.told_models)
    return told if told is not None and not told.problem else _closest(weights, tuple(MODELS))


def _exact(weights: "Weights", names: Sequence[str], with_twins: bool = False) -> list[str]:
    """Of some published models those that differ in no field that weights show."""
    candidates = _candidates(weights, names, with_twins)
    return [match.name for match in candidates if not match.fields]


def _closest(weights: "Weights", names: Sequence[str]) -> Match | None:
    closest = None
    for match in _candidates(weights, names):
        problem = _fault(weights, match.name, match.fields)
        if not problem:
            return match
        closest = closest or dataclasses.replace(match, problem=problem)
    return closest


def _candidates(weights: "Weights", names: Sequence[str], with_twins: bool = False) -> list[Match]:
    """Of some published models those that know the names in a file, with the fields that differ.

    Those with the fewest come first, and among them those of about as many parameters. Of twins the
    first of `names` stands for all, unless they are wanted.
    """
    found = []
    standing: set[Hashable] = set()
    read: list[_Read] = []
    size = sum(array.size for array in weights.arrays.values())
    counts = list_models()
    for name in names:
        model = tree.unrolled(get_model(name))
        try:
            seen = _read(weights, model, read)
            if seen.known < _LEAST_KNOWN:
                continue
            fields = model.fields_in(seen.shapes)
        except (KeyError, ValueError, IndexError, ZeroDivisionError):
            continue  # names of parts that this model has, and others lack
        differing = _differing(model, fields, seen)
        has_new_head = "num_classes" in differing
        own = {
            k: v is not None if k in _SEEN_TO_BE else v for k, v in model.values_of(fields).items()
        }
        shown = id(seen), frozenset(own.items())
        if model.has_twins and not with_twins and shown in standing:
            continue
        standing.add(shown)
        untold = tuple(
            heads
            for heads, width in (
                ("num_heads", "hidden_size"),
                ("text_num_heads", "text_hidden_size"),
                ("decoder_num_heads", "decoder_hidden_size"),
            )
            if model.has_field(heads)
            and width in differing
            and heads not in {**fields, **seen.told}
        )
        distance = abs(math.log(max(size, 1) / counts[name]))
        match = Match(name, differing, untold=untold)
        found.append((seen.known, len(differing), has_new_head, distance, match))
    most = max((row[0] for row in found), default=0)
    likely = [row for row in found if row[0] > most - _TOO_FEW]
    return [match for *_, match in sorted(likely, key=lambda row: row[1:4])]


def _differing(model: Model, fields: Mapping[str, Any], seen: "_Read") -> dict[str, Any]:
    """In which fields a model differs from those that a file shows."""
    fields = {**fields, **{k: v for k, v in seen.told.items() if k.endswith("num_heads")}}
    fields |= {k: v for k, v in seen.told_by_names.items() if fields.get(k)}
    own = model.values_of(fields)
    differing = {
        field: v for field, v in fields.items()
        if own[field] != v and not (field in _SEEN_TO_BE and None not in (own[field], v))
    }  # fmt: skip
    if seen.classes and model.values_of(["num_classes"]).get("num_classes") == 0:
        differing["num_classes"] = seen.classes
    return differing


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


@dataclasses.dataclass(frozen=True)
class _Read:
    """What is read of a file for a kind of model; many rows of a table differ in no name."""

    kind: Hashable
    tables: Sequence[Mapping[str, str]]  # PyTorch's names, by each naming
    shapes: Mapping[str, tuple[int, ...]]
    known: float
    classes: int  # of its head; 0 without one
    told: Mapping[str, Any]
    told_by_names: Mapping[str, Any]  # of all files of such names


def _read(weights: "Weights", model: Model, read: list[_Read]) -> _Read:
    """Reads a file as a model's, or says what was read for one of the same names, of `read`."""
    deep = model.clone(**model.deepest)
    tables = [deep.torch_names(naming) for naming in deep.torch_namings or ("",)]
    kind = (type(deep), weights.is_torch or tuple(deep.npz_names().items()))
    if weights.is_torch or any(tables):
        for other in read:
            if other.kind == kind and other.tables == tables:
                return other
    shapes, known = _shapes(weights, deep)
    told_by_names: Mapping[str, Any] = {}
    if weights.is_torch and deep.naming_fields:
        told_by_names = deep.naming_fields.get(torch.naming_of(weights.arrays, deep), {})
    told = weights.unseen_fields(deep)
    classes = weights.head_fields(deep).get("num_classes", 0)
    read.append(_Read(kind, tables, shapes, known, classes, told, told_by_names))
    return read[-1]


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
