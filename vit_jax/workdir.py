"""A run's folder, which describes itself.

config.json        the config, as it was given
data.json          the classes and the sizes of the splits
command.txt        the command that trained it last, as it was typed
loggers.json       the numbers of its runs at the services of config.loggers, if it has any
metrics.jsonl      one JSON object per line: step, split, protocol (for evaluations), figures
checkpoints/       orbax, the whole train state
events.out...      the same figures for TensorBoard
weights.npz        the chosen parameters and norms' statistics, with published names
labels.txt         the class names, one per line, in the order of the head
vocabulary/        what the tokenizer of a model that reads texts was made of
README.md          a model card, see `vit_jax.model_card`
report/            pictures and tables, and index.html that holds them all
"""

import glob
import json
import math
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from checkpoints import files
from configs import common
from input_pipeline import arguments
from vit_jax.machinery import config_keys

# Keys that may change between the start of a run and its continuation.
_MAY_CHANGE = (
    "eval_every",
    "early_stopping",  # a run that was ended goes on with a larger one
    "checkpoint_every",
    "log_every",
    "keep_checkpoints",
    "loggers",
    "average_checkpoints",  # those that were kept will do, or an error says that they are too few
    "fsdp",  # a checkpoint does not depend on the devices
    "data.source",  # data.json guards against other data
    "data.test_source",
    "data.tfds.data_dir",
    "data.tfds.manual_dir",
)

_VISIBLE_AFTER_S = 90  # network file systems may show a new file a minute late


