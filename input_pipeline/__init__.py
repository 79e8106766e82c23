"""Input pipeline: from data on disk to batches on the devices."""

from typing import Any

__all__ = ["Dataset", "Shard", "get_dataset"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from input_pipeline import pipeline  # TensorFlow takes seconds to import, and not all need it

    return getattr(pipeline, name)
