"""Images alone, in a folder and in those below it, as they are pretrained on without labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import files, images
from input_pipeline.sources import image_folder, splitting
from input_pipeline.sources.base import IndexedSource, Source


def splits(config: Any) -> dict[str, Source]:
    """Finds the images of a folder.

    Args:
        config: `config.data`, of which `source`, `val_fraction`, `split_seed` and `skip_corrupt`
            are read. The folder may have train, val and test folders; what is missing is split off
            train by the images' paths in it, see `splitting.split_off_scenes`, so that it can be
            moved. How images are sorted into folders inside does not matter.

    Returns:
        Sources by split name.

    Raises:
        ValueError: for a folder that is missing, or without images.
    """
    folder = Path(config.source).expanduser()
    folders = splitting.find_splits(folder)
    found: dict[str, Sequence[Path]] = {k: _find(own) for k, own in folders.items()}
    if config.skip_corrupt:
        found = {k: files.without_faults(v, images.check_file, k) for k, v in found.items()}
    found = splitting.split_off_scenes(
        found, lambda path: path.relative_to(folder).as_posix(), config, "photo"
    )
    return {name: _source(paths) for name, paths in found.items()}


def _find(folder: Path) -> list[Path]:
    found = files.find_photos_alone(folder)
    if not found:
        raise ValueError(f"{folder} holds no images ({', '.join(files.SUFFIXES)})")
    return found


def _source(paths: Sequence[Path]) -> IndexedSource:
    names = [str(path) for path in paths]
    return IndexedSource(
        {"path": np.array(names)},
        truths=(),
        loader=image_folder.read_file,
        names=tuple(path.name for path in paths),
        explainer=lambda message: image_folder.explain(names, message),
    )
