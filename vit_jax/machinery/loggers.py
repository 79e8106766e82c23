"""Services that get a run's figures beside TensorBoard: Weights & Biases, and MLflow.

Each is a package that is imported where config.loggers names it, and not else. A run that is
continued goes on in the same run of the service, whose number is kept in the run's folder.
"""

import importlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from ml_collections import ConfigDict

from input_pipeline.arguments import unknown
from vit_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)

_PROJECT = "vit_jax"  # where the environment names none
_MOST_AT_ONCE = 100  # params that MLflow takes


class Logger(Protocol):
    """What writes to a service.

    Attributes:
        id: of the run there.
    """

    id: str

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes figures, which are finite, of a step."""

    def close(self, has_failed: bool) -> None:
        """Ends the run there, or this part of it."""


class Wandb:
    """Writes to Weights & Biases: to the project that WANDB_PROJECT names, or vit_jax.

    Args:
        config: of the run.
        workdir: the run's folder, whose name is the run's.
        id: of the run to go on with; "" for a new one.
    """

    def __init__(self, config: ConfigDict, workdir: Workdir, id: str) -> None:
        wandb = _import("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=workdir.path.name,
            id=id or None,
            resume="allow",
            config=json.loads(config.to_json()),
        )
        self.id = self._run.id
        # A run that was stopped repeats some steps, and its own count of steps must not fall.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **figures})

    def close(self, has_failed: bool) -> None:
        self._run.finish(exit_code=1 if has_failed else 0)


class Mlflow:
    """Writes to MLflow: to the server or store of MLFLOW_TRACKING_URI, which is its own default.

    The experiment is that of MLFLOW_EXPERIMENT_NAME, or vit_jax.

    Args:
        config: of the run; its keys become params when the run begins.
        workdir: the run's folder, whose name is the run's.
        id: of the run to go on with; "" for a new one.
    """

    def __init__(self, config: ConfigDict, workdir: Workdir, id: str) -> None:
        mlflow = _import("mlflow")
        self._entities = importlib.import_module("mlflow.entities")
        self._client = mlflow.MlflowClient()
        self.id = id or self._begin(config, workdir)
        self._client.update_run(self.id, status="RUNNING")

    def _begin(self, config: ConfigDict, workdir: Workdir) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=workdir.path.name)
        params = [
            self._entities.Param(key, str(value))
            for key, value in flatten(json.loads(config.to_json())).items()
        ]
        for i in range(0, len(params), _MOST_AT_ONCE):
            self._client.log_batch(run.info.run_id, params=params[i : i + _MOST_AT_ONCE])
        return run.info.run_id

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(re.sub(r"[^\w\-. /]", "_", name), value, now, step)
            for name, value in figures.items()
        ]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, has_failed: bool) -> None:
        self._client.set_terminated(self.id, "FAILED" if has_failed else "FINISHED")


LOGGERS: dict[str, type[Any]] = {"wandb": Wandb, "mlflow": Mlflow}
_PIP = {"wandb": "'vit_jax[wandb]'", "mlflow": "'vit_jax[mlflow]'"}


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"config.loggers names {name}, and {error.name or name} is not installed: "
            f"pip install {_PIP[name]}, or set loggers to ()"
        ) from None


def check(names: Sequence[str]) -> None:
    """Raises a ValueError for a service that is not known."""
    for name in names:
        if name not in LOGGERS:
            raise ValueError(unknown("logger", str(name), LOGGERS))


def check_installed(names: Sequence[str]) -> None:
    """Raises a ValueError for a service that is not known, or whose package is not there."""
    check(names)
    for name in names:
        _import(name)


class Loggers:
    """All services of a run; one that fails is told of once, and does not end the training.

    Args:
        config: of the run.
        workdir: the run's folder.
        writes: whether this process does, as the first one.

    Raises:
        ValueError: if a package is missing, or a service does not take the run.
    """

    def __init__(self, config: ConfigDict, workdir: Workdir, writes: bool) -> None:
        self._open: dict[str, Logger] = {}
        self._failing: set[str] = set()
        ids = workdir.read_logged() if writes and config.loggers else {}
        for name in config.loggers if writes else ():
            try:
                logger = LOGGERS[name](config, workdir, ids.get(name, ""))
            except Exception as error:  # whatever the service has, such as no login
                self.close(has_failed=True)
                raise ValueError(f"{name} does not take the run: {error}") from error
            self._open[name], ids[name] = logger, logger.id
            workdir.write_logged(ids)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Writes figures of a step, those that are finite numbers, by name such as "val/loss"."""
        kept = {
            name: float(value)
            for name, value in figures.items()
            if not isinstance(value, str) and math.isfinite(value)
        }
        for name, logger in self._open.items():
            try:
                logger.write(step, kept)
            except Exception as error:  # the training is worth more
                if name not in self._failing:
                    _LOG.warning("%s lacks figures, which metrics.jsonl has: %s", name, error)
                self._failing.add(name)

    def close(self, has_failed: bool) -> None:
        """Ends what is open."""
        for name, logger in self._open.items():
            try:
                logger.close(has_failed)
            except Exception as error:  # as above
                _LOG.warning("%s: %s", name, error)

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self.close(has_failed=kind is not None)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their keys with those of their groups, such as "optim.name"."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {}
        flat |= inner or {f"{prefix}{key}": value}
    return flat
