import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from input_pipeline import (
    autoaugment,
    colour,
    distortions,
    pipeline,
    preprocess,
    randaugment,
    resampling,
)

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (30, 44, 3)).astype(np.uint8)


def apply(spec, image=PHOTO, seed=(1, 2), train=True):
    op = preprocess.build(spec, train)
    return op({"image": tf.constant(image)}, tf.constant(seed, tf.int32))["image"].numpy()


def seeds(count):
    return [(i, 3) for i in range(count)]


def jpeg(image=PHOTO, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "rezise(8)",
            "unknown op 'rezise'; did you mean 'resize'.*there are: autoaugment, central_crop",
        ),
        ("resize(8", r"cannot read 'resize\(8'"),
        ("resize(size)", "cannot read"),
        ("resize(8)|", "cannot read ''"),
        (
            "resize",
            r"missing a required argument: 'size'; usage: resize\(size, method=",
        ),
        ("resize(8, foo=1)", "unexpected keyword argument 'foo'; usage: resize"),
        ("resize(0)", "positive number of pixels"),
        ("resize('a')", "positive number of pixels"),
        ("resize(8, 'cubist')", "method must be one of"),
        ("inception_crop(8, area=(0.5, 2))", "area must be"),
        ("randaug(2)", "missing a required argument: 'magnitude'"),
        ("randaug(0, 5)", "num_layers must be a whole number of at least 1"),
        ("random_erasing(2)", r"probability must lie in \[0, 1\]"),
        ("pad(2, 'wrap')", "mode must be"),
        ("normalize(mean=(0.5,))", "three numbers"),
        ("value_range(1, -1)", "high must lie in"),
        ("resize(8)|decode", "decode can only stand first"),
    ],
)
def test_wrong_strings(spec, message):
    with pytest.raises(ValueError, match=message):
        preprocess.build(spec, train=True)


def test_random_ops_have_no_place_in_evaluation():
    with pytest.raises(ValueError, match="deterministic; random: flip_lr, shift"):
        preprocess.build("flip_lr|resize(8)|shift(1)", train=False)


@pytest.mark.parametrize("spec", ["value_range(-1, 1)|randaug(1, 5)", "value_range(0, 1)|normalize",
                                  "value_range(-1, 1)|tint(0.5)",
                                  "value_range(-1, 1)|timm_randaug"])  # fmt: skip
def test_ops_on_8_bit_images_say_so(spec):
    with pytest.raises(ValueError, match=r"works on 8-bit.* images, and got float32"):
        apply(spec)


def test_resize_is_pillows_antialiased_bilinear():
    expected = Image.fromarray(PHOTO).resize((20, 10), Image.Resampling.BILINEAR)
    actual = apply("resize((10, 20))")
    assert actual.dtype == np.uint8
    assert np.abs(actual.astype(int) - np.asarray(expected)).max() <= 1


def test_resize_small_keeps_the_aspect_ratio():
    assert apply("resize_small(15)").shape == (15, 22, 3)
    assert apply("resize_small(15)", PHOTO.swapaxes(0, 1)).shape == (22, 15, 3)


def test_central_crop():
    np.testing.assert_array_equal(apply("central_crop((10, 20))"), PHOTO[10:20, 12:32])
    with pytest.raises(ValueError, match="put resize_small or pad_to before it"):
        apply("central_crop(31)")
    op = preprocess.build("decode|central_crop(31)", train=False)
    files = tf.data.Dataset.from_tensors(jpeg()).map(lambda data: op({"image": data}, [0, 0]))
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        next(iter(files))
    assert pipeline.explain(error.value) == (
        "central_crop of 31 x 31 from a smaller image of 30 x 44; crop less, or (unless images "
        "are to be enlarged) put resize_small or pad_to before it"
    )


def test_random_crop_reaches_every_place():
    index = np.arange(5 * 4, dtype=np.uint8).reshape(5, 4, 1)
    corners = {int(apply("random_crop(3)", index, seed)[0, 0, 0]) for seed in seeds(60)}
    assert corners == {0, 1, 4, 5, 8, 9}
    for seed in seeds(5):
        crop = apply("random_crop(3)", index, seed)
        np.testing.assert_array_equal(np.diff(crop[..., 0], axis=1), 1)
        np.testing.assert_array_equal(np.diff(crop[..., 0], axis=0), 4)


