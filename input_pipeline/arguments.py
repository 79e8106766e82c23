"""What a person types after a command."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence

_HOME = re.compile(r"(--?[\w.]+=)?(~(?:/.*)?)", re.DOTALL)


def expand_home(arguments: Sequence[str]) -> list[str]:
    """Makes ~ and ~/... the home folder, also in --flag=~/..., where no shell does it.

    Args:
        arguments: of a command; of flags and config keys alike, since none of them means anything
            else by a ~ at the beginning.
    """
    expanded = []
    for argument in arguments:
        match = _HOME.fullmatch(argument)
        expanded.append((match[1] or "") + os.path.expanduser(match[2]) if match else argument)
    return expanded


def unknown(what: str, name: str, known: Iterable[str], where: str = "") -> str:
    """The message about a name that there is not: what was meant, maybe, and what there is.

    Args:
        what: it should be a name of, such as "optimizer".
        name: what came.
        known: the names there are.
        where: said before these, such as "of flows ".
    """
    known = list(known)
    listed = f"there are: {', '.join(known)}"
    return f"unknown {what} {name!r}; {did_you_mean(name, known)}{where}{listed}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggests the closest of the known names, as a part of a message; "" if none is close."""
    close = closest(name, known)
    return f"did you mean {close!r}? " if close else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant, or None.

    It is one that is the same but for case and punctuation (vit_b16 for ViT-B_16), whose words
    begin with these letters (lr for learning_rate), that ends in these words (epochs for
    total_epochs), that is spelled nearly so (lerning_rate), or that begins so (acc for accuracy).
    """
    known = list(known)
    given = _plain(name)
    if not given:
        return None
    plain = {_plain(one): one for one in reversed(known)}  # the first of several
    if given in plain:
        return plain[given]
    for shorten in (_initials, _last_word):
        for one in known:
            if len(given) > 1 and shorten(one) == given:
                return one
    close = difflib.get_close_matches(given, plain, n=1)
    if close:
        return plain[close[0]]
    longer = [one for one in plain if len(given) > 2 and one.startswith(given)]
    return plain[longer[0]] if longer else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.lower())


def _initials(name: str) -> str:
    return "".join(word[0] for word in _words(name))


def _last_word(name: str) -> str:
    return (_words(name) or [""])[-1]
