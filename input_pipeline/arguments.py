"""What a person types after a command."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

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


class Parser(argparse.ArgumentParser):
    """Reads the arguments of `python -m MODULE`, and answers a mistake in one line.

    Args:
        module: its name.
        description: what --help says before the arguments.
    """

    def __init__(self, module: str, description: str | None) -> None:
        super().__init__(
            prog=f"python -m {module}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Reads arguments; None: those that the process was started with."""
        given = expand_home(sys.argv[1:] if arguments is None else arguments)
        args, others = self.parse_known_args(given)
        if others:
            flags = [flag for action in self._actions for flag in action.option_strings]
            name = others[0].partition("=")[0]
            hint = did_you_mean(name, flags) if name.startswith("-") else ""
            self.error(f"do not know what to do with {' '.join(others)}; {hint}--help lists all")
        return args

    def error(self, message: str) -> NoReturn:
        """Ends the process with a line and exit code 2."""
        sys.stderr.write(f"error: {message}\n")
        sys.exit(2)


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
