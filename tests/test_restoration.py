"""Training on pairs, evaluation of whole images, and restoring a person's files."""

import csv
import io
import json
import logging
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import tifffile
from PIL import Image, PngImagePlugin

from checkpoints import npz
from configs import common
from input_pipeline import Shard, files, get_dataset, images, preprocess, sample_photos
from input_pipeline.sources import hazy_from_clear
from input_pipeline.sources.base import fold_in
from tests.commands import run
from tests.conftest import noise, random_params
from vit_jax import experiment, image_quality, losses, optim, photos, predict, report, tiles
from vit_jax import train as training
from vit_jax.models import get_model
from vit_jax.models.base import Model
from vit_jax.tasks import restore

TINY = dict(
    hidden_sizes=(8, 8, 8, 8, 8), depths=(1, 2, 1, 1, 1), num_heads=(1, 1, 2, 1, 1),
    mlp_ratios=(1.0, 2.0, 2.0, 1.0, 1.0),
)  # fmt: skip
FULL = "value_range(-1, 1)"


def smooth(size, seed):
    """An (h, w, 3) uint8 picture without noise."""
    cells = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(cells).resize(size[::-1], Image.BICUBIC))


def write_pairs(folder, sizes, start=0, suffix=".png"):
    """Writes hazy/N_1.png and GT/N_1.png; the hazy one is the clear one made brighter."""
    for i, size in enumerate(sizes, start):
        clear = smooth(size, i)
        hazy = (clear * 0.5 + 110).astype(np.uint8)
        for name, pixels in (("GT", clear), ("hazy", hazy)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{i}_1{suffix}")


def pairs_config(source):
    config = common.get_config()
    config.model_name = "DehazeFormer-T"
    config.model.update(TINY)
    config.data.kind = "pairs"
    config.data.source = str(source)
    config.data.train_pp = f"pad_to(32)|random_crop(32)|flip_lr|rot90|{FULL}"
    config.data.eval_pp = FULL
    config.batch_size = 2
    config.total_steps = 6
    config.eval_every = 3
    config.log_every = 1
    config.loss = "l1 + 0.1 * ssim"
    config.metrics = ("dehazeformer/psnr", "dehazeformer/ssim")
    config.best_metric = "dehazeformer/psnr"
    config.benchmark = "SOTS-indoor"
    config.optim.learning_rate = 2e-3
    return config


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory):
    """Pairs of two sizes, smaller than the crop and larger."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "train", [(40, 36), (29, 47), (40, 36), (29, 47)])
    write_pairs(folder / "test", [(40, 36), (29, 47), (40, 36)], start=20)
    return folder


@pytest.fixture(scope="module")
def trained(pairs_folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("restoration")
    return workdir, training.train_and_evaluate(pairs_config(pairs_folder), workdir)


# Data.


def dataset(config, **kwargs):
    return get_dataset(config.data, config.batch_size, seed=0, **kwargs)


def test_both_images_of_a_pair_are_augmented_alike(pairs_folder):
    data = dataset(pairs_config(pairs_folder))
    assert data.train_image_shape == data.image_shape == (32, 32, 3)
    seen = set()
    for batch, _ in zip(data.train_batches(), range(8)):
        assert set(batch) == {"image", "target"}
        clear = (batch["target"] + 1) * 127.5
        hazy = (batch["image"] + 1) * 127.5
        np.testing.assert_allclose(hazy, np.floor(clear.round(3) * 0.5 + 110), atol=0.02)
        seen |= {x.tobytes() for x in batch["image"]}
    assert len(seen) == 16


def test_validation_is_split_off_by_scene(tmp_path):
    for scene in range(10):
        for k in range(3):
            for name, stem in (("hazy", f"{scene}_{k}"), ("clear", f"{scene}")):
                (tmp_path / name).mkdir(exist_ok=True)
                Image.fromarray(smooth((30, 30), scene)).save(tmp_path / name / f"{stem}.png")
    config = pairs_config(tmp_path)
    data = dataset(config)
    scenes = {k: {name.split("_")[0] for name in s.names} for k, s in data.splits.items()}
    assert {k: len(v) for k, v in scenes.items()} == {"train": 8, "val": 1, "test": 1}
    assert {k: s.num_examples for k, s in data.splits.items()} == {"train": 24, "val": 3, "test": 3}
    assert not (scenes["train"] & scenes["val"] | scenes["train"] & scenes["test"])
    config.data.val_fraction = 0.0
    assert list(dataset(config).splits) == ["train"]


@pytest.mark.parametrize("count", [1, 2])
def test_whole_images_are_evaluated_one_size_at_a_time(pairs_folder, count):
    """Three images of two sizes on two devices, of one process and of two."""
    rows = []
    sizes = []
    for process in range(count):
        data = dataset(pairs_config(pairs_folder), shard=Shard(process, count), devices=2)
        mine = list(data.eval_batches("test"))
        sizes.append([b["image"].shape for b in mine])
        for batch in mine:
            assert len(batch["image"]) == 2 // count
            real = batch["_mask"] > 0
            for index, image in zip(batch["index"][real], batch["image"][real]):
                rows.append(index)
                with Image.open(data_path(data, index)) as file:
                    pixels = np.asarray(file)
                np.testing.assert_allclose(image, pixels / 127.5 - 1, atol=1e-6)
    assert sorted(rows) == [0, 1, 2]
    assert all(s == sizes[0] for s in sizes)
    assert len(sizes[0]) == 2


def data_path(data, index):
    return data.splits["test"].columns["input"][index]


def test_some_rows_alone(pairs_folder):
    data = dataset(pairs_config(pairs_folder))
    assert sorted(int(b["index"][0]) for b in data.eval_batches("test", [2, 1])) == [1, 2]


def test_sixteen_bits_are_kept(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (30, 40, 3)).astype(np.uint16)
    for name in ("hazy", "GT"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(tf.io.encode_png(deep).numpy())
    config = pairs_config(tmp_path)
    config.data.val_fraction = 0.0
    config.data.train_pp = f"central_crop((30, 40))|{FULL}"
    config.batch_size = 1
    batch = next(dataset(config).train_batches())
    np.testing.assert_allclose(batch["image"][0], deep / 32767.5 - 1, atol=2e-7)
    buffer = io.BytesIO()
    Image.fromarray(deep[..., 0]).save(buffer, "PNG")
    grey = images.decode_deep(tf.constant(buffer.getvalue())).numpy()
    np.testing.assert_array_equal(grey, np.repeat(deep[..., :1], 3, axis=-1))


def test_only_a_test_source(pairs_folder, tmp_path):
    config = pairs_config("")
    config.data.test_source = str(pairs_folder)
    assert {k: s.num_examples for k, s in dataset(config).splits.items()} == {"test": 3}
    config.total_steps = 0
    with pytest.raises(ValueError, match=r"say which weights, --config\.pretrained=PATH"):
        training.train_and_evaluate(config, tmp_path)
    config.unlock()
    config.total_steps = 1
    with pytest.raises(ValueError, match=r"no images to train on; --config\.total_steps=0"):
        experiment.build(config)


def test_faulty_pairs_are_named_or_left_out(pairs_folder, tmp_path, caplog):
    write_pairs(tmp_path / "train", [(40, 36)] * 4)
    Image.fromarray(smooth((41, 36), 1)).save(tmp_path / "train" / "GT" / "1_1.png")
    hazy = tmp_path / "train" / "hazy" / "2_1.png"
    hazy.write_bytes(hazy.read_bytes()[:99])
    (tmp_path / "train" / "hazy" / "9_1.png").write_bytes(b"")
    config = pairs_config(tmp_path)
    config.data.val_fraction = 0.0
    logging.getLogger("input_pipeline").propagate = True
    with pytest.raises(
        ValueError, match=r"2 pair\(s\) unreadable or of sizes that do not fit"
    ) as error:
        for _, _ in zip(dataset(config).train_batches(), range(4)):
            pass
    assert "hazy/1_1.png (40 x 36)" in str(error.value)
    assert "GT/1_1.png (41 x 36)" in str(error.value)
    assert str(hazy) in str(error.value)
    assert "1 images have no partner and are left out, such as" in caplog.text
    config.data.skip_corrupt = True
    assert dataset(config).splits["train"].num_examples == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "pair"},
            "unknown data.kind 'pair'; there are: classes, hazy_from_clear, pairs, deg",
        ),
        ({"source": "digits"}, "data.kind='pairs' needs a folder"),
        ({"source": ""}, "no data: say --config.data.source=FOLDER$"),
        (
            {"kind": "classes", "test_source": "x"},
            "test_source is for data.kind pairs and degraded",
        ),
        ({"pairs": {"pattern": "hazy/*.png"}}, "must name the hazy and the clear files"),
        ({"pairs": {"pattern": "a/{scene}.png b/{scene}.png"}}, "no pairs for the pattern"),
        ({"train_pp": "random_crop(32)"}, "must end with value_range"),
        ({"train_pp": f"decode|{FULL}"}, "must not begin with decode"),
        ({"train_pp": "pad_to(32)|normalize"}, "normalize works on 8-bit images alone"),
        ({"train_pp": FULL}, "leaves images of different sizes"),
    ],
)
def test_wrong_settings_of_data(pairs_folder, changes, message):
    config = pairs_config(pairs_folder)
    config.data.update(changes)
    with pytest.raises(ValueError, match=message):
        _ = dataset(config).train_image_shape


def test_a_pattern(tmp_path):
    write_pairs(tmp_path, [(30, 30)] * 2)
    (tmp_path / "hazy").rename(tmp_path / "foggy")
    config = pairs_config(tmp_path)
    config.data.pairs.pattern = "foggy/{scene}_*.png GT/{scene}_1.png"
    config.data.val_fraction = 0.0
    assert dataset(config).splits["train"].names == ("0_1.png", "1_1.png")


def test_pad_to_and_edge_decay():
    image = np.arange(12, dtype=np.uint16).reshape(3, 4, 1)
    pad_to = preprocess.build("pad_to((7, 4))", train=False)
    padded = pad_to({"image": tf.constant(image)}, tf.zeros(2, tf.int32))
    np.testing.assert_array_equal(
        padded["image"], np.pad(image, ((0, 4), (0, 0), (0, 0)), "reflect")
    )

    crop = preprocess.build("random_crop(8, edge_decay=1.0)", train=True)
    rows = tf.repeat(tf.range(16, dtype=tf.int32)[:, None, None], 16, axis=1)
    crops = (crop({"image": rows}, tf.constant([i, 0]))["image"] for i in range(300))
    tops = [int(cropped[0, 0, 0]) for cropped in crops]
    # Half of the windows are moved to an edge; of the rest, 2 of 9 are there anyway.
    assert 0.51 < np.mean([top in (0, 8) for top in tops]) < 0.71
    assert set(tops) == set(range(9))


# Haze made from clear photos.


def test_haze_follows_the_scattering_model():
    clear = tf.constant(noise((20, 30, 3)) / 2 + 0.5)
    depth = hazy_from_clear.random_depth(tf.constant([20, 30]), tf.constant([1, 2]))
    assert (float(tf.reduce_min(depth)), float(tf.reduce_max(depth))) == (0, 1)
    assert float(tf.reduce_mean(depth[:5])) > float(tf.reduce_mean(depth[-5:]))
    hazy = hazy_from_clear.add_haze(clear, depth, tf.constant([3, 4]), (1.2, 1.2), (0.8, 0.8))
    t = np.exp(-1.2 * depth.numpy())[..., None]
    np.testing.assert_allclose(hazy, clear * t + 0.8 * (1 - t), atol=1e-6)

    drawn = [
        hazy_from_clear.add_haze(
            clear, tf.ones((20, 30)), fold_in(tf.constant([0, 0]), i), (0.5, 1.5), (1, 1), variation
        )
        for i, variation in ((0, 0.0), (1, 0.0), (2, 0.5))
    ]
    t = [((1 - x) / (1 - clear)).numpy() for x in drawn]
    assert t[0].std() < 1e-4  # homogeneous
    assert abs(t[0].mean() - t[1].mean()) > 0.01
    assert t[2].std() > 0.02
    assert all(np.exp(-1.5) - 1e-3 < x.mean() < np.exp(-0.5) + 1e-3 for x in t)


@pytest.mark.slow
def test_sample_photos_become_hazy(tmp_path, capsys):
    assert sample_photos.main([str(tmp_path)]) == 0
    config = pairs_config(tmp_path)
    config.data.kind = "hazy_from_clear"
    config.data.haze.draws = 2
    data = dataset(config)
    assert {k: s.num_examples for k, s in data.splits.items()} == {"train": 4, "val": 2, "test": 4}
    first, again = (list(data.eval_batches("test")) for _ in range(2))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a["image"], b["image"])
    by_name = {}
    for batch in first:
        psnr = image_quality.dehazeformer(batch["image"], batch["target"])["psnr"]
        by_name[data.splits["test"].names[int(batch["index"][0])]] = batch["image"].tobytes()
        assert 8 < float(psnr[0]) < 25
    assert len({batch["image"].tobytes() for batch in first}) == 4
    epochs = [next(batches)["image"] for batches in [data.train_batches()] for _ in range(4)]
    assert len({x.tobytes() for batch in epochs for x in batch}) == 8

    # Where the depth map says how far it is, the haze follows it.
    source = data.splits["train"]
    row = source.names.index("motorcycle.png")
    (example,) = source.take([row]).map(source.load).as_numpy_iterator()
    depth = np.asarray(Image.open(tmp_path / "train" / "motorcycle_depth.png"), np.float64)
    clear, hazy = (example[k].astype(np.float64).mean(axis=-1) for k in ("target", "image"))
    moved = np.log(np.clip(np.abs(hazy - clear), 1, None))
    far = np.argsort(depth.ravel())
    assert moved.ravel()[far[-9999:]].mean() > moved.ravel()[far[:9999]].mean()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("beta", (2.0, 1.0), r"haze.beta must be \(lowest, highest\)"),
        ("airlight", (0.5, 1.5), "haze.airlight must be"),
        ("variation", 2.0, "haze.variation must lie"),
        ("draws", 0, "haze.draws must be at least 1"),
    ],
)
def test_wrong_haze(tmp_path, key, value, message):
    config = pairs_config(tmp_path)
    config.data.kind = "hazy_from_clear"
    config.data.haze[key] = value
    with pytest.raises(ValueError, match=message):
        dataset(config)


# Training and evaluation.


def test_losses_on_images():
    out, target = noise((2, 16, 16, 3), 1), noise((2, 16, 16, 3), 2)
    batch = {"target": jnp.asarray(target)}
    d = out - target
    expected = {
        "l1": np.abs(d).mean((1, 2, 3)),
        "mse": (d**2).mean((1, 2, 3)),
        "charbonnier": np.sqrt(d**2 + 1e-6).mean((1, 2, 3)),
        "ssim": 1 - image_quality.ssim((out + 1) / 2, (target + 1) / 2),
        "tv": np.abs(np.diff(out, axis=1)).mean((1, 2, 3))
        + np.abs(np.diff(out, axis=2)).mean((1, 2, 3)),
    }
    assert set(expected) == set(restore.TASK.losses)
    for name, value in expected.items():
        np.testing.assert_allclose(
            losses.get_loss(name, restore.TASK.losses)(out, batch), value, rtol=1e-5
        )
    both = losses.get_loss("l1 + 0.5*ssim", restore.TASK.losses)(out, batch)
    np.testing.assert_allclose(both, expected["l1"] + 0.5 * expected["ssim"], rtol=1e-5)
    both = losses.get_loss("1e+1*mse+2.e+0 * l1", restore.TASK.losses)(out, batch)
    np.testing.assert_allclose(both, 10 * expected["mse"] + 2 * expected["l1"], rtol=1e-5)


def test_cosine_per_epoch():
    config = common.get_config().schedule
    config.update(per_epoch=True, final_fraction=0.01)
    rate = optim.make_schedule(config, 4e-4, total_steps=45, steps_per_epoch=4.5)
    epochs = np.arange(10)
    expected = 4e-6 + (4e-4 - 4e-6) * (1 + np.cos(np.pi * epochs / 10)) / 2
    np.testing.assert_allclose([rate(np.ceil(4.5 * e)) for e in epochs], expected, rtol=1e-5)
    assert rate(4) == rate(0)
    assert rate(5) < rate(4)


def test_training_restores(trained, pairs_folder):
    workdir, figures = trained
    assert figures["val"]["examples"] == 1
    test = figures["test"]
    assert test["examples"] == 3
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses_seen = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses_seen[-1] < losses_seen[0]
    for name in ("curves.png", "restored.png"):
        assert (workdir / "report" / name).stat().st_size > 5000
    assert not (workdir / "labels.txt").exists()

    # The figures are those of each whole image, computed one by one.
    model = get_model("DehazeFormer-T", **TINY)
    params = npz.load(workdir / "weights.npz")
    rows = list(csv.DictReader((workdir / "report" / "test.csv").read_text().splitlines()))
    measure = jax.jit(image_quality.dehazeformer)
    for row in rows:
        hazy, clear = (
            np.asarray(Image.open(pairs_folder / "test" / k / row["file"]), np.float32) / 127.5 - 1
            for k in ("hazy", "GT")
        )
        restored = jax.jit(model.apply)({"params": params}, hazy[None])
        after = measure(restored, clear[None])
        before = measure(hazy[None], clear[None])
        for key in ("psnr", "ssim"):
            np.testing.assert_allclose(float(row[f"dehazeformer/{key}"]), after[key], rtol=1e-4)
            np.testing.assert_allclose(
                float(row[f"input/dehazeformer/{key}"]), before[key], rtol=1e-4
            )
    mean = np.mean([float(row["dehazeformer/psnr"]) for row in rows])
    np.testing.assert_allclose(test["dehazeformer/psnr"], mean, rtol=1e-5)


def test_what_is_printed():
    figures = {"loss": 0.5, "dehazeformer/psnr": 30.123, "examples": 5,
               "input/dehazeformer/psnr": 12.0}  # fmt: skip
    table = report.format_table(7, {"test": figures}).splitlines()
    assert table[2].split() == ["test,", "input", "12.0000"]
    assert table[3].split() == ["test", "0.5000", "30.1230", "5"]
    line = report.format_comparison("SOTS-indoor", "DehazeFormer-T", figures)
    assert "DehazeFormer-T on SOTS-indoor: dehazeformer/psnr 35.15 (here 30.12)" in line
    assert line.endswith("not the same images: SOTS-indoor has 500, here are 5")
    line = report.format_comparison("SOTS-indoor", "DehazeFormer-D", figures)
    assert line == "no score of DehazeFormer-D on SOTS-indoor is known here"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "ViT-Ti_16", "model": {}}, "unknown loss 'l1 '|unknown loss 'l1'"),
        (
            {"mixup_alpha": 0.2},
            "mixup_alpha is for the task classify, .* is for restore: set it to 0",
        ),
        ({"metrics": ("psnr",)}, "unknown metric 'psnr'; on images there are"),
        ({"benchmark": "SOTS"}, "unknown benchmark 'SOTS'; there are: SOTS-indoor, RESIDE-6K"),
    ],
)
def test_wrong_settings_of_runs(pairs_folder, changes, message):
    config = pairs_config(pairs_folder)
    if "model" in changes:
        del config["model"]
    config.update(changes)
    with pytest.raises(ValueError, match=message):
        experiment.validate_config(config)


def test_data_of_another_kind(digits_config):
    digits_config.model_name = "DehazeFormer-T"
    digits_config.model = {}
    digits_config.update(loss="l1", metrics=(), best_metric="loss")
    with pytest.raises(ValueError, match=r"set data\.kind to pairs, degraded or hazy_from"):
        experiment.build(digits_config)


# Restoring.


def restorer(**options):
    model, params = random_params("DehazeFormer-T", (32, 32), **TINY)
    return tiles.Restorer(model, {"params": params}, **options)


def test_bands_give_the_whole_images_result():
    for conv in ("depthwise", "full"):
        model, params = random_params("DehazeFormer-T", (32, 32), conv=conv, **TINY)
        x = noise((1, 99, 41, 3))
        whole = jax.jit(model.apply)({"params": params}, x)
        bands = jax.jit(model.clone(band_rows=8).apply)({"params": params}, x)
        np.testing.assert_allclose(bands, whole, atol=1e-5 * np.abs(whole).max())
    with pytest.raises(ValueError, match="band_rows=12 must be a multiple of 8"):
        model.clone(band_rows=12).apply({"params": params}, x)


def test_methods():
    image = noise((170, 70, 3))
    whole = restorer(method="whole")(image)
    assert np.abs(whole).max() <= 1
    np.testing.assert_allclose(restorer(method="bounded")(image), whole, atol=1e-4)
    # Tiles have statistics of their own, unless one holds the whole image.
    np.testing.assert_allclose(restorer(method="tiles", tile=170)(image), whole, atol=1e-5)
    assert np.abs(restorer(method="tiles", tile=64)(image) - whole).max() > 1e-3


@pytest.mark.parametrize(("memory", "method"), [(100, "whole"), (99, "bounded"), (9, "tiles")])
def test_what_fits_into_memory_is_chosen(monkeypatch, memory, method):
    needs = {"whole": 100, "bounded": 10}
    monkeypatch.setattr(tiles.Restorer, "_memory_of", lambda _, method, size: needs[method])
    assert restorer(memory=memory).method_for((99, 99)) == method
    assert restorer(memory=memory, method="whole").method_for((99, 99)) == "whole"


def test_tiles_of_an_identity_leave_no_seams():
    class Identity(Model):
        def clone(self):
            return self

        def apply(self, variables, x, train):
            return x * variables

    image = noise((200, 131, 3))
    tiled = tiles.Restorer(Identity(), 1.0, method="tiles", tile=64)(image)
    np.testing.assert_allclose(tiled, image, atol=1e-6)


def test_ensemble_does_not_depend_on_the_way_an_image_is_turned():
    image = noise((40, 52, 3))
    ensemble = restorer(method="whole", ensemble=True)
    plain = restorer(method="whole")(image)
    result = ensemble(image)
    assert np.abs(result - plain).max() > 1e-3
    np.testing.assert_allclose(ensemble(np.rot90(image)), np.rot90(result), atol=1e-5)


def saved(mode, path, **options):
    pixels = smooth((30, 40), 5)
    image = Image.fromarray(pixels)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(pixels[..., 0]))
    image.convert(mode).save(path, **options)
    return path


FILES = {
    "rgb.jpg": "RGB", "grey.jpg": "L", "cmyk.jpg": "CMYK", "rgb.png": "RGB", "alpha.png": "RGBA",
    "grey_alpha.png": "LA", "grey.tif": "L", "lzw.tif": "RGB", "rgb.webp": "RGB", "rgb.bmp": "RGB",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_are_written_as_they_were(tmp_path, name):
    options = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
    path = saved(FILES[name], tmp_path / name, **options)
    photo = photos.read(path)
    assert photo.pixels.shape == (30, 40, 3)
    again = Image.open(io.BytesIO(photo.encode(photo.pixels)))
    original = Image.open(path)
    assert (again.mode, again.size, again.format) == (
        original.mode, original.size, original.format,
    )  # fmt: skip
    atol = 1 if original.format in ("PNG", "TIFF", "BMP") else 12
    np.testing.assert_allclose(
        np.asarray(again, np.float32), np.asarray(original, np.float32), atol=atol
    )


def test_metadata_and_orientation_are_kept(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 6
    path = saved("RGB", tmp_path / "turned.jpg", exif=exif, dpi=(300, 300), icc_profile=b"icc")
    photo = photos.read(path)
    assert photo.pixels.shape == (40, 30, 3)
    again = Image.open(io.BytesIO(photo.encode(photo.pixels)))
    assert again.size == (40, 30)
    assert (again.getexif()[0x010F], again.getexif()[0x0112]) == ("a camera", 6)
    assert (again.info["icc_profile"], again.info["dpi"]) == (b"icc", (300, 300))
    np.testing.assert_allclose(
        np.asarray(again, np.float32), np.asarray(Image.open(path), np.float32), atol=12
    )
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "me")
    photo = photos.read(saved("RGB", tmp_path / "text.png", pnginfo=text, dpi=(300, 300)))
    again = Image.open(io.BytesIO(photo.encode(photo.pixels)))
    assert again.text == {"Author": "me"}
    assert round(again.info["dpi"][0]) == 300
    photo = photos.read(saved("RGB", tmp_path / "text.tif", tiffinfo={315: "me"}))
    assert Image.open(io.BytesIO(photo.encode(photo.pixels))).tag_v2[315] == "me"


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_sizes_are_read_from_the_header(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved("RGB", tmp_path / f"turned.{suffix}", exif=exif)
    assert files.read_size(path) == files.decode_in_python(path.read_bytes()).shape[:2] == (40, 30)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_pngs_stay_so(tmp_path, channels):
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    data = tf.io.encode_png(deep).numpy()
    text = b"tEXt" + b"Author\0me"
    chunk = (len(text) - 4).to_bytes(4) + text + zlib.crc32(text).to_bytes(4)
    path = tmp_path / "deep.png"
    path.write_bytes(data[:33] + chunk + data[33:])
    photo = photos.read(path)
    again = photo.encode(photo.pixels)
    assert chunk in again
    np.testing.assert_allclose(
        tf.io.decode_png(again, dtype=tf.uint16).numpy().astype(int), deep, atol=1
    )
    Image.open(io.BytesIO(again)).load()  # a whole PNG to others, too


def test_no_bits_are_lost_in_silence(tmp_path):
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((30, 40, 3), np.uint16), photometric="rgb")
    with pytest.raises(ValueError, match="convert it to a 16-bit PNG"):
        photos.read(tmp_path / "deep.tif")


def test_predict(trained, tmp_path):
    workdir, _ = trained
    folder = tmp_path / "hazy"
    (folder / "deep").mkdir(parents=True)
    saved("RGB", folder / "a.jpg")
    saved("RGBA", folder / "deep" / "b.png")
    Image.fromarray(smooth((20, 20), 0)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no image")
    arguments = [f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "--compare", "--ensemble"]
    result = run("predict", *arguments, folder, tmp_path / "small.png", tmp_path / "text.png")
    assert result.returncode == 1
    assert f"{folder}/a.jpg -> {tmp_path}/out/a.jpg (40 x 30, whole" in result.stdout
    errors = result.stderr.splitlines()
    assert errors == [
        f"cannot restore {tmp_path}/small.png: images of 20 x 20 pixels are too small for "
        "DehazeFormer: both sides must have at least 25",
        f"cannot restore {tmp_path}/text.png: not an image in a format that Pillow reads",
        "2 of 4 files failed",
    ]
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert written == ["a.jpg", "compare/a.jpg.png", "compare/deep/b.png.png", "deep/b.png"]
    with Image.open(tmp_path / "out" / "deep" / "b.png") as restored:
        assert (restored.mode, restored.size) == ("RGBA", (40, 30))
    with Image.open(tmp_path / "out" / "compare" / "a.jpg.png") as both:
        assert both.size == (80, 30)


def test_nothing_is_overwritten(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        saved("RGB", tmp_path / folder / "1.png")
    both = [str(tmp_path / "a"), str(tmp_path / "b" / "1.png")]
    with pytest.raises(ValueError, match=r"a/1.png and .*b/1.png would both be written to"):
        predict.name_outputs(both, restore.RestoringPredictor(None), tmp_path / "out")
    with pytest.raises(ValueError, match="1 of the results are there already"):
        predict.name_outputs(both[:1], restore.RestoringPredictor(None), tmp_path / "b")
    (tmp_path / "none" / "compare").mkdir(parents=True)
    saved("RGB", tmp_path / "none" / "compare" / "1.png.png")
    with pytest.raises(ValueError, match=r"there already, such as .*/1\.png\.png"):
        predict.name_outputs(
            both[:1], restore.RestoringPredictor(None, compares=True), tmp_path / "none"
        )


def test_wrong_options():
    with pytest.raises(ValueError, match="a tile must have at least 64 pixels"):
        restorer(tile=16)
    with pytest.raises(ValueError, match="memory must be positive"):
        restorer(memory=-1)
    with pytest.raises(ValueError, match="unknown method 'bands'"):
        restorer(method="bands")
