"""Times this code beside others: python -m vit_jax.benchmark [SUITE ...] [--json=FILE]."""

# ruff: noqa: E402

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
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
_JSON = flags.DEFINE_string("json", None, "File for the results.")
_MOST = flags.DEFINE_integer("largest_batch_size", 4096, "Of sweep.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Of accelerator: tiny models, to see whether all works.")
_ONLY = flags.DEFINE_string("only", "", "Of accelerator: a regular expression of cases' names.")
_CHOICE = flags.DEFINE_string(
    "choice", None, "Of sweep and accelerator: try this alone, as they tell themselves."
)

if __name__ == "__main__":
    cli.parse_early()  # before what takes seconds to import

import jax

from vit_jax.benchmark import accelerator, race, suites, sweep
from vit_jax.benchmark.inference import matrix_product
from vit_jax.benchmark.race import Case
from vit_jax.inference_time import describe_machine
from vit_jax.models import get_model

_COLUMNS = (
    "case", "who", "median ms", "least ms", "images/s", "first s", "peak MiB", "MFU", "ours is",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Runs the suites, all of them by default, and prints a table of each."""
    # Or JAX would take most of a GPU for itself; before it is first used.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    alone = {sweep.NAME: _sweep, accelerator.NAME: _accelerator}
    for name, run in alone.items():
        if argv[1:2] == [name]:
            if argv[2:]:
                raise ValueError(f"{name} stands alone, without {' '.join(argv[2:])}")
            return run()
    names = argv[1:] or _default_suites()
    known = (*suites.OF_MODELS, *suites.OTHERS)
    for name in names:
        if name not in known:
            raise ValueError(unknown("suite", name, (*known, *alone)))
    if _MODEL.value is None and (_BATCH.value or _SIZE.value):
        raise ValueError("--batch_size and --image_size go with --model")
    return _run(names)


def _run(names: Sequence[str]) -> int:
    where = describe_machine()
    print(f"On {where}.\n")
    product = None
    results: list[dict[str, Any]] = []
    goals: list[dict[str, Any]] = []
    start = time.monotonic()
    try:
        if jax.default_backend() == "cpu" and not _ALONE.value:
            product = _product_ratio()
        for name in names:
            print(f"**{name}**\n")
            _print_head()
            for case in _cases(name):
                rows = race.run(case, _SECONDS.value, _ALONE.value)
                _print_rows(case.name, rows)
                results += [{"suite": name, "case": case.name, **row} for row in rows]
                goals += [{"case": case.name, **goal} for goal in race.judge(case, rows)]
            print()
    finally:  # what was measured before an error is kept
        if _JSON.value is not None:
            report = {"machine": where, "product": product, "results": results, "goals": goals}
            Path(_JSON.value).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print_goals(goals, where, product)
    print(f"\nIt took {(time.monotonic() - start) / 60:.1f} minutes.")
    return 0


def _product_ratio() -> float | None:
    """How much faster a product of matrices is in XLA than in PyTorch; None without that."""
    case = matrix_product()
    rows = race.run(case, min(_SECONDS.value, 2.0))
    if len(rows) == 1:
        return None
    print(f"A {case.name} is {rows[1]['ratio']:.2f} x as fast in XLA as in PyTorch.\n")
    return rows[1]["ratio"]


def _accelerator() -> int:
    """Runs the cases of an accelerator; exit code 1 says that some failed."""
    dtype = _DTYPE.value or "bfloat16"
    settings = accelerator.Settings(dtype, _SECONDS.value, _TINY.value, _ALONE.value, _ONLY.value)
    if _CHOICE.value is not None:
        print(json.dumps(settings.try_here(json.loads(_CHOICE.value))))
        return 0
    if _JSON.value is None:
        raise ValueError(f"{accelerator.NAME} needs --json=FILE, where it keeps what is done")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it ends its parts as well
    record = accelerator.Record(Path(_JSON.value), settings)
    goals: list[dict[str, Any]] = []
    _print_head()

    def report(name: str, case: Case, rows: list[dict[str, Any]]) -> None:
        _print_rows(name, rows)
        goals.extend({"case": name, **goal} for goal in race.judge(case, rows))

    failures = accelerator.run(settings, record, report)
    print()
    _print_goals(goals, record.content["machine"], None)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
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


def _default_suites() -> list[str]:
    if _MODEL.value is None:
        return [*suites.OF_MODELS, *suites.OTHERS]
    restores = get_model(_MODEL.value).task == "restore"
    return ["restore" if restores else "inference", "train"]


def _cases(suite: str) -> Iterator[Case]:
    if suite in suites.OTHERS:
        yield from suites.OTHERS[suite]()
    else:
        yield from suites.of_models(suite, _MODEL.value, _BATCH.value, _SIZE.value, _DTYPE.value)


def _print_head() -> None:
    _print_row(_COLUMNS)
    _print_row("---" for _ in _COLUMNS)


def _print_row(cells: Iterable[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _print_rows(case: str, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        _print_row((
            case,
            row["contender"],
            f"{1000 * row['median_s']:.1f}",
            f"{1000 * row['min_s']:.1f}",
            f"{row['images_per_s']:.1f}",
            "" if row["first_s"] is None else f"{row['first_s']:.1f}",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}",
            "" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %",
            "" if row["contender"] == race.OURS else f"{row['ratio']:.2f} x as fast",
        ))  # fmt: skip


def _print_goals(goals: list[dict[str, Any]], where: str, product: float | None) -> None:
    """Prints which goals were met, on which machine, and what the libraries alone make there."""
    if goals:
        print(f"Goals, on {where}:\n")
    beside = "" if product is None else f" (the product alone: {product:.2f})"
    for goal in sorted(goals, key=lambda goal: goal["goal"]):
        print(
            f"- {'met' if goal['met'] else 'not met'}: goal {goal['goal']}, {goal['case']}: "
            f"{goal['found']:.2f} x as fast as {goal['over']}{beside}, wanted {goal['wanted']:.2f}"
            + (f"; on an AMD EPYC: {goal['limit']}" if goal["limit"] and not goal["met"] else "")
        )


if __name__ == "__main__":
    cli.run(main)
