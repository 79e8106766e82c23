"""An index of photos by content, what is found in it, and what it costs to bring it up to date."""

import csv
import dataclasses
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from checkpoints import npz
from tests import word_models
from tests.commands import run
from tests.helpers import TINY, random_params, write_image
from vit_jax import convert, photo_index, photos, pretrained, search
from vit_jax.embedder import Embedded, Embedder

COLORS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


class ByColor:
    """Embeds photos by their mean colour, and counts how often it is asked to."""

    def __init__(self, fingerprint="a", stop_after=None):
        self.size, self.fingerprint = 3, fingerprint
        self.pretrained = types.SimpleNamespace(name="ByColor")
        self.asked, self.stop_after = [], stop_after

    def files(self, paths):
        for path in paths:
            if self.stop_after == len(self.asked):
                raise KeyboardInterrupt
            self.asked.append(path.name)
            try:
                mean = photos.read(path).pixels.mean(axis=(0, 1)) + 1
            except ValueError as error:
                yield Embedded(path, None, str(error))
            else:
                yield Embedded(path, (mean / np.linalg.norm(mean)).astype(np.float32))


def write_photos(folder):
    for i, (name, color) in enumerate(COLORS.items()):
        write_image(folder / f"{name}.png", color, seed=i)
    return folder


def update(index, embedder, folder, target):
    found = photos.find_images([str(folder)])
    return photo_index.update(index, embedder, found, [folder], target)


@pytest.fixture
def folder(tmp_path):
    return write_photos(tmp_path / "photos")


def test_what_is_embedded_anew(folder, tmp_path, caplog):
    target = tmp_path / "new" / "a.npz"
    embedder = ByColor()
    index = photo_index.new(embedder, "w.npz")
    assert update(index, embedder, folder, target) == (3, 0, 0, 0)

    # A moved file, a copy, one that has changed, one that is gone, and two bad ones.
    (folder / "deep").mkdir()
    (folder / "red.png").rename(folder / "deep" / "moved.png")
    shutil.copy(folder / "green.png", folder / "copy.png")
    write_image(folder / "blue.png", (200, 200, 30), seed=5)
    (folder / "bad.png").write_text("no image")
    (folder / "same_bad.png").write_text("no image")
    embedder = ByColor()
    index = photo_index.load(target)
    assert update(index, embedder, folder, target) == (1, 3, 1, 2)
    assert sorted(embedder.asked) == ["blue.png", "same_bad.png"]
    assert caplog.text.count("cannot read") == 2
    assert "bad.png: not an image" in caplog.text

    index = photo_index.load(target)
    names = [[path.rpartition("/")[2] for path in paths] for paths in index.paths()]
    assert sorted(names) == [["blue.png"], ["copy.png", "green.png"], ["moved.png"]]
    assert len(index.vectors) == 3  # that of the former blue is forgotten
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-6)
    (best, *_) = index.search(np.array([1, 1, 0], np.float32) / 2**0.5, 1)
    assert best.path == str(folder / "blue.png")
    assert best.cosine > 0.98

    (folder / "copy.png").unlink()
    other = write_photos(tmp_path / "others")
    assert update(index, ByColor(), other, target).gone == 0  # of this folder
    assert any(path.endswith("copy.png") for path in index.files)
    assert update(index, ByColor(), folder, target)[:3] == (0, 3, 1)


