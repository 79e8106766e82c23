"""What the commands share: quiet start-up, and one clear line in place of a traceback."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags

from input_pipeline.arguments import expand_home
from vit_jax.machinery import console, help_flag, huge_pages

_LOG = logging.getLogger(__name__)

_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where an error was raised.")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    "~/.cache/vit_jax",
    "Folder for compiled programs, which the next start takes from there; empty: none. "
    "JAX_COMPILATION_CACHE_DIR, if it is set, comes first.",
)
_CACHE_BYTES = 2**31  # what was not used for longest is removed
_LEAST_SECONDS = 0.1  # of compiling what is kept

_rest: list[str] | None = None  # what `parse_early` has left of the arguments


def before_flags(step: Callable[[], None]) -> None:
    """Does what must be done before flags are read; a ValueError ends the command with a line."""
    try:
        step()
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def parse_early() -> None:
    """Reads the flags, so that --help and mistakes in them are answered at once.

    For the top of a command's file, after its flags, before what takes seconds to import.
    """
    global _rest
    app.define_help_flags()
    _rest = _parse_flags(sys.argv)
    huge_pages.ask_for()


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a command with absl's flags, and ends the process with its exit code.

    A ValueError, which says what a person should change, a FloatingPointError, an OSError or a
    ModuleNotFoundError ends the command with its message alone and exit code 2; --traceback shows
    all of it. A run that was asked to stop, and has saved its state, ends with
    `preemption.EXIT_CODE`.

    Args:
        main: takes the positional arguments, the program's name first; returns the exit code.
    """
    huge_pages.ask_for()
    console.show_log()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files can be of any bytes
            stream.reconfigure(errors="backslashreplace")

    def guarded(argv: Sequence[str]) -> int | None:
        from vit_jax.machinery import preemption  # with JAX, which --help need not wait for

        if _CACHE.value and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
            _keep_compiled(_CACHE.value)
        if _TRACEBACK.value:
            return main(argv)
        try:
            return main(argv)
        except (ValueError, FloatingPointError, OSError, ModuleNotFoundError) as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        except preemption.Stopped as stopped:
            _LOG.info("%s", stopped)
            return preemption.EXIT_CODE
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            return 130

    app.run(guarded, flags_parser=lambda argv: _parse_flags(argv) if _rest is None else _rest)


def _keep_compiled(folder: str) -> None:
    """Lets JAX keep the programs that it compiles.

    Args:
        folder: where; it need not exist.
    """
    import jax  # takes a second, which no mistake in the flags should have to wait for

    path = Path(folder).expanduser()
    _mend_cache(path)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:  # JAX itself says a second
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)


def _mend_cache(folder: Path) -> None:
    """Says of programs that a killed process left without it when they were used: long ago.

    With one that lacks it, JAX would keep no others.
    """
    with contextlib.suppress(OSError):  # of a folder that is not ours
        for program in folder.glob("*-cache"):
            used = program.with_name(f"{program.name.removesuffix('-cache')}-atime")
            if not used.exists():
                used.touch()


def _parse_flags(argv: Sequence[str]) -> list[str]:
    help_flag.define()
    try:
        return flags.FLAGS(expand_home(argv))
    except flags.Error as error:
        sys.stderr.write(f"error: {str(error).strip()}\n")
    sys.exit(2)
