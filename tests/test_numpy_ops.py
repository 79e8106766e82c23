"""The ops of an evaluation, computed by numpy: the same pixels as TensorFlow's, without it."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from input_pipeline import one_file, pipeline, preprocess
from input_pipeline.cpu_tf import tf
from input_pipeline.tf_or_numpy import in_numpy
from tests.commands import ROOT

SIZES = [(427, 640), (64, 64), (65, 63), (1, 7), (90, 1), (33, 500)]
# Of ops that numpy has; the strings that `predict` meets among them.
SPECS = [
    "grayscale_to_rgb|resize(224)",
    "resize((37, 61), 'bicubic')",
    "resize_small(64, 'bicubic')|central_crop(64)",
    "resize_small(73)|central_crop((64, 51), like='torchvision')",
    "resize_small(64, 'bicubic', like='torchvision')|central_crop(64, like='torchvision')",
    "resize(64, like='big_vision')",
    "resize(64, 'nearest')",
    "resize_within(50, 90)",
    "resize_within(50, 90, antialias=True)",
    "resize_within(100, 200)|pad_to((100, 200))",
    "central_crop(63)",
    "pad(3)|pad(2, 'reflect')",
    "pad_to(300)",
    "pad_to(300, 'constant')",
]
# Of these, and of values in [-3, 3], TensorFlow's graphs make other roundings of float32.
VALUES = {"": 0, "|value_range(-1, 1)": 1e-6, "|normalize()": 1e-6}


def photo(height, width):
    """(height, width, 3) uint8, of all frequencies."""
    rng = np.random.default_rng(height * 1000 + width)
    coarse = rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def png(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def by_tensorflow(spec):
    apply = preprocess.build_for_decoded(spec)

    def prepare(pixels):
        try:
            return apply(pixels, np.zeros(2, np.int32)).numpy()
        except tf.errors.OpError as error:
            return pipeline.explain(error)

    return prepare


def by_numpy(spec):
    apply = preprocess.build(spec, train=False)

    def prepare(pixels):
        try:
            with in_numpy():
                return apply({"image": pixels}, None)["image"]
        except ValueError as error:
            return str(error)

    return prepare


def check_equal(spec, sizes):
    for end, tolerance in VALUES.items():
        expected, found = by_tensorflow(spec + end), by_numpy(spec + end)
        for size in sizes:
            pixels = photo(*size)
            wanted, made = expected(pixels), found(pixels)
            if isinstance(wanted, str) or isinstance(made, str):
                assert made == wanted, (spec, size)
                continue
            assert made.dtype == wanted.dtype
            np.testing.assert_allclose(
                made.astype(float), wanted, rtol=0, atol=tolerance, err_msg=f"{spec} {size}"
            )


@pytest.mark.parametrize("spec", SPECS)
def test_pixels_are_those_of_tensorflow(spec):
    check_equal(spec, SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_pixels_are_those_of_tensorflow_at_many_sizes(spec):
    rng = np.random.default_rng(0)
    check_equal(spec, [(1200, 1600), *(tuple(rng.integers(1, 700, 2)) for _ in range(60))])


@pytest.mark.parametrize("spec", ["resize(20, 'area')", "decode|resize(31, 'lanczos3')"])
def test_what_numpy_lacks_is_left_to_tensorflow(spec):
    pixels = photo(50, 41)
    found = one_file.make_preparer(spec)(png(pixels))
    np.testing.assert_array_equal(found, by_tensorflow(spec)(pixels))


def test_ops_of_others_are_left_to_tensorflow(monkeypatch):
    def invert():
        return lambda fields, _: {"image": tf.constant(255, tf.uint8) - fields["image"]}

    monkeypatch.setitem(preprocess.OPS, "invert", invert)
    pixels = photo(8, 9)
    np.testing.assert_array_equal(one_file.make_preparer("invert")(png(pixels)), 255 - pixels)


def test_a_photo_is_prepared_without_tensorflow():
    code = f"""
import io, sys
import numpy as np
from PIL import Image
from input_pipeline import one_file
data = io.BytesIO()
Image.fromarray(np.zeros((40, 500, 3), np.uint8)).save(data, "JPEG")
for spec in {SPECS}:
    try:
        one_file.make_preparer(f"decode|{{spec}}|normalize()")(data.getvalue())
    except ValueError:  # of a crop that is larger
        pass
print(sorted({{"tensorflow", "clu", "tensorflow_datasets"}} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[]", result.stderr
