"""Images that are made smaller as MATLAB makes them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import photo, shrink


def shrink_by_loop(image, factor):
    """MATLAB's imresize from its definition: sums of mirrored pixels, rounded after each axis."""

    def cubic(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0

    for _ in range(2):  # rows, then columns
        side = image.shape[0]
        mirrored = [*range(side), *reversed(range(side))]
        rows = []
        for i in range(side // factor):
            centre = (i + 0.5) * factor - 0.5
            near = range(int(centre) - 2 * factor, int(centre) + 2 * factor + 2)
            weights = np.array([cubic((j - centre) / factor) for j in near])
            pixels = np.stack([image[mirrored[j % (2 * side)]] for j in near])
            rows.append(np.tensordot(weights / weights.sum(), pixels, 1))
        image = np.clip(np.floor(np.stack(rows) + 0.5), 0, 255).swapaxes(0, 1)
    return image


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_smaller_images(factor):
    image = photo((12 * factor, 5 * factor))
    found = shrink(image, factor)
    assert found.shape == (12, 5, 3)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, shrink_by_loop(image.astype(float), factor), atol=1)
    assert np.mean(found != shrink_by_loop(image.astype(float), factor)) < 0.01  # .5 in float32


@pytest.mark.skipif(
    "SET5" not in os.environ, reason="SET5 names no folder with the published pairs"
)
@pytest.mark.parametrize("factor", [2, 4])
def test_smaller_images_are_those_of_set5(factor):
    folder = Path(os.environ["SET5"])
    for path in (folder / "HR").iterdir():
        large = np.asarray(Image.open(path).convert("RGB"))
        published = folder / "LR_bicubic" / f"X{factor}" / f"{path.stem}x{factor}.png"
        np.testing.assert_array_equal(
            shrink(large, factor), np.asarray(Image.open(published).convert("RGB"))
        )
