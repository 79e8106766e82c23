import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("vit_jax", "configs", "input_pipeline", "checkpoints")


def python(*args):
    subprocess.run([sys.executable, "-m", *map(str, args)], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_wheel_of_the_source_distribution_works_elsewhere(tmp_path):
    """Builds both from a copy of the tree, installs the wheel apart, and makes a model there."""
    tree = tmp_path / "tree"
    tracked = [*ROOT.glob("*.py"), *ROOT.glob("*.toml"), ROOT / "README.md", ROOT / "LICENSE"]
    tracked += [ROOT / "MANIFEST.in", ROOT / "tests" / "__init__.py"]
    tracked += [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    tracked += (ROOT / "checkpoints").glob("*.safetensors")
    for path in tracked:
        copy = tree / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    python("build", "--no-isolation", "--outdir", tmp_path, tree)  # the wheel from the sdist
    (source,) = tmp_path.glob("vit_jax-*.tar.gz")
    with tarfile.open(source) as archive:
        folders = {Path(name).parts[1] for name in archive.getnames() if "/" in name}
    assert folders >= {*PACKAGES, "LICENSE", "README.md"}
    assert "tests" not in folders
    (wheel,) = tmp_path.glob("vit_jax-*.whl")
    site = tmp_path / "site"
    python("pip", "-q", "install", "--no-deps", "--target", site, wheel)

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
