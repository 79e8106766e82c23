"""PyTorch models as contenders."""

import contextlib
import copy
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch

from checkpoints import torch as torch_names
from vit_jax.benchmark.models import PYTORCH, TIMM
from vit_jax.benchmark.race import Contender, stepping

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


def images(batch: jax.Array | np.ndarray) -> torch.Tensor:
    """(b, h, w, c) -> the same as (b, c, h, w) on PyTorch's device."""
    return torch.from_numpy(np.asarray(batch).transpose(0, 3, 1, 2).copy()).to(_DEVICE)


def inference(
    name: str,
    theirs: torch.nn.Module,
    batches: Sequence[jax.Array],
    dtype: str,
    calls: int = 1,
) -> Iterator[Contender]:
    """Inference as `name`, and compiled, if it can be, as `name compiled`.

    The model takes one batch of images or several. Compiled, they have their channels last. A
    classifier's weights are in the compute type; what makes images computes under autocast, as its
    authors do.
    """
    inputs = [images(batch) for batch in batches]
    if dtype != "float32" and name == TIMM:
        theirs, *inputs = (x.to(getattr(torch, dtype)) for x in (theirs, *inputs))

    def contender(name: str, apply: Callable[..., Any], inputs: list[torch.Tensor]) -> Contender:
        def run() -> torch.Tensor:
            with torch.inference_mode(), precision(dtype if name.startswith(PYTORCH) else None):
                return apply(*inputs)

        def call() -> None:
            for _ in range(calls):
                run()
            wait()

        def output() -> np.ndarray:
            out = run().float().cpu().numpy()
            return out.transpose(0, 2, 3, 1) if out.ndim == 4 else out

        return Contender(name, call, output, own_bytes(call))

    yield contender(name, theirs, inputs)
    if can_compile():
        theirs, inputs = _channels_last(name, copy.deepcopy(theirs), inputs)
        compiled = torch.compile(theirs, dynamic=False)
        yield contender(f"{name} compiled", compiled, inputs)


def training(
    name: str,
    theirs: torch.nn.Module,
    batch: Mapping[str, np.ndarray],
    dtype: str,
    calls: int = 1,
    **optim: float,
) -> Iterator[Contender]:
    """Steps of fused AdamW as `name`, and on accelerators compiled as `name compiled`.

    The compute type is that of autocast; attention is PyTorch's fused one where timm uses it.

    Args:
        name: of the contender.
        theirs: the model; it stays as it is.
        batch: `image`, and `label` or `target`; or `image2`, `flow` and `valid`.
        dtype: compute type.
        calls: steps to start before waiting.
        **optim: settings of the optimizer.
    """
    loss_of = _loss(batch)
    given = [images(batch[key]) for key in ("image", "image2") if key in batch]

    def contender(name: str, compiles: bool) -> Contender:
        model, inputs = copy.deepcopy(theirs).train(), given
        if compiles:
            model, inputs = _channels_last(name, model, inputs)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True, **optim)
        apply = torch.compile(model, dynamic=False) if compiles else model

        def advance() -> torch.Tensor:
            with precision(dtype):
                loss = loss_of(apply(*inputs))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        def step() -> None:
            advance()
            wait()

        return stepping(name, advance, wait, calls, own_bytes=own_bytes(step))

    yield contender(name, compiles=False)
    if _DEVICE == "cuda" and can_compile():
        yield contender(f"{name} compiled", compiles=True)


def _loss(batch: Mapping[str, np.ndarray]) -> Callable[[torch.Tensor], torch.Tensor]:
    """What an output is to be trained by: the first loss of the task that the batch is for."""
    functional = torch.nn.functional
    if "label" in batch:
        labels = torch.tensor(batch["label"], dtype=torch.int64, device=_DEVICE)
        return lambda out: functional.cross_entropy(out, labels)
    if "flow" not in batch:
        target = images(batch["target"])
        return lambda out: functional.l1_loss(out, target)
    flow = images(batch["flow"])
    valid = images(batch["valid"][..., None]) * (flow.norm(dim=1, keepdim=True) < 400)

    def sequence(out: torch.Tensor) -> torch.Tensor:
        shares = 0.8 ** torch.arange(len(out) - 1, -1, -1, device=_DEVICE)
        return (shares * (valid * (out - flow).abs()).mean(dim=(1, 2, 3, 4))).sum()

    return sequence


def _channels_last(
    name: str, model: torch.nn.Module, inputs: list[torch.Tensor]
) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """Lays images out as compiled convolutions like it; that of timm's ViTs is no reason to."""
    convolves = any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    if name.startswith(TIMM) and not convolves:
        return model, inputs
    layout = torch.channels_last
    return model.to(memory_format=layout), [x.contiguous(memory_format=layout) for x in inputs]


def product(a: np.ndarray, b: np.ndarray) -> Contender:
    """A product of two matrices."""
    tensors = [torch.from_numpy(x).to(_DEVICE) for x in (a, b)]

    def call() -> torch.Tensor:
        out = tensors[0] @ tensors[1]
        wait()
        return out

    return Contender("PyTorch", call, lambda: call().cpu().numpy(), own_bytes(call))


def precision(dtype: str | None) -> contextlib.AbstractContextManager[None]:
    """Computes in another type than float32, as PyTorch's users do; None is that of the weights."""
    if dtype in (None, "float32"):
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
