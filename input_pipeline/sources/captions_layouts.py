"""Where the captions of a data set and its images lie; see captions_files for the files."""

import collections
import dataclasses
import logging
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from input_pipeline import files
from input_pipeline.sources import captions_files, splitting
from input_pipeline.sources.captions_files import SUFFIXES, Row

_LOG = logging.getLogger(__name__)

_USUAL = re.compile(r"caption|token|results|sentence|dataset_", re.IGNORECASE)
_UNUSUAL = re.compile(r"lemma", re.IGNORECASE)  # of Flickr8k, words without their ends
_NO_CAPTIONS = ("readme", "license", "licence", "notice")


@dataclasses.dataclass(frozen=True)
class Captioned:
    """An image and what is said of it.

    Attributes:
        image: its file.
        name: of it in the data set.
        captions: at least one.
    """

    image: Path
    name: str
    captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Found:
    """The captions of a data set.

    Attributes:
        origin: where they are from, for messages.
        splits: images that are there, by "train", "val" and "test"; "all" where nothing says a
            split.
        missing: images that are not there, with where they are named, or that have no captions.
        repeated: captions that an image has more than once, with where they are.
        notes: what else there is to say, a line each.
    """

    origin: str
    splits: Mapping[str, tuple[Captioned, ...]]
    missing: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find(source: Path, file: str = "", images: str = "") -> Found:
    """Finds the captions of a data set.

    Args:
        source: a file of captions, see `captions_files.read`; or a folder with one, or with one for
            each split, beside the images or above them; or a folder with NAME.txt, a caption per
            line, beside NAME.jpg. Folders called train, val and test have either each.
        file: which file, if there are several: a path from the folder on.
        images: the folder of the images, from that of the data set on; "" looks for it.

    Raises:
        ValueError: if there are none, several, or some that cannot be used.
    """
    if source.is_file():
        return _find_in_files(source.parent, [source], images)
    if not source.is_dir():
        raise ValueError(f"data.source={str(source)!r}: there is no such folder or file")
    if file:
        if not (source / file).is_file():
            raise ValueError(f"data.captions.file={file!r}: there is no file {source / file}")
        return _find_in_files(source, [source / file], images)
    found = _find_in_folder(source, images)
    if found is None:
        raise ValueError(
            f"{source} holds no captions: put in a file of them such as captions.csv, whose header "
            "is image,caption, or beside each NAME.jpg a NAME.txt with a caption per line"
        )
    return found


def _find_in_folder(folder: Path, images: str, is_part: bool = False) -> Found | None:
    """Looks into a folder, or into that of a split; None if there is nothing."""
    usual, others = _list_files(folder)
    if usual:
        return _find_in_files(folder, _choose(usual), images)
    parts = {} if is_part else splitting.find_splits(folder)
    by_part = {
        name: _find_in_folder(path, images, is_part=True)
        for name, path in parts.items()
        if name != "all"
    }
    if any(by_part.values()):
        lacking = [str(parts[name]) for name, found in by_part.items() if found is None]
        if lacking:
            raise ValueError(f"{' and '.join(lacking)} holds no captions, and other splits do")
        return _merge({name: found for name, found in by_part.items() if found is not None})
    beside = _find_beside(folder)
    if beside is None and others:
        return _find_in_files(folder, _choose(others), images)
    return beside


def _merge(parts: Mapping[str, Found]) -> Found:
    """One of several, each of which is one split whatever it says itself."""
    splits = {
        name: tuple(one for some in found.splits.values() for one in some)
        for name, found in parts.items()
    }

    def joined(key: str) -> tuple[str, ...]:
        return tuple(f"{name}: {text}" for name, f in parts.items() for text in getattr(f, key))

    origin = " and ".join(found.origin for found in parts.values())
    return Found(origin, splits, joined("missing"), joined("repeated"), joined("notes"))


# Files of captions.


