"""Names of classes that a person asks for: by words, by a file, or by the name of a set."""

import importlib.metadata
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from input_pipeline import imagenet
from input_pipeline.palettes import known_sets
from vit_jax import weights

_LOG = logging.getLogger(__name__)

_PACKAGE, _FILE, _TABLE = (
    "open_clip_torch",
    "open_clip/zero_shot_metadata.py",
    "IMAGENET_CLASSNAMES",
)


def find(spec: str | tuple[str, ...], flag: str = "--labels") -> tuple[str, ...]:
    """Finds names of classes.

    Args:
        spec: a file with a name per line; "imagenet1k", see `imagenet1k`; a set of
            `palettes.known_sets`; or the names themselves, several or with commas between them.
        flag: by which a person says it.

    Raises:
        ValueError: if there is no such file, a name is empty, or there twice.
    """
    if spec == "imagenet1k":
        return imagenet1k()
    if spec in known_sets():
        return tuple(known_sets()[spec].class_names)
    said = f"{flag}={spec if isinstance(spec, str) else ','.join(spec)}"
    if isinstance(spec, str) and _is_file(spec):
        names = weights.read_labels(os.path.expanduser(spec))
    else:
        several = spec.split(",") if isinstance(spec, str) else spec
        names = tuple(name.strip() for name in several)
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            raise ValueError(f"{said} has {twice[0]!r} twice: leave one of them out")
    if not names or not all(name.strip() for name in names):
        raise ValueError(
            f"{said} has {'an empty name' if names else 'no names'}: give names with commas "
            "between them, such as 'cat,dog,a red car', or a file with one per line"
        )
    return names


def _is_file(spec: str) -> bool:
    is_there = os.path.isfile(os.path.expanduser(spec))
    return is_there or "://" in spec or ("," not in spec and spec.endswith(".txt"))


def imagenet1k() -> tuple[str, ...]:
    """The 1000 classes of ImageNet in their order, by CLIP's names if they are installed.

    CLIP's were chosen to be told apart by words, and are not WordNet's: its scores are theirs. They
    are read from the package open_clip_torch as data, without importing it. Else TFDS' are taken.
    """
    names = _by_clip()
    if len(names) == 1000:
        _LOG.info("ImageNet's classes have CLIP's names, of the package %s", _PACKAGE)
        return names
    _LOG.warning(
        "ImageNet's classes have TFDS' names, and not CLIP's, by which its scores were reached: "
        "those come with pip install %s", _PACKAGE,
    )  # fmt: skip
    return tuple(name.partition(",")[0] for name in imagenet.names())  # less its synonyms


def are_imagenet1k(names: Sequence[str]) -> bool:
    """Whether names are those of ImageNet's 1000 classes in their order, as some list has them."""
    first = [name.partition(",")[0] for name in imagenet.names()]
    known = (imagenet.names(), first, imagenet.synsets(), _by_clip())
    return any(list(names) == list(some) for some in known)


def _by_clip() -> tuple[str, ...]:
    """CLIP's names of ImageNet's classes; () where they are not installed."""
    try:
        file = importlib.metadata.distribution(_PACKAGE).locate_file(_FILE)
        return imagenet.read_table(Path(str(file)), _TABLE)
    except (importlib.metadata.PackageNotFoundError, OSError, SyntaxError, ValueError):
        return ()
