"""Classifiers of words, and what predict says of photos by a model of images and texts."""

import csv
import dataclasses
import logging
import re

import jax
import numpy as np
import pytest

from tests import word_models
from tests.commands import run
from tests.helpers import COLORS, noise, write_classes, write_image
from vit_jax import class_names, convert, pretrained, prompts, zero_shot
from vit_jax.embedder import Embedder
from vit_jax.options import ImageTextOptions
from vit_jax.zero_shot_predictor import ZeroShotPredictor

NAMES = ("cat", "dog", "red_car")
PROMPTS = ("a photo of a {}.", "the bad {}", "{}")
MODELS = {"clip": ("CLIP-B_32", word_models.CLIP), "siglip": ("SigLIP-B_16", word_models.SIGLIP)}


def logits_of_two_towers(model, images, names, templates):
    """By the rule itself: each prompt's embedding of length 1, their mean, again of length 1."""
    texts = [[t.replace("{}", name.replace("_", " ")) for t in templates] for name in names]
    tokenizer = Embedder(model).tokenizer
    classes = []
    for of_class in texts:
        tokens = tokenizer.of_prompts(of_class)
        mean = np.asarray(model.model.apply(model.variables, None, tokens)["text"]).mean(axis=0)
        classes.append(mean / np.linalg.norm(mean))
    params = model.variables["params"]
    embeddings = model.model.apply(model.variables, images, None)["image"]
    return np.asarray(np.exp(params["t"]) * embeddings @ np.array(classes).T + params.get("b", 0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_the_two_towers(kind, tmp_path):
    model = word_models.make(tmp_path, *MODELS[kind])
    images = noise((3, 16, 16, 3))
    classifier = zero_shot.make_classifier(model, NAMES, PROMPTS)
    expected = logits_of_two_towers(model, images, NAMES, PROMPTS)
    assert np.ptp(expected) > 1
    found = jax.jit(classifier.model.apply)(classifier.variables, images)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert classifier.loss == ("sigmoid_xent" if kind == "siglip" else "softmax_xent")
    assert classifier.labels == NAMES

    path = tmp_path / "out" / ("a.safetensors" if kind == "clip" else "a.npz")
    convert.write(path, classifier)
    again = pretrained.load(path)
    np.testing.assert_allclose(again.model.apply(again.variables, images), expected, atol=1e-4)
    kept = ("name", "labels", "loss", "eval_pp", "image_size")
    assert [getattr(again, k) for k in kept] == [getattr(classifier, k) for k in kept]
    assert ("normalize((0.48" in again.eval_pp) == (kind == "clip")
    assert "like=" in again.eval_pp
    assert again.name == {"clip": "ViT-B_32-CLIP", "siglip": "ViT-B_16-SigLIP"}[kind]


def test_the_model_of_a_classifier_is_refused(tmp_path):
    model = word_models.make(tmp_path)
    classifier = zero_shot.make_classifier(model, NAMES, PROMPTS)
    with pytest.raises(ValueError, match="ViT-B_32-CLIP knows no words, which classes are made of"):
        zero_shot.make_classifier(classifier, NAMES, PROMPTS)


@pytest.mark.slow
def test_the_commands(tmp_path):
    """From a file to a run, which is evaluated on a folder whose classes come in another order."""
    convert.write(tmp_path / "a.npz", word_models.make(tmp_path))
    classes = [f"--classes={','.join(reversed(COLORS))}", "--prompts=a photo of a {}|the {}"]
    result = run("convert", tmp_path / "a.npz", tmp_path / "run", *classes)
    assert result.returncode == 0, result.stderr
    assert "2 classes, each by 2 prompt(s) such as 'a photo of a red'" in result.stderr
    assert "largest difference of the logits: 0, " in result.stdout
    assert (tmp_path / "run" / "labels.txt").read_text() == "red\nblue\n"

    write_classes(tmp_path / "photos", 3)
    config = f"--config=configs/evaluate.py:{tmp_path / 'run'}"
    data = f"--config.data.source={tmp_path / 'photos'}"
    result = run("main", config, f"--workdir={tmp_path / 'seen'}", data)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "seen" / "report" / "confusion.png").exists()
    paths = [tmp_path / "photos" / name / f"{i}.png" for name in COLORS for i in range(3)]
    result = run("predict", f"--workdir={tmp_path / 'run'}", *paths, f"--output={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "out" / "predictions.csv").open() as file:
        guesses = [row["class_1"] for row in csv.DictReader(file)]
    right = sum(path.parent.name == guess for path, guess in zip(paths, guesses))
    seen = (tmp_path / "seen" / "report").parent
    assert f"{right / 6:.4f}" in run("main", "--mode=evaluate", f"--workdir={seen}").stdout

    result = run("convert", tmp_path / "a.npz", tmp_path / "b.npz", "--prompts=imagenet7")
    assert result.stderr == "error: --prompts=imagenet7 is for --classes, which says which\n"
    result = run("convert", tmp_path / "a.npz", tmp_path / "b.npz", "--labels=cat")
    assert "error: --labels names no classes of two towers" in result.stderr


@pytest.mark.parametrize("kind", [pytest.param("clip", marks=pytest.mark.slow), "siglip"])
def test_predict(kind, tmp_path):
    model = word_models.make(tmp_path, *MODELS[kind])
    convert.write(tmp_path / "a.npz", model)
    photo = write_image(tmp_path / "b.png", (200, 30, 30), (16, 16))
    (tmp_path / "c.png").write_text("no image")
    (tmp_path / "texts.txt").write_text("a cat\n\nthe dog\n")
    embed = ["--embed", f"--texts={tmp_path / 'texts.txt'}"]
    labels = ["--labels=cat,dog, a red car", "--prompts=a photo of a {}"]
    args = [f"--weights={tmp_path / 'a.npz'}", *labels, *embed, f"--output={tmp_path / 'out'}"]
    result = run("predict", *args, photo, tmp_path / "c.png")
    assert result.returncode == 1
    assert f"cannot read {tmp_path / 'c.png'}: not an image" in result.stderr
    header, *lines = result.stdout.splitlines()
    columns = "cosine, softmax over the 3 labels"
    columns += ", probability of the pair alone" if kind == "siglip" else ""
    assert header == f"{photo}: {columns}"

    image = Embedder(model).prepare(photo.read_bytes())[None]
    names = ("cat", "dog", "a red car")
    logits = logits_of_two_towers(model, image, names, ("a photo of a {}",))[0]
    params = model.variables["params"]
    cosines = (logits - params.get("b", 0)) / np.exp(params["t"])
    softmax = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-logits)
    assert [line[2:11].strip() for line in lines[:3]] == [names[i] for i in order]
    for line, i in zip(lines, order):
        numbers = [float(cell.rstrip("%")) for cell in line[11:].split()]
        expected = [cosines[i], 100 * softmax[i]]
        expected += [100 / (1 + np.exp(-logits[i]))] if kind == "siglip" else []
        np.testing.assert_allclose(numbers, expected, atol=0.011)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["label"] == names[order[0]]
    assert float(row["cosine a red car"]) == pytest.approx(cosines[2], abs=1e-5)
    assert float(row["softmax dog"]) == pytest.approx(softmax[1], abs=1e-5)

    found = np.load(tmp_path / "out" / "embeddings.npz")
    embedding = model.model.apply(model.variables, image, None)["image"]
    np.testing.assert_allclose(found["image"], embedding, atol=1e-5)
    assert found["image_files"].tolist() == [str(photo)]
    assert found["texts"].tolist() == ["a cat", "the dog"]
    tokens = Embedder(model).tokenizer(["a cat", "the dog"])
    expected = model.model.apply(model.variables, None, tokens)["text"]
    np.testing.assert_allclose(found["text"], expected, atol=1e-5)
    again = run("predict", *args, photo)
    assert "1 of the results are there already" in again.stderr


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ((), {}, "say what CLIP-B_32 is to look for, --labels='cat,dog,a red car', or --embed"),
        ((), {"embed": True, "prompts": "{}"}, "--prompts is for --labels, of which there are"),
        (("cat",), {"texts": "a.txt"}, "--texts goes with --embed"),
        ((), {"embed": True, "texts": "no.txt"}, "cannot read --texts=no.txt: No such file"),
        (("cat",), {"prompts": "a photo"}, "'a photo' must have {} once, where the class goes"),
    ],
)
def test_options_that_do_not_fit(labels, options, message, tmp_path):
    model = dataclasses.replace(word_models.make(tmp_path), labels=labels)
    with pytest.raises(ValueError, match=re.escape(message)):
        ZeroShotPredictor(model, ImageTextOptions(**options))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cat,,dog", "--labels=cat,,dog has an empty name: give names with commas between them"),
        (",", "--labels=, has an empty name: give names with commas between them"),
        ("cat,dog,cat", "--labels=cat,dog,cat has 'cat' twice: leave one of them out"),
        ("no.txt", "cannot read the labels no.txt: No such file or directory"),
    ],
)
def test_labels_that_are_none(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        class_names.find(spec)


def test_a_cut_text_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        Embedder(word_models.make(tmp_path)).texts(["cat", "a photo of a bad red car . the dog"])
    assert "1 of 2 texts are longer than the 8 pieces that the model reads" in caplog.text


def test_prompts():
    assert len(prompts.find("imagenet80")) == len({*prompts.find("imagenet80")}) == 80
    assert len(prompts.find("imagenet7")) == 7
    assert {*prompts.IMAGENET_7} < {*prompts.IMAGENET_80}
    for template in prompts.IMAGENET_80:
        assert template.count("{}") == 1
    assert prompts.find("") == ("a photo of a {}",)
    assert prompts.find("a {} | {}") == ("a {}", "{}")
    for wrong in ("imagenet", "{} and {}", "a {}|b"):
        with pytest.raises(ValueError, match=r"must have \{\} once, where the class goes"):
            prompts.find(wrong)


def test_class_names(tmp_path, monkeypatch, caplog):
    assert class_names.find("cat, a red car") == ("cat", "a red car")
    assert class_names.find("camvid")[:2] == ("sky", "building")
    (tmp_path / "names").write_text("a, b\nc\n")
    assert class_names.find(str(tmp_path / "names")) == ("a, b", "c")
    monkeypatch.setattr(class_names, "_PACKAGE", "no-such-package")
    names = class_names.find("imagenet1k")
    assert (len(names), names[0]) == (1000, "tench")
    assert "have TFDS' names, and not CLIP's" in caplog.text


@pytest.mark.parity
def test_the_tables_are_those_of_open_clip(caplog):
    from tests import torchvision_operators  # noqa: F401, I001
    from open_clip import zero_shot_metadata as theirs

    for ours, templates in (
        (prompts.IMAGENET_80, theirs.OPENAI_IMAGENET_TEMPLATES),
        (prompts.IMAGENET_7, theirs.SIMPLE_IMAGENET_TEMPLATES),
    ):
        assert ours == tuple(template("{}") for template in templates)
    with caplog.at_level(logging.INFO):
        assert class_names.find("imagenet1k") == tuple(theirs.IMAGENET_CLASSNAMES)
    assert "have CLIP's names" in caplog.text
