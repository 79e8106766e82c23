"""Segmentation from end to end: a folder of photos and masks, the commands, and what they write."""

import csv
import dataclasses
import io
import json
import sys
import threading
from pathlib import Path, PurePath

import jax
import numpy as np
import pytest
from PIL import Image

from checkpoints import npz
from input_pipeline import MadeUp
from input_pipeline.palettes import bit_palette
from tests.commands import run
from vit_jax import (
    models,
    plugins,
    pretrained,
    results,
    segmentation,
    segmentation_report,
    sliding,
    weights,
)
from vit_jax.options import SegmentOptions
from vit_jax.tasks import segment
from vit_jax.tasks.base import Item

CLASSES = ("red", "green", "blue")
PLUGIN = """
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models import register
from vit_jax.models.base import Model


class PixelNet(Model):
    num_classes: int = 3
    has_auxiliary: bool = True
    dtype: Any = jnp.float32
    task = "segment"
    any_size = True
    class_heads = ("conv_seg", "auxiliary")

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(8, (3, 3), (2, 2), name="conv")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x))
        if not self.num_classes:
            return x
        logits = nn.Conv(self.num_classes, (1, 1), name="conv_seg")(x)
        auxiliary = nn.Conv(self.num_classes, (1, 1), name="auxiliary")(x)
        return {"logits": logits, "auxiliary": auxiliary} if train else logits


register(PixelNet, {"PixelNet": {}})
"""
CONFIG = """
from configs import common

def get_config():
    config = common.get_config()
    config.plugins = ("pixel_net",)
    config.model_name = "PixelNet"
    config.data.kind = "segmentation"
    config.data.train_pp = "decode|random_crop(16)|flip_lr|value_range(-1, 1)"
    config.data.eval_pp = "decode|value_range(-1, 1)"
    config.loss, config.metrics, config.best_metric = (
        "pixel_xent(0.3) + dice", ("miou", "pixel_accuracy"), "miou")
    config.segment.window, config.segment.flip = 16, True
    config.batch_size, config.accum_steps, config.total_steps, config.eval_every = 4, 2, 16, 16
    config.optim.learning_rate = 0.05
    return config
"""


