"""Few-shot probes and nearest neighbours: the published figures' code, and the command."""

import csv
import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest

from checkpoints import npz
from configs.common import get_config as common_config
from tests import word_models
from tests.commands import run
from tests.helpers import TINY, noise, random_params, write_classes
from tests.tiny_colors import TinyColors
from vit_jax import labelled_features, pretrained, probe, probing
from vit_jax.embedder import Embedder, image_tower

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def few():
    return np.load(GOLDEN / "fewshot.npz")


@pytest.fixture
def near():
    return np.load(GOLDEN / "knn.npz")


def test_few_shots_are_scored_as_by_big_vision(few):
    score = probing.fit_linear(few["train"], few["train_labels"], 5)
    scores, expected = score(few["test"]), few["scores_float64"]
    np.testing.assert_allclose(scores, expected, atol=1e-6 * expected.std())
    its_own = few["scores_float32"]
    np.testing.assert_allclose(scores, its_own, atol=4e-4 * expected.std())
    assert (scores.argmax(axis=1) == its_own.argmax(axis=1)).all()
    accuracy, top5 = probing.measure(score, few["test"], few["test_labels"])
    assert accuracy == pytest.approx(float(few["accuracy"]), abs=1e-6)
    assert top5 == 1  # of five classes


@pytest.mark.parametrize("images", [10, 60])  # fewer than there are features, and more
def test_least_squares(few, images):
    train, labels = few["train"][:images], few["train_labels"][:images]
    scores = probing.fit_linear(train, labels, 5, strength=8.0)(few["test"])

    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    x, tests = ((v - mean) / (deviation + 1e-5) for v in (train, few["test"]))
    x, tests = (np.concatenate([v, np.full((len(v), 1), 100)], axis=1) for v in (x, tests))
    targets = 2.0 * (labels[:, None] == np.arange(5)) - 1
    # Regularisation is so many more images, each of one feature, whose targets are 0.
    more = np.eye(x.shape[1]) * 8**0.5
    weights, *_ = np.linalg.lstsq(
        np.concatenate([x, more]), np.concatenate([targets, np.zeros((len(more), 5))])
    )
    np.testing.assert_allclose(scores, tests @ weights, atol=1e-8)


def test_neighbours_vote_as_in_dino(near, monkeypatch):
    classify = probing.fit_neighbours(near["train"], near["train_labels"], 5, int(near["k"]))
    votes = classify(near["test"])
    np.testing.assert_allclose(votes, near["votes"], atol=1e-4)
    assert (votes.argmax(axis=1) == near["votes"].argmax(axis=1)).all()
    figures = probing.measure(classify, near["test"], near["test_labels"])
    assert figures == pytest.approx((near["top1"] / 100, near["top5"] / 100))

    monkeypatch.setattr(probing, "_MOST_COSINES", 3 * len(near["train"]))
    in_parts = probing.fit_neighbours(near["train"], near["train_labels"], 5, int(near["k"]))
    np.testing.assert_allclose(in_parts(near["test"]), votes, atol=1e-6)


def test_shots_are_drawn_of_each_class():
    labels = np.array([1, 0, 1, 2, 0, 1, 2, 0, 2, 0])
    three = probing.draw_shots(labels, 3, seed=1)
    assert labels[three].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(set(three)) == 9
    two = probing.draw_shots(labels, 2, seed=1)
    assert set(two) < set(three)
    random = np.random.default_rng(1)  # one for all classes, one after the other
    assert three[:3].tolist() == random.permutation([1, 4, 7, 9])[:3].tolist()
    assert three[3:6].tolist() == random.permutation([0, 2, 5])[:3].tolist()
    assert any((probing.draw_shots(labels, 3, seed) != three).any() for seed in (2, 3))


def test_what_counts_as_right(monkeypatch):
    monkeypatch.setattr(probing, "_ROWS", 2)
    scores = np.array([[3, 2, 1, 0, -1, -2, -3], [0, 0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6]])
    of_rows = np.arange(3)
    for labels, expected in (
        ([0, 0, 6], (1, 1)),
        ([1, 1, 6], (1 / 3, 1)),  # of ties the first class comes first
        ([4, 4, 2], (0, 1)),
        ([5, 5, 1], (0, 0)),
    ):
        figures = probing.measure(lambda rows: scores[rows], of_rows, np.array(labels))
        assert figures == pytest.approx(expected)


