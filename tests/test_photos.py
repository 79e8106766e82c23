"""Files of every mode are written as they were: what does not change is not lost."""

import io
import zlib

import numpy as np
import pytest
import tensorflow as tf
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from input_pipeline import files
from tests.helpers import READS_YCBCR_TIFF, noise, photo, saved
from vit_jax import photos

SIZE = (32, 24)
Y, X = np.mgrid[:24, :32]
COLORS = np.stack([X * 8, Y * 10, 255 - X * 4 - Y * 2], axis=-1).astype(np.uint8)
GREY = (X * 5 + Y * 3).astype(np.uint8)
RAMP = np.clip((X + Y) * 5, 0, 255).astype(np.uint8)
LOSSLESS = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}


def picture(mode):
    if mode in ("CMYK", "RGBA", "RGBX"):
        return Image.frombytes(mode, SIZE, np.dstack([COLORS, RAMP]).tobytes())
    if mode == "LA":
        return Image.fromarray(np.dstack([GREY, RAMP]))
    if mode == "LAB":  # of which RGB cannot show much
        return Image.frombytes(mode, SIZE, np.dstack([GREY, RAMP, 255 - GREY]).tobytes())
    if mode.startswith("I"):
        deep = GREY.astype(np.int64) * 257 + X
        dtype = {"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]
        return Image.frombytes(mode, SIZE, deep.astype(dtype).tobytes())
    return Image.fromarray(COLORS if mode in ("RGB", "YCbCr", "HSV", "P") else GREY).convert(mode)


def encoded(image, format, **options):
    data = io.BytesIO()
    image.save(data, format, **{**LOSSLESS.get(format, {}), **options})
    return data.getvalue()


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def read(data, tmp_path):
    (tmp_path / "photo").write_bytes(data)
    return photos.read(tmp_path / "photo")


def difference(a, b):
    assert a.mode == b.mode
    assert a.size == b.size
    return np.abs(np.asarray(a, np.int64) - np.asarray(b, np.int64)).max()


ROUND_TRIPS = {
    "L": "JPEG PNG TIFF WEBP BMP JPEG2000 TGA PPM ICO PCX",
    "LA": "PNG TIFF WEBP JPEG2000 TGA ICO",
    "RGB": "JPEG PNG TIFF WEBP BMP JPEG2000 TGA PPM ICO PCX",
    "RGBA": "PNG TIFF WEBP JPEG2000 TGA ICO",
    "RGBX": "JPEG TIFF WEBP",
    "CMYK": "JPEG TIFF JPEG2000",
    "YCbCr": "JPEG JPEG2000 TIFF" if READS_YCBCR_TIFF else "JPEG JPEG2000",
    "LAB": "TIFF",
    "I;16": "PNG TIFF JPEG2000",
}


@pytest.mark.parametrize(
    ("mode", "format"), [(m, f) for m, formats in ROUND_TRIPS.items() for f in formats.split()]
)
def test_what_does_not_change_stays(mode, format, tmp_path):
    data = encoded(picture(mode), format)
    photo = read(data, tmp_path)
    again = opened(photo.encode(photo.pixels))
    assert again.format == format
    assert difference(opened(data), again) <= (4 if format == "JPEG" else 0)


@pytest.mark.parametrize(("mode", "format"), [("1", "TIFF"), ("P", "PNG"), ("P", "GIF"), ("PA",
                         "TIFF"), ("I;16B", "TIFF"), ("I", "TIFF")])  # fmt: skip
def test_what_is_written_in_another_mode_shows_the_same(mode, format, tmp_path):
    data = encoded(picture(mode), format)
    photo = read(data, tmp_path)
    again = opened(photo.encode(photo.pixels))
    depth = "I" if mode.startswith("I") else "RGBA"
    assert difference(opened(data).convert(depth), again.convert(depth)) == 0


def test_grey_with_a_transparent_level_stays_grey(tmp_path):
    data = encoded(picture("L"), "PNG", transparency=15)
    photo = read(data, tmp_path)
    again = opened(photo.encode(photo.pixels))
    assert again.mode == "LA"
    assert difference(opened(data).convert("LA"), again) == 0


def test_a_lossy_webp_stays_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for lossless in (True, False):
        photo = read(encoded(Image.fromarray(noise), "WEBP", lossless=lossless), tmp_path)
        again = opened(photo.encode(photo.pixels))
        shown = np.asarray(again.convert("RGB"), np.float32) / 127.5 - 1
        assert (np.abs(shown - photo.pixels).max() < 1e-6) == lossless


def as_ycck(data):
    """Says of a CMYK JPEG by Adobe that its first three components are Y, Cb and Cr."""
    marker = data.index(b"Adobe")
    return data[: marker + 11] + b"\x02" + data[marker + 12 :]


def without_adobe(data):
    """Takes the word away by which CMYK is stored inverted."""
    marker = data.index(b"\xff\xee")
    length = int.from_bytes(data[marker + 2 : marker + 4], "big")
    return data[:marker] + data[marker + 2 + length :]


@pytest.mark.parametrize("change", [bytes, as_ycck, without_adobe])
def test_cmyk_jpegs_keep_black(change, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # for its bytes
    data = change(encoded(picture("CMYK"), "JPEG", icc_profile=profile))
    before = opened(data)
    photo = read(data, tmp_path)
    again = opened(photo.encode(photo.pixels))
    assert again.info["icc_profile"] == profile
    assert difference(before, again) <= 4
    assert np.ptp(np.asarray(again)[..., 3]) > 100
    for factor in (0.3, 0.9, 1.1):
        changed = np.clip((photo.pixels + 1) * factor - 1, -1, 1)
        shown = np.asarray(opened(photo.encode(changed)).convert("RGB"), np.int64)
        assert np.abs(shown - photos.show(changed)).max() <= 6


def test_changed_cmyk_shows_what_it_should(tmp_path):
    black = np.zeros((24, 32, 4), np.uint8)
    black[..., 3] = X * 8  # all that is dark is black
    photo = read(encoded(Image.frombytes("CMYK", SIZE, black.tobytes()), "TIFF"), tmp_path)
    darker = (photo.pixels + 1) / 2 - 1
    again = opened(photo.encode(darker))
    assert not np.asarray(again)[:, 1:, :3].any()  # but where there was no black to tell
    np.testing.assert_array_equal(np.asarray(again.convert("RGB")), photos.show(darker))
    photo = read(encoded(picture("CMYK"), "TIFF"), tmp_path)
    noise = np.random.default_rng(0).uniform(-1, 1, photo.pixels.shape).astype(np.float32)
    for size in (1, 2):
        new = np.repeat(np.repeat(noise, size, axis=0), size, axis=1)
        again = opened(photo.encode(new))
        assert again.mode == "CMYK"
        difference = np.asarray(again.convert("RGB"), np.int64) - photos.show(new)
        assert np.abs(difference).max() <= 1


def test_changed_lab_shows_what_it_should(tmp_path):
    photo = read(encoded(picture("LAB"), "TIFF"), tmp_path)
    new = (COLORS.astype(np.float32) / 127.5 - 1) / 2
    shown = opened(photo.encode(new)).convert("RGB")
    error = np.abs(np.asarray(shown, np.int64) - photos.show(new))
    # A step of the 8 bits of L, a and b changes red by 1, 8 and 5 where the error is largest, 11.
    assert error.max() <= 14
    assert error.mean() <= 1


@pytest.mark.parametrize(
    ("format", "size"), [("WEBP", (1, 16_384)), ("GIF", (65_536, 1)), ("JPEG", (1, 65_501)),
                         ("ICO", (257, 9))]
)  # fmt: skip
def test_larger_than_the_format_can_be(format, size, tmp_path):
    photo = read(encoded(picture("RGB"), format), tmp_path)
    with pytest.raises(ValueError, match=f"{format} files have at most .* convert it to PNG"):
        photo.encode(np.zeros((*size, 3), np.float32))


def test_a_jpeg_in_a_tiff_keeps_its_quality(tmp_path):
    photo = read(encoded(picture("RGB"), "TIFF", compression="jpeg", quality=95), tmp_path)
    again = opened(photo.encode(photo.pixels))
    assert again.info["compression"] == "jpeg"
    assert difference(photo.stored, again) <= 6


FILES = {
    "rgb.jpg": "RGB", "grey.jpg": "L", "cmyk.jpg": "CMYK", "rgb.png": "RGB", "alpha.png": "RGBA",
    "grey_alpha.png": "LA", "grey.tif": "L", "lzw.tif": "RGB", "rgb.webp": "RGB", "rgb.bmp": "RGB",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_are_written_as_they_were(tmp_path, name):
    options = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
    path = saved(FILES[name], tmp_path / name, **options)
    photo = photos.read(path)
    assert photo.pixels.shape == (30, 40, 3)
    again = Image.open(io.BytesIO(photo.encode(photo.pixels)))
    original = Image.open(path)
    assert (again.mode, again.size, again.format) == (
        original.mode, original.size, original.format,
    )  # fmt: skip
    atol = 1 if original.format in ("PNG", "TIFF", "BMP") else 12
    np.testing.assert_allclose(
        np.asarray(again, np.float32), np.asarray(original, np.float32), atol=atol
    )


def test_metadata_and_orientation_are_kept(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 6
    path = saved("RGB", tmp_path / "turned.jpg", exif=exif, dpi=(300, 300), icc_profile=b"icc")
    photo = photos.read(path)
    assert photo.pixels.shape == (40, 30, 3)
    again = Image.open(io.BytesIO(photo.encode(photo.pixels)))
    assert again.size == (40, 30)
    assert (again.getexif()[0x010F], again.getexif()[0x0112]) == ("a camera", 6)
    assert (again.info["icc_profile"], again.info["dpi"]) == (b"icc", (300, 300))
    np.testing.assert_allclose(
        np.asarray(again, np.float32), np.asarray(Image.open(path), np.float32), atol=12
    )
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "me")
    photo = photos.read(saved("RGB", tmp_path / "text.png", pnginfo=text, dpi=(300, 300)))
    again = Image.open(io.BytesIO(photo.encode(photo.pixels)))
    assert again.text == {"Author": "me"}
    assert round(again.info["dpi"][0]) == 300
    photo = photos.read(saved("RGB", tmp_path / "text.tif", tiffinfo={315: "me"}))
    assert Image.open(io.BytesIO(photo.encode(photo.pixels))).tag_v2[315] == "me"


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_sizes_are_read_from_the_header(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved("RGB", tmp_path / f"turned.{suffix}", exif=exif)
    assert files.read_size(path) == files.decode_in_python(path.read_bytes()).shape[:2] == (40, 30)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_pngs_stay_so(tmp_path, channels):
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    data = tf.io.encode_png(deep).numpy()
    text = b"tEXt" + b"Author\0me"
    chunk = (len(text) - 4).to_bytes(4) + text + zlib.crc32(text).to_bytes(4)
    path = tmp_path / "deep.png"
    path.write_bytes(data[:33] + chunk + data[33:])
    photo = photos.read(path)
    again = photo.encode(photo.pixels)
    assert chunk in again
    np.testing.assert_allclose(
        tf.io.decode_png(again, dtype=tf.uint16).numpy().astype(int), deep, atol=1
    )
    Image.open(io.BytesIO(again)).load()  # a whole PNG to others, too


def test_no_bits_are_lost_in_silence(tmp_path):
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((30, 40, 3), np.uint16), photometric="rgb")
    with pytest.raises(ValueError, match="convert it to a 16-bit PNG"):
        photos.read(tmp_path / "deep.tif")


def test_exif_data_name_the_new_size(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8769).update({40962: 41, 40963: 30})
    Image.fromarray(photo((30, 41))).save(tmp_path / "a.jpg", exif=exif)
    read = photos.read(tmp_path / "a.jpg")
    again = Image.open(io.BytesIO(read.encode(noise((60, 82, 3))))).getexif()
    assert again[0x010F] == "a camera"
    assert (again.get_ifd(0x8769)[40962], again.get_ifd(0x8769)[40963]) == (82, 60)
