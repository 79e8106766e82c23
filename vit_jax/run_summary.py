"""What a run is as it begins; what it was and what came out, for its report and model card."""

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import jax

from configs import common
from vit_jax import report
from vit_jax.experiment import Experiment
from vit_jax.machinery.config_keys import OPEN
from vit_jax.workdir import Workdir

_SPLITS = {"train": 0, "val": 1, "test": 2}
_NO_RECIPE = ("model_name", "plugins", "loggers")  # keys that are told otherwise


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """A run, once it is evaluated.

    Attributes:
        name: of its folder.
        model_name: of its model.
        parameters: how many the model has.
        step: of the checkpoint that was chosen; the last of those that were averaged.
        averaged: of how many checkpoints the parameters are the mean; 0 if there was one.
        figures: of it, by split and by name, and `examples`.
        comparison: what was published beside it, a line each; "" without a benchmark.
        data: name of the data.
        examples: how many there are, by split.
        classes: their names; () if there are none.
        protocol: how images are prepared to be evaluated; "" if there are none.
        settings: keys of the config that differ from `configs.common`, and their values as text.
        config: all of it, as JSON.
        command: that trained; "" if nobody knows.
        path: of its folder.
        usage: what a person types after `predict --workdir=DIR`, at least.
        inputs: keys of what the model gets.
        image_size: (h, w) in pixels of the images that it is evaluated with; () for any, or none.
        pipeline_tag: what the Hugging Face Hub calls its task; "" if it has no word for it.
        base: the repository of the Hugging Face Hub that its weights begin with; "" if none.
    """

    name: str
    model_name: str
    parameters: int
    step: int
    averaged: int
    figures: Mapping[str, Mapping[str, float]]
    comparison: str
    data: str
    examples: Mapping[str, int]
    classes: Sequence[str]
    protocol: str
    settings: Mapping[str, str]
    config: str
    command: str
    path: str
    usage: str
    inputs: tuple[str, ...]
    image_size: tuple[int, ...]
    pipeline_tag: str
    base: str

    @property
    def title(self) -> str:
        """A few words."""
        return f"{self.model_name} on {self.data}" if self.data else self.model_name

    @property
    def checkpoint(self) -> str:
        """Which parameters these are."""
        if not self.step:
            return "what it began with"
        if self.averaged > 1:
            return f"the mean of the last {self.averaged} checkpoints, up to step {self.step:,}"
        return f"the checkpoint of step {self.step:,}"

    def predict(self, folder: str) -> str:
        """The command that uses it, when it lies in a folder."""
        return f"python -m vit_jax.predict --workdir={shlex.quote(folder)} {self.usage}"

    @property
    def sizes(self) -> str:
        """How many examples each split has, those to train on first."""
        return _sizes(self.examples)


def introduce(experiment: Experiment) -> str:
    """Says what begins, a line each: the model, the data, the devices and the steps."""
    config, data = experiment.config, experiment.data
    classes = f"; {len(data.class_names)} classes" if data.class_names else ""
    kind = jax.devices()[0].device_kind
    epochs = experiment.total_steps / data.steps_per_epoch if data.steps_per_epoch else 0
    every = min(experiment.eval_every, experiment.total_steps)
    examples = _sizes(data.identity.get("examples", {}))
    return (
        f"model    {config.model_name}, {_parameters(experiment):,} parameters\n"
        f"data     {_name(config.data.source)}: {examples}{classes}\n"
        f"devices  {jax.device_count()} x {kind}\n"
        f"steps    {experiment.total_steps:,} of {config.batch_size} examples "
        f"({epochs:.4g} epochs), evaluated every {every:,}"
    )


def summarize(
    experiment: Experiment, workdir: Workdir, step: int, figures: Mapping[str, Mapping[str, float]]
) -> RunSummary:
    """Says what an evaluated run was.

    Args:
        experiment: of the run.
        workdir: its folder.
        step: of the checkpoint that was evaluated.
        figures: of it, by split.
    """
    config, data, task = experiment.config, experiment.data, experiment.task
    stored = json.loads(config.to_json())
    changes = _changes(stored, json.loads(common.get_config().to_json()))
    settings = {
        k: str(v) if v and isinstance(v, str) else json.dumps(v) for k, v in changes.items()
    }
    return RunSummary(
        name=workdir.path.name,
        model_name=config.model_name,
        parameters=_parameters(experiment),
        step=step,
        averaged=config.average_checkpoints,
        figures=figures,
        comparison=compare(experiment, figures),
        data=_name(config.data.source),
        examples=data.identity.get("examples", {}),
        classes=tuple(data.class_names or ()),
        protocol=data.eval_pp,
        settings=settings,
        config=json.dumps(stored, indent=2, sort_keys=True),
        command=workdir.read_command(),
        path=str(workdir.path),
        usage=task.usage,
        inputs=task.inputs,
        image_size=data.image_shape[:2],
        pipeline_tag=task.pipeline_tag,
        base=_hub_repository(config.pretrained),
    )


def compare(experiment: Experiment, figures: Mapping[str, Mapping[str, float]]) -> str:
    """What was published for the test set beside its figures, a line each; "" if it is unknown."""
    config = experiment.config
    if not config.benchmark or "test" not in figures:
        return ""
    return report.format_comparison(config.benchmark, config.model_name, figures["test"])


def _parameters(experiment: Experiment) -> int:
    leaves = jax.tree.leaves(experiment.abstract_state.params)
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _sizes(examples: Mapping[str, int]) -> str:
    splits = sorted(examples, key=lambda split: _SPLITS.get(split, len(_SPLITS)))
    return ", ".join(f"{examples[split]:,} {split}" for split in splits)


def _name(source: str) -> str:
    """A name of data: the last part of a path, or what follows a prefix such as tfds."""
    return PurePath(source.removeprefix("tfds:")).name or source


def _hub_repository(pretrained: str) -> str:
    if not pretrained.startswith("hf://"):
        return ""
    owner, _, rest = pretrained.removeprefix("hf://").partition("/")
    return f"{owner}/{rest.partition('/')[0].partition('@')[0]}"


def _changes(stored: Mapping[str, Any], defaults: Any, prefix: str = "") -> dict[str, Any]:
    """Keys with their groups, and values, that differ from the defaults."""
    changes: dict[str, Any] = {}
    for key, value in stored.items():
        path = f"{prefix}{key}"
        default = defaults.get(key) if isinstance(defaults, Mapping) else None
        if isinstance(value, Mapping) and path not in OPEN:
            changes |= _changes(value, default, f"{path}.")
        elif isinstance(value, Mapping):
            changes |= {f"{path}.{k}": v for k, v in value.items()}
        elif value != default and path not in _NO_RECIPE:
            changes[path] = value
    return changes
