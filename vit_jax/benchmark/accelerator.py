"""What a GPU or TPU does with this code, beside PyTorch: python -m vit_jax.benchmark accelerator.

Each case has a process of its own. What is done is stored at once, so that the same command goes on
where one that was cut off ended.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from vit_jax.benchmark import race, results, starting, sweep
from vit_jax.benchmark.apart import Failed, run_apart
from vit_jax.benchmark.inference import infer
from vit_jax.benchmark.race import Case
from vit_jax.benchmark.training import train
from vit_jax.inference_time import describe_machine

Rows = list[dict[str, Any]]

NAME = "accelerator"

_CALLS = 5  # in a row, since their program is started while the one before runs


@dataclasses.dataclass(frozen=True)
class Spec:
    """A case by what it is made of.

    Attributes:
        suite: "inference", "train" or "compile".
        model: name.
        batch: images.
        size: side of the images.
        fields: of the model.
    """

    suite: str
    model: str
    batch: int
    size: int
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Names the case in the file."""
        return f"{self.suite}: {self.make('bfloat16').name}"

    def make(self, dtype: str) -> Case:
        """Makes the case."""
        if self.suite == "compile":
            return starting.scanned(self.model)
        make = {"inference": infer, "train": train}[self.suite]
        return make(self.model, self.batch, self.size, dtype, _CALLS, **self.fields)


SPECS = (
    Spec("train", "ViT-B_16", 256, 224),
    Spec("inference", "ViT-B_16", 256, 224),
    Spec("train", "ViT-S_16", 512, 224),
    Spec("train", "ViT-L_16", 128, 224),
    Spec("inference", "ViT-L_16", 256, 224),
    Spec("inference", "ViT-S_16", 512, 224),
    Spec("train", "DehazeFormer-B", 16, 256),
    Spec("inference", "DehazeFormer-B", 16, 256),
    Spec("train", "Swin-T", 128, 224),
    Spec("inference", "Swin-T", 256, 224),
    Spec("train", "SwinIR-lightweight-x2", 32, 64),
    Spec("inference", "SwinIR-lightweight-x2", 4, 256),
    Spec("inference", "SwinIR-classical-x2", 4, 128),
    Spec("inference", "Swin-T-UPerNet", 16, 256),
    Spec("train", "EfficientFormerV2-S0", 256, 224),
    Spec("inference", "EfficientFormerV2-S0", 256, 224),
    Spec("train", "ResNet-50", 256, 224),
    Spec("inference", "ResNet-50", 256, 224),
    Spec("compile", "ViT-L_16", 4, 224),
)  # fmt: skip
_SWEEP = ("ViT-B_16", 224, 64, 1024)  # model, side, first and last batch

