"""Figures of a machine in a file, and the tables that documentation has of them."""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from checkpoints import files
from vit_jax.benchmark import goals
from vit_jax.benchmark.models import PYTORCH, TIMM
from vit_jax.benchmark.plain_flax import PLAIN
from vit_jax.benchmark.race import OURS

_PACKAGES = ("jax", "flax", "torch", "timm", "tensorflow-cpu", "tensorflow")
_COLUMNS = {
    OURS: "ours", PLAIN: "flax's modules", TIMM: "PyTorch", PYTORCH: "PyTorch",
    f"{TIMM} compiled": "compiled", f"{PYTORCH} compiled": "compiled",
}  # fmt: skip
_CPU_INFO = Path("/proc/cpuinfo")


def machine() -> str:
    """Names what the figures are of: the accelerator, or the processor with its cores in use."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return str(device.device_kind)
    text = _CPU_INFO.read_text(encoding="utf-8") if _CPU_INFO.exists() else ""
    known = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)", text, re.MULTILINE))
    name = known.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{word} {known[key]}" for word, key in
               (("family", "cpu family"), ("model", "model")) if key in known]  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {name}" + (f" ({', '.join(numbers)})" if numbers else "")


def measured(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of a case: its rows, the machine, the day, and the versions of what ran."""
    versions = {"Python": platform.python_version(), platform.system(): platform.release()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    today = datetime.date.today().isoformat()
    return {"machine": machine(), "date": today, "versions": versions, "rows": rows}


def file_of(path: str) -> Path:
    """The file that --json names: in a folder (or with a / at its end) that of this machine."""
    if not path.endswith(("/", os.sep)) and not Path(path).is_dir():
        return Path(path)
    slug = re.sub(r"[^a-z0-9]+", "-", machine().lower()).strip("-")
    return Path(path) / f"{slug}.json"


class Record:
    """What was measured, in a file that is whole at any time.

    Args:
        path: of the file, which may hold what an earlier run measured.
        settings: that all figures in it have in common.
        **more: what else the file says in the beginning.

    Raises:
        ValueError: if the file is another one, or of other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], **more: Any) -> None:
        self._path = path
        self.content: dict[str, Any] = {
            "machine": None, "settings": dict(settings), **more, "cases": {},
        }  # fmt: skip
        if not path.exists():
            return
        stored = _read(path, "name another --json")
        if set(stored) != set(self.content):
            raise ValueError(f"{path} holds no figures of this suite: name another --json")
        if stored["settings"] != settings:
            raise ValueError(
                f"{path} holds figures of {stored['settings']}, and this run is of {settings}: "
                "name another --json"
            )
        self.content = stored

    def put(self, name: str, found: Mapping[str, Any]) -> None:
        """Stores what was measured of a case, in place of what was before.

        Raises:
            ValueError: if that was on another machine than the rest.
        """
        found = dict(found)
        where = found.pop("machine", None)
        known = self.content["machine"]
        if where and known and where != known:
            raise ValueError(
                f"{self._path} holds figures of {known}, and this is {where}: name another --json"
            )
        self.content["machine"] = known or where
        self.content["cases"][name] = found
        self.write()

    def write(self) -> None:
        """Writes the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with files.written_whole(self._path) as partial:
            partial.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): {remedy}") from None
    if not isinstance(stored, dict) or not isinstance(stored.get("cases"), dict):
        raise ValueError(f"{path} holds no figures of the benchmark: {remedy}")
    return stored


def print_files(paths: Iterable[str]) -> bool:
    """Prints the Markdown of files, on stderr what is wrong with some; returns if all are right."""
    is_right = True
    for path in paths:
        try:
            print(format_file(Path(path)), end="\n\n")
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            is_right = False
    return is_right


def format_file(path: Path) -> str:
    """Makes the Markdown of a file: its machine, times of all cases in ms, and the goals.

    Raises:
        ValueError: if the file holds something else.
        OSError: if it cannot be read.
    """
    content = _read(path, "name files that --json wrote")
    cases = {name: found for name, found in content["cases"].items() if "rows" in found}
    where = str(content.get("machine"))
    known = goals.ON_CPU if " cores of " in where else goals.ON_ACCELERATOR
    head = (
        f"On {where}, {_days(cases.values())}; {_versions(cases.values())}. Medians "
        "in ms, the least of a line in bold:"
    )
    judged = goals.judge(known, content["cases"])
    return "\n\n".join([head, *_tables(cases), goals.format_goals(judged)])


def _days(cases: Iterable[Mapping[str, Any]]) -> str:
    days = sorted({found["date"] for found in cases if "date" in found})
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "on an unknown day"


def _versions(cases: Iterable[Mapping[str, Any]]) -> str:
    """Each package with all of its versions that ran."""
    ran: dict[str, dict[str, None]] = {}
    for found in cases:
        for name, version in found.get("versions", {}).items():
            ran.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(all_of)}" for name, all_of in ran.items() if all_of)


def _tables(cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One table of the cases that models run in, and one of the others."""
    heads = list(dict.fromkeys(_COLUMNS.values()))
    of_models, others = [], []
    for name, found in cases.items():
        rows = found["rows"]
        least = min(row["median_s"] for row in rows)
        times = {row["contender"]: _ms(row["median_s"], least) for row in rows}
        if set(times) <= set(_COLUMNS):
            by_head = {_COLUMNS[who]: text for who, text in times.items()}
            of_models.append([name, *(by_head.get(head, "") for head in heads)])
        else:
            ours = times.pop(OURS)
            others.append([name, ours, ", ".join(f"{text} {who}" for who, text in times.items())])
    tables = []
    for columns, lines in ((heads, of_models), (["ours", "compared with"], others)):
        if lines:
            rule = ["---"] * (len(columns) + 1)
            tables.append("\n".join(
                f"| {' | '.join(cells)} |" for cells in (["case", *columns], rule, *lines)
            ))  # fmt: skip
    return tables


def _ms(seconds: float, least: float) -> str:
    """Three digits or the whole milliseconds of a median, in bold if it is the least."""
    ms = 1000 * seconds
    text = f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"
    return f"**{text}**" if seconds == least else text
