"""A person's own pairs of frames with their flow: by the endings of names, or by folders.

Either NAME_img1.png, NAME_img2.png and NAME_flow.flo lie beside each other, or the folders image1,
image2 and flow hold files of equal names. NAME_occluded.png, or a folder occluded, can say which
points of the first frame the second does not show.
"""

import collections
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from input_pipeline import files, flow_files
from input_pipeline.sources import splitting
from input_pipeline.sources.flow_pairs import FlowPair, Part

_LOG = logging.getLogger(__name__)

FLOWS = flow_files.SUFFIXES
# What names of files end in, and what folders are called.
_WORDS = {
    "img1": "image", "image1": "image", "frame1": "image",
    "img2": "image2", "image2": "image2", "frame2": "image2",
    "flow": "flow", "occluded": "occluded", "occ": "occluded",
}  # fmt: skip
_FOLDERS = {**_WORDS, "images1": "image", "images2": "image2", "flows": "flow",
            "occlusions": "occluded"}  # fmt: skip
_ENDING = re.compile(rf"(.+)[_-]({'|'.join(_WORDS)})", re.IGNORECASE)
_NEEDED = {"image": "first frame", "image2": "second frame", "flow": "flow"}

Roles = dict[str, Path]  # files of a pair


def find_own(folder: Path) -> dict[str, Part]:
    """Finds the pairs in a folder, or in its folders train, val and test, or in those of its roles.

    Returns:
        The part "own"; nothing if there are no flows.

    Raises:
        ValueError: if it is not clear which files belong together.
    """
    splits: dict[str, list[FlowPair]] = {}
    orphans: list[str] = []
    for split, path in splitting.find_splits(folder).items():
        prefix = "" if split == "all" else f"{path.name}/"
        found = _by_name(path)
        orphans += [why for name, roles in found.items() for why in _missing(name, roles)]
        whole = {name: roles for name, roles in found.items() if _is_whole(roles)}
        inner = {name: splitting.split_of(name.partition("/")[0]) for name in whole if "/" in name}
        # As image1/train/NAME.png; but a scene among others can be called so, too.
        has_inner = split == "all" and len(inner) == len(whole) and None not in inner.values()
        for name, roles in whole.items():
            own_split = (inner[name] if has_inner else None) or split
            rest = name.partition("/")[2] if has_inner else name
            pair = _pair(roles, prefix + name, rest)
            splits.setdefault(own_split, []).append(pair)
    if not splits and not orphans:
        return {}
    return {"own": Part(folder, {name: tuple(some) for name, some in splits.items()},
                        tuple(orphans))}  # fmt: skip


def _by_name(folder: Path) -> dict[str, Roles]:
    """The files of each pair by its name, which is that of its folder and its own."""
    found: dict[str, Roles] = collections.defaultdict(dict)
    others = []
    listed = files.list_files(folder)
    files.check_names(folder, (str(path.relative_to(folder)) for path in listed))
    for path in listed:
        name, role = _parse(path.relative_to(folder))
        suffixes = FLOWS if role == "flow" else files.SUFFIXES
        if not role or path.suffix.lower() not in suffixes:
            others.append(path)
            continue
        other = found[name].setdefault(role, path)
        if other is not path:
            raise ValueError(f"{other} and {path} are both the {role} of {name}: which is meant?")
    if not any("flow" in roles for roles in found.values()):
        return {}
    files.tell_left_out(folder, others, "files are no part of a pair and are left out")
    return dict(sorted(found.items()))


def _parse(path: Path) -> tuple[str, str]:
    """The name of the pair that a file is of, and its role; "" if it is of none."""
    match = _ENDING.fullmatch(path.stem)
    if match is not None:
        return (path.parent / match[1]).as_posix(), _WORDS[match[2].lower()]
    for i, part in enumerate(path.parts[:-1]):
        if part.lower() in _FOLDERS:
            rest = Path(*path.parts[:i], *path.parts[i + 1 :])
            return rest.with_suffix("").as_posix(), _FOLDERS[part.lower()]
    return path.as_posix(), ""


def _is_whole(roles: Mapping[str, Path]) -> bool:
    return all(role in roles for role in _NEEDED)


def _pair(roles: Roles, name: str, place: str) -> FlowPair:
    """A pair, whose scene is the folder of its place inside a split, if there is one."""
    scene = place.rpartition("/")[0] or place
    return FlowPair(roles["image"], roles["image2"], roles["flow"], "own", name, scene,
                    roles.get("occluded"))  # fmt: skip


def _missing(name: str, roles: Mapping[str, Path]) -> list[str]:
    some = next(roles[role] for role in (*_NEEDED, "occluded") if role in roles)
    return [f"{some} has no {what}" for role, what in _NEEDED.items() if role not in roles]
