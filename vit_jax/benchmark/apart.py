"""Runs a part of a benchmark in a process of its own, which has all memory and XLA's flags anew."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_LONGEST_S = 540  # less than the ten minutes that some machines give a command
_TOO_LARGE = ("RESOURCE_EXHAUSTED", "OutOfMemoryError")


class Failed(Exception):
    """A part that gave no figures.

    Attributes:
        is_too_large: whether the memory was too small for it.
    """

    def __init__(self, reason: str, is_too_large: bool) -> None:
        super().__init__(reason)
        self.is_too_large = is_too_large


def run_apart(args: Sequence[str], xla_flags: str = "") -> Any:
    """Runs `python -m vit_jax.benchmark ARGS`, which prints JSON as its last line.

    Args:
        args: of the command.
        xla_flags: besides those that are set.

    Returns:
        What it prints.

    Raises:
        Failed: if it ends otherwise; the message is the last line of its errors.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip()
    try:
        result = subprocess.run(
            [sys.executable, "-m", "vit_jax.benchmark", *args],
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=False,
            timeout=_LONGEST_S,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"took longer than {_LONGEST_S} s", is_too_large=False) from None
    if result.returncode == 0:
        sys.stderr.write(result.stderr)  # such as who is not compared with
        return json.loads(result.stdout.splitlines()[-1])
    errors = result.stderr.strip()
    was_killed = result.returncode == -signal.SIGKILL  # as Linux does where memory is used up
    is_too_large = was_killed or any(sign in errors for sign in _TOO_LARGE)
    last_line = errors.splitlines()[-1] if errors else f"exit code {result.returncode}"
    raise Failed(last_line.removeprefix("error: "), is_too_large)
