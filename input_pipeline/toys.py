"""Made-up pairs of sentences, by which a translation shows within minutes whether it works.

    reversal       "3 1 2"                    -> "2 1 3"
    number_words   "seven hundred twelve"     -> "7 1 2"

Both have 1 to 12 and 1 to 6 digits, as often each; then any digits, or any number of so many. An
answer cannot be given without the order of the source, and of what was said before.
"""

import random
import zlib
from collections.abc import Callable, Iterator

PREFIX = "toy:"

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_DIGITS = tuple("0123456789")

# All that they are made of, in the order of its numbers: 43.
WORDS = ("<pad>", "<s>", "</s>", *_ONES, *_TENS, "hundred", "thousand", *_DIGITS)

_MOST_REVERSED = 12  # digits
_MOST_SPELLED = 6
_HELD_OUT = 10  # one of so many of the sources is for evaluation alone ...
_LONGEST_SEEN = 3  # ... if it has more digits: one that is a word by itself must be seen
_EVALUATED = {"val": 500, "test": 1000}

Pair = tuple[str, str]  # source and target


def spell(number: int) -> str:
    """The words of a number from 0 to 999,999: "seven hundred twelve"."""
    return " ".join(_words(number) or _ONES[:1])


def _words(number: int) -> tuple[str, ...]:
    """The same as a tuple, of which 0 has none."""
    if number >= 1000:
        return (*_words(number // 1000), "thousand", *_words(number % 1000))
    if number >= 100:
        return (_ONES[number // 100], "hundred", *_words(number % 100))
    if number >= 20:
        return (_TENS[number // 10 - 2], *_words(number % 10))
    return (_ONES[number],) if number else ()


def _reversal(random_: random.Random) -> Pair:
    digits = random_.choices(_DIGITS, k=random_.randint(1, _MOST_REVERSED))
    return " ".join(digits), " ".join(reversed(digits))


def _number_words(random_: random.Random) -> Pair:
    count = random_.randint(1, _MOST_SPELLED)
    number = random_.randrange(10 ** (count - 1) if count > 1 else 0, 10**count)
    return spell(number), " ".join(str(number))


_TOYS: dict[str, Callable[[random.Random], Pair]] = {
    "reversal": _reversal,
    "number_words": _number_words,
}


def is_held_out(pair: Pair) -> bool:
    """Whether a pair is for evaluation alone: a tenth of those of more than three digits."""
    source, target = pair
    is_long = len(target.split()) > _LONGEST_SEEN
    return is_long and zlib.crc32(source.encode()) % _HELD_OUT == 0


def make(name: str, count: int, seed: int) -> dict[str, list[Pair]]:
    """Makes pairs.

    Args:
        name: "reversal" or "number_words".
        count: how many to train on, of which short ones are there several times.
        seed: another makes others.

    Returns:
        Pairs by split: "train"; "val" with 500, and "test" with 1,000, all of them different and
        none among those to train on.

    Raises:
        ValueError: if there is no such toy, or nothing to train on.
    """
    if name not in _TOYS:
        raise ValueError(f"data.source={PREFIX + name!r}: the toys are {', '.join(_TOYS)}")
    if count < 1:
        raise ValueError(f"data.translation.examples must be at least 1, not {count}")
    pairs = _draw(_TOYS[name], seed)
    train: list[Pair] = []
    held_out: dict[Pair, None] = {}  # in order
    most = sum(_EVALUATED.values())
    while len(train) < count or len(held_out) < most:
        pair = next(pairs)
        if is_held_out(pair):
            held_out[pair] = None
        elif len(train) < count:
            train.append(pair)
    kept = list(held_out)
    val = _EVALUATED["val"]
    return {"train": train, "val": kept[:val], "test": kept[val:most]}


def _draw(toy: Callable[[random.Random], Pair], seed: int) -> Iterator[Pair]:
    random_ = random.Random(seed)  # not numpy's, whose numbers may change with its version
    while True:
        yield toy(random_)
