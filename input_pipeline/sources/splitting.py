"""Which examples are to train, validate and test on: by folders, or else by a hash of names."""

import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from input_pipeline import files

_LOG = logging.getLogger(__name__)

# What the folders of splits are called, less blanks, signs, digits, and words such as "set".
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "validate": "val", "dev": "val", "eval": "val", "evaluation": "val", "test": "test",
    "testing": "test", "tests": "test",
}  # fmt: skip

# Class name -> paths of its images, sorted.
Tree = dict[str, list[str]]
T = TypeVar("T")


def split_of(name: str) -> str | None:
    """The split, "train", "val" or "test", that a folder of this name holds; None for others."""
    words = re.sub(r"[\W\d_]+", "", name.lower())
    return _SPLITS.get(words) or _SPLITS.get(re.sub(r"(set|images?|imgs?|data)$", "", words))


def find_splits(folder: Path, needs_train: bool = False) -> dict[str, Path]:
    """Finds the folders of the splits in that of a data set, and says which others are left out.

    Args:
        folder: of the data set.
        needs_train: whether folders with such names are others' if none is for training, unless
            there are no others.

    Returns:
        Folders by "train", "val" and "test"; if there are none, the folder itself as "all".

    Raises:
        ValueError: if there is no such folder, or two are for one split.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    splits: dict[str, Path] = {}
    others = []
    for path in files.list_folders(folder):
        split = split_of(path.name)
        if split is None:
            others.append(path.name)
        elif split in splits:
            raise ValueError(f"{splits[split]} and {path} are both for {split}: which is meant?")
        else:
            splits[split] = path
    if needs_train and others:
        is_class = len(splits) == 1 and "train" in splits
        is_class = is_class and not files.list_folders(splits["train"])
        if is_class or "train" not in splits:  # such as one of vehicles
            return {"all": folder}
    if splits and others:
        _LOG.warning(
            "%s has folders for %s; what lies beside them is left out: %s",
            folder, " and ".join(path.name for path in splits.values()), ", ".join(others),
        )  # fmt: skip
    return {name: splits[name] for name in ("train", "val", "test") if name in splits} or {
        "all": folder
    }


def get_test(found: Mapping[str, Any], source: str) -> Any:
    """What is to be tested on of a `data.test_source`: its split "test", or "all"."""
    if "test" not in found and "all" not in found:
        raise ValueError(f"data.test_source={source!r} has no test folder")
    return found.get("test", found.get("all"))


def check_fraction(fraction: float) -> None:
    """Raises a ValueError if such a share cannot be split off."""
    if not 0 <= fraction < 0.5:
        raise ValueError(f"data.val_fraction must lie in [0, 0.5), not {fraction}")


def split_off_scenes(
    found: Mapping[str, Sequence[T]],
    scene_of: Callable[[T], str],
    config: Any,
    unit: str = "scene",
) -> dict[str, Sequence[T]]:
    """Splits off train what a data set has no split for, by scene.

    Without "val" `val_fraction` of the training scenes are that, and of a folder without splits as
    many again are "test". All items of a scene stay together. Which scene goes where depends on its
    name and `split_seed` alone.

    Args:
        found: items by split name; "all" stands for a folder without splits.
        scene_of: function from an item to its scene.
        config: `config.data`.
        unit: what a scene is called in messages.

    Returns:
        Items by split name, none of which is empty.

    Raises:
        ValueError: if val_fraction does not fit.
    """

    def split(items: Sequence[T], name: str) -> tuple[list[T], list[T]]:
        scenes = sorted({scene_of(item) for item in items})
        taken = _take(scenes, str, config.val_fraction, f"{config.split_seed}/{name}")
        if not taken:
            raise ValueError(
                f"there is only one {unit} left to train on, of which no {name} can be split off: "
                "add more, give it a folder, or set data.val_fraction=0, which splits nothing off"
            )
        counts = len(taken), len(scenes)
        _LOG.info("%d of %d training %ss are split off as %s", *counts, unit, name)
        return (
            [item for item in items if scene_of(item) not in taken],
            [item for item in items if scene_of(item) in taken],
        )

    return _split_off(found, split, config)


def split_off_classes(found: Mapping[str, Tree], config: Any) -> dict[str, Tree]:
    """Splits off train what a data set has no split for, class by class.

    Without "val" `val_fraction` of each class is that, at least one image of two, and of a folder
    without splits as much again is "test". Which image goes where depends on its class, its name
    and `split_seed` alone.

    Args:
        found: paths by class, by split name; "all" stands for a folder without splits.
        config: `config.data`.

    Returns:
        Paths by class, by split name.

    Raises:
        ValueError: if val_fraction does not fit.
    """

    def split(tree: Tree, name: str) -> tuple[Tree, Tree]:
        kept, taken = {}, {}
        for label, paths in tree.items():
            salt = f"{config.split_seed}/{name}/{label}"
            some = _take(paths, lambda path: Path(path).name, config.val_fraction, salt)
            taken[label] = sorted(some)
            kept[label] = sorted(set(paths) - some)
        share = 100 * config.val_fraction
        _LOG.info("%s has no %s folder: %.0f %% of each training class is split off as %s",
                  config.source, name, share, name)  # fmt: skip
        return kept, taken

    return _split_off(found, split, config)


def _split_off(
    found: Mapping[str, T], split: Callable[[T, str], tuple[T, T]], config: Any
) -> dict[str, T]:
    check_fraction(config.val_fraction)
    missing = ["val"] if "train" in found and "val" not in found else []
    found = dict(found)
    if "all" in found:
        missing = [name for name in ("val", "test") if name not in found]
        found = {"train": found.pop("all"), **found}
    for name in missing if config.val_fraction else []:
        found["train"], found[name] = split(found["train"], name)
    return found


def _take(items: Sequence[str], name_of: Callable[[str], str], share: float, salt: str) -> set[str]:
    """A share of items, at least one of two, chosen by a hash of their names."""

    def rank(item: str) -> bytes:
        return hashlib.sha256(f"{salt}/{name_of(item)}".encode()).digest()

    count = min(math.ceil(share * len(items)), len(items) - 1)
    return set(sorted(items, key=rank)[:count])
