"""Whole images, windows, several sizes and mirrored ones; and photos in bands."""

import json
import zlib
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import noise
from vit_jax import ops, sliding
from vit_jax.models.base import Model

GOLDEN = Path(__file__).parent / "golden" / "segmentation_inference.npz"


class Convolution(Model):
    """Logits by one convolution, at a stride."""

    classes: int = 4
    stride: int = 1
    dtype: Any = jnp.float32
    task = "segment"
    any_size = True

    @nn.compact
    def __call__(self, images, train=False):
        strides = (self.stride, self.stride)
        return nn.Conv(self.classes, (3, 3), strides, padding=1, name="conv")(images)


class OfOneSize(Model):
    """A position embedding before a convolution."""

    dtype: Any = jnp.float32
    task = "segment"

    def image_size(self, params):
        return params["positions"].shape[:2]

    @nn.compact
    def __call__(self, images, train=False):
        positions = self.param("positions", nn.initializers.normal(1.0), images.shape[1:])
        return nn.Conv(3, (3, 3), name="conv")(images + positions)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def golden_variables(golden):
    parts = {}
    for name, shape in json.loads(str(golden["names"])).items():
        n = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        n *= np.prod(shape[1:]) ** -0.5 * 0.7 if len(shape) > 1 else 0.1
        parts[name] = n.astype(np.float32)
    kernel = parts["weight"].transpose(2, 3, 1, 0)
    return {"params": {"conv": {"kernel": kernel, "bias": parts["bias"]}}}


def make(model, size=(8, 8)):
    variables = model.init(jax.random.key(0), jnp.zeros((1, *size, 3)))
    return jax.tree.map(lambda x: x + 0.1 * noise(x.shape, 5), variables)


def assert_close(found, expected, tolerance=3e-5):
    expected = expected.transpose(0, 2, 3, 1)
    assert np.abs(found - expected).max() <= tolerance * expected.std()


def settings(**values):
    return {f"segment.{key}": value for key, value in values.items()}


def test_windows_scales_and_mirrored_images_are_the_golden_ones(golden):
    images = golden["x"].transpose(0, 2, 3, 1)
    variables = golden_variables(golden)
    starts = [
        (top, left)
        for top in sliding.window_starts(21, golden["crop"][0], golden["stride"][0])
        for left in sliding.window_starts(30, golden["crop"][1], golden["stride"][1])
    ]
    np.testing.assert_array_equal(starts, golden["starts"])
    model = Convolution()
    # Windows that are no squares are for mmsegmentation alone.
    tops, lefts = (sorted({start[axis] for start in starts}) for axis in (0, 1))
    view = sliding.View((21, 30), False, tuple(golden["crop"].tolist()), tops, lefts)
    found = jax.jit(lambda x: sliding._look(model, variables, x, view))(images)
    assert_close(found, golden["slide"])
    assert_close(ops.resize_bilinear(found, (26, 41)), golden["slide_resized"])
    scales = tuple(golden["scales"].tolist())
    answer = sliding.make_answer(model, settings(scales=scales, flip=True))
    found = jax.jit(answer)(variables, {"image": images})
    assert_close(np.exp(found), golden["multiscale_flip"])
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, rtol=1e-5)


def test_windows_of_an_answer_are_those_of_a_loop():
    model = Convolution(stride=4)
    variables, images = make(model), jnp.asarray(noise((2, 21, 27, 3)))
    total, count = np.zeros((2, 21, 27, 4)), np.zeros((21, 27, 1))
    for top in (0, 7, 9):
        for left in (0, 7, 14, 15):
            window = images[:, top : top + 12, left : left + 12]
            logits = ops.resize_bilinear(model.apply(variables, window), (12, 12))
            total[:, top : top + 12, left : left + 12] += logits
            count[top : top + 12, left : left + 12] += 1
    answer = sliding.make_answer(model, settings(window=12, stride=7))
    found = jax.jit(answer)(variables, {"image": images})
    np.testing.assert_allclose(found, total / count, atol=1e-5)
    default = sliding.Looks(window=12).grid((21, 27))
    assert default == ((12, 12), [0, 8, 9], [0, 8, 15])
    assert sliding.Looks(window=40).grid((21, 27)) == ((21, 27), [0], [0])


def test_what_is_left_in_an_image_is_right_in_its_mirror():
    """With both looks, and labels that change places, the answer to either image is the same."""
    model = Convolution()
    variables, images = make(model), jnp.asarray(noise((1, 10, 14, 3)))
    answer = jax.jit(
        sliding.make_answer(model, settings(flip=True, swap=[[1, 2]], scales=(1, 1.5)))
    )
    found, of_mirror = (answer(variables, {"image": x}) for x in (images, images[:, :, ::-1]))
    np.testing.assert_allclose(of_mirror[:, :, ::-1][..., np.array([0, 2, 1, 3])], found, atol=1e-5)
    assert np.abs(of_mirror[:, :, ::-1] - found).max() > 0.01
    answer = sliding.make_answer(model, settings(flip=True, swap=((3, 4),)))
    with pytest.raises(ValueError, match="swap has the label 4, and there are 4 classes"):
        answer(variables, {"image": images})


def test_what_is_not_set_leaves_a_model_as_it_is():
    for unset in ({}, settings(window=0, stride=0, scales=(), flip=False), settings(scales=(1.0,))):
        assert sliding.make_answer(Convolution(), unset) is None


