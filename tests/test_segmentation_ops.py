"""What preprocessing does for segmentation: sizes, windows, colours and labels, by value."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import one_file, preprocess, segmentation_ops
from input_pipeline.ops import draw_uniform, draw_whole, fold_in
from tests.helpers import smooth
from tests.test_fields import apply


def example(size, labels=4):
    """An image, and a mask of blocks."""
    rows, columns = np.mgrid[: size[0], : size[1]] // 5
    return {"image": smooth(size, 0), "mask": ((rows + 2 * columns) % labels).astype(np.uint8)}


def bilinear(image, size):
    """Not antialiased, between pixel centres, in float64."""

    def along(image, axis, new):
        old = image.shape[axis]
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        first, second = (image.take(np.minimum(low + k, old - 1), axis) for k in (0, 1))
        return first * (1 - share) + second * share

    return along(along(image.astype(np.float64), 0, size[0]), 1, size[1])


@pytest.mark.parametrize(
    ("size", "spec", "expected"),
    [
        ((30, 40), "resize_within(60, 160)", (60, 80)),  # the shorter side decides
        ((30, 100), "resize_within(60, 160)", (48, 160)),  # the longer one
        ((100, 30), "resize_within(60, 160)", (160, 48)),
        ((90, 120), "resize_within(45, 200)", (45, 60)),
        ((31, 57), "resize_within(20, 2000)", (20, 37)),  # 36.8
        ((1, 200), "resize_within(20, 20)", (1, 20)),
    ],
)
def test_a_size_within_bounds(size, spec, expected):
    found = example(size)
    resized = apply(spec, found)
    assert resized["image"].shape == (*expected, 3)
    assert resized["mask"].shape == expected
    difference = np.abs(resized["image"] - bilinear(found["image"], expected))
    assert difference.max() <= 0.51
    rows, columns = (
        np.floor((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(size, expected)
    )
    np.testing.assert_array_equal(resized["mask"], found["mask"][np.ix_(rows, columns)])
    kept = preprocess.build(spec.replace(")", ", masks=False)"), train=False)(
        {key: tf.constant(value) for key, value in found.items()}, tf.zeros(2, tf.int32)
    )
    np.testing.assert_array_equal(kept["image"], resized["image"])
    np.testing.assert_array_equal(kept["mask"], found["mask"])


def test_antialiasing_is_a_choice():
    found = {"image": np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)}
    rough = apply("resize_within(8, 8)", found)["image"]
    averaged = apply("resize_within(8, 8, antialias=True)", found)["image"]
    assert rough.std() > 3 * averaged.std()


def test_jitter_of_scale():
    found = example((30, 45))
    heights = []
    for seed in range(30):
        jittered = apply("scale_jitter(20, 300, 0.5, 2.0)", found, seed)
        height, width = jittered["mask"].shape
        assert jittered["image"].shape == (height, width, 3)
        assert width == np.floor(45 * (height / 30) + 0.5)
        heights.append(height)
    assert min(heights) in range(10, 15)
    assert max(heights) in range(35, 41)
    again = apply("scale_jitter(20, 300, 0.5, 2.0)", found, 3)
    np.testing.assert_array_equal(again["mask"].shape[0], heights[3])
    # The bounds are whole numbers, as mmsegmentation's: floor(20 * 0.99) is 19.
    assert apply("scale_jitter(20, 300, 0.99, 0.99)", found)["mask"].shape == (19, 29)


def windows(most, seeds, mask, size=6):
    """Where windows begin; the image says it."""
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    image = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    crop = tf.function(preprocess.build(f"class_balanced_crop({size}, {most})", train=True))
    tensors = {"image": tf.constant(image), "mask": tf.constant(mask)}
    begins = []
    for seed in seeds:
        found = {key: value.numpy() for key, value in crop(tensors, tf.constant([seed, 7])).items()}
        assert found["mask"].shape == (size, size)
        top, left = found["image"][0, 0, :2]
        np.testing.assert_array_equal(found["mask"], mask[top : top + size, left : left + size])
        begins.append((int(top), int(left)))
    return begins


def test_windows_are_balanced_if_they_can_be():
    mask = np.zeros((20, 40), np.uint8)
    mask[:, 20:] = 1
    mask[::2, ::2] = 255  # which is not counted
    mask[0, 0] = 2
    shares = []
    for top, left in windows(0.75, range(40), mask):
        counts = np.bincount(mask[top : top + 6, left : left + 6].ravel(), minlength=256)[:255]
        shares.append(counts.max() / counts.sum())
    # A single draw is mixed enough in 14 of 100 cases, and one of eleven in 80.
    assert np.mean(np.array(shares) < 0.75) > 0.5
    at_random = windows(1.0, range(40), mask)  # more than one class is asked for all the same
    assert np.mean([14 < left < 20 or (top, left) == (0, 0) for top, left in at_random]) > 0.5
    assert len(set(at_random)) > 15


@pytest.mark.parametrize("label", [0, 255])
def test_windows_of_one_class_or_none_are_taken_after_ten_more_draws(label):
    mask = np.full((20, 40), label, np.uint8)
    seed = tf.constant([3, 7])
    image = np.mgrid[:20, :40].transpose(1, 2, 0).astype(np.uint8)
    image = np.concatenate([image, image[..., :1]], -1)
    crop = preprocess.build("class_balanced_crop(6)", train=True)
    found = crop({"image": tf.constant(image), "mask": tf.constant(mask)}, seed)
    last = fold_in(fold_in(seed, 0), 10)  # of the first op
    expected = [int(draw_whole(fold_in(last, axis), 0, n - 5)) for axis, n in ((0, 20), (1, 40))]
    assert found["image"][0, 0, :2].numpy().tolist() == expected


def test_smaller_images_are_cropped_to_what_there_is_and_padded():
    found = example((5, 30))
    cropped = apply("class_balanced_crop((8, 9))", found, 2)
    assert cropped["image"].shape == (5, 9, 3)
    values = "normalize()|pad_to((8, 9), mode='constant')"
    padded = apply(f"class_balanced_crop((8, 9))|{values}", found, 2)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        padded["image"][:5], (cropped["image"] / 255 - mean) / std, atol=1e-5
    )
    assert not padded["image"][5:].any()
    np.testing.assert_array_equal(padded["mask"][:5], cropped["mask"])
    assert (padded["mask"][5:] == 255).all()


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("class_balanced_crop(8)|flip_lr|photometric_distortion|normalize|pad_to(8, 'constant')",
         (8, 8)),
        ("class_balanced_crop((8, 6))|pad_to((9, 9))", (9, 9)),
        ("resize_within(6, 10)|pad_to(10)", (10, 10)),
        ("resize_within(6, 10)|pad_to((10, 9))", (None, None)),  # may be wider
        ("class_balanced_crop(8)|resize_small(20)|pad_to(8)", (None, None)),
        ("scale_jitter(6, 10)|pad_to(8)", (None, None)),
    ],
)  # fmt: skip
def test_sizes_that_are_known_before_an_image_is(spec, shape):
    """So that they make batches."""
    build = preprocess.build(spec, train=True)
    signature = {
        "image": tf.TensorSpec((None, None, 3), tf.uint8),
        "mask": tf.TensorSpec((None, None), tf.uint8),
    }
    function = tf.function(lambda fields: build(fields, tf.constant([0, 1])))
    shapes = function.get_concrete_function(signature).structured_outputs
    assert tuple(shapes["mask"].shape) == shape
    assert tuple(shapes["image"].shape) == (*shape, 3)


def test_labels_of_sides_change_places_when_mirrored():
    found = example((10, 15), labels=6)
    found["mask"][0, 0] = 255
    swapped = {0: 0, 1: 4, 2: 2, 3: 5, 4: 1, 5: 3, 255: 255}
    flips = 0
    for seed in range(10):
        moved = apply("flip_lr(swap=((1, 4), (5, 3)))", found, seed)
        plain = apply("flip_lr", found, seed)
        np.testing.assert_array_equal(moved["image"], plain["image"])
        if (plain["mask"] == found["mask"]).all():
            np.testing.assert_array_equal(moved["mask"], found["mask"])
        else:
            np.testing.assert_array_equal(moved["mask"], np.vectorize(swapped.get)(plain["mask"]))
            assert moved["mask"].dtype == np.uint8
            flips += 1
    assert 0 < flips < 10


# Colours


def reference_hsv(image):
    """OpenCV's RGB to HSV of 8 bits."""
    red, green, blue = np.moveaxis(image.astype(np.int64), -1, 0)
    value = image.max(-1).astype(np.int64)
    spread = value - image.min(-1)

    def table(top):
        return np.array([0] + [int(np.rint(top * 4096 / i)) for i in range(1, 256)])

    saturation = (spread * table(255)[value] + 2048) // 4096
    hue = np.select(
        [value == red, value == green],
        [green - blue, blue - red + 2 * spread], red - green + 4 * spread,
    )  # fmt: skip
    hue = (hue * table(30)[spread] + 2048) // 4096
    return hue % 180, saturation, value


