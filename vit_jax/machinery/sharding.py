"""How arrays are spread over the devices: one mesh, axes `data` and `fsdp`.

The batch is cut along both axes. Parameters and optimizer state are cut along `fsdp`, each array
along its largest dimension that divides, and are whole on every device if small.
"""

import collections
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_MIN_SHARDED_SIZE = 2**16  # elements; cutting smaller arrays costs more than it saves


def make_mesh(fsdp: int) -> Mesh:
    """Makes the mesh of all devices.

    Args:
        fsdp: devices over which parameters are spread; 1 replicates them.

    Raises:
        ValueError: if fsdp does not divide the number of devices.
    """
    count = jax.device_count()
    if fsdp < 1 or count % fsdp:
        raise ValueError(f"fsdp={fsdp} does not divide the {count} device(s) there are")
    return jax.make_mesh((count // fsdp, fsdp), ("data", "fsdp"), (AxisType.Auto, AxisType.Auto))


def check_batch(mesh: Mesh, batch_size: int, accum_steps: int) -> None:
    """Raises a ValueError unless every device gets the same share of every micro-batch."""
    if accum_steps < 1:
        raise ValueError(f"accum_steps must be at least 1, not {accum_steps}")
    parts = mesh.size * accum_steps
    if batch_size < 1 or batch_size % parts:
        raise ValueError(
            f"batch_size={batch_size} is not divisible by {mesh.size} device(s) x "
            f"{accum_steps} accum_steps = {parts}"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch: rows over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def local_rows() -> NamedSharding:
    """Sharding over this process's own devices: rows over all of them."""
    return batch_sharding(_local_mesh())


def local_copies() -> NamedSharding:
    """Sharding of what each of this process's own devices holds whole."""
    return replicated(_local_mesh())


def _local_mesh() -> Mesh:
    devices = np.array(jax.local_devices()).reshape(-1, 1)
    return Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def state_sharding(mesh: Mesh, state: Any) -> Any:
    """Shardings of a train state.

    Args:
        mesh: of the devices.
        state: tree of arrays or of their shapes.

    Returns:
        A tree of shardings of the same structure.
    """
    fsdp = mesh.shape["fsdp"]

    def shard(leaf: Any) -> NamedSharding:
        divisible = [i for i, n in enumerate(leaf.shape) if n % fsdp == 0]
        if fsdp == 1 or not divisible or np.prod(leaf.shape) < _MIN_SHARDED_SIZE:
            return replicated(mesh)
        largest = max(divisible, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))

    return jax.tree.map(shard, state)


def to_devices(batches: Iterable[Any], mesh: Mesh, ahead: int = 2) -> Iterator[Any]:
    """Puts batches on the devices, a few ahead of their use.

    Args:
        batches: trees of numpy arrays, this process's rows of each batch.
        mesh: of the devices.
        ahead: how many batches are on their way.

    Yields:
        Trees of global arrays.
    """
    sharding = batch_sharding(mesh)
    batches = iter(batches)
    queue: collections.deque[Any] = collections.deque()

    def enqueue(count: int) -> None:
        for batch in itertools.islice(batches, count):
            queue.append(
                jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
            )

    enqueue(ahead)
    while queue:
        batch = queue.popleft()
        enqueue(1)
        yield batch


@contextlib.contextmanager
def known(mesh: Mesh) -> Iterator[None]:
    """Tells what is traced over which mesh batches are spread: `jax.sharding.get_abstract_mesh()`.

    Losses that compare a whole batch ask, to have each device do its own share.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield
