"""Images in memory become files that are read as they were."""

import numpy as np
import pytest
from PIL import Image

from input_pipeline import files
from tests.helpers import photo, saved
from vit_jax import in_memory


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_pictures_become_files_without_loss(tmp_path, mode):
    if mode == "I;16":
        path = tmp_path / "a.png"
        Image.fromarray(photo((20, 30))[..., 0].astype(np.uint16) * 201).save(path)
    else:
        name = {"CMYK": "a.tif", "YCbCr": "a.tif"}.get(mode, "a.png")
        path = saved(mode, tmp_path / name)
    with Image.open(path) as image:
        assert image.mode == mode
        again = in_memory.encode(image)
    for deep in (False, True):
        np.testing.assert_array_equal(
            files.decode_in_python(again, deep), files.decode_in_python(path.read_bytes(), deep)
        )


def test_a_turned_picture_is_read_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo((20, 30))).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        again = files.decode_in_python(in_memory.encode(image))
    assert again.shape == (30, 20, 3)
    expected = files.decode_in_python((tmp_path / "a.jpg").read_bytes())
    np.testing.assert_array_equal(again, expected)
