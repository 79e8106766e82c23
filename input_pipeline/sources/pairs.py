"""Pairs of images on disk: the layouts of the common data sets, found by looking.

Of a pair, the target is to be made of the input: a clear image of a hazy one, or a large one of a
small one.
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
from input_pipeline.sources import splitting

_LOG = logging.getLogger(__name__)

_INPUT_FOLDERS = ("hazy", "haze", "hazy_images", "input", "lr", "lr_bicubic", "lq")
_TARGET_FOLDERS = ("gt", "clear", "clean", "target", "ground_truth", "hr")
FOLDERS = (*_INPUT_FOLDERS, *_TARGET_FOLDERS)
_DEPTH_FOLDERS = ("depth", "depths", "depthmap", "depthmaps", "trans", "transmission")
_FACTOR = re.compile(r"_?x\d$", re.IGNORECASE)  # in names of small images, such as babyx2.png
_COMPARED = "compare"  # folder of pictures that `vit_jax.predict --compare` draws
_NARROW = 10  # times what a border adds to a square image's side, the side has at least
_ENDING = re.compile(r"_(hazy|haze|gt|clear|clean)$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image, what is to be made of it, and the scene that both show."""

    input: Path
    target: Path
    scene: str


@dataclasses.dataclass(frozen=True)
class PairedSplit:
    """The pairs of a split.

    Attributes:
        layout: how they were found, in words.
        pairs: sorted by the name of the input.
        orphans: inputs without a target, and targets without an input.
    """

    layout: str
    pairs: tuple[Pair, ...]
    orphans: tuple[Path, ...]


# What a name says, given the path inside the folder of inputs or of targets.


