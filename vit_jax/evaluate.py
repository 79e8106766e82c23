"""Exact evaluation: every example of a split counts once, however the batches fall."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from checkpoints import npz
from checkpoints.train_state import Checkpointer
from vit_jax import ops, pretrained, report
from vit_jax.experiment import Experiment, TrainState
from vit_jax.losses import get_loss
from vit_jax.machinery import processes, sharding
from vit_jax.metrics import get_metric
from vit_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)

EvalStep = Callable[[Any, Mapping[str, jax.Array]], tuple[dict[str, jax.Array], jax.Array]]
Observe = Callable[[Mapping[str, np.ndarray], np.ndarray], None]

_COUNTED = ("_mask", "index")


def make_eval_step(experiment: Experiment) -> EvalStep:
    """Makes the jitted function (variables, batch) -> (figures, outputs).

    The figures are (b,) each and whole on every process: `loss`, the config's metrics, for images
    the same metrics of the input as `input/NAME` (made as large as the output by bicubic
    interpolation), and the batch's `_mask` and `index`.
    """
    config, model = experiment.config, experiment.model
    loss = get_loss(config.loss, model.predicts)
    metrics = {name: get_metric(name, model.predicts) for name in config.metrics}

    def eval_step(variables: Any, batch: Mapping[str, jax.Array]) -> Any:
        out = model.apply(variables, batch["image"], train=False)
        figures = {"loss": loss(out, batch), **{k: fn(out, batch) for k, fn in metrics.items()}}
        if model.predicts == "target":
            enlarged = ops.bicubic_upsample(batch["image"], getattr(model, "upscale", 1))
            figures |= {f"{report.INPUT}{k}": fn(enlarged, batch) for k, fn in metrics.items()}
        return {**figures, **{k: batch[k] for k in _COUNTED if k in batch}}, out

    mesh = experiment.mesh
    return jax.jit(
        eval_step,
        out_shardings=(sharding.replicated(mesh), sharding.batch_sharding(mesh)),
        compiler_options=ops.compiler_options(),
    )


def evaluate(
    eval_step: EvalStep, variables: Any, batches: Iterable[Mapping[str, np.ndarray]], mesh: Mesh
) -> dict[str, float]:
    """Averages the metrics over a split, in float64; see `evaluate_each`.

    Returns:
        Mean of each metric, and `examples`, how many there were.
    """
    return average(evaluate_each(eval_step, variables, batches, mesh))


def evaluate_each(
    eval_step: EvalStep,
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    observe: Observe | None = None,
) -> dict[str, np.ndarray]:
    """Computes the metrics of every example of a split.

    Args:
        eval_step: from `make_eval_step`.
        variables: the model's.
        batches: from `Dataset.eval_batches`.
        mesh: of the devices.
        observe: called with the real rows of each batch, and this process's outputs for them.

    Returns:
        Figures (examples,) of all processes by name, and `index`, the examples' numbers, if the
        source counts them.
    """
    collected: list[dict[str, np.ndarray]] = []
    pending: dict[str, jax.Array] | None = None

    def collect() -> None:
        if pending is not None:
            figures = jax.device_get(pending)
            real = figures.pop("_mask") > 0
            collected.append({k: v[real] for k, v in figures.items()})

    for batch in sharding.to_devices(batches, mesh):
        figures, out = eval_step(variables, batch)
        collect()  # of the batch before
        pending = figures
        if observe is not None:
            real = _local_rows(batch["_mask"]) > 0
            observe({k: _local_rows(v)[real] for k, v in batch.items()}, _local_rows(out)[real])
    collect()
    return {k: np.concatenate([figures[k] for figures in collected]) for k in collected[0]}


def average(each: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Averages what `evaluate_each` returns; adds `examples`, how many there were."""
    means = {k: float(np.mean(v, dtype=np.float64)) for k, v in each.items() if k not in _COUNTED}
    return {**means, "examples": len(next(iter(each.values())))}


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
    pictures: report.ClassificationReport | report.RestorationReport | None = None
    if data.class_names:
        pictures = report.ClassificationReport(data.class_names, config.loss)
    each = {}
    for split in splits:
        observe = pictures.add if pictures and split == splits[-1] else None
        batches = data.eval_batches(split)
        each[split] = evaluate_each(eval_step, variables, batches, experiment.mesh, observe)
    figures = {split: average(values) for split, values in each.items()}
    if splits and not data.class_names:
        names = data.splits[splits[-1]].names
        pictures = report.RestorationReport(names, each[splits[-1]], config.best_metric)
        batches = data.eval_batches(splits[-1], pictures.rows)
        evaluate_each(eval_step, variables, batches, experiment.mesh, pictures.add)
    if pictures:
        pictures.gather()

    # Whole on every process, so that the first can write them.
    gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(experiment.mesh))
    params = gather(variables["params"])
    if processes.is_first():
        workdir.forget_metrics()
        if "test" in figures:
            workdir.append_metrics(step, "test", {"protocol": data.eval_pp, **figures["test"]})
        made_for = pretrained.say_made_for(config.model_name, config.model)
        npz.save(workdir.weights, params, made_for)
        if data.class_names:
            workdir.write_labels(data.class_names)
        report.write_curves(workdir.read_metrics(), workdir.report)
        if splits:
            pictures.write(workdir.report, splits[-1])
        print(report.format_table(step, figures))
        if config.benchmark and "test" in figures:
            print(report.format_comparison(config.benchmark, config.model_name, figures["test"]))
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
