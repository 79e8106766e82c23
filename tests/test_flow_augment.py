"""Augmentation of pairs of frames with their flow: values, and what becomes of each set."""

import functools
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from PIL import Image, ImageEnhance

from input_pipeline import flow_ops, preprocess
from input_pipeline.flow_sets import STAGES, number
from tests.helpers import smooth

GOLDEN = Path(__file__).parent / "golden" / "flow_augment.npz"
FACTORS = np.array([0.81, 1.37])  # along y and x; the file has them as float32
ZERO = tf.zeros(2, tf.int32)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def test_images_and_flows_are_resized_as_opencv_does_it(golden):
    size = tuple(flow_ops.resized_sides(tf.constant([23, 31]), tf.constant(FACTORS)).numpy())
    assert size == golden["image_resized"].shape[:2]
    image, flow = (
        flow_ops.resized_window(tf.constant(golden[key]), FACTORS, ZERO, size).numpy()
        for key in ("image", "flow")
    )
    np.testing.assert_allclose(image, golden["image_float_resized"], atol=3e-4)
    assert np.abs(np.floor(image + 0.5) - golden["image_resized"]).max() <= 1
    np.testing.assert_allclose(flow * np.float32(FACTORS[::-1]), golden["flow_resized"], atol=1e-4)
    part = flow_ops.resized_window(
        tf.constant(golden["image"]), FACTORS, tf.constant([3, 5]), (7, 9)
    )
    np.testing.assert_array_equal(part, image[3:10, 5:14])


@pytest.mark.parametrize(
    ("factors", "name"), [(FACTORS, "resized"), (np.array([0.5, 0.5]), "half")]
)
def test_vectors_of_a_sparse_flow_go_to_the_nearest_pixel(golden, factors, name):
    flow, valid = tf.constant(golden["flow"]), tf.constant(golden["valid"])
    move = flow_ops.Move(tf.constant(factors), tf.constant(True), ZERO, tf.constant([False] * 2))
    expected = golden[f"sparse_valid_{name}"]
    moved, known = flow_ops.scattered_window(flow, valid, move, expected.shape)
    np.testing.assert_array_equal(known, expected)
    np.testing.assert_allclose(moved, golden[f"sparse_flow_{name}"], rtol=1e-6)


def test_a_sparse_flow_that_keeps_its_size_keeps_its_border(golden):
    flow, valid = tf.constant(golden["flow"]), tf.constant(golden["valid"])
    begin = tf.constant([0, 2])
    move = flow_ops.Move(
        tf.ones(2, tf.float64), tf.constant(False), begin, tf.constant([False] * 2)
    )
    moved, known = flow_ops.scattered_window(flow, valid, move, (20, 25))
    np.testing.assert_array_equal(known, golden["valid"][:20, 2:27])
    wanted = golden["flow"] * (golden["valid"] >= 1)[..., None]
    np.testing.assert_array_equal(moved, wanted[:20, 2:27])


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_colours_are_pillow_s(factor):
    pixels = smooth((20, 30), 3)
    image = Image.fromarray(pixels)
    for enhance, ours in (
        (ImageEnhance.Contrast, flow_ops.contrast), (ImageEnhance.Color, flow_ops.saturate)
    ):  # fmt: skip
        expected = np.asarray(enhance(image).enhance(factor)).astype(int)
        assert np.abs(ours(tf.constant(pixels), factor).numpy() - expected).max() <= 1


jitter = tf.function(flow_ops.jitter_colours)


def jittered(first, second, is_sparse, count):
    first, second, is_sparse = tf.constant(first), tf.constant(second), tf.constant(is_sparse)
    for i in range(count):
        yield [x.numpy().astype(int) for x in jitter(first, second, is_sparse, tf.constant([i, 1]))]


def test_colours_of_both_frames_change_alike_or_not():
    """Where frames are equal before, they differ afterwards in about a fifth of dense pairs."""
    frame = smooth((12, 16), 0)
    pairs = list(jittered(frame, frame, False, 60))
    apart = np.mean([(first != second).any() for first, second in pairs])
    assert 0.08 < apart < 0.35
    assert np.mean([(first != frame).any() for first, _ in pairs]) > 0.9
    for first, second in jittered(frame, frame, True, 20):
        np.testing.assert_array_equal(first, second)
    # Contrast is about the mean of both: what is grey in one frame depends on the other.
    alone, _ = next(iter(jittered(frame, frame, True, 1)))
    beside, _ = next(iter(jittered(frame, np.zeros_like(frame), True, 1)))
    assert (alone != beside).any()


