"""Input pipeline: from data on disk to batches on the devices."""

import importlib
from typing import Any

# TensorFlow takes seconds to import, is not installed everywhere, and not all need it.
_FILES = {"Dataset": "pipeline", "Shard": "pipeline", "get_dataset": "pipeline",
          "MadeUp": "made_up"}  # fmt: skip

__all__ = ["Dataset", "MadeUp", "Shard", "get_dataset"]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"input_pipeline.{_FILES[name]}"), name)
