"""The table of models: how one is registered, listed and made by its name."""

import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models import timm_names
from vit_jax.models.base import Model

MODELS: dict[str, tuple[type[Model], dict[str, Any]]] = {}
# Benchmark -> number of test images, the same for all, and model -> figures by name. A model's name
# ends in QUOTED where the figures are from memory of its paper, and nobody here could look them up.
QUOTED = " (quoted)"
PUBLISHED_SCORES: dict[str, tuple[int, dict[str, dict[str, float]]]] = {}

_counts: dict[str, int] = {}

# How the files of Steiner et al., "How to train your ViT?" (TMLR 2022) begin.
AUGREG_NAMES = {
    "Ti_16": "ViT-Ti_16",
    "S_16": "ViT-S_16",
    "S_32": "ViT-S_32",
    "B_8": "ViT-B_8",
    "B_16": "ViT-B_16",
    "B_32": "ViT-B_32",
    "L_16": "ViT-L_16",
    "R_Ti_16": "R+ViT-Ti_16",
    "R26_S_32": "R26+ViT-S_32",
    "R26_B_32": "R26+ViT-B_32",
    "R50_L_32": "R50+ViT-L_32",
}

_MOST_BLOCKS = 1000  # of a model's stage; each takes milliseconds before the first step
DTYPES = ("float32", "bfloat16", "float16")


def register(
    model: type[Model],
    variants: Mapping[str, Mapping[str, Any]],
    counts: Mapping[str, int] | None = None,
    scores: Mapping[str, tuple[int, Mapping[str, Mapping[str, float]]]] | None = None,
) -> None:
    """Makes models known by name, those of this package and anybody's.

    Args:
        model: derives from `base.Model`.
        variants: fields of each that differ from the defaults, by its name.
        counts: their numbers of parameters; those that are not said are counted when asked for.
        scores: that were published, as in `PUBLISHED_SCORES`.

    Raises:
        ValueError: for a part of the contract that is missing, or a name that is taken.
    """
    name = model.__name__
    if not issubclass(model, Model):
        raise ValueError(f"{name} is no model: derive it from vit_jax.models.base.Model")
    if not model.task:
        raise ValueError(f"{name} lacks `task`: say what it is trained for, such as 'classify'")
    if not model.has_field("dtype"):
        raise ValueError(f"{name} lacks the field `dtype: Any = jnp.float32`, its compute type")
    arguments = inspect.signature(model.__call__).parameters
    if "train" not in arguments:
        raise ValueError(f"{name}.__call__ lacks the argument `train: bool = False`")
    gives_maps = model.feature_strides is not Model.feature_strides
    if gives_maps and "feature_maps" not in arguments:
        raise ValueError(f"{name}.__call__ lacks the argument `feature_maps: bool = False`")
    for variant, fields in variants.items():
        unknown = sorted(set(fields) - set(_field_types(model)))
        if unknown:
            raise ValueError(f"{variant}: {name} has no field {', '.join(unknown)}")
        taken = MODELS.get(variant, (model, {}))[0]
        if (taken.__module__, taken.__qualname__) != (model.__module__, model.__qualname__):
            raise ValueError(f"{variant} is taken by {taken.__module__}.{taken.__qualname__}")
    MODELS.update({variant: (model, dict(fields)) for variant, fields in variants.items()})
    _counts.update(counts or {})
    for benchmark, (count, figures) in (scores or {}).items():
        _, others = PUBLISHED_SCORES.get(benchmark, (count, {}))
        merged = {**others, **{name: dict(values) for name, values in figures.items()}}
        PUBLISHED_SCORES[benchmark] = (count, merged)


def list_models() -> dict[str, int]:
    """Names of all models, sorted, with their numbers of parameters.

    Image classifiers are counted with 1000 classes, or without a head where they were published
    without one; at 224 pixels, or at what the name or the field `image_side` says.
    """
    for name in MODELS.keys() - _counts.keys():
        _counts[name] = _count_parameters(get_model(name))
    return {name: _counts[name] for name in sorted(MODELS)}


