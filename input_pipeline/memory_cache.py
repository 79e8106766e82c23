"""Decoded images kept in memory, so that an epoch after the first need not read them again."""

import logging
import threading
from collections.abc import Callable

import numpy as np
import psutil

from input_pipeline.cpu_tf import tf

_LOG = logging.getLogger(__name__)

_SHARE = 0.5  # of the memory that is available at the beginning

Example = dict[str, tf.Tensor]


class MemoryCache:
    """A loader that keeps what another one returns, as far as it fits into memory.

    Args:
        loader: turns a row into an example, the same one each time.
        limit: bytes to keep; None is half of the memory that is available now.
    """

    def __init__(self, loader: Callable[[Example], Example], limit: int | None = None) -> None:
        self._loader = loader
        self._kept: dict[int, list[np.ndarray]] = {}
        available = psutil.virtual_memory().available
        self._room = int(_SHARE * available) if limit is None else limit
        self._lock = threading.Lock()
        self._is_full = False

    def __call__(self, example: Example) -> Example:
        """Returns what the loader returns for a row; for use in tf.data.

        It has an `index`, and where several examples are the same row, its number as `row`.
        """
        row = {k: tf.TensorSpec.from_tensor(v) for k, v in example.items() if k != "seed"}
        loader = tf.function(self._loader, autograph=False)
        specs = loader.get_concrete_function(row).structured_outputs
        dtypes = [spec.dtype for spec in specs.values()]
        index = example["row"] if "row" in example else example["index"]

        def recall() -> list[tf.Tensor]:
            return tf.numpy_function(self._recall, [index], dtypes)

        def load() -> list[tf.Tensor]:
            loaded = self._loader({k: example[k] for k in row})
            return tf.numpy_function(self._keep, [index, *loaded.values()], dtypes)

        is_kept = tf.numpy_function(lambda i: int(i) in self._kept, [index], tf.bool)
        values = tf.cond(is_kept, recall, load)
        return {
            name: tf.ensure_shape(value, spec.shape)
            for (name, spec), value in zip(specs.items(), values)
        }

    def _recall(self, index: np.ndarray) -> list[np.ndarray]:
        return self._kept[int(index)]

    def _keep(self, index: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
        copies = [np.array(value) for value in values]  # since TensorFlow takes its memory back
        size = sum(copy.nbytes for copy in copies)
        with self._lock:
            if size <= self._room:
                self._room -= size
                self._kept[int(index)] = copies
            elif not self._is_full:
                self._is_full = True
                _LOG.warning(
                    "data.cache: %d images fit into memory, the others are read in every epoch",
                    len(self._kept),
                )
        return copies
