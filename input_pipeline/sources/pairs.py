"""Pairs of images on disk: the layouts of the common data sets, found by looking.

They are called hazy and clear here, but may as well be small and large ones.
"""

import collections
import dataclasses
import functools
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import files

_LOG = logging.getLogger(__name__)

_HAZY_FOLDERS = ("hazy", "haze", "hazy_images", "input", "lr", "lr_bicubic", "lq")
_CLEAR_FOLDERS = ("gt", "clear", "clean", "target", "ground_truth", "hr")
FOLDERS = (*_HAZY_FOLDERS, *_CLEAR_FOLDERS)
_DEPTH_FOLDERS = ("depth", "depths", "depthmap", "depthmaps", "trans", "transmission")
_FACTOR = re.compile(r"_?x\d$", re.IGNORECASE)  # in names of small images, such as babyx2.png
_NARROW = 10  # times what a border adds to a square image's side, the side has at least
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


# What a name says, given the path inside the folder of hazy or of clear images.


def _place(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _stem(path: Path) -> str:
    return path.stem


def _without_ending(path: Path) -> str:
    return _ENDING.sub("", path.stem)


def _without_factor(path: Path) -> str:
    return _FACTOR.sub("", path.stem)


def _first_part(path: Path) -> str:
    return path.stem.partition("_")[0]


# How the hazy and the clear image of a pair are known by their names; the first that pairs the most
# is taken. RESIDE has many hazy images per clear one, RS-Haze a word more in the hazy one's name.
_RULES: tuple[tuple[str, Callable[[Path], str], Callable[[Path], str]], ...] = (
    ("equal names", _place, _place),
    ("equal names", _stem, _stem),
    ("names that end in _hazy and _GT", _without_ending, _without_ending),
    ("names that end in the factor, such as x2", _without_factor, _stem),
    ("many hazy per clear, by what precedes the first _", _first_part, _stem),
    ("what precedes the first _", _first_part, _first_part),
)


def find_pairs(folder: Path, pattern: str = "", scale: int = 1) -> dict[str, PairedSplit]:
    """Finds the pairs of a data set.

    Args:
        folder: holds `train`, `val` and `test`, or one split without a folder of its own. A split
            has a folder of hazy and one of clear images, such as `hazy` and `GT`, or all of them
            with names that end in _hazy and _GT.
        pattern: of the hazy and of the clear files inside a split, for any other layout:
            "foggy/{scene}_*.png sharp/{scene}.png". {scene} is what they have in common, and *
            any part of a name.
        scale: how many times larger the clear images are. The small ones may lie in a folder of
            that name, such as `LR_bicubic/X2`.

    Returns:
        Splits by name; one without a folder of its own is called "all".

    Raises:
        ValueError: if there are no pairs.
    """
    find = _pattern_finder(pattern) if pattern else functools.partial(_find_split, scale=scale)
    return {name: find(path) for name, path in find_splits(folder).items()}


def find_splits(folder: Path) -> dict[str, Path]:
    """Folders of the splits by name: "train", "val" and "test", or the folder itself as "all".

    Raises:
        ValueError: if there is no such folder, or two are for one split.
    """
    return files.find_splits(folder) or {"all": folder}


def get_test(found: Mapping[str, Any], source: str) -> Any:
    """What is to be tested on of a `data.test_source`: its split "test", or "all"."""
    if "test" not in found and "all" not in found:
        raise ValueError(f"data.test_source={source!r} has no test folder")
    return found.get("test", found.get("all"))


def find_clear_photos(folder: Path) -> files.Photos:
    """Finds the photos of a split: in its folder of clear images, such as HR, or else in all of it.

    Raises:
        ValueError: if there are none.
    """
    children = _subfolders(folder)
    clear = next((children[name] for name in _CLEAR_FOLDERS if name in children), folder)
    found = files.find_photos(clear)
    maps = {path for path in found.images if _is_in_depth_folder(path.relative_to(folder))}
    files.tell_left_out(
        folder, maps, "images lie in folders for depth maps and are left out (those beside their "
        "photos are read, as NAME_depth.png)",
    )  # fmt: skip
    images = [path for path in found.images if path not in maps]
    if not images:
        raise ValueError(f"{clear} holds no images ({', '.join(files.SUFFIXES)})")
    if clear != folder:
        outside = [path for path in files.list_files(folder) if files.is_image(path)]
        outside = [path for path in outside if not path.is_relative_to(clear)]
        what = (
            f"images are not in {clear.name}, which is taken for the clear ones, and are left out"
        )
        files.tell_left_out(folder, outside, what)
    files.tell_left_out(clear, found.others, "entries are not images and are left out")
    return dataclasses.replace(found, images=images)


def _is_in_depth_folder(path: Path) -> bool:
    return any(re.sub(r"[\W_]+", "", part.lower()) in _DEPTH_FOLDERS for part in path.parts[:-1])


def _pattern_finder(pattern: str) -> Callable[[Path], PairedSplit]:
    """Makes the function that finds a split's pairs by an explicit pattern."""
    parts = pattern.split()
    if len(parts) != 2 or any(part.count("{scene}") != 1 for part in parts):
        raise ValueError(
            f"the pattern {pattern!r} must name the hazy and the clear files, with {{scene}} once "
            "in each: 'hazy/{scene}_*.png GT/{scene}.png'"
        )
    regexes = [
        re.compile(re.escape(p).replace(r"\{scene\}", "([^/]+?)").replace(r"\*", "[^/]*"))
        for p in parts
    ]

    def find(folder: Path) -> PairedSplit:
        by_scene: list[dict[str, list[Path]]] = []
        for regex in regexes:
            matches = [
                (regex.fullmatch(path.relative_to(folder).as_posix()), path)
                for path in files.find_photos_alone(folder)
            ]
            found = collections.defaultdict(list)
            for match, path in matches:
                if match:
                    found[match[1]].append(path)
            by_scene.append(found)
        hazy, clear = by_scene
        for scene, paths in clear.items():
            if len(paths) > 1:
                raise ValueError(
                    f"{folder}: the pattern finds {len(paths)} clear images of scene {scene}: "
                    f"{', '.join(map(str, paths))}"
                )
        pairs = [
            Pair(path, clear[scene][0], scene)
            for scene, paths in sorted(hazy.items())
            for path in paths
            if scene in clear
        ]
        if not pairs:
            raise ValueError(f"{folder} holds no pairs for the pattern {pattern!r}")
        orphans = [p for s, paths in hazy.items() if s not in clear for p in paths]
        orphans += [p for s, paths in clear.items() if s not in hazy for p in paths]
        return PairedSplit(f"the pattern {pattern!r}", tuple(pairs), tuple(orphans))

    return find


def _subfolders(folder: Path) -> dict[str, Path]:
    """Folders by their names in lower case."""
    found: dict[str, Path] = {}
    for path in files.list_folders(folder):
        other = found.setdefault(path.name.lower(), path)
        if other is not path:
            raise ValueError(f"{other} and {path} have one name but for capitals: which is meant?")
    return found


def _find_split(folder: Path, scale: int) -> PairedSplit:
    children = _subfolders(folder)
    chosen = hazy_folder = next((children[n] for n in _HAZY_FOLDERS if n in children), None)
    if hazy_folder is not None:
        hazy_folder = _subfolders(hazy_folder).get(f"x{scale}", hazy_folder)
    clear_folder = next((children[n] for n in _CLEAR_FOLDERS if n in children), None)
    if hazy_folder is not None and clear_folder is not None:
        hazy, clear = map(files.find_photos_alone, (hazy_folder, clear_folder))
    elif hazy_folder is None and clear_folder is None:
        beside = [path for path in files.find_photos_alone(folder) if path.parent == folder]
        found = [(path, _ENDING.search(path.stem)) for path in beside]
        hazy = [p for p, ending in found if ending and ending[1].lower() in ("hazy", "haze")]
        clear = [p for p, ending in found if ending and p not in hazy]
    else:
        raise ValueError(
            f"{folder} has only one of the two: a folder of hazy or small images "
            f"({', '.join(_HAZY_FOLDERS)}) and one of clear images ({', '.join(_CLEAR_FOLDERS)})"
        )
    unused = [name for name in children if children[name] not in (chosen, clear_folder)]
    if chosen is not None and unused:
        _LOG.info("%s: the pairs are those of %s and %s; left out: %s",
                  folder, chosen.name, clear_folder.name, ", ".join(unused))  # fmt: skip
    roots = (hazy_folder or folder, clear_folder or folder)
    candidates = [_pair(rule, hazy, clear, roots) for rule in _RULES]
    best = max(candidates, key=lambda split: len(split.pairs))  # the first of the largest
    if not best.pairs:
        by_name = collections.defaultdict(list)
        for path in clear:
            by_name[_place(path.relative_to(roots[1]))].append(path)
        equal = [paths for paths in by_name.values() if len(paths) > 1]
        if equal:
            raise ValueError(
                f"{folder} has clear images of the same name, such as "
                f"{' and '.join(map(str, equal[0]))}: which belongs to a hazy one?"
            )
        raise ValueError(
            f"{folder} holds no pairs: it needs a folder of hazy or small images "
            f"({', '.join(_HAZY_FOLDERS)}) and one of clear images ({', '.join(_CLEAR_FOLDERS)}) "
            "with names that correspond, or names that end in _hazy and _GT; or a pattern"
        )
    return best


def _pair(
    rule: tuple[str, Callable[[Path], str], Callable[[Path], str]],
    hazy: Sequence[Path],
    clear: Sequence[Path],
    roots: tuple[Path, Path],
) -> PairedSplit:
    layout, hazy_key, clear_key = rule
    by_key = collections.defaultdict(list)
    for path in clear:
        by_key[clear_key(path.relative_to(roots[1]))].append(path)
    if any(len(paths) > 1 for paths in by_key.values()):  # it does not say which
        return PairedSplit(layout, (), (*hazy, *clear))
    keys = {path: hazy_key(path.relative_to(roots[0])) for path in hazy}
    paired = [path for path in hazy if keys[path] in by_key]
    scenes = {path: _number(path) or keys[path] for path in paired}
    if layout == "equal names" and 1 == len(set(scenes.values())) < len(paired):  # a year, maybe
        scenes = {path: keys[path] for path in paired}
    pairs = [Pair(path, by_key[keys[path]][0], scenes[path]) for path in paired]
    used = {pair.hazy for pair in pairs} | {pair.clear for pair in pairs}
    orphans = [path for path in (*hazy, *clear) if path not in used]
    return PairedSplit(layout, tuple(pairs), tuple(orphans))


def _number(hazy: Path) -> str:
    """What stays the same however often a scene is shown: the number that a name begins with."""
    first = _first_part(hazy)
    return first if first.isdigit() else ""


class UnreadableError(ValueError):
    """An image of a pair that cannot be read."""


class SizeMismatchError(ValueError):
    """A pair whose images differ in size."""


def has_border(hazy: Sequence[Any], clear: Sequence[Any]) -> Any:
    """Whether a clear image is larger than the hazy one by the same border all round.

    So it is in RESIDE as published: 640 x 480 pixels, of which the hazy images show the middle
    620 x 460. A square image could as well have been made smaller, hence its border must be narrow.

    Args:
        hazy: height and width, numbers or tensors; so is `clear`.
        clear: of the clear image.

    Returns:
        A bool, or a tensor of one.
    """
    height, width = hazy
    more = clear[0] - height
    is_border = (more > 0) & (more % 2 == 0) & (more == clear[1] - width)
    return is_border & ((height != width) | (more * _NARROW <= height))


def read_pair(pair: Pair, scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a pair.

    Args:
        pair: of image files.
        scale: how many times larger the clear image is, up to what is over when it is divided; at
            1 it may have a border, see `has_border`, which is cut off.

    Returns:
        The hazy and the clear image, (h, w, 3) uint8.

    Raises:
        UnreadableError: if one of them cannot be read.
        SizeMismatchError: if they differ in size otherwise.
    """
    decoded = []
    for path in (pair.hazy, pair.clear):
        try:
            decoded.append(files.decode_in_python(path.read_bytes()))
        except (ValueError, OSError) as error:
            raise UnreadableError(f"{path} ({error})") from error
    hazy, clear = decoded
    height, width = hazy.shape[:2]
    if scale == 1 and has_border(hazy.shape[:2], clear.shape[:2]):
        border = (clear.shape[0] - height) // 2
        return hazy, clear[border : border + height, border : border + width]
    if (height, width) != tuple(side // scale for side in clear.shape[:2]):
        sizes = [f"{path} ({image.shape[0]} x {image.shape[1]})"
                 for path, image in zip((pair.hazy, pair.clear), decoded)]  # fmt: skip
        raise SizeMismatchError(", ".join(sizes))
    return hazy, clear


def find_common_scenes(
    splits: Mapping[str, PairedSplit], others: Mapping[str, PairedSplit]
) -> list[str]:
    """Says which splits of a data set have scenes in common with another, or with other sets."""
    problems = []
    named = [*itertools.combinations(splits.items(), 2)]
    named += [*itertools.product(splits.items(), others.items())]
    for (a, first), (b, second) in named:
        common = {p.scene for p in first.pairs} & {p.scene for p in second.pairs}
        if common:
            problems.append(f"{len(common)} scenes are both in {a} and in {b}: "
                            f"{some(sorted(common))}")  # fmt: skip
    return problems


def some(names: Sequence[str], most: int = 10) -> str:
    """Lists names, cut short."""
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