_SMALL = dict(hidden_size=32, num_layers=1, num_heads=2, mlp_dim=64)
_SMALL_STAGES = dict(
    embed_dims=(8, 16, 24, 32), depths=(1, 1, 2, 2), attention_depths=(1, 1), mlp_ratios=(2,)
)
TINY_SPECS = (
    Spec("train", "ViT-S_16", 2, 32, fields=_SMALL),
    Spec("inference", "ViT-S_16", 2, 32, fields=_SMALL),
    Spec("train", "DehazeFormer-T", 2, 32, fields=dict(depths=(1, 1, 1, 1, 1))),
    Spec("inference", "SwinIR-lightweight-x2", 2, 16, fields=dict(depths=(1,), num_heads=(6,))),
    Spec("inference", "Swin-T", 2, 64, fields=dict(depths=(1, 1, 1, 1))),
    Spec("inference", "Swin-T-UPerNet", 2, 64, fields=dict(features=32, auxiliary_features=16)),
    Spec("train", "EfficientFormerV2-S0", 2, 64, fields=_SMALL_STAGES),
    Spec("inference", "EfficientFormerV2-S0", 2, 64, fields=_SMALL_STAGES),
)  # fmt: skip
_TINY_SWEEP = ("ViT-Ti_16", 32, 2, 2)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the cases are run.

    Attributes:
        dtype: compute type.
        seconds: about how long to time each.
        tiny: whether to take tiny models, to see whether all works.
        alone: whether to leave out the others.
        only: a regular expression that the wanted cases' names have.
    """

    dtype: str
    seconds: float
    tiny: bool = False
    alone: bool = False
    only: str = ""

    @property
    def specs(self) -> list[Spec]:
        """The wanted cases.

        Raises:
            ValueError: if there are none.
        """
        try:
            wanted = re.compile(self.only)
        except re.error as error:
            raise ValueError(f"--only={self.only} is not a regular expression: {error}") from None
        specs = TINY_SPECS if self.tiny else SPECS
        found = [spec for spec in specs if wanted.search(spec.name)]
        if not found and not wanted.search(sweep.NAME):
            names = "; ".join([spec.name for spec in specs] + [sweep.NAME])
            raise ValueError(f"--only={self.only} is found in none of: {names}")
        return found

    def try_here(self, name: str) -> dict[str, Any]:
        """Runs a case: the machine, and the rows of `race.run`.

        Raises:
            ValueError: if there is no accelerator, for which the models are meant.
        """
        if jax.default_backend() == "cpu" and not self.tiny:
            raise ValueError("JAX finds no accelerator here: --tiny tries the suite on a CPU")
        (spec,) = [spec for spec in self.specs if spec.name == name]
        rows = race.run(spec.make(self.dtype), self.seconds, self.alone)
        return {"machine": describe_machine(), "rows": rows}

    def try_apart(self, name: str) -> dict[str, Any]:
        """Does so in a process of its own; an `error` is what went wrong there."""
        fields = dataclasses.asdict(self) | {"only": ""}
        given = [f"--{key}={value}" for key, value in fields.items()]
        try:
            return run_apart([NAME, *given, f"--choice={json.dumps(name)}"])
        except Failed as failed:
            return {"error": str(failed)}


class Record(results.Record):
    """What was measured, in a file that says whether that is all.

    Args:
        path: of the file, which may hold what an earlier run measured.
        settings: of this run.

    Raises:
        ValueError: if the file is another one, or of other settings.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        kept = {key: getattr(settings, key) for key in ("dtype", "tiny", "alone")}
        super().__init__(path, kept, complete=False)

    def get(self, name: str) -> dict[str, Any] | None:
        """What was measured of a case, unless it failed."""
        found = self.content["cases"].get(name)
        return None if found is None or "error" in found else found

    def put(self, name: str, found: Mapping[str, Any]) -> None:
        """Stores what was measured; see `results.Record`."""
        self.content["complete"] = False
        super().put(name, found)

    def finish(self) -> None:
        """Notes that all is done."""
        self.content["complete"] = True
        self.write()


def run(settings: Settings, record: Record, report: Callable[[str, Rows], None]) -> list[str]:
    """Runs the cases that are not yet recorded, and the sweep after them.

    Args:
        settings: of the cases.
        record: takes what is done.
        report: is called with the name of each case, and its rows.

    Returns:
        What failed, a line each.
    """
    failures = []
    for spec in settings.specs:
        found = record.get(spec.name)
        if found is None:
            found = settings.try_apart(spec.name)
            record.put(spec.name, found)
        if "error" in found:
            failures.append(f"{spec.name}: {found['error']}")
        else:
            report(spec.name, found["rows"])
    if re.search(settings.only, sweep.NAME):
        failures += _sweep(settings, record)
    if not failures and not settings.only:
        record.finish()
    return failures


def _sweep(settings: Settings, record: Record) -> list[str]:
    model, size, smallest, largest = _TINY_SWEEP if settings.tiny else _SWEEP
    tries = sweep.Settings(model, size, settings.dtype, settings.seconds)

    def remembered(choice: dict[str, Any]) -> dict[str, Any]:
        name = f"{sweep.NAME}: {model}, {choice}"
        found = record.get(name)
        if found is None:
            found = tries.try_apart(choice)
            record.put(name, found)
        return found

    print()
    try:
        sweep.print_sweep(tries, smallest, largest, remembered)
    except ValueError as error:
        return [f"{sweep.NAME}: {error}"]
    return []
