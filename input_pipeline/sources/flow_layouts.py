"""Data sets of optical flow on disk: the layouts of the published ones, found by looking.

Which frames and which flow belong together is said by their names alone. A frame or a flow that is
not there is told, since one that is skipped would shift all pairs after it.
"""

import collections
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from input_pipeline import files
from input_pipeline.sources import flow_own
from input_pipeline.sources.flow_pairs import FlowPair, Part

_LOG = logging.getLogger(__name__)

_DEPTH = 2  # how far below a folder data sets are looked for
_CHAIRS_LISTS = ("FlyingChairs_train_val.txt", "chairs_split.txt")
_CHAIRS = re.compile(r"(\d{5})_(img1|img2|flow)", re.IGNORECASE)
_CHAIRS_SPLITS = {"1": "train", "2": "val"}
_THINGS_SPLITS = {"TRAIN": "train", "TEST": "test"}
_DIRECTIONS = {"into_future": 1, "into_past": -1}
_KITTI = re.compile(r"(\d{6})_(10|11)")
_HD1K = re.compile(r"(\d{6})_(\d{4,6})")

Parts = dict[str, Part]
Numbered = dict[int, Path]


class _Step(NamedTuple):
    """A frame of a sequence, the one that the flow leads to, and the flow."""

    number: int
    image: Path
    image2: Path
    flow: Path


