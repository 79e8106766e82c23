"""What a model makes of an image before its head: numbers, colours, and what predict writes."""

import io
from pathlib import PurePath

import jax
import numpy as np
import pytest
from PIL import Image

from checkpoints import npz
from tests.helpers import (
    TINY,
    TINY_MIXER,
    TINY_SWIN,
    noise,
    random_params,
    random_variables,
    write_image,
)
from vit_jax import answering, embedder, features
from vit_jax.models import get_model
from vit_jax.options import ClassifyOptions
from vit_jax.pretrained import Pretrained
from vit_jax.tasks import classify

compute = jax.jit(features.compute, static_argnums=0)


def test_features_are_those_before_the_head():
    """The class token and the patches after the last norm; registers are in neither."""
    fields = dict(TINY, registers=3, num_classes=5)
    model = get_model("ViT-B_16", **fields)
    variables = random_variables(model, (8, 12))
    images = noise((2, 8, 12, 3))
    found = compute(model, variables, images)
    assert {name: each.shape for name, each in found.items()} == {
        "stride_4": (2, 2, 3, 16), "vector": (2, 16),
    }  # fmt: skip
    _, state = model.apply(variables, images, capture_intermediates=True)
    (tokens,) = state["intermediates"]["Transformer"]["__call__"]
    np.testing.assert_allclose(found["stride_4"].reshape(2, 6, 16), tokens[:, 4:], atol=1e-6)
    np.testing.assert_allclose(found["vector"], tokens[:, 0], atol=1e-6)


