import importlib.util
import re
from pathlib import Path

import pytest

from configs import common
from vit_jax import experiment
from vit_jax.models import get_model

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    path for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common")
)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_says_what_it_is(path):
    experiment.validate_config(load(path))
    header = path.read_text().split('"""')[1]
    for word in ("Command:", "Hardware:", "Time:", "Score:", f"configs/{path.name}"):
        assert word in header, word


def leaf_keys(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items") and key not in ("model", "args"):
            yield from leaf_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_every_key_is_read_somewhere():
    files = [*(ROOT / "vit_jax").glob("*.py"), *(ROOT / "input_pipeline").rglob("*.py")]
    code = "\n".join(path.read_text() for path in files)
    keys = list(leaf_keys(common.get_config()))
    assert len(keys) > 40
    # An attribute of something called config, or the loss and dtype that are passed on by name.
    unread = [
        key for key in keys if not re.search(rf"config\.(\w+\.)?{key.split('.')[-1]}\b", code)
    ]
    assert not unread


def test_the_model_of_each_config_fits_its_preprocessing():
    for path in CONFIGS:
        config = load(path)
        size = int(re.findall(r"resize\((\d+)\)", config.data.eval_pp)[-1])
        assert size % get_model(config.model_name, **config.model).patch_size == 0
