"""Files of optical flow: byte for byte as others read and write them, and faults in some."""

import functools
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from input_pipeline import flow_files

GOLDEN = np.load(Path(__file__).parent / "golden" / "flow_files.npz")
FLOW = (np.arange(24).reshape(3, 4, 2) - 11.25).astype(np.float32)
ENCODERS = {".flo": flow_files.encode_flo, ".pfm": flow_files.encode_pfm,
            ".png": flow_files.encode_kitti_png}  # fmt: skip

sides = st.tuples(st.integers(1, 7), st.integers(1, 7))


def flows(elements):
    return sides.flatmap(lambda size: arrays.arrays(np.float32, (*size, 2), elements=elements))


def golden(name):
    return GOLDEN[name].tobytes()


def decoded(data, ending):
    return flow_files.decode(data, f"a{ending}")


# As others have them


def test_flo_is_middleburys():
    flow, valid = decoded(golden("flo_bytes"), ".flo")
    np.testing.assert_array_equal(flow, GOLDEN["flo"])
    assert flow.dtype == np.float32
    assert valid.dtype == bool
    assert valid.all()
    assert flow_files.encode_flo(GOLDEN["flo"]) == golden("flo_bytes")
    by_hand = b"PIEH" + struct.pack("<ii4f", 2, 1, 1.5, -2.0, 3.0, 4.25)
    assert flow_files.encode_flo(np.array([[[1.5, -2], [3, 4.25]]])) == by_hand


@pytest.mark.parametrize(("name", "big"), [("pfm_le", False), ("pfm_be", True)])
def test_pfm_is_from_bottom_to_top_in_either_order_of_bytes(name, big):
    pixels = flow_files.decode_pfm_pixels(golden(name), name)
    np.testing.assert_array_equal(pixels, GOLDEN["pfm"])
    flow, valid = decoded(golden(name), ".pfm")
    np.testing.assert_array_equal(flow, GOLDEN["pfm"][..., :2])
    assert valid.all()
    assert flow_files.encode_pfm_pixels(GOLDEN["pfm"], big_endian=big) == golden(name)
    assert flow_files.encode_pfm(flow, big_endian=big) == golden(name)


def test_pfm_by_hand():
    rows = struct.pack("<4f", 1, 2, 3, 4)
    for head in (b"Pf\n2 2\n-1.0\n", b"Pf\r\n2 2\r\n-0.5\r\n", b"Pf 2 2 -3e2 "):
        pixels = flow_files.decode_pfm_pixels(head + rows, "a.pfm")
        np.testing.assert_array_equal(pixels[..., 0], [[3, 4], [1, 2]])
    grey = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    data = flow_files.encode_pfm_pixels(grey, big_endian=True)
    assert data == b"Pf\n3 2\n1.0\n" + struct.pack(">6f", 3, 4, 5, 0, 1, 2)
    # A number that begins with the byte of a line's end is none.
    line = np.frombuffer(b"\n\n\n\n", np.float32).reshape(1, 1, 1)
    np.testing.assert_array_equal(
        flow_files.decode_pfm_pixels(flow_files.encode_pfm_pixels(line), "a"), line
    )


def test_kittis_png():
    flow, valid = decoded(golden("kitti_png_bytes"), ".png")
    np.testing.assert_array_equal(flow, GOLDEN["kitti_flow"])
    np.testing.assert_array_equal(valid, GOLDEN["kitti_valid"])
    again = decoded(flow_files.encode_kitti_png(flow, valid), ".png")
    np.testing.assert_array_equal(again[0][valid], flow[valid])
    np.testing.assert_array_equal(again[1], valid)
    official, _ = decoded(golden("kitti_official_written"), ".png")
    np.testing.assert_array_equal(official, GOLDEN["kitti_written_read"])


def test_kittis_png_is_rounded_not_truncated_and_clipped_not_wrapped():
    true = GOLDEN["kitti_to_write"]
    flow, valid = decoded(flow_files.encode_kitti_png(true), ".png")
    assert valid.all()
    assert np.abs(flow - true).max() <= 1 / 128
    assert np.abs(GOLDEN["kitti_written_read"] - true).max() > 1 / 128  # what truncating does
    ends = np.array([[[600, -600], [511.99, -512], [np.inf, -np.inf], [np.nan, 0], [1e10, 5]]])
    flow, valid = decoded(flow_files.encode_kitti_png(ends), ".png")
    most = 512 - 1 / 64
    np.testing.assert_array_equal(flow[0], [[most, -512]] * 2 + [[-512, -512]] * 3)
    np.testing.assert_array_equal(valid[0], [True, True, False, False, False])
    # In float32 the sum would be rounded before the number is.
    close = np.full((1, 1, 2), (100.5 - 1e-3) / 64, np.float32)
    assert decoded(flow_files.encode_kitti_png(close), ".png")[0][0, 0, 0] == 100 / 64


