"""What is wrong with sentences and their translations; see check."""

import collections
from collections.abc import Sequence

from input_pipeline import files
from input_pipeline.sources import translation_files
from input_pipeline.sources.translation_files import Languages
from input_pipeline.toys import Pair

_UNEQUAL = 3  # times as many characters as the other side, and ...
_MUCH = 30  # ... so many more: then the lines of two files may have shifted


def check(source: str, languages: Languages) -> list[str]:
    """Prints the splits and lengths of translations; returns what is wrong with them.

    Args:
        source: see `translation_files.read`.
        languages: see there.

    Raises:
        ValueError: if there are none, or some cannot be read.
    """
    problems: list[str] = []
    found = translation_files.read(source, languages, problems.append)
    where = collections.defaultdict(set)
    for split, pairs in found.items():
        print(f"{'in no split' if split == 'all' else split}: {len(pairs)} pairs")
        _print_lengths(pairs)
        counts = collections.Counter(pairs)
        faults = {
            "are there several times": [pair for pair in counts if counts[pair] > 1],
            "are not translated": [pair for pair in counts if pair[0] == pair[1]],
            f"have one side more than {_UNEQUAL} times as long": [*filter(_is_unequal, counts)],
        }
        problems += [
            f"{split}: {len(some)} pairs {what}: {files.some([_say(pair) for pair in some], 3)}"
            for what, some in faults.items()
            if some
        ]
        for first, _ in counts:
            where[first].add(split)
    shared = [_short(first) for first, splits in where.items() if len(splits) > 1]
    if shared:
        problems.append(f"{len(shared)} sources are in several splits: {files.some(shared, 3)}")
    return problems


def _print_lengths(pairs: Sequence[Pair]) -> None:
    for i, side in enumerate(("source", "target")):
        lengths = [len(pair[i].split()) for pair in pairs]
        longest = max(pairs, key=lambda pair: len(pair[i].split()))[i]
        print(
            f"    {side}: {sum(lengths) / len(lengths):.1f} words on average, the longest has "
            f"{max(lengths)}: {longest[:100]!r}"
        )


def _is_unequal(pair: Pair) -> bool:
    shorter, longer = sorted(map(len, pair))
    return longer > _UNEQUAL * shorter and longer - shorter > _MUCH


def _say(pair: Pair) -> str:
    return " = ".join(map(_short, pair))


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
