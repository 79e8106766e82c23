"""Images and their masks on disk: the layouts of the common sets, found by looking.

Whatever the layout, the folders that a file lies in say its split and whether it is a mask, and its
name which image a mask belongs to. `images/training/1.jpg` and `annotations/training/1.png` are a
pair, as `train/1.png` and `trainannot/1.png` are.
"""

import collections
import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from input_pipeline import files
from input_pipeline.sources import splitting

_LOG = logging.getLogger(__name__)

_IMAGES, _MASKS = "images", "masks"
# What folders are called, less blanks, signs and digits; the words of splits may precede or follow.
_ROLES = {
    _IMAGES: ("images", "image", "imgs", "img", "imgdir", "rgb", "photos", "jpegimages",
              "leftimgbit", "inputs", "input"),
    _MASKS: ("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot",
             "ann", "anns", "anndir", "gt", "gtfine", "groundtruth", "segmentations",
             "segmentation", "seg", "segs", "segmentationclass", "segmentationclasspng",
             "parsing", "parsingannotations", "stuffthingmaps", "targets", "target"),
}  # fmt: skip
_ROLE_OF = {word: role for role, words in _ROLES.items() for word in words}
_SPLIT_WORDS = ("training", "train", "validation", "valid", "val", "testing", "test")
_LISTS = Path("ImageSets/Segmentation")  # of VOC's folder
# What names end in besides what the files of a pair have in common.
_ENDING = re.compile(
    r"[_-](leftImg8bit|gtFine_labelTrainIds|gtFine_labelIds|labelTrainIds|rgb|image|img|mask|masks|"
    r"label|labels|labelIds|seg|segmentation|gt|annotation|L|P)$",
    re.IGNORECASE,
)
_FORMS = ("_labelTrainIds", "_labelIds")  # of masks; the first that there is
_CITYSCAPES = {"_gtFine_labelTrainIds": "cityscapes", "_gtFine_labelIds": "cityscapes_ids"}
_FRAME_OF_CAMVID = r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+"
# Names of images, of masks, and a folder of theirs, by which sets are known.
_SIGNS = (
    ("ade20k", r"ADE_(train|val)_\d{8}", r"ADE_.*", ""),
    ("voc", r"\d{4}_\d{6}", r"\d{4}_\d{6}", "segmentationclass"),
    ("camvid", _FRAME_OF_CAMVID, _FRAME_OF_CAMVID, "annot"),
    ("lip", r"\d+_\d+", r"\d+_\d+", "trainvalparsingannotations"),
    ("coco_stuff", r"\d{12}", r"\d{12}", "stuffthingmaps"),
    ("coco_stuff_train_ids", r"\d{12}", r"\d{12}_labelTrainIds", ""),
    ("coco_stuff_10k", r"COCO_\w+2014_\d{12}", r"COCO_\w+2014_\d{12}_labelTrainIds", ""),
)


def are_images_and_masks(names: Iterable[str]) -> bool:
    """Whether folders are called as those of images and those of masks are, and no others."""
    return {_ROLE_OF.get(name.lower()) for name in names} == {_IMAGES, _MASKS}


@dataclasses.dataclass(frozen=True)
class MaskedImage:
    """An image and the mask that says the class of each of its pixels."""

    image: Path
    mask: Path
    name: str


@dataclasses.dataclass(frozen=True)
class MaskedSplit:
    """A split of a data set.

    Attributes:
        pairs: sorted by name.
        orphans: says of images without a mask, and masks without an image, that they are such.
    """

    pairs: tuple[MaskedImage, ...]
    orphans: tuple[str, ...]


Found = dict[str, dict[str, list[Path]]]  # files by role, by split


