"""Models, tasks and kinds of data from outside of this package."""

import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path


def load(modules: Sequence[str], beside: str | os.PathLike[str] | None = None) -> None:
    """Imports modules, which register what they bring.

    Args:
        modules: names such as "blobs" or "my_package.models", found as Python finds modules: in the
            folder in which a command is started, and where packages are installed.
        beside: a run's folder that asks for them. Nothing inside of it is imported, since it may
            be somebody else's.

    Raises:
        ValueError: if one is not there, or lies in that folder.
    """
    for name in modules:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is None or spec.origin is None:
            raise ValueError(
                f"plugins: there is no module {name!r}; start the command in the folder where it "
                "lies, install it, or set PYTHONPATH"
            )
        if beside is not None and Path(beside).resolve() in Path(spec.origin).resolve().parents:
            raise ValueError(
                f"plugins: {spec.origin} lies in the run's own folder, from which nothing is "
                "executed: put it elsewhere if you trust it"
            )
        importlib.import_module(name)
