"""Comparison with timm, which augments the same photo by the same draws."""

import importlib
import random

import numpy as np
import pytest
from PIL import Image

from input_pipeline import colour, crop_windows, timm_randaugment
from input_pipeline.cpu_tf import tf
from tests.helpers import smooth_with_noise

pytestmark = pytest.mark.parity

PHOTO = np.uint8(255 * smooth_with_noise((60, 75), seed=0))
MEAN = (124, 116, 104)
LEVELS = (0.0, 2.3, 5.0, 8.7, 9.0, 9.9)


@pytest.fixture(scope="module")
def timm():
    importlib.import_module("tests.torchvision_operators")
    importlib.import_module("timm.data")
    return importlib.import_module("timm").data


def test_the_operations_are_timms(timm):
    assert {*timm.auto_augment._RAND_INCREASING_TRANSFORMS} == {*timm_randaugment.OPERATIONS}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", timm_randaugment.OPERATIONS)
def test_operations(timm, monkeypatch, name, level, sign):
    monkeypatch.setattr(random, "random", lambda: 0.1 if sign > 0 else 0.9)  # decides the sign
    settings = {"img_mean": MEAN, "interpolation": Image.Resampling.BICUBIC, "magnitude_std": 0}
    theirs = timm.auto_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=settings)
    expected = np.asarray(theirs(Image.fromarray(PHOTO)))
    level, sign = tf.constant(level, tf.float64), tf.constant(sign, tf.float64)
    np.testing.assert_array_equal(timm_randaugment.OPERATIONS[name](PHOTO, level, sign), expected)


def draws_for(monkeypatch, draws):
    """Has Python's uniform numbers come from an array in [0, 1), and its integers be the least."""
    stream = iter(np.asarray(draws).reshape(-1))
    monkeypatch.setattr(random, "uniform", lambda low, high: low + (high - low) * next(stream))
    monkeypatch.setattr(random, "randint", lambda low, high: low)


@pytest.mark.parametrize("size", [(60, 75), (40, 40), (20, 110)])
@pytest.mark.parametrize("seed", range(12))
def test_windows_of_random_resized_crop(timm, monkeypatch, size, seed):
    draws = np.random.default_rng(seed).uniform(size=(10, 2))
    draws_for(monkeypatch, draws)
    image = Image.fromarray(np.zeros((*size, 3), np.uint8))
    crop = timm.transforms.RandomResizedCropAndInterpolation
    expected = crop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
    shape = tf.constant([*size, 3], tf.int32)
    extent, is_drawn = crop_windows.torchvision_extent(shape, draws, (0.08, 1.0))
    assert tuple(extent.numpy()) == expected[2:]
    if not is_drawn:
        assert tuple((np.array(size) - extent.numpy()) // 2) == expected[:2]


@pytest.mark.parametrize("size", [(60, 75), (12, 90)])
@pytest.mark.parametrize("seed", range(12))
def test_random_erasing(timm, monkeypatch, size, seed):
    import torch

    draws = np.random.default_rng(seed).uniform(size=(10, 2))
    draws_for(monkeypatch, draws)
    erase = timm.random_erasing.RandomErasing(probability=1.0, mode="pixel", device="cpu")
    changed = (erase(torch.zeros(3, *size)).numpy() != 0).all(axis=0)
    extent, fits = colour.erased_extent(
        tf.constant(size, tf.int32), draws, (0.02, 1 / 3), aspect=0.3
    )
    height, width = extent.numpy()
    assert changed.any() == bool(fits)
    expected = np.zeros(size, bool)
    expected[:height, :width] = fits
    np.testing.assert_array_equal(changed, expected)
