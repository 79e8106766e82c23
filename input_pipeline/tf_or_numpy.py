"""TensorFlow for the ops of preprocessing, imported when it is first asked for something.

An evaluation of a few photos can do without: `in_numpy` puts `numpy_ops` in its place, whose pixels
are the same.
"""

import contextlib
import contextvars
import importlib
import typing
from collections.abc import Iterator
from typing import Any

_is_numpy = contextvars.ContextVar("is_numpy", default=False)


class NotInNumpy(Exception):
    """Raised within `in_numpy` by what TensorFlow alone can do."""


@contextlib.contextmanager
def in_numpy() -> Iterator[None]:
    """Has `tf` compute with numpy arrays: in this thread, and without TensorFlow."""
    token = _is_numpy.set(True)
    try:
        yield
    finally:
        _is_numpy.reset(token)


class _Library:
    def __getattr__(self, name: str) -> Any:
        if not _is_numpy.get():
            return getattr(importlib.import_module("input_pipeline.cpu_tf").tf, name)
        from input_pipeline import numpy_ops

        try:
            return getattr(numpy_ops, name)
        except AttributeError:
            raise NotInNumpy(f"there is no {name} in numpy") from None


if typing.TYPE_CHECKING:
    from input_pipeline.cpu_tf import tf as tf
else:
    tf = _Library()
