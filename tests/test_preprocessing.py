"""How images are prepared for weights as a person uses them, and what files say of it."""

import dataclasses
import json

import numpy as np
import pytest

from checkpoints import npz
from input_pipeline import preprocess
from tests.helpers import TINY, random_params
from vit_jax import convert, preprocessing, pretrained
from vit_jax.models import get_model
from vit_jax.models.vit import VisionTransformer


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("decode|resize(8)|value_range(-1, 1)", "decode|resize((4, 6))|value_range(-1, 1)"),
        (
            "decode|resize((8, 9), method='bicubic')|normalize((0.5,), (0.5,))",
            "decode|resize((4, 6), method='bicubic')|normalize((0.5,), (0.5,))",
        ),
        ("decode|resize(9)|central_crop(8)|value_range(-1, 1)", None),
        ("decode|resize_small(9)|central_crop(8)|value_range(-1, 1)", None),
    ],
)
def test_a_runs_preprocessing_to_another_size(spec, expected):
    if expected is None:
        with pytest.raises(
            ValueError, match=r"which --image_size cannot change(: leave it out| to)"
        ):
            preprocessing.resized(spec, (4, 6))
    else:
        assert preprocessing.resized(spec, (4, 6)) == expected


def test_a_model_without_images_has_none_prepared():
    for name, expected in (("BERT-base", ""), ("SwinIR-denoise-color", "value_range(-1, 1)")):
        model = get_model(name)
        assert preprocessing.choose(model, (64, 64), (64, 64), None).endswith(expected)
        assert bool(preprocessing.choose(model, (64, 64), (64, 64), None)) == bool(expected)


@pytest.mark.parametrize(("width", "heads"), [(512, 8), (1024, 16), (1280, None)])
def test_heads_of_clips_are_known_as_far_as_openais_are_wide(width, heads):
    block = "Transformer/encoderblock_0"
    shapes = {
        "embedding/kernel": (4, 4, 3, width),
        "Transformer/pre_norm/scale": (width,),
        f"{block}/MlpBlock_3/Dense_0/kernel": (width, 4 * width),
    }
    assert VisionTransformer.fields_in(shapes).get("num_heads") == heads


def test_a_cut_out_centre_to_another_size():
    spec = "decode|resize_small(256, method='bicubic')|central_crop(224)|value_range(-1, 1)"
    larger = "decode|resize_small(384, method='bicubic')|central_crop(336)|value_range(-1, 1)"
    assert preprocessing.resized(spec, (336, 336)) == larger


def test_a_file_says_what_the_model_does_not(tmp_path):
    _, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    npz.save(tmp_path / "a.npz", params, pretrained.say_made_for("ViT-B_16", TINY))
    plain = pretrained.load(tmp_path / "a.npz")
    assert pretrained.say_all(plain) == pretrained.say_made_for("ViT-B_16", TINY)
    own = "decode|resize(16, method='bicubic')|normalize((0.4,), (0.2,))"
    other = dataclasses.replace(plain, eval_pp=own, loss="sigmoid_xent")
    for name in ("b.npz", "b.safetensors"):
        convert.write(tmp_path / name, other)
        again = pretrained.load(tmp_path / name)
        assert (again.eval_pp, again.loss) == (own, "sigmoid_xent")
        larger = pretrained.load(tmp_path / name, image_size=(24, 24))
        assert larger.eval_pp == own.replace("16", "24")
        assert pretrained.load(tmp_path / name, name="ViT-B_16", fields=TINY).eval_pp == own


# In words for other programs.

HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3, "range": [-1.0, 1.0]}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "decode|resize((24, 32), method='bicubic')|value_range(-1, 1)",
            {
                "resize": {
                    "height": 24, "width": 32, "method": "bicubic", "antialias": True,
                    "rounding": "nearest",
                },
                **HALVES,
            },
        ),
        (
            "decode | resize_small(40, like='torchvision') | central_crop(32, like='torchvision')"
            " | normalize((0.5, 0.25, 0.75), (0.25, 0.25, 0.25))",
            {
                "resize": {
                    "shorter_side": 40, "longer_side": "down", "method": "bilinear",
                    "antialias": True, "rounding": "nearest, after columns and after rows",
                },
                "crop": {
                    "height": 32, "width": 32, "from": "centre",
                    "offset": "nearest, halves to even",
                },
                "mean": [0.5, 0.25, 0.75],
                "std": [0.25, 0.25, 0.25],
                "range": [-3.0, 3.0],
            },
        ),
        (
            "grayscale_to_rgb|resize(16, like='big_vision')|value_range(0, 2)",
            {
                "resize": {
                    "height": 16, "width": 16, "method": "bilinear", "antialias": False,
                    "rounding": "down",
                },
                "mean": [0.0] * 3, "std": [0.5] * 3, "range": [0.0, 2.0],
            },
        ),
        ("value_range(-1, 1)", HALVES),
        ("value_range(1, 1)", {"other": ["value_range(1, 1)"]}),
        (
            "decode|resize_within(32, 64)|pad_to((32, 64))|value_range(-1, 1)",
            {**HALVES, "other": ["resize_within(32, 64)", "pad_to((32, 64))"]},
        ),
        (  # in another order than that of the words
            "central_crop((9, 8))|resize(4, 'nearest')|resize_small(4)|value_range(-1, 1)",
            {
                "crop": {"height": 9, "width": 8, "from": "centre", "offset": "down"},
                **HALVES,
                "other": ["resize(4, 'nearest')", "resize_small(4)"],
            },
        ),
    ],
)  # fmt: skip
def test_in_words(spec, expected):
    said = preprocessing.describe(spec)
    assert said == {"spec": spec, "channels": "RGB", **expected}
    assert json.loads(json.dumps(said)) == said
    order = ("spec", "channels", "resize", "crop", "mean", "std", "range", "other")
    assert list(said) == [key for key in order if key in said]


def test_words_are_what_is_done():
    """An image prepared by the words alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    for spec in (
        "decode|central_crop((4, 5))|normalize()",
        "decode|central_crop(7)|value_range(0, 3)",
    ):
        said = preprocessing.describe(spec)
        top, left = ((side - said["crop"][k]) // 2 for k, side in (("height", 9), ("width", 12)))
        cut = pixels[top : top + said["crop"]["height"], left : left + said["crop"]["width"]]
        expected = (cut / 255 - said["mean"]) / said["std"]
        found = preprocess.build_for_decoded(spec)(pixels, np.zeros(2, np.int32)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert said["range"][0] <= found.min() < found.max() <= said["range"][1]