def reference_rgb(hue, saturation, value):
    """By sectors of the circle of hues, in float64."""
    sector, rest = np.divmod(hue / 30, 1)
    saturation, rest = saturation / 255, rest
    p = value * (1 - saturation)
    q, t = value * (1 - saturation * rest), value * (1 - saturation * (1 - rest))
    choices = [(value, t, p), (q, value, p), (p, value, t), (p, q, value), (t, p, value),
               (value, p, q)]  # fmt: skip
    return np.select([sector[..., None] == i for i in range(6)], [np.stack(c, -1) for c in choices])


# Found with OpenCV 4.10: cvtColor with COLOR_RGB2HSV, and back.
BY_OPENCV = [
    ((255, 0, 0), (0, 255, 255), (255, 0, 0)),
    ((0, 255, 0), (60, 255, 255), (0, 255, 0)),
    ((10, 20, 200), (118, 242, 200), (10, 22, 200)),
    ((13, 12, 12), (0, 20, 13), (13, 11, 11)),
    ((77, 77, 77), (0, 0, 77), (77, 77, 77)),
    ((200, 180, 20), (27, 229, 200), (200, 182, 20)),
    ((3, 254, 129), (75, 252, 254), (2, 254, 128)),
    ((90, 0, 140), (139, 255, 140), (88, 0, 140)),
]


