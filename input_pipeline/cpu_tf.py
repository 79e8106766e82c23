"""TensorFlow, quiet, and kept off the accelerators, which belong to JAX."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # or it announces that at every start

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"this needs TensorFlow, as all does that reads data ({error}): pip install tensorflow "
        "tensorflow-datasets clu"
    ) from error

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf"]
