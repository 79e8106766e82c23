"""Images as published models see them, to the pixel; see tests/golden/published_images.npz."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from checkpoints import hub_images, torch
from input_pipeline import preprocess
from tests.helpers import TINY, random_variables
from vit_jax import preprocessing, pretrained
from vit_jax.models import get_model, published_images

GOLDEN = np.load(Path(__file__).parent / "golden" / "published_images.npz")
SIZE = 24
CLIP, LIT = published_images.clip((SIZE, SIZE)), published_images.big_vision((SIZE, SIZE))
FULL = "value_range(-1, 1)"


def prepared(spec, image=None):
    """What a string makes of an image, the golden one by default."""
    apply = preprocess.build(spec, train=False, decoded=True)
    image = GOLDEN["image"] if image is None else image
    seed = tf.zeros(2, tf.int32)
    return apply({"image": tf.constant(image)}, seed)["image"].numpy()


def test_imagenet():
    """224 of 256 pixels, as torchvision's Resize and CenterCrop make them."""
    found = prepared(published_images.imagenet((SIZE, SIZE)))
    image = Image.fromarray(GOLDEN["image"])
    short = SIZE * 256 // 224
    width, height = (side * short // min(image.size) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.BICUBIC)) / np.float32(255)
    top, left = (round((side - SIZE) / 2) for side in (height, width))
    pixels = pixels[top : top + SIZE, left : left + SIZE]
    expected = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        (CLIP, ["clip_openai", "clip_open_clip"]),
        (CLIP.replace("central_crop(24, like='torchvision')", "central_crop(24)"), ["clip_hf"]),
        (LIT, ["lit", "big_vision_resize"]),
        (f"decode|resize_small(24, like='big_vision')|central_crop(24)|{FULL}", ["lit_crop"]),
        (
            f"decode|resize(27, like='big_vision')|central_crop(24)|{FULL}",  # 24 / 0.875
            ["big_vision_square875"],
        ),
        (f"decode|resize(24, 'bicubic', like='torchvision')|{FULL}",
         ["siglip_hf", "siglip_open_clip"]),
    ],
)  # fmt: skip
def test_golden_images(spec, keys):
    found = prepared(spec)
    for key in keys:
        # A grey level is 0.008 of [-1, 1], and more of CLIP's values.
        np.testing.assert_allclose(found, GOLDEN[key], atol=1e-6, err_msg=key)
    # And neither of the others, which most of whoever ports them does.
    for other in ({CLIP, LIT} - {spec}) | {f"decode|resize(24)|{FULL}"}:
        assert np.abs(prepared(other) - GOLDEN[keys[0]]).max() > 0.02


def test_transformers_cuts_clips_images_a_column_off():
    ours, theirs = GOLDEN["clip_openai"], GOLDEN["clip_hf"]
    assert np.abs(ours - theirs).max() > 0.5
    np.testing.assert_allclose(ours[:, :-1], theirs[:, 1:], atol=1e-6)


@pytest.mark.parametrize(
    ("rest", "begin"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4)]
)
def test_where_torchvision_begins_to_cut(rest, begin):
    image = np.tile(np.arange(4 + rest, dtype=np.uint8)[None, :, None], (4, 1, 3))
    assert begin == round(rest / 2)
    assert prepared("central_crop(4, like='torchvision')", image)[0, 0, 0] == begin
    turned = image.swapaxes(0, 1)
    assert prepared("central_crop(4, like='torchvision')", turned)[0, 0, 0] == begin
    assert prepared("central_crop(4)", image)[0, 0, 0] == rest // 2


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "nearest", "area", "lanczos3"])
@pytest.mark.parametrize("size", [(9, 50), (60, 90)])
def test_pillows_pixels(method, size):
    name = {"area": "BOX", "lanczos3": "LANCZOS"}.get(method, method.upper())
    image = Image.fromarray(GOLDEN["image"])
    expected = np.asarray(image.resize(size[::-1], Image.Resampling[name]))
    found = prepared(f"resize({size}, {method!r}, like='torchvision')")
    np.testing.assert_array_equal(found, expected)


def test_the_longer_side_is_cut_off_or_rounded():
    image = np.zeros((30, 44, 3), np.uint8)  # 7 / 30 * 44 is 10.27, and 12 / 30 * 44 17.6
    assert prepared("resize_small(12, like='torchvision')", image).shape == (12, 17, 3)
    assert prepared("resize_small(12, like='big_vision')", image).shape == (12, 18, 3)
    assert prepared("resize_small(12)", image.swapaxes(0, 1)).shape == (18, 12, 3)
    assert prepared("resize_small(12, like='torchvision')", image.swapaxes(0, 1)).shape == (
        17,
        12,
        3,
    )


