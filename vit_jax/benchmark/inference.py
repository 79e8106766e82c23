"""Inference of any model beside PyTorch and flax's own modules."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ops
from vit_jax.benchmark import models, plain_flax
from vit_jax.benchmark.race import OURS, Case, Contender, has_torch, jitted


def infer(
    name: str,
    batch: int,
    size: int,
    dtype: str,
    calls: int = 1,
    **fields: Any,
) -> Case:
    """Logits, restored images, or flows, of a batch.

    Args:
        name: of the model.
        batch: images per call.
        size: side of the images.
        dtype: compute type.
        calls: that are started before the last is waited for.
        **fields: of the model.
    """

    def contenders(_: Path) -> Iterator[Contender]:
        model, variables = models.make(name, size, dtype, **fields)
        random = np.random.default_rng(0)
        images = tuple(
            jnp.asarray(random.uniform(-1, 1, (batch, size, size, 3)), jnp.float32)
            for _ in model.inputs((size, size))
        )
        apply = jax.jit(
            functools.partial(model.apply, train=False), compiler_options=ops.compiler_options()
        )
        yield jitted(OURS, apply, variables, *images, calls=calls)
        for who, plain in plain_flax.like(model):
            yield jitted(who, jax.jit(plain.apply), variables, *images, calls=calls)
        if others := models.others(name, model, variables, (size, size)):
            from vit_jax.benchmark import torch_contender

            yield from torch_contender.inference(*others, images, dtype, calls)

    return Case(
        f"{name}, {size} x {size}, batch {batch}", contenders, batch,
        models.flops(name, size, batch, 2), models.tolerance(name, dtype), calls,
    )  # fmt: skip


def matrix_product() -> Case:
    """A product as in a ViT-B of batch 8: how much of a ratio is that of the libraries alone."""
    rows, inner, columns = 8 * 197, 768, 3072

    def contenders(_: Path) -> Iterator[Contender]:
        random = np.random.default_rng(0)
        a = random.standard_normal((rows, inner), np.float32)
        b = random.standard_normal((inner, columns), np.float32)
        yield jitted(OURS, jax.jit(jnp.matmul), jnp.asarray(a), jnp.asarray(b))
        if has_torch():
            from vit_jax.benchmark import torch_contender

            yield torch_contender.product(a, b)

    return Case(f"{rows} x {inner} by {inner} x {columns}", contenders)
