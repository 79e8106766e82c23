"""The flags by which a command is told that it is one of several processes."""

import contextlib

from absl import flags

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "This is one of several processes, which a TPU pod, SLURM or Open MPI has started.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first of several processes, started by hand."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")


def joined() -> contextlib.AbstractContextManager[None]:
    """Makes this process part of what the flags say, see `processes.joined`."""
    from vit_jax.machinery import processes  # imports JAX

    return processes.joined(
        _DISTRIBUTED.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    )