def test_hues_are_those_of_opencv():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (60, 70, 3)).astype(np.uint8)
    image[:10] = image[:10, :, :1]  # greys
    found = [x.numpy() for x in segmentation_ops.to_hsv(tf.constant(image))]
    for ours, expected in zip(found, reference_hsv(image)):
        np.testing.assert_array_equal(ours, expected)
    for rgb, hsv, back in BY_OPENCV:
        pixel = segmentation_ops.to_hsv(tf.constant([[rgb]], tf.uint8))
        assert [x.numpy().item() for x in pixel] == list(hsv)
        assert segmentation_ops.from_hsv(*pixel).numpy().ravel().tolist() == list(back)
    again = segmentation_ops.from_hsv(*map(tf.constant, found)).numpy()
    expected = reference_rgb(*found)
    assert np.abs(again - expected).max() < 1.001  # cut off, not rounded
    assert np.mean(again == np.floor(expected)) > 0.97


def cut_off(x):
    return np.clip(x, 0, 255).astype(np.uint8)


def reference_distortion(image, seed):
    """All of it in the published order, with the draws that the op makes."""

    def is_drawn(number):
        return draw_uniform(fold_in(seed, number), 0.0, 1.0).numpy() < 0.5

    def draw(number, low, high):
        return draw_uniform(fold_in(seed, number), low, high).numpy()

    steps = []
    if is_drawn(5):
        steps.append("brightness")
        image = cut_off(image.astype(np.float32) + draw(1, -32.0, 32.0))
    for when in (True, False):
        if is_drawn(6) and is_drawn(0) == when:
            steps.append("contrast first" if when else "contrast last")
            image = cut_off(image.astype(np.float32) * draw(2, 0.5, 1.5))
        if when and is_drawn(7):
            steps.append("saturation")
            hue, saturation, value = reference_hsv(image)
            saturation = cut_off(saturation.astype(np.float32) * draw(3, 0.5, 1.5)).astype(int)
            image = cut_off(reference_rgb(hue, saturation, value) + 1e-4)
        if when and is_drawn(8):
            steps.append("hue")
            hue, saturation, value = reference_hsv(image)
            hue = (hue + draw_whole(fold_in(seed, 4), -18, 18).numpy()) % 180
            image = cut_off(reference_rgb(hue, saturation, value) + 1e-4)
    return image, steps


