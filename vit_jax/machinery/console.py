"""What a person sees while something runs: lines of the log, and progress bars."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from absl import logging as absl_logging

if TYPE_CHECKING:  # what --help need not wait for
    from tqdm import tqdm

_LOGGERS = ("vit_jax", "input_pipeline", "checkpoints")
_YELLOW = "\033[33m{}\033[0m"


def show_log() -> None:
    """Shows what our packages have to say, a line each; for commands and notebooks."""
    warnings.filterwarnings("ignore", module="PIL")  # of files; what matters is raised
    absl_logging.set_verbosity(absl_logging.FATAL)  # orbax shows what it raises, which we do
    handler = logging.StreamHandler(_stream())
    handler.setFormatter(_Formatter("%(message)s"))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [handler]
        logger.propagate = False


class _Formatter(logging.Formatter):
    """Warnings in yellow."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        is_warning = record.levelno >= logging.WARNING
        return _YELLOW.format(line) if is_warning and _has_colours() else line


def _has_colours() -> bool:
    """Whether a person reads stderr on a terminal, and has not set NO_COLOR (no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def hush() -> None:
    """Leaves the log to another process, but for errors."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


def _stream() -> TextIO:
    return sys.stdout if _in_notebook() else sys.stderr  # a notebook paints stderr red


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> "tqdm":
    """A progress bar, on a terminal and in a notebook alone; the options are those of tqdm."""
    from tqdm import tqdm

    is_watched = sys.stderr.isatty() or _in_notebook()
    disable = options.pop("disable", False) or not is_watched
    colour = "green" if _has_colours() else None
    return tqdm(
        iterable, file=_stream(), dynamic_ncols=True, disable=disable, colour=colour, **options
    )


def above(bar: "tqdm") -> contextlib.AbstractContextManager[None]:
    """Keeps lines of the log above a bar."""
    if bar.disable:
        return contextlib.nullcontext()
    from tqdm.contrib.logging import logging_redirect_tqdm

    return logging_redirect_tqdm([logging.getLogger(name) for name in _LOGGERS])