def test_inception_crop_covers_the_areas_asked_for():
    y, x = np.mgrid[:200, :200]
    image = np.stack([y, x, 0 * x], axis=-1).astype(np.uint8)
    areas = []
    for seed in seeds(150):
        crop = apply("inception_crop(50, area=(0.2, 0.6))", image, seed).astype(float)
        assert crop.shape == (50, 50, 3)
        height = (crop[-1, 0, 0] - crop[0, 0, 0]) * 50 / 49
        width = (crop[0, -1, 1] - crop[0, 0, 1]) * 50 / 49
        areas.append(height * width / 200**2)
        assert 0.6 < height / width < 1.6
    assert 0.15 < min(areas) < 0.3
    assert 0.5 < max(areas) < 0.65


def test_fused_decode_gives_what_decode_then_crop_gives():
    data = np.array(jpeg(subsampling=0))
    decoded = apply("decode", data)
    whole = "inception_crop(12)|flip_lr"
    fused = preprocess.build("decode|" + whole, True)
    # The op's number in the string is part of its seed.
    apart = preprocess.build("grayscale_to_rgb|" + whole, True)
    for seed in seeds(8):
        expected = apart({"image": tf.constant(decoded)}, tf.constant(seed, tf.int32))
        actual = fused({"image": tf.constant(data)}, tf.constant(seed, tf.int32))
        np.testing.assert_array_equal(actual["image"], expected["image"])


def test_whose_large_crops_are_decoded_smaller():
    photo = Image.fromarray(PHOTO).resize((440, 300), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    photo.save(file, "JPEG", subsampling=0)
    data, decoded = np.array(file.getvalue()), apply("decode", np.array(file.getvalue()))
    for like, is_exact in (("", False), ("torchvision", True)):
        op = f"inception_crop(20, area=(0.9, 1.0), like='{like}')"
        fused = apply("decode|" + op, data)
        apart = apply("grayscale_to_rgb|" + op, decoded)
        difference = np.abs(fused.astype(int) - apart).mean()
        assert (difference == 0) == is_exact
        assert difference < 6  # as the window's corners differ, in a photo of noise


def test_pad_and_shift():
    padded = apply("pad(2)")
    np.testing.assert_array_equal(padded[2:-2, 2:-2], PHOTO)
    assert padded.sum() == PHOTO.sum()
    np.testing.assert_array_equal(apply("pad(1, 'reflect')")[0, 1:-1], PHOTO[1])

    point = np.zeros((7, 7, 1), np.uint8)
    point[3, 3] = 9
    places = {tuple(np.argwhere(apply("shift(1)", point, s))[0][:2] - 3) for s in seeds(80)}
    assert places == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}


def test_flip_lr_flips_half():
    flipped = [np.array_equal(apply("flip_lr", seed=s), PHOTO[:, ::-1]) for s in seeds(60)]
    kept = [np.array_equal(apply("flip_lr", seed=s), PHOTO) for s in seeds(60)]
    assert all(a != b for a, b in zip(flipped, kept))
    assert 15 < sum(flipped) < 45


def test_rot90_makes_every_turn():
    square = PHOTO[:9, :9]
    turns = [np.rot90(square, k) for k in range(4)]
    seen = {
        next(k for k in range(4) if np.array_equal(apply("rot90", square, s), turns[k]))
        for s in seeds(40)
    }
    assert seen == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="square images"):
        apply("rot90")


def test_random_erasing():
    grey = np.full((40, 60, 3), 128, np.uint8)
    shares = [(apply("random_erasing(1.0)", grey, s) != 128).any(-1).mean() for s in seeds(60)]
    assert 0.01 < min(shares) < 0.1
    assert 0.2 < max(shares) < 0.36
    untouched = [np.array_equal(apply("random_erasing(0.5)", grey, s), grey) for s in seeds(60)]
    assert 15 < sum(untouched) < 45
    np.testing.assert_array_equal(apply("random_erasing(0.0)"), PHOTO)