def test_photometric_distortion():
    found = example((20, 30))
    seen = set()
    distort = tf.function(preprocess.build("photometric_distortion()", train=True))
    tensors = {key: tf.constant(value) for key, value in found.items()}
    unlike = []
    for number in range(30):
        seed = tf.constant([number, 7])
        changed = distort(tensors, seed)
        np.testing.assert_array_equal(changed["mask"], found["mask"])
        assert changed["image"].dtype == tf.uint8
        expected, steps = reference_distortion(found["image"], fold_in(seed, 0))
        unlike.append(np.abs(changed["image"].numpy().astype(int) - expected.astype(int)))
        seen |= {"nothing"} if not steps else set(steps)
    assert seen >= {"brightness", "contrast first", "contrast last", "saturation", "hue", "nothing"}
    # A hue of 1 more or less where a cut-off value differs by 1, in dark pixels most.
    assert np.mean(np.array(unlike) > 1) < 0.005
    assert np.mean(np.array(unlike) > 0) < 0.03


# Predicting, and what is wrong


def test_an_image_alone_is_prepared(tmp_path):
    data = tf.io.encode_png(smooth((20, 50), 1)).numpy()
    prepare = one_file.make_preparer("decode|resize_within(10, 2048, masks=False)|normalize()")
    assert prepare(data).shape == (10, 25, 3)
    assert prepare(data).dtype == np.float32
    padded = one_file.make_preparer("resize_within(10, 20)|normalize|pad_to(20, mode='constant')")
    assert padded(data).shape == (20, 20, 3)
    assert preprocess.output_shape("resize_within(10, 20)|pad_to(20)|normalize") == (20, 20, 3)


@pytest.mark.parametrize(
    ("spec", "train", "message"),
    [
        ("resize_within(20, 10)", False, "long must be a whole number of at least 20, not 10"),
        ("resize_within(0, 10)", False, "short must be a whole number of at least 1"),
        ("scale_jitter(10, 20, 0, 2)", True, r"low must lie in \[0.01, 100\], not 0"),
        ("scale_jitter(10, 20, 2, 1)", True, r"high must lie in \[2, 100\]"),
        ("scale_jitter(10, 20)", False, "every op must be deterministic; random: scale_jitter"),
        ("class_balanced_crop(8, 2)", True, r"most must lie in \[0, 1\], not 2"),
        ("class_balanced_crop(0)", True, "size must be a positive number of pixels"),
        ("pad_to(8, 'edge')", False, "mode must be 'constant' or 'reflect', not 'edge'"),
        ("flip_lr(swap=(1, 2))", True, r"swap must be pairs of different labels.*not \(1, 2\)"),
        ("flip_lr(swap=((1, 2), (2, 3)))", True, "swap must be pairs of different labels"),
        ("flip_lr(swap=((1, 255),))", True, "labels from 0 to 254"),
        ("resize_within(8, 8, masks=False)|central_crop(8)", False,
         "nothing after it but value_range, normalize, grayscale_to_rgb; central_crop needs masks"),
        ("resize_within(8, 8, masks=False)|normalize", True, "training needs masks of the image's"),
    ],
)  # fmt: skip
def test_wrong_strings(spec, train, message):
    with pytest.raises(ValueError, match=message):
        preprocess.build(spec, train=train)


def test_what_an_op_cannot_work_on():
    with pytest.raises(ValueError, match="class_balanced_crop needs a mask: take random_crop"):
        apply("class_balanced_crop(8)", {"image": smooth((9, 9), 0)})
    with pytest.raises(ValueError, match="photometric_distortion works on 8-bit images, and got"):
        apply("normalize|photometric_distortion", example((9, 9)))
    thin = {"image": np.zeros((1, 586, 3), np.uint8)}
    message = r"jitter.* would make 1024 x 600000 pixels of 1 x 586"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        apply("scale_jitter(512, 300000, 2.0, 2.0)", thin)