def test_what_is_not_known_is_0_in_a_png():
    import tensorflow as tf

    valid = np.array([[True, False, True, True]] * 3)
    data = flow_files.encode_kitti_png(FLOW, valid)
    pixels = tf.io.decode_png(data, dtype=tf.uint16).numpy()
    assert not pixels[~valid].any()
    assert (pixels[valid][:, 2] == 1).all()
    assert pixels[0, 0].tolist() == [int(-11.25 * 64 + 32768), int(-10.25 * 64 + 32768), 1]


@pytest.mark.parametrize("ending", [".flo", ".pfm"])
def test_unknown_flow_is_not_valid_and_stays_as_it_is(ending):
    flow = np.zeros((1, 6, 2), np.float32)
    flow[0, :, 0] = [1e10, 1000, -1000, 999.5, np.nan, 0]
    flow[0, 5, 1] = np.inf
    found, valid = decoded(ENCODERS[ending](flow), ending)
    np.testing.assert_array_equal(found, flow)
    np.testing.assert_array_equal(valid[0], [False, False, False, True, False, False])


# Round trips


@given(flows(st.floats(width=32)))
@settings(deadline=None, max_examples=40)
def test_flo_and_pfm_keep_every_number(flow):
    for data, ending in (
        (flow_files.encode_flo(flow), ".flo"),
        (flow_files.encode_pfm(flow), ".pfm"),
        (flow_files.encode_pfm(flow, big_endian=True), ".pfm"),
    ):
        found, valid = decoded(data, ending)
        np.testing.assert_array_equal(found.view(np.uint32), flow.view(np.uint32))
        known = [[all(abs(part) < 1000 for part in vector) for vector in row] for row in flow]
        np.testing.assert_array_equal(valid, known)


@given(flows(st.integers(-512 * 64, 512 * 64 - 1).map(lambda n: n / 64)), st.randoms())
@settings(deadline=None, max_examples=20)
def test_kittis_png_keeps_steps_of_a_64th(flow, random):
    valid = np.array([[random.random() < 0.7 for _ in row] for row in flow])
    found, known = decoded(flow_files.encode_kitti_png(flow, valid), ".png")
    np.testing.assert_array_equal(known, valid)
    np.testing.assert_array_equal(found[valid], flow[valid])


@given(st.sampled_from([".flo", ".pfm", ".png"]), st.integers(0, 400), st.binary(max_size=6))
@settings(deadline=None, max_examples=80)
def test_a_damaged_file_is_an_error_of_one_line_or_a_flow(ending, place, some):
    data = ENCODERS[ending](FLOW)
    place = min(place, len(data))
    damaged = data[:place] + some + data[place + len(some) :]
    said = ""
    try:
        flow, valid = decoded(damaged, ending)
    except ValueError as error:
        said = str(error)
    assert said.startswith(f"a{ending}") if said else flow.shape == (*valid.shape, 2)
    assert len(said.splitlines()) <= 1


@given(st.sampled_from([".flo", ".pfm", ".png"]), st.data())
@settings(deadline=None, max_examples=60)
def test_a_file_cut_anywhere_is_an_error(ending, draw):
    data = ENCODERS[ending](FLOW)
    place = draw.draw(st.integers(0, len(data) - 1))
    with pytest.raises(ValueError, match=rf"a{ending} (is|has)"):
        decoded(data[:place], ending)


# Reading


@pytest.mark.parametrize("ending", [".flo", ".PFM", ".png"])
def test_files_are_read(tmp_path, ending):
    path = tmp_path / f"with blank ü{ending}"
    path.write_bytes(ENCODERS[ending.lower()](FLOW))
    flow, valid = flow_files.read(path)
    np.testing.assert_array_equal(flow, FLOW)
    assert valid.all()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits=16, colours=2, data=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))  # fmt: skip


def flo(width, height, numbers=24):
    return b"PIEH" + struct.pack("<ii", width, height) + bytes(4 * numbers)