class Workdir:
    """A run's folder.

    Args:
        path: of the folder, which need not exist yet; gs:// paths go through TensorFlow.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = epath.Path(path).expanduser().resolve()
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights.npz"
        self.report = self.path / "report"
        self.vocabulary = self.path / "vocabulary"
        self.card = self.path / "README.md"
        self._command = self.path / "command.txt"
        self._config = self.path / "config.json"
        self._data = self.path / "data.json"
        self._labels = self.path / "labels.txt"
        self._logged = self.path / "loggers.json"
        self._metrics = self.path / "metrics.jsonl"

    @property
    def has_config(self) -> bool:
        """Whether a run has claimed the folder."""
        return self._config.exists()

    def find_meant(self) -> str:
        """Suggests the run beside whose name is closest, as a part of a message; "" if none is."""
        found = glob.glob("*/config.json", root_dir=self.path.parent)  # of a bucket nothing
        close = arguments.closest(self.path.name, [os.path.dirname(path) for path in sorted(found)])
        return "" if close is None else f"did you mean {self.path.parent / close}? "

    def read_config(self) -> ConfigDict:
        """Reads the run's config; a ValueError says if this is no run's folder.

        Keys that did not exist yet when the run began have their default, and those that had other
        names the names of now.
        """
        if not self.has_config:
            raise ValueError(
                f"{self.path} holds no run (it has no config.json); {self.find_meant()}train "
                "first, or check --workdir"
            )
        stored = _read_json(self._config)
        try:
            defaults = json.loads(common.get_config().to_json())
            config = ConfigDict(_with_defaults(config_keys.translate(stored), defaults))
            config_keys.check(config)
        except ValueError as error:
            raise ValueError(f"{self._config} is no config: {error}") from None
        return config

    def claim(self, config: ConfigDict, data: Mapping[str, Any], writes: bool = True) -> None:
        """Makes the folder this run's, unless another run has left checkpoints there.

        Args:
            config: of the run.
            data: what tells its data from other data, see `Dataset.identity`.
            writes: whether this process does; else it waits until another one has.

        Raises:
            ValueError: if the config or the data differs; the message says in what.
        """
        new = json.loads(config.to_json())
        if self._config.exists() and self._has_checkpoint():
            old = _flatten(json.loads(self.read_config().to_json()))
            changes = [
                f"{key} was {old.get(key)!r}, is now {value!r}"
                for key, value in sorted({**dict.fromkeys(old), **_flatten(new)}.items())
                if old.get(key) != value and key not in _MAY_CHANGE
            ]
            if changes:
                raise ValueError(
                    f"{self.path} holds a run of another config ({'; '.join(changes)}): choose "
                    "another --workdir, or continue that run with its own settings"
                )
            self.check_data(data)
        if not writes:
            self._wait_for_claim()
            return
        self.path.mkdir(parents=True, exist_ok=True)
        _write(self._config, json.dumps(new, indent=2, sort_keys=True) + "\n")
        _write(self._data, json.dumps(data, indent=2, sort_keys=True) + "\n")

    def _wait_for_claim(self) -> None:
        for _ in range(_VISIBLE_AFTER_S):
            if self.has_config:
                return
            time.sleep(1)
        raise ValueError(
            f"this process does not see {self._config}, which the first one writes: give --workdir "
            "a folder that all hosts share"
        )

    def _has_checkpoint(self) -> bool:
        # A folder that is not named by its step alone is what a killed save left.
        return self.checkpoints.exists() and any(
            path.name.isdigit() for path in self.checkpoints.iterdir()
        )

    def check_data(self, data: Mapping[str, Any]) -> None:
        """Compares the data with that which the run began with.

        Raises:
            ValueError: if there are other classes, or more or fewer examples.
        """
        if not self._data.exists():
            return
        old = _read_json(self._data)
        changes = [f"{k}: {old[k]} then, {v} now" for k, v in data.items() if old.get(k, v) != v]
        if changes:
            raise ValueError(
                f"the run in {self.path} began with other data ({'; '.join(changes)}): give it "
                "the data it had, or choose another --workdir"
            )

    def read_labels(self) -> tuple[str, ...] | None:
        """Reads the class names, which a run that has not finished keeps in data.json alone.

        Returns:
            The names, or None for converted weights whose classes nobody named.
        """
        if self._labels.exists():
            return tuple(_read_text(self._labels).splitlines())
        classes = _read_json(self._data).get("classes")
        if not isinstance(classes, list | None):
            raise ValueError(f"{self._data} does not list the classes: {classes!r}")
        return None if classes is None else tuple(map(str, classes))

    def write_labels(self, names: Sequence[str]) -> None:
        """Writes the class names."""
        _write(self._labels, "".join(f"{name}\n" for name in names))

    def write_vocabulary(self, paths: Sequence[str]) -> None:
        """Keeps copies of the files that a tokenizer was made of."""
        self.vocabulary.mkdir(parents=True, exist_ok=True)
        for path in map(epath.Path, paths):
            with files.written_whole(self.vocabulary / path.name) as partial:
                partial.write_bytes(path.read_bytes())

    def write_command(self, arguments: Sequence[str]) -> None:
        """Keeps the command that trains, given its words."""
        line = (
            shlex.join(arguments).encode(errors="backslashreplace").decode()
        )  # names of any bytes
        _write(self._command, f"{line}\n")

    def read_command(self) -> str:
        """Reads the command that trained, for a shell; "" if it was none, or nobody kept it."""
        return _read_text(self._command).strip() if self._command.exists() else ""

    def read_logged(self) -> dict[str, str]:
        """Reads the numbers of the run at services that log it, by the service's name."""
        return _read_json(self._logged) if self._logged.exists() else {}

    def write_logged(self, ids: Mapping[str, str]) -> None:
        """Keeps them."""
        _write(self._logged, json.dumps(ids, indent=2, sort_keys=True) + "\n")

    def append_metrics(self, step: int, split: str, figures: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl; a figure that is not finite becomes null."""
        figures = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in figures.items()
        }
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "split": split, **figures}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Reads metrics.jsonl, less a last line that a crash cut off."""
        if not self._metrics.exists():
            return []
        lines = _read_text(self._metrics).split("\n")
        return [_parse(line, self._metrics) for line in lines[:-1]]

    def forget_metrics(self, after: float = math.inf) -> None:
        """Drops what will be written again: the final test, and the steps after a given one."""
        kept = [m for m in self.read_metrics() if m["step"] <= after and m["split"] != "test"]
        if self._metrics.exists():
            _write(self._metrics, "".join(json.dumps(m) + "\n" for m in kept))


def _read_text(path: epath.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from None


def _read_json(path: epath.Path) -> dict[str, Any]:
    return _parse(_read_text(path), path)


def _parse(text: str, path: epath.Path) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return parsed


def _write(path: epath.Path, text: str) -> None:
    with files.written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _with_defaults(stored: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What was stored, and the defaults of the keys that it lacks, in every group."""
    return {
        **defaults,
        **{
            key: _with_defaults(value, defaults[key])
            if isinstance(value, dict) and isinstance(defaults.get(key), dict)
            else value
            for key, value in stored.items()
        },
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
