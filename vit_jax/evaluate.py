"""Exact evaluation: every example of a split counts once, however the batches fall."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from checkpoints import npz, tree
from checkpoints.train_state import Checkpointer
from vit_jax import model_card, ops, pretrained, report, report_page, run_summary
from vit_jax.experiment import Experiment, TrainState
from vit_jax.losses import get_loss
from vit_jax.machinery import processes, sharding
from vit_jax.run_summary import RunSummary
from vit_jax.tasks.base import INPUT, Batch, Metric, Report
from vit_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)

Observe = Callable[[Mapping[str, np.ndarray], Any], None]
Compare = Callable[[str, np.ndarray, np.ndarray], float]

_COUNTED = ("_mask", "index")


@dataclasses.dataclass(frozen=True)
class EvalStep:
    """The jitted function (variables, batch) -> (figures, outputs), and how a split ends.

    Attributes:
        step: the function. Its figures are (b, ...) each and whole on every process: `loss`, the
            config's metrics, those of the task's baseline as `input/NAME`, and the batch's `_mask`
            and `index`.
        finish: from a figure of all examples to that of the split, by name; a baseline's ends as
            the figure itself does.
        same: names of figures that end otherwise, but are made of the numbers of another one.
        probes: from a model's variables to figures that are of no split, by name, see `Task`.
        compare: for figures that `finish` is not enough for, by name, from the split's name, the
            numbers and the examples' `index`, see `tasks.base.Metric`.
    """

    step: Callable[[Any, Batch], tuple[dict[str, jax.Array], Any]]
    finish: Mapping[str, Callable[[np.ndarray], float]]
    same: Mapping[str, str] = dataclasses.field(default_factory=dict)
    probes: Mapping[str, Callable[[Any], float]] = dataclasses.field(default_factory=dict)
    compare: Mapping[str, Compare] = dataclasses.field(default_factory=dict)

    def __call__(self, variables: Any, batch: Batch) -> tuple[dict[str, jax.Array], Any]:
        return self.step(variables, batch)

    def summarize(self, each: Mapping[str, np.ndarray], split: str) -> dict[str, float]:
        """The figures of a split, and `examples`, how many there were; of `evaluate_each`."""

        def figure(name: str, values: np.ndarray) -> float:
            if name in self.compare:
                return self.compare[name](split, values, each["index"])
            return float(self.finish[name.removeprefix(INPUT)](values))

        figures = {name: figure(name, v) for name, v in each.items() if name not in _COUNTED}
        return {**figures, "examples": len(next(iter(each.values())))}

    def probe(self, variables: Any) -> dict[str, float]:
        """The figures that are of no split."""
        return {name: measure(variables) for name, measure in self.probes.items()}

    def with_same(self, each: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Numbers of all figures, where each was computed once."""
        copies = {name: each[other] for name, other in self.same.items()}
        return dict(sorted({**each, **copies}.items()))


def make_eval_step(experiment: Experiment) -> EvalStep:
    """Makes the step for the metrics of a config.

    Raises:
        ValueError: if there is not what one of the task's probes needs.
    """
    config, model, task = experiment.config, experiment.model, experiment.task
    metrics = {name: task.metric(name, config.loss) for name in config.metrics}
    answer = task.make_answer(model, task.settings_in(config))
    figures = {"loss": Metric(get_loss(config.loss, task.losses)), **metrics}
    # What several are made of is computed once; a baseline's are not, since none is large.
    first = {metric.each: name for name, metric in reversed(figures.items())}
    same = {name: first[metric.each] for name, metric in figures.items()}
    probes = {name: make(experiment) for name, make in task.probes(config).items()}

    def eval_step(variables: Any, batch: Batch) -> Any:
        out = answer(variables, batch)
        with sharding.known(mesh):
            each = {name: figures[name].each(out, batch) for name in sorted(set(same.values()))}
        if task.baseline is not None:
            before = task.baseline(model, batch)
            each |= {f"{INPUT}{k}": metric.each(before, batch) for k, metric in metrics.items()}
        return {**each, **{k: batch[k] for k in _COUNTED if k in batch}}, out

    mesh = experiment.mesh
    step = jax.jit(
        eval_step,
        out_shardings=(sharding.replicated(mesh), sharding.batch_sharding(mesh)),
        compiler_options=ops.compiler_options(),
    )
    finish = {name: metric.finish for name, metric in figures.items()}
    compare = {
        name: functools.partial(metric.compare, experiment.data)
        for name, metric in figures.items()
        if metric.compare is not None
    }
    return EvalStep(step, finish, same, probes, compare)


def evaluate(
    eval_step: EvalStep, variables: Any, experiment: Experiment, split: str
) -> dict[str, float]:
    """Computes the figures of a split, see `EvalStep.summarize`, and those that are of none."""
    batches = experiment.data.eval_batches(split)
    each = evaluate_each(eval_step, variables, batches, experiment.mesh)
    return {**eval_step.summarize(each, split), **eval_step.probe(variables)}


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
        Figures (examples, ...) of all processes by name, and `index`, the examples' numbers, if the
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
            rows = {k: _local_rows(v)[real] for k, v in batch.items()}
            observe(rows, jax.tree.map(lambda leaf, real=real: _local_rows(leaf)[real], out))
    collect()
    each = {k: np.concatenate([figures[k] for figures in collected]) for k in collected[0]}
    return eval_step.with_same(each)


def open_checkpoints(experiment: Experiment, workdir: Workdir) -> Checkpointer:
    """Opens a run's checkpoints."""
    config = experiment.config
    return Checkpointer(
        workdir.checkpoints,
        config.keep_checkpoints,
        config.best_metric,
        config.best_mode,
        also=experiment.averaged,
    )


