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
    """Finds the pairs in a folder, or in its folders train, val and test.

    Returns:
        The part "own"; nothing if there are no flows.

    Raises:
        ValueError: if it is not clear which files belong together.
    """
    splits: dict[str, tuple[FlowPair, ...]] = {}
    orphans: list[str] = []
    for split, path in splitting.find_splits(folder).items():
        prefix = "" if split == "all" else f"{path.name}/"
        found = _by_name(path)
        pairs = [_pair(roles, name, prefix) for name, roles in found.items() if _is_whole(roles)]
        orphans += [why for name, roles in found.items() for why in _missing(name, roles)]
        if pairs:
            splits[split] = tuple(pairs)
    return {"own": Part(folder, splits, tuple(orphans))} if splits or orphans else {}


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


def _pair(roles: Roles, name: str, prefix: str) -> FlowPair:
    """A pair, whose scene is the folder that it lies in if there is one."""
    scene = name.rpartition("/")[0] or name
    return FlowPair(roles["image"], roles["image2"], roles["flow"], "own", prefix + name, scene,
                    roles.get("occluded"))  # fmt: skip


def _missing(name: str, roles: Mapping[str, Path]) -> list[str]:
    some = next(roles[role] for role in (*_NEEDED, "occluded") if role in roles)
    return [f"{some} has no {what}" for role, what in _NEEDED.items() if role not in roles]