def _list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files that are called as captions are, and others that may hold some.

    They lie in the folder, or else in one inside of it that is not that of a split.
    """
    inside = [path for path in files.list_folders(folder) if splitting.split_of(path.name) is None]
    levels = [_list_own_files([folder]), _list_own_files(inside)]
    usual = [[path for path in found if _USUAL.search(path.name)] for found in levels]
    others = [[path for path in found if path.suffix.lower() != ".txt"] for found in levels]
    return usual[0] or usual[1], others[0] or others[1]


def _list_own_files(folders: Sequence[Path]) -> list[Path]:
    found = []
    for folder in folders:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
        photos = {Path(name).stem for name in names if name.lower().endswith(files.SUFFIXES)}
        found += [
            folder / name
            for name in names
            if Path(name).suffix.lower() in SUFFIXES
            and Path(name).stem not in photos
            and not name.startswith(".")
            and not _UNUSUAL.search(name)
        ]
    return found


def _choose(found: Sequence[Path]) -> list[Path]:
    """The only file, or one for each split.

    Raises:
        ValueError: if there are others.
    """
    splits = [_split_in_name(path) for path in found]
    if len(found) > 1 and (None in splits or len(set(splits)) < len(splits)):
        names = ", ".join(str(path) for path in found)
        raise ValueError(
            f"there are several files that may hold the captions, {names}: say which by "
            f"--config.data.captions.file={found[0].name}"
        )
    return list(found)


def _split_in_name(path: Path) -> str | None:
    """The split that a file's name tells, such as captions_val2017.json; None if it does not."""
    words = re.findall("[A-Za-z]+", path.stem)
    found = {split for split in map(splitting.split_of, words) if split}
    return found.pop() if len(found) == 1 else None


def _find_in_files(folder: Path, paths: Sequence[Path], images: str) -> Found:
    """Reads files of captions, and looks for their images."""
    splits: dict[str, dict[Path, Captioned]] = collections.defaultdict(dict)
    split_of: dict[Path, tuple[str, str]] = {}
    missing, repeated, notes, origins = [], [], [], []
    for path in paths:
        by_image = _join(captions_files.read(path), path)
        split_in_name = _split_in_name(path) or "all"
        lists = {} if any(rows[0].split for rows in by_image.values()) else _lists(path, by_image)
        root = _find_root(folder, path, list(by_image), images, split_in_name)
        origins.append(f"{path}, whose images are looked for in {root.folder}")
        unlisted = 0
        for name, rows in by_image.items():
            where = f"{path} {rows[0].where}"
            split = rows[0].split or lists.get(name, "" if lists else split_in_name)
            if not split:
                unlisted += 1
                continue
            image = Path(root.folder, name)
            if not root.has(name):
                missing.append(f"{name} ({path.name} {rows[0].where})")
                continue
            if split_of.setdefault(image, (split, where))[0] != split:
                raise ValueError(
                    f"{where}: {name} is for {split}, and for {split_of[image][0]} in "
                    f"{split_of[image][1]}: an image can be in one split alone"
                )
            captions, again = _captions_of(rows)
            repeated += [f"{path.name} {place}" for place in again]
            splits[split][image] = Captioned(image, name, captions)
        if unlisted:
            notes.append(f"{unlisted} images of {path} are in no list of a split and are left out")
    names = ("train", "val", "test", "all")
    found = {name: tuple(splits[name].values()) for name in names if splits[name]}
    if not found:
        raise ValueError(
            f"{origins[0]}: none of them is there, such as {missing[0]}: say where they lie by "
            "--config.data.captions.images=FOLDER"
        )
    if "all" in found and len(found) > 1:
        raise ValueError(f"{paths[0]}: some of its rows say a split, and others do not")
    return Found(" and ".join(origins), found, tuple(missing), tuple(repeated), tuple(notes))


def _join(rows: Sequence[Row], path: Path) -> dict[str, list[Row]]:
    """The rows of each image, by its name.

    Raises:
        ValueError: if an image is in several splits.
    """
    by_image: dict[str, list[Row]] = {}
    for row in rows:
        same = by_image.setdefault(posixpath.normpath(row.image), [])
        same.append(row)
        if row.split != same[0].split:
            raise ValueError(
                f"{path} {row.where}: {row.image} is for {row.split or 'no split'}, and for "
                f"{same[0].split or 'none'} in {same[0].where}: an image can be in one split alone"
            )
    return by_image


def _captions_of(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[str]]:
    """The captions of an image, and where there are such as it has already."""
    captions: list[str] = []
    again = []
    for row in rows:
        for caption in row.captions:
            if caption in captions:
                again.append(f"{row.where} ({row.image}: {caption!r})")
            captions.append(caption)
    return tuple(captions), again


