"""vit_jax: vision transformers in JAX/Flax, from pretraining to use."""

import os

# Before anything imports TensorFlow, which would talk at every start. So does input_pipeline.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

__version__ = "0.1.0"