def find_parts(folder: Path) -> Parts:
    """Finds the data sets in a folder, or in folders of its own.

    Returns:
        Parts by name, see `flow_pairs.PARTS`.

    Raises:
        ValueError: if there are none, or one is there twice.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    found: Parts = {}
    for parts in _search(folder, _DEPTH):
        for name, part in parts.items():
            other = found.setdefault(name, part)
            if other is not part:
                raise ValueError(
                    f"{other.folder} and {part.folder} both hold {name}: give the folder of one"
                )
    found = found or flow_own.find_own(folder)
    if not found:
        raise ValueError(
            f"{folder} holds no pairs of frames with their flow: it needs NAME_img1.png, "
            "NAME_img2.png and NAME_flow.flo (or .pfm, or KITTI's .png), or folders image1/, "
            "image2/ and flow/ with equal names, or FlyingChairs, FlyingThings3D, MPI-Sintel, "
            "KITTI 2015 or HD1K as they are downloaded"
        )
    return found


def _search(folder: Path, depth: int) -> Iterator[Parts]:
    """The published sets in a folder; those below it only if it is none itself."""
    for find in (_find_sintel, _find_things, _find_kitti, _find_hd1k, _find_chairs):
        parts = find(folder)
        if parts:
            yield parts
            return
    for path in files.list_folders(folder) if depth else ():
        yield from _search(path, depth - 1)


# The published sets: each function returns {} if a folder is none.


def _find_sintel(folder: Path) -> Parts:
    base = folder / "training" if (folder / "training").is_dir() else folder
    passes = [name for name in ("clean", "final") if (base / name).is_dir()]
    if not passes or not (base / "flow").is_dir():
        return {}
    return {f"sintel_{name}": _sintel_pass(folder, base, name) for name in passes}


def _sintel_pass(folder: Path, base: Path, name: str) -> Part:
    pairs: list[FlowPair] = []
    orphans: list[str] = []
    masks = [_sintel_masks(base, what, orphans) for what in ("occlusions", "invalid")]
    for scene in _common((base / name, base / "flow"), orphans):
        flows = _numbered(base / "flow" / scene, flow_own.FLOWS)
        steps, missing = _steps(_numbered(base / name / scene, files.SUFFIXES), flows, 1, True)
        orphans += missing
        for step in steps:
            place = f"{scene}/{step.flow.stem}"
            own = [None if some is None else some.get(place) for some in masks]
            orphans += [
                f"{base / what / place}.png is missing"
                for what, some, path in zip(("occlusions", "invalid"), masks, own)
                if some is not None and path is None
            ]
            pairs.append(
                FlowPair(step.image, step.image2, step.flow, f"sintel_{name}", f"{name}/{place}",
                         f"sintel/{scene}", *own)
            )  # fmt: skip
    return _part(folder, {"train": pairs}, orphans)


def _sintel_masks(base: Path, what: str, orphans: list[str]) -> dict[str, Path] | None:
    """Masks by scene and name of the frame; None if the set was downloaded without them."""
    if not (base / what).is_dir():
        return None
    return {
        f"{scene.name}/{path.stem}": path
        for scene in files.list_folders(base / what)
        for path in _numbered(scene, files.SUFFIXES).values()
    }


def _find_things(folder: Path) -> Parts:
    flows = folder / "optical_flow"
    passes = [name for name in ("clean", "final") if (folder / f"frames_{name}pass").is_dir()]
    if not passes or not flows.is_dir():
        return {}
    return {f"things_{name}": _things_pass(folder, flows, name) for name in passes}


def _things_pass(folder: Path, flows: Path, name: str) -> Part:
    frames = folder / f"frames_{name}pass"
    splits: dict[str, list[FlowPair]] = {}
    orphans: list[str] = []
    for split in _THINGS_SPLITS:
        if not (frames / split).is_dir() or not (flows / split).is_dir():
            continue  # not downloaded
        for letter in _common((frames / split, flows / split), orphans):
            for sequence in _common((frames / split / letter, flows / split / letter), orphans):
                place = f"{split}/{letter}/{sequence}"
                pairs = _things_sequence(frames / place, flows / place, f"things_{name}", orphans)
                splits.setdefault(_THINGS_SPLITS[split], []).extend(pairs)
    return _part(folder, splits, orphans)


def _things_sequence(
    frames: Path, flows: Path, part: str, orphans: list[str]
) -> Iterator[FlowPair]:
    """Pairs of the left camera, in both directions of time."""
    place = "/".join(frames.parts[-3:])
    images = _numbered(frames / "left", files.SUFFIXES, orphans)
    for direction, step in _DIRECTIONS.items():
        if not (flows / direction).is_dir():
            orphans.append(f"{flows / direction} is missing")
            continue
        found = _numbered(flows / direction / "left", flow_own.FLOWS, orphans)
        steps, missing = _steps(images, found, step, False)
        orphans += missing
        for some in steps:
            name = f"{part}/{place}/{direction}/{some.image.stem}"
            yield FlowPair(some.image, some.image2, some.flow, part, name, f"things/{place}")


def _find_kitti(folder: Path) -> Parts:
    base = folder / "training" if (folder / "training").is_dir() else folder
    if not (base / "image_2").is_dir() or not (base / "flow_occ").is_dir():
        return {}
    orphans: list[str] = []
    frames = _named(base / "image_2", files.SUFFIXES, _KITTI)
    flows = _named(base / "flow_occ", (".png",), _KITTI)
    visible = _named(base / "flow_noc", (".png",), _KITTI) if (base / "flow_noc").is_dir() else None
    pairs = []
    for number in sorted({key[0] for key in (*frames, *flows)}):
        names = [f"{number}_10", f"{number}_11"]
        found = [frames.get((number, "10")), frames.get((number, "11")), flows.get((number, "10"))]
        wanted = [*(base / "image_2" / f"{name}.png" for name in names),
                  base / "flow_occ" / f"{names[0]}.png"]  # fmt: skip
        own = None if visible is None else visible.get((number, "10"))
        if visible is not None and own is None:
            orphans.append(f"{base / 'flow_noc' / names[0]}.png is missing")
        image, image2, flow = found
        if image is None or image2 is None or flow is None:
            lacking = [path for path, there in zip(wanted, found) if there is None]
            orphans += [f"{path} is missing" for path in lacking]
            continue
        pairs.append(FlowPair(image, image2, flow, "kitti", names[0], f"kitti/{number}", own))
    return {"kitti": _part(folder, {"train": pairs}, orphans)}


def _find_hd1k(folder: Path) -> Parts:
    frames, flows = folder / "hd1k_input" / "image_2", folder / "hd1k_flow_gt" / "flow_occ"
    if not frames.is_dir() or not flows.is_dir():
        return {}
    sequences: dict[str, tuple[Numbered, Numbered]] = collections.defaultdict(lambda: ({}, {}))
    for i, (path, suffixes) in enumerate(((frames, files.SUFFIXES), (flows, (".png",)))):
        for (sequence, number), file in _named(path, suffixes, _HD1K).items():
            sequences[sequence][i][int(number)] = file
    pairs: list[FlowPair] = []
    orphans: list[str] = []
    for sequence, (images, found) in sorted(sequences.items()):
        if not found:
            _LOG.info("%s: the frames of %s have no flow, and are left out", folder, sequence)
            continue
        steps, missing = _steps(images, found, 1, False)
        orphans += missing
        pairs += [
            FlowPair(step.image, step.image2, step.flow, "hd1k", step.image.stem,
                     f"hd1k/{sequence}")
            for step in steps
        ]  # fmt: skip
    return {"hd1k": _part(folder, {"train": pairs}, orphans)}


def _find_chairs(folder: Path) -> Parts:
    base = folder / "data" if (folder / "data").is_dir() else folder
    listed = _chairs_list(folder, base)
    if listed is None and "chairs" not in f"{folder.name}/{base.name}".lower():
        return {}
    found: dict[str, dict[str, Path]] = collections.defaultdict(dict)
    for path in _files_in(base):
        match = _CHAIRS.fullmatch(path.stem)
        role = match[2].lower() if match else ""
        if match and path.suffix.lower() in ((".flo",) if role == "flow" else files.SUFFIXES):
            found[match[1]][role] = path
    flows = sorted(number for number, some in found.items() if "flow" in some)
    if not flows:
        return {}
    orphans = [
        f"{base / number}_{role}.{'flo' if role == 'flow' else 'ppm'} is missing"
        for number, some in sorted(found.items())
        for role in ("img1", "img2", "flow")
        if role not in some
    ]
    if listed is None:
        _LOG.warning("%s has no %s: its pairs are split by their names",
                     folder, " or ".join(_CHAIRS_LISTS))  # fmt: skip
    split_of = dict.fromkeys(flows, "all") if listed is None else _read_list(listed, base, flows)
    splits: dict[str, list[FlowPair]] = {}
    for number in flows:
        some = found[number]
        if len(some) == 3:
            pair = FlowPair(some["img1"], some["img2"], some["flow"], "chairs", number,
                            f"chairs/{number}")  # fmt: skip
            splits.setdefault(split_of[number], []).append(pair)
    return {"chairs": _part(folder, splits, orphans)}


def _chairs_list(folder: Path, base: Path) -> Path | None:
    """The file that says the splits, beside the pairs or above them."""
    places = [place / name for place in (base, folder, folder.parent) for name in _CHAIRS_LISTS]
    return next((place for place in places if place.is_file()), None)


def _read_list(path: Path, base: Path, flows: list[str]) -> dict[str, str]:
    """The split of each flow, of which the i-th line of a list says that of the i-th."""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    wrong = next((i for i, line in enumerate(lines) if line not in _CHAIRS_SPLITS), None)
    if wrong is not None:
        raise ValueError(
            f"{path}: line {wrong + 1} is {lines[wrong][:40]!r}, which must be 1 for training or 2 "
            "for validation"
        )
    if len(lines) != len(flows):
        raise ValueError(
            f"{path} has {len(lines)} lines, and {base} {len(flows)} flows, of which each has one"
        )
    return {number: _CHAIRS_SPLITS[line] for number, line in zip(flows, lines)}


# What the sets have in common.


def _part(folder: Path, splits: Mapping[str, Iterable[FlowPair]], orphans: Iterable[str]) -> Part:
    listed = {name: tuple(pairs) for name, pairs in splits.items()}
    for pairs in listed.values():
        files.check_names(folder, (pair.name for pair in pairs))
    return Part(folder, {name: pairs for name, pairs in listed.items() if pairs}, tuple(orphans))


def _steps(
    frames: Numbered, flows: Numbered, step: int, needs_next: bool
) -> tuple[list[_Step], list[str]]:
    """Pairs of a sequence, and what is missing of it.

    Args:
        frames: by number.
        flows: by the number of the frame that each begins with.
        step: from the number of that frame to that of the other one.
        needs_next: whether each flow must have the frame that it leads to; else the last need not.
    """
    if not frames:
        return [], [f"{path} has no frame of its number" for path in flows.values()]
    numbers = sorted(frames)
    example = frames[numbers[0]]

    def is_gap(number: int) -> bool:
        return numbers[0] < number < numbers[-1] and number not in frames

    orphans = []
    for before, after in itertools.pairwise(numbers):  # of which there can be billions between
        if after > before + 1:
            rest = f", as are those up to number {after - 1}" if after > before + 2 else ""
            orphans.append(f"{_renumbered(example, before + 1)} is missing{rest}")
    steps = []
    for number, path in sorted(frames.items()):
        if number + step in frames and number in flows:
            steps.append(_Step(number, path, frames[number + step], flows[number]))
        elif number + step in frames:
            orphans.append(f"{path} has no flow of its number")
        elif needs_next and number in flows and not is_gap(number + step):
            orphans.append(f"{_renumbered(example, number + step)} is missing")
    orphans += [
        f"{path} has no frame of its number"
        for number, path in sorted(flows.items())
        if number not in frames and not is_gap(number)
    ]
    return steps, orphans


def _renumbered(path: Path, number: int) -> Path:
    """The path of another frame of a sequence."""
    *_, digits = re.finditer(r"\d+", path.stem)
    text = f"{number:0{len(digits[0])}d}"
    stem = path.stem[: digits.start()] + text + path.stem[digits.end() :]
    return path.with_name(stem + path.suffix)


def _numbered(
    folder: Path, suffixes: tuple[str, ...], orphans: list[str] | None = None
) -> Numbered:
    """The files of a folder by the last number in their names.

    Raises:
        ValueError: if two have one number.
    """
    if not folder.is_dir():
        if orphans is not None:
            orphans.append(f"{folder} is missing")
        return {}
    found: Numbered = {}
    for path in _files_in(folder):
        digits = re.findall(r"\d+", path.stem)
        if not digits or path.suffix.lower() not in suffixes:
            continue
        other = found.setdefault(int(digits[-1]), path)
        if other is not path:
            raise ValueError(f"{other} and {path} have one number: which is meant?")
    return found


def _named(
    folder: Path, suffixes: tuple[str, ...], pattern: re.Pattern[str]
) -> dict[tuple[str, ...], Path]:
    """The files of a folder by the groups of a pattern of their names."""
    found: dict[tuple[str, ...], Path] = {}
    for path in _files_in(folder):
        match = pattern.fullmatch(path.stem)
        if match is None or path.suffix.lower() not in suffixes:
            continue
        other = found.setdefault(match.groups(), path)
        if other is not path:
            raise ValueError(f"{other} and {path} have one name: which is meant?")
    return found


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder, not of those in it, sorted; links that lead nowhere are among them."""
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if _is_file(entry))


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to one or to nowhere; not a pipe, which never ends."""
    if entry.name.startswith("."):
        return False
    if not entry.is_symlink():
        return entry.is_file()
    return os.path.isfile(entry.path) or not os.path.exists(entry.path)


def _common(folders: tuple[Path, Path], orphans: list[str]) -> list[str]:
    """Names of the folders that are in both; what is in one alone is missing in the other."""
    names = [{path.name for path in files.list_folders(folder)} for folder in folders]
    for folder, own, others in zip(folders, names, reversed(names)):
        orphans += [f"{folder / name} is missing" for name in sorted(others - own)]
    return sorted(names[0] & names[1])
