"""Training: the loop around the step."""

import contextlib
import logging
import os
from collections.abc import Sequence

from ml_collections import ConfigDict

from checkpoints.train_state import Checkpointer
from vit_jax import evaluate, experiment, run_summary
from vit_jax.evaluate import EvalStep
from vit_jax.experiment import Experiment, TrainState
from vit_jax.machinery import preemption, processes, sharding
from vit_jax.machinery.loggers import Loggers, check_installed
from vit_jax.machinery.memory import Measured
from vit_jax.machinery.monitor import Monitor
from vit_jax.patience import Patience
from vit_jax.step import make_train_step
from vit_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)


def train_and_evaluate(
    config: ConfigDict, workdir: str | os.PathLike[str], command: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Trains, evaluates now and then, and at the end evaluates and exports the best checkpoint.

    Run again with the same arguments it continues from the last checkpoint.

    Args:
        config: from `configs`.
        workdir: the run's folder, see `vit_jax.workdir`.
        command: words of the command that trains, which the report shows; () if there is none.

    Returns:
        The chosen checkpoint's figures by split.

    Raises:
        ValueError: if something about the config, the data, the folder or the memory does not fit.
        FloatingPointError: if the loss, its gradient or the parameters are not finite.
        OSError: if a checkpoint cannot be written.
        preemption.Stopped: after SIGTERM or SIGINT, once the state is saved.
    """
    check_installed(config.loggers)
    exp = experiment.build(config)
    folder = Workdir(workdir)
    folder.claim(config, exp.data.identity, writes=processes.is_first())
    if command and processes.is_first():
        folder.write_command(command)
    if exp.tokenizer is not None and processes.is_first():
        folder.write_vocabulary(exp.tokenizer.words.files)
    _LOG.info("%s", run_summary.introduce(exp))
    train_step = make_train_step(exp)
    eval_step = evaluate.make_eval_step(exp)

    with Loggers(config, folder, processes.is_first()) as loggers:
        _train(exp, folder, train_step, eval_step, loggers)
        figures = evaluate.evaluate_workdir(exp, eval_step, folder)
        for split, its in figures.items():
            loggers.write(exp.total_steps, {f"final/{split}/{name}": x for name, x in its.items()})
    return figures


def _train(
    exp: Experiment, folder: Workdir, train_step: Measured, eval_step: EvalStep, loggers: Loggers
) -> None:
    """Makes the steps that are left."""
    config = exp.config
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
        monitor = stack.enter_context(Monitor(exp, folder, checkpointer, start, loggers))
        device_batches = monitor.timed(sharding.to_devices(batches, exp.mesh))
        patience = Patience(config, folder.read_metrics(), start)
        stop = stack.enter_context(preemption.StopRequest(exp.mesh))
        stack.enter_context(train_step.explained())
        for step in range(start + 1, exp.total_steps + 1):
            if patience.is_over():
                _LOG.info("step %d: %s", step - 1, patience)
                break
            state, metrics = train_step(state, next(device_batches))
            monitor.train(step, metrics)
            checkpointer.check()
            figures = None
            if exp.evaluates_at(step) and "val" in exp.data.splits:
                monitor.flush()
                figures = evaluate.evaluate(eval_step, state.eval_variables(), exp, "val")
                monitor.evaluation(step, "val", figures)
                patience.add(step, figures)
            signal = stop.poll()
            if exp.saves_at(step) or signal:
                monitor.flush()
                checkpointer.save(step, state, figures)
            if signal:
                checkpointer.wait()
                raise preemption.Stopped(
                    f"stopped by {signal} after step {step} of {exp.total_steps}, which is "
                    f"saved in {checkpointer.directory}: the same command continues from there"
                )


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
        return exp.init_state()
    _LOG.info(
        "continuing from step %d of %d, in %s", latest, exp.total_steps, checkpointer.directory
    )
    return checkpointer.restore(latest, exp.abstract_state)
