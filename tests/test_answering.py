"""A trained model that answers in Python: for files and for what is in memory, one and many."""

import io
import logging
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import vit_jax
from tests import word_models
from tests.answerers import Moves, Shade, Thirds, filling_in, made, translating
from tests.commands import ROOT
from tests.helpers import (
    TINY,
    TINY_DEHAZEFORMER,
    TINY_SWINIR,
    noise,
    photo,
    random_params,
    smooth,
    write_image,
)
from vit_jax import convert, photos
from vit_jax.answering import LoadedModel
from vit_jax.models import get_model
from vit_jax.models.base import Model
from vit_jax.tasks import TASKS, base, classify, plain, restore


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """The file of a classifier of three flowers."""
    fields = dict(TINY, num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "flowers.npz"
    labels = ("daisy", "rose", "tulip")
    known = dict(name="ViT-Ti_16", fields=fields, labels=labels, loss="softmax_xent")
    convert.write(path, made(get_model("ViT-Ti_16", **fields), **known))
    return path


@pytest.fixture(scope="module")
def model(flowers):
    return vit_jax.load(flowers)


# Loading.


def test_importing_the_package_stays_light():
    code = """
import sys, vit_jax
heavy = {"jax", "flax", "numpy", "tensorflow", "PIL"}
print(sorted(heavy & set(sys.modules)), "load" in dir(vit_jax))
try:
    vit_jax.loda
except AttributeError as error:
    print(error)
vit_jax.load
print(sorted({"tensorflow"} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.splitlines() == [
        "[] True", "module 'vit_jax' has no attribute 'loda'", "[]"
    ], result.stderr  # fmt: skip


def test_what_is_loaded_says_what_it_is(model, flowers):
    assert repr(model) == (
        "<ViT-Ti_16, classify; 3 labels (daisy, rose, tulip); images of 16 x 16; "
        f"{sum(x.size for x in jax.tree.leaves(model.variables)):,} parameters>"
    )
    assert (model.name, model.task) == ("ViT-Ti_16", "classify")
    assert model.labels == ("daisy", "rose", "tulip")
    logits = model.model.apply(model.variables, noise((1, 16, 16, 3)))
    assert logits.shape == (1, 3)
    other = vit_jax.load(flowers, labels=["a", "b", "c"], image_size=24)
    assert other.labels == ("a", "b", "c")
    assert other.pretrained.image_size == (24, 24)
    assert vit_jax.load(flowers, labels="none").labels == ("class 0", "class 1", "class 2")


def test_what_cannot_be_loaded(flowers, tmp_path):
    for options, message in [
        ({"tile": 4}, "ViT-Ti_16 has no option 'tile' .it is one of flow and restore.; of the task "
                      "classify there are: attention"),
        ({"batch": 4}, "ViT-Ti_16 has no option 'batch'; of the task"),
        ({"attention": "yes"}, "attention must be of type bool, not 'yes'"),
        ({"attention": True}, "attention is about files that the command predict writes"),
        ({"labels": ["a", "b"]}, "has 2 names, but the head has 3 classes"),
        ({"plugins": ["no_such_module"]}, "plugins: there is no module 'no_such_module'"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            vit_jax.load(flowers, **options)
    with pytest.raises(ValueError, match="nothing"):
        vit_jax.load(tmp_path / "nothing.npz")
    restorer = made(Shade(), name="Shade")
    for options, message in [
        ({"method": "hole"}, "method must be one of auto, whole, bounded, tiles, not 'hole'"),
        ({"tile": "4"}, "tile must be of type int, not '4'"),
        ({"tile": True}, "tile must be of type int, not True"),
        ({"tile": 64, "method": "whole"}, "--tile is for --method=tiles"),
    ]:
        with pytest.raises(ValueError, match=message):
            LoadedModel(restorer, **options)
    LoadedModel(restorer, memory=1, method="auto")  # an int where a float is expected


# One thing, and many.


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_file_is_answered_as_by_the_command_and_as_from_memory(model, tmp_path, name):
    path = write_image(tmp_path / name, (200, 30, 30), size=(31, 22))
    value = model(path)
    predictor = classify.Classifier(model.pretrained)
    (answer,) = predictor.answers(predictor.find([path]))
    assert answer.row[::2] == tuple(value)
    assert answer.row[1::2] == tuple(f"{share:.6f}" for share in value.values())
    assert sorted(value, key=value.get, reverse=True) == list(value)
    assert set(value) == set(model.labels)
    assert sum(value.values()) == pytest.approx(1)
    assert {type(share) for share in value.values()} == {float}
    with Image.open(path) as image:
        pixels = np.asarray(image)
        arrays = (pixels, jax.numpy.asarray(pixels), np.uint16(257) * pixels, pixels / 255,
                  (pixels / 255).astype(np.float32))  # fmt: skip
        for same in (str(path), path.read_bytes(), image, *arrays):
            assert model(same) == value


def test_many_are_answered_in_their_order(model, tmp_path, caplog):
    logging.getLogger("vit_jax").propagate = True
    pixels = [np.full((20, 20, 3), 50 * i, np.uint8) for i in range(5)]
    alone = [model(image) for image in pixels]
    assert len({tuple(value.values()) for value in alone}) == 5
    (tmp_path / "b.png").write_text("no image")
    path = tmp_path / "a.png"
    Image.fromarray(pixels[2]).save(path)
    mixed = [pixels[1], path, tmp_path / "b.png", tmp_path / "gone.png", Image.fromarray(pixels[0])]
    first, second, third, fourth, fifth = model(mixed)
    for value, expected in zip((first, second, fifth), (alone[1], alone[2], alone[0])):
        np.testing.assert_allclose([value[k] for k in expected], list(expected.values()), rtol=1e-5)
    reasons = [
        f"cannot read {tmp_path}/b.png: not an image in a format that Pillow reads",
        f"cannot read {tmp_path}/gone.png: No such file or directory",
    ]
    assert isinstance(third, ValueError)
    assert [str(third), str(fourth)] == reasons
    assert [record.message for record in caplog.records if record.levelno >= 40] == reasons
    for thing, reason in zip(mixed[2:4], reasons):
        with pytest.raises(ValueError, match=f"^{reason}$"):
            model(thing)
    together = model(np.stack(pixels))
    assert together == model(iter(pixels)) == model(dict(enumerate(pixels)).values())
    assert [list(value) for value in together] == [list(value) for value in alone]
    assert model([]) == []
    assert model(np.array([str(path)])) == [model(tmp_path / "a.png")]


def test_many_calls_compile_once(model):
    image = np.zeros((20, 20, 3), np.uint8)
    first = model(image)
    size = model._predictor._apply._cache_size()
    for side in (20, 30, 9):
        assert model(np.zeros((side, side, 3), np.uint8)) == pytest.approx(first)
    assert model._predictor._apply._cache_size() == size


def test_what_is_no_image(model):
    image = np.zeros((8, 8, 3), np.uint8)
    for thing, message in [
        ((image, image), "an image is a path, a PIL image, .* and not a tuple of 2; give several"),
        (3, "and not a int"),
        ([image, None], "and not a NoneType"),
        (np.zeros((8, 8, 5), np.uint8), r"has the shape \(h, w\), .* and not \(8, 8, 5\)"),
        (np.zeros((0, 8), np.uint8), r"and not \(0, 8\)"),
        (image.astype(np.int64), "uint8, uint16 or floats in .0, 1., and not of int64"),
        (image - 0.5, "floats of an image lie in .0, 1., and these from -0.5 to -0.5"),
        (image + 255.0, "from 255 to 255"),
        (image + np.nan, "from nan to nan"),
        (Image.new("F", (8, 8)), "a floating-point image"),
        (Image.fromarray(np.full((8, 8), -1, np.int32)), "an integer image of more than 16 bits"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(thing)
    with pytest.raises(ValueError, match=r"^cannot read image 1: the file is empty$"):
        model(b"")


# Tasks.


def test_restored_images_are_what_the_command_writes(tmp_path):
    network, params = random_params("SwinIR-lightweight-x2", (16, 16), **TINY_SWINIR)
    known = dict(name="SwinIR-lightweight-x2", variables={"params": params})
    model = LoadedModel(made(network, **known), method="whole")
    assert repr(model).startswith("<SwinIR-lightweight-x2, restore; images of any size; ")
    path = tmp_path / "a.png"
    Image.fromarray(photo((20, 30))).save(path)
    value = model(path)
    assert (value.size, value.mode) == ((60, 40), "RGB")
    predictor = model._predictor
    command = restore.RestoringPredictor(predictor._restorer, output=tmp_path)
    (answer,) = command.answers(command.find([path]))
    with Image.open(io.BytesIO(answer.files[path.relative_to(tmp_path)])) as written:
        np.testing.assert_array_equal(value, written)
    assert not next(iter(predictor.answers(predictor.find([path])))).files
    np.testing.assert_array_equal(model(photo((20, 30))), value)


def test_restored_images_keep_what_is_transparent_upright_and_deep(tmp_path):
    model = LoadedModel(made(Shade(), variables={"params": {"shade": np.full(1, 0.5, "f4")}}))
    pixels = np.dstack([photo((20, 30)), photo((20, 30))[..., 0]])
    value = model(pixels)
    assert value.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(value)[..., 3], pixels[..., 3])
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = 6
    np.testing.assert_array_equal(model(image), np.rot90(np.asarray(value), -1))
    deep = pixels[..., :3].astype(np.uint16) * 201
    (item,) = model._predictor.take([deep])
    expected = deep / np.float32(32767.5) - 1
    np.testing.assert_allclose(photos.read(Path("a"), item.read()).pixels, expected, atol=1e-6)
    np.testing.assert_array_equal(model(deep), photos.show(expected - 0.25))


def test_what_cannot_be_restored_is_said_as_by_the_command():
    network, params = random_params("DehazeFormer-T", (32, 32), **TINY_DEHAZEFORMER)
    model = LoadedModel(made(network, variables={"params": params}))
    with pytest.raises(ValueError, match=r"^cannot restore image 1: images of 20 x 20 pixels "):
        model(np.zeros((20, 20, 3), np.uint8))


def test_segmentation_says_the_class_of_each_pixel():
    model = LoadedModel(made(Thirds(), labels=("red", "green", "blue")))
    classes = np.random.default_rng(0).integers(0, 3, (9, 14))
    mask = model(np.eye(3, dtype=np.uint8)[classes] * 200)
    assert mask.dtype == np.int32
    np.testing.assert_array_equal(mask, classes)
    assert model.labels[mask[0, 0]] == ("red", "green", "blue")[classes[0, 0]]


def test_flow_is_from_one_frame_to_another(tmp_path):
    variables = {"params": {"scale": np.full(1, 127.5, np.float32)}}
    model = LoadedModel(made(Moves(), variables=variables), tile=0)
    first, second = (smooth((16, 20), i) for i in range(2))
    expected = (second.astype(np.float32) - first)[..., :2]
    Image.fromarray(first).save(tmp_path / "a.png")
    flow = model(tmp_path / "a.png", second)
    assert (flow.shape, flow.dtype) == ((16, 20, 2), np.float32)
    np.testing.assert_allclose(flow, expected, atol=1e-3)
    np.testing.assert_array_equal(model((first, second)), flow)
    there, back, none, lost = model(
        [(first, second), (second, first), (first, second[:9]), ("gone.png", first)]
    )
    np.testing.assert_array_equal(there, flow)
    np.testing.assert_allclose(back, -expected, atol=1e-3)
    why = "their sizes differ, 20 x 16 and 20 x 9 pixels"
    assert str(none) == f"cannot tell the flow from image 5 to image 6: {why}"
    assert str(lost).endswith("cannot read gone.png: No such file or directory")
    for things in ([first], ([first, second, first],), [(first,)], ("ab",), (first, first, first)):
        with pytest.raises(ValueError, match="flow is from one frame to another"):
            model(*things)
    with pytest.raises(ValueError, match=r"a.mp4 is a video, for which the command predict is"):
        model("a.mp4", "b.mp4")


def test_texts_are_translated():
    model = LoadedModel(translating(), beams=2)
    assert repr(model).startswith("<Transformer, translate; ")
    texts = ["seven hundred", "two", "1 2 3"]
    predictor = model._predictor
    expected = [answer.row[2] for answer in predictor.answers(predictor.find(texts))]
    assert model(texts) == model(tuple(texts).__iter__()) == expected
    assert model("two") == expected[1]
    assert all(isinstance(text, str) for text in expected)
    with pytest.raises(ValueError, match="a text is a str, and not a PosixPath"):
        model(Path("texts.txt"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return filling_in(tmp_path_factory.mktemp("vocabulary"))


def test_words_are_filled_in(bert):
    model = LoadedModel(bert, words=4)
    value, problem = model(["a [MASK] c [MASK]", "a"])
    assert str(problem) == "text 2 has no [MASK] to fill in: 'a'"
    (answer, _) = model._predictor.answers(model._predictor.take(["a [MASK] c [MASK]", "a"]))
    assert len(value) == 2
    said = [", ".join(f"{word} {share:.1%}" for word, share in words.items()) for words in value]
    assert answer.row[3] == " | ".join(said)


def test_texts_become_vectors(bert):
    model = LoadedModel(bert, embed=True)
    first, second = model(["a b", "c"])
    assert first.shape == (16,)
    assert np.linalg.norm(first) == pytest.approx(1)
    np.testing.assert_allclose(model("c"), second, atol=1e-6)
    assert abs(first - second).max() > 0.01


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_words_are_compared_with_a_photo(tmp_path, kind):
    name, fields = {
        "clip": ("CLIP-B_32", word_models.CLIP), "siglip": ("SigLIP-B_16", word_models.SIGLIP)
    }[kind]  # fmt: skip
    pretrained = word_models.make(tmp_path, name, fields)
    with pytest.raises(ValueError, match=r"say what .* is to look for"):
        LoadedModel(pretrained)
    image = photo((16, 16))
    vector = LoadedModel(pretrained, embed=True)(image)
    assert vector.shape == (pretrained.model.embedding_size or pretrained.model.hidden_size,)
    convert.write(tmp_path / "a.npz", pretrained)
    model = vit_jax.load(tmp_path / "a.npz", labels=["cat", "dog", "red car"])
    assert model.labels == ("cat", "dog", "red car")
    value = model(image)
    assert sorted(value, key=value.get, reverse=True) == list(value)
    (answer,) = model._predictor.answers(model._predictor.take([image]))
    last = dict(zip(model.labels, answer.row[-3:]))  # softmax, or the probability of the pair
    assert {label: f"{share:.6f}" for label, share in value.items()} == last
    assert (sum(value.values()) == pytest.approx(1)) == (kind == "clip")
    with pytest.raises(ValueError, match="has 'cat' twice"):
        vit_jax.load(tmp_path / "a.npz", labels=["cat", "cat"])


def test_a_task_from_outside_gives_what_its_model_says(monkeypatch):
    class Counter(Model):
        task = "count"
        any_size = True

        def __call__(self, images, train=False):
            return {"mean": images.mean(axis=(1, 2, 3))}

    task = base.Task(
        name="count", truths=(), losses={"none": lambda out, batch: 0}, metric=None, report=None,
        predictor=plain.predictor(lambda out: f"{out['mean']:.1f}"),
    )  # fmt: skip
    monkeypatch.setitem(TASKS, "count", task)
    model = LoadedModel(made(Counter(), variables={"params": {}}))
    assert model(np.full((4, 6, 3), 255, np.uint8)) == {"mean": pytest.approx(1)}
    with pytest.raises(ValueError, match="of the task count there are: none"):
        LoadedModel(model.pretrained, tile=3)


def test_names_that_are_there_twice_keep_their_probabilities():
    shares = np.array([0.1, 0.2, 0.4, 0.3], np.float32)
    found = plain.ranked(plain.told_apart(("crane", "cock", "crane", "hen")), shares)
    assert list(found) == ["crane (2)", "hen", "cock", "crane (0)"]
    assert list(found.values()) == pytest.approx([0.4, 0.3, 0.2, 0.1])
