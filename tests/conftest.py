"""What the tests share. By default they use two virtual CPU devices and no network."""

import contextlib
import importlib.metadata
import os
import re
import sys
from pathlib import Path

# Before JAX starts; the processes that pytest starts find it in their environment.
if re.search(r"(^| )-m ?(gpu|.*(?<!not )\bgpu\b)", " ".join(sys.argv[1:])):  # pytest -m gpu
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    os.environ.setdefault("JAX_PLATFORMS", "")  # whatever there is
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # of several processes
# The programs are tiny, and compiling them is what takes time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Many tests compile the same programs; those of the last run are used again as well. Small ones are
# not kept, since to look through thousands takes longer.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flag = "--xla_force_host_platform_device_count=2"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
if (
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    and "xla_cpu_use_fusion_emitters" not in os.environ["XLA_FLAGS"]
    and importlib.metadata.version("jaxlib").startswith("0.10.")  # JAX 0.11 ends at the flag
):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"  # compiles 3 times as fast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import common
from vit_jax.models import get_model

with contextlib.suppress(ImportError):  # make test-minimal has none
    import hypothesis

    hypothesis.settings.register_profile(  # whatever the speed of the machine
        "patient", max_examples=150, deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    hypothesis.settings.load_profile("patient")

# The files that take longest, which begin first, so that both processes end at about the same time.
_LONGEST = (
    "train", "restoration", "super_resolution", "main", "vit", "pretrained", "dehazeformer",
    "export", "models", "resuming", "swinir", "fuzz", "without_tensorflow", "swin", "files",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    ranks = {f"test_{name}": rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


TINY = dict(patch_size=4, hidden_size=16, num_layers=2, num_heads=2, mlp_dim=32)
TINY_HYBRID = dict(TINY, patch_size=1, resnet_layers=(2, 1), resnet_width_factor=0.5)
TINY_MIXER = dict(patch_size=4, num_blocks=2, hidden_dim=16, tokens_mlp_dim=8, channels_mlp_dim=32)


def random_params(name, size, seed=0, **fields):
    """A model, and parameters none of which is 0 or 1, as numpy arrays; size is (h, w)."""
    model = get_model(name, **fields)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    random = np.random.default_rng(seed)
    return model, jax.tree.map(
        lambda leaf: random.normal(scale=0.2, size=leaf.shape).astype(np.float32), shapes
    )


def noise(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def tiny_digits_config():
    """A run of a few seconds on the digits."""
    config = common.get_config()
    config.model_name = "ViT-Ti_16"
    config.model.update(patch_size=4, hidden_size=32, num_layers=1, num_heads=2, mlp_dim=32)
    config.model.classifier = "gap"
    config.data.source = "digits"
    config.data.train_pp = "grayscale_to_rgb|value_range(-1, 1)"
    config.data.eval_pp = "grayscale_to_rgb|resize(8)|value_range(-1, 1)"
    config.batch_size = 64
    config.optim.learning_rate = 1e-2
    config.total_steps = 6
    config.eval_every = 3
    config.log_every = 1
    return config


@pytest.fixture
def digits_config():
    return tiny_digits_config()


def write_image(path: Path, color: tuple[int, int, int], size=(20, 16), seed: int = 0) -> Path:
    """Writes a noisy image of one colour; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (size[1], size[0], 3))
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


COLORS = {"blue": (30, 30, 200), "red": (200, 30, 30)}


def write_classes(folder: Path, count: int, suffix: str = ".png", start: int = 0) -> None:
    """Writes folder/{blue,red}/{n}.png."""
    for name, color in COLORS.items():
        for i in range(start, start + count):
            write_image(folder / name / f"{i}{suffix}", color, seed=i)


@pytest.fixture
def image_folder(tmp_path):
    """A folder with train and test, two classes that colour tells apart."""
    folder = tmp_path / "images"
    write_classes(folder / "train", 10)
    write_classes(folder / "test", 3, suffix=".jpg", start=100)
    return folder


@pytest.fixture
def folder_config(digits_config, image_folder):
    """A run of a few seconds on `image_folder`."""
    digits_config.data.source = str(image_folder)
    digits_config.data.train_pp = "decode|inception_crop(8)|flip_lr|value_range(-1, 1)"
    digits_config.data.eval_pp = "decode|resize(8)|value_range(-1, 1)"
    digits_config.batch_size = 4
    return digits_config
