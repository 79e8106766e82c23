"""One run in several processes, on one host or on many: how they begin, agree, and end."""

import atexit
import contextlib
import logging
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.machinery import console, preemption

_LOG = logging.getLogger(__name__)

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
        _check_address(*address)
        distributed = True
    if not distributed:
        _check_alone()
        yield
        return

    jax.config.update("jax_enable_preemption_service", False)  # see preemption.StopRequest
    if coordinator_address:
        _LOG.info("joining %d processes at %s ...", num_processes, coordinator_address)
    try:
        jax.distributed.initialize(*address)
    except ValueError as error:
        raise ValueError(
            f"nothing says where the other processes are ({error}): give --coordinator_address, "
            "--num_processes and --process_id"
        ) from None
    except RuntimeError as error:
        raise ValueError(f"cannot join the other processes: {error}") from error
    if not is_first():
        console.hush()
    try:
        yield
    except preemption.Stopped:
        raise  # as all of them do
    except jax.errors.JaxRuntimeError as error:
        atexit.register(_leave)
        reason = str(error).splitlines()[0]
        raise OSError(
            f"this process lost touch with the others, of which one may have ended ({reason}): the "
            "same command continues from the last checkpoint"
        ) from error
    except BaseException:
        atexit.register(_leave)
        raise


def _check_address(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    if coordinator_address is None or num_processes is None or process_id is None:
        raise ValueError("--coordinator_address, --num_processes and --process_id go together")
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator_address must be HOST:PORT, not {coordinator_address!r}")
    if num_processes < 1:
        raise ValueError(f"--num_processes must be at least 1, not {num_processes}")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"--process_id must be in 0 .. {num_processes - 1}, not {process_id}")


def _check_alone() -> None:
    for launcher, variable in _COUNTS.items():
        count = os.environ.get(variable, "")
        if count.isdigit() and int(count) > 1:
            raise ValueError(
                f"{launcher} has started {count} processes, which would all do the "
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


def check_same(settings: Mapping[str, Any]) -> None:
    """Compares what all processes must have alike; each must call it.

    Raises:
        ValueError: in all of them, if something differs; the message says what.
    """
    everyones = gather(settings)
    for key, value in everyones[0].items():
        for i, other in enumerate(everyones):
            if other[key] != value:
                raise ValueError(
                    f"process {i} has other settings than the first: {key} is {other[key]!r}, and "
                    f"not {value!r}; start all with the same command and the same data"
                )
