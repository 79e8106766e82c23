"""A person's own words in figures: in fonts that have their letters, and never as mathematics."""

import functools
import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager

_LOG = logging.getLogger(__name__)

_GENERAL = "Noto Sans"  # begins the names of fonts that are made to go together: tried first
_MISSING = "?"
# What directs how other letters are drawn, and may be left out where a font has no such sign.
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")


def style(*texts: str) -> dict[str, Any]:
    """Keyword arguments with which matplotlib draws texts as they stand, see also `legible`."""
    return {"parse_math": False, "fontfamily": _families(frozenset("".join(texts)))}


def legible(text: str) -> str:
    """A text with a question mark for each run of letters that no installed font has."""
    missing = _missing_of(_plain(text))
    if not missing:
        return _plain(text)
    _say_once(frozenset(missing))
    return re.sub(f"[{re.escape(''.join(sorted(missing)))}]+", _MISSING, _plain(text))


def legible_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes; of those that no installed font has the letters for, #NUMBER from 1 on."""
    plain = [_plain(name) for name in names]
    missing = [bool(_missing_of(name)) for name in plain]
    if any(missing):
        _LOG.warning(
            "no installed font has the letters of %d class names, such as %s: in pictures they are "
            "#N, in line N of labels.txt", sum(missing), names[missing.index(True)],
        )  # fmt: skip
    return tuple(f"#{i + 1}" if missing[i] else plain[i] for i in range(len(names)))


def shorten(text: str, most: int, tail: int = 0) -> str:
    """Cuts a text to some columns, of which letters such as Chinese ones take two.

    Args:
        text: in one line.
        most: columns.
        tail: how many letters of the end to keep.
    """
    if sum(map(_columns, text)) <= most:
        return text
    end = text[len(text) - tail :]
    room = most - 1 - sum(map(_columns, end))
    count = 0
    while count < len(text) - tail and sum(map(_columns, text[: count + 1])) <= room:
        count += 1
    return f"{text[:count]}…{end}"


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _plain(text: str) -> str:
    """The text without what cannot be seen, and blanks of one kind."""
    text = re.sub(r"[^\S\n]", " ", text)
    return _UNSEEN.sub(lambda sign: sign[0] if _missing_of(sign[0]) == set() else "", text)


@functools.cache
def _say_once(missing: frozenset[str]) -> None:
    letters = "".join(sorted(missing))
    _LOG.warning("no installed font has %s: pictures show %s instead", letters, _MISSING)


def _missing_of(text: str) -> set[str]:
    """The letters that no installed font has."""
    missing = set(text) - {"\n"}
    for _, letters in _fonts():
        missing = {letter for letter in missing if ord(letter) not in letters}
        if not missing:
            break
    return missing


@functools.cache
def _families(letters: frozenset[str]) -> list[str]:
    """The fonts that letters take, the default one first."""
    missing = set(letters) - _missing_of("".join(letters)) - {"\n"}
    taken: list[str] = []
    for name, charmap in _fonts():
        found = {letter for letter in missing if ord(letter) in charmap}
        if found or not taken:
            taken.append(name)
            missing -= found
        if not missing:
            break
    return taken


def _fonts() -> Iterator[tuple[str, frozenset[int]]]:
    """Names and letters of the default font and then of the system's, as far as one asks."""
    default = font_manager.FontProperties(family=matplotlib.rcParams["font.family"])
    yield default.get_family()[0], _letters(font_manager.findfont(default))
    for name, path in _files(len(font_manager.fontManager.ttflist)):
        yield name, _letters(path)


@functools.cache
def _files(count: int) -> tuple[tuple[str, str], ...]:
    """Names and files of the system's upright fonts, `count` fonts being installed in all."""
    del count  # more may come
    own = Path(matplotlib.get_data_path())  # whose others are for formulas, or show mere boxes
    found = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if (entry.style, entry.weight, entry.stretch) == ("normal", 400, "normal")
        and not Path(entry.fname).is_relative_to(own)
    }
    return tuple(sorted(found.items(), key=lambda item: (not item[0].startswith(_GENERAL), item)))


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """Code points that a font file has; none if it cannot be read, or is of bitmaps."""
    try:
        font = font_manager.get_font(path)
    except (RuntimeError, OSError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
