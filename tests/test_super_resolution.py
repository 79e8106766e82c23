"""Data of which one image is larger or clean, models that enlarge, and what is made of files."""

import io
import json
import logging
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from skimage import data as skimage_data

from configs import common
from input_pipeline import check, get_dataset, memory_cache
from input_pipeline.resampling import shrink_bicubic
from tests.commands import run
from tests.conftest import noise, random_params
from vit_jax import image_quality, losses, ops, photos, predict, tiles
from vit_jax import train as training
from vit_jax.models.base import Model
from vit_jax.tasks import restore

TINY = dict(embed_dim=8, depths=(2,), num_heads=(2,), window_size=4)
FULL = "value_range(-1, 1)"


def photo(size, begin=0):
    """An (h, w, 3) uint8 part of a real photo."""
    return skimage_data.astronaut()[begin : begin + size[0], 100 : 100 + size[1]]


def shrink(image, factor):
    return shrink_bicubic(tf.constant(image), factor).numpy()


# Making images smaller and larger.


def shrink_by_loop(image, factor):
    """MATLAB's imresize from its definition: sums of mirrored pixels, rounded after each axis."""

    def cubic(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0

    for _ in range(2):  # rows, then columns
        side = image.shape[0]
        mirrored = [*range(side), *reversed(range(side))]
        rows = []
        for i in range(side // factor):
            centre = (i + 0.5) * factor - 0.5
            near = range(int(centre) - 2 * factor, int(centre) + 2 * factor + 2)
            weights = np.array([cubic((j - centre) / factor) for j in near])
            pixels = np.stack([image[mirrored[j % (2 * side)]] for j in near])
            rows.append(np.tensordot(weights / weights.sum(), pixels, 1))
        image = np.clip(np.floor(np.stack(rows) + 0.5), 0, 255).swapaxes(0, 1)
    return image


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_smaller_images(factor):
    image = photo((12 * factor, 5 * factor))
    found = shrink(image, factor)
    assert found.shape == (12, 5, 3)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, shrink_by_loop(image.astype(float), factor), atol=1)
    assert np.mean(found != shrink_by_loop(image.astype(float), factor)) < 0.01  # .5 in float32


@pytest.mark.skipif(
    "SET5" not in os.environ, reason="SET5 names no folder with the published pairs"
)
@pytest.mark.parametrize("factor", [2, 4])
def test_smaller_images_are_those_of_set5(factor):
    folder = Path(os.environ["SET5"])
    for path in (folder / "HR").iterdir():
        large = np.asarray(Image.open(path).convert("RGB"))
        published = folder / "LR_bicubic" / f"X{factor}" / f"{path.stem}x{factor}.png"
        np.testing.assert_array_equal(
            shrink(large, factor), np.asarray(Image.open(published).convert("RGB"))
        )


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_larger_images(factor):
    image = noise((1, 9, 13, 2))
    found = np.asarray(ops.bicubic_upsample(image, factor))
    for channel in range(2):  # Pillow has the same filter, and another border
        expected = Image.fromarray(image[0, ..., channel]).resize(
            (13 * factor, 9 * factor), Image.BICUBIC
        )
        inside = np.s_[2 * factor : -2 * factor, 2 * factor : -2 * factor]
        np.testing.assert_allclose(
            found[0, ..., channel][inside], np.asarray(expected)[inside], atol=1e-5
        )
    line = np.broadcast_to(np.arange(9.0)[None, :, None, None], (1, 9, 3, 1))
    mirrored = np.concatenate([line[:, ::-1], line, line[:, ::-1]], axis=1)
    far = ops.bicubic_upsample(mirrored, factor)[:, 9 * factor : 18 * factor]
    np.testing.assert_allclose(ops.bicubic_upsample(line, factor), far, atol=1e-5)


# Data.


@pytest.fixture(scope="module")
def photos_folder(tmp_path_factory):
    """Clean photos of two sizes, neither of which 2 or 3 divides."""
    folder = tmp_path_factory.mktemp("photos")
    for i, size in enumerate([(61, 49), (55, 67), (61, 49), (55, 67)]):
        Image.fromarray(photo(size, 40 * i)).save(folder / f"{i}.png")
    return folder


def config_of(source, model="SwinIR-lightweight-x2", **degradation):
    config = common.get_config()
    config.model_name = model
    config.model.update(TINY)
    config.data.kind = "degraded"
    config.data.source = str(source)
    config.data.train_pp = f"random_crop(24)|flip_lr|rot90|{FULL}"
    config.data.eval_pp = FULL
    config.data.degradation.update(degradation)
    config.batch_size = 2
    config.total_steps = 6
    config.eval_every = 3
    config.log_every = 1
    config.loss = "charbonnier(4e-9)"
    config.metrics = ("basicsr/psnr_y", "basicsr/psnr_b")
    config.best_metric = "basicsr/psnr_y"
    config.optim.learning_rate = 2e-3
    return config


def dataset(config, scale):
    return get_dataset(config.data, config.batch_size, seed=0, scale=scale)


def to_grey_levels(x):
    return np.round((x + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize("scale", [2, 3])
def test_small_and_large_crops_show_the_same(photos_folder, scale):
    data = dataset(config_of(photos_folder), scale)
    assert data.train_image_shape == (24 // scale, 24 // scale, 3)
    for batch, _ in zip(data.train_batches(), range(6)):
        assert batch["image"].shape == (2, 24 // scale, 24 // scale, 3)
        for small, large in zip(batch["image"], batch["target"]):
            again = shrink(to_grey_levels(large), scale).astype(int)
            inside = np.s_[2:-2, 2:-2]  # elsewhere the crop's border is mirrored in place of it
            difference = np.abs(again - to_grey_levels(small))[inside]
            assert difference.max() <= 2  # rounded after columns, then rows, where it is turned
            assert difference.mean() < 0.3


@pytest.mark.parametrize("scale", [2, 3])
def test_whole_photos_to_evaluate(photos_folder, scale):
    data = dataset(config_of(photos_folder), scale)
    seen = set()
    for split in ("val", "test"):
        for batch in data.eval_batches(split):
            h, w = batch["image"].shape[1:3]
            assert batch["target"].shape == (1, h * scale, w * scale, 3)
            small = shrink(to_grey_levels(batch["target"][0]), scale)
            np.testing.assert_array_equal(to_grey_levels(batch["image"][0]), small)
            seen.add((h, w))
    assert seen <= {(61 // scale, 49 // scale), (55 // scale, 67 // scale)}


def noise_of(batch):
    return batch["image"] - batch["target"]


def test_noise(photos_folder):
    data = dataset(config_of(photos_folder, sigma=50.0), 1)
    first, second = (list(data.eval_batches("val")) for _ in range(2))
    np.testing.assert_array_equal(first[0]["image"], second[0]["image"])
    added = noise_of(first[0])
    assert added.std() == pytest.approx(2 * 50 / 255, rel=0.03)
    assert abs(added.mean()) < 0.01
    assert np.abs(first[0]["image"]).max() > 1  # not clipped
    assert np.abs(added[..., 0] - added[..., 1]).max() > 0.1
    batches = [noise_of(batch) for batch, _ in zip(data.train_batches(), range(4))]
    flat = [x for batch in batches for x in batch]
    assert all(
        np.corrcoef(a.ravel(), b.ravel())[0, 1] < 0.2 for i, a in enumerate(flat) for b in flat[:i]
    )


def test_grey_noise_is_that_of_one_channel(photos_folder):
    data = dataset(config_of(photos_folder, sigma=25.0, grayscale=True), 1)
    (batch,) = data.eval_batches("val")
    for name in ("image", "target"):
        np.testing.assert_array_equal(batch[name][..., 0], batch[name][..., 2])
    assert noise_of(batch).std() == pytest.approx(2 * 25 / 255, rel=0.03)


@pytest.mark.parametrize("grayscale", [False, True])
def test_jpeg(photos_folder, grayscale):
    (batch,) = dataset(config_of(photos_folder, quality=10, grayscale=grayscale), 1).eval_batches(
        "val"
    )
    clean = Image.fromarray(to_grey_levels(batch["target"][0]))
    file = io.BytesIO()
    (clean.convert("L") if grayscale else clean).save(file, "JPEG", quality=10)
    expected = np.asarray(Image.open(file).convert("RGB")).astype(int)
    found = to_grey_levels(batch["image"][0])
    assert np.mean(np.abs(found - expected) > 2) < 0.02
    assert np.abs(expected - np.asarray(clean)).mean() > 2


def test_the_large_images_of_a_folder_of_pairs_are_the_photos(set_of_pairs):
    config = config_of(set_of_pairs)
    config.data.test_source = str(set_of_pairs)
    splits = dataset(config, 2).splits
    assert splits["test"].names == ("p0.png", "p1.png", "p2.png")
    (set_of_pairs / "train").mkdir()
    (set_of_pairs / "HR").rename(set_of_pairs / "train" / "HR")
    with pytest.raises(ValueError, match=r"data\.test_source='.*' has no test folder"):
        dataset(config, 2)


def test_faulty_and_small_photos_are_named(tmp_path):
    for i, size in enumerate([(40, 40), (40, 30), (40, 40)]):
        Image.fromarray(photo(size, 40 * i)).save(tmp_path / f"{i}.png")
    config = config_of(tmp_path)
    config.data.val_fraction = 0.0
    config.data.train_pp = f"random_crop(32)|{FULL}"
    with pytest.raises(ValueError, match=r"crop less, .*; the smallest is .*1\.png \(40 x 30\)"):
        list(zip(dataset(config, 2).train_batches(), range(4)))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"cannot read .*1\.png: .*skip_corrupt=True"):
        list(zip(dataset(config, 2).train_batches(), range(4)))
    config.data.skip_corrupt = True
    data = dataset(config, 2)
    assert data.splits["train"].num_examples == 2
    assert len(list(zip(data.train_batches(), range(4)))) == 4


@pytest.mark.parametrize("kind", ["degraded", "pairs", "classes"])
def test_what_is_kept_in_memory_is_what_was_read(kind, photos_folder, set_of_pairs, monkeypatch):
    source = {"degraded": photos_folder, "pairs": set_of_pairs}.get(kind, photos_folder.parent)
    config = config_of(source, sigma=5.0)
    config.data.kind = kind
    config.data.val_fraction = 0.0
    scale = 2
    if kind == "classes":
        for name in ("a", "b"):
            (source / "classes" / name).mkdir(parents=True)
            Image.fromarray(photo((30, 40))).save(source / "classes" / name / "1.png")
        config.data.source = str(source / "classes")
        config.data.train_pp = f"decode|random_crop(24)|flip_lr|{FULL}"
        config.data.eval_pp = f"decode|resize(24)|{FULL}"
        scale = 1
    plain = [batch for batch, _ in zip(dataset(config, scale).train_batches(), range(6))]
    config.data.cache = True
    reads = []
    monkeypatch.setattr(
        memory_cache.MemoryCache, "_keep", count(reads, memory_cache.MemoryCache._keep)
    )
    cached = [batch for batch, _ in zip(dataset(config, scale).train_batches(), range(6))]
    for a, b in zip(plain, cached):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert 0 < len(reads) < 12 + 8  # of 12 examples and what is read ahead


def count(calls, method):
    def counted(self, *args):
        calls.append(args[0])
        return method(self, *args)

    return counted


def test_a_cache_keeps_what_fits(caplog):
    loads = []

    def load(row):
        tf.py_function(lambda i: loads.append(int(i)), [row["index"]], [])
        return {
            "image": tf.fill((10, 10, 3), tf.cast(row["index"], tf.uint8)),
            "label": row["index"],
        }

    logging.getLogger("input_pipeline").propagate = True
    cache = memory_cache.MemoryCache(load, limit=2 * 308)
    rows = tf.data.Dataset.range(3).repeat(3).map(lambda i: cache({"index": i}))
    seen = [(int(x["image"][9, 9, 2]), int(x["label"])) for x in rows]
    assert seen == [(i, i) for i in range(3)] * 3
    assert "data.cache: 2 images fit into memory" in caplog.text


def test_what_cannot_be_kept_says_so(photos_folder):
    config = config_of(photos_folder)
    config.data.kind = "hazy_from_clear"
    config.data.cache = True
    with pytest.raises(
        ValueError, match=r"data\.cache is for folders of images whose reading draws"
    ):
        next(dataset(config, 1).train_batches())


@pytest.mark.parametrize(
    ("changes", "scale", "message"),
    [
        ({}, 1, r"nothing is done to the photos: set data.degradation.sigma=25"),
        ({"degradation": {"sigma": 300.0}}, 1, r"sigma must lie in \[0, 255\], not 300"),
        ({"degradation": {"quality": 101}}, 1, r"quality must lie in \[1, 100\]"),
        ({"degradation": {"quality": 9, "sigma": 1.0}}, 1, "noise or JPEG: set sigma or quality"),
        ({"train_pp": f"resize(32)|{FULL}"}, 2, "one image is 2 times larger, where resize has no"),
        (
            {"train_pp": f"random_crop(25)|{FULL}"},
            2,
            "25 x 25 pixels, which the model's factor of 2",
        ),
        ({"kind": "hazy_from_clear"}, 2, "enlarges x2, but the images of data.kind='hazy_from"),
    ],
)
def test_wrong_settings(photos_folder, changes, scale, message):
    config = config_of(photos_folder)
    config.data.update(changes)
    with pytest.raises(ValueError, match=message):
        _ = dataset(config, scale).train_image_shape


@pytest.fixture
def set_of_pairs(tmp_path):
    """Laid out like Set5 and DIV2K; the large images have a row more than twice the small ones."""
    for i in range(3):
        large = photo((41, 36), 50 * i)
        for folder, name, image in [
            ("HR", f"p{i}.png", large),
            ("LR_bicubic/X2", f"p{i}x2.png", shrink(large[:40], 2)),
            ("LR_bicubic/X4", f"p{i}x4.png", shrink(large[:40], 4)),
        ]:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / name)
    return tmp_path


@pytest.mark.parametrize("scale", [2, 4])
def test_pairs_of_small_and_large_images(set_of_pairs, scale, capsys):
    config = config_of(set_of_pairs)
    config.data.kind = "pairs"
    config.data.val_fraction = 0.0
    data = dataset(config, scale)
    assert data.splits["train"].num_examples == 3
    batch = next(data.train_batches())
    again = shrink(to_grey_levels(batch["target"][0]), scale).astype(int)
    difference = np.abs(again - to_grey_levels(batch["image"][0]))
    assert difference[2:-2, 2:-2].max() <= 1
    assert check.main([str(set_of_pairs), f"--scale={scale}"]) == 0
    assert "3 pairs, by names that end in the factor" in capsys.readouterr().out


def test_pairs_of_another_factor_are_named(set_of_pairs):
    Image.fromarray(photo((10, 18))).save(set_of_pairs / "LR_bicubic" / "X2" / "p1x2.png")
    config = config_of(set_of_pairs)
    config.data.kind = "pairs"
    config.data.val_fraction = 0.0
    with pytest.raises(ValueError, match=r"p1x2\.png \(10 x 18\), .*p1\.png \(41 x 36\)"):
        for _, _ in zip(dataset(config, 2).train_batches(), range(4)):
            pass


# Figures.


def test_the_border_is_left_out_where_images_were_enlarged():
    metric = restore.get_metric("basicsr/psnr_y", "l1").each
    target, out = noise((1, 40, 48, 3)), noise((1, 40, 48, 3), 1)
    out[:, 4:-4, 4:-4] = target[:, 4:-4, 4:-4] * 0.9
    inside = image_quality.basicsr(out, target, 4)["psnr_y"]
    found = metric(out, {"image": np.zeros((1, 10, 12, 3)), "target": target})
    np.testing.assert_allclose(found, inside)
    whole = metric(out, {"image": np.zeros((1, 40, 48, 3)), "target": target})
    assert whole < found - 5


def blocking_by_loop(x):
    """The blocking effect factor of one (h, w) channel, from its definition."""
    h, w = x.shape
    edges, others = [], []
    for j in range(w - 1):
        (edges if (j + 1) % 8 == 0 else others).append(((x[:, j] - x[:, j + 1]) ** 2).sum())
    for i in range(h - 1):
        (edges if (i + 1) % 8 == 0 else others).append(((x[i] - x[i + 1]) ** 2).sum())
    count = h * (w // 8 - 1) + w * (h // 8 - 1)
    edge, other = sum(edges) / count, sum(others) / (h * (w - 1) + w * (h - 1) - count)
    return np.log2(8) / np.log2(min(h, w)) * (edge - other) if edge > other else 0.0


@pytest.mark.parametrize("size", [(32, 40), (33, 47)])
def test_psnr_b(size):
    target = np.round((noise((1, *size, 2)) + 1) * 127.5)
    blocks = np.kron(noise((1, 7, 7, 2)) * 20, np.ones((1, 8, 8, 1)))[:, : size[0], : size[1]]
    for image in (target * 0.2 + blocks, target + 3):
        error = np.mean((image - target) ** 2, axis=(0, 1, 2))
        blocking = np.array([blocking_by_loop(image[0, ..., c]) for c in range(2)])
        expected = np.mean(10 * np.log10(255**2 / (error + blocking)))
        found = image_quality.psnr_b(image.astype(np.float32), target.astype(np.float32), 255)
        np.testing.assert_allclose(found, [expected], rtol=1e-5)
    assert blocking_by_loop((target * 0.2 + blocks)[0, ..., 0]) > 0
    small = noise((1, 11, 15, 3))
    np.testing.assert_allclose(
        image_quality.psnr_b(small, small + 0.1), image_quality.psnr(small, small + 0.1), rtol=1e-5
    )


def test_charbonnier_takes_an_epsilon():
    out, batch = noise((2, 4, 4, 3)), {"target": np.zeros((2, 4, 4, 3), np.float32)}
    expected = 0.5 * np.sqrt(out**2 + 0.04).mean((1, 2, 3))
    for name in ("0.5 * charbonnier(0.04)", "5e-1*charbonnier(epsilon=4e-2)"):
        found = losses.get_loss(name, restore.TASK.losses)(out, batch)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name, message in [
        ("charbonnier(x)", "epsilon must be a positive number, not 'x'"),
        ("charbonnier(-1e-3)", "epsilon must be a positive number, not -0.001"),
        ("charbonnier(1, 2)", r"charbonnier\(1, 2\) does not fit charbonnier\(epsilon\)"),
        ("charbonnier(1, epsilon=2)", "does not fit charbonnier"),
        ("l1(2)", r"l1\(2\) does not fit l1\(\)"),
        ("l1 - ssim", "unknown loss 'l1 - ssim' in 'l1 - ssim'"),
        ("l1 +", "cannot read the loss 'l1 \\+'; write l1, or"),
        ("", "cannot read the loss ''"),
    ]:
        with pytest.raises(ValueError, match=message):
            losses.get_loss(name, restore.TASK.losses)


# Training, evaluation, and a person's files.


@pytest.fixture(scope="module")
def trained(photos_folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("enlarging")
    return workdir, training.train_and_evaluate(config_of(photos_folder), workdir)


def test_training_and_its_report(trained, photos_folder):
    workdir, figures = trained
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "val", "test"}
    test = figures["test"]
    assert test["examples"] == 1
    # The input's figures are those of its bicubic enlargement.
    _, line = (workdir / "report" / "test.csv").read_text().splitlines()
    name = line.split(",")[0]
    large = np.asarray(Image.open(photos_folder / name))
    large = large[: len(large) // 2 * 2, : large.shape[1] // 2 * 2]
    enlarged = ops.bicubic_upsample(shrink(large, 2)[None] / np.float32(127.5) - 1, 2)
    expected = image_quality.basicsr(enlarged, large[None] / np.float32(127.5) - 1, 2)["psnr_y"]
    assert test["input/basicsr/psnr_y"] == pytest.approx(float(expected[0]), abs=1e-3)
    assert (workdir / "report" / "restored.png").stat().st_size > 10_000


def test_predict_enlarges_files(trained, tmp_path):
    workdir, _ = trained
    folder = tmp_path / "small"
    folder.mkdir()
    Image.fromarray(photo((30, 41))).save(folder / "a.jpg")
    transparent = Image.fromarray(photo((30, 41)))
    transparent.putalpha(Image.fromarray(photo((30, 41))[..., 0]))
    transparent.save(folder / "b.png")
    deep = tf.io.encode_png(photo((30, 41)).astype(np.uint16) * 257).numpy()
    (folder / "c.png").write_bytes(deep)
    result = run("predict", f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "--compare",
                 folder)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"{folder}/a.jpg -> {tmp_path}/out/a.jpg (82 x 60, whole" in result.stdout
    for name, mode in (("a.jpg", "RGB"), ("b.png", "RGBA")):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.size, image.mode) == ((82, 60), mode)
    assert photos.read(tmp_path / "out" / "c.png").stored is None  # still of 16 bits
    with Image.open(tmp_path / "out" / "compare" / "a.jpg.png") as both:
        assert both.size == (164, 60)


def test_tiles_have_the_windows_of_the_whole_image():
    """The middle of a tile is that of the whole image, which it would not be a pixel aside."""
    model, params = random_params("SwinIR-denoise-color", (8, 8), **TINY)
    params = jax.tree.map(lambda x: x * 0.5, params)
    image = 0.5 * noise((133, 99, 3))
    whole = tiles.Restorer(model, {"params": params}, method="whole")(image)
    in_tiles = tiles.Restorer(model, {"params": params}, method="tiles", tile=64)(image)
    assert in_tiles.shape == whole.shape
    starts = [tiles._tile_starts(side, 64, 4) for side in (136, 100)]
    assert starts == [[0, 36, 72], [0, 36]]
    # Two blocks and the convolutions reach a dozen pixels, and no other tile is there.
    middle = np.s_[112:120, 76:84]
    np.testing.assert_allclose(in_tiles[middle], whole[middle], atol=1e-6)
    aside = tiles.Restorer(model, {"params": params}, method="whole")(image[1:])[111:119, 76:84]
    assert np.abs(aside - whole[middle]).mean() > 1e-4


def test_tiles_of_an_enlargement_leave_no_seams():
    class Nearest(Model):
        upscale, tile_multiple = 3, 8

        def clone(self):
            return self

        def apply(self, variables, x, train):
            return ops.nearest_upsample(x, 3) * variables

    image = noise((150, 67, 3))
    tiled = tiles.Restorer(Nearest(), 1.0, method="tiles", tile=70, ensemble=True)(image)
    np.testing.assert_allclose(tiled, ops.nearest_upsample(image[None], 3)[0], atol=1e-6)


def test_the_convert_command_and_its_namings(trained, tmp_path):
    workdir, _ = trained
    result = run("convert", workdir, tmp_path / "a.safetensors", "--naming=timm")
    assert result.returncode != 0
    assert (
        "unknown naming 'timm' of these weights; there is just one: leave it out" in result.stderr
    )
    result = run("convert", workdir, tmp_path / "a.npz", "--naming=timm")
    assert "--naming=timm is for .safetensors and .pth" in result.stderr
    result = run("convert", workdir, tmp_path / "a.safetensors")
    assert result.returncode == 0, result.stderr
    fields = [f"--field={key}={value}" for key, value in TINY.items()]
    name = "--model=SwinIR-lightweight-x2"
    result = run("convert", tmp_path / "a.safetensors", tmp_path / "run", name, *fields)
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["best_metric"] == "basicsr/psnr_y"


def test_smaller_tiles_where_memory_is_little(monkeypatch):
    model, params = random_params("SwinIR-denoise-color", (8, 8), **TINY)
    needs = lambda _, method, size: size[0] * size[1]  # noqa: E731
    monkeypatch.setattr(tiles.Restorer, "_memory_of", needs)
    restorer = tiles.Restorer(model, {"params": params}, memory=130 * 130)
    assert restorer.method_for((300, 300)) == "tiles"
    assert restorer._tile_side() == 128
    assert tiles.Restorer(model, {"params": params}, method="tiles")._tile_side() == 512


def test_very_small_images_are_restored():
    model, params = random_params("SwinIR-lightweight-x2", (8, 8), **TINY)
    out = tiles.Restorer(model, {"params": params}, method="whole")(noise((1, 9, 3)))
    assert out.shape == (2, 18, 3)
    assert np.isfinite(out).all()


def test_the_shifts_mask_is_no_large_constant():
    model, params = random_params("SwinIR-denoise-color", (8, 8), **{**TINY, "window_size": 8})
    images = jax.ShapeDtypeStruct((1, 512, 512, 3), np.float32)
    lowered = jax.jit(model.apply).lower({"params": params}, images)
    assert len(lowered.as_text()) < 5e6


def test_a_model_for_grey_says_so_of_colours(tmp_path, caplog):
    logging.getLogger("vit_jax").propagate = True
    model, params = random_params("SwinIR-denoise-gray", (8, 8), **TINY)
    Image.fromarray(photo((16, 16))).save(tmp_path / "a.png")
    Image.fromarray(photo((16, 16))[..., 0]).save(tmp_path / "grey.png")
    named = {tmp_path / name: Path(name) for name in ("a.png", "grey.png")}
    restorer = tiles.Restorer(model, {"params": params}, method="whole")
    predictor = restore.RestoringPredictor(restorer)
    assert predict.answer_files(predictor, named, tmp_path / "out") == {}
    assert caplog.text.count("has colours, which this model for grey images takes off it") == 1
    with Image.open(tmp_path / "out" / "grey.png") as image:
        assert (image.mode, image.size) == ("L", (16, 16))


def test_exif_data_name_the_new_size(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8769).update({40962: 41, 40963: 30})
    Image.fromarray(photo((30, 41))).save(tmp_path / "a.jpg", exif=exif)
    read = photos.read(tmp_path / "a.jpg")
    again = Image.open(io.BytesIO(read.encode(noise((60, 82, 3))))).getexif()
    assert again[0x010F] == "a camera"
    assert (again.get_ifd(0x8769)[40962], again.get_ifd(0x8769)[40963]) == (82, 60)
