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

import pytest
from PIL import Image

from tests.helpers import (
    degraded_config,
    pairs_config,
    photo,
    shrink,
    tiny_digits_config,
    write_classes,
    write_pairs,
)

with contextlib.suppress(ImportError):  # make test-minimal has none
    import hypothesis

    hypothesis.settings.register_profile(  # whatever the speed of the machine
        "patient", max_examples=150, deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    hypothesis.settings.load_profile("patient")

# The files that take longest, which begin first, so that both processes end at about the same time.
_LONGEST = (
    "train", "restore", "predict", "main", "vit", "pretrained", "dehazeformer", "export", "models",
    "resuming", "swinir", "fuzz", "without_tensorflow", "swin", "tiles", "paired_folder", "files",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    ranks = {f"test_{name}": rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture
def digits_config():
    return tiny_digits_config()


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


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory):
    """Pairs of two sizes, smaller than the crop and larger."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "train", [(40, 36), (29, 47), (40, 36), (29, 47)])
    write_pairs(folder / "test", [(40, 36), (29, 47), (40, 36)], start=20)
    return folder


@pytest.fixture(scope="session")
def dehazing_run(pairs_folder, tmp_path_factory):
    """The folder of a run on `pairs_folder`, and its figures."""
    from vit_jax import train

    workdir = tmp_path_factory.mktemp("restoration")
    return workdir, train.train_and_evaluate(pairs_config(pairs_folder), workdir)


@pytest.fixture(scope="session")
def photos_folder(tmp_path_factory):
    """Clean photos of two sizes, neither of which 2 or 3 divides."""
    folder = tmp_path_factory.mktemp("photos")
    for i, size in enumerate([(61, 49), (55, 67), (61, 49), (55, 67)]):
        Image.fromarray(photo(size, 40 * i)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def set_of_pairs(tmp_path):
    """Laid out like Set5 and DIV2K; the large images have a row more than twice the small ones."""
    for i in range(3):
        large = photo((41, 36), 50 * i)
        for folder, name, image in [
            ("HR", f"p{i}.png", large),
            ("LR_bicubic/X2", f"p{i}x2.png", shrink(large[:40], 2)),
            ("LR_bicubic/X4", f"p{i}x4.png", shrink(large[:40], 4)),
        ]:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / name)
    return tmp_path


@pytest.fixture(scope="session")
def enlarging_run(photos_folder, tmp_path_factory):
    """The folder of a run on `photos_folder`, and its figures."""
    from vit_jax import train

    workdir = tmp_path_factory.mktemp("enlarging")
    return workdir, train.train_and_evaluate(degraded_config(photos_folder), workdir)
