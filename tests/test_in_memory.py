"""Images in memory become files that are read as they were."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import files
from tests.helpers import READS_YCBCR_TIFF, photo, saved
from vit_jax import in_memory, photos


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [(mode, "a.png", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    + [("P", "a.png", {"transparency": 3}), ("P", "a.gif", {"transparency": 3})]
    + [("CMYK", "a.tif", {}), ("CMYK", "a.jpg", {})]
    + [("YCbCr", "a.tif", {})] * READS_YCBCR_TIFF,
)
def test_pictures_become_files_without_loss(tmp_path, mode, name, options):
    path = saved(mode, tmp_path / name, **options)
    with Image.open(path) as image:
        assert image.mode == mode
        again = in_memory.encode(image)
    expected = files.decode_in_python(path.read_bytes())
    assert expected.std() > 10
    np.testing.assert_array_equal(files.decode_in_python(again), expected)


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_deep_grey_keeps_its_depth(kind):
    grey = photo((20, 30))[..., 0].astype(kind) * 201
    for image in (Image.fromarray(grey), grey.astype(np.uint16)):
        again = files.decode_in_python(in_memory.encode(image), deep=True)
        np.testing.assert_array_equal(again, np.repeat(grey[..., None], 3, axis=-1))
    assert photos.read(Path("a"), in_memory.encode(Image.fromarray(grey))).stored.mode == "I;16"


def test_a_picture_that_is_cut_off(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(saved("RGB", tmp_path / "b.png").read_bytes()[:700])
    with (
        Image.open(path) as image,
        pytest.raises(ValueError, match="a picture that cannot be read: image file is truncated"),
    ):
        in_memory.encode(image)


def test_a_turned_picture_is_read_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo((20, 30))).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        again = files.decode_in_python(in_memory.encode(image))
    assert again.shape == (30, 20, 3)
    expected = files.decode_in_python((tmp_path / "a.jpg").read_bytes())
    np.testing.assert_array_equal(again, expected)
