"""The models, by name. To add one: its file, and its rows here."""

import dataclasses
import difflib
import typing
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax.models import vit

MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    name: (vit.VisionTransformer, fields) for name, fields in vit.VARIANTS.items()
}

DTYPES = ("float32", "bfloat16", "float16")


def list_models() -> list[str]:
    """Names of all models, sorted."""
    return sorted(MODELS)


def get_model(name: str, **overrides: Any) -> nn.Module:
    """Makes a model by its published name.

    Args:
        name: one of `list_models()`.
        **overrides: fields of the model's module that differ from the published variant;
            `dtype` may be a string.

    Returns:
        A flax module: `model.apply(variables, images, train=False) -> out`.

    Raises:
        ValueError: for an unknown name or field, or a value of the wrong type.
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown model {name!r}; {hint}there are: {', '.join(list_models())}")
    module, fields = MODELS[name]
    types = _field_types(module)
    for field, value in overrides.items():
        if field not in types:
            raise ValueError(
                f"model {name!r} has no field {field!r}; its fields are: {', '.join(types)}"
            )
        if field != "dtype":
            _check_type(name, field, value, types[field])
    fields = {**fields, **overrides}
    if "dtype" in fields:
        fields["dtype"] = _dtype(fields["dtype"])
    return module(**fields)


def _field_types(module: type[nn.Module]) -> dict[str, Any]:
    """The type of each field of a module, less those that flax adds."""
    hints = typing.get_type_hints(module)
    names = [field.name for field in dataclasses.fields(module)]
    return {name: hints[name] for name in names if name not in ("parent", "name")}


def _check_type(model: str, field: str, value: Any, expected: Any) -> None:
    allowed = typing.get_args(expected) or (expected,)
    if isinstance(value, bool):
        fits = bool in allowed
    elif isinstance(value, int) and float in allowed:
        fits = True
    else:
        fits = isinstance(value, tuple(allowed))
    if not fits:
        names = " or ".join(getattr(t, "__name__", str(t)) for t in allowed)
        raise ValueError(f"model {model!r}: {field} must be of type {names}, not {value!r}")


def _dtype(value: Any) -> jnp.dtype:
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in DTYPES:
        raise ValueError(f"dtype={value!r} is not one of {DTYPES}")
    return dtype
