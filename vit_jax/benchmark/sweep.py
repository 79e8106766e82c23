"""Looks for the fastest way to train a model: python -m vit_jax.benchmark sweep --model=NAME.

Each batch size, from --batch_size on and doubled until the memory is too small, is tried without
and with remat, and the fastest of these with each set of XLA's flags for GPUs; all of them in
processes of their own.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

from vit_jax.benchmark import race
from vit_jax.benchmark.apart import Failed, run_apart
from vit_jax.benchmark.training import train

NAME = "sweep"

# What XLA can be told on an NVIDIA GPU. Which is best depends on the model and on XLA's version.
XLA_FLAGS = {
    "none": "",
    "latency hiding": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "products by Triton as well": "--xla_gpu_enable_triton_gemm=true",
    "any product by Triton": "--xla_gpu_enable_triton_gemm=true --xla_gpu_triton_gemm_any=true",
}

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all tries have in common.

    Attributes:
        model: name of the classifier.
        image_size: side of the images.
        dtype: compute type.
        seconds: about how long to time each try.
    """

    model: str
    image_size: int
    dtype: str
    seconds: float

    def try_here(self, choice: Row) -> Row:
        """Times a choice of `batch`, `remat` and `flags`, the last of which XLA has read."""
        fields: dict[str, Any] = {"remat": True} if choice["remat"] else {}
        case = train(self.model, choice["batch"], self.image_size, self.dtype, **fields)
        (row,) = race.run(case, self.seconds, alone=True)
        return {**choice, **{key: row[key] for key in ("images_per_s", "mfu", "peak_bytes")}}

    def try_apart(self, choice: Row) -> Row:
        """Does so in a process of its own, since XLA reads flags once.

        Raises:
            ValueError: if it fails for another reason than too little memory.
        """
        given = [f"--{name}={value}" for name, value in dataclasses.asdict(self).items()]
        try:
            return run_apart(
                [NAME, *given, f"--choice={json.dumps(choice)}"], XLA_FLAGS[choice["flags"]]
            )
        except Failed as failed:
            if not failed.is_too_large:
                raise ValueError(f"{choice}: {failed}") from None
            return {**choice, "images_per_s": None, "mfu": None, "peak_bytes": None}


def print_sweep(
    settings: Settings, smallest: int, largest: int, run: Callable[[Row], Row]
) -> list[Row]:
    """Makes the tries, prints a row of each, and which is the fastest; see `sweep`.

    Raises:
        ValueError: if none fits into memory.
    """
    print("| batch | remat | XLA flags | images/s | MFU | peak MiB |\n|---|---|---|---|---|---|")
    rows = []
    for row in sweep(run, smallest, largest):
        rows.append(row)
        print(f"| {' | '.join(_cells(row))} |", flush=True)
    fitting = [row for row in rows if row["images_per_s"]]
    if not fitting:
        raise ValueError("none of them fits into memory: take a smaller --batch_size")
    best = max(fitting, key=lambda row: row["images_per_s"])
    xla = XLA_FLAGS[best["flags"]]
    print(
        f"\nThe fastest: {f'XLA_FLAGS={xla!r} ' if xla else ''}python -m vit_jax.main ... "
        f"--config.batch_size={best['batch']} --config.dtype={settings.dtype}"
        + (" --config.model.remat=True" if best["remat"] else "")
    )
    return rows


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


def _cells(row: Row) -> list[str]:
    if row["images_per_s"] is None:
        found = ["too large", "", ""]
    else:
        mfu = "" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %"
        found = [f"{row['images_per_s']:.1f}", mfu, f"{row['peak_bytes'] / 2**20:.0f}"]
    return [str(row["batch"]), "yes" if row["remat"] else "no", row["flags"], *found]
