"""Services that get a run's figures: by fakes of their packages, and by the real ones if there."""

import json
import logging
import math
import sys
import types

import pytest

from tests.helpers import tiny_digits_config
from vit_jax import train
from vit_jax.machinery import loggers
from vit_jax.machinery.loggers import Loggers
from vit_jax.workdir import Workdir


class FakeRun:
    def __init__(self, id):
        self.id, self.rows, self.exit_code = id, [], None

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, row):
        self.rows.append(row)

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch):
    """A package called wandb, which keeps what it is given in `started`."""
    module = types.ModuleType("wandb")
    module.started = []

    def init(**given):
        module.started.append((given, FakeRun(given["id"] or f"run{len(module.started)}")))
        return module.started[-1][1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


class FakeClient:
    runs: dict = {}  # noqa: RUF012

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return f"of {name}"

    def create_run(self, experiment, run_name):
        id = str(len(self.runs))
        self.runs[id] = {"name": run_name, "experiment": experiment, "params": {}, "metrics": []}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=id))

    def update_run(self, id, status):
        self.runs[id]["status"] = status

    def set_terminated(self, id, status):
        self.runs[id]["status"] = status

    def log_batch(self, id, metrics=(), params=()):
        assert len(params) <= 100
        self.runs[id]["params"] |= {p.key: p.value for p in params}
        self.runs[id]["metrics"] += [(m.key, m.value, m.step) for m in metrics]


@pytest.fixture
def mlflow(monkeypatch):
    """A package called mlflow; returns its runs by number."""
    module, entities = types.ModuleType("mlflow"), types.ModuleType("mlflow.entities")
    monkeypatch.setattr(FakeClient, "runs", {})
    module.MlflowClient = FakeClient
    entities.Param = lambda key, value: types.SimpleNamespace(key=key, value=value)
    entities.Metric = lambda key, value, timestamp, step: types.SimpleNamespace(
        key=key, value=value, step=step
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return FakeClient.runs


def config_of(*names):
    config = tiny_digits_config()
    config.loggers = names
    return config


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_run").mkdir()
    return Workdir(tmp_path / "my_run")


def test_figures_and_config_go_to_weights_and_biases(wandb, folder, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    config = config_of("wandb")
    with Loggers(config, folder, writes=True) as logged:
        logged.write(3, {"val/loss": 0.5, "val/auc": math.nan, "val/protocol": "decode"})
    ((given, run),) = wandb.started
    assert (given["project"], given["name"], given["resume"]) == ("vit_jax", "my_run", "allow")
    assert given["config"] == json.loads(config.to_json())
    assert run.rows == [{"step": 3, "val/loss": 0.5}]
    assert run.exit_code == 0


def test_figures_and_config_go_to_mlflow(mlflow, folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    logged = Loggers(config_of("mlflow"), folder, writes=True)
    logged.write(3, {"val/text_to_image_recall@1": 0.5})
    assert mlflow["0"]["status"] == "RUNNING"
    logged.__exit__(FloatingPointError)
    (run,) = mlflow.values()
    assert (run["name"], run["experiment"], run["status"]) == ("my_run", "of mine", "FAILED")
    assert run["metrics"] == [("val/text_to_image_recall_1", 0.5, 3)]
    assert run["params"]["optim.name"] == "adamw"
    assert "loggers" in run["params"]
    assert run["params"]["optim.args"] == "{}"


def test_a_run_that_continues_is_the_same_run(wandb, mlflow, folder):
    for _ in range(2):
        with Loggers(config_of("wandb", "mlflow"), folder, writes=True):
            pass
    assert [given["id"] for given, _ in wandb.started] == [None, "run0"]
    assert list(mlflow) == ["0"]
    assert folder.read_logged() == {"wandb": "run0", "mlflow": "0"}


def test_only_the_first_process_writes(wandb, folder):
    with Loggers(config_of("wandb"), folder, writes=False) as logged:
        logged.write(1, {"val/loss": 0.5})
    assert not wandb.started
    assert folder.read_logged() == {}


def test_a_service_that_fails_is_told_of_once_and_ends_nothing(wandb, folder, caplog):
    with Loggers(config_of("wandb"), folder, writes=True) as logged:
        wandb.started[0][1].log = None  # which cannot be called
        for step in range(3):
            logged.write(step, {"val/loss": 0.5})
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "wandb lacks figures, which metrics.jsonl has: " in record.getMessage()


def test_a_service_that_takes_no_run_ends_it_at_once(wandb, mlflow, folder):
    wandb.init = None
    with pytest.raises(ValueError, match="wandb does not take the run: 'NoneType'"):
        Loggers(config_of("mlflow", "wandb"), folder, writes=True)
    assert mlflow["0"]["status"] == "FAILED"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandb", r"names wandb, and wandb is not installed: pip install 'vit_jax\[wandb\]', or"),
        ("mlflow", r"pip install 'vit_jax\[mlflow\]', or set loggers to \(\)"),
        ("wandbb", r"unknown logger 'wandbb'; did you mean 'wandb'\? there are: wandb, mlflow"),
    ],
)
def test_what_cannot_log_is_said_before_anything_is_read(name, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    config = config_of(name)
    config.data.source = "/no/such/folder"
    with pytest.raises(ValueError, match=message):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_training_logs_what_metrics_jsonl_has(wandb, tmp_path):
    figures = train.train_and_evaluate(config_of("wandb"), tmp_path)
    rows = wandb.started[0][1].rows
    lines = Workdir(tmp_path).read_metrics()
    of_val = [line for line in lines if line["split"] == "val"]
    logged = [row for row in rows if "val/accuracy" in row]
    assert [(row["step"], row["val/accuracy"]) for row in logged] == [
        (line["step"], line["accuracy"]) for line in of_val
    ]
    assert {row["step"] for row in rows if "train/loss" in row} == set(range(1, 7))
    final = {k: v for row in rows for k, v in row.items() if k.startswith("final/")}
    assert final["final/test/accuracy"] == figures["test"]["accuracy"]


def test_the_real_mlflow_has_one_run_of_both_parts(folder, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    config = config_of("mlflow")
    for step in (1, 2):
        with Loggers(config, folder, writes=True) as logged:
            logged.write(step, {"val/loss": 1 / step, "val/recall@1": 0.5})
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("vit_jax").experiment_id])
    assert (run.info.run_name, run.info.status) == ("my_run", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "val/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5)]
    flat = loggers.flatten(json.loads(config.to_json()))
    assert run.data.params == {key: str(value) for key, value in flat.items()}


def test_the_real_wandb_keeps_a_run_offline(folder, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for step in (1, 2):
        with Loggers(config_of("wandb"), folder, writes=True) as logged:
            logged.write(step, {"val/loss": 1 / step})
    id = folder.read_logged()["wandb"]
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{id}/run-{id}.wandb"))) >= 1