def save_model(folder, **fields):
    model, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY, **fields)
    path = folder / "a.npz"
    npz.save(path, params, pretrained.say_made_for("ViT-B_16", {**TINY, **fields}))
    return path, model, params


def test_features_stand_before_the_head_as_they_are(tmp_path):
    path, model, params = save_model(tmp_path, classifier="gap")
    image = noise((2, 16, 16, 3))
    features = Embedder(pretrained.load(path), keeps_length=True).images(image)
    expected = model.clone(num_classes=0).apply({"params": params}, image)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert abs(np.linalg.norm(features, axis=1) - 1).min() > 0.01


@pytest.mark.parametrize("fields", [word_models.CLIP, word_models.SIGLIP])
def test_features_of_two_towers_stand_before_their_common_space(tmp_path, fields):
    name = "CLIP-B_32" if fields is word_models.CLIP else "SigLIP-B_16"
    both = word_models.make(tmp_path, name, fields)
    embedder = Embedder(image_tower(both), keeps_length=True)
    assert not embedder.has_text
    assert embedder.size == TINY["hidden_size"]
    image = noise((2, 16, 16, 3))
    vectors = embedder.images(image)
    if fields is word_models.CLIP:
        vectors = vectors @ both.variables["params"]["img"]["pre_logits"]["kernel"]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, Embedder(both).images(image), atol=1e-5)


def write_data(folder):
    write_classes(folder / "train", 6)
    write_classes(folder / "test", 4, start=100)
    return folder


def test_which_images_are_tested_on(tmp_path):
    folder = write_data(tmp_path / "a")
    assert labelled_features.open_data(str(folder)).names == ("train", "test")
    shutil.copytree(folder / "test", folder / "val")
    data = labelled_features.open_data(str(folder))
    assert (data.train.num_examples, data.test.num_examples) == (12, 8)
    shutil.rmtree(folder / "test")
    assert labelled_features.open_data(str(folder)).names == ("train", "val")
    alone = labelled_features.open_data(str(folder / "train"))  # as in a training on it
    assert alone.names == ("train", "test")
    assert alone.class_names == ("blue", "red")
    assert (alone.train.num_examples, alone.test.num_examples) == (8, 2)


class ByMean:
    """Takes the mean of an image's pixels as its only feature."""

    size = 1

    def items(self, items):
        from input_pipeline import files
        from vit_jax.embedder import Embedded

        for item in items:
            image = files.decode_in_python(item.read())
            yield Embedded(item.paths[0], np.array([image.mean()], np.float32))


def test_images_that_are_no_files(monkeypatch):
    monkeypatch.setattr(labelled_features, "_CHUNK", 100)
    data = labelled_features.open_data("digits")
    found = labelled_features.compute(ByMean(), data.test, "test")
    assert found.vectors.shape == (360, 1)
    columns = data.test.columns
    np.testing.assert_allclose(found.vectors[:, 0], columns["image"].mean(axis=(1, 2, 3)), 1e-5)
    np.testing.assert_array_equal(found.labels, columns["label"])
    unlabelled = dataclasses.replace(data.test, columns={**columns, "label": -columns["label"]})
    with pytest.raises(ValueError, match="test has images without a label: test on another"):
        labelled_features.compute(ByMean(), unlabelled, "test")


def test_data_of_tfds(tmp_path, monkeypatch):
    TinyColors(data_dir=str(tmp_path)).download_and_prepare()
    monkeypatch.setattr(
        labelled_features.common, "get_config", functools.partial(config_with, str(tmp_path))
    )
    data = labelled_features.open_data("tfds:tiny_colors")
    assert data.names == ("train", "test")
    assert data.class_names == ("even", "odd")
    train = labelled_features.compute(ByMean(), data.train, "train")
    assert sorted(train.vectors[:, 0]) == list(range(25))
    np.testing.assert_array_equal(train.labels, train.vectors[:, 0] % 2)
    other = labelled_features.open_data("tfds:tiny_colors:train[:3]")
    assert other.names == ("train", "train[:3]")
    assert other.test.num_examples == 3