def test_a_part_of_the_second_frame_is_erased():
    image = np.random.default_rng(0).choice([0, 255], (150, 260, 3)).astype(np.uint8)
    mean = image.mean(axis=(0, 1)).astype(np.uint8)
    erase = tf.function(flow_ops.erase)
    erased, sides = 0, []
    for i in range(60):
        found = erase(tf.constant(image), tf.constant([i, 2])).numpy()
        hidden = (found != image).any(axis=-1)
        np.testing.assert_array_equal(found[hidden], np.broadcast_to(mean, (hidden.sum(), 3)))
        erased += hidden.any()
        labels, count = scipy.ndimage.label(hidden)
        assert count <= 2
        for rows, columns in scipy.ndimage.find_objects(labels) if count == 1 else ():
            if rows.stop < 150 and columns.stop < 260:  # whole
                sides += [rows.stop - rows.start, columns.stop - columns.start]
    assert 18 <= erased <= 42
    assert min(sides) >= 50


def pair(size=(72, 96), seed=0):
    """Two frames of a picture that is enlarged, turned, and moved, with the exact flow."""
    height, width = size
    picture = np.stack([_waves(seed + k) for k in range(3)])
    y, x = np.mgrid[:height, :width].astype(np.float64)
    matrix, shift = np.array([[1.05, 0.04], [-0.06, 0.97]]), np.array([3.0, -2.0])
    flow = np.stack([x, y], -1) @ matrix.T + shift - np.stack([x, y], -1)
    back = (np.stack([x, y], -1) - shift) @ np.linalg.inv(matrix).T
    return {
        "image": _look(picture, x, y),
        "image2": _look(picture, back[..., 0], back[..., 1]),
        "flow": flow.astype(np.float32),
        "valid": np.ones(size, np.float32),
    }


def _waves(seed):
    return np.random.default_rng(seed).uniform(0.05, 0.25, 4)


def _look(picture, x, y):
    """Frame of a smooth picture that is known everywhere, (h, w, 3) uint8."""
    colours = [
        128 + 60 * np.sin(a * x + b * y) + 60 * np.cos(c * y - d * x) for a, b, c, d in picture
    ]
    return np.round(np.stack(colours, -1)).astype(np.uint8)


@functools.cache
def compiled(spec):
    return tf.function(preprocess.build(spec, train=True))


def augmented(found, spec, count, begin=0):
    change = compiled(spec)
    tensors = {key: tf.constant(value) for key, value in found.items()}
    for seed in range(begin, begin + count):
        yield {k: v.numpy() for k, v in change(tensors, tf.constant([seed, 5])).items()}


def misfit(found):
    """Median difference of frame 1 to frame 2 seen along the flow, where that is known."""
    height, width = found["valid"].shape
    y, x = np.mgrid[:height, :width]
    x, y = x + found["flow"][..., 0], y + found["flow"][..., 1]
    inside = (found["valid"] > 0) & (x >= 0) & (y >= 0) & (x < width - 1) & (y < height - 1)
    warped = [
        scipy.ndimage.map_coordinates(found["image2"][..., k].astype(float), [y, x], order=1)
        for k in range(3)
    ]
    difference = np.abs(np.stack(warped, -1) - found["image"])[inside]
    return np.median(difference)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chairs", "kitti"])
def test_the_flow_fits_what_the_frames_become(name):
    """Mirrored, stretched or cut: frame 2 along the flow is frame 1, unless colours differ."""
    found = {**pair(), "set": np.int32(number(name))}
    fits = []
    for changed in augmented(found, "flow_augment((48, 64), 'chairs')", 24):
        assert set(changed) == {"image", "image2", "flow", "valid"}
        assert changed["image"].shape == changed["image2"].shape == (48, 64, 3)
        assert changed["image"].dtype == np.uint8
        assert changed["valid"].mean() > (0.2 if name == "kitti" else 0.99)
        fits.append(misfit(changed) < 8)
    assert np.mean(fits) > 0.6  # else mostly erased, or of other colours


def moves(stage, name, size=(48, 64), whole=(72, 96), count=200):
    draw = tf.function(
        lambda seed: vars(
            flow_ops._draw(
                tf.constant(whole), size, STAGES[stage], tf.constant(number(name)),
                tf.constant(name in ("kitti", "hd1k")), seed,
            )
        )
    )  # fmt: skip
    found = [draw(tf.constant([i, 3])) for i in range(count)]
    return {key: np.stack([one[key].numpy() for one in found]) for key in found[0]}