def test_values():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
    np.testing.assert_allclose(
        apply("value_range(-1, 1)", ramp), (ramp.astype(float) - 127.5) / 127.5, atol=1e-6
    )
    expected = (ramp / 255 - colour.IMAGENET_MEAN) / colour.IMAGENET_STD
    np.testing.assert_allclose(apply("normalize", ramp), expected, atol=1e-5)


def test_tint_is_the_same_of_a_pair():
    pair = {"image": tf.constant(PHOTO), "target": tf.constant(255 - PHOTO)}
    found = preprocess.build("tint(0.5)", train=True)(pair, tf.constant([1, 2], tf.int32))
    gains = apply("tint(0.5)", np.full((1, 1, 3), 255, np.uint8))[0, 0] / 255.0
    assert len(set(gains)) == 3
    assert gains.min() >= 0.5
    np.testing.assert_allclose(found["image"], PHOTO * gains, atol=1)
    np.testing.assert_allclose(found["target"], (255 - PHOTO) * gains, atol=1)
    np.testing.assert_array_equal(apply("tint(0)"), PHOTO)


def test_grayscale_to_rgb():
    grey = PHOTO[..., :1]
    np.testing.assert_array_equal(apply("grayscale_to_rgb", grey), grey.repeat(3, -1))
    np.testing.assert_array_equal(apply("grayscale_to_rgb"), PHOTO)


@pytest.mark.parametrize(
    "spec", ["inception_crop(9)", "randaug(2, 9)", "random_erasing(1.0)", "autoaugment()"]
)
def test_the_seed_decides(spec):
    np.testing.assert_array_equal(apply(spec, seed=(5, 6)), apply(spec, seed=(5, 6)))
    results = [apply(spec, seed=s).tobytes() for s in seeds(9)]
    assert len(set(results)) > 3


def test_two_ops_in_a_row_draw_apart():
    point = np.zeros((15, 15, 1), np.uint8)
    point[7, 7] = 1
    moves = {tuple(np.argwhere(apply("shift(2)|shift(2)", point, s))[0] - 7) for s in seeds(60)}
    assert any(abs(y) % 2 or abs(x) % 2 for y, x, _ in moves)  # equal draws give even moves


# RandAugment's operations, against Pillow's.


