"""Stopping a run when it is asked to: by SIGTERM, as clusters do, or by SIGINT, which is Ctrl-C."""

import os
import signal
import threading
from types import FrameType
from typing import Any

EXIT_CODE = 75  # "try again later" in sysexits.h

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A run was asked to stop, and has saved its state."""


class StopRequest:
    """Notes the first signal to stop, inside a with statement; a second one ends the process.

    Outside of the main thread, which alone gets signals, it does nothing.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def signal(self) -> str | None:
        """Name of the signal that came, or None."""
        return None if self._signal is None else self._signal.name

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = signal.Signals(number)
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