def _count_parameters(model: Model) -> int:
    inputs = model.inputs(model.usual_size)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def get_model(name: str, **overrides: Any) -> Model:
    """Makes a model by its published name.

    Args:
        name: one of `list_models()`, an AugReg short name such as "R26_S_32", or timm's name of
            one, such as "vit_small_patch14_dinov2.lvd142m".
        **overrides: fields of the model's module that differ from the published variant;
            `dtype` may be a string, and lists stand for tuples.

    Returns:
        A flax module: `model.apply(variables, *inputs, train=False) -> out`, see `base.Model`.

    Raises:
        ValueError: for an unknown name or field, or a value of the wrong type.
    """
    module, fields = find_model(name)
    types = _field_types(module)
    overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    for field, value in overrides.items():
        if field not in types:
            raise ValueError(
                f"model {name!r} has no field {field!r}; {_did_you_mean(field, types)}its fields "
                f"are: {', '.join(types)}"
            )
        if field != "dtype":
            _check_type(name, field, value, types[field])
        if field in module.deepest and min((0, *_numbers(value))) < 0:
            raise ValueError(f"model {name!r}: {field}={value} must not be negative")
        if field in module.deepest and max((0, *_numbers(value))) > _MOST_BLOCKS:
            raise ValueError(
                f"model {name!r}: {field}={value} would take for ever to compile; at most "
                f"{_MOST_BLOCKS} will do"
            )
    fields = {**fields, **overrides}
    if "dtype" in fields:
        fields["dtype"] = _dtype(fields["dtype"])
    return module(**fields)


def find_model(name: str) -> tuple[type[Model], dict[str, Any]]:
    """The class of a model, and the fields in which it differs from the class's defaults.

    Raises:
        ValueError: for an unknown name.
    """
    known, own = resolve(name)
    if known not in MODELS:
        hint = _did_you_mean(name, MODELS)
        raise ValueError(f"unknown model {name!r}; {hint}there are: {', '.join(sorted(MODELS))}")
    module, fields = MODELS[known]
    return module, {**fields, **own}


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """The name in the table of a model, and fields of it that another name of it says besides.

    Args:
        name: as for `get_model`; one that is not known is returned as it is.
    """
    name = AUGREG_NAMES.get(name, name)
    named = None if name in MODELS else timm_names.find(name)
    return named if named is not None and named[0] in MODELS else (name, {})


def field_types(name: str) -> dict[str, Any]:
    """The fields of a model's module, which `get_model` takes, with their types.

    Raises:
        ValueError: for an unknown name.
    """
    return _field_types(find_model(name)[0])


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggests the name that is closest, whatever its case and punctuation; "" if none is close.

    `input_pipeline.arguments` does it for all but models, which stand on JAX alone.
    """
    plain = {re.sub(r"[\W_]", "", one).lower(): one for one in known}
    close = difflib.get_close_matches(re.sub(r"[\W_]", "", name).lower(), plain, n=1)
    return f"did you mean {plain[close[0]]!r}? " if close else ""


def _numbers(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _field_types(module: type[Model]) -> dict[str, Any]:
    """The type of each field of a module, less those that flax adds."""
    hints = typing.get_type_hints(module)
    names = [field.name for field in dataclasses.fields(module)]
    return {name: hints[name] for name in names if name not in ("parent", "name")}


def _check_type(model: str, field: str, value: Any, expected: Any) -> None:
    allowed = typing.get_args(expected) if typing.get_origin(expected) is UnionType else (expected,)
    if isinstance(value, bool):
        fits = bool in allowed
    elif isinstance(value, int) and not -(2**31) <= value < 2**31:
        raise ValueError(f"model {model!r}: {field} cannot be {value}, which takes over 32 bits")
    elif isinstance(value, int) and float in allowed:
        fits = True
    elif isinstance(value, tuple):
        fits = any(
            typing.get_origin(t) is tuple
            and all(_is_number(v, typing.get_args(t)[0]) for v in value)
            for t in allowed
        )
    else:
        fits = isinstance(value, tuple(t for t in allowed if isinstance(t, type)))
    if not fits:
        names = " or ".join(t.__name__ if type(t) is type else str(t) for t in allowed)
        raise ValueError(f"model {model!r}: {field} must be of type {names}, not {value!r}")


def _is_number(value: Any, kind: type) -> bool:
    return type(value) is int or (kind is float and type(value) is float)


def _dtype(value: Any) -> jnp.dtype:
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in DTYPES:
        raise ValueError(f"dtype={value!r} is not one of {DTYPES}")
    return dtype
