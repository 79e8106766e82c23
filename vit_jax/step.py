"""The training step, of which there is one.

It is made of the task's loss and of parts that a config adds to it: an adversarial loss with its
discriminator, a perceptual loss, a teacher.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.adversary import Adversarial
from vit_jax.distillation import Distillation
from vit_jax.experiment import Experiment, TrainState
from vit_jax.losses import get_loss
from vit_jax.machinery import sharding
from vit_jax.machinery.memory import Measured
from vit_jax.parts import Metrics, Part
from vit_jax.perceptual import Perceptual, load_vgg19
from vit_jax.tasks.base import Batch, Out


def make_parts(exp: Experiment) -> tuple[Part, ...]:
    """Makes what a config adds to the loss of its task.

    Raises:
        ValueError: if the weights of a frozen network are not there or do not fit.
    """
    config = exp.config
    parts: list[Part] = []
    if config.distill.teacher:
        parts.append(Distillation.load(config, exp.model, exp.data))
    if config.gan.perceptual_weight:
        parts.append(Perceptual(load_vgg19(config.gan.vgg19), config.gan.perceptual_weight))
    if exp.adversary is not None:
        parts.append(Adversarial(exp.adversary, config.gan.weight))
    return tuple(parts)


def make_train_step(exp: Experiment) -> Measured:
    """Makes the jitted function (state, batch) -> (state, metrics); the old state is used up.

    The metrics are `loss`, that of config.loss, and the `grad_norm` of the batch before the update,
    the `learning_rate`, and the `param_norm` after it; with parts, theirs as well, and the
    `total_loss`, of which the gradient is.

    Raises:
        ValueError: see `make_parts`.
    """
    config = exp.config
    parts = make_parts(exp)
    prepare = exp.task.prepare(config, exp.model)
    loss_of = _make_loss(exp, parts)

    def train_step(constants: Any, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        prepare_key, dropout_key = jax.random.split(key)
        if prepare is not None:
            batch = prepare(prepare_key, batch)
        loss = functools.partial(loss_of, constants, state)
        grads, out, model_state, losses = _accumulate(
            loss, state, batch, dropout_key, config.accum_steps
        )
        new_state, metrics = exp.update(state, grads, model_state)
        metrics = {**losses, **metrics}
        for part in parts:
            new_state, more = part.follow(state, new_state, out, batch)
            metrics |= more
        return new_state, metrics

    whole, state_sharding = sharding.replicated(exp.mesh), exp.state_sharding
    jitted = jax.jit(
        train_step,
        in_shardings=(whole, state_sharding, sharding.batch_sharding(exp.mesh)),
        out_shardings=(state_sharding, whole),
        donate_argnums=1,
        compiler_options=ops.compiler_options(),
    )
    # As an argument: 80 MB in the program would slow down compiling, and fill its cache.
    constants = jax.device_put([part.constants for part in parts], whole)
    return Measured(jitted, constants)


def _make_loss(exp: Experiment, parts: tuple[Part, ...]) -> Callable[..., Any]:
    """Makes the function of the parameters whose gradient is taken.

    Its other arguments are the parts' constants, the state before the step, the next model_state,
    the batch and the key. It returns the loss, and the model's output if a part has a use for it
    afterwards, the next model_state and metrics.
    """
    loss_fn = get_loss(exp.config.loss, exp.task.losses)
    keeps_out = any(part.follows for part in parts)

    def loss_of(
        constants: Any, state: TrainState, params: Any, model_state: Any, batch: Batch, key: Any
    ) -> tuple[jax.Array, tuple[Out, Any, Metrics]]:
        out, model_state = exp.forward(params, model_state, batch, key)
        total = jnp.mean(loss_fn(out, batch))
        metrics = {"loss": total}
        for part, frozen in zip(parts, constants):
            total, more = part.add(total, frozen, state, out, batch)
            metrics |= more
        if parts:
            metrics["total_loss"] = total
        return total, (out if keeps_out else None, model_state, metrics)

    return loss_of


def _accumulate(
    loss_of: Callable[..., Any], state: TrainState, batch: Batch, key: jax.Array, steps: int
) -> tuple[Any, Out, Any, Metrics]:
    """Averages gradient and metrics over micro-batches, each with a dropout key of its own.

    Returns:
        Gradient, the output if there is one micro-batch, model_state and metrics.
    """
    grad_of = jax.grad(loss_of, has_aux=True)
    if steps == 1:
        grads, (out, model_state, metrics) = grad_of(state.params, state.model_state, batch, key)
        return grads, out, model_state, metrics

    def split(x: jax.Array) -> jax.Array:
        # Row i goes to micro-batch i % steps, so that each device keeps the rows it has.
        return x.reshape(-1, steps, *x.shape[1:]).swapaxes(0, 1)

    def add(carry: Any, micro: Any) -> tuple[Any, Metrics]:
        model_state, grads = carry
        micro_grads, (_, model_state, metrics) = grad_of(state.params, model_state, *micro)
        return (model_state, jax.tree.map(jnp.add, grads, micro_grads)), metrics

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    micros = (jax.tree.map(split, dict(batch)), jax.random.split(key, steps))
    (model_state, grads), each = jax.lax.scan(add, (state.model_state, zeros), micros)
    grads = jax.tree.map(lambda g: g / steps, grads)
    return grads, None, model_state, jax.tree.map(lambda x: jnp.mean(x, axis=0), each)
