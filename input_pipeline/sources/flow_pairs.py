"""Pairs of frames with the flow between them, as they lie on disk, and how they are read."""

import dataclasses
from pathlib import Path

import numpy as np

from input_pipeline import files, flow_files, flow_sets

# Which row of `flow_sets.SETS` a part of a published set is of.
_SET_OF = {
    "chairs": "chairs", "things_clean": "things", "things_final": "things",
    "sintel_clean": "sintel", "sintel_final": "sintel", "kitti": "kitti", "hd1k": "hd1k",
}  # fmt: skip
PARTS = (*_SET_OF, "own")


@dataclasses.dataclass(frozen=True)
class FlowPair:
    """Two frames and the flow from the first to the second, on the first one's pixels.

    Attributes:
        image: file of the first frame.
        image2: file of the second.
        flow: a file that `flow_files.read` reads.
        part: of which it is, one of `PARTS`.
        name: of the pair; no other pair of a data set has it.
        scene: pairs of one scene are never in two splits.
        occluded: what says which points of the first frame the second does not show: an image in
            which they are not 0, or of a sparse set the flow of the others; None if nothing does.
        invalid: an image that is not 0 where the flow is not to be trusted, or None.
    """

    image: Path
    image2: Path
    flow: Path
    part: str
    name: str
    scene: str
    occluded: Path | None = None
    invalid: Path | None = None

    @property
    def set(self) -> str:
        """Name of its row of `flow_sets.SETS`."""
        if self.part in _SET_OF:
            return _SET_OF[self.part]
        return "own_sparse" if self.flow.suffix.lower() == ".png" else "own"


@dataclasses.dataclass(frozen=True)
class Part:
    """Pairs of a data set, such as those of one pass of its renderer.

    Attributes:
        folder: of the data set.
        splits: pairs by "train", "val" and "test"; "all" where nothing says a split.
        orphans: says what is missing, a line each.
    """

    folder: Path
    splits: dict[str, tuple[FlowPair, ...]]
    orphans: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Read:
    """What the files of a pair hold.

    Attributes:
        image: (h, w, 3) uint8, the first frame.
        image2: the second.
        flow: (h, w, 2) float32 pixels, 0 where it is not known.
        valid: (h, w) uint8, 1 where it is known.
        occluded: (h, w) uint8, 1 where the second frame does not show the point; all 0 if nothing
            says so.
    """

    image: np.ndarray
    image2: np.ndarray
    flow: np.ndarray
    valid: np.ndarray
    occluded: np.ndarray


def read_pair(pair: FlowPair) -> Read:
    """Reads a pair.

    Raises:
        ValueError: if a file cannot be read, or their sizes differ; the message names them.
    """
    image, image2 = _read_frame(pair.image), _read_frame(pair.image2)
    flow, valid = _read_flow(pair.flow)
    _check_sizes({pair.image: image, pair.image2: image2, pair.flow: flow})
    if pair.invalid is not None:
        invalid = _read_mask(pair.invalid)
        _check_sizes({pair.image: image, pair.invalid: invalid})
        valid &= ~invalid
    occluded = np.zeros_like(valid)
    if pair.occluded is not None:
        is_sparse = flow_sets.SETS[flow_sets.number(pair.set)].is_sparse
        is_flow = is_sparse and pair.part in _SET_OF
        occluded = valid & ~_read_flow(pair.occluded)[1] if is_flow else _read_mask(pair.occluded)
        _check_sizes({pair.image: image, pair.occluded: occluded})
    # Not NaN nor 1e10, which times 0 is not 0, or makes its neighbours wrong in a resize.
    flow[~valid] = 0
    return Read(image, image2, flow, valid.astype(np.uint8), occluded.astype(np.uint8))


def check_pair(pair: FlowPair) -> None:
    """Raises what `read_pair` does."""
    read_pair(pair)


def _read_frame(path: Path) -> np.ndarray:
    """(h, w, 3) uint8: grey is repeated, alpha cut off; EXIF data does not rotate it."""
    try:
        return files.decode_in_python(path.read_bytes(), is_rotated=False, cuts_alpha=True)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _read_mask(path: Path) -> np.ndarray:
    """(h, w) bool, where an image is not black."""
    return _read_frame(path).max(-1) > 0


def _read_flow(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        return flow_files.read(path)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def _check_sizes(arrays: dict[Path, np.ndarray]) -> None:
    sizes = [array.shape[:2] for array in arrays.values()]
    if len(set(sizes)) > 1:
        named = [f"{path} ({h} x {w})" for path, (h, w) in zip(arrays, sizes)]
        raise ValueError(f"{', '.join(named[:-1])} and {named[-1]} differ in size")
