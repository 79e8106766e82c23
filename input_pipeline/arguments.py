"""What a person types after a command."""

import os
import re
from collections.abc import Sequence

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
