"""What is said of the project in more than one place."""

import re
from pathlib import Path

import yaml

import vit_jax

ROOT = Path(__file__).parent.parent


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vit_jax.__version__
    assert re.search(
        rf"^## {re.escape(vit_jax.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_public_checks_are_those_of_a_clone():
    jobs = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())["jobs"]
    matrix = jobs["checks"]["strategy"]["matrix"]
    assert matrix["target"] == re.findall(r"^make (\S+)$", (ROOT / ".ci/run").read_text(), re.M)
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert hook["entry"] == f"make {matrix['target'][0]}"
