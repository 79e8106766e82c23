"""Times this code beside others: python -m vit_jax.benchmark [SUITE ...] [--json=FILE].

Without a suite, some cases of each kind, five minutes on two cores. python -m
vit_jax.benchmark table FILE ... prints tables of what is in such files.
"""

# ruff: noqa: E402

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from input_pipeline.arguments import unknown
from vit_jax.machinery import cli

_MODEL = flags.DEFINE_string("model", None, "Time this model alone, in inference, train, restore.")
_BATCH = flags.DEFINE_integer("batch_size", None, "Images per call, with --model.", lower_bound=1)
_SIZE = flags.DEFINE_integer("image_size", None, "Side of the images, with --model.", lower_bound=1)
_DTYPE = flags.DEFINE_string("dtype", None, "Compute type of the models; bfloat16 on accelerators.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "About how long to time each case.", lower_bound=0)
_ALONE = flags.DEFINE_bool("alone", False, "Time our code alone, without others beside it.")
_JSON = flags.DEFINE_string(
    "json", None, "File for the results; of suites also a folder/, for a file per machine."
)
_MOST = flags.DEFINE_integer("largest_batch_size", 4096, "Of sweep.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Of accelerator: tiny models, to see whether all works.")
_ONLY = flags.DEFINE_string("only", "", "Of accelerator: a regular expression of cases' names.")
_CHOICE = flags.DEFINE_string("choice", None, "Try this alone, as the benchmark tells itself.")

if __name__ == "__main__":
    cli.parse_early()  # before what takes seconds to import

import jax

from vit_jax.benchmark import accelerator, goals, race, results, running, suites, sweep
from vit_jax.inference_time import describe_machine
from vit_jax.models import get_model

_TABLE = "table"
_COLUMNS = (
    "case", "who", "median ms", "least ms", "images/s", "first s", "peak MiB", "MFU", "ours is",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Runs the suites, or what else is named, and prints a table of each."""
    # Or JAX would take most of a GPU for itself; before it is first used.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it ends its parts as well
    if argv[1:2] == [_TABLE]:
        if not argv[2:]:
            raise ValueError(f"{_TABLE} needs files that --json wrote: {_TABLE} FILE ...")
        return 0 if results.print_files(argv[2:]) else 1
    alone = {sweep.NAME: _sweep, accelerator.NAME: _accelerator}
    for name, run in alone.items():
        if argv[1:2] == [name]:
            if argv[2:]:
                raise ValueError(f"{name} stands alone, without {' '.join(argv[2:])}")
            return run()
    known = (*suites.OF_MODELS, *suites.OTHERS)
    for name in argv[1:]:
        if name not in known:
            raise ValueError(unknown("suite", name, (*known, *alone, _TABLE)))
    if _MODEL.value is None and (_BATCH.value or _SIZE.value):
        raise ValueError("--batch_size and --image_size go with --model")
    settings = running.Settings(
        _MODEL.value, _BATCH.value, _SIZE.value, _DTYPE.value, _SECONDS.value, _ALONE.value,
        flags.FLAGS.compilation_cache, jax.default_backend() == "cpu",
    )  # fmt: skip
    if _CHOICE.value is not None:
        print(json.dumps(settings.try_choice(argv[1], json.loads(_CHOICE.value))))
        return 0
    return _run(argv[1:], settings)


def _run(names: Sequence[str], settings: running.Settings) -> int:
    """Runs the cases of suites; exit code 1 says that some failed."""
    record = None if _JSON.value is None else settings.record(_JSON.value)
    print(f"On {results.machine()}; {describe_machine()}.\n")
    start = time.monotonic()
    _print_head()
    ran = running.run(names, settings, record, _print_rows)
    known = ran if record is None else record.content["cases"]  # of other days as well
    judged = goals.judge(settings.goals(names, ran), known)
    print(f"\nGoals, on {results.machine()}:\n\n{goals.format_goals(judged)}")
    failures = [f"{name}: {found['error']}" for name, found in ran.items() if "error" in found]
    _print_failures(failures)
    print(f"\nIt took {(time.monotonic() - start) / 60:.1f} minutes.")
    return 1 if failures else 0


def _print_failures(failures: Iterable[str]) -> None:
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)


def _accelerator() -> int:
    """Runs the cases of an accelerator; exit code 1 says that some failed."""
    dtype = _DTYPE.value or "bfloat16"
    settings = accelerator.Settings(dtype, _SECONDS.value, _TINY.value, _ALONE.value, _ONLY.value)
    if _CHOICE.value is not None:
        print(json.dumps(settings.try_here(json.loads(_CHOICE.value))))
        return 0
    if _JSON.value is None:
        raise ValueError(f"{accelerator.NAME} needs --json=FILE, where it keeps what is done")
    record = accelerator.Record(Path(_JSON.value), settings)
    _print_head()
    failures = accelerator.run(settings, record, _print_rows)
    names = {spec.name for spec in settings.specs}
    of_these = {name: goal for name, goal in goals.ON_ACCELERATOR.items() if name in names}
    judged = goals.judge(of_these, record.content["cases"])
    print(f"\nGoals, on {record.content['machine']}:\n\n{goals.format_goals(judged)}")
    _print_failures(failures)
    return 1 if failures else 0


def _sweep() -> int:
    if _MODEL.value is None:
        raise ValueError(f"{sweep.NAME} needs a model: --model=ViT-B_16")
    settings = sweep.Settings(
        _MODEL.value, _SIZE.value or 224, _DTYPE.value or "bfloat16", _SECONDS.value
    )
    if _CHOICE.value is not None:
        print(json.dumps(settings.try_here(json.loads(_CHOICE.value))))
        return 0
    get_model(settings.model)  # raises if there is none
    print(f"{settings.model} on {describe_machine()}.\n")
    rows = sweep.print_sweep(settings, _BATCH.value or 64, _MOST.value, settings.try_apart)
    if _JSON.value is not None:
        Path(_JSON.value).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def _print_head() -> None:
    _print_row(_COLUMNS)
    _print_row("---" for _ in _COLUMNS)


def _print_row(cells: Iterable[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _print_rows(case: str, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        compared = [] if row["contender"] == race.OURS else [f"{row['ratio']:.2f} x as fast"]
        if row["deviation"] is not None:
            compared.append(f"{row['deviation']:.2f} of 255 off")
        _print_row((
            case,
            row["contender"],
            f"{1000 * row['median_s']:.1f}",
            f"{1000 * row['min_s']:.1f}",
            f"{row['images_per_s']:.1f}",
            "" if row["first_s"] is None else f"{row['first_s']:.1f}",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}",
            "" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %",
            ", ".join(compared),
        ))  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
