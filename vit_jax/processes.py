"""One run in several processes, on one host or on many: how they begin, agree, and end."""

import atexit
import contextlib
import os
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax import console, preemption

# Where launchers say how many processes they have started.
_COUNTS = {"srun": "SLURM_STEP_NUM_TASKS", "mpirun": "OMPI_COMM_WORLD_SIZE"}


@contextlib.contextmanager
def joined(
    distributed: bool,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Makes this process part of a run; the first process alone speaks from then on.

    If the with statement ends with an error, other than `preemption.Stopped`, this process does
    not wait for the others when it exits, and they end as soon as they miss it.

    Args:
        distributed: whether there are other processes, found as TPU pods, SLURM and Open MPI
            announce them.
        coordinator_address: "HOST:PORT" of the first, where nothing announces them.
        num_processes: how many there are.
        process_id: which one this is.

    Raises:
        ValueError: if that is at odds with itself, or with how the process was started.
    """
    address = (coordinator_address, num_processes, process_id)
    if any(value is not None for value in address):
        if None in address:
            raise ValueError("--coordinator_address, --num_processes and --process_id go together")
        if not 0 <= process_id < num_processes or ":" not in coordinator_address:
            raise ValueError(
                f"--process_id must be one of 0 .. {num_processes - 1}, not {process_id}, and "
                f"--coordinator_address HOST:PORT, not {coordinator_address!r}"
            )
        distributed = True
    if not distributed:
        _check_alone()
        yield
        return

    jax.config.update("jax_enable_preemption_service", False)  # see preemption.StopRequest
    try:
        jax.distributed.initialize(*address)
    except ValueError as error:
        raise ValueError(
            f"nothing says where the other processes are ({error}): give --coordinator_address, "
            "--num_processes and --process_id"
        ) from None
    if not is_first():
        console.hush()
    try:
        yield
    except preemption.Stopped:
        raise  # as all of them do
    except BaseException:
        atexit.register(_leave)
        raise


def _check_alone() -> None:
    for launcher, variable in _COUNTS.items():
        if int(os.environ.get(variable, 1)) > 1:
            raise ValueError(
                f"{launcher} has started {os.environ[variable]} processes, which would all do the "
                "same run: add --distributed to make them one"
            )
    if jax.process_count() > 1:
        raise ValueError(
            f"this is one of {jax.process_count()} hosts of a TPU pod: add --distributed"
        )


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Brings together what every process has; each must call it.

    Args:
        value: anything that can be pickled, which is safe between the processes of a run.

    Returns:
        The values of all processes, in their order.
    """
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(data.size))
    padded = np.pad(data, (0, sizes.max() - data.size))
    everyones = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(everyones, sizes)]
