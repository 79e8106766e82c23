import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("vit_jax", "configs", "input_pipeline", "checkpoints")


def pip(*args):
    subprocess.run([sys.executable, "-m", "pip", "-q", *map(str, args)], check=True)


@pytest.mark.slow
def test_a_wheel_works_elsewhere(tmp_path):
    """Builds a wheel from a copy of the tree, installs it apart, and makes a model there."""
    tree = tmp_path / "tree"
    tracked = [*ROOT.glob("*.py"), *ROOT.glob("*.toml"), ROOT / "README.md", ROOT / "LICENSE"]
    tracked += [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    tracked += (ROOT / "checkpoints").glob("*.safetensors")
    for path in tracked:
        copy = tree / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, tree)
    (wheel,) = tmp_path.glob("vit_jax-*.whl")
    site = tmp_path / "site"
    pip("install", "--no-deps", "--target", site, wheel)

    for package in PACKAGES:
        original = {p.relative_to(ROOT) for p in (ROOT / package).rglob("*.py")}
        installed = {p.relative_to(site) for p in (site / package).rglob("*.py")}
        assert installed == original
    (dehazer,) = (site / "checkpoints").glob("*.safetensors")
    assert dehazer.stat().st_size < 3e6
    code = """
import vit_jax, configs.digits, input_pipeline, checkpoints.npz
from vit_jax import experiment
exp = experiment.build(configs.digits.get_config())
print(vit_jax.__file__, len(exp.data.class_names))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert result.stdout.split() == [str(site / "vit_jax" / "__init__.py"), "10"], result.stderr