def test_how_dense_sets_are_moved():
    drawn = moves("things", "things", size=(8, 8), whole=(100, 200))
    assert 0.7 < drawn["is_resized"].mean() < 0.9
    assert (drawn["factors"][~drawn["is_resized"]] == 1).all()
    factors = drawn["factors"][drawn["is_resized"]]
    assert factors.min() > 2 ** (-0.4 - 0.2)
    assert factors.max() < 2 ** (0.8 + 0.2)
    middle = np.log2(factors).mean(axis=1)
    assert (middle.min() < -0.25, middle.max() > 0.65) == (True, True)
    stretched = factors[:, 0] != factors[:, 1]
    assert 0.7 < stretched.mean() < 0.9
    upside_down, left_to_right = drawn["mirrored"].mean(axis=0)
    assert (0.04 < upside_down < 0.17, 0.4 < left_to_right < 0.6) == (True, True)
    ends = drawn["begin"] + 8 <= np.round([100, 200] * drawn["factors"])
    assert ends.all()
    assert drawn["begin"].min() == 0


def test_how_sparse_sets_are_moved():
    mixed = moves("sintel", "hd1k", size=(8, 8), whole=(100, 200))
    np.testing.assert_array_equal(mixed["factors"][:, 0], mixed["factors"][:, 1])
    factors = mixed["factors"][mixed["is_resized"], 0]
    assert (2**-0.5 < factors.min() < 0.75, 1.1 < factors.max() < 2**0.2) == (True, True)
    assert not mixed["mirrored"][:, 0].any()
    assert mixed["mirrored"][:, 1].any()
    # Windows are drawn outside, and moved inside.
    at_left = (mixed["begin"][:, 1] == 0).mean()
    assert at_left > 0.1
    assert not moves("kitti", "kitti")["mirrored"].any()


def test_an_image_is_enlarged_to_more_than_the_window():
    for name, spare in (("sintel", 8), ("kitti", 1)):
        drawn = moves("sintel", name, size=(70, 64), whole=(72, 96), count=50)
        assert drawn["factors"][drawn["is_resized"]].min() >= (70 + spare) / 72 - 1e-9


def test_an_image_smaller_than_the_window_is_padded():
    found = {**pair((40, 50)), "set": np.int32(number("kitti"))}
    found["image"] = np.maximum(found["image"], 1)
    for changed in augmented(found, "flow_augment((64, 64), 'kitti')", 6):
        black = (changed["image"] == 0).all(axis=-1)
        assert black.any()
        assert not changed["valid"][black].any()
        assert changed["valid"].any()


@pytest.mark.slow
def test_what_is_unknown_spoils_no_interpolated_flow():
    found = pair()
    found["valid"][30:34, 40:44] = 0
    found["flow"][30:34, 40:44] = 1e6
    found["occluded"] = (np.mgrid[:72, :96][1] > 47).astype(np.float32)
    for changed in augmented(found, "flow_augment((48, 64), 'chairs')", 8):
        known = changed["valid"] == 1
        assert known.mean() > 0.8
        assert np.abs(changed["flow"][known]).max() < 60
        assert set(np.unique(changed["occluded"])) == {0, 1}
        edges = np.abs(np.diff(changed["occluded"], axis=1)).sum(axis=1)
        np.testing.assert_array_equal(edges, 1)  # still two halves


def test_it_depends_on_the_seed_alone():
    first, again, other = (
        next(augmented(pair(), "flow_augment((48, 64), 'chairs')|value_range(-1, 1)", 1, seed))
        for seed in (1, 1, 2)
    )
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
        assert value.dtype == np.float32
    assert (first["image"] != other["image"]).any()


@pytest.mark.parametrize(
    ("change", "spec", "message"),
    [
        ({}, "flow_augment(48, 'tartan')", "stage must be one of chairs, things, sintel, kitti"),
        ({"valid": None}, "flow_augment(48)", "flow_augment needs .*; missing: valid"),
        ({"mask": np.zeros((72, 96), np.uint8)}, "flow_augment(48)", "does not move mask"),
        ({}, "value_range(-1, 1)|flow_augment(48)", "must stand after decode"),
        ({"image2": np.zeros((72, 95, 3), np.uint8)}, "flow_augment(48)", "has another size than"),
    ],
)
def test_wrong_examples(change, spec, message):
    found = {key: value for key, value in {**pair(), **change}.items() if value is not None}
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        next(augmented(found, spec, 1))
