"""PyTorch models as contenders."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch

from checkpoints import torch as torch_names
from vit_jax.benchmark.race import Contender

_DEVICE = "cuda" if jax.default_backend() == "gpu" else "cpu"
if _DEVICE == "cpu":
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                          else os.cpu_count() or 1)  # fmt: skip


def load(theirs: torch.nn.Module, variables: Mapping[str, Any], model: Any) -> torch.nn.Module:
    """Gives a PyTorch model our weights, through the converter, and puts it on the device."""
    state_dict = torch_names.to_state_dict(variables, model)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state_dict.items()}
    theirs.load_state_dict(tensors, strict=True)
    return theirs.eval().to(_DEVICE)


def images(batch: jax.Array) -> torch.Tensor:
    """(b, h, w, c) -> the same as (b, c, h, w) on PyTorch's device."""
    return torch.from_numpy(np.asarray(batch).transpose(0, 3, 1, 2).copy()).to(_DEVICE)


def contender(
    name: str, theirs: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, dtype: str
) -> Contender:
    """Inference of a PyTorch model."""

    def call() -> torch.Tensor:
        with torch.inference_mode(), precision(dtype):
            out = theirs(inputs)
        wait()
        return out

    def output() -> np.ndarray:
        out = call().float().cpu().numpy()
        return out.transpose(0, 2, 3, 1) if out.ndim == 4 else out

    return Contender(name, call, output, own_bytes(call))


def product(a: np.ndarray, b: np.ndarray) -> Contender:
    """A product of two matrices."""
    tensors = [torch.from_numpy(x).to(_DEVICE) for x in (a, b)]

    def call() -> torch.Tensor:
        out = tensors[0] @ tensors[1]
        wait()
        return out

    return Contender("PyTorch", call, lambda: call().cpu().numpy(), own_bytes(call))


def precision(dtype: str) -> contextlib.AbstractContextManager[None]:
    """Computes in another type than float32, as PyTorch's users do."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(_DEVICE, getattr(torch, dtype))


def wait() -> None:
    """Waits for the device."""
    if _DEVICE == "cuda":
        torch.cuda.synchronize()


def own_bytes(call: Callable[[], Any]) -> Callable[[], int] | None:
    """Makes the function that says what a call takes on a GPU over what was there."""

    def measure() -> int:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before

    return measure if _DEVICE == "cuda" else None


@functools.cache
def can_compile() -> bool:
    """Whether torch.compile works, which needs compilers; says so on stderr where not."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=_DEVICE))
    except RuntimeError as error:  # of which those of its compilers are
        print(f"not compared with torch.compile: {error}".splitlines()[0], file=sys.stderr)
        return False
    return True
