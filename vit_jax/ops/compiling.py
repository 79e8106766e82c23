"""What a program is compiled for, and what XLA is told about it."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import layout


def is_for_cpu() -> bool:
    """Whether JAX runs on a CPU, where some computations are better done in another way.

    What is exported from there is so everywhere, which costs accelerators little, and is free of
    choices between platforms, which ONNX does not know.
    """
    return jax.default_backend() == "cpu"


_is_portable = False


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Leaves out what only one kind of device can run, for programs that others are to run."""
    global _is_portable
    before, _is_portable = _is_portable, True
    jax.clear_caches()  # of what was traced outside
    try:
        yield
    finally:
        _is_portable = before
        jax.clear_caches()


def is_portable() -> bool:
    """Whether others are to run what is traced now."""
    return _is_portable


def is_for_gpu() -> bool:
    """Whether JAX runs on an NVIDIA GPU, and nothing else is to run the program."""
    return not _is_portable and jax.default_backend() == "gpu" and cuda_capability() > 0


def compiler_options() -> dict[str, Any] | None:
    """What `jax.jit` is to tell XLA about our programs.

    On an NVIDIA GPU all products go to cuBLASLt, which adds biases, and applies a GELU, before it
    writes the result; XLA's own products by Triton, which it would choose among, have it done
    afterwards. What the variable XLA_FLAGS names is left to it.
    """
    if not is_for_gpu():
        return None
    wanted = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_enable_cublaslt": True}
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        name: value
        for name, value in wanted.items()
        if f"--{name}" not in flags and _is_known(name, value)
    }


@functools.cache
def _is_known(name: str, value: bool) -> bool:
    """Whether this version of XLA has an option."""
    try:
        jax.jit(jnp.negative, compiler_options={name: value}).lower(1.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def cuda_capability() -> float:
    """Of the first device, such as 9.0; 0 where it is no NVIDIA GPU."""
    capability = getattr(jax.devices()[0], "compute_capability", "")
    return float(capability) if re.fullmatch(r"\d+\.\d+", str(capability)) else 0.0


def row_major(x: jax.Array) -> jax.Array:
    """Has a GPU keep x, and its gradient, in memory in the order of its axes.

    Left alone, XLA lets the order that a small product at the end likes best spread through all
    blocks, and transposes before and after each of their products.
    """
    if not is_for_gpu() or (jax.device_count() > 1 and jax.__version_info__ < (0, 11)):
        return x  # the latter would gather a batch that is spread
    return layout.with_layout_constraint(x, layout.Layout(tuple(range(x.ndim))))
