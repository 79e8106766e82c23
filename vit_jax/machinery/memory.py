"""How much memory a step takes, said before the first, and what to do if it is too much."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import psutil

_LOG = logging.getLogger(__name__)

_REMEDIES = (
    "a smaller batch_size, more accum_steps, model.remat=True or dtype=bfloat16 makes the "
    "activations smaller; fsdp spreads parameters and optimizer over devices"
)


class Measured:
    """A jitted function that is compiled at its first call, and then says what memory it takes.

    Batches of other shapes are compiled for, and spoken of, too.

    Args:
        function: of `jax.jit`; of the arguments of a call, the last may have other shapes than in
            the call before.
        *first: arguments that come before those of every call.

    Attributes:
        function: as it was given.
        first: as they were given.
        needs: says what a call takes; "" before the first.
    """

    def __init__(self, function: Any, *first: Any) -> None:
        self.function = function
        self.first = first
        self._compiled: dict[tuple[tuple[int, ...], ...], Callable[..., Any]] = {}
        self.needs = ""

    def __call__(self, *args: Any) -> Any:
        """Calls the function."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(args[-1:]))
        if shapes not in self._compiled:
            compiled = self.function.lower(*self.first, *args).compile()
            self._compiled[shapes] = compiled
            self.needs = _describe(compiled.memory_analysis())
            _LOG.info("%s", self.needs)
        return self._compiled[shapes](*self.first, *args)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Makes a ValueError with numbers and remedies of an error about too little memory."""
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"the memory is too small ({reason}). {self.needs or 'It does not compile'}: "
                f"{_REMEDIES}"
            ) from error


def _describe(analysis: Any) -> str:
    kept = analysis.argument_size_in_bytes
    made = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    temporary = analysis.temp_size_in_bytes
    stats = jax.local_devices()[0].memory_stats() or {}
    there = stats.get("bytes_limit", psutil.virtual_memory().total)
    return (
        f"a step takes {_size(kept + made + temporary)} on each device: {_size(kept)} for the "
        f"state and the batch, {_size(temporary + made)} for the rest; it has {_size(there)}"
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