def test_an_interrupted_index_continues(folder, tmp_path, monkeypatch):
    target = tmp_path / "a.npz"
    embedder = ByColor(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        update(photo_index.new(embedder, "w"), embedder, folder, target)
    embedder = ByColor()
    assert update(photo_index.load(target), embedder, folder, target) == (1, 2, 0, 0)
    assert len(embedder.asked) == 1


def test_it_is_saved_now_and_then(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_index, "_CHUNK", 1)
    monkeypatch.setattr(photo_index, "_SAVE_EVERY", 2)
    monkeypatch.setattr(photo_index, "_SHARE_OF_TIME", 1e9)
    lengths = []
    save = photo_index.PhotoIndex.save

    def counting(index, path):
        save(index, path)
        lengths.append(len(photo_index.load(path).vectors))

    monkeypatch.setattr(photo_index.PhotoIndex, "save", counting)
    embedder = ByColor()
    update(photo_index.new(embedder, "w"), embedder, folder, tmp_path / "a.npz")
    assert lengths[0] == 2
    assert lengths[-1] == 3


def test_another_models_index_is_refused(folder, tmp_path):
    index = photo_index.new(ByColor("a"), "w.npz")
    index.check(ByColor("a"), tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a.npz was made with w.npz \(ByColor\), and these"):
        index.check(ByColor("b"), tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"text", "is no index of photos: "), (None, "there is no index .*: make one, python -m")],
)
def test_what_is_no_index(data, message, tmp_path):
    if data is not None:
        (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        photo_index.load(tmp_path / "a.npz")
    npz.save(tmp_path / "b.npz", {"vectors": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="is no index of photos"):
        photo_index.load(tmp_path / "b.npz")


def of_vectors(vectors):
    vectors = np.asarray(vectors, np.float32)
    contents = [f"{i:064x}" for i in range(len(vectors))]
    files = {f"/p/{i}.jpg": photo_index.File(c, 1, 1) for i, c in enumerate(contents)}
    return photo_index.PhotoIndex("m", "f", "w", vectors, contents, files)


def test_search_equals_sorting(monkeypatch):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = of_vectors(vectors).search(vectors[7].astype(np.float32), 12)
    order = np.argsort(-(vectors @ vectors[7]))[:12]
    assert [hit.path for hit in hits] == [f"/p/{i}.jpg" for i in order]
    assert hits[0].path == "/p/7.jpg"
    np.testing.assert_allclose([h.cosine for h in hits], (vectors @ vectors[7])[order], atol=1e-6)
    assert len(of_vectors(vectors[:3]).search(vectors[0].astype(np.float32), 12)) == 3
    assert of_vectors(np.zeros((0, 5))).search(np.zeros(5, np.float32), 12) == []


def test_duplicates(monkeypatch):
    monkeypatch.setattr(photo_index, "_ROWS", 2)
    angles = np.array([0.0, 2.0, 0.05, 1.0, 2.05, 0.1])
    index = of_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    index.files["/p/copy.jpg"] = index.files["/p/3.jpg"]
    groups = index.duplicates(np.cos(0.06))
    names = [[hit.path[3:-4] for hit in hits] for hits in groups]
    assert names == [["0", "2", "5"], ["1", "4"], ["3", "copy"]]  # 0 and 5 by way of 2
    assert groups[0][2].cosine == pytest.approx(np.cos(0.1), abs=1e-6)
    assert index.duplicates(0.99999) == [groups[2]]
    monkeypatch.setattr(photo_index, "_MOST_PAIRS", 2)
    with pytest.raises(ValueError, match=r"over 2 pairs have a cosine of -1\.0 or more: say a"):
        index.duplicates(-1.0)


def test_models_are_told_apart(tmp_path):
    model = word_models.make(tmp_path)
    first = Embedder(model).fingerprint
    assert Embedder(word_models.make(tmp_path)).fingerprint == first
    assert Embedder(word_models.make(tmp_path, seed=1)).fingerprint != first
    other = dataclasses.replace(model, eval_pp=model.eval_pp.replace("bicubic", "bilinear"))
    assert Embedder(other).fingerprint != first


def test_a_classifiers_features_are_vectors_too(tmp_path):
    model, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    npz.save(tmp_path / "a.npz", params, pretrained.say_made_for("ViT-B_16", TINY))
    embedder = Embedder(pretrained.load(tmp_path / "a.npz"))
    image = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    features = np.asarray(model.clone(num_classes=0).apply({"params": params}, image))
    expected = features / np.linalg.norm(features)
    np.testing.assert_allclose(embedder.images(image), expected, atol=1e-5)
    with pytest.raises(ValueError, match="ViT-B_16 knows no words: ask with a photo"):
        embedder.texts(["a cat"])


def test_thumbnails(tmp_path):
    Image.new("RGB", (40, 20), (200, 30, 30)).save(tmp_path / "a.png")
    shown = search.thumbnail(str(tmp_path / "a.png"), 10)
    assert shown.shape == (10, 10, 3)
    assert (shown[5] == (200, 30, 30)).all()
    assert (shown[0] == 255).all()
    assert (search.thumbnail(str(tmp_path / "gone.png"), 10) == 200).all()


@pytest.mark.slow
def test_the_command(folder, tmp_path):
    model = word_models.make(tmp_path)
    (tmp_path / "m").mkdir()
    convert.write(tmp_path / "m" / "a.npz", model)
    shutil.copy(folder / "red.png", folder / "copy.png")
    index = f"--index={tmp_path / 'i.npz'}"
    weights = f"--weights={tmp_path / 'm' / 'a.npz'}"
    result = run("search", "index", folder, weights, index)
    assert result.returncode == 0, result.stderr
    assert "4 photos, vectors of 24 numbers by CLIP-B_32; 3 embedded in " in result.stdout

    output = f"--output={tmp_path / 'out'}"
    result = run("search", "a red car", index, "--top=3", output)
    assert result.returncode == 0, result.stderr
    first, *lines = result.stdout.splitlines()
    assert first.startswith("rank  cosine  photo (3 searched in ")
    embedder = Embedder(model)
    query = embedder.texts(["a red car"])[0]
    names = ("blue", "copy", "green", "red")
    vectors = [vector for _, vector, _ in embedder.files([folder / f"{n}.png" for n in names])]
    order = np.argsort(-np.stack(vectors) @ query, kind="stable")[:3]
    assert [line.split()[2] for line in lines] == [str(folder / f"{names[i]}.png") for i in order]
    cosines = [float(line.split()[1]) for line in lines]
    np.testing.assert_allclose(cosines, (np.stack(vectors) @ query)[order], atol=1e-4)
    with (tmp_path / "out" / "a-red-car.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [line.split()[2] for line in lines]
    with Image.open(tmp_path / "out" / "a-red-car.png") as sheet:
        assert sheet.width > 500


@pytest.mark.slow
def test_the_command_on_mistakes_and_duplicates(folder, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "n").mkdir()
    convert.write(tmp_path / "m" / "a.npz", word_models.make(tmp_path))
    convert.write(tmp_path / "n" / "a.npz", word_models.make(tmp_path, seed=1))
    shutil.copy(folder / "red.png", folder / "copy.png")
    (folder / "bad.png").write_text("no image")
    index = f"--index={tmp_path / 'i.npz'}"
    result = run("search", "index", folder, f"--weights={tmp_path / 'm' / 'a.npz'}", index)
    assert result.returncode == 1
    assert "bad.png: not an image" in result.stderr
    assert "1 of 5 could not be read" in result.stderr
    result = run("search", "duplicates", index, "--least=0.999", "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert f"{folder / 'red.png'}  (the same bytes)" in result.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"duplicates.csv", "duplicates.png"}
    result = run("search", folder / "red.png", index, "--top=1")
    assert result.stdout.splitlines()[1].split()[1] == "1.0000"
    for args, message in {
        ("a car", f"--weights={tmp_path / 'n' / 'a.npz'}"): "i.npz was made with ",
        ("a", "car"): "'a' and 'car': ask one thing; several words go in quotes",
        ("gone.jpg",): "there is no photo gone.jpg",
        (): "say what to do: index FOLDER",
        ("index", "nowhere"): "there is no folder nowhere",
    }.items():
        result = run("search", *args, index)
        assert result.returncode == 2
        assert f"error: {message}" in result.stderr.replace(f"{tmp_path}/", "")
