"""Kills and restarts a small run at random moments: python -m tests.soak --minutes=30.

Beside it runs the same training undisturbed, whose memory is watched. In the end both must have the
same state, metrics and weights, and the memory must not have grown: its mean over the last quarter
of the time may be at most 1.05 times that over the second quarter.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from tests.commands import ROOT
from tests.runs import assert_same_runs
from vit_jax.machinery.preemption import EXIT_CODE
from vit_jax.workdir import Workdir

_STEPS_PER_MINUTE = 300
_LIVES_S = (5, 60)  # shortest and longest life, starting included
_GENTLE = 0.25  # share of the kills by SIGTERM, the rest by SIGKILL
_MOST_GROWTH = 1.05


def main() -> int:
    """Runs the soak; returns 0 if it was withstood."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    steps = round(args.minutes * _STEPS_PER_MINUTE)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        undisturbed, process = _start(whole, steps), _start(killed, steps)
        watched = psutil.Process(undisturbed.pid)
        rss: list[int] = []
        kills, last = {"SIGTERM": 0, "SIGKILL": 0}, 0
        end = time.monotonic() + 60 * args.minutes
        death = time.monotonic() + moments.uniform(*_LIVES_S)
        try:
            while undisturbed.poll() is None or process.poll() is None:
                time.sleep(1)
                if undisturbed.poll() is None:
                    rss.append(watched.memory_info().rss)
                if time.monotonic() < death or time.monotonic() > end or process.poll() is not None:
                    continue
                kills[_kill(process, gentle=moments.random() < _GENTLE)] += 1
                step = _last_step(killed)
                print(f"{sum(kills.values())} kills, step {step} of {steps}", flush=True)
                if step < last:
                    raise RuntimeError(f"step {last} was saved, and now the last is {step}")
                process, last = _start(killed, steps), step
                death = time.monotonic() + moments.uniform(*_LIVES_S)
            if undisturbed.returncode or process.returncode:
                raise RuntimeError(f"a run failed, see above: {undisturbed}, {process}")
        finally:
            undisturbed.kill()
            process.kill()
        assert_same_runs(whole, killed, has_means=False)
    quarters = [part.mean() / 2**20 for part in np.array_split(np.array(rss), 4)]
    growth = quarters[3] / quarters[1]
    print(f"killed {kills}; {steps} steps: state, metrics and weights are equal")
    print(f"memory by quarters: {', '.join(f'{q:.0f}' for q in quarters)} MiB, growth {growth:.3f}")
    return 0 if growth <= _MOST_GROWTH else 1


def _start(workdir: Path, steps: int) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable, "-m", "vit_jax.main", "--config=configs/digits.py",
            f"--workdir={workdir}", f"--config.total_steps={steps}",
            "--config.checkpoint_every=50", "--config.eval_every=500",
        ],
        stdout=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip


def _kill(process: subprocess.Popen, gentle: bool) -> str:
    """Ends a process; returns the name of the signal that did."""
    process.send_signal(signal.SIGTERM if gentle else signal.SIGKILL)
    process.wait()
    # 0 if it has just finished; and outside of the training SIGTERM has no handler.
    assert process.returncode in (0, EXIT_CODE, -signal.SIGTERM, -signal.SIGKILL)
    return "SIGTERM" if gentle else "SIGKILL"


def _last_step(workdir: Path) -> int:
    folder = Workdir(workdir).checkpoints
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


if __name__ == "__main__":
    sys.exit(main())
