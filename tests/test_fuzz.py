"""What strangers give, whatever it is, is taken or refused with a ValueError."""

import contextlib
import io
import itertools
import json
import os
import re
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from checkpoints import npz
from input_pipeline import files, get_dataset
from tests.helpers import data_config, tiny_digits_config, write_classes
from vit_jax import experiment, photos, pretrained, results, train
from vit_jax.classification_report import ClassificationReport
from vit_jax.tasks import classify, restore
from vit_jax.workdir import Workdir

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
            files.read_size(path)
        with contextlib.suppress(ValueError, OSError):  # which predict reports
            photo = photos.read(path)
            photo.encode(photo.pixels)
        with contextlib.suppress(ValueError):
            pixels = files.decode_in_python(data)
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
    for read in (files.read_size, photos.read):
        with pytest.raises(ValueError, match="decompression bomb"):
            read(bomb)
    spec = "decode|inception_crop(8)|value_range(-1, 1)"
    config = data_config(tmp_path, train_pp=spec, eval_pp="decode|resize(8)|value_range(-1, 1)")
    config.val_fraction = 0.0
    with pytest.raises(ValueError, match=r"1 unreadable image.*bomb\.png \(.* decompression bomb"):
        list(itertools.islice(get_dataset(config, 4, 0).train_batches(), 3))


# Names of files, of which any but these two bytes may be.

NAMES = st.one_of(
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20),
    st.binary(min_size=1, max_size=20).map(lambda name: os.fsdecode(name.translate(None, b"/\0"))),
    st.sampled_from(
        ["$x^", "a\nb", "a\u2028b", "-rf", "%s{0}", "~", "a,b", '"', "C:\\x", "\u202e"]
    ),
).filter(lambda name: name.strip(".") and 0 < len(os.fsencode(name)) < 200)


@pytest.fixture(scope="module")
def one_image():
    return encoded("PNG")


@pytest.mark.slow
@settings(max_examples=25)
@given(class_name=NAMES, file_name=NAMES)
@example(class_name="$\\frac{", file_name="x")
@example(class_name="a\nb", file_name="x")
@example(class_name="a", file_name="\udcff")
def test_names_of_classes_and_files(tmp_path_factory, one_image, class_name, file_name):
    """What is taken is read, and its names come back from all that is written with them."""
    folder = tmp_path_factory.mktemp("names")
    for name in (class_name, "other", "one more"):
        (folder / name).mkdir(exist_ok=True)
        for i in range(2):
            (folder / name / f"{i}{file_name}.png").write_bytes(one_image)
    is_hidden = class_name.startswith(".") or class_name.endswith("~") or class_name == "other"
    spec = "decode|resize(8)|value_range(-1, 1)"
    config = data_config(folder, train_pp=spec, eval_pp=spec, val_fraction=0.0)
    try:
        dataset = get_dataset(config, 2, 0)
    except ValueError as error:
        if "rename it" not in str(error):
            raise
        return
    assert dataset.class_names == (
        tuple(sorted({"one more", "other"} | ({class_name} if not is_hidden else set())))
    )
    batch = next(dataset.train_batches())
    workdir = Workdir(folder / "other")
    workdir.write_labels(dataset.class_names)
    assert workdir.read_labels() == dataset.class_names
    predictions = ClassificationReport(dataset.class_names, "softmax_xent")
    predictions.add(batch, np.eye(len(dataset.class_names))[batch["label"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks
        predictions.write(folder / "report", "test")


@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_results_go_nowhere_but_to_the_output(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("photos")
    for name in names:
        (folder / f"{name}.png").touch()
    output = folder / "out"
    predictor = restore.RestoringPredictor(None)
    try:
        items = predictor.find([folder, *folder.iterdir()])
        results.check_outputs(items, predictor, output)
    except ValueError as error:
        if not re.search("holds no images|would both be written", str(error)):
            raise
        return
    for item in items:
        target = output / item.inside
        assert target.parent.resolve() == output.resolve()
        assert [target.name] == [path.name for path in item.paths]


# Configs and runs.

WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([(), ("a", 1), ["b"], {}, {"a": {"b": 1}}, 2**31, -1, 0, float("nan"),
                     "decode", "resize(0)|value_range(-1, 1)", "(", "tfds:", "../..", "\0"]),
)  # fmt: skip
DEFAULTS = json.loads(tiny_digits_config().to_json())


def places(tree, path=()):
    """Paths of all keys of a nested dict."""
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def with_value(tree, path, value):
    key, *rest = path
    if not isinstance(tree, dict):
        return tree
    return {**tree, key: with_value(tree[key], rest, value) if rest else value}


KEYS = st.sampled_from(sorted(places(DEFAULTS)))


@settings(max_examples=60)
@given(changes=st.lists(st.tuples(KEYS, WRONG), min_size=1, max_size=2))
@example(changes=[])
@example(changes=[(("model", "hidden_size"), 2**63)])
@example(changes=[(("model", "num_layers"), 30_000)])
def test_configs(changes):
    config = DEFAULTS
    for path, value in changes:
        config = with_value(config, path, value)
    if not changes:
        experiment.build(ConfigDict(config))
        return
    with contextlib.suppress(ValueError):
        experiment.build(ConfigDict(config))


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = tiny_digits_config()
    config.total_steps = config.eval_every = 1
    train.train_and_evaluate(config, workdir)
    return workdir


@pytest.mark.slow
@settings(max_examples=60)
@given(
    file=st.sampled_from(["config.json", "data.json", "labels.txt"]),
    change=st.one_of(
        st.tuples(KEYS, WRONG), st.tuples(st.just(("classes",)), WRONG), st.tuples(CHANGES)
    ),
)
@example(file="config.json", change=(("data",), "x"))
@example(file="data.json", change=(("classes",), 3))
def test_runs(a_run, file, change):
    """A workdir that someone else has made, or a disk has damaged."""
    path = a_run / file
    before = {name: (a_run / name).read_bytes() for name in (file, "labels.txt")}
    new = changed(before[file], change[0], 1) if len(change) == 1 else None
    if len(change) == 2 and file.endswith(".json"):
        with contextlib.suppress(KeyError):
            new = json.dumps(with_value(json.loads(before[file]), *change), default=str).encode()
    if new is None:
        return
    if file == "data.json":
        (a_run / "labels.txt").unlink()  # which would be read first
    path.write_bytes(new)
    try:
        with contextlib.suppress(ValueError):
            classify.Classifier(pretrained.load(a_run))
    finally:
        for name, contents in before.items():
            (a_run / name).write_bytes(contents)


def test_json_that_is_too_deep(a_run, tmp_path):
    (tmp_path / "config.json").write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        Workdir(tmp_path).read_config()
