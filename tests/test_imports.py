"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.answerers import made
from tests.helpers import TINY, TINY_DEHAZEFORMER, photo
from vit_jax import convert
from vit_jax.models import get_model

ROOT = Path(__file__).parent.parent
# Packages of this repository.
OWN = ("checkpoints", "configs", "input_pipeline", "vit_jax")


def modules_of(path):
    """Names of the modules that a file imports, wherever it does, with what is taken of them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has an import that is relative"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(*patterns):
    """Python files by patterns, which find one or more."""
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.suffix == ".py"}
    assert found, f"nothing is called {patterns}"
    return sorted(found)


def begins(module, names):
    return any(module == name or module.startswith(f"{name}.") for name in names)


@pytest.mark.parametrize("package", ["input_pipeline", "checkpoints"])
def test_what_stands_below_imports_nothing_from_above(package):
    paths = files_of(f"{package}/**/*.py")
    assert len(paths) > 4
    for path in paths:
        above = [name for name in modules_of(path) if begins(name, ("vit_jax", "configs"))]
        assert not above, path


def test_models_stand_on_jax_and_each_other_alone():
    names = ("models", "layers", "ops")  # files or folders
    paths = [
        path for name in names for path in files_of(f"vit_jax/{name}*", f"vit_jax/{name}*/**/*")
    ]
    assert len(paths) > 7
    inside = tuple(f"vit_jax.{name}" for name in names)
    allowed = (*sys.stdlib_module_names, "jax", "flax", "numpy", *inside)
    for path in paths:
        others = [name for name in modules_of(path) if not begins(name, allowed)]
        assert not others, path


def test_tasks_know_nothing_of_runs_and_commands_nor_of_each_other():
    (base,) = files_of("vit_jax/tasks/base.py")
    allowed = (*sys.stdlib_module_names, "jax", "flax", "numpy", "vit_jax.options")
    assert all(begins(name, allowed) for name in modules_of(base))
    runs = ("experiment", "train", "step", "evaluate", "pretrained", "weights", "validation",
            "predict", "convert", "export", "main", "page")  # fmt: skip
    above = tuple(f"vit_jax.{name}" for name in runs)
    shared = ("vit_jax.tasks.base", "vit_jax.tasks.plain")
    may_use = {"image_text": "vit_jax.tasks.classify"}
    for path in files_of("vit_jax/tasks/*.py"):
        for name in modules_of(path):
            assert not begins(name, above), (path, name)
            others = begins(name, ("vit_jax.tasks",)) and not begins(name, shared)
            is_own = path.stem in ("__init__", "plain") or name.startswith(
                may_use.get(path.stem, "nothing")
            )
            assert is_own or not others, (path, name)


def test_an_import_is_seen_wherever_it_is(tmp_path):
    (tmp_path / "a.py").write_text(
        "import os.path, numpy as np\ndef f():\n    from vit_jax import ops, train\n"
    )
    found = list(modules_of(tmp_path / "a.py"))
    assert found == ["os.path", "numpy", "vit_jax.ops", "vit_jax.train"]
    assert begins("vit_jax.ops", ("vit_jax.ops",))
    assert not begins("vit_jax.opsy", ("vit_jax.ops",))


# What commands import, each in a process of its own.

_SLOW = {"clu", "keras", "matplotlib", "optax", "orbax", "pandas", "scipy.stats", "tensorflow",
         "tensorflow_datasets", "tf_keras", "torch", "transformers"}  # fmt: skip


def imported_by(module, *args):
    """Names of the modules that python -m MODULE imports; and what it prints besides."""
    code = f"""
import runpy, sys
sys.argv = {[module, *map(str, args)]}
try:
    runpy.run_module("{module}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print(*sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    printed, _, modules = result.stdout.rstrip().rpartition("\n")
    return set(modules.split()), printed + result.stderr


@pytest.mark.parametrize(
    ("name", "fields", "flags"),
    [
        ("ViT-Ti_16", dict(TINY, num_classes=1000), ["--labels=imagenet1k"]),
        ("DehazeFormer-T", TINY_DEHAZEFORMER, []),
    ],
)
def test_predicting_for_a_photo_imports_nothing_slow(name, fields, flags, tmp_path):
    model = get_model(name, **fields)
    loss = "l1" if model.any_size else "softmax_xent"
    weights = tmp_path / "weights.npz"
    convert.write(weights, made(model, (32, 32), name=name, fields=fields, loss=loss))
    Image.fromarray(photo((40, 50))).save(tmp_path / "photo.jpg")
    found, printed = imported_by(
        "vit_jax.predict", f"--weights={weights}", f"--output={tmp_path / 'out'}",
        "--compilation_cache=", *flags, tmp_path / "photo.jpg",
    )  # fmt: skip
    assert "photo.jpg" in printed
    assert "jax" in found
    assert not found & _SLOW


def test_help_of_training_imports_no_jax():
    found, printed = imported_by("vit_jax.main", "--help")
    assert "--workdir" in printed
    assert not found & (_SLOW | {"jax", "flax"})
