"""The models, by name. To add one: its file, and its line here."""

import dataclasses
import difflib
import typing
from types import UnionType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax.models import dehazeformer, mixer, rrdb, swin, swinir, vit

_FILES = {
    vit: vit.VisionTransformer,
    mixer: mixer.MlpMixer,
    swin: swin.Swin,
    dehazeformer: dehazeformer.DehazeFormer,
    swinir: swinir.SwinIR,
    rrdb: rrdb.RRDB,
}

MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    name: (module, fields)
    for file, module in _FILES.items()
    for name, fields in file.VARIANTS.items()
}

_PARAMETER_COUNTS = {
    name: count for file in _FILES for name, count in file.PARAMETER_COUNTS.items()
}

# Benchmark -> number of test images, the same for all, and model -> figures by name.
PUBLISHED_SCORES: dict[str, tuple[int, dict[str, dict[str, float]]]] = {}
for _file in (dehazeformer, swinir):
    for _benchmark, (_count, _scores) in _file.PUBLISHED_SCORES.items():
        _, _others = PUBLISHED_SCORES.get(_benchmark, (_count, {}))
        PUBLISHED_SCORES[_benchmark] = (_count, _others | _scores)

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


def list_models() -> dict[str, int]:
    """Names of all models, sorted, with their numbers of parameters.

    Image classifiers are counted with 1000 classes at 224 pixels, or at what the name says.
    """
    return {name: _PARAMETER_COUNTS[name] for name in sorted(MODELS)}


def get_model(name: str, **overrides: Any) -> nn.Module:
    """Makes a model by its published name.

    Args:
        name: one of `list_models()`, or an AugReg short name such as "R26_S_32".
        **overrides: fields of the model's module that differ from the published variant;
            `dtype` may be a string, and lists stand for tuples.

    Returns:
        A flax module: `model.apply(variables, images, train=False) -> out`. Its `predicts` says
        with what part of a batch the output is compared: "label" or "target".

    Raises:
        ValueError: for an unknown name or field, or a value of the wrong type.
    """
    name = AUGREG_NAMES.get(name, name)
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown model {name!r}; {hint}there are: {', '.join(list_models())}")
    module, fields = MODELS[name]
    types = _field_types(module)
    overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    for field, value in overrides.items():
        if field not in types:
            raise ValueError(
                f"model {name!r} has no field {field!r}; its fields are: {', '.join(types)}"
            )
        if field != "dtype":
            _check_type(name, field, value, types[field])
        if field in module.deepest and max((0, *_numbers(value))) > _MOST_BLOCKS:
            raise ValueError(
                f"model {name!r}: {field}={value} would take for ever to compile; at most "
                f"{_MOST_BLOCKS} will do"
            )
    fields = {**fields, **overrides}
    if "dtype" in fields:
        fields["dtype"] = _dtype(fields["dtype"])
    return module(**fields)


def _numbers(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _field_types(module: type[nn.Module]) -> dict[str, Any]:
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
