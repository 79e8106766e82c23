"""Times ways to compute the same in turn, once their results are seen to agree."""

import ctypes
import dataclasses
import importlib
import itertools
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

OURS = "ours"

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 50
_COMPARED_STEPS = 3
_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)
_PAUSE = 0.02  # seconds; threads that wait for work are busy for a while after each call


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to compute something.

    Attributes:
        name: `OURS`, or what that is compared with.
        call: computes it once, and returns when that is done.
        output: computes it for fixed inputs, to be compared; None where nothing is computed but
            programs are compiled or started.
        own_bytes: the library's own account of the memory that a call takes; None if it has none,
            and the growth of the process is measured.
        compile_s: seconds that compiling it took before.
        devices: that it computes on.
        deviation: of its results from exact ones, on average, of 255; None where `output` is all
            that there is to compare.
    """

    name: str
    call: Callable[[], Any]
    output: Callable[[], np.ndarray] | None = None
    own_bytes: Callable[[], int] | None = None
    compile_s: float = 0.0
    devices: int = 1
    deviation: float | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """What the contenders compute.

    Attributes:
        name: of the case in the table.
        contenders: makes them, ours first; takes a folder for files, which is removed afterwards.
        images: per call.
        flops: of a call, multiplications and additions of the model counted; None if unknown.
        tolerance: largest difference between outputs, by the largest magnitude of ours.
        calls: that a contender makes each time, all of `images`; times are those of one.
    """

    name: str
    contenders: Callable[[Path], Iterator[Contender]]
    images: int = 1
    flops: float | None = None
    tolerance: float = 1e-4
    calls: int = 1


def run(case: Case, seconds: float, alone: bool = False) -> list[dict[str, Any]]:
    """Runs a case.

    Args:
        case: what to run.
        seconds: about how long to time it; each contender is called 5 to 50 times.
        alone: whether to leave out all but the first.

    Returns:
        A row per contender: `contender`, `median_s`, `min_s`, `ratio` (its median by ours),
        `images_per_s`, `peak_bytes` over what was there before the call (None if nothing is
        computed), `first_s` (until the first output, compilation included; None likewise), `mfu`
        (None if unknown), `difference` to our output by its largest magnitude, and `deviation`, see
        `Contender`.

    Raises:
        ValueError: if the outputs disagree.
    """
    with tempfile.TemporaryDirectory() as folder:
        contenders = itertools.islice(case.contenders(Path(folder)), 1 if alone else None)
        return _race(case, list(contenders), seconds)


def _race(case: Case, contenders: Sequence[Contender], seconds: float) -> list[dict[str, Any]]:
    differences, first_s = _compare(case, contenders)
    contenders = [who for who in contenders if who.output is None or who.name in first_s]
    start = time.perf_counter()
    for contender in contenders:  # the second call, after that for the output
        contender.call()
    rounds = int(seconds / (time.perf_counter() - start + 1e-9))
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(min(max(rounds, _LEAST_ROUNDS), _MOST_ROUNDS)):
        for contender in contenders:
            time.sleep(_PAUSE)
            start = time.perf_counter()
            contender.call()
            times[contender.name].append((time.perf_counter() - start) / case.calls)
    ours = statistics.median(times[contenders[0].name])
    peak_flops = peak_flops_of(jax.devices()[0].device_kind)
    rows = []
    for contender in contenders:
        median = statistics.median(times[contender.name])
        used = None
        if case.flops is not None and peak_flops is not None:
            used = case.flops / median / peak_flops / contender.devices
        rows.append({
            "contender": contender.name,
            "median_s": median,
            "min_s": min(times[contender.name]),
            "ratio": median / ours,
            "images_per_s": case.images / median,
            "peak_bytes": _peak_bytes(contender),
            "first_s": first_s.get(contender.name),
            "mfu": used,
            "difference": differences.get(contender.name),
            "deviation": contender.deviation,
        })  # fmt: skip
    return rows


# Dense bfloat16 operations per second, as the makers have them, by what a device's name has in it.
_PEAK_FLOPS = {
    "H100 PCIe": 756e12, "H100 NVL": 835.5e12, "H100": 989.4e12, "H200 NVL": 835.5e12,
    "H200": 989.4e12, "A100": 312e12, "TPU v6": 918e12, "TPU v5 lite": 197e12,
    "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v4": 275e12,
}  # fmt: skip


def peak_flops_of(device_kind: str) -> float | None:
    """Dense bfloat16 operations per second of an accelerator; None if unknown."""
    known = (n for n in _PEAK_FLOPS if re.search(rf"\b{n}(\b|p\b)", device_kind))
    return _PEAK_FLOPS.get(next(known, ""))


def installed(*modules: str) -> bool:
    """Whether all these can be imported; says so on stderr where not."""
    for name in modules:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError) as error:  # the latter where versions do not fit
            print(f"not compared with {name}: {error}", file=sys.stderr)
            return False
    return True


def has_torch(*modules: str) -> bool:
    """Whether PyTorch, and what else is named, is installed for the device that JAX uses."""
    if not installed("torch", *modules):
        return False
    import torch

    backend = jax.default_backend()
    if backend == "cpu" or (backend == "gpu" and torch.cuda.is_available()):
        return True
    print(f"not compared with torch, which finds no {backend}", file=sys.stderr)
    return False


def compiled(function: Any, *args: Any) -> tuple[Any, float]:
    """Compiles a function of `jax.jit` for arguments; returns the program and the seconds taken."""
    start = time.perf_counter()
    program = function.lower(*args).compile()
    return program, time.perf_counter() - start


def jitted(name: str, function: Any, *args: Any, calls: int = 1) -> Contender:
    """A contender that calls a function of `jax.jit`, and waits for the last of some calls."""
    program, compile_s = compiled(function, *args)

    def call() -> Any:
        for _ in range(calls):
            out = program(*args)
        return jax.block_until_ready(out)

    return Contender(
        name, call, lambda: np.asarray(program(*args)), lambda: bytes_of(program), compile_s
    )


def stepping(
    name: str,
    advance: Callable[[], Any],
    wait: Callable[[], Any],
    calls: int,
    compile_s: float = 0.0,
    own_bytes: Callable[[], int] | None = None,
    devices: int = 1,
) -> Contender:
    """A contender that trains; the losses of its first steps are what is compared.

    Args:
        name: of the contender.
        advance: starts a step, and returns its loss.
        wait: waits until all is done.
        calls: steps to start before that.
        compile_s: seconds that compiling took.
        own_bytes: see `Contender`.
        devices: that it computes on.
    """

    def call() -> None:
        for _ in range(calls):
            advance()
        wait()

    def losses() -> np.ndarray:
        return np.array([float(advance()) for _ in range(_COMPARED_STEPS)])

    return Contender(name, call, losses, own_bytes, compile_s, devices)


def bytes_of(compiled: Any) -> int:
    """What a call of a compiled function takes besides its arguments."""
    analysis = compiled.memory_analysis()
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.temp_size_in_bytes + new


def _compare(
    case: Case, contenders: Sequence[Contender]
) -> tuple[dict[str, float], dict[str, float]]:
    """Computes how far each output is from ours, and the seconds that it took.

    One of the others that does not fit into the device's memory has no seconds; stderr says so.
    """
    outputs, seconds = {}, {}
    for contender in contenders:
        if contender.output is not None:
            start = time.perf_counter()
            try:
                outputs[contender.name] = contender.output()
            except RuntimeError as error:  # of which JAX's and PyTorch's are
                if contender.name == OURS or not _OUT_OF_MEMORY.search(str(error)):
                    raise
                print(f"{case.name}: {contender.name} is left out: {error}", file=sys.stderr)
                continue
            seconds[contender.name] = contender.compile_s + time.perf_counter() - start
    if not outputs:
        return {}, {}
    ours = outputs.pop(contenders[0].name)
    differences = {}
    for name, output in outputs.items():
        difference = float(np.max(np.abs(output - ours)) / np.max(np.abs(ours)))
        if not difference <= case.tolerance:
            raise ValueError(
                f"{case.name}: what {name} computes differs by {difference:.2g} from ours, more "
                f"than {case.tolerance:.2g}, so that their times cannot be compared"
            )
        differences[name] = difference
    return differences, seconds


def _peak_bytes(contender: Contender) -> int | None:
    if contender.output is None:
        return None  # no computation, or one in another process
    if contender.own_bytes is not None:
        return contender.own_bytes()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # gives back what was freed, or a call could reuse it
    process = psutil.Process()
    peak = before = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    contender.call()
    done.set()
    watcher.join()
    return peak - before
