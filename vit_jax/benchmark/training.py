"""Training steps of any model beside PyTorch and flax's own modules, on made-up data."""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from configs import common
from input_pipeline import MadeUp
from vit_jax import experiment
from vit_jax.benchmark import models, plain_flax
from vit_jax.benchmark.race import OURS, Case, Contender, bytes_of, compiled, stepping
from vit_jax.classification import softmax_xent
from vit_jax.experiment import Experiment
from vit_jax.machinery import sharding
from vit_jax.step import make_train_step
from vit_jax.tasks import get_task

_RATE, _WEIGHT_DECAY = 1e-4, 1e-4


def train(
    name: str,
    batch: int,
    size: int,
    dtype: str,
    calls: int = 1,
    **fields: Any,
) -> Case:
    """Steps of AdamW on one batch: the trainer's own step, over all devices.

    Args:
        name: of the model.
        batch: images, over all devices.
        size: side of the images.
        dtype: compute type; parameters and the optimizer's state are float32.
        calls: steps that are started before the last is waited for.
        **fields: of the model.
    """

    def contenders(_: Path) -> Iterator[Contender]:
        model, variables = models.make(name, size, dtype, **fields)
        exp = make_experiment(name, model, batch, size, fields)
        data = next(exp.data.train_batches())
        params = variables["params"]
        make_state = functools.partial(experiment.new_state, exp.config, tx=exp.tx)
        state = jax.jit(make_state, out_shardings=exp.state_sharding)(variables)
        on_devices = next(sharding.to_devices(itertools.repeat(data), exp.mesh))
        step = make_train_step(exp)
        yield _jitted(OURS, step.function, state, on_devices, calls, exp.mesh.size, step.first)
        if exp.mesh.size > 1 and jax.default_backend() != "cpu":
            return  # the others would use one device
        for who, plain in plain_flax.like(model):
            step, make_state = make_plain_step(plain)
            yield _jitted(who, step, make_state(params), jax.device_put(data), calls)
        if others := models.others(name, model, variables, (size, size)):
            from vit_jax.benchmark import torch_contender

            yield from torch_contender.training(
                *others, data, dtype, calls, lr=_RATE, weight_decay=_WEIGHT_DECAY
            )

    return Case(
        f"{name}, {size} x {size}, batch {batch}", contenders, batch,
        models.flops(name, size, batch, 6), models.tolerance(name, dtype, trains=True), calls,
    )  # fmt: skip


def make_experiment(
    name: str, model: Any, batch: int, size: int, fields: dict[str, Any]
) -> Experiment:
    """Makes the parts of a run on made-up data that trains a model with AdamW."""
    config = common.get_config()
    config.model_name, config.dtype = name, model.dtype.name
    config.model.update({**fields, **models.without_dropping(model)})
    config.batch_size, config.total_steps = batch, 10**6
    config.optim.learning_rate, config.optim.weight_decay = _RATE, _WEIGHT_DECAY
    config.optim.weight_decay_on = ""  # found in every path: PyTorch decays everything
    config.schedule.name = "constant"
    task = get_task(model)
    config.loss = next(iter(task.losses))
    config.metrics, config.best_metric = (), "loss"
    classes = model.num_classes if model.has_field("num_classes") else 0
    data = MadeUp((size, size, 3), batch, classes, model.upscale, truth=(*task.truths, "")[0])
    return experiment.build(config, data)


def make_plain_step(model: Any) -> tuple[Any, Any]:
    """A step as a tutorial has it: (state, batch) -> (state, metrics); and params -> state."""
    tx = optax.adamw(_RATE, weight_decay=_WEIGHT_DECAY)

    def loss_of(params: Any, batch: Any) -> jax.Array:
        return jnp.mean(softmax_xent(model.apply({"params": params}, batch["image"]), batch))

    def step(state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_of)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss}

    make_state = jax.jit(lambda params: (jax.tree.map(jnp.copy, params), tx.init(params)))
    return jax.jit(step, donate_argnums=0), make_state


def _jitted(
    name: str,
    step: Any,
    state: Any,
    batch: Any,
    calls: int,
    devices: int = 1,
    first: tuple[Any, ...] = (),
) -> Contender:
    program, compile_s = compiled(step, *first, state, batch)

    def advance() -> jax.Array:
        nonlocal state
        state, metrics = program(*first, state, batch)
        return metrics["loss"]

    return stepping(
        name, advance, lambda: jax.block_until_ready(state), calls, compile_s,
        lambda: bytes_of(program), devices,
    )  # fmt: skip