def test_autocontrast_and_equalize_are_pillows():
    dull = (PHOTO // 3 + 40).astype(np.uint8)
    for ours, pillows in (
        (distortions.autocontrast, ImageOps.autocontrast),
        (distortions.equalize, ImageOps.equalize),
    ):
        expected = np.asarray(pillows(Image.fromarray(dull))).astype(int)
        assert np.abs(ours(tf.constant(dull)).numpy() - expected).max() <= 1
        flat = np.full((5, 5, 3), 7, np.uint8)
        np.testing.assert_array_equal(ours(tf.constant(flat)), flat)


def test_rotate_turns_the_way_pillow_does():
    square = PHOTO[:21, :21]
    turned = distortions.rotate(tf.constant(square), tf.constant(90.0)).numpy()
    np.testing.assert_array_equal(turned, np.rot90(square))


def test_translate_moves_and_fills_with_grey():
    moved = randaugment.translate(tf.constant(PHOTO), 4.0, 0.0).numpy()
    np.testing.assert_array_equal(moved[:, :-4], PHOTO[:, 4:])
    assert (moved[:, -4:] == 128).all()


def test_sharpness_of_one_changes_nothing():
    np.testing.assert_array_equal(distortions.sharpness(tf.constant(PHOTO), 1.0), PHOTO)


def test_randaug_chooses_among_all_operations(monkeypatch):
    marks = {
        name: lambda x, s, sign, u, i=i: tf.fill(tf.shape(x), tf.cast(i, tf.uint8))
        for i, name in enumerate(randaugment.OPERATIONS)
    }
    monkeypatch.setattr(randaugment, "OPERATIONS", marks)
    chosen = np.bincount([apply("randaug(1, 8)", seed=s)[0, 0, 0] for s in seeds(160)])
    assert len(chosen) == 16
    assert chosen.min() >= 1


# AutoAugment.


@pytest.mark.parametrize(
    ("name", "magnitude", "expected"),
    [
        ("posterize", 5, lambda x: ImageOps.posterize(x, 6)),
        ("posterize", 10, lambda x: x),
        ("solarize", 5, lambda x: ImageOps.solarize(x, 128)),
        ("solarize", 10, lambda x: x),
        ("invert", 4, ImageOps.invert),
        ("autocontrast", 5, ImageOps.autocontrast),
        ("equalize", 8, ImageOps.equalize),
        ("color", 8, lambda x: ImageEnhance.Color(x).enhance(1.54)),
        ("contrast", 2, lambda x: ImageEnhance.Contrast(x).enhance(0.46)),
        ("sharpness", 7, lambda x: ImageEnhance.Sharpness(x).enhance(1.36)),
        ("rotate", 9, lambda x: x.rotate(27, fillcolor=(128,) * 3)),
        ("shear_x", 5, lambda x: x.transform(
            x.size, Image.Transform.AFFINE, (1, 0.15, 0, 0, 1, 0), fillcolor=(128,) * 3)),
    ],
)  # fmt: skip
def test_autoaugments_operations_are_pillows(name, magnitude, expected):
    image = Image.fromarray(PHOTO)
    found = autoaugment.OPERATIONS[name](tf.constant(PHOTO), magnitude / 10, 1.0).numpy()
    difference = np.abs(found.astype(int) - np.asarray(expected(image))).max(-1)
    if name in ("rotate", "shear_x"):  # of noise; where Pillow's nearest pixel is another
        assert (difference > 2).mean() < 0.1
    else:
        assert difference.max() <= 2


@pytest.mark.slow
def test_autoaugment_draws_pairs_with_their_probabilities(monkeypatch):
    """Each operation leaves a mark of its own; 0 and 1 are never and always."""
    marks = {
        name: lambda x, s, sign, i=i: tf.concat(
            [x[1:], tf.fill((1, 1, 3), tf.cast(i, tf.uint8))], 0
        )
        for i, name in enumerate(autoaugment.OPERATIONS, 1)
    }
    monkeypatch.setattr(autoaugment, "OPERATIONS", marks)
    numbers = {name: i for i, name in enumerate(marks, 1)}
    blank = np.zeros((2, 1, 3), np.uint8)
    draw = tf.function(lambda seed: autoaugment.autoaugment(tf.constant(blank), seed))
    drawn = [tuple(draw(tf.constant(s)).numpy()[:, 0, 0]) for s in seeds(600)]
    possible = set()
    for (a, p, _), (b, q, _) in autoaugment.POLICY:
        possible |= {(numbers[a], numbers[b])} if p > 0 and q > 0 else set()
        possible |= {(0, numbers[a])} if p > 0 and q < 1 else set()
        possible |= {(0, numbers[b])} if p < 1 and q > 0 else set()
        possible |= {(0, 0)} if p < 1 and q < 1 else set()
    assert set(drawn) <= possible
    assert len(set(drawn)) > 0.7 * len(possible)
    expected = np.mean([(1 - p) * (1 - q) for (_, p, _), (_, q, _) in autoaugment.POLICY])
    assert np.mean([pair == (0, 0) for pair in drawn]) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("spec", "size", "made"),
    [
        ("resize_small(256)", (1, 40_000), "256 x 10240000 pixels of 1 x 40000"),
        ("resize_small(256, 'nearest')", (40_000, 1), "10240000 x 256 pixels of 40000 x 1"),
        ("resize_small(13377)", (1, 2), "13377 x 26754 pixels of 1 x 2"),
        ("resize_small(2)|resize_small(9000)", (3, 9), "9000 x 27000 pixels of 2 x 6"),
        ("resize(256)", (1, 999_999), "256 x 999999 pixels of 1 x 999999"),
        ("inception_crop((2000, 1))", (1, 100_000), "2000 x 100000 pixels of 1 x 100000"),
        ("pad_to((9000, 1))", (1, 20_000), "9000 x 20000 pixels of 1 x 20000"),
        ("pad_to((1, 9000))", (20_000, 1), "20000 x 9000 pixels of 20000 x 1"),
        ("pad(7000)", (1, 1), "14001 x 14001 pixels of 1 x 1"),
        ("shift(7000)", (1, 1), "14001 x 14001 pixels of 1 x 1"),
    ],
)
def test_no_op_makes_more_pixels_than_an_image_may_have(spec, size, made):
    image = np.zeros((*size, 3), np.uint8)
    with pytest.raises(ValueError, match=f"would make {made}, and 178,956,970 are the most: crop"):
        apply(spec, image)  # the size is known at once
    op = preprocess.build(f"decode|{spec}", train=True)
    rows = tf.data.Dataset.from_tensors(tf.io.encode_png(image))
    rows = rows.map(lambda data: op({"image": data}, [0, 0], tf.constant("['ü'].png")))
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        next(iter(rows))
    message = pipeline.explain(error.value)
    assert message.startswith("cannot prepare ['ü'].png: ")
    assert f"would make {made}, and 178,956,970 are the most" in message
    assert "\n" not in message


