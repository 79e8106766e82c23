"""A person's image file, prepared as an evaluation prepares its images."""

from collections.abc import Callable

import numpy as np

from input_pipeline import files, pipeline, preprocess
from input_pipeline.cpu_tf import tf


def make_preparer(spec: str) -> Callable[[bytes], np.ndarray]:
    """Makes the function from an image file's bytes to (h, w, c) float32.

    Args:
        spec: preprocessing of an evaluation, see `preprocess`.

    Returns:
        The function; it raises a ValueError for what is no image, or does not fit the string.
    """
    apply = preprocess.build_for_decoded(spec)

    def prepare(data: bytes) -> np.ndarray:
        try:
            return apply(files.decode_in_python(data), np.zeros(2, np.int32)).numpy()
        except tf.errors.OpError as error:
            raise ValueError(pipeline.explain(error)) from error

    return prepare