FAULTS = {
    "empty.flo": (b"", "is empty"),
    "short.flo": (b"PI", "is cut off: it has 2 bytes"),
    "header.flo": (b"PIEH\x04", "is cut off: it has 5 bytes, fewer than the header"),
    "cut.flo": (flo(4, 3)[:-1], "is cut off: .* 4 x 3 pixels, which are 108 bytes, and it has 107"),
    "long.flo": (flo(4, 3) + b"\0", "has more than its flow: .* and it has 109"),
    "magic.flo": (b"HEIP" + flo(4, 3)[4:], "is no .flo file: it begins with b'HEIP', not b'PIEH'"),
    "negative.flo": (flo(-4, 3), "its header says -4 x 3 pixels, which cannot be"),
    "none.flo": (flo(0, 3, 0), "its header says 0 x 3 pixels, which cannot be"),
    "absurd.flo": (flo(2**31 - 1, 2**31 - 1), "says 2147483647 x 2147483647 pixels, which cannot"),
    "large.flo": (flo(100_000, 100_000), "is cut off: .* are 80000000012 bytes, and it has 108"),
    "magic.pfm": (b"P6\n4 3\n255\n", "is no PFM file: it begins with b'P6', not b'PF'"),
    "header.pfm": (b"PF\n4\n", "has no whole header of a PFM file"),
    "endless.pfm": (b"PF\n" + b"9" * 5000, "has no whole header of a PFM file"),
    "scale.pfm": (b"PF\n1 1\n0\n" + bytes(12), "has the scale '0', which must be a number other"),
    "word.pfm": (b"PF\n1 1\nbig\n" + bytes(12), "has the scale 'big', which must be a number"),
    "nan.pfm": (b"PF\n1 1\nnan\n" + bytes(12), "has the scale 'nan', which must be a number"),
    "cut.pfm": (b"PF\n4 3\n-1\n" + bytes(143), "is cut off: .* are 154 bytes, and it has 153"),
    "long.pfm": (b"PF\n4 3\n-1\n" + bytes(145), "has more than its flow"),
    "absurd.pfm": (b"PF\n999999999999 3\n-1\n", "says 999999999999 x 3 pixels, which cannot be"),
    "grey.pfm": (b"Pf\n1 1\n-1\n" + bytes(4), "is a PFM file of 1 channel .* where a flow has 3"),
    "magic.png": (b"\xff\xd8\xff\xe0 a JPEG", "is no PNG file"),
    "header.png": (png(4, 3)[:20], "is cut off: a PNG file of 20 bytes without a whole header"),
    "cut.png": (flow_files.encode_kitti_png(FLOW)[:-1], "is cut off: a PNG file without an end"),
    "long.png": (flow_files.encode_kitti_png(FLOW) + b"more", "has 4 bytes after its end"),
    "few.png": (png(4, 3, data=bytes(9)), "is a damaged PNG file"),
    "bits.png": (png(4, 3, 8), "of 8 bits, RGB, where a flow of KITTI's has 16 bits, RGB"),
    "grey.png": (png(4, 3, 16, 0), "of 16 bits, grey, where"),
    "alpha.png": (png(4, 3, 16, 6), "of 16 bits, RGBA, where"),
    "absurd.png": (png(2**31 - 1, 3), "says 2147483647 x 3 pixels, which cannot be"),
    "bomb.png": (png(100_000, 1000), "says 100000 x 1000 pixels, which .* bytes cannot hold"),
    "none.png": (png(0, 0), "says 0 x 0 pixels, which cannot be"),
    "flow.exr": (b"", "is no file of optical flow by its name: .flo, .pfm, .png"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_with_a_fault_is_an_error_of_one_line(tmp_path, name):
    data, message = FAULTS[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        flow_files.read(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


def test_a_header_is_looked_at_before_memory_is_taken(tmp_path, monkeypatch):
    """A file of 1 TiB, of which nothing is stored, that would be read whole."""
    path = tmp_path / "large.flo"
    path.write_bytes(flo(5, 5, 0))
    os.truncate(path, 2**40)
    with pytest.raises(
        ValueError, match=r"large.flo has more than its flow: its header says 5 x 5"
    ):
        flow_files.read(path)
    (tmp_path / "folder.flo").mkdir()
    with pytest.raises(ValueError, match=r"folder.flo is no file"):
        flow_files.read(tmp_path / "folder.flo")
    with pytest.raises(FileNotFoundError):
        flow_files.read(tmp_path / "nothing.flo")


@pytest.mark.parametrize("encode", [*ENCODERS.values(), functools.partial(flow_files.encode_pfm)])
def test_what_is_no_flow_is_not_written(encode):
    for shape in ((3, 4), (3, 4, 3), (0, 4, 2), (1, 3, 4, 2)):
        with pytest.raises(ValueError, match=r"a flow has the shape \(h, w, 2\), and this is \("):
            encode(np.zeros(shape))
    with pytest.raises(ValueError, match="valid has the shape"):
        flow_files.encode_kitti_png(FLOW, np.ones((4, 3)))
    with pytest.raises(ValueError, match="a PFM file has 1 or 3 channels"):
        flow_files.encode_pfm_pixels(FLOW)


def test_tensorflow_is_imported_for_pngs_alone():
    import subprocess

    code = (
        "import sys; import numpy as np; from input_pipeline import flow_files as f; "
        "f.decode(f.encode_flo(np.ones((2, 2, 2))), 'a.flo'); print('tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            check=True, cwd=Path(__file__).parent.parent)  # fmt: skip
    assert result.stdout.strip() == "False"