@pytest.mark.parametrize("spec", ["resize(13378)", "pad_to((20000, 9000))", "central_crop(99999)",
                                  "inception_crop((2, 99999999))", "random_crop(13378)",
                                  "resize_small(13378)"])  # fmt: skip
def test_sizes_that_no_image_may_have(spec):
    with pytest.raises(ValueError, match="size must be of at most 178,956,970 pixels"):
        preprocess.build(spec, train=True)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 40_000), (40_000, 1), (3, 7)])
def test_thin_images(size):
    image = np.resize(np.arange(251, dtype=np.uint8), (*size, 3))
    for spec in ("resize_small(1)", "resize_small(2)"):
        side = int(spec[-2])
        shape = apply(spec, image).shape[:2]
        assert min(shape) == side
        assert shape == tuple(round(n * side / min(size)) for n in size)
    for spec in ("inception_crop(4)", "resize(4)", "pad_to(4)|random_crop(4)", "shift(9)|resize(4)",
                 "resize_small(4)|central_crop(4)", "random_erasing(1.0)|resize(4)"):  # fmt: skip
        for seed in seeds(5):
            assert apply(spec, image, seed).shape == (4, 4, 3)
    for seed in seeds(40):
        assert apply("randaug(2, 10)", image, seed).shape == image.shape


def test_reflecting_more_than_there_is():
    message = r"pad\(3, 'reflect'\) needs more pixels than it adds, and got 3 x 9"
    with pytest.raises(ValueError, match=message):
        apply("pad(3, 'reflect')", PHOTO[:3, :9])
    assert apply("pad(3, 'reflect')", PHOTO[:4, :9]).shape == (10, 15, 3)


@pytest.mark.parametrize(("size", "factor"), [((2, 2), 2), ((4, 8), 4), ((3, 3), 3), ((8, 16), 8)])
def test_small_images_become_smaller_by_mirroring_them_again_and_again(size, factor):
    image = PHOTO[: size[0], : size[1]]
    tiled = np.tile(np.pad(image, [(0, size[0]), (0, size[1]), (0, 0)], "symmetric"), (9, 9, 1))
    expected = resampling.shrink_bicubic(tf.constant(tiled), factor).numpy()
    begin = 8 * size[0] // factor, 8 * size[1] // factor
    expected = expected[begin[0] : begin[0] + size[0] // factor, begin[1] :]
    expected = expected[:, : size[1] // factor]
    actual = resampling.shrink_bicubic(tf.constant(image), factor).numpy()
    np.testing.assert_array_equal(actual, expected)


def test_pad_to_and_edge_decay():
    image = np.arange(12, dtype=np.uint16).reshape(3, 4, 1)
    pad_to = preprocess.build("pad_to((7, 4))", train=False)
    padded = pad_to({"image": tf.constant(image)}, tf.zeros(2, tf.int32))
    np.testing.assert_array_equal(
        padded["image"], np.pad(image, ((0, 4), (0, 0), (0, 0)), "reflect")
    )

    crop = preprocess.build("random_crop(8, edge_decay=1.0)", train=True)
    rows = tf.repeat(tf.range(16, dtype=tf.int32)[:, None, None], 16, axis=1)
    crops = (crop({"image": rows}, tf.constant([i, 0]))["image"] for i in range(300))
    tops = [int(cropped[0, 0, 0]) for cropped in crops]
    # Half of the windows are moved to an edge; of the rest, 2 of 9 are there anyway.
    assert 0.51 < np.mean([top in (0, 8) for top in tops]) < 0.71
    assert set(tops) == set(range(9))
