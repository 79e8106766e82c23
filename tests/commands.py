"""Runs our commands as a person does, and sees what they print."""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# A process that has imported what the commands need, and from which each is forked: to import it
# anew takes longer than most of them.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [f"vit_jax.{name}" for name in ("train", "attention_maps", "pretrained")]
)


def free_port():
    """One at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return sock.getsockname()[1]


def run(module, *args, cwd=ROOT):
    """Runs python -m vit_jax.MODULE in a forked process."""
    command = [f"vit_jax.{module}", *map(str, args)]
    receiver, sender = _forks.Pipe(duplex=False)
    process = _forks.Process(target=_execute, args=(command, cwd, sender))
    process.start()
    sender.close()
    try:
        stdout, stderr = receiver.recv()
    except EOFError:
        stdout, stderr = "", "the process ended without a word"
    process.join()
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)


def _execute(command, cwd, sender):
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))  # as python -m does
    printed = [os.memfd_create(name) for name in ("stdout", "stderr")]
    for number, file in enumerate(printed, start=1):
        os.dup2(file, number)
    sys.argv = command
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sender.send([os.pread(file, 1 << 20, 0).decode() for file in printed])


def run_afresh(module, *args, cwd=ROOT):
    """Runs python -m vit_jax.MODULE in a process of its own, with all that starting it takes."""
    return subprocess.run(
        [sys.executable, "-m", f"vit_jax.{module}", *map(str, args)],
        capture_output=True, text=True, check=False, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