def blocks(size, seed):
    """A picture of blocks in three colours, and the mask of their classes; 255 in a corner."""
    random = np.random.default_rng(seed)
    mask = np.kron(random.integers(0, 3, (-(-size[0] // 8), -(-size[1] // 8))), np.ones((8, 8)))
    mask = mask[: size[0], : size[1]].astype(np.uint8)
    pixels = np.full((*size, 3), 90) + 60 * np.eye(3, dtype=int)[mask]
    pixels = np.clip(pixels + random.integers(-60, 60, pixels.shape), 0, 255).astype(np.uint8)
    mask[:3, :3] = 255
    return pixels, mask


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a small segmenter, by the command."""
    folder = tmp_path_factory.mktemp("blocks")
    for split, count in (("train", 8), ("val", 3)):
        for i in range(count):
            pixels, mask = blocks((24, 30 + 2 * (i % 2)), len(split) + i)
            for name, array in ((split, pixels), (f"{split}annot", mask)):
                (folder / "data" / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / "data" / name / f"{i}.png")
    (folder / "data" / "classes.txt").write_text("\n".join(CLASSES))
    (folder / "pixel_net.py").write_text(PLUGIN)
    (folder / "config.py").write_text(CONFIG)
    result = run(
        "main", f"--config={folder}/config.py", f"--workdir={folder}/run",
        f"--config.data.source={folder}/data", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.slow
def test_it_trains_evaluates_and_reports(trained):
    folder, printed = trained
    heading, figures = (line.split() for line in printed.splitlines()[1:3])
    found = dict(zip(heading[1:], map(float, figures[1:])))
    assert set(found) == {"loss", "miou", "pixel_accuracy", "examples"}
    assert 0.5 < found["miou"] < 1
    report = folder / "run" / "report"
    images = rows_of(report / "val.csv")
    assert [row["file"] for row in images] == ["0", "1", "2"]
    classes = rows_of(report / "classes.csv")
    assert [row["class"] for row in classes] == list(CLASSES)
    ious = [float(row["iou"]) for row in classes]
    assert np.mean(ious) == pytest.approx(found["miou"], abs=1e-4)
    sizes = [24 * 30 - 9, 24 * 32 - 9, 24 * 30 - 9]
    assert sum(int(row["pixels"]) for row in classes) == sum(sizes)
    accuracies = [float(row["pixel_accuracy"]) for row in images]
    mean = np.average(accuracies, weights=sizes)
    assert mean == pytest.approx(found["pixel_accuracy"], abs=1e-4)
    for name in ("segments", "confusion", "curves"):
        with Image.open(report / f"{name}.png") as picture:
            assert min(picture.size) > 300


@pytest.mark.slow
def test_a_run_is_evaluated_again(trained, tmp_path):
    folder, printed = trained
    again = run("main", "--mode=evaluate", f"--workdir={folder}/run", cwd=folder)
    assert again.stdout == printed, again.stderr
    command = ("main", f"--config={folder}/config.py", f"--config.data.source={folder}/data",
               f"--config.pretrained={folder}/run", "--config.total_steps=0")  # fmt: skip
    other = run(
        *command, f"--workdir={tmp_path}/a", "--config.segment.scales=(0.5,1.0)", cwd=folder
    )
    assert other.returncode == 0, other.stderr
    rows = [text.splitlines()[2].split()[1:] for text in (printed, other.stdout)]
    assert rows[0][-1] == rows[1][-1] == "3"
    assert rows[0][1] != rows[1][1]
    wrong = run(*command, f"--workdir={tmp_path}/b", "--config.segment.stride=17", cwd=folder)
    assert "error: segment: the stride of windows must lie from 1 to their side, 16" in wrong.stderr


@pytest.mark.slow
def test_photos_are_segmented(trained, tmp_path):
    folder, _ = trained
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels, mask = blocks((32, 48), 9)
    Image.fromarray(pixels).save(photos / "plain.png")
    turned = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned back when it is shown
    turned.save(photos / "turned.tif", exif=exif)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(photos / "deep.png")
    clear = Image.fromarray(np.dstack([pixels, pixels[..., 0]]))
    clear.save(photos / "clear.png")
    white = Image.new("RGBA", clear.size, "white")
    Image.alpha_composite(white, clear).convert("RGB").save(photos / "white.png")
    (photos / "broken.png").write_text("no image")
    result = run(
        "predict", f"--workdir={folder}/run", f"--output={tmp_path}/out", "--scales=1,1.5", photos,
        cwd=folder,
    )  # fmt: skip
    assert result.returncode == 1
    assert "cannot segment" in result.stderr
    assert "broken.png: not an image" in result.stderr
    rows = {
        row.pop("file").rpartition("/")[2]: row
        for row in rows_of(tmp_path / "out" / "predictions.csv")
    }
    assert sorted(rows) == [
        "clear.png", "deep.png", "plain.png", "turned.tif", "white.png"
    ]  # fmt: skip
    indices = {}
    for name, row in rows.items():
        stem = name.partition(".")[0]
        with Image.open(tmp_path / "out" / f"{stem}.png") as image:
            assert (image.mode, image.size) == ("P", (48, 32))
            assert image.getpalette()[:9] == bit_palette(3).ravel().tolist()
            indices[stem] = np.asarray(image)
        with Image.open(tmp_path / "out" / "overlay" / f"{stem}.png") as picture:
            assert picture.mode == "RGB"
            assert picture.size[0] > 480
            assert picture.size[1] >= 320
        shares = np.bincount(indices[stem].ravel(), minlength=3) / indices[stem].size
        assert list(row) == list(CLASSES)
        np.testing.assert_allclose([float(row[name]) for name in CLASSES], shares, atol=1e-6)
    np.testing.assert_array_equal(indices["turned"], indices["plain"])
    np.testing.assert_array_equal(indices["clear"], indices["white"])
    assert (indices["plain"] == mask)[mask != 255].mean() > 0.7
    (line,) = (line for line in result.stdout.splitlines() if "plain.png ->" in line)
    best = np.argmax(np.bincount(indices["plain"].ravel()))
    assert "(48 x 32, " in line
    assert f"): {CLASSES[best]} {float(rows['plain.png'][CLASSES[best]]):.1%}" in line


# Weights elsewhere.


@pytest.fixture
def model(trained, monkeypatch):
    """The run, ready for use in this process."""
    monkeypatch.syspath_prepend(trained[0])
    plugins.load(["pixel_net"])
    yield pretrained.load(trained[0] / "run")
    models.MODELS.pop("PixelNet")  # other tests look at all that there are
    sys.modules.pop("pixel_net")


@pytest.mark.slow
def test_what_predict_says_is_what_evaluation_says(trained, model):
    """Windows and mirrored photos are the run's, if no option says otherwise."""
    pixels, mask = blocks((40, 37), 3)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    predictor = segment.SegmentingPredictor(model)
    found = predictor.segment(data.getvalue(), mask.shape)
    answer = jax.jit(sliding.make_answer(model.model, model.settings))
    images = pixels[None].astype(np.float32) / 127.5 - 1
    out = answer(model.variables, {"image": images})
    np.testing.assert_array_equal(found, np.argmax(out[0], axis=-1))
    plain = segment.SegmentingPredictor(model, SegmentOptions(window=0, flip="off"))
    out = model.model.apply(model.variables, images)
    expected = segmentation.resized_logits(out, mask.shape)[0].argmax(axis=-1)
    np.testing.assert_array_equal(plain.segment(data.getvalue(), mask.shape), expected)
    assert (expected != found).any()


@pytest.mark.slow
def test_a_model_for_one_size_can_have_evaluated_images_of_several(trained, model, monkeypatch):
    monkeypatch.setattr(type(model.model), "any_size", False)
    monkeypatch.setattr(type(model.model), "image_size", lambda self, params: (16, 16))
    assert weights.read(trained[0] / "run").image_size is None
    again = pretrained.load(trained[0] / "run")
    assert again.image_size == (16, 16)
    assert again.eval_pp == "decode|value_range(-1, 1)"


@pytest.mark.parametrize("size", [(40, 37), (10, 24)])
def test_a_model_for_one_size_is_given_photos_of_any_without_a_run(model, monkeypatch, size):
    """Their own size is kept, in windows."""
    monkeypatch.setattr(type(model.model), "any_size", False)
    alone = dataclasses.replace(
        model, settings={}, image_size=(16, 16),
        eval_pp="decode|resize_small(18)|central_crop(16)|value_range(-1, 1)",
    )  # fmt: skip
    pixels, _ = blocks(size, 3)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    found = segment.SegmentingPredictor(alone).segment(data.getvalue(), size)
    image = pixels.astype(np.float32) / 127.5 - 1
    answer = sliding.make_answer(model.model, {"segment.window": 16})
    out = jax.jit(answer)(model.variables, {"image": image[None]})
    np.testing.assert_array_equal(found, np.argmax(out[0], axis=-1))


def test_the_next_photo_is_read_while_one_is_segmented(model, monkeypatch, tmp_path):
    for i in range(5):
        Image.fromarray(blocks((10, 12), i)[0]).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    predictor = segment.SegmentingPredictor(model)
    read, is_second_read = [], threading.Event()

    def prepare(data):
        read.append(data)
        if len(read) == 2:
            is_second_read.set()
        return np.zeros((10, 12, 3), np.float32)

    def classes(image, size):
        assert is_second_read.wait(60)
        return np.zeros(size, np.int32)

    monkeypatch.setattr(predictor, "_prepare", prepare)
    monkeypatch.setattr(predictor, "_classes", classes)
    answers = predictor.answers(predictor.find([tmp_path]))
    assert next(answers).problems == ()
    assert len(read) == 2  # and no more, so that few are in memory
    assert [bool(answer.problems) for answer in answers] == [False, False, True, False]


def test_results_do_not_get_the_same_name(model, tmp_path):
    for name in ("a.png", "a.jpg", "b.tif"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    predictor = segment.SegmentingPredictor(model)
    with pytest.raises(ValueError, match=r"a.jpg and .*a.png would both be written to o/a.png"):
        results.check_outputs(predictor.find([tmp_path]), predictor, Path("o"))
    item = Item((tmp_path / "b.tif",), PurePath("c/b.tif"))
    assert predictor.outputs(item) == [PurePath("c/b.png"), PurePath("overlay/c/b.png")]
    alone = segment.SegmentingPredictor(model, SegmentOptions(indices_only=True), Path("o"))
    assert alone.outputs(item) == [PurePath("c/b.png")]
    (answer,) = alone.answers([item])
    assert list(answer.files) == [PurePath("c/b.png")]


def test_options_go_before_the_runs_settings():
    run_settings = {
        "segment.window": 64, "segment.stride": 48, "segment.scales": (0.5, 1), "segment.flip": True
    }  # fmt: skip
    looks = segment.looks_of(SegmentOptions(), run_settings)
    assert looks == sliding.Looks(64, 48, (0.5, 1), True)
    options = SegmentOptions(window=32, scales="1,1.5", flip="off")
    assert segment.looks_of(options, run_settings) == sliding.Looks(32, 0, (1, 1.5), False)
    assert segment.looks_of(SegmentOptions(scales=""), {}) == sliding.Looks()
    with pytest.raises(ValueError, match="--scales=big must be numbers with commas between"):
        segment.looks_of(SegmentOptions(scales="big"), {})
    with pytest.raises(ValueError, match="the stride of windows must lie from 1"):
        segment.looks_of(SegmentOptions(stride=3), {})


def test_large_photos_are_looked_at_by_windows(model, monkeypatch, caplog):
    monkeypatch.setattr(segment, "_MOST_AT_ONCE", 30 * 40)
    plain = segment.SegmentingPredictor(model, SegmentOptions(window=0, flip="off"))
    assert plain._looks_at((30, 40)) == sliding.Looks()
    assert not caplog.records
    assert plain._looks_at((30, 41)).window == 1024
    assert "41 x 30 pixels is looked at by windows of 1024, since it is large" in caplog.text
    scaled = segment.SegmentingPredictor(model, SegmentOptions(window=0, scales="1,2"))
    assert scaled._looks_at((20, 20)).window == 1024


@pytest.mark.slow
def test_a_segmenter_is_converted_and_exported(trained, tmp_path):
    folder, _ = trained
    for command in (
        ["convert", folder / "run", tmp_path / "weights.npz"],
        ["convert", "--plugins=pixel_net", folder / "run" / "weights.npz", tmp_path / "again"],
        ["export", f"--workdir={folder}/run", tmp_path / "model.stablehlo"],
        ["export", f"--workdir={folder}/run", tmp_path / "saved_model"],
    ):
        result = run(*command, cwd=folder)
        assert result.returncode == 0, result.stderr
    said = "from images (b, 64, 64, 3) float32 to logits (b, 32, 32, 3) float32"
    assert said in result.stdout
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["labels"] == list(CLASSES)
    assert about["outputs"]["logits"]["to_probabilities"] == "softmax"
    one, other = (npz.load(path / "weights.npz") for path in (folder / "run", tmp_path))
    jax.tree.map(np.testing.assert_array_equal, one, other)


# Data and pictures without a run.


def test_made_up_masks():
    data = MadeUp((8, 6, 3), 2, num_classes=5, truth="mask")
    batch = next(data.train_batches())
    assert data.truths == ("mask",)
    assert (batch["mask"].shape, batch["mask"].dtype) == ((2, 8, 6), np.int32)
    assert set(np.unique(batch["mask"])) == {*range(5)}
    assert len(data.class_names) == 5


def counted(sizes, classes, wrong):
    """A report of images a share of whose pixels is wrong, and the masks."""
    report = segmentation_report.SegmentationReport(
        [f"{i}.png" for i in range(len(sizes))], [f"class {i}" for i in range(classes)], "miou"
    )
    random = np.random.default_rng(0)
    batches = []
    for i, (size, share) in enumerate(zip(sizes, wrong)):
        mask = random.integers(0, classes, size).astype(np.int32)
        guess = np.where(random.random(size) < share, (mask + 1) % classes, mask)
        mask[0] = 255
        image = random.uniform(-1, 1, (*size, 3)).astype(np.float32)
        batch = {"image": image[None], "mask": mask[None], "index": np.array([i])}
        batches.append((batch, np.eye(classes, dtype=np.float32)[guess][None]))
    for batch in batches:
        report.add(*batch)
    each = np.concatenate([segmentation.count_pixels(out, batch) for batch, out in batches])
    return report, batches, each


@pytest.mark.slow
def test_the_worst_median_and_best_image_are_shown(tmp_path):
    report, batches, each = counted([(9, 12)] * 5, 4, [0.3, 0.9, 0.1, 0.5, 0.0])
    order = [4, 2, 0, 1, 3]  # figures come as batches do
    rows = report.choose({"miou": each[order], "loss": np.arange(5.0), "index": np.array(order)})
    assert report._ranks == {1: "worst", 0: "median", 4: "best"}
    assert sorted(rows) == [0, 1, 4]
    for row in rows:
        report.add(*batches[row])
    report.gather()
    figure = report.draw_segments("val")
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if ".png" in title] == [
        "worst: 1.png", "median: 0.png", "best: 4.png"
    ]  # fmt: skip
    ious = segmentation.split_figures(each)["miou"]
    assert f"errors (miou {ious[1]:.3f})" in titles
    errors = figure.axes[3].get_images()[0].get_array()
    batch, out = batches[1]
    is_wrong = (batch["mask"][0] != out[0].argmax(-1)) & (batch["mask"][0] != 255)
    np.testing.assert_array_equal(np.all(errors == segmentation_report._WRONG, axis=-1), is_wrong)
    np.testing.assert_array_equal(errors[0], np.ones((12, 3)))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == [*(f"class {i}" for i in range(4)), "error", "not labelled"]
    report.write(tmp_path, "val")
    assert float(rows_of(tmp_path / "val.csv")[3]["miou"]) == pytest.approx(ious[3], abs=1e-6)
    assert report._confusion.sum() == 5 * 8 * 12  # the chosen ones once


def test_a_class_that_does_not_occur_has_no_figures(tmp_path):
    report, _, _ = counted([(4, 4)], 3, [0])
    report._confusion[:] = [[5, 0, 2], [0, 0, 0], [0, 0, 0]]
    report.choose({"loss": np.zeros(1), "index": np.zeros(1, int)})
    report.write(tmp_path, "val")
    first, second, third = rows_of(tmp_path / "classes.csv")
    assert first["iou"] == f"{5 / 7:.6f}"
    assert (second["iou"], second["accuracy"], second["pixels"]) == ("", "", "0")
    assert (third["iou"], third["accuracy"], third["predicted_pixels"]) == ("0.000000", "", "2")
    assert not (tmp_path / "segments.png").exists()


def test_images_without_a_labelled_pixel_are_ranked_nowhere():
    report, _, each = counted([(4, 4)] * 4, 3, [0.5, 0.2, 0.9, 0.4])
    each[2] = 0
    report.choose({"miou": each, "index": np.arange(4)})
    assert 2 not in report._ranks


@pytest.mark.parametrize("classes", [3, 150])
def test_a_confusion_matrix_of_any_number_of_classes(classes):
    report, _, _ = counted([(30, 40)], classes, [0.3])
    figure = report.draw_confusion("val")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["class 0", "class 1"]
    share = axes.get_images()[0].get_array()
    sums = report._confusion.sum(axis=1)
    np.testing.assert_allclose(share.sum(axis=1)[sums > 0], 1)
    assert max(figure.get_size_inches()) < 30
    assert bool(axes.texts) == (classes == 3)


def test_an_overlay_shows_the_photo_in_its_classes_colours():
    pixels = np.full((600, 700, 3), 100, np.uint8)
    classes = np.zeros((600, 700), int)
    classes[:, 350:] = 2
    palette = np.array([[0, 0, 0], [9, 9, 9], [200, 100, 0]], np.uint8)
    data = segmentation_report.draw_overlay(pixels, classes, palette, CLASSES)
    with Image.open(io.BytesIO(data)) as picture:
        shown = np.asarray(picture)
    assert shown.shape[0] == 600
    assert shown.shape[1] > 800
    np.testing.assert_array_equal(shown[300, 100], [45, 45, 45])
    np.testing.assert_array_equal(shown[300, 600], [155, 100, 45])
    assert (shown[500:, 710:] == 255).all()  # the legend has two lines
    assert (shown[:70, 710:] != 255).any()
    large = segmentation_report._picture_size((4000, 6000))
    assert large == (2000, 1333)
    assert segmentation_report._picture_size((30, 40)) == (480, 360)


def test_class_numbers_beyond_a_palette_have_16_bits():
    classes = np.array([[0, 299]])
    data = segment.encode_indices(classes, bit_palette(300))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), classes)
