"""Pairs of hazy and clear images on disk: the layouts of the common data sets, found by looking."""

import collections
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from input_pipeline.images import SUFFIXES

_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_HAZY_FOLDERS = ("hazy", "haze", "hazy_images", "input")
_CLEAR_FOLDERS = ("gt", "clear", "clean", "target", "ground_truth")
_ENDING = re.compile(r"_(hazy|haze|gt|clear|clean)$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A hazy image, the clear image that belongs to it, and the scene that both show."""

    hazy: Path
    clear: Path
    scene: str


@dataclasses.dataclass(frozen=True)
class PairedSplit:
    """The pairs of a split.

    Attributes:
        layout: how they were found, in words.
        pairs: sorted by the name of the hazy image.
        orphans: hazy images without a clear one, and clear images without a hazy one.
    """

    layout: str
    pairs: tuple[Pair, ...]
    orphans: tuple[Path, ...]


def _stem(path: Path) -> str:
    return path.stem


def _without_ending(path: Path) -> str:
    return _ENDING.sub("", path.stem)


def _first_part(path: Path) -> str:
    return path.stem.partition("_")[0]


# How the hazy and the clear image of a pair are known by their names; the first that pairs the most
# is taken. RESIDE has many hazy images per clear one, RS-Haze a word more in the hazy one's name.
_RULES: tuple[tuple[str, Callable[[Path], str], Callable[[Path], str]], ...] = (
    ("equal names", _stem, _stem),
    ("names that end in _hazy and _GT", _without_ending, _without_ending),
    ("many hazy per clear, by what precedes the first _", _first_part, _stem),
    ("what precedes the first _", _first_part, _first_part),
)


def find_pairs(folder: Path) -> dict[str, PairedSplit]:
    """Finds the pairs of a data set.

    Args:
        folder: holds `train`, `val` and `test`, or one split without a folder of its own. A split
            has a folder of hazy and one of clear images, such as `hazy` and `GT`, or all of them
            with names that end in _hazy and _GT.

    Returns:
        Splits by name; one without a folder of its own is called "all".

    Raises:
        ValueError: if there are no pairs.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    children = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    splits = {_SPLITS[name]: children[name] for name in _SPLITS if name in children}
    return {name: _find_split(path) for name, path in (splits or {"all": folder}).items()}


def _find_split(folder: Path) -> PairedSplit:
    children = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    hazy_folder = next((children[n] for n in _HAZY_FOLDERS if n in children), None)
    clear_folder = next((children[n] for n in _CLEAR_FOLDERS if n in children), None)
    if hazy_folder is not None and clear_folder is not None:
        hazy, clear = _images(hazy_folder, "**/*"), _images(clear_folder, "**/*")
    elif hazy_folder is None and clear_folder is None:
        found = [(path, _ENDING.search(path.stem)) for path in _images(folder, "*")]
        hazy = [p for p, ending in found if ending and ending[1].lower() in ("hazy", "haze")]
        clear = [p for p, ending in found if ending and p not in hazy]
    else:
        raise ValueError(
            f"{folder} has only one of the two: a folder of hazy images "
            f"({', '.join(_HAZY_FOLDERS)}) and one of clear images ({', '.join(_CLEAR_FOLDERS)})"
        )
    candidates = [_pair(rule, hazy, clear) for rule in _RULES]
    best = max(candidates, key=lambda split: len(split.pairs))  # the first of the largest
    if not best.pairs:
        raise ValueError(
            f"{folder} holds no pairs: it needs a folder of hazy images "
            f"({', '.join(_HAZY_FOLDERS)}) and one of clear images ({', '.join(_CLEAR_FOLDERS)}) "
            "with names that correspond, or names that end in _hazy and _GT"
        )
    return best


def _pair(
    rule: tuple[str, Callable[[Path], str], Callable[[Path], str]],
    hazy: Sequence[Path],
    clear: Sequence[Path],
) -> PairedSplit:
    layout, hazy_key, clear_key = rule
    by_key = collections.defaultdict(list)
    for path in clear:
        by_key[clear_key(path)].append(path)
    if any(len(paths) > 1 for paths in by_key.values()):  # it does not say which
        return PairedSplit(layout, (), (*hazy, *clear))
    pairs = [
        Pair(path, by_key[hazy_key(path)][0], _scene(path, hazy_key))
        for path in hazy
        if hazy_key(path) in by_key
    ]
    paired = {pair.hazy for pair in pairs} | {pair.clear for pair in pairs}
    orphans = [path for path in (*hazy, *clear) if path not in paired]
    return PairedSplit(layout, tuple(pairs), tuple(orphans))


def _scene(hazy: Path, key: Callable[[Path], str]) -> str:
    """What stays the same however often a scene is shown: its number, if it has one."""
    first = _first_part(hazy)
    return first if first.isdigit() else key(hazy)


def _images(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
