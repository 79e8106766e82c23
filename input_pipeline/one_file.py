"""A person's image file, prepared as an evaluation prepares its images."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import numpy as np

from input_pipeline import files, preprocess
from input_pipeline.tf_or_numpy import NotInNumpy, in_numpy, tf


def make_preparer(spec: str) -> Callable[[bytes], np.ndarray]:
    """Makes the function from an image file's bytes to (h, w, c) float32.

    TensorFlow, which takes seconds to import, is asked only for what `numpy_ops` lacks.

    Args:
        spec: preprocessing of an evaluation, see `preprocess`.

    Returns:
        The function; it raises a ValueError for what is no image, or does not fit the string.
    """
    apply = preprocess.build(spec, train=False, decoded=True)
    are_ours = preprocess.are_ours(spec)

    @functools.cache
    def graph() -> Callable[..., tf.Tensor]:
        return preprocess.build_for_decoded(spec)

    def prepare(data: bytes) -> np.ndarray:
        image = files.decode_in_python(data)
        if are_ours:
            with contextlib.suppress(NotInNumpy), in_numpy():
                return apply({"image": image}, None)["image"]
        try:
            return graph()(image, np.zeros(2, np.int32)).numpy()
        except tf.errors.OpError as error:
            from input_pipeline import pipeline

            raise ValueError(pipeline.explain(error)) from error

    return prepare
