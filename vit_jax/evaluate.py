"""Exact evaluation: every example of a split counts once, however the batches fall."""

import collections
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from checkpoints import npz
from checkpoints.train_state import Checkpointer
from vit_jax import report, sharding
from vit_jax.experiment import Experiment, TrainState
from vit_jax.losses import get_loss
from vit_jax.metrics import get_metric
from vit_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)

EvalStep = Callable[[Any, Mapping[str, jax.Array]], tuple[dict[str, jax.Array], jax.Array]]


def make_eval_step(experiment: Experiment) -> EvalStep:
    """Makes the jitted function (variables, batch) -> (sums over the real rows, outputs).

    The sums hold `loss`, the config's metrics, and `count`, the number of real rows.
    """
    config = experiment.config
    functions = {"loss": get_loss(config.loss), **{m: get_metric(m) for m in config.metrics}}

    def eval_step(variables: Any, batch: Mapping[str, jax.Array]) -> Any:
        out = experiment.model.apply(variables, batch["image"], train=False)
        real = batch["_mask"] > 0
        sums = {k: jnp.sum(jnp.where(real, fn(out, batch), 0.0)) for k, fn in functions.items()}
        return {**sums, "count": jnp.sum(batch["_mask"])}, out

    mesh = experiment.mesh
    return jax.jit(
        eval_step, out_shardings=(sharding.replicated(mesh), sharding.batch_sharding(mesh))
    )


def evaluate(
    eval_step: EvalStep,
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    observe: Callable[[Mapping[str, np.ndarray], np.ndarray], None] | None = None,
) -> dict[str, float]:
    """Averages the metrics over a split.

    Args:
        eval_step: from `make_eval_step`.
        variables: the model's.
        batches: from `Dataset.eval_batches`.
        mesh: of the devices.
        observe: called with the real rows of each batch, and this process's outputs for them.

    Returns:
        Mean of each metric, summed in float64, and `examples`, how many there were.
    """
    totals: collections.Counter[str] = collections.Counter()
    pending: dict[str, jax.Array] = {}
    for batch in sharding.to_devices(batches, mesh):
        sums, out = eval_step(variables, batch)
        totals.update({k: float(v) for k, v in pending.items()})  # of the batch before
        pending = sums
        if observe is not None:
            real = _local_rows(batch["_mask"]) > 0
            observe({k: _local_rows(v)[real] for k, v in batch.items()}, _local_rows(out)[real])
    totals.update({k: float(v) for k, v in pending.items()})
    count = totals.pop("count")
    return {**{k: total / count for k, total in totals.items()}, "examples": int(count)}


def open_checkpoints(experiment: Experiment, workdir: Workdir) -> Checkpointer:
    """Opens a run's checkpoints."""
    config = experiment.config
    return Checkpointer(
        workdir.checkpoints, config.keep_checkpoints, config.best_metric, config.best_mode
    )


def evaluate_workdir(
    experiment: Experiment, eval_step: EvalStep, workdir: Workdir
) -> dict[str, dict[str, float]]:
    """Evaluates a run's best checkpoint; writes its weights and its report.

    The best is the one that scored best on the validation split, or the last if there is none.
    The test figures go to metrics.jsonl, in place of any from before.

    Args:
        experiment: of the run's config.
        eval_step: from `make_eval_step`.
        workdir: the run's folder.

    Returns:
        Figures by split, "val" and "test" as far as the data has them.

    Raises:
        ValueError: if the folder holds no checkpoint.
    """
    config, data = experiment.config, experiment.data
    workdir.check_data(data.identity)
    with open_checkpoints(experiment, workdir) as checkpointer:
        step = checkpointer.best_step
        if step is None:
            raise ValueError(f"{workdir.checkpoints} holds no checkpoint: train first")
        state: TrainState = checkpointer.restore(step, experiment.abstract_state)
    assert not state.model_state  # weights.npz holds parameters alone, and no model has more yet
    variables = state.eval_variables()

    splits = [split for split in ("val", "test") if split in data.splits]
    pictures = report.ClassificationReport(data.class_names, config.loss)
    figures = {}
    for split in splits:
        observe = pictures.add if split == splits[-1] else None
        batches = data.eval_batches(split)
        figures[split] = evaluate(eval_step, variables, batches, experiment.mesh, observe)

    # Whole on every process, so that the first can write them.
    gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(experiment.mesh))
    params = gather(variables["params"])
    if jax.process_index() == 0:
        workdir.forget_metrics()
        if "test" in figures:
            workdir.append_metrics(step, "test", {"protocol": data.eval_pp, **figures["test"]})
        npz.save(workdir.weights, params)
        workdir.write_labels(data.class_names)
        report.write_curves(workdir.read_metrics(), workdir.report)
        if splits:
            pictures.write(workdir.report, splits[-1])
        print(report.format_table(step, figures))
        if "test" not in figures and "val" in figures:
            _LOG.info("there is no test split: these images also chose the checkpoint")
        if not splits:
            _LOG.info("there is no val and no test split to evaluate")
        _LOG.info("weights and pictures are in %s", workdir.path)
    return figures


def _local_rows(array: jax.Array) -> np.ndarray:
    """Returns the rows of a batch that this process holds."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
