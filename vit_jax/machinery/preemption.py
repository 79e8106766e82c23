"""Stopping a run when it is asked to: by SIGTERM, as clusters do, or by SIGINT, which is Ctrl-C."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vit_jax.machinery import sharding

EXIT_CODE = 75  # "try again later" in sysexits.h

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A run was asked to stop, and has saved its state."""


class StopRequest:
    """Notes the first signal to stop, inside a with statement; a second one ends the process.

    Outside of the main thread, which alone gets signals, it does nothing.

    Args:
        mesh: of the devices of all processes.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._signal = 0
        self._before: dict[signal.Signals, Any] = {}
        self._rows = sharding.batch_sharding(mesh)
        self._largest = jax.jit(jnp.max, out_shardings=sharding.replicated(mesh))
        self._sent: jax.Array | None = None

    def poll(self) -> str | None:
        """Returns the name of the signal that came, or None; for every process to call alike.

        All processes are told the same. If there are several, it is what they knew at the call
        before, so that none has to wait.
        """
        number = self._signal
        if jax.process_count() > 1:
            known = np.full(jax.local_device_count(), self._signal, np.int32)
            sent, everyones = self._sent, jax.make_array_from_process_local_data(self._rows, known)
            self._sent = self._largest(everyones)
            number = 0 if sent is None else int(sent)
        return signal.Signals(number).name if number else None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal = number
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
