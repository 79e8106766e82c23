"""Files from strangers: whatever their bytes, they are read, or refused with a ValueError."""

import contextlib
import io
import itertools
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from checkpoints import npz
from input_pipeline import get_dataset, images
from tests.conftest import write_classes
from tests.test_sources import data_config
from vit_jax import photos

settings.register_profile(
    "fuzz", max_examples=150, deadline=2000, suppress_health_check=list(HealthCheck)
)
settings.load_profile("fuzz")

# Where bytes are changed, and into what.
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)))


def changed(data, changes, keep):
    """The bytes with some changed, and all but a part of them cut off."""
    data = bytearray(data)
    for place, new in changes:
        at = int(place * len(data))
        data[at : at + len(new)] = new
    return bytes(data[: max(int(keep * len(data)), 1)])


def npz_of(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def encoded(kind, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def header(shape):
    """A .npy header that claims a shape of float32."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def write_npz(path, contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", contents)


GOOD_NPZ = npz_of(**{"head/kernel": np.ones((3, 4), np.float32), "head/bias": np.zeros(4)})


@given(changes=CHANGES, keep=st.floats(0, 1))
@example(changes=[], keep=1)
def test_changed_npz(tmp_path_factory, changes, keep):
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    path.write_bytes(changed(GOOD_NPZ, changes, keep))
    with contextlib.suppress(ValueError):
        npz.load(path)


@given(
    shape=st.lists(st.integers(-3, 2**62), max_size=4).map(tuple),
    data=st.binary(max_size=64),
)
def test_npz_shapes(tmp_path_factory, shape, data):
    path = tmp_path_factory.getbasetemp() / "shape.npz"
    write_npz(path, header(shape) + data)
    if 4 * np.prod(shape, dtype=object) == len(data) and min(shape, default=0) >= 0:
        assert npz.load(path)["a"].shape == shape
    else:
        with pytest.raises(ValueError, match=r"shape\.npz is not a readable .npz"):
            npz.load(path)


def test_a_shape_that_would_fill_the_memory_is_named(tmp_path):
    write_npz(tmp_path / "huge.npz", header((2**40,)) + bytes(64))
    message = (
        r"a\.npy has the shape \(1099511627776,\), which takes 4,398,046,511,104 bytes, and 64"
    )
    with pytest.raises(ValueError, match=message):
        npz.load(tmp_path / "huge.npz")


IMAGES = st.sampled_from(
    [
        encoded("JPEG"), encoded("JPEG", "L"), encoded("PNG"), encoded("PNG", "RGBA"),
        encoded("PNG", "P"), encoded("WEBP"), encoded("BMP"), encoded("GIF"), encoded("TIFF"),
        encoded("TIFF", compression="tiff_lzw"),
    ]
)  # fmt: skip


@given(file=IMAGES, changes=CHANGES, keep=st.floats(0, 1))
def test_changed_images(tmp_path_factory, file, changes, keep):
    """In training, in an evaluation that asks for sizes, and restored and written back."""
    data = changed(file, changes, keep)
    path = tmp_path_factory.getbasetemp() / "fuzzed.image"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged metadata
        with contextlib.suppress(ValueError):
            images.read_size(path)
        with contextlib.suppress(ValueError, OSError):  # which restore.restore_files reports
            photo = photos.read(path)
            photo.encode(photo.pixels)
        with contextlib.suppress(ValueError):
            pixels = images.decode_in_python(data)
            assert pixels.dtype == np.uint8
            assert pixels.shape[-1] == 3


def with_size(file, width, height):
    """A PNG or JPEG whose header claims another size."""
    data = bytearray(file)
    if data[1:4] == b"PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("side", [14_000, 60_000])
def test_a_decompression_bomb_is_refused_by_name(tmp_path, kind, side):
    """By whichever library, and before room is made for it."""
    write_classes(tmp_path, 2)
    bomb = tmp_path / "red" / "bomb.png"
    bomb.write_bytes(with_size(encoded(kind), side, side))
    for read in (images.read_size, photos.read):
        with pytest.raises(ValueError, match="decompression bomb"):
            read(bomb)
    spec = "decode|inception_crop(8)|value_range(-1, 1)"
    config = data_config(tmp_path, train_pp=spec, eval_pp="decode|resize(8)|value_range(-1, 1)")
    config.val_fraction = 0.0
    with pytest.raises(ValueError, match=r"1 unreadable image.*bomb\.png \(.* decompression bomb"):
        list(itertools.islice(get_dataset(config, 4, 0).train_batches(), 3))