def test_in_a_graph_of_files_of_any_size(tmp_path):
    paths = []
    for i, size in enumerate([(45, 67), (80, 31)]):
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    apply = preprocess.build(CLIP, train=False)
    files = tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: apply({"image": tf.io.read_file(path)}, tf.zeros(2, tf.int32))["image"],
        num_parallel_calls=2,
    )
    assert files.element_spec.shape == (SIZE, SIZE, 3)
    for path, found in zip(paths, files.batch(2).as_numpy_iterator().next(), strict=True):
        np.testing.assert_array_equal(found, prepared(CLIP, np.asarray(Image.open(path))))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resize(8, like='pillow')", r"like must be one of \('', 'torchvision', 'big_vision'\)"),
        ("resize_small(8, like='x')", "like must be one of"),
        ("central_crop(8, like='x')", "like must be one of"),
        ("resize(8, 'cubist', like='torchvision')", "method must be one of"),
        (f"{FULL}|resize(8, like='torchvision')", "works on 8-bit images, and got float32"),
        (f"{FULL}|resize(8, like='big_vision')", "works on 8-bit or 16-bit images, and got float"),
    ],
)
def test_what_cannot_be(spec, message):
    with pytest.raises(ValueError, match=message):
        prepared(spec)


# By model.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CLIP-B_32", published_images.clip((224, 224))),
        ("ViT-B_32-CLIP", published_images.clip((224, 224))),
        ("SigLIP-B_16", published_images.big_vision((224, 224))),
        ("ViT-B_16-SigLIP", published_images.big_vision((224, 224))),
        ("LiT-B16B", published_images.big_vision((224, 224))),
        ("ViT-B_16", "decode|resize(224)|value_range(-1, 1)"),
    ],
)
def test_what_published_weights_expect(name, expected):
    model, size = get_model(name), (224, 224)
    assert preprocessing.choose(model, size, size, None) == expected
    assert preprocess.output_shape(expected) == (224, 224, 3)
    assert expected.endswith(model.input_values or FULL)
    # Another size of what a run had, and of what published weights have.
    for larger in [(448, 448), (224, 448)]:
        found = preprocessing.choose(model, larger, size, None)
        if name in ("CLIP-B_32", "LiT-B16B"):
            assert preprocess.output_shape(found) == (*larger, 3)
        assert preprocessing.choose(model, larger, size, expected) == found
    own = "decode|resize_small(9)|central_crop(8)|value_range(-1, 1)"
    assert preprocessing.choose(model, size, size, own) == own
    if hasattr(model, "image_tower"):
        assert model.image_tower().preprocessing(size) == expected


def test_an_unknown_preparation():
    with pytest.raises(ValueError, match=r"preparation='x' is not one of \('', 'clip', 'big_vis"):
        get_model("ViT-B_32-CLIP", preparation="x").preprocessing((224, 224))
    with pytest.raises(ValueError, match="preparation='x' is not one of"):
        print(get_model("CLIP-B_32", preparation="x").input_values)


# What files on the hub say.

HALVES = [0.5, 0.5, 0.5]
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
OF_CLIP = dict(
    do_center_crop=True, crop_size=24, do_resize=True, size=24, resample=3, image_mean=MEAN,
    image_std=STD,
)  # fmt: skip
OF_SIGLIP = dict(
    do_resize=True, size=dict(height=24, width=24), resample=3, image_mean=HALVES, image_std=HALVES
)
SQUASHED = "decode|resize(24, 'bicubic', like='torchvision')|value_range(-1, 1)"


OF_TIMM = dict(
    input_size=[3, 24, 24], interpolation="bicubic", crop_pct=0.9, crop_mode="center", mean=HALVES,
    std=HALVES, tag="fb_in1k",
)  # fmt: skip
CUT = (
    "decode|resize_small(26, 'bicubic', like='torchvision')|central_crop(24, like='torchvision')|"
    "value_range(-1, 1)"
)


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("preprocessor", OF_CLIP, CLIP),
        ("preprocessor", dict(OF_CLIP, size=dict(shortest_edge=24)), CLIP),
        ("preprocessor", dict(OF_CLIP, crop_size=dict(height=24, width=24)), CLIP),
        (
            "preprocessor",
            dict(OF_CLIP, crop_size=32, size=36),
            CLIP.replace("small(24", "small(27"),
        ),
        ("preprocessor", OF_SIGLIP, SQUASHED),
        ("preprocessor", dict(OF_SIGLIP, resample=2), SQUASHED.replace("bicubic", "bilinear")),
        ("preprocessor", dict(OF_SIGLIP, size=99), SQUASHED),
        ("processor", dict(image_processor=OF_SIGLIP), SQUASHED),
        ("open_clip", dict(preprocess_cfg=dict(mean=MEAN, std=STD)), CLIP),
        (
            "open_clip",
            dict(preprocess_cfg=dict(mean=HALVES, std=HALVES, resize_mode="squash")),
            SQUASHED,
        ),
        ("open_clip", dict(preprocess_cfg=dict(mean=MEAN, std=STD, resize_mode="longest")), ""),
        ("preprocessor", dict(OF_CLIP, do_resize=False), ""),
        ("preprocessor", dict(OF_CLIP, resample=5), ""),
        ("preprocessor", dict(OF_CLIP, size=dict(longest_edge=24)), ""),
        ("preprocessor", dict(OF_SIGLIP, size=dict(shortest_edge=24)), ""),
        ("timm", dict(pretrained_cfg=OF_TIMM), CUT),
        ("timm", dict(pretrained_cfg=dict(OF_TIMM, crop_pct=1.0, crop_mode="squash")), SQUASHED),
        ("timm", dict(pretrained_cfg=dict(OF_TIMM, crop_mode="border")), ""),
        ("timm", dict(model_type="vit"), ""),
        ("preprocessor", dict(size=24), ""),
        ("preprocessor", [1], ""),
    ],
)
def test_files_beside_weights(tmp_path, name, config, expected):
    file = "config.json" if name == "timm" else f"{name}_config.json"
    (tmp_path / file).write_text(json.dumps(config))
    weights = tmp_path / ("open_clip_model.bin" if name == "open_clip" else "model.safetensors")
    assert hub_images.read_preprocessing(weights, (SIZE, SIZE)) == expected
    if expected:
        assert preprocess.output_shape(expected) == (24, 24, 3)
        wide = hub_images.read_preprocessing(weights, (24, 48))
        assert preprocess.output_shape(wide) == (24, 48, 3)
    (tmp_path / file).write_text("{")
    assert hub_images.read_preprocessing(weights, (SIZE, SIZE)) == ""
    (tmp_path / file).unlink()
    assert hub_images.read_preprocessing(weights, (SIZE, SIZE)) == ""


