"""Reading ahead: files are read and prepared in threads while the devices compute."""

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeVar

import jax
import numpy as np

from vit_jax.machinery import sharding

Thing = TypeVar("Thing")

_THREADS = min(16, os.cpu_count() or 1)
# Images of a batch for each device: more gain nothing on a CPU, and fewer leave others idle.
_PER_DEVICE = {"cpu": 8}
_PER_OTHER_DEVICE = 64


def prepared(
    things: Iterable[Thing], prepare: Callable[[Thing], Any], ahead: int = 2 * _THREADS
) -> Iterator[tuple[Thing, Any]]:
    """Prepares things in threads, a few ahead of their use.

    Args:
        things: files, say.
        prepare: is called with each, in any of several threads at once.
        ahead: how many may be prepared, or be on their way, before they are asked for.

    Yields:
        Each thing in turn, with what `prepare` returned, or the exception that it raised.
    """
    coming: collections.deque[tuple[Thing, futures.Future[Any]]] = collections.deque()
    pool = futures.ThreadPoolExecutor(_THREADS)
    try:
        for thing in things:
            coming.append((thing, pool.submit(prepare, thing)))
            if len(coming) > ahead:
                yield _result(coming.popleft())
        while coming:
            yield _result(coming.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _result(submitted: tuple[Thing, futures.Future[Any]]) -> tuple[Thing, Any]:
    thing, future = submitted
    try:
        return thing, future.result()
    except Exception as error:  # whoever asked says it of the thing
        return thing, error


class Batches:
    """Computes something of many images, in batches of few shapes that fill this process's devices.

    Args:
        size: images of a batch; None for what suits the devices.

    Raises:
        ValueError: if it is not positive.
    """

    def __init__(self, size: int | None = None) -> None:
        devices = jax.local_device_count()
        if size is None:
            size = devices * _PER_DEVICE.get(jax.default_backend(), _PER_OTHER_DEVICE)
        if size < 1:
            raise ValueError(f"--batch_size must be at least 1, not {size}")
        self._devices = devices
        self.size = -(-size // devices) * devices

    def place(self, variables: Any) -> Any:
        """Puts variables on all devices."""
        return jax.device_put(variables, sharding.local_copies())

    def compute(
        self,
        things: Sequence[Thing],
        prepare: Callable[[Thing], np.ndarray],
        apply: Callable[[jax.Array], jax.Array],
    ) -> Iterator[tuple[Thing, np.ndarray | None, np.ndarray | Exception]]:
        """Computes while the next images are prepared, and results are fetched one batch later.

        Args:
            things: files, say.
            prepare: from one to an image, (h, w, c), of one size.
            apply: from (rows, h, w, c) images, on the devices, to (rows, ...) results.

        Yields:
            Each thing in turn, its image, and its result; or None, and the exception that
            `prepare` raised.
        """
        rows = self._rows(len(things))
        coming = prepared(things, prepare, ahead=rows + 2 * _THREADS)
        waiting: tuple[list[tuple[Thing, np.ndarray | Exception]], Any] = [], None
        while batch := list(itertools.islice(coming, rows)):
            images = [value for _, value in batch if not isinstance(value, Exception)]
            results = apply(self._fill(images, rows)) if images else None
            yield from _with_results(*waiting)
            waiting = batch, results
        yield from _with_results(*waiting)

    def _rows(self, count: int) -> int:
        """Rows of the batches of so many images: a whole one, or the next power of two for few."""
        few = 1 << max(count - 1, 0).bit_length()
        return min(self.size, -(-few // self._devices) * self._devices)

    def _fill(self, images: Sequence[np.ndarray], rows: int) -> jax.Array:
        filled = np.zeros((rows, *images[0].shape), images[0].dtype)
        np.stack(images, out=filled[: len(images)])
        return jax.device_put(filled, sharding.local_rows())


def _with_results(
    batch: Sequence[tuple[Thing, np.ndarray | Exception]], results: Any
) -> Iterator[tuple[Thing, np.ndarray | None, np.ndarray | Exception]]:
    rows = iter(()) if results is None else iter(np.asarray(results))
    for thing, value in batch:
        if isinstance(value, Exception):
            yield thing, None, value
        else:
            yield thing, value, next(rows)
