"""How images are prepared for weights as a person uses them, and what files say of it."""

import dataclasses

import pytest

from checkpoints import npz
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