def test_a_file_that_says_what_is_known(tmp_path, caplog):
    name, fields = "ViT-B_16-CLIP", dict(TINY, num_classes=3)
    model = get_model(name, **fields)
    path = tmp_path / "model.safetensors"
    torch.write(path, torch.to_state_dict(random_variables(model, (SIZE, SIZE)), model))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(OF_CLIP))
    caplog.set_level(logging.INFO)
    assert pretrained.load(path, name, fields).eval_pp == CLIP
    larger = pretrained.load(path, name, fields, image_size=(48, 48))
    assert larger.eval_pp == CLIP.replace("24", "48")
    assert "images are prepared" not in caplog.text


def test_a_file_that_says_what_is_known_in_other_words(tmp_path, caplog):
    model = get_model("DINO-S_16", **TINY)
    path = tmp_path / "model.safetensors"
    torch.write(path, torch.to_state_dict(random_variables(model, (SIZE, SIZE)), model))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    told = dict(pretrained_cfg=dict(OF_TIMM, crop_pct=0.875, mean=mean, std=std))
    (tmp_path / "config.json").write_text(json.dumps(told))
    caplog.set_level(logging.INFO)
    assert str(mean) in hub_images.read_preprocessing(path, (SIZE, SIZE))
    loaded = pretrained.load(path, "DINO-S_16", TINY)
    assert loaded.eval_pp == model.preprocessing((SIZE, SIZE))
    assert "images are prepared" not in caplog.text


@pytest.mark.parametrize(
    ("tag", "activation"), [("fb_in1k", "gelu"), ("augreg_in21k_ft_in1k", "gelu_tanh")]
)
def test_what_timm_says_of_a_vit(tmp_path, caplog, tag, activation):
    model = get_model("ViT-S_16", **TINY, num_classes=3)
    path = tmp_path / "model.safetensors"
    torch.write(path, torch.to_state_dict(random_variables(model, (SIZE, SIZE)), model))
    fields = dict(TINY, num_classes=3)
    assert pretrained.load(path, "ViT-S_16", fields).eval_pp == "decode|resize(24)|" + FULL
    told = dict(architecture="vit_small_patch16_224", pretrained_cfg=dict(OF_TIMM, tag=tag))
    (tmp_path / "config.json").write_text(json.dumps(told))
    caplog.set_level(logging.INFO)
    loaded = pretrained.load(path, "ViT-S_16", fields)
    assert loaded.eval_pp == CUT
    assert loaded.model.activation == activation
    assert "resize_small(26, 'bicubic', like='torchvision')|" in caplog.text
    assert "such models were trained" not in caplog.text


def test_another_filter_is_taken_and_said(tmp_path, caplog):
    name, fields = "ViT-B_16-SigLIP", dict(TINY, num_classes=3)
    model = get_model(name, **fields)
    variables = random_variables(model, (SIZE, SIZE))
    path = tmp_path / "model.safetensors"
    torch.write(path, torch.to_state_dict(variables, model))
    caplog.set_level(logging.INFO)
    assert pretrained.load(path, name, fields).eval_pp == LIT
    assert "images are prepared" not in caplog.text
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(OF_SIGLIP))
    loaded = pretrained.load(path, name, fields)
    assert loaded.eval_pp == SQUASHED
    assert f"prepared by {SQUASHED}, as a file beside {path} says; such" in caplog.text
    caplog.clear()
    larger = pretrained.load(path, name, fields, image_size=(48, 48))
    assert larger.eval_pp == SQUASHED.replace("24", "48")
    assert f"prepared by {larger.eval_pp}, as a file" in caplog.text
    assert pretrained.say_all(loaded).eval_pp == SQUASHED  # so that what is converted keeps it