def _lists(path: Path, by_image: Mapping[str, object]) -> dict[str, str]:
    """Splits by image, of lists beside a file such as Flickr_8k.trainImages.txt; {} without."""
    found: dict[str, str] = {}
    for other in sorted(path.parent.glob("*.txt")):
        split = _split_in_name(other)
        if split is None or other == path:
            continue
        names = [line.strip() for line in captions_files.read_text(other).splitlines()]
        for name in names if names and names[0] in by_image else ():
            if name and found.setdefault(name, split) != split:
                raise ValueError(f"{other}: {name} is in the list of {found[name]} as well")
    return found


# Images.


@dataclasses.dataclass(frozen=True)
class _Root:
    """A folder from which on names are paths.

    Attributes:
        folder: of them.
        entries: the names in it.
    """

    folder: Path
    entries: frozenset[str]

    @classmethod
    def of(cls, folder: Path) -> "_Root":
        return cls(folder, frozenset(os.listdir(folder)))

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        if "/" not in name:
            return name in self.entries
        is_possible = name.startswith(("/", "..")) or name.split("/")[0] in self.entries
        return is_possible and os.path.isfile(self.folder / name)


def _find_root(folder: Path, path: Path, names: Sequence[str], images: str, split: str) -> _Root:
    """The folder that has the most of the images that a file names.

    Raises:
        ValueError: if several have as many.
    """
    if images:
        if not (folder / images).is_dir():
            raise ValueError(
                f"data.captions.images={images!r}: there is no folder {folder / images}"
            )
        return _Root.of(folder / images)
    bases = list(dict.fromkeys([path.parent, folder]))
    inside = [one for base in bases for one in files.list_folders(base)]
    below = [one for each in inside for one in files.list_folders(each)]
    roots = [_Root.of(one) for one in dict.fromkeys([*bases, *inside, *below])]
    counts = [sum(map(root.has, names)) for root in roots]
    most = max(counts)
    best = [root for root, count in zip(roots, counts) if count == most]
    if not most or best[0].folder in bases:
        return best[0]
    own = [root for root in best if splitting.split_of(root.folder.name) == split]
    usual = [root for root in best if root.folder.name.lower() in ("images", "image", "imgs")]
    for some in (own, usual, best):
        if len(some) == 1:
            _LOG.info("the images of %s are in %s", path, some[0].folder)
            return some[0]
    raise ValueError(
        f"{path}: its images are in {' and in '.join(str(root.folder) for root in best)}: say "
        f"which by --config.data.captions.images={best[0].folder.relative_to(folder)}"
    )


# A text beside each image.


def _find_beside(folder: Path) -> Found | None:
    """Reads NAME.txt beside NAME.jpg; None if no image has such a file."""
    photos = files.find_photos(folder)
    texts = {path.with_suffix(""): path for path in photos.others if path.suffix.lower() == ".txt"}
    found, faults, repeated = [], [], []
    missing = []
    used = set()
    for image in photos.images:
        stem = image.with_suffix("")
        name = image.relative_to(folder).as_posix()
        if stem not in texts:
            missing.append(f"{name} (without {stem.name}.txt)")
            continue
        used.add(stem)
        lines = captions_files.read_text(texts[stem]).split("\n")
        captions = [text for text in map(captions_files.clean, lines) if text]
        if not captions:
            faults.append(f"{texts[stem]} is empty")
        again = [text for text, n in collections.Counter(captions).items() if n > 1]
        repeated += [f"{texts[stem].name} ({text!r})" for text in again]
        found.append(Captioned(image, name, tuple(captions)))
    if not used:
        return None
    if faults:
        raise ValueError(f"{len(faults)} images have no caption: {files.some(faults, most=3)}")
    missing += [
        f"{stem.relative_to(folder).as_posix()}.jpg (named by {path.name})"
        for stem, path in texts.items()
        if stem not in used and stem.name.lower() not in _NO_CAPTIONS
    ]
    origin = f"the texts beside the images of {folder}"
    return Found(origin, {"all": tuple(found)}, tuple(missing), tuple(repeated))
