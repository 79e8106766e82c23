"""Augmentations against golden outputs of timm, torchvision, Pillow and big_vision."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import colour, crop_windows, preprocess, randaugment, timm_randaugment
from input_pipeline.cpu_tf import tf
from vit_jax import mixing

_GOLDEN = Path(__file__).parent / "golden"
AUGMENT = dict(np.load(_GOLDEN / "augment.npz"))
IMAGE = AUGMENT["image"]


def keys(beginning):
    return [key for key in AUGMENT if key.startswith(beginning)]


def apply(spec, image=IMAGE, seed=0):
    step = preprocess.build(spec, train=True)
    return step({"image": tf.constant(image)}, tf.constant([seed, 0]))["image"].numpy()


def difference(found, expected):
    return np.abs(np.asarray(found).astype(int) - expected)


@pytest.mark.parametrize("key", keys("bv/randaug/"))
def test_randaug_is_big_visions(key):
    _, _, name, magnitude, *sign = key.split("/")
    sign, place = tf.constant(-1.0 if sign else 1.0), tf.constant([0.5, 0.5])
    out = randaugment.OPERATIONS[name](tf.constant(IMAGE), int(magnitude) / 10, sign, place)
    found = difference(out, AUGMENT[key])
    if name in ("Rotate", "Sharpness"):  # whose ties fall as the processor sums
        assert found.max() <= 3 or name == "Rotate"
        assert np.mean(found > 0) <= 0.01
    else:
        assert found.max() == 0


def test_cutout_of_randaug():
    image = np.zeros((224, 224, 3), np.uint8)
    middle = randaugment.OPERATIONS["Cutout"](image, 1.5, 1.0, tf.constant([0.5, 0.5])).numpy()
    expected = image.copy()
    expected[112 - 60 : 112 + 60, 112 - 60 : 112 + 60] = 128
    np.testing.assert_array_equal(middle, expected)


@pytest.mark.parametrize("key", [k for k in keys("timm/") if k.split("/")[1] in
                                 timm_randaugment.OPERATIONS])  # fmt: skip
def test_timm_randaug_is_timms(key):
    _, name, level, *sign = key.split("/")
    level, sign = (tf.constant(v, tf.float64) for v in (float(level), -1.0 if sign else 1.0))
    found = difference(timm_randaugment.OPERATIONS[name](IMAGE, level, sign), AUGMENT[key])
    assert found.max() <= 1
    assert np.mean(found > 0) <= (0.005 if name.startswith(("Shear", "Translate")) else 0)


def test_every_operation_of_timm_has_a_golden():
    assert {key.split("/")[1] for key in keys("timm/")} > {*timm_randaugment.OPERATIONS}


def test_timm_randaug_draws_operations_strengths_and_rests(monkeypatch):
    seen = []

    def note(index):
        def operation(image, level, sign):
            return tf.numpy_function(
                lambda x, level, sign: (seen.append((index, level, sign)), x)[1],
                [image, level, sign], tf.uint8,
            )  # fmt: skip

        return operation

    names = list(timm_randaugment.OPERATIONS)
    monkeypatch.setattr(timm_randaugment, "OPERATIONS", {n: note(i) for i, n in enumerate(names)})
    step = preprocess.build("timm_randaug(9, 0.5)", train=True)
    run = tf.function(lambda seed: step({"image": tf.constant(IMAGE)}, seed)["image"])
    for seed in range(300):
        run(tf.constant([seed, 1]))
    assert 250 < len(seen) < 350  # half of two in each
    operations, levels, signs = map(np.array, zip(*seen))
    assert {*operations} == {*range(15)}
    assert 8.9 < levels.mean() < 9.1
    assert 0.4 < levels.std() < 0.55
    assert levels.max() == 10
    assert 0.4 < np.mean(signs > 0) < 0.6


@pytest.mark.parametrize("row", range(48))
def test_sizes_of_erased_rectangles(row):
    *sides, height, width, accepted = AUGMENT["timm/erase/rect"][row]
    draws = AUGMENT["timm/erase/u"][None, row % 24]
    extent, fits = colour.erased_extent(tf.constant(sides, tf.int32), draws, (0.02, 1 / 3), 0.3)
    assert bool(fits) == bool(accepted)
    assert not accepted or tuple(extent.numpy()) == (height, width)


def test_erasing_fills_with_normal_noise_behind_normalize():
    top, left, height, width = AUGMENT["timm/erase/box"]
    before, noise, after = (
        AUGMENT[f"timm/erase/{name}"].transpose(1, 2, 0) for name in ("in", "noise", "out")
    )
    whole = np.zeros_like(before)
    whole[top : top + height, left : left + width] = noise
    begin, extent = np.int32([top, left]), np.int32([height, width])
    np.testing.assert_array_equal(colour.fill(before, begin, extent, whole), after)
    plain, erased = apply("normalize"), apply("normalize|random_erasing(1.0)")
    changed = erased[np.any(plain != erased, -1)]
    assert changed.dtype == np.float32
    assert len(changed) > 30
    assert abs(changed.mean()) < 0.3
    assert 0.8 < changed.std() < 1.2


@pytest.mark.parametrize("row", range(72))
def test_windows_of_random_resized_crop(row):
    height, width, *window = AUGMENT["timm/rrc/box"][row]
    draws = np.repeat(AUGMENT["timm/rrc/u"][None, row % 24], 10, axis=0)
    shape = tf.constant([height, width, 3], tf.int32)
    extent, is_drawn = crop_windows.torchvision_extent(shape, draws, (0.08, 1.0))
    extent = extent.numpy()
    begin = (0, 0) if is_drawn else (np.array([height, width]) - extent) // 2
    assert (*begin, *extent) == tuple(window)


def test_the_second_try_of_a_window_counts_where_the_first_does_not_fit():
    shape = tf.constant([100, 20, 3], tf.int32)
    draws = np.array([[0.99, 0.5], [0.0, 0.5], [0.02, 0.5]])
    extent, is_drawn = crop_windows.torchvision_extent(shape, draws, (0.08, 1.0))
    assert bool(is_drawn)
    assert tuple(extent.numpy()) == (13, 13)  # sqrt(0.08 * 2000)


def test_corners_of_windows_lie_everywhere():
    shape = tf.constant([12, 9, 3], tf.int32)
    draw = tf.function(lambda seed: crop_windows.torchvision_window(shape, seed, (0.08, 0.5)))
    windows = np.stack([draw(tf.constant([seed, 0])).numpy() for seed in range(200)])
    ends = windows[:, :2] + windows[:, 2:]
    assert windows[:, :2].min() == 0
    assert tuple(ends.max(0)) == (12, 9)
    shares = windows[:, 2] * windows[:, 3] / 108
    assert 0.25 < shares.mean() < 0.33  # uniform in area; by TensorFlow's law .2


# Golden -> string.
RESIZED = {
    "bv/resize_24": "resize(24, like='big_vision')",
    "bv/resize_24_bicubic": "resize(24, 'bicubic', like='big_vision')",
    "bv/resize_24_area": "resize(24, 'area', like='big_vision')",
    "bv/resize_90x70": "resize((90, 70), like='big_vision')",
    "bv/resize_90x70_bicubic": "resize((90, 70), 'bicubic', like='big_vision')",
    "bv/resize_small_32": "resize_small(32, 'area', like='big_vision')",
    "bv/resize_small_32_bilinear": "resize_small(32, like='big_vision')",
    "bv/resize_small_70": "resize_small(70, 'area', like='big_vision')",
    "bv/resize_small_32_central_crop_28":
        "resize_small(32, 'area', like='big_vision')|central_crop(28)",
    "bv/value_range": "resize(24, like='big_vision')|value_range(-1, 1)",
    "timm/pil_bicubic_32": "resize(32, 'bicubic', like='torchvision')",
    "timm/pil_bilinear_32": "resize(32, like='torchvision')",
}  # fmt: skip


@pytest.mark.parametrize("key", RESIZED)
def test_resized_images(key):
    out = apply(RESIZED[key])
    assert out.shape == AUGMENT[key].shape
    if out.dtype == np.float32:
        np.testing.assert_allclose(out, AUGMENT[key], atol=1e-6)
    else:
        assert difference(out, AUGMENT[key]).max() <= (0 if key.startswith("bv") else 1)


def test_a_resized_window():
    top, left, height, width = AUGMENT["timm/resized_crop/box"]
    window = IMAGE[top : top + height, left : left + width]
    out = apply("resize(24, 'bicubic', like='torchvision')", window)
    assert difference(out, AUGMENT["timm/resized_crop/bicubic_24"]).max() <= 1


@pytest.mark.parametrize("like", ["torchvision", "big_vision"])
def test_inception_crop_has_the_pixels_of_others(like, monkeypatch):
    box = AUGMENT["timm/resized_crop/box"]
    for law in ("torchvision_window", "tensorflow_window"):
        monkeypatch.setattr(crop_windows, law, lambda *args, **ratio: tf.constant(box, tf.int32))
    top, left, height, width = box
    window = IMAGE[top : top + height, left : left + width]
    expected = apply(f"resize(24, 'bicubic', like='{like}')", window)
    out = apply(f"inception_crop(24, method='bicubic', like='{like}')")
    np.testing.assert_array_equal(out, expected)


def test_mixing_against_goldens():
    with np.load(_GOLDEN / "mixing.npz") as golden:
        golden = dict(golden)
    images = golden["x"].transpose(0, 2, 3, 1)
    classes, smoothing = int(golden["classes"]), golden["smoothing"]
    hard = np.eye(classes, dtype=np.float32)[golden["y"]]
    batch = {"image": jnp.asarray(images), "label": hard * (1 - smoothing) + smoothing / classes}

    def check(mixed, name):
        expected = golden[f"{name}_x"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(mixed["image"], expected, atol=1e-6)
        np.testing.assert_allclose(mixed["label"], golden[f"{name}_y"], atol=1e-6)

    share = float(golden["lam"])
    check(mixing.mixup(batch, share, mixing.opposite), "mixup")
    box = mixing.box_about(tuple(golden["centre"]), share, images.shape[1:3])
    assert tuple(map(int, box)) == tuple(golden["cutmix_box"])
    check(mixing.cutmix(batch, box), "cutmix")
    plain = {**batch, "label": hard}
    check(mixing.mixup(plain, max(share, 1 - share), mixing.one_before), "bv_mixup")
