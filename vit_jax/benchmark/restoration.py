"""Models that restore images beside PyTorch."""

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.benchmark.race import OURS, Case, Contender, Goal, has_torch, jitted
from vit_jax.models import dehazeformer, get_model, swinir

EAGER, COMPILED = "PyTorch", "PyTorch compiled"

# Multiplications and additions of one image of 256 x 256 pixels, in billions, counted as pairs.
_GMACS = {"DehazeFormer-T": 6.66, "DehazeFormer-S": 13.1, "DehazeFormer-B": 25.8,
          "DehazeFormer-M": 48.6, "DehazeFormer-L": 279.7}  # fmt: skip


def _dehazeformer(size: tuple[int, int], **fields: Any) -> Any:
    del size  # it takes images of any
    from vit_jax.benchmark.torch_dehazeformer import DehazeFormer

    return DehazeFormer(**fields)


def _swinir(size: tuple[int, int], **fields: Any) -> Any:
    from vit_jax.benchmark.torch_swinir import SwinIR

    return SwinIR(size, **fields)


# Our models that there are in PyTorch: what makes them there, and of which fields.
_IN_PYTORCH: dict[type, tuple[Callable[..., Any], tuple[str, ...]]] = {
    dehazeformer.DehazeFormer: (
        _dehazeformer,
        ("hidden_sizes", "depths", "num_heads", "mlp_ratios", "attention_ratios", "conv"),
    ),
    swinir.SwinIR: (
        _swinir,
        (
            "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "upscale", "upsampler",
            "resi_connection", "img_range", "in_channels",
        ),
    ),
}  # fmt: skip


def in_pytorch(model: Any, size: tuple[int, int]) -> Any:
    """Makes the PyTorch module that computes what a model does, for images of (h, w)."""
    make, fields = _IN_PYTORCH[type(model)]
    return make(size, **{field: getattr(model, field) for field in fields})


def restore(name: str, batch: int, size: int, dtype: str, goals: tuple[Goal, ...] = ()) -> Case:
    """Restored images."""

    def contenders(_: Path) -> Iterator[Contender]:
        model = get_model(name, dtype=dtype)
        if model.predicts != "target":
            raise ValueError(f"{name} restores no images: time it with inference or train")
        random = np.random.default_rng(0)
        images = jnp.asarray(random.uniform(-1, 1, (batch, size, size, 3)), jnp.float32)
        variables = jax.jit(model.init)(jax.random.key(0), images[:1])
        apply = jax.jit(functools.partial(model.apply, train=False))
        yield jitted(OURS, apply, variables, images)
        if type(model) not in _IN_PYTORCH or not has_torch():
            return
        import torch

        from vit_jax.benchmark import torch_contender

        theirs = torch_contender.load(in_pytorch(model, (size, size)), variables, model)
        inputs = torch_contender.images(images)
        yield torch_contender.contender(EAGER, theirs, inputs, dtype)
        if torch_contender.can_compile():
            layout = torch.channels_last
            theirs = copy.deepcopy(theirs).to(memory_format=layout)
            theirs = torch.compile(theirs, dynamic=False)
            inputs = inputs.contiguous(memory_format=layout)
            yield torch_contender.contender(COMPILED, theirs, inputs, dtype)

    flops = 2e9 * _GMACS[name] * batch if name in _GMACS and size == 256 else None
    return Case(
        f"{name}, {size} x {size}, batch {batch}", contenders, batch, flops,
        1e-4 if dtype == "float32" else 0.05, goals,
    )  # fmt: skip