def evaluate_workdir(
    experiment: Experiment, eval_step: EvalStep, workdir: Workdir
) -> dict[str, dict[str, float]]:
    """Evaluates a run's best checkpoint; writes its weights and its report.

    The best is the one that scored best on the validation split, or the last if there is none. With
    `config.average_checkpoints`, it is the average of the last ones instead, of whatever scores.
    The test figures go to metrics.jsonl, in place of any from before.

    Args:
        experiment: of the run's config.
        eval_step: from `make_eval_step`.
        workdir: the run's folder.

    Returns:
        Figures by split, "val" and "test" as far as the data has them; of a run of no steps that
        has neither, "train".

    Raises:
        ValueError: if the folder holds no checkpoint, or fewer than are averaged.
    """
    data = experiment.data
    workdir.check_data(data.identity)
    step, variables = _read_best(experiment, workdir)
    each, shown = _evaluate_splits(experiment, eval_step, variables)
    probed = eval_step.probe(variables) if each else {}
    figures = {
        split: {**eval_step.summarize(values, split), **probed} for split, values in each.items()
    }
    # Whole on every process, so that the first can write them.
    gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(experiment.mesh))
    variables = gather(variables)
    if processes.is_first():
        _write(experiment, workdir, variables, step, figures)
        if shown is not None:
            shown.write(workdir.report, list(figures)[-1])
        summary = run_summary.summarize(experiment, workdir, step, figures)
        page = report_page.write(workdir, summary)
        model_card.write(workdir, summary, variables, experiment.model)
        _say(workdir, summary, page)
    return figures


def _read_best(experiment: Experiment, workdir: Workdir) -> tuple[int, dict[str, Any]]:
    """The step of the best checkpoint and its variables; or the last step of those averaged."""
    count = experiment.config.average_checkpoints
    with open_checkpoints(experiment, workdir) as checkpointer:
        best = checkpointer.best_step
        if best is None:
            raise ValueError(f"{workdir.checkpoints} holds no checkpoint: train first")
        steps = experiment.averaged(checkpointer.steps) if count else [best]
        if count > len(steps):
            raise ValueError(
                f"{workdir.checkpoints} holds {len(steps)} checkpoints to average, and "
                f"average_checkpoints={count}: set it to at most that, or train for longer"
            )
        if count > 1:
            _LOG.info("the average of the checkpoints of steps %s", ", ".join(map(str, steps)))
        return steps[-1], _average(experiment, checkpointer, steps)


def _average(
    experiment: Experiment, checkpointer: Checkpointer, steps: Sequence[int]
) -> dict[str, Any]:
    """The mean of the variables of some checkpoints, of which one at a time is in memory."""

    def variables(step: int) -> dict[str, Any]:
        state: TrainState = checkpointer.restore(step, experiment.abstract_state)
        return state.eval_variables()

    mean = variables(steps[0])
    move = jax.jit(lambda mean, new, count: jax.tree.map(
        lambda x, y: x + (y - x) / count, mean, new
    ))  # fmt: skip
    for count, step in enumerate(steps[1:], start=2):
        mean = move(mean, variables(step), count)
    return mean


def _evaluate_splits(
    experiment: Experiment, eval_step: EvalStep, variables: Any
) -> tuple[dict[str, dict[str, np.ndarray]], Report | None]:
    """Figures of each example by split, and the report of the last one."""
    data, mesh = experiment.data, experiment.mesh
    splits = [split for split in ("val", "test") if split in data.splits]
    if not splits and experiment.total_steps == 0:
        splits = ["train"]  # from which nothing was learned
    shown, each = None, {}
    for split in splits:
        observe = None
        if split == splits[-1]:
            shown = experiment.task.report(data, split, experiment.config)
            observe = shown.add if shown.sees_all else None
        batches = data.eval_batches(split)
        each[split] = evaluate_each(eval_step, variables, batches, mesh, observe)
    if shown is not None:
        rows = shown.choose(each[splits[-1]])
        if rows:
            batches = data.eval_batches(splits[-1], rows)
            evaluate_each(eval_step, variables, batches, mesh, shown.add)
        shown.gather()
    return each, shown


def _write(
    experiment: Experiment,
    workdir: Workdir,
    variables: Mapping[str, Any],
    step: int,
    figures: Mapping[str, Mapping[str, float]],
) -> None:
    config, data = experiment.config, experiment.data
    workdir.forget_metrics()
    if "test" in figures:
        workdir.append_metrics(step, "test", {"protocol": data.eval_pp, **figures["test"]})
    made_for = pretrained.say_made_for(config.model_name, config.model)
    npz.save(workdir.weights, tree.merge(variables), made_for, experiment.model.npz_names())
    if data.class_names:
        workdir.write_labels(data.class_names)
    report.write_curves(workdir.read_metrics(), workdir.report, config.best_metric)


def _say(
    workdir: Workdir,
    summary: RunSummary,
    page: epath.Path,
) -> None:
    figures = summary.figures
    print(report.format_table(summary.step, figures))
    if summary.comparison:
        print(summary.comparison)
    if "test" not in figures and "val" in figures:
        _LOG.info("there is no test split: these images also chose the checkpoint")
    if not figures:
        _LOG.info("there is no val and no test split to evaluate")
    _LOG.info("weights are in %s, all curves, pictures and tables in %s", workdir.path, page)
    _LOG.info("to use them: %s", summary.predict(summary.path))


def _local_rows(array: jax.Array) -> np.ndarray:
    """Returns the rows of a batch that this process holds."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
