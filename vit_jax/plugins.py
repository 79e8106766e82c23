"""Models, tasks and kinds of data from outside of this package."""

import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
        # Of the first part alone: to look for the others would import it.
        spec = _find(name.partition(".")[0])
        places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
        found = [Path(place).resolve() for place in places if place]
        inside = [] if beside is None else [p for p in found if _lies_in(p, Path(beside))]
        if inside:
            raise ValueError(
                f"plugins: {inside[0]} lies in the run's own folder, from which nothing is "
                "executed: put it elsewhere if you trust it"
            )
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # it is there, and imports something that is not
            raise ValueError(
                f"plugins: there is no module {name!r}; start the command in the folder where it "
                "lies, install it, or set PYTHONPATH"
            ) from None


def _find(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _lies_in(path: Path, folder: Path) -> bool:
    return folder.resolve() in (path, *path.parents)
