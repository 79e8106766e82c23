"""The training step, of which there is one.

It is made of the task's loss and of parts that a config adds to it: an adversarial loss with its
discriminator, a perceptual loss, a teacher.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax import class_weights, ops, optim
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
    `total_loss`, of which the gradient is. There is no gradient of frozen parameters, nor is it
    computed.

    Raises:
        ValueError: see `make_parts`.
    """
    config = exp.config
    parts = make_parts(exp)
    prepare = exp.task.prepare(config, exp.model)
    total_loss = _make_loss(exp, parts)
    gradient = _choose_gradient(exp)

    def train_step(constants: Any, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        prepare_key, dropout_key = jax.random.split(key)
        if prepare is not None:
            batch = prepare(prepare_key, batch)
        trained, frozen = optim.split(state.params, config.optim)

        def forward(trained: Any, *args: Any) -> tuple[Out, Any]:
            return exp.forward(optim.join(trained, frozen), *args)

        loss_of = functools.partial(total_loss, constants, state)
        grads, out, model_state, losses = gradient(
            forward, loss_of, trained, state.model_state, batch, dropout_key
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
    """Makes the function whose gradient is taken, of the parts' constants and the state before.

    Its other arguments are the model's output and the batch. It returns the loss, and metrics.
    """
    loss_fn = get_loss(exp.config.loss, exp.task.losses)
    loss_fn = class_weights.weighted(loss_fn, exp.config, exp.data)

    def total_loss(
        constants: Any, state: TrainState, out: Out, batch: Batch
    ) -> tuple[jax.Array, Metrics]:
        with sharding.known(exp.mesh):
            total = jnp.mean(loss_fn(out, batch))
        metrics = {"loss": total}
        for part, frozen in zip(parts, constants):
            total, more = part.add(total, frozen, state, out, batch)
            metrics |= more
        if parts:
            metrics["total_loss"] = total
        return total, metrics

    return total_loss


# The gradient. Each of the three functions takes
#   forward: from parameters, model_state, batch and key to the output and the next model_state,
#   loss_of: from output and batch to the loss and metrics,
# and the parameters, model_state, batch and key; it returns the gradient, the output if it is there
# as a whole, the next model_state, and metrics.


def _choose_gradient(exp: Experiment) -> Callable[..., tuple[Any, Out, Any, Metrics]]:
    steps = exp.config.accum_steps
    if steps == 1:
        return _gradient
    accumulate = _averaged_gradient if exp.task.is_independent else _gradient_of_whole
    return functools.partial(accumulate, steps)


def _gradient(
    forward: Callable[..., Any], loss_of: Callable[..., Any], params: Any, *args: Any
) -> tuple[Any, Out, Any, Metrics]:
    """The gradient of a batch at once."""

    def of(params: Any, model_state: Any, batch: Batch, key: jax.Array) -> Any:
        out, model_state = forward(params, model_state, batch, key)
        total, metrics = loss_of(out, batch)
        return total, (out, model_state, metrics)

    grads, (out, model_state, metrics) = jax.grad(of, has_aux=True)(params, *args)
    return grads, out, model_state, metrics


def _averaged_gradient(
    steps: int, forward: Callable[..., Any], loss_of: Callable[..., Any], params: Any,
    model_state: Any, batch: Batch, key: jax.Array,
) -> tuple[Any, Out, Any, Metrics]:  # fmt: skip
    """Averages gradient and metrics over micro-batches, each with a dropout key of its own."""

    def add(carry: Any, micro: Any) -> tuple[Any, Metrics]:
        model_state, grads = carry
        more, _, model_state, metrics = _gradient(forward, loss_of, params, model_state, *micro)
        return (model_state, jax.tree.map(jnp.add, grads, more)), metrics

    zeros = jax.tree.map(jnp.zeros_like, params)
    micros = _micros(batch, key, steps)
    (model_state, grads), each = jax.lax.scan(add, (model_state, zeros), micros)
    grads = jax.tree.map(lambda g: g / steps, grads)
    return grads, None, model_state, jax.tree.map(lambda x: jnp.mean(x, axis=0), each)


def _gradient_of_whole(
    steps: int, forward: Callable[..., Any], loss_of: Callable[..., Any], params: Any,
    model_state: Any, batch: Batch, key: jax.Array,
) -> tuple[Any, Out, Any, Metrics]:  # fmt: skip
    """The gradient of a loss that compares a whole batch, of whose activations there is one part.

    The outputs of all micro-batches are made first, and nothing else is kept of them; then the
    gradient of the loss by the outputs; then each is made again, to lead its share back to the
    parameters. The keys are those of the first time, so that dropout is the same.

    Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
    (RepL4NLP 2021), section 3, which calls it GradCache.

    Raises:
        ValueError: if the model returns something that has not a row for each example.
    """
    micros = _micros(batch, key, steps)

    def make(model_state: Any, micro: Any) -> tuple[Any, Out]:
        out, model_state = forward(params, model_state, *micro)
        _check_rows(out, micro[0])
        return model_state, out

    after, outs = jax.lax.scan(make, model_state, micros)
    by_output = jax.grad(loss_of, has_aux=True)
    cotangents, metrics = by_output(jax.tree.map(_merge, outs), batch)

    def add(carry: Any, micro_and_cotangent: Any) -> tuple[Any, None]:
        model_state, grads = carry
        micro, cotangent = micro_and_cotangent
        _, pull_back, model_state = jax.vjp(
            lambda params: forward(params, model_state, *micro), params, has_aux=True
        )
        return (model_state, jax.tree.map(jnp.add, grads, *pull_back(cotangent))), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    shares = jax.tree.map(functools.partial(_split, steps=steps), cotangents)
    (_, grads), _ = jax.lax.scan(add, (model_state, zeros), (micros, shares))
    return grads, None, after, metrics


def _micros(batch: Batch, key: jax.Array, steps: int) -> tuple[Any, jax.Array]:
    """Micro-batches along a new first axis, and a dropout key for each."""
    parts = jax.tree.map(functools.partial(_split, steps=steps), dict(batch))
    return parts, jax.random.split(key, steps)


def _split(x: jax.Array, steps: int) -> jax.Array:
    # Row i goes to micro-batch i % steps, so that each device keeps the rows it has.
    return x.reshape(-1, steps, *x.shape[1:]).swapaxes(0, 1)


def _merge(x: jax.Array) -> jax.Array:
    """The reverse of `_split`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _check_rows(out: Out, batch: Batch) -> None:
    rows = len(jax.tree.leaves(batch)[0])
    for path, leaf in jax.tree_util.tree_leaves_with_path(out):
        if leaf.shape[:1] != (rows,):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"accum_steps needs a model whose outputs have a row for each of {rows} examples, "
                f"and {name or 'its output'} has the shape {leaf.shape}: set it to 1"
            )
