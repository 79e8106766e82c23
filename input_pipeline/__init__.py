"""Input pipeline: from data on disk to batches on the devices.

Importing it quiets TensorFlow and keeps it off the accelerators, which belong to JAX.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # or TensorFlow announces it at every start

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

from input_pipeline.pipeline import Dataset, Shard, get_dataset  # noqa: E402

__all__ = ["Dataset", "Shard", "get_dataset"]