@pytest.mark.parametrize("classifier", ["token", "gap", "token_gap"])
def test_vectors_are_pooled_as_the_classifier_says(classifier):
    """After the last norm, and never of registers; what probes stand on."""
    fields = dict(TINY, registers=3, classifier=classifier, class_token=True, num_classes=0)
    pretrained = make_pretrained(**fields)
    images = noise((2, 8, 12, 3))
    _, state = pretrained.model.apply(pretrained.variables, images, capture_intermediates=True)
    (tokens,) = state["intermediates"]["Transformer"]["__call__"]
    of_class, of_patches = tokens[:, 0], tokens[:, 4:].mean(axis=1)
    expected = {"token": of_class, "gap": of_patches}.get(classifier)
    if expected is None:
        expected = np.concatenate([of_class, of_patches], axis=1)
    found = embedder.Embedder(pretrained, keeps_length=True).images(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_model_of_stages_has_a_map_of_each():
    model, params = random_params("Swin-T", (32, 64), num_classes=3, **TINY_SWIN)
    found = compute(model, {"params": params}, noise((1, 32, 64, 3)))
    assert {name: each.shape for name, each in found.items()} == {
        "stride_4": (1, 8, 16, 8), "stride_8": (1, 4, 8, 16), "vector": (1, 16),
    }  # fmt: skip


def test_what_the_head_sees_may_be_no_vector():
    model, params = random_params("ViT-B_16", (8, 8), classifier="unpooled", **TINY)
    assert [*compute(model, {"params": params}, noise((1, 8, 8, 3)))] == ["stride_4"]


def test_colours_are_the_main_axes():
    random = np.random.default_rng(0)
    scores = random.uniform(-1, 1, (2, 20, 30, 3)) * [9, 3, 1]
    scores[0, 0, 0, 0] = 200  # one odd place
    axes, _ = np.linalg.qr(random.normal(size=(8, 8)))
    maps = scores @ axes[:3] + random.normal(size=8)
    colours = features.choose_colours(list(maps))
    painted = colours.paint(maps)
    assert painted.min() == 0
    assert painted.max() == 1
    for i in range(3):
        inner = painted[1, ..., i].ravel()
        assert abs(np.corrcoef(inner, scores[1, ..., i].ravel())[0, 1]) > 0.95
        assert 0.4 < np.median(inner) < 0.6
    largest = colours.axes[np.abs(colours.axes).argmax(axis=0), range(3)]
    assert (largest > 0).all()
    mirrored = features.choose_colours(list(maps[:, :, ::-1]))
    np.testing.assert_allclose(mirrored.paint(maps), painted, atol=1e-3)


def test_a_photo_of_one_colour_is_painted():
    flat = np.ones((2, 3, 4), np.float32)
    np.testing.assert_array_equal(features.choose_colours([flat]).paint(flat), np.zeros((2, 3, 3)))


def make_pretrained(name="ViT-B_16", size=(8, 12), **fields):
    model = get_model(name, **fields)
    spec = f"decode|resize({size})|value_range(-1, 1)"
    return Pretrained(
        name, fields, model, random_variables(model, size), size, None, spec, "softmax_xent"
    )


@pytest.fixture
def photos(tmp_path):
    """A folder of photos, one of which cannot be read."""
    folder = tmp_path / "photos"
    for i, color in enumerate([(200, 30, 30), (30, 200, 30), (30, 30, 200)]):
        write_image(folder / f"{i}.png", color, seed=i)
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def test_weights_without_a_head_show_what_they_see(photos, tmp_path):
    pretrained = make_pretrained(num_classes=0, **TINY)
    options = ClassifyOptions(features=True)
    predictor = classify.Classifier(pretrained, options, tmp_path / "out")
    assert predictor.header == ()
    items = predictor.find([photos / "0.png", photos / "bad.png"])
    answers = list(predictor.answers(items))
    for item, answer in zip(items, answers, strict=True):
        if answer.path.name == "bad.png":
            assert answer.problems[0].startswith(f"cannot read {photos}/bad.png: ")
            continue
        assert not answer.problems
        assert answer.line == f"{answer.path}: 2 x 3 x 16 features"
        assert list(answer.files) == list(predictor.outputs(item))
        assert [*map(str, answer.files)] == ["features/0.png", "features/0.npz"]
        picture, arrays = answer.files.values()
        arrays = np.load(io.BytesIO(arrays))
        image = predictor.prepare(answer.path.read_bytes())
        expected = compute(pretrained.model, pretrained.variables, image[None])
        for key, each in expected.items():
            np.testing.assert_allclose(arrays[key], each[0], atol=1e-5)
        picture = np.asarray(Image.open(io.BytesIO(picture)))
        assert picture.shape[1] > picture.shape[0]
        assert picture.std() > 10


def test_photos_of_a_command_have_their_colours_in_common(photos, tmp_path):
    """Also where some were done before, or are another process's."""
    pretrained = make_pretrained(num_classes=3, **TINY)
    drawn = []
    for start in (0, 1):
        predictor = classify.Classifier(pretrained, ClassifyOptions(features=True), tmp_path)
        items = predictor.find([photos / "0.png", photos / "2.png"])
        *_, answer = predictor.answers(items[start:])
        assert answer.line.startswith(f"{photos}/2.png: class ")
        assert len(answer.row) == 6
        drawn.append(answer.files[PurePath("features/2.png")])
    assert drawn[0] == drawn[1]
    predictor.find([photos / "2.png"])
    (alone,) = predictor.answers(items[1:])
    assert alone.files[PurePath("features/2.png")] != drawn[0]


def test_maps_are_shown_from_the_finest_on(photos, tmp_path):
    fields = dict(embed_dim=8, depths=(1, 1, 1), num_heads=(1, 1, 1), window_size=2)
    pretrained = make_pretrained("Swin-T", (16, 32), num_classes=0, **fields)
    predictor = classify.Classifier(pretrained, ClassifyOptions(features=True), tmp_path)
    (answer,) = predictor.answers(predictor.find([photos / "0.png"]))
    shown = "4 x 8 x 8 features, 2 x 4 x 16 features, 1 x 2 x 32 features"
    assert answer.line == f"{photos}/0.png: {shown}"


def test_features_are_values_in_python(photos):
    pretrained = make_pretrained(num_classes=0, **TINY)
    loaded = answering.LoadedModel(pretrained, features=True)
    found = loaded(photos / "0.png")
    assert {name: each.shape for name, each in found.items()} == {
        "stride_4": (2, 3, 16), "vector": (16,),
    }  # fmt: skip


def test_features_that_are_no_numbers_are_told(photos, tmp_path):
    pretrained = make_pretrained(num_classes=0, **TINY)
    jax.tree.map(lambda leaf: leaf.fill(np.nan), pretrained.variables)
    predictor = classify.Classifier(pretrained, ClassifyOptions(features=True), tmp_path)
    (answer,) = predictor.answers(predictor.find([photos / "0.png"]))
    assert not answer.files
    assert not answer.line
    assert answer.problems == (
        f"cannot show the features of {photos}/0.png: they are no finite numbers",
    )


@pytest.mark.parametrize(
    ("pretrained", "options", "message"),
    [
        (dict(num_classes=0, **TINY), {}, "fine-tune them first, or have shown what they see by "),
        (dict(num_classes=0, **TINY), dict(features=True, flip="on"), "--flip averages probabil"),
        (
            dict(name="Mixer-B_16", size=(8, 8), **TINY_MIXER),
            dict(features=True),
            "MlpMixer gives no map of features to show: take a ViT, Swin,",
        ),
    ],
)
def test_what_cannot_be_shown(pretrained, options, message):
    with pytest.raises(ValueError, match=message):
        classify.Classifier(make_pretrained(**pretrained), ClassifyOptions(**options))


@pytest.mark.slow
def test_predict_writes_features(photos, tmp_path):
    from tests.commands import run

    (photos / "bad.png").unlink()
    pretrained = make_pretrained(size=(8, 8), num_classes=0, **TINY)
    npz.save(tmp_path / "a.npz", pretrained.variables["params"])
    fields = [f"--field={name}={value}" for name, value in TINY.items()]
    flags = [f"--weights={tmp_path}/a.npz", "--model=ViT-B_16", *fields, "--image_size=16x32"]
    result = run("predict", *flags, "--features", f"--output={tmp_path}/out", photos)
    assert result.returncode == 0, result.stderr
    written = sorted(path.name for path in (tmp_path / "out" / "features").iterdir())
    assert written == [f"{i}.{ending}" for i in range(3) for ending in ("npz", "png")]
    assert np.load(tmp_path / "out" / "features" / "0.npz")["stride_4"].shape == (4, 8, 16)
    assert not (tmp_path / "out" / "predictions.csv").exists()