def find_masked_images(folder: Path) -> dict[str, MaskedSplit]:
    """Finds the images of a data set and their masks.

    Args:
        folder: see the file's description; also VOC's, whose splits are lists of names, or one that
            holds nothing but such a folder.

    Returns:
        Splits by name; one without a folder of its own is called "all".

    Raises:
        ValueError: if there are no images with masks.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    folder = _unwrapped(folder)
    found = _by_split(folder)
    if (folder / _LISTS).is_dir() and set(found) == {"all"}:
        splits = _listed(folder / _LISTS, found["all"])
        if any(split.pairs for split in splits.values()):
            return splits
    if "test" in found and all(_is_of_cityscapes(path) for path in found["test"][_MASKS]):
        _LOG.info("%s: the masks of Cityscapes' test are blank, and it is left out", folder)
        del found["test"]
    splits = {name: _pair(roles, folder) for name, roles in found.items()}
    splits = {name: split for name, split in splits.items() if split.pairs or split.orphans}
    if not any(split.pairs for split in splits.values()):
        raise ValueError(
            f"{folder} holds no images with masks: it needs a folder of images and one of masks, "
            "such as images/ and masks/ or train/ and trainannot/, with equal names, or the "
            "folders of VOC, ADE20K, Cityscapes, LIP or COCO-Stuff"
        )
    if len(splits) > 1 and "all" in splits:
        raise ValueError(
            f"{folder} has folders for {' and '.join(name for name in splits if name != 'all')}, "
            f"and images in others besides, such as {_example(splits['all'])}: move them"
        )
    return {name: splits[name] for name in ("train", "val", "test", "all") if name in splits}


def _example(split: MaskedSplit) -> str:
    return str(split.pairs[0].image) if split.pairs else split.orphans[0]


def _is_of_cityscapes(path: Path) -> bool:
    return path.stem.endswith(tuple(_CITYSCAPES))


def guess_set(splits: Mapping[str, MaskedSplit]) -> str | None:
    """The published set whose files have such names, a key of `masks.CODINGS`; or None."""
    pairs = [pair for split in splits.values() for pair in split.pairs]
    for ending, name in _CITYSCAPES.items():
        if all(pair.mask.stem.endswith(ending) for pair in pairs):
            return name
    for name, image, mask, part in _SIGNS:
        if all(
            re.fullmatch(image, pair.image.stem) and re.fullmatch(mask, pair.mask.stem)
            and any(part in _letters(folder.name) for folder in pair.mask.parents)
            for pair in pairs
        ):  # fmt: skip
            return name
    return None


def _letters(name: str) -> str:
    return re.sub(r"[\W\d_]+", "", name.lower())


def _parse(name: str) -> tuple[str | None, str | None]:
    """The split and the role that a folder's name says, each None if it does not."""
    letters = _letters(name)
    split = splitting.split_of(letters) if letters not in _ROLE_OF else None
    if split is not None:  # also of images, as in train_images
        return split, _IMAGES if re.search(r"(images?|imgs?)$", letters) else None
    both = re.fullmatch(r"(trainval)?(.*)", letters)
    assert both is not None
    if both[1]:
        return None, _ROLE_OF.get(both[2])
    for word in _SPLIT_WORDS:
        for rest in (letters.removeprefix(word), letters.removesuffix(word)):
            if rest != letters and rest in _ROLE_OF:
                return splitting.split_of(word), _ROLE_OF[rest]
    return None, _ROLE_OF.get(letters)


def _unwrapped(folder: Path) -> Path:
    """Goes into a folder as long as it holds but one, such as VOCdevkit/VOC2012."""
    inside = files.list_folders(folder)
    while len(inside) == 1 and _parse(inside[0].name) == (None, None):
        folder = inside[0]
        inside = files.list_folders(folder)
    return folder


def _by_split(folder: Path) -> Found:
    """The image files in a folder, by what the folders that they lie in say."""
    found: Found = {}
    unknown = []
    said: dict[Path, tuple[str | None, str | None]] = {folder: (None, None)}

    def say(path: Path) -> tuple[str | None, str | None]:
        if path not in said:
            split, role = say(path.parent)
            own_split, own_role = _parse(path.name)
            said[path] = own_split or split, own_role or role
        return said[path]

    paths = [path for path in files.list_files(folder) if files.is_image(path)]
    files.check_names(folder, (str(path.relative_to(folder)) for path in paths))
    for path in paths:
        split, role = say(path.parent)
        if split is None and role is None:
            unknown.append(path)
        else:
            # A split's folder that says no more holds images, as beside trainannot.
            roles = found.setdefault(split or "all", {_IMAGES: [], _MASKS: []})
            roles[role or _IMAGES].append(path)
    what = "images lie in folders that say neither a split nor images or masks, and are left out"
    files.tell_left_out(folder, unknown, what)
    for split, roles in list(found.items()):
        roles[_MASKS] = _of_one_form(roles[_MASKS])
        if not roles[_MASKS]:
            files.tell_left_out(
                folder, roles[_IMAGES], f"images of {split} have no folder of masks"
            )
            del found[split]
    return found


