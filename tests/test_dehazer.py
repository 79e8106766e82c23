"""The dehazer that comes with the package."""

import numpy as np
import pytest
from PIL import Image

import vit_jax
from checkpoints import packages
from tests.commands import run


@pytest.fixture(scope="module")
def hazy_and_clear(tmp_path_factory):
    from skimage import data

    clear = Image.fromarray(data.coffee()).resize((150, 100))
    transmission = np.linspace(0.4, 0.7, 100)[:, None, None]
    hazy = np.asarray(clear) * transmission + 230 * (1 - transmission)
    path = tmp_path_factory.mktemp("photos") / "hazy.png"
    Image.fromarray(hazy.astype(np.uint8)).save(path)
    return path, np.asarray(clear)


def psnr(image, clear):
    return 10 * np.log10(255**2 / np.mean((np.asarray(image, float) - clear) ** 2))


def test_haze_becomes_less(hazy_and_clear):
    path, clear = hazy_and_clear
    model = vit_jax.load(packages.DEHAZER)
    assert model.name == "DehazeFormer-T"
    assert psnr(model(path), clear) > psnr(Image.open(path), clear) + 5


@pytest.mark.slow
def test_predict_dehazes_if_no_model_is_named(hazy_and_clear, tmp_path):
    path, clear = hazy_and_clear
    result = run("predict", f"--output={tmp_path}/out", path)
    assert result.returncode == 0
    assert f"no --weights or --workdir is given: this is {packages.DEHAZER}" in result.stderr
    assert psnr(Image.open(tmp_path / "out" / "hazy.png"), clear) > 15

    result = run("predict", "--labels=cat,dog", path)
    assert result.returncode == 2
    assert "say which model" in result.stderr
