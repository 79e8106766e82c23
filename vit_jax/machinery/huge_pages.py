"""Memory in pages of 2 MiB in place of 4 KiB, for commands that compute on a CPU."""

import itertools
import os
import sys
from pathlib import Path

_LINUX = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_VARIABLE, _ASKS = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def ask_for() -> None:
    """Begins a command's process anew, as one whose C library asks Linux for large pages.

    XLA takes memory for what lies between layers at each call, so that a step spends a tenth of
    its time on the system's tables of pages. Where Linux gives large ones to whoever asks, as most
    are set, glibc from version 2.35 on asks if a variable says so, which it reads when a process
    begins. So this is for the top of a command's file, before what takes seconds to import.

    Whoever has set GLIBC_TUNABLES, if only to nothing, is left alone, and so are debuggers, and
    who runs a command's file within another process.

    Source: the GNU C library's manual, "Memory Allocation Tunables"; Linux, transhuge.rst.
    """
    if _VARIABLE in os.environ or sys.gettrace() is not None:
        return
    if _is_own_process() and _must_be_asked():
        os.environ[_VARIABLE] = _ASKS
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_own_process() -> bool:
    spec = sys.modules["__main__"].__spec__
    name = "" if spec is None else spec.name.removesuffix(".__main__")
    return ("-m", name) in itertools.pairwise(sys.orig_argv)


def _must_be_asked() -> bool:
    try:
        return "[madvise]" in _LINUX.read_text()
    except OSError:  # another system, or a kernel without
        return False
