"""A folder of images, one subfolder per class.

Either `FOLDER/{train,val,test}/class/image.jpg`, or `FOLDER/class/image.jpg` alone. Images in
folders inside that of a class are the class's, too.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from etils import epath

from input_pipeline import files, images
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import mask_layouts, pairs, real_labels, splitting
from input_pipeline.sources.base import Example, IndexedSource, Source
from input_pipeline.sources.splitting import Tree

_LOG = logging.getLogger(__name__)

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def splits(config: Any) -> dict[str, Source]:
    """Finds the splits of a folder.

    What is missing is split off train, see `splitting.split_off_classes`.

    Args:
        config: `config.data`, of which `source`, `val_fraction`, `split_seed`, `skip_corrupt` and
            `real` are read.

    Returns:
        Sources by split name; "train" is always among them. Classes are sorted by name, and by
        number if all names are numbers.

    Raises:
        ValueError: for a folder that is missing, empty or at odds with itself.
    """
    folder = epath.Path(config.source).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"data.source={config.source!r}: there is no such folder; give a folder of class "
            "subfolders, 'digits', or a TFDS data set as 'tfds:NAME'"
        )
    splitting.check_fraction(config.val_fraction)

    folders = splitting.find_splits(folder, needs_train=True)
    if not {"train", "all"} & set(folders):
        raise ValueError(f"{folder} has folders for {' and '.join(folders)}, and none for train")
    trees = {name: _list_classes(path) for name, path in folders.items()}
    train = "train" if "train" in trees else "all"
    _check_number(trees[train], folders[train])
    class_names = tuple(trees[train])
    for name, tree in trees.items():
        unknown = sorted(set(tree) - set(class_names))
        if unknown:
            raise ValueError(
                f"{folders[name]} has classes that {folders[train]} lacks: {', '.join(unknown)}"
            )
    if config.skip_corrupt:
        trees = {name: _without_corrupt(tree, name) for name, tree in trees.items()}
    trees = splitting.split_off_classes(trees, config)
    found = {name: _source(tree, class_names) for name, tree in trees.items() if any(tree.values())}
    return dict(real_labels.with_labels(found, config) if config.real else found)


def _list_classes(folder: epath.Path) -> Tree:
    folders = {path.name: path for path in files.list_folders(folder)}
    if not folders:
        tables = files.list_tables(folder)
        hint = f", or name the table: --config.data.source={tables[0]}" if tables else ""
        raise ValueError(f"{folder} has no class subfolders: put images into {folder}/CLASS/{hint}")
    files.check_names(folder, folders)
    beside = [path for path in folder.iterdir() if files.is_image(path) and not path.is_dir()]
    files.tell_left_out(folder, beside, "images lie beside the class folders and are left out")
    names = sorted_names(folders)
    if {name.lower() for name in names} <= set(pairs.FOLDERS):
        _LOG.warning("%s: folders called %s seem to hold pairs rather than classes: was "
                     "--config.data.kind=pairs meant?", folder, " and ".join(names))  # fmt: skip
    if mask_layouts.are_images_and_masks(names):
        _LOG.warning(
            "%s: folders called %s seem to hold images and masks rather than classes: was "
            "--config.data.kind=segmentation meant?", folder, " and ".join(names),
        )  # fmt: skip
    inside = [{path.name for path in files.list_folders(folders[name])} for name in names]
    if len(names) > 1 and inside[0] and all(some == inside[0] for some in inside):
        _LOG.warning(
            "%s: the folders %s all hold folders called %s: are those the classes, these splits?",
            folder, ", ".join(names), ", ".join(sorted(inside[0])),
        )  # fmt: skip
    with futures.ThreadPoolExecutor(files.READERS) as pool:
        paths = pool.map(_list_images, [folders[name] for name in names])
    return dict(zip(names, paths))


def sorted_names(names: Iterable[str]) -> list[str]:
    """Names of classes in the order of their labels: by name, or by number if all are numbers."""
    found = sorted(names)
    if all(map(_NUMBER.fullmatch, found)):
        found.sort(key=float)
    return found


def _list_images(folder: epath.Path) -> list[str]:
    splits = [path.name for path in files.list_folders(folder) if splitting.split_of(path.name)]
    if splits:
        raise ValueError(
            f"class folder {folder} has a folder {splits[0]!r}: splits come before classes, as in "
            f"{folder.parent}/{splits[0]}/{folder.name}; or is {folder} itself the data.source?"
        )
    found = files.find_photos(folder)
    if not found.images:
        raise ValueError(
            f"class folder {folder} holds no images ({', '.join(files.SUFFIXES)}): add some or "
            "remove the folder"
        )
    files.tell_left_out(folder, found.depth.values(), "depth maps are left out")
    files.tell_left_out(folder, found.others, "entries are not images and are left out")
    return [str(path) for path in found.images]


def _check_number(tree: Tree, folder: epath.Path) -> None:
    """Raises a ValueError if there is one class alone."""
    if len(tree) > 1:
        return
    (name,) = tree
    inside = [path.name for path in files.list_folders(folder / name)]
    cause = (
        f"{folder / name} was perhaps unpacked a level too deep, or is itself the data.source"
        if inside or splitting.split_of(name)
        else "each class needs a folder of its own"
    )
    raise ValueError(
        f"{folder} holds one class alone, {name!r}, which leaves nothing to tell apart: {cause}"
    )


def _source(tree: Tree, class_names: Sequence[str]) -> IndexedSource:
    paths = [path for name in tree for path in tree[name]]
    labels = [class_names.index(name) for name in tree for _ in tree[name]]
    return IndexedSource(
        {"path": np.array(paths), "label": np.array(labels, np.int32)},
        tuple(class_names),
        loader=read_file,
        names=tuple(f"{name}/{epath.Path(path).name}" for name in tree for path in tree[name]),
        explainer=lambda message: explain(paths, message),
    )


def read_file(example: Example) -> Example:
    """Adds the `image`, the bytes of the file of an example's `path`."""
    return {**example, "image": tf.io.read_file(example["path"])}


def _without_corrupt(tree: Tree, split: str) -> Tree:
    paths = [path for paths in tree.values() for path in paths]
    kept = set(files.without_faults(paths, images.check_file, split))
    tree = {name: [path for path in paths if path in kept] for name, paths in tree.items()}
    empty = [name for name, paths in tree.items() if not paths]
    if empty:
        raise ValueError(f"{split}: no image of class {', '.join(empty)} can be read")
    return tree


def explain(paths: Sequence[str], message: str) -> str:
    """Says which images of a source made reading fail, given TensorFlow's message."""
    _LOG.warning("an image could not be read; looking for it among %d files ...", len(paths))
    faults = list(files.find_faults(paths, images.check_file).values())
    if not faults:
        return message
    return (
        f"{len(faults)} unreadable image(s): {files.some(faults, most=5)}. Remove them, or leave "
        "them out with --config.data.skip_corrupt=True"
    )
