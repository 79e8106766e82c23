"""How images are prepared for weights as a person uses them, and what files say of it."""

import dataclasses

import pytest

from checkpoints import npz
from tests.helpers import TINY, random_params
from vit_jax import convert, preprocessing, pretrained


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
