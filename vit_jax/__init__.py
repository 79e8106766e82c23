"""vit_jax: vision transformers in JAX/Flax, from pretraining to use."""

import os
import typing
from typing import Any

if typing.TYPE_CHECKING:
    from vit_jax.answering import load as load

# Before anything imports TensorFlow, which would talk at every start. So does input_pipeline.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # imported when it is used: it takes seconds
        from vit_jax.answering import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
