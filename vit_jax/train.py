"""Training: one step, and the loop around it."""

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from checkpoints.train_state import Checkpointer
from vit_jax import evaluate, experiment, mixing, ops
from vit_jax.experiment import Experiment, TrainState
from vit_jax.gan_step import make_gan_step
from vit_jax.losses import get_loss, one_hot, smooth_labels
from vit_jax.machinery import memory, preemption, processes, sharding
from vit_jax.machinery.monitor import Monitor
from vit_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(exp: Experiment) -> TrainStep:
    """Makes the step that the config asks for: with `config.gan`, or the plain one."""
    gan = exp.config.gan
    return make_gan_step(exp) if gan.weight or gan.perceptual_weight else make_train_step(exp)


def make_train_step(exp: Experiment) -> TrainStep:
    """Makes the jitted function (state, batch) -> (state, metrics); the old state is used up.

    The metrics are `loss` and `grad_norm` of the batch before the update, the `learning_rate`, and
    the `param_norm` after it.
    """
    config = exp.config
    loss_fn = get_loss(config.loss, exp.model.predicts)
    softens = bool(config.label_smoothing or config.mixup_alpha or config.cutmix_alpha)

    def loss_of(params: Any, model_state: Any, batch: Batch, key: jax.Array) -> Any:
        out, new_state = exp.forward(params, model_state, batch["image"], key)
        return jnp.mean(loss_fn(out, batch)), new_state

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        mix_key, dropout_key = jax.random.split(key)
        if softens:
            labels = one_hot(batch["label"], len(exp.data.class_names))
            batch = {**batch, "label": smooth_labels(labels, config.label_smoothing)}
            batch = mixing.mix(mix_key, batch, config.mixup_alpha, config.cutmix_alpha)

        loss, grads, model_state = _accumulate(
            loss_of, state, batch, dropout_key, config.accum_steps
        )
        state, metrics = exp.update(state, grads, model_state)
        return state, {"loss": loss, **metrics}

    return jax.jit(
        train_step,
        in_shardings=(exp.state_sharding, sharding.batch_sharding(exp.mesh)),
        out_shardings=(exp.state_sharding, sharding.replicated(exp.mesh)),
        donate_argnums=0,
        compiler_options=ops.compiler_options(),
    )


def _accumulate(
    loss_of: Callable[..., Any],
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    steps: int,
) -> tuple[jax.Array, Any, Any]:
    """Averages loss and gradient over micro-batches, each with a dropout key of its own."""
    grad_of = jax.value_and_grad(loss_of, has_aux=True)
    if steps == 1:
        (loss, model_state), grads = grad_of(state.params, state.model_state, batch, key)
        return loss, grads, model_state

    def split(x: jax.Array) -> jax.Array:
        # Row i goes to micro-batch i % steps, so that each device keeps the rows it has.
        return x.reshape(-1, steps, *x.shape[1:]).swapaxes(0, 1)

    def add(carry: Any, micro: Any) -> tuple[Any, None]:
        model_state, loss, grads = carry
        micro_batch, micro_key = micro
        (micro_loss, model_state), micro_grads = grad_of(
            state.params, model_state, micro_batch, micro_key
        )
        return (model_state, loss + micro_loss, jax.tree.map(jnp.add, grads, micro_grads)), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    micros = (jax.tree.map(split, dict(batch)), jax.random.split(key, steps))
    (model_state, loss, grads), _ = jax.lax.scan(add, (state.model_state, 0.0, zeros), micros)
    return loss / steps, jax.tree.map(lambda g: g / steps, grads), model_state


def train_and_evaluate(
    config: ConfigDict, workdir: str | os.PathLike[str]
) -> dict[str, dict[str, float]]:
    """Trains, evaluates now and then, and at the end evaluates and exports the best checkpoint.

    Run again with the same arguments it continues from the last checkpoint.

    Args:
        config: from `configs`.
        workdir: the run's folder, see `vit_jax.workdir`.

    Returns:
        The chosen checkpoint's figures by split.

    Raises:
        ValueError: if something about the config, the data, the folder or the memory does not fit.
        FloatingPointError: if the loss, its gradient or the parameters are not finite.
        OSError: if a checkpoint cannot be written.
        preemption.Stopped: after SIGTERM or SIGINT, once the state is saved.
    """
    exp = experiment.build(config)
    folder = Workdir(workdir)
    folder.claim(config, exp.data.identity, writes=processes.is_first())
    train_step = memory.Measured(make_step(exp))
    eval_step = evaluate.make_eval_step(exp)

    with contextlib.ExitStack() as stack:
        checkpointer = stack.enter_context(evaluate.open_checkpoints(exp, folder))
        state = restore_or_init(exp, checkpointer)
        start = int(state.step)
        # Without steps, pretrained weights are evaluated as they are.
        if exp.total_steps == 0 and checkpointer.latest_step is None:
            if not config.pretrained:
                raise ValueError(
                    "total_steps=0 only evaluates: say which weights, --config.pretrained=PATH"
                )
            checkpointer.save(0, state, None)
        batches = stack.enter_context(contextlib.closing(exp.data.train_batches(start)))
        monitor = stack.enter_context(Monitor(exp, folder, checkpointer, start))
        device_batches = monitor.timed(sharding.to_devices(batches, exp.mesh))
        stop = stack.enter_context(preemption.StopRequest(exp.mesh))
        stack.enter_context(train_step.explained())
        for step in range(start + 1, exp.total_steps + 1):
            state, metrics = train_step(state, next(device_batches))
            monitor.train(step, metrics)
            checkpointer.check()
            evaluates = _due(step, exp.eval_every, exp.total_steps)
            saves = evaluates or _due(step, config.checkpoint_every, exp.total_steps)
            figures = None
            if evaluates and "val" in exp.data.splits:
                monitor.flush()
                val = exp.data.eval_batches("val")
                figures = evaluate.evaluate(eval_step, state.eval_variables(), val, exp.mesh)
                monitor.evaluation(step, "val", figures)
            signal = stop.poll()
            if saves or signal:
                monitor.flush()
                checkpointer.save(step, state, figures)
            if signal:
                checkpointer.wait()
                raise preemption.Stopped(
                    f"stopped by {signal} after step {step} of {exp.total_steps}, which is "
                    f"saved in {checkpointer.directory}: the same command continues from there"
                )
    return evaluate.evaluate_workdir(exp, eval_step, folder)


def restore_or_init(exp: Experiment, checkpointer: Checkpointer) -> TrainState:
    """Returns the last checkpoint's state, or a new one if there is none.

    Raises:
        ValueError: if the processes of a run see different checkpoints.
    """
    latest = checkpointer.latest_step
    everyones = processes.gather(latest)
    if any(step != latest for step in everyones):
        raise ValueError(
            f"{checkpointer.directory} is not the same folder for all processes, whose last "
            f"checkpoints are of steps {everyones}: give --workdir a folder that all hosts share"
        )
    if latest is None:
        state = exp.init_state()
        count = sum(x.size for x in jax.tree.leaves(state.params))
        _LOG.info("%s with %s parameters", exp.config.model_name, f"{count:,}")
        return state
    _LOG.info(
        "continuing from step %d of %d, in %s", latest, exp.total_steps, checkpointer.directory
    )
    return checkpointer.restore(latest, exp.abstract_state)


def _due(step: int, every: int | None, last: int) -> bool:
    return step == last or (every is not None and step % every == 0)
