import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import images


def photo(size=(50, 34)):
    """A smooth RGB picture with a different colour in each corner; size is (width, height)."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)


def encode(image, format, **options):
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(data):
    return images.decode(tf.constant(data)).numpy()


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_formats(format):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98}}.get(format, {})
    decoded = decode(encode(photo(), format, **options))
    assert decoded.shape == (34, 50, 3)
    assert decoded.dtype == np.uint8
    tolerance = {"GIF": 40, "JPEG": 8}.get(format, 0)
    assert np.abs(decoded.astype(int) - photo()).max() <= tolerance


@pytest.mark.parametrize(
    "options", [{}, {"quality": 60}, {"progressive": True}, {"subsampling": 0}]
)
def test_jpeg_is_decoded_as_by_pillow(options):
    data = encode(photo(), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode(data), expected)


def test_cmyk_jpeg_is_decoded_as_by_pillow():
    data = encode(Image.fromarray(photo()).convert("CMYK"), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode(data) - expected).max() <= 2


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = photo()
    decoded = decode(encode(stored, format, exif=exif)).astype(int)
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored),
    }[orientation]
    assert decoded.shape == turned.shape
    assert np.abs(decoded - turned).max() <= 30


def test_exif_after_a_long_segment():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(photo(), "JPEG", exif=exif)
    segment = b"\xff\xed" + (6002).to_bytes(2, "big") + bytes(6000)
    decoded = decode(data[:2] + segment + data[2:]).astype(int)
    assert np.abs(decoded - np.rot90(photo(), -1)).max() <= 30


def test_a_cut_off_file_is_refused_wherever_the_crop_lies():
    data = tf.constant(encode(photo(), "JPEG")[:-200])
    with pytest.raises(tf.errors.OpError):
        images.decode_and_crop(data, lambda _: tf.constant([0, 0, 8, 8]))


def test_grey():
    grey = photo()[..., 0]
    for format in ("PNG", "TIFF"):
        decoded = decode(encode(grey, format))
        np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], 3, -1))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(format):
    grey = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    decoded = decode(encode(Image.fromarray(grey), format))
    np.testing.assert_array_equal(decoded[..., 0], np.round(grey / 257).astype(np.uint8))


def test_transparent_pixels_are_white():
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, 3:] = (200, 0, 0, 255)
    decoded = decode(encode(rgba, "PNG"))
    np.testing.assert_array_equal(decoded[0, 0], (255, 255, 255))
    np.testing.assert_array_equal(decoded[0, 5], (200, 0, 0))


def test_palette():
    palette = Image.fromarray(photo()).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode(encode(palette, "PNG")), expected)


def test_palette_with_transparency():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 1), 1)
    decoded = decode(encode(palette, "PNG", transparency=0))
    np.testing.assert_array_equal(decoded[0, 0], (255, 255, 255))
    np.testing.assert_array_equal(decoded[1, 1], (200, 0, 0))


def test_crop_while_decoding_is_crop_after_decoding():
    window = tf.constant([5, 7, 20, 31])
    for data in (
        encode(photo(), "JPEG", subsampling=0),
        encode(photo(), "PNG"),
        encode(photo(), "WEBP", lossless=True),
    ):
        cropped = images.decode_and_crop(tf.constant(data), lambda _: window).numpy()
        np.testing.assert_array_equal(cropped, decode(data)[5:25, 7:38])


@pytest.mark.parametrize(("side", "ratio"), [(79, 1), (80, 2), (159, 2), (160, 4), (320, 8)])
def test_a_large_window_is_decoded_smaller(side, ratio):
    drawn = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    large = Image.fromarray(drawn).resize((500, 400), Image.Resampling.BICUBIC)
    data = encode(large, "JPEG", quality=95)
    window = np.array([13, 22, side, side + 64], np.int32)
    crop = images.decode_and_crop(tf.constant(data), lambda _: tf.constant(window), (20, 24))
    top, left, height, width = window // ratio * ratio
    assert crop.shape == (height // ratio, width // ratio, 3)
    exact = decode(data)[top : top + height, left : left + width]
    small, wanted = (tf.image.resize(x, (20, 24), antialias=True) for x in (crop, exact))
    assert np.abs(small - wanted).mean() < 3  # which a shift by a block exceeds


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image in a format that Pillow reads"),
        (encode(photo(), "JPEG")[:-100], "truncated"),
        (encode(photo(), "PNG")[:100], "truncated|broken"),
        (b"\xff\xd8\xff" + bytes(50), "not an image"),
        (encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
        (encode(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"), "more than 16 bits"),
    ],
)
def test_what_is_wrong_with_a_file(data, message):
    with pytest.raises(ValueError, match=message):
        images.check(data)


def test_a_good_file_passes():
    images.check(encode(photo(), "JPEG"))
