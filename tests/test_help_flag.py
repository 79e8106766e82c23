"""What --help of the commands shows."""

import re

import pytest

from tests.commands import ROOT, run

# What each must show, in this order.
FLAGS = {
    "benchmark": ["model", "seconds"],
    "convert": ["model", "key", "inspect"],
    "export": ["workdir", "checkpoint", "weights"],
    "main": ["config", "workdir", "mode"],
    "measure": ["output", "truth", "protocol", "scale", "sources", "pattern"],
    "page": ["workdir", "checkpoint", "labels", "host", "port"],
    "predict": ["workdir", "checkpoint", "weights", "labels", "output", "compare"],
    "probe": ["workdir", "checkpoint", "weights", "output", "shots", "neighbours", "eval_pp"],
    "search": ["weights", "output", "index"],
}


def test_every_command_is_known_here():
    sources = [*ROOT.glob("vit_jax/*.py"), *ROOT.glob("vit_jax/*/__main__.py")]
    commands = {p.parent.name if p.stem == "__main__" else p.stem
                for p in sources if "cli.run(" in p.read_text()}  # fmt: skip
    assert commands == set(FLAGS)


@pytest.mark.parametrize("command", FLAGS)
def test_help_shows_what_one_needs_first_and_nothing_of_libraries(command):
    result = run(command, "-h" if command == "predict" else "--help")
    assert (result.returncode, result.stderr) == (0, "")
    about, _, listed = result.stdout.partition("\n\n  -")
    assert f"python -m vit_jax.{command} " in about
    shown = re.findall(r"^  (?:-\w, )?--(?:\[no\])?(\w+): \S", f"  -{listed}", re.MULTILINE)
    assert [name for name in shown if name in FLAGS[command]] == FLAGS[command]
    assert shown[-2:] == ["traceback", "compilation_cache"]
    assert "verbosity" not in shown  # absl's
    assert len(shown) == len(set(shown))


def test_help_says_short_names_and_defaults():
    lines = " ".join(run("search", "--help").stdout.split())
    assert "-o, --output: Folder for what is written" in lines
    assert "--top: How many photos are shown. (default: 20)" in lines
    assert "--workdir: A trained run's folder. --checkpoint: " in lines  # unset is no default
