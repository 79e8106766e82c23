"""Looks for the fastest way to train a model here: python -m vit_jax.benchmark.sweep --model=NAME.

Each batch size, from --batch_size on and doubled until the memory is too small, is tried without
and with remat, and the fastest of these with each set of XLA's flags for GPUs; all of them in
processes of their own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from vit_jax import cli
from vit_jax.benchmark import race, recognition
from vit_jax.inference_time import describe_machine

# What XLA can be told on an NVIDIA GPU. Which is best depends on the model and on XLA's version.
XLA_FLAGS = {
    "none": "",
    "latency hiding": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "any product by Triton": "--xla_gpu_triton_gemm_any=true",
    "no product by Triton": "--xla_gpu_enable_triton_gemm=false",
}

_MODEL = flags.DEFINE_string("model", "ViT-B_16", "Name of the classifier to train.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "The smallest batch to try.", lower_bound=1)
_MOST = flags.DEFINE_integer("largest_batch_size", 4096, "The largest batch to try.", lower_bound=1)
_SIZE = flags.DEFINE_integer("image_size", 224, "Side of the images.", lower_bound=1)
_DTYPE = flags.DEFINE_string("dtype", "bfloat16", "Compute type.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "About how long to time each try.", lower_bound=0)
_JSON = flags.DEFINE_string("json", None, "File for the results.")
_TRY = flags.DEFINE_string("try_json", None, "For the processes that this one starts: one try.")

Row = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Tries all, prints a row of each and the fastest; or, told so, makes one try."""
    if len(argv) > 1:
        raise ValueError(f"{argv[1]} is not an option; the model is --model={_MODEL.value}")
    if _TRY.value is not None:
        print(json.dumps(_try_here(json.loads(_TRY.value))))
        return 0
    print(f"{_MODEL.value} on {describe_machine()}\n")
    print("| batch | remat | XLA flags | images/s | MFU | peak MiB |\n|---|---|---|---|---|---|")
    rows = []
    for row in sweep(_try_apart, _BATCH.value, _MOST.value):
        rows.append(row)
        print(f"| {' | '.join(_cells(row))} |", flush=True)
        if _JSON.value is not None:
            Path(_JSON.value).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    fitting = [row for row in rows if row["images_per_s"]]
    if not fitting:
        raise ValueError("none of them fits into memory: take a smaller --batch_size")
    best = max(fitting, key=lambda row: row["images_per_s"])
    xla = XLA_FLAGS[best["flags"]]
    print(
        f"\nThe fastest: {f'XLA_FLAGS={xla!r} ' if xla else ''}python -m vit_jax.main ... "
        f"--config.batch_size={best['batch']} --config.dtype={_DTYPE.value}"
        + (" --config.model.remat=True" if best["remat"] else "")
    )
    return 0


def sweep(run: Callable[[Row], Row], smallest: int, largest: int) -> Iterator[Row]:
    """Makes the tries.

    Args:
        run: takes `batch`, `remat` and `flags`, and adds `images_per_s`, which is None if the
            memory was too small, and what else there is to say.
        smallest: batch.
        largest: batch.

    Yields:
        What `run` returns. With the first flags the batch grows as far as it fits; the others are
        tried on the fastest of those.
    """
    first, *others = XLA_FLAGS
    rows = []
    for remat in (False, True):
        batch = smallest
        while batch <= largest:
            rows.append(run({"batch": batch, "remat": remat, "flags": first}))
            yield rows[-1]
            if rows[-1]["images_per_s"] is None:
                break
            batch *= 2
    fitting = [row for row in rows if row["images_per_s"] is not None]
    if fitting:
        best = max(fitting, key=lambda row: row["images_per_s"])
        for name in others:
            yield run({"batch": best["batch"], "remat": best["remat"], "flags": name})


def _try_apart(settings: Row) -> Row:
    """Makes a try in a process with the flags, since XLA reads them once."""
    xla = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS[settings['flags']]}".strip()
    given = [
        f"--{flag}={flags.FLAGS[flag].value}"
        for flag in ("model", "image_size", "dtype", "seconds")
    ]
    result = subprocess.run(
        [sys.executable, "-m", "vit_jax.benchmark.sweep", *given,
         f"--try_json={json.dumps(settings)}"],
        env={**os.environ, "XLA_FLAGS": xla},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if result.returncode == 0:
        return json.loads(result.stdout.splitlines()[-1])
    too_large = "RESOURCE_EXHAUSTED" in result.stderr or result.returncode < 0  # killed
    if not too_large:
        raise ValueError(f"{settings}: {result.stderr.strip().splitlines()[-1]}")
    return {**settings, "images_per_s": None, "mfu": None, "peak_bytes": None}


def _try_here(settings: Row) -> Row:
    case = recognition.train(
        _MODEL.value, settings["batch"], _SIZE.value, _DTYPE.value, remat=settings["remat"]
    )
    (row,) = race.run(case, _SECONDS.value, alone=True)
    return {**settings, **{key: row[key] for key in ("images_per_s", "mfu", "peak_bytes")}}


def _cells(row: Row) -> list[str]:
    if row["images_per_s"] is None:
        found = ["too large", "", ""]
    else:
        mfu = "" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %"
        found = [f"{row['images_per_s']:.1f}", mfu, f"{row['peak_bytes'] / 2**20:.0f}"]
    return [str(row["batch"]), "yes" if row["remat"] else "no", row["flags"], *found]


if __name__ == "__main__":
    cli.run(main)