def test_settings_that_do_not_fit():
    for wrong, message in [
        (dict(window=-1), "segment: a window has a side of 1 pixel or more, or 0, not -1"),
        (dict(stride=3), "must lie from 1 to their side, 0, or be 0, and is 3: say window as"),
        (dict(window=4, stride=5), "must lie from 1 to their side, 4, or be 0, and is 5"),
        (dict(scales=(0.5, 0)), r"numbers above 0 and up to 8, such as \(0.5, 1.0\), not"),
        (dict(scales=("a",)), "numbers above 0"),
        (dict(swap=(1, 2)), r"swap must be pairs of different labels, .*, not \(1, 2\)"),
        (dict(swap=((1, 2), (2, 3))), "swap must be pairs of different labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            sliding.make_answer(Convolution(), settings(**wrong))


def test_a_model_for_one_size_sees_larger_images_by_windows_alone():
    model, images = OfOneSize(), jnp.asarray(noise((1, 12, 8, 3)))
    variables = make(model)
    answer = sliding.make_answer(model, {})
    with pytest.raises(
        ValueError, match="images of 8 x 8 pixels, and not of 12 x 8: larger images"
    ):
        answer(variables, {"image": images})
    found = sliding.make_answer(model, settings(window=8, stride=4))(variables, {"image": images})
    one, other = (model.apply(variables, images[:, at : at + 8]) for at in (0, 4))
    np.testing.assert_allclose(found[0, :4], one[0, :4], atol=1e-5)
    np.testing.assert_allclose(found[0, 4:8], (one[0, 4:] + other[0, :4]) / 2, atol=1e-5)


@pytest.mark.parametrize("looks", [{}, dict(window=8), dict(window=8, scales=(1.0, 2.0))])
def test_a_model_for_one_size_sees_smaller_images_with_zeros_beside(looks):
    """Training pads them in the same way; a folder and several scales have such images."""
    model, image = OfOneSize(), jnp.asarray(noise((1, 5, 4, 3)))
    variables = make(model)
    found = sliding.make_answer(model, settings(**looks))(variables, {"image": image})
    assert found.shape == (1, 5, 4, found.shape[-1])
    if "scales" not in looks:
        padded = jnp.pad(image, ((0, 0), (0, 3), (0, 4), (0, 0)))
        np.testing.assert_allclose(found, model.apply(variables, padded)[:, :5, :4], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("looks", "size"),
    [
        (sliding.Looks(), (150, 70)),
        (sliding.Looks(), (20, 31)),
        (sliding.Looks(window=16, stride=11), (150, 70)),
        (sliding.Looks(window=16, scales=(0.5, 1.0, 1.6), flip=True), (200, 33)),
        (sliding.Looks(scales=(0.4, 2.0)), (47, 61)),
        (sliding.Looks(flip=True, swap=((1, 3),)), (50, 61)),
    ],
)
def test_bands_say_what_the_simple_way_says(looks, size, monkeypatch):
    monkeypatch.setattr(sliding, "_BAND_VALUES", 9 * 70 * 4)  # or a band is the whole
    model = Convolution(stride=4)
    variables, image = make(model), noise((47, 61, 3), 2)
    image = np.repeat(np.repeat(image[::6, ::6], 6, 0), 6, 1)[:47, :61]
    banded = sliding.BandedSegmenter(model, variables, looks)
    found = banded(image, size)
    views = looks.views((47, 61))
    each = []
    for view in views:
        seen = ops.resize_bilinear(jnp.asarray(image[None]), view.size)
        seen = seen[:, :, ::-1] if view.is_mirrored else seen
        logits = sliding._slide(model, variables, seen, view)
        logits = logits[:, :, ::-1] if view.is_mirrored else logits
        logits = logits[..., [0, 3, 2, 1]] if view.is_mirrored and looks.swap else logits
        each.append(ops.resize_bilinear(logits, size)[0])
    if len(views) > 1:
        each = [jax.nn.softmax(logits, axis=-1) for logits in each]
    expected = np.asarray(sum(each))
    assert len(np.unique(found)) > 2
    best = np.sort(expected, axis=-1)
    is_clear = best[..., -1] - best[..., -2] > 1e-5
    # Labels that change places are alike where the image and its mirror are.
    assert is_clear.mean() > (0.8 if looks.swap else 0.99)
    np.testing.assert_array_equal(found[is_clear], expected.argmax(axis=-1)[is_clear])


def largest(function, bounds):
    """The most bytes of an array that jitted functions of `sliding` give back."""

    def wrapped(*args):
        out = function(*args)
        bounds.append(out.nbytes)
        return out

    return wrapped


@pytest.mark.slow
@pytest.mark.rare
def test_a_tall_photo_of_6_megapixels_takes_some_bands(monkeypatch):
    sizes = []
    for name in ("_softmax", "_divided", "_add_window", "_resized_band"):
        monkeypatch.setattr(sliding, name, largest(getattr(sliding, name), sizes))
    model = Convolution(classes=150, stride=4)
    looks = sliding.Looks(window=512)
    banded = sliding.BandedSegmenter(model, make(model), looks)
    classes = banded(np.zeros((4000, 1500, 3), np.float32), (4000, 1500))
    assert classes.shape == (4000, 1500)
    assert max(sizes) <= 2**28  # of 4000 x 1500 x 150 x 4 = 3.6e9 bytes
