"""The 1000 classes of ImageNet-1k, and which of them the folders of a data set are."""

import ast
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

CLASSES = 1000


@functools.cache
def synsets() -> tuple[str, ...]:
    """The WordNet ids of the classes in the order of the labels, as TFDS lists them."""
    return tuple(_tfds_file("datasets/imagenet2012/labels.txt").read_text().split())


@functools.cache
def names() -> tuple[str, ...]:
    """The words of WordNet for the classes, as TFDS has them: each with its synonyms."""
    # The builder of another data set spells them out; imagenet2012's has the synsets.
    return read_table(_tfds_file("datasets/siscore/labels.py"), "IMAGENET_LABELS_LIST")


def _tfds_file(name: str) -> Path:
    """A file of TFDS, which is not imported for it: that takes a second."""
    package = importlib.util.find_spec("tensorflow_datasets")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "ImageNet's names come with TFDS, which is not installed: pip install "
            "tensorflow-datasets"
        )
    return Path(package.origin).parent / name


def read_table(path: Path, name: str) -> tuple[str, ...]:
    """The strings of a list that a file of Python spells out; () if there is none of that name."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return tuple(map(str, ast.literal_eval(node.value)))
    return ()


def class_numbers(names: Sequence[str]) -> list[int] | None:
    """The numbers of classes in ImageNet-1k, by their names in a data set.

    Args:
        names: WordNet ids, of some classes or all; or the numbers from 0 to 999, as ImageNet-V2's
            folders have them, in whatever order.

    Returns:
        Numbers below 1000 in the order of the names; None if the names say nothing of ImageNet.
    """
    if len(names) == CLASSES and {*names} == {*map(str, range(CLASSES))}:
        return [int(name) for name in names]
    if not all(name[:1] == "n" and name[1:].isdecimal() for name in names):
        return None
    number_of = {synset: number for number, synset in enumerate(synsets())}
    if not number_of.keys() >= {*names}:
        return None
    return [number_of[name] for name in names]
