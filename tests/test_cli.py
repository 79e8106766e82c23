"""What all commands have in common."""

import json
import re
import subprocess
import sys

from tests.commands import ROOT

_HEAVY = ("tensorflow", "tensorflow_datasets", "jax", "flax", "orbax", "optax", "matplotlib")
_ASK = f"""
import json, os, runpy, sys
for module in sys.argv[1:]:
    child = os.fork()
    if not child:
        out = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = [module, "--help"]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit:
            imported = [name for name in {_HEAVY} if name in sys.modules]
            os.write(out, (json.dumps([module, imported]) + "\\n").encode())
        os._exit(0)
    os.waitpid(child, 0)
"""


def _commands():
    for path in sorted(ROOT.glob("*/**/*.py")):
        module = path.relative_to(ROOT).with_suffix("").parts
        if module[0] in ("vit_jax", "input_pipeline") and re.search(
            r'^if __name__ == "__main__":$', path.read_text(), re.MULTILINE
        ):
            yield ".".join(module).removesuffix(".__main__")


def test_help_is_shown_before_what_takes_seconds_to_import():
    commands = list(_commands())
    assert {"vit_jax.main", "vit_jax.benchmark", "input_pipeline.prepare"} < set(commands)
    asking = [sys.executable, "-c", _ASK, *commands]
    result = subprocess.run(asking, cwd=ROOT, capture_output=True, text=True, check=True)
    answers = dict(map(json.loads, result.stdout.splitlines()))
    assert sorted(answers) == commands, result.stderr
    assert not any(answers.values()), answers