def _place(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _stem(path: Path) -> str:
    return path.stem


def _whole(path: Path) -> str:
    return path.as_posix()


def _undrawn_path(path: Path) -> Path:
    """The image that a picture is of: a.jpg of a.jpg.png."""
    return path.with_suffix("") if files.is_image(path.with_suffix("")) else path


def _undrawn(path: Path) -> str:
    return _undrawn_path(path).as_posix()


def _without_ending(path: Path) -> str:
    return _ENDING.sub("", path.stem)


def _without_factor(path: Path) -> str:
    return _FACTOR.sub("", path.stem)


def _first_part(path: Path) -> str:
    return path.stem.partition("_")[0]


# How the images of a pair are known by their names, input before target; the first that pairs the
# most is taken. RESIDE has many hazy images per clear one, RS-Haze a word more in the hazy one's
# name.
_RULES: tuple[tuple[str, Callable[[Path], str], Callable[[Path], str]], ...] = (
    ("equal names", _place, _place),
    ("equal names", _stem, _stem),
    ("names that end in _hazy and _GT", _without_ending, _without_ending),
    ("names that end in the factor, such as x2", _without_factor, _stem),
    ("many hazy per clear, by what precedes the first _", _first_part, _stem),
    ("what precedes the first _", _first_part, _first_part),
)

# How results are known, before those; `predict` draws a.png of a.jpg as a.jpg.png.
_RULES_OF_RESULTS = (
    ("equal names", _whole, _whole),
    ("equal names but for .png", _undrawn, _whole),
    ("equal names", lambda path: _place(_undrawn_path(path)), _place),
    ("equal names", lambda path: _undrawn_path(path).stem, _stem),
)


def find_pairs(folder: Path, pattern: str = "", scale: int = 1) -> dict[str, PairedSplit]:
    """Finds the pairs of a data set.

    Args:
        folder: holds `train`, `val` and `test`, or one split without a folder of its own. A split
            has a folder of inputs and one of targets, such as `hazy` and `GT`, or all of them
            with names that end in _hazy and _GT.
        pattern: of the inputs' and of the targets' files inside a split, for any other layout:
            "foggy/{scene}_*.png sharp/{scene}.png". {scene} is what they have in common, and *
            any part of a name.
        scale: how many times larger the targets are. The inputs may lie in a folder of
            that name, such as `LR_bicubic/X2`.

    Returns:
        Splits by name; one without a folder of its own is called "all".

    Raises:
        ValueError: if there are no pairs.
    """
    find = _pattern_finder(pattern) if pattern else functools.partial(_find_split, scale=scale)
    return {name: find(path) for name, path in splitting.find_splits(folder).items()}


def find_truths(results: Path, truths: Path, pattern: str = "") -> PairedSplit:
    """Pairs what a model has made with what it should have been.

    Args:
        results: a folder, or a file.
        truths: a folder of images, or of a data set, of which the clear ones are taken, see
            `find_clear_photos`; a file if that is what `results` is.
        pattern: of the files in both, for any other names: "{scene}_*.png {scene}.png", see
            `find_pairs`.

    Returns:
        The pairs, by the rules of data sets, or by names as `vit_jax.predict` writes them: a.jpg
        as a.jpg, or a.jpg.png.

    Raises:
        ValueError: if there are no pairs.
    """
    if results.is_file() and truths.is_file():
        return PairedSplit("the two files", (Pair(results, truths, results.stem),), ())
    for path in (results, truths):
        if not path.is_dir():
            raise ValueError(f"{path} is a file, and no folder" if path.exists()
                             else f"there is no folder {path}")  # fmt: skip
    if pattern:
        return _pattern_finder(pattern)(results, truths)
    root = _clear_folder(truths)
    targets = find_clear_photos(truths).images
    found = files.find_photos_alone(results)
    if not (root / _COMPARED).is_dir():
        drawn = {path for path in found if path.relative_to(results).parts[0] == _COMPARED}
        files.tell_left_out(results, drawn, f"images in {_COMPARED}, which show before and after, "
                            "are left out")  # fmt: skip
        found = [path for path in found if path not in drawn]
    candidates = [_pair(rule, found, targets, (results, root))
                  for rule in (*_RULES_OF_RESULTS, *_RULES)]  # fmt: skip
    best = max(candidates, key=lambda split: len(split.pairs))
    if not best.pairs:
        raise ValueError(
            f"no image in {results} has the name of one in {truths}, which holds "
            f"{files.some([path.name for path in targets], 3)}"
        )
    return best


def find_clear_photos(folder: Path) -> files.Photos:
    """Finds the photos of a split: in its folder of clear images, such as HR, or else in all of it.

    Raises:
        ValueError: if there are none.
    """
    clear = _clear_folder(folder)
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


def _clear_folder(folder: Path) -> Path:
    children = _subfolders(folder)
    return next((children[name] for name in _TARGET_FOLDERS if name in children), folder)


def _is_in_depth_folder(path: Path) -> bool:
    return any(re.sub(r"[\W_]+", "", part.lower()) in _DEPTH_FOLDERS for part in path.parts[:-1])


def _pattern_finder(pattern: str) -> Callable[..., PairedSplit]:
    """Makes the function that finds a split's pairs by an explicit pattern.

    It takes the folder of the split, and maybe another one for the targets.
    """
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

    def find(folder: Path, of_targets: Path | None = None) -> PairedSplit:
        by_scene: list[dict[str, list[Path]]] = []
        for regex, root in zip(regexes, (folder, of_targets or folder)):
            matches = [
                (regex.fullmatch(path.relative_to(root).as_posix()), path)
                for path in files.find_photos_alone(root)
            ]
            found = collections.defaultdict(list)
            for match, path in matches:
                if match:
                    found[match[1]].append(path)
            by_scene.append(found)
        inputs, targets = by_scene
        for scene, paths in targets.items():
            if len(paths) > 1:
                raise ValueError(
                    f"{folder}: the pattern finds {len(paths)} clear images of scene {scene}: "
                    f"{', '.join(map(str, paths))}"
                )
        pairs = [
            Pair(path, targets[scene][0], scene)
            for scene, paths in sorted(inputs.items())
            for path in paths
            if scene in targets
        ]
        if not pairs:
            raise ValueError(f"{folder} holds no pairs for the pattern {pattern!r}")
        orphans = [p for s, paths in inputs.items() if s not in targets for p in paths]
        orphans += [p for s, paths in targets.items() if s not in inputs for p in paths]
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
    chosen = input_folder = next((children[n] for n in _INPUT_FOLDERS if n in children), None)
    if input_folder is not None:
        input_folder = _subfolders(input_folder).get(f"x{scale}", input_folder)
    target_folder = next((children[n] for n in _TARGET_FOLDERS if n in children), None)
    if input_folder is not None and target_folder is not None:
        inputs, targets = map(files.find_photos_alone, (input_folder, target_folder))
    elif input_folder is None and target_folder is None:
        beside = [path for path in files.find_photos_alone(folder) if path.parent == folder]
        found = [(path, _ENDING.search(path.stem)) for path in beside]
        inputs = [p for p, ending in found if ending and ending[1].lower() in ("hazy", "haze")]
        targets = [p for p, ending in found if ending and p not in inputs]
    else:
        raise ValueError(
            f"{folder} has only one of the two: a folder of hazy or small images "
            f"({', '.join(_INPUT_FOLDERS)}) and one of clear images ({', '.join(_TARGET_FOLDERS)})"
        )
    unused = [name for name in children if children[name] not in (chosen, target_folder)]
    if chosen is not None and target_folder is not None and unused:
        _LOG.info("%s: the pairs are those of %s and %s; left out: %s",
                  folder, chosen.name, target_folder.name, ", ".join(unused))  # fmt: skip
    roots = (input_folder or folder, target_folder or folder)
    candidates = [_pair(rule, inputs, targets, roots) for rule in _RULES]
    best = max(candidates, key=lambda split: len(split.pairs))  # the first of the largest
    if not best.pairs:
        by_name = collections.defaultdict(list)
        for path in targets:
            by_name[_place(path.relative_to(roots[1]))].append(path)
        equal = [paths for paths in by_name.values() if len(paths) > 1]
        if equal:
            raise ValueError(
                f"{folder} has clear images of the same name, such as "
                f"{' and '.join(map(str, equal[0]))}: which belongs to a hazy one?"
            )
        raise ValueError(
            f"{folder} holds no pairs: it needs a folder of hazy or small images "
            f"({', '.join(_INPUT_FOLDERS)}) and one of clear images ({', '.join(_TARGET_FOLDERS)}) "
            "with names that correspond, or names that end in _hazy and _GT; or a pattern"
        )
    return best


def _pair(
    rule: tuple[str, Callable[[Path], str], Callable[[Path], str]],
    inputs: Sequence[Path],
    targets: Sequence[Path],
    roots: tuple[Path, Path],
) -> PairedSplit:
    layout, input_key, target_key = rule
    by_key = collections.defaultdict(list)
    for path in targets:
        by_key[target_key(path.relative_to(roots[1]))].append(path)
    if any(len(paths) > 1 for paths in by_key.values()):  # it does not say which
        return PairedSplit(layout, (), (*inputs, *targets))
    keys = {path: input_key(path.relative_to(roots[0])) for path in inputs}
    paired = [path for path in inputs if keys[path] in by_key]
    scenes = {path: _number(path) or keys[path] for path in paired}
    if layout == "equal names" and 1 == len(set(scenes.values())) < len(paired):  # a year, maybe
        scenes = {path: keys[path] for path in paired}
    pairs = [Pair(path, by_key[keys[path]][0], scenes[path]) for path in paired]
    used = {pair.input for pair in pairs} | {pair.target for pair in pairs}
    orphans = [path for path in (*inputs, *targets) if path not in used]
    return PairedSplit(layout, tuple(pairs), tuple(orphans))


def _number(path: Path) -> str:
    """What stays the same however often a scene is shown: the number that a name begins with."""
    first = _first_part(path)
    return first if first.isdigit() else ""


class UnreadableError(ValueError):
    """An image of a pair that cannot be read."""


class SizeMismatchError(ValueError):
    """A pair whose images differ in size."""


def has_border(image: Sequence[Any], target: Sequence[Any]) -> Any:
    """Whether a target is larger than the input by the same border all round.

    So it is in RESIDE as published: 640 x 480 pixels, of which the hazy images show the middle
    620 x 460. A square image could as well have been made smaller, hence its border must be narrow.

    Args:
        image: height and width of the input, numbers or tensors; so is `target`.
        target: of the target.

    Returns:
        A bool, or a tensor of one.
    """
    height, width = image
    more = target[0] - height
    is_border = (more > 0) & (more % 2 == 0) & (more == target[1] - width)
    return is_border & ((height != width) | (more * _NARROW <= height))


def read_pair(pair: Pair, scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a pair.

    Args:
        pair: of image files.
        scale: how many times larger the target is, up to what is over when it is divided; at 1 it
            may have a border, see `has_border`, which is cut off.

    Returns:
        The input and the target, (h, w, 3) uint8.

    Raises:
        UnreadableError: if one of them cannot be read.
        SizeMismatchError: if they differ in size otherwise.
    """
    image, target = _decode(pair)
    height, width = image.shape[:2]
    if scale == 1 and has_border(image.shape[:2], target.shape[:2]):
        border = (target.shape[0] - height) // 2
        return image, target[border : border + height, border : border + width]
    if (height, width) != tuple(side // scale for side in target.shape[:2]):
        raise _mismatch(pair, image, target)
    return image, target


def read_result(pair: Pair, scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a pair of `find_truths`.

    Args:
        pair: of image files.
        scale: how many times the result was enlarged; of its truth, what is over when that is
            divided by it is cut off below and on the right. At 1 it is as in `read_pair`.

    Returns:
        The result and the truth, (h, w, 3) uint8, of equal size.

    Raises:
        UnreadableError: if one of them cannot be read.
        SizeMismatchError: if they differ in size otherwise.
    """
    if scale == 1:
        return read_pair(pair)
    image, target = _decode(pair)
    height, width = (side // scale * scale for side in target.shape[:2])
    if image.shape[:2] not in (target.shape[:2], (height, width)):
        raise _mismatch(pair, image, target)
    return image, target[: image.shape[0], : image.shape[1]]


def _decode(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    def decode(path: Path) -> np.ndarray:
        try:
            return files.decode_in_python(path.read_bytes())
        except (ValueError, OSError) as error:
            raise UnreadableError(f"{path} ({error})") from error

    return decode(pair.input), decode(pair.target)


def _mismatch(pair: Pair, image: np.ndarray, target: np.ndarray) -> SizeMismatchError:
    sizes = [f"{path} ({pixels.shape[0]} x {pixels.shape[1]})"
             for path, pixels in ((pair.input, image), (pair.target, target))]  # fmt: skip
    return SizeMismatchError(", ".join(sizes))


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
                            f"{files.some(sorted(common))}")  # fmt: skip
    return problems