def _of_one_form(paths: Sequence[Path]) -> list[Path]:
    """Of masks in several forms, such as Cityscapes', those of train ids, or else of ids."""
    for form in _FORMS:
        chosen = [path for path in paths if path.stem.endswith(form)]
        if chosen:
            return chosen
    return list(paths)


def _key(path: Path) -> str:
    return _ENDING.sub("", path.stem)


def _pair(roles: Mapping[str, Sequence[Path]], folder: Path) -> MaskedSplit:
    """Pairs by equal names, or else by what precedes such endings as _mask.

    Files of one name in several folders are told apart by the folders that they lie in.
    """
    images, masks = roles[_IMAGES], roles[_MASKS]

    def pair(name_of: Callable[[Path], str], is_strict: bool) -> list[tuple[Path, Path, str]]:
        first, second = (_named(paths, name_of, folder, is_strict) for paths in (images, masks))
        return [(path, second[name], name) for name, path in first.items() if name in second]

    by_stem = pair(lambda path: path.stem, is_strict=True)
    by_key = pair(_key, is_strict=False)
    pairs = by_key if len(by_key) > len(by_stem) else by_stem
    paired = tuple(sorted((MaskedImage(*some) for some in pairs), key=lambda pair: pair.name))
    used = {path for pair in paired for path in (pair.image, pair.mask)}
    orphans = [f"{path} has no mask" for path in images if path not in used]
    orphans += [f"{path} has no image" for path in masks if path not in used]
    return MaskedSplit(paired, tuple(orphans))


def _named(
    paths: Iterable[Path], name_of: Callable[[Path], str], folder: Path, is_strict: bool
) -> dict[str, Path]:
    """Files by a name of each; if two have one, {}, or a ValueError if strict."""
    by_name = collections.defaultdict(list)
    for path in paths:
        by_name[name_of(path)].append(path)
    found: dict[str, Path] = {}
    for name, some in by_name.items():
        for path in some:
            own = name if len(some) == 1 else "/".join([*_place(path.parent, folder), name])
            if found.setdefault(own, path) is not path:
                if not is_strict:
                    return {}
                raise ValueError(f"{found[own]} and {path} have one name: which is meant?")
    return found


def _place(path: Path, folder: Path) -> list[str]:
    """The folders that a file lies in, but for those that say its split and its role."""
    return [part for part in path.relative_to(folder).parts if _parse(part) == (None, None)]


def _listed(lists: Path, roles: Mapping[str, Sequence[Path]]) -> dict[str, MaskedSplit]:
    """The splits of VOC's folder, by its lists of names; {} if there are none."""
    images = {path.stem: path for path in roles[_IMAGES]}
    masks = {path.stem: path for path in roles[_MASKS]}
    texts = {name: lists / f"{name}.txt" for name in ("train", "val", "test", "trainval")}
    texts = {name: path for name, path in texts.items() if path.is_file()}
    if "train" in texts or "trainval" not in texts:
        texts.pop("trainval", None)
    splits = {}
    for name, path in texts.items():
        ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        ids = [i for i in ids if i]
        if name == "test" and not any(i in masks for i in ids):
            _LOG.info("%s: the images of the test have no masks, and are left out", path)
            continue
        pairs = [(images[i], masks[i], i) for i in ids if i in images and i in masks]
        paired = tuple(MaskedImage(*pair) for pair in sorted(pairs, key=lambda pair: pair[2]))
        orphans = [
            f"{i} of {path} has no {'mask' if i in images else 'image'}"
            for i in ids
            if i not in images or i not in masks
        ]
        splits["all" if name == "trainval" else name] = MaskedSplit(paired, tuple(orphans))
    return splits
