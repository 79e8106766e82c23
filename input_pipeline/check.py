"""Checks pairs of hazy and clear images: python -m input_pipeline.check FOLDER [--against=FOLDER].

Prints how the pairs were found, how many there are, their sizes, and how hazy they are; and what is
wrong: images without a partner, of another size than their partner, or unreadable, and scenes that
are in more than one split, or in the other folder as well. The exit code is 1 if anything is.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from input_pipeline import images
from input_pipeline.sources.pairs import PairedSplit, find_pairs

_SAMPLE = 50  # pairs whose PSNR is averaged
_SHOWN = 10  # names of files and scenes per problem


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path, help="a test set elsewhere, for common scenes")
    args = parser.parse_args(arguments)
    try:
        splits = find_pairs(args.folder)
        others = {} if args.against is None else find_pairs(args.against)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    problems = []
    for name, split in splits.items():
        print(f"{name}: {len(split.pairs)} pairs, by {split.layout}")
        problems += [f"{name}: {problem}" for problem in _check_split(split)]
    problems += find_common_scenes(splits, {f"{k} of {args.against}": v for k, v in others.items()})
    for problem in problems:
        print(f"PROBLEM  {problem}")
    if not problems:
        print("no problems")
    return 1 if problems else 0


def _check_split(split: PairedSplit) -> list[str]:
    """Prints a split's sizes and haze; returns what is wrong with it."""
    sizes, unequal, unreadable, ratios = [], [], [], []
    sample = set(np.linspace(0, len(split.pairs) - 1, _SAMPLE).round().astype(int))
    quiet = not sys.stderr.isatty()
    for i, pair in enumerate(tqdm(split.pairs, unit="pair", leave=False, disable=quiet)):
        decoded = []
        for path in (pair.hazy, pair.clear):
            try:
                decoded.append(images.decode_in_python(path.read_bytes()))
            except (ValueError, OSError) as error:
                unreadable.append(f"{path} ({error})")
        if len(decoded) < 2:
            continue
        hazy, clear = decoded
        sizes.append(clear.shape[:2])
        if hazy.shape != clear.shape:
            unequal.append(f"{pair.hazy} {_by(hazy)}, {pair.clear} {_by(clear)}")
        elif i in sample:
            error = np.mean((hazy.astype(np.float64) - clear) ** 2)
            ratios.append(10 * np.log10(255**2 / error) if error else np.inf)
    if sizes:
        heights, widths = zip(*sizes)
        count = len(set(sizes))
        print(
            f"    {count} size{'s' if count > 1 else ''}: {min(heights)} to {max(heights)} pixels "
            f"high, {min(widths)} to {max(widths)} wide"
        )
    if ratios:
        print(f"    PSNR of the hazy images: {np.mean(ratios):.2f} dB, mean over {len(ratios)}")
    scenes = len({pair.scene for pair in split.pairs})
    print(f"    {scenes} scene{'s' if scenes > 1 else ''}")
    found = {
        "without a partner": [str(path) for path in split.orphans],
        "unreadable": unreadable,
        "of another size than its partner": unequal,
    }
    return [f"{len(names)} {what}: {_some(names)}" for what, names in found.items() if names]


def find_common_scenes(
    splits: Mapping[str, PairedSplit], others: Mapping[str, PairedSplit]
) -> list[str]:
    """Says which splits of a data set have scenes in common with another, or with other sets."""
    problems = []
    named = [*itertools.combinations(splits.items(), 2)]
    named += [*itertools.product(splits.items(), others.items())]
    for (a, first), (b, second) in named:
        common = {p.scene for p in first.pairs} & {p.scene for p in second.pairs}
        if common:
            problems.append(f"{len(common)} scenes are both in {a} and in {b}: "
                            f"{_some(sorted(common))}")  # fmt: skip
    return problems


def _some(names: Sequence[str]) -> str:
    rest = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _by(image: np.ndarray) -> str:
    return f"({image.shape[0]} x {image.shape[1]})"


if __name__ == "__main__":
    sys.exit(main())
