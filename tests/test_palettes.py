"""Classes and colours of the published sets."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from input_pipeline.palettes import bit_palette, known_sets, palette_for
from tests.commands import ROOT

# SHA-256 of the names, joined by newlines, and of the colours' bytes, as mmsegmentation has them.
PUBLISHED = {
    "ade20k": (
        150,
        "f9dbd8a75a0722c971d8c82db76dc205e06cb422d98153f4e5bbf90408ef5438",
        "ce475c9151035eff51f4cf27fd7d906959b1480f6d15b9423ae2417c1b23a0ed",
    ),
    "voc": (
        21,
        "301e5e4e2a9a7ab6bfd6c7e2b1d381d4dd465ddedf787b4b4ed802b3366deb6c",
        "46a99c0d1f42c3d076ae0d49ac616fec5d6754de21e539cee9f4ebcbf013acae",
    ),
    "cityscapes": (
        19,
        "5995d02d6c574d515fa02371c8c2b5367f55cba8a732fed0567427c093f95adf",
        "5af5a8d200c61cb3450a5ffb818ebcfc6c0b49d8b79f832e872fc6bbd4151c9e",
    ),
}
ALL_OF_VOC = "ec76f86cfddd0f4c0768796cda862d8f5099af416b298a406db7e84b55136fc9"  # 256 labels


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", PUBLISHED)
def test_classes_and_colours_are_the_published_ones(name):
    known = known_sets()[name]
    count, names, colours = PUBLISHED[name]
    assert len(known.class_names) == len(known.colours) == count
    assert digest("\n".join(known.class_names).encode()) == names
    assert digest(known.colours.tobytes()) == colours


def test_bits_of_a_label_make_its_colour():
    colours = bit_palette(256)
    assert digest(colours.tobytes()) == ALL_OF_VOC
    # Made of 0, 1, 2, 4, of 15 = 8 + 4 + 2 + 1, and of 255.
    np.testing.assert_array_equal(
        colours[[0, 1, 2, 4, 15, 255]],
        [[0, 0, 0], [128, 0, 0], [0, 128, 0], [0, 0, 128], [192, 128, 128], [224, 224, 192]],
    )
    assert len(np.unique(bit_palette(1000), axis=0)) == 1000


@pytest.mark.parametrize(("name", "count"), [("camvid", 11), ("lip", 20), ("coco_stuff", 171)])
def test_the_other_sets(name, count):
    known = known_sets()[name]
    assert len(set(known.class_names)) == len(known.class_names) == count
    assert known.colours.shape == (count, 3)
    assert len(np.unique(known.colours, axis=0)) == count


def test_labels_that_tell_left_from_right():
    lip = known_sets()["lip"]
    named = [tuple(lip.class_names[label] for label in pair) for pair in lip.swapped]
    assert named == [
        ("left-arm", "right-arm"), ("left-leg", "right-leg"), ("left-shoe", "right-shoe"),
    ]  # fmt: skip
    assert not known_sets()["voc"].swapped


def test_the_palette_of_some_classes():
    sets = known_sets()
    for known in sets.values():
        np.testing.assert_array_equal(palette_for(known.class_names), known.colours)
    np.testing.assert_array_equal(palette_for(list(sets["camvid"].class_names), 11)[3],
                                  [128, 64, 128])  # fmt: skip
    np.testing.assert_array_equal(palette_for(["dog", "cat"]), [[0, 0, 0], [128, 0, 0]])
    np.testing.assert_array_equal(palette_for(None, 3), bit_palette(3))
    own = palette_for(sets["ade20k"].class_names)
    own[:] = 0  # is the caller's own
    assert sets["ade20k"].colours.any()
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        palette_for(["dog", "cat"], 3)
    with pytest.raises(ValueError, match="needs the names of the classes, or their number"):
        palette_for(None)


def test_colours_need_no_tensorflow():
    code = """
import sys
sys.modules["tensorflow"] = None
from input_pipeline.palettes import palette_for
print(palette_for(None, 2).tolist(), "jax" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[[0, 0, 0], [128, 0, 0]] False", result.stderr