def config_with(data_dir):
    config = common_config()
    config.data.tfds.data_dir = data_dir
    return config


def features(vectors, labels):
    vectors = np.asarray(vectors, np.float32)
    return labelled_features.Features(vectors, np.asarray(labels, np.int32), 0)


def test_what_cannot_be_probed_is_left_out(caplog):
    random = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    train = features(np.eye(3)[labels] + random.normal(0, 0.1, (8, 3)), labels)
    rows = list(probe.probe(train, train, ("a", "b", "c"), (1, 2, 3), (2, 20, 30)))
    counts = [(row.probe, row.number, row.seed) for row in rows]
    few = [("few_shot", number, seed) for number in (1, 2) for seed in (0, 1, 2)]
    assert counts == [*few, ("neighbours", 2, None), ("neighbours", 8, None)]
    assert "no probe of 3 images per class: class b has 2 to learn from" in caplog.text
    assert all(row.accuracy == 1 for row in rows if row.number == 2)


def test_the_table():
    rows = [probe.Row("few_shot", 5, i, share, 1.0) for i, share in enumerate((0.5, 0.6, 0.7))]
    rows.append(probe.Row("neighbours", 20, None, 0.25, 0.75))
    assert probe.format_table(rows, classes=6).splitlines() == [
        "probe          accuracy  deviation   top-5",
        "5 per class       60.0%       8.2%  100.0%",
        "20 neighbours     25.0%          -   75.0%",
    ]
    assert "top-5" not in probe.format_table(rows, classes=5)


@pytest.mark.slow
def test_the_command(tmp_path):
    path, *_ = save_model(tmp_path)
    folder = write_data(tmp_path / "data")
    (folder / "train" / "red" / "bad.png").write_text("no image")
    arguments = [folder, f"--weights={path}", "--shots=1,5,10", "--neighbours=3"]
    result = run("probe", *arguments, "-o", tmp_path / "out", "--eval_pp=decode|resize(16)|"
                 "value_range(-1, 1)")  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert f"cannot read {folder / 'train' / 'red' / 'bad.png'}: not an image" in result.stderr
    assert "1 of 21 could not be read" in result.stderr
    assert "no probe of 10 images per class: class blue has 6" in result.stderr
    first, head, *lines = result.stdout.splitlines()
    assert first == (
        "ViT-B_16: 16 features; 2 classes, 12 images to learn from (train), 8 to test on (test)"
    )
    assert head.split() == ["probe", "accuracy", "deviation"]
    assert [line.split("  ")[0] for line in lines] == ["1 per class", "5 per class", "3 neighbours"]
    with (tmp_path / "out" / "probe.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["probe"], row["number"], row["seed"]) for row in rows] == [
        *(("few_shot", number, seed) for number in "15" for seed in "012"),
        ("neighbours", "3", ""),
    ]
    assert float(rows[-1]["accuracy"]) == 1  # blue and red


@pytest.mark.slow
def test_mistakes(tmp_path):
    path, *_ = save_model(tmp_path)
    folder = write_data(tmp_path / "data")
    for arguments, message in {
        (): "say which images: one FOLDER that holds train/CLASS and test/CLASS",
        (folder, "--shots=1,0"): "--shots lists numbers from 1 on, such as 1,5, not '0'",
        (
            folder,
            "--neighbours=few",
        ): "--neighbours lists numbers from 1 on, such as 1,5, not 'few'",
        (folder, "--shots=", "--neighbours="): "--shots and --neighbours are both empty",
        (tmp_path / "gone",): f"data.source='{tmp_path / 'gone'}': there is no such folder",
        (folder, "--eval_pp=decode|resize(8)|value_range(-1, 1)"): (
            "--eval_pp=decode|resize(8)|value_range(-1, 1) makes images of 8 x 8, and ViT-B_16 "
            "takes 16 x 16: change it, or say --image_size=8x8"
        ),
    }.items():
        result = run("probe", *arguments, f"--weights={path}")
        assert result.returncode == 2
        assert f"error: {message}" in result.stderr
