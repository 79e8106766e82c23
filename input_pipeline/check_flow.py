"""What is wrong with a folder of pairs of frames and their flow; see check."""

import collections
import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path

import numpy as np
from tqdm import tqdm

from input_pipeline import files
from input_pipeline.sources import flow_layouts, flow_pairs
from input_pipeline.sources.flow_pairs import FlowPair, Part, Read

_MOVES = 0.5  # pixels on average, from which on two frames differ by their motion
_FEW = 3  # pairs, from which on it says something that the flow makes most of them less alike


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What is kept of a pair.

    Attributes:
        fault: what is wrong, or "".
        size: (h, w).
        known: share of the pixels whose flow is known.
        occluded: share of those that the second frame does not show.
        mean: length of the known flow in pixels.
        longest: the same of its longest vector.
        apart: mean difference of the frames, of 255, where the flow leads into the second.
        moved_apart: the same once the second is moved by the flow.
        digest: of the files of the frames.
    """

    fault: str
    size: tuple[int, ...] = (0, 0)
    known: float = 0.0
    occluded: float = 0.0
    mean: float = 0.0
    longest: float = 0.0
    apart: float = 0.0
    moved_apart: float = 0.0
    digest: bytes = b""


def check_folder(folder: Path) -> list[str]:
    """Prints the data sets in a folder; returns what is wrong with them.

    Raises:
        ValueError: if there are none, or it is not clear which files belong together.
    """
    problems = []
    for name, part in flow_layouts.find_parts(folder).items():
        problems += [f"{name}: {problem}" for problem in _check_part(name, part)]
    return problems


def _check_part(name: str, part: Part) -> list[str]:
    problems = []
    splits_of = collections.defaultdict(list)
    if part.orphans:
        problems.append(f"{len(part.orphans)} without what belongs to it: "
                        f"{files.some(part.orphans)}")  # fmt: skip
    for split, pairs in part.splits.items():
        print(f"{name}, {split}: {len(pairs)} pairs in {part.folder}")
        seen = _see_all(pairs)
        problems += [f"{split}: {problem}" for problem in _check_split(pairs, seen)]
        for pair, one in zip(pairs, seen):
            if one.digest:
                splits_of[one.digest].append((split, pair.name))
    common = [
        " and ".join(f"{pair} of {split}" for split, pair in copies)
        for copies in splits_of.values()
        if len({split for split, _ in copies}) > 1
    ]
    if common:
        problems.append(f"{len(common)} pairs are in several splits: {files.some(common)}")
    return problems


def _check_split(pairs: Sequence[FlowPair], seen: Sequence[_Seen]) -> list[str]:
    """Prints what the pairs of a split are like; returns what is wrong with them."""
    good = [one for one in seen if not one.fault]
    if good:
        _print_split(good)
    faults = [one.fault for one in seen if one.fault]
    unknown = [str(pair.flow) for pair, one in zip(pairs, seen) if not one.fault and not one.known]
    moving = [(pair, one) for pair, one in zip(pairs, seen) if one.mean > _MOVES and one.apart]
    unlike = [str(pair.flow) for pair, one in moving if one.moved_apart >= one.apart]
    problems = {
        "that cannot be used": faults,
        "flows are known nowhere": unknown,
        # One pair can differ by its light alone.
        f"of {len(moving)} flows do not fit their frames, which they make less alike": (
            unlike if len(unlike) > max(len(moving) / 2, _FEW - 1) else []
        ),
    }
    return [
        f"{len(names)} {what}: {files.some(names)}" for what, names in problems.items() if names
    ]


def _print_split(seen: Sequence[_Seen]) -> None:
    sizes = {one.size for one in seen}
    heights, widths = zip(*sizes)
    print(
        f"    {len(sizes)} size{'s' if len(sizes) > 1 else ''}: {min(heights)} to {max(heights)} "
        f"pixels high, {min(widths)} to {max(widths)} wide"
    )
    print(
        f"    flow: {100 * np.mean([one.known for one in seen]):.1f} % of the pixels are known, "
        f"{np.mean([one.mean for one in seen]):.2f} pixels long on average, "
        f"{max(one.longest for one in seen):.1f} at most; "
        f"{100 * np.mean([one.occluded for one in seen]):.1f} % are said to be occluded"
    )
    print(
        f"    frames differ by {np.mean([one.apart for one in seen]):.1f} of 255, once moved by "
        f"the flow by {np.mean([one.moved_apart for one in seen]):.1f}"
    )


def _see_all(pairs: Sequence[FlowPair]) -> list[_Seen]:
    quiet = not sys.stderr.isatty()
    with futures.ThreadPoolExecutor(files.READERS) as pool:
        results = pool.map(_see, pairs)
        return list(tqdm(results, total=len(pairs), unit="pair", leave=False, disable=quiet))


def _see(pair: FlowPair) -> _Seen:
    try:
        found = flow_pairs.read_pair(pair)
        digest = hashlib.sha256(pair.image.read_bytes() + pair.image2.read_bytes()).digest()
    except (ValueError, OSError) as error:
        return _Seen(str(error))
    known = found.valid > 0
    lengths = np.linalg.norm(found.flow[known], axis=-1)
    apart, moved_apart = _differ(found)
    return _Seen(
        "",
        known.shape,
        float(known.mean()),
        float(found.occluded.mean()),
        float(lengths.mean()) if lengths.size else 0.0,
        float(lengths.max(initial=0)),
        apart,
        moved_apart,
        digest,
    )


def _differ(found: Read) -> tuple[float, float]:
    """How much the frames differ where both show a point, as they are and moved by the flow."""
    height, width = found.valid.shape
    y, x = np.mgrid[:height, :width]
    ends = np.rint(found.flow).astype(np.int64)
    y_end, x_end = y + ends[..., 1], x + ends[..., 0]
    both = (found.valid > 0) & (found.occluded == 0)
    both &= (y_end >= 0) & (y_end < height) & (x_end >= 0) & (x_end < width)
    if not both.any():
        return 0.0, 0.0
    first = found.image[both].astype(np.float32)
    second = found.image2[y_end[both], x_end[both]]
    return float(np.abs(first - found.image2[both]).mean()), float(np.abs(first - second).mean())
