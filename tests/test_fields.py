"""Masks and flows follow what ops of geometry do to images, and ops of colour leave them alone."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import fields, preprocess


def example(size=(24, 24), constant=False):
    """Images with a flow between them, and a mask that is the red of the first.

    `image[y, x]` is `image2[y + v, x + u]` wherever that exists, which `valid` says; the flow is of
    whole pixels, and of another direction in each block of 6 x 6, or the same everywhere.
    """
    random = np.random.default_rng(0)
    height, width = size
    blocks = random.integers(-3, 4, (height // 6, width // 6, 2))
    if constant:
        blocks[:] = blocks[0, 0]
    flow = blocks.repeat(6, axis=0).repeat(6, axis=1)
    second = random.integers(0, 250, (*size, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    y, x = y + flow[..., 1], x + flow[..., 0]
    valid = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    first = second[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return {
        "image": first,
        "image2": second,
        "mask": first[..., 0].astype(np.int32),
        "flow": flow.astype(np.float32),
        "valid": valid[..., None].astype(np.uint8),
        "label": np.int32(3),
    }


def apply(spec, found, seed=0, **settings):
    op = preprocess.build(spec, train=True, **settings)
    tensors = {key: tf.constant(value) for key, value in found.items()}
    return {key: value.numpy() for key, value in op(tensors, tf.constant([seed, 7])).items()}


def share_that_fits(found):
    """How much of the valid flow can be followed, all of which must lead to the same colour."""
    height, width = found["image"].shape[:2]
    assert found["flow"].shape == (height, width, 2)
    assert found["mask"].shape == (height, width)
    assert found["valid"].shape == (height, width, 1)
    y, x = np.mgrid[:height, :width]
    ends = np.round(np.stack([y + found["flow"][..., 1], x + found["flow"][..., 0]])).astype(int)
    inside = (ends >= 0).all(0) & (ends[0] < height) & (ends[1] < width)
    inside &= found["valid"][..., 0] == 1
    within = np.clip(ends, 0, [[[height - 1]], [[width - 1]]])
    inside &= found["mask"][within[0], within[1]] != 255  # else it ends where pixels were cut off
    np.testing.assert_array_equal(
        found["image"][inside], found["image2"][ends[0][inside], ends[1][inside]]
    )
    return inside.mean()


@pytest.mark.parametrize(
    ("spec", "is_random"),
    [
        ("random_crop((17, 15), edge_decay=0.5)", True),
        ("central_crop((16, 20))", False),
        ("flip_lr", True),
        ("rot90", True),
        ("pad(3)", False),
        ("pad_to((30, 27))", False),
        ("shift(4)", True),
        ("flip_lr|rot90|random_crop(18)|shift(2)|pad(1)", True),
    ],
)
def test_a_flow_and_a_mask_follow_the_images(spec, is_random):
    seen = set()
    for seed in range(12):
        moved = apply(spec, example(), seed)
        assert share_that_fits(moved) > 0.4
        is_own = moved["mask"] != 255
        np.testing.assert_array_equal(moved["mask"][is_own], moved["image"][is_own][:, 0])
        assert is_own.mean() > 0.6
        assert moved["label"] == 3
        seen.add(moved["flow"].tobytes())
    assert (len(seen) > 1) == is_random


@pytest.mark.parametrize("spec", ["resize((48, 72), 'nearest')", "resize_small(48, 'nearest')",
                                  "resize((72, 48), 'nearest')|flip_lr"])  # fmt: skip
def test_a_flow_grows_with_the_images(spec):
    for seed in range(4):
        large = apply(spec, example(constant=True), seed)
        assert share_that_fits(large) > 0.6
        np.testing.assert_array_equal(large["mask"], large["image"][..., 0])


def test_a_flow_by_hand():
    flow = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    flipped = fields.mirrored(tf.constant(flow), fields.Kind.FLOW).numpy()
    np.testing.assert_array_equal(flipped[0], [[-2, 3], [0, 1]])
    right, down = flow[..., 0], flow[..., 1]
    for quarters, (new_right, new_down) in enumerate(
        [(right, down), (down, -right), (-right, -down), (-down, right)]
    ):
        turned = fields.turned(tf.constant(flow), fields.Kind.FLOW, tf.constant(quarters)).numpy()
        np.testing.assert_array_equal(turned[..., 0], np.rot90(new_right, quarters))
        np.testing.assert_array_equal(turned[..., 1], np.rot90(new_down, quarters))
    constant = np.ones((4, 6, 2), np.float32)
    resized = fields.resized(tf.constant(constant), fields.Kind.FLOW, (8, 3), "bicubic").numpy()
    np.testing.assert_allclose(resized, np.broadcast_to([0.5, 2.0], (8, 3, 2)), atol=1e-6)


@pytest.mark.parametrize("spec", ["resize((48, 36))", "resize((7, 9))", "resize_small(40)",
                                  "inception_crop((13, 31))", "scale_jitter(30, 60)"])  # fmt: skip
@pytest.mark.parametrize("channels", [(), (1,)])
def test_a_flow_that_is_not_known_goes_into_none_that_is(spec, channels):
    valid = (np.random.default_rng(0).random((24, 18)) < 0.3).astype(np.uint8)
    flow = np.where(valid[..., None], np.float32([2, -3]), np.float32([500, 700]))
    image = np.mgrid[:24, :18].transpose(1, 2, 0)
    image = np.pad(image * 10, ((0, 0), (0, 0), (0, 1))).astype(np.uint8)
    found = apply(spec, {"image": image, "flow": flow, "valid": valid.reshape(24, 18, *channels)})
    assert set(found) == {"image", "flow", "valid"}
    known = found["valid"].reshape(found["flow"].shape[:2]) == 1
    assert 0.1 < known.mean() < 0.6
    assert not found["flow"][~known].any()
    ratio = found["flow"][known] / (2, -3)  # how much larger the image has become
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-5)
    if "crop" not in spec:
        size = np.array(found["flow"].shape[1::-1])
        np.testing.assert_allclose(ratio[0], size / (18, 24), rtol=1e-5)


def test_erasing_is_of_the_second_frame_alone():
    found = example()
    erased = apply("random_erasing(1.0)", found)
    np.testing.assert_array_equal(erased["image"], found["image"])
    assert (erased["image2"] != found["image2"]).any()


def test_colours_of_two_frames_change_alike():
    pixels = example()["image"]
    pair = {"image": pixels, "image2": pixels.copy(), "flow": np.zeros((24, 24, 2), np.float32)}
    changed = apply("photometric_distortion", pair)
    assert (changed["image"] != pixels).any()
    np.testing.assert_array_equal(changed["image"], changed["image2"])


def test_occlusion_moves_as_what_is_valid():
    found = example()
    found["occluded"] = found["valid"]
    for spec in ("random_crop(17)|flip_lr", "rot90|pad(2)|shift(3)", "inception_crop(9)"):
        moved = apply(spec, found, seed=3)
        np.testing.assert_array_equal(moved["occluded"], moved["valid"])
        assert moved["valid"].any()


def test_what_comes_from_outside_is_not_to_be_learnt():
    found = example((6, 6))
    for spec in ("pad(2)", "pad(2, 'reflect')"):
        padded = apply(spec, found)
        for key, fill in (("mask", 255), ("valid", 0), ("flow", 0)):
            rest = ((0, 0),) * (padded[key].ndim - 2)
            expected = np.pad(found[key], ((2, 2), (2, 2), *rest), constant_values=fill)
            np.testing.assert_array_equal(padded[key], expected)
    padded = apply("pad_to((9, 6))", found)
    np.testing.assert_array_equal(padded["image"][6:], found["image"][4:1:-1])
    assert (padded["mask"][6:] == 255).all()
    assert not padded["valid"][6:].any()
    moved = [apply("shift(3)", found, seed) for seed in range(6)]
    black = [example["image2"].sum(-1) == 0 for example in moved]
    assert all((example["mask"][b] == 255).all() for example, b in zip(moved, black))
    assert sum(b.sum() for b in black) > 20


def test_a_mask_is_never_mixed():
    mask = np.array([[0, 7], [7, 0]], np.int32).repeat(5, axis=0).repeat(5, axis=1)
    for spec in ("resize((7, 23))", "resize_small(4)", "inception_crop(13)"):
        for shape in (mask.shape, (*mask.shape, 1)):
            found = apply(spec, {"image": np.zeros((10, 10, 3), np.uint8),
                                 "mask": mask.reshape(shape)}, seed=1)  # fmt: skip
            assert found["mask"].shape[:2] == found["image"].shape[:2]
            assert set(np.unique(found["mask"])) == {0, 7}
            assert found["mask"].dtype == np.int32


def test_colour_is_of_images_alone():
    found = example()
    for spec in ("value_range(-1, 1)", "normalize", "random_erasing(1.0)|value_range(0, 1)"):
        changed = apply(spec, found)
        for key in ("mask", "flow", "valid", "label"):
            np.testing.assert_array_equal(changed[key], found[key])
        assert changed["image"].dtype == changed["image2"].dtype == np.float32
    target = {"image": found["image"], "target": found["image"]}
    erased = apply("random_erasing(1.0)", target)
    np.testing.assert_array_equal(erased["target"], target["target"])
    assert (erased["image"] != target["image"]).any()


def test_distortions_have_no_place_where_a_mask_would_not_follow():
    with pytest.raises(ValueError, match="randaug moves the pixels of images, which mask would"):
        apply("randaug(1, 5)", example())


@pytest.mark.parametrize("scale", [2, 3])
def test_windows_of_a_smaller_image_are_those_of_its_target(scale):
    y, x = np.mgrid[: 7 * scale, : 9 * scale]
    target = np.stack([y, x, 0 * y], axis=-1).astype(np.uint16)
    pair = {"image": target[::scale, ::scale] // scale, "target": target}
    begins = set()
    for seed in range(20):
        found = apply(f"random_crop(({4 * scale}, {3 * scale}))", pair, seed, scale=scale)
        assert found["image"].shape == (4, 3, 3)
        np.testing.assert_array_equal(found["image"] * scale, found["target"][::scale, ::scale])
        begins.add(tuple(found["image"][0, 0, :2]))
    assert len(begins) > 8
    assert max(y for y, _ in begins) == 3
    assert max(x for _, x in begins) == 6


def test_files_with_a_mask_are_decoded_whole_and_cropped_alike():
    found = example()
    data = tf.io.encode_png(found["image"]).numpy()
    spec = "decode|random_crop(9)|flip_lr"
    for seed in range(3):
        expected = apply(f"grayscale_to_rgb|{spec[7:]}", found, seed)
        actual = apply(spec, {"image": data, "mask": found["mask"]}, seed)
        np.testing.assert_array_equal(actual["image"], expected["image"])
        np.testing.assert_array_equal(actual["mask"], expected["mask"])
