"""What a person sees who has an image that is far longer than it is wide, or far too large."""

import io
import itertools
import warnings

import numpy as np
import psutil
import pytest
import tensorflow as tf
from PIL import Image

from configs import common
from input_pipeline import get_dataset, images, prepare, storing
from tests.helpers import noise, write_classes
from vit_jax import tiles
from vit_jax.models.base import Model

THIN = "decode|resize_small(256)|central_crop(8)|value_range(-1, 1)"


def png(size, mode="RGB", **options):
    data = io.BytesIO()
    Image.new(mode, size).save(data, "PNG", **options)
    return data.getvalue()


@pytest.fixture
def thin_folder(folder_config, image_folder):
    """A folder of classes with an image of 199 bytes that would take 31 GB."""
    (image_folder / "train" / "red" / "it's thin [ü].png").write_bytes(png((40_000, 1)))
    folder_config.data.train_pp = "decode|resize_small(256)|random_crop(8)|value_range(-1, 1)"
    folder_config.data.eval_pp = THIN
    return folder_config


@pytest.mark.parametrize("cache", [False, True])
def test_training_names_the_file(thin_folder, cache, caplog):
    thin_folder.data.cache = cache
    batches = get_dataset(thin_folder.data, batch_size=4, seed=0).train_batches()
    message = (
        r"cannot prepare .*red/it's thin \[ü\]\.png: resize_small\(256\) would make 256 x 10240000 "
        "pixels of 1 x 40000, and 178,956,970 are the most: crop or remove that image$"
    )
    with pytest.raises(ValueError, match=message):
        list(itertools.islice(batches, 30))
    assert "looking for it" not in caplog.text


def test_photos_too_long_for_a_jpeg_are_named(tmp_path):
    config = common.get_config().data
    config.source, config.kind, config.degradation.quality = str(tmp_path), "degraded", 40
    config.train_pp, config.val_fraction = "random_crop(1)|value_range(-1, 1)", 0.0
    config.eval_pp = "value_range(-1, 1)"
    (tmp_path / "long.png").write_bytes(png((65_501, 1)))
    batches = get_dataset(config, batch_size=1, seed=0).train_batches()
    with pytest.raises(ValueError, match=r"long\.png has more than the 65,500 pixels"):
        next(batches)


def test_too_small_images_are_named(folder_config, image_folder):
    write_classes(image_folder / "train", 1)
    folder_config.data.train_pp = "decode|random_crop(17)|value_range(-1, 1)"
    batches = get_dataset(folder_config.data, batch_size=4, seed=0).train_batches()
    with pytest.raises(ValueError, match=r"cannot prepare .*\.png: random_crop of 17 x 17 from a"):
        next(batches)


def test_what_sizes_tell_beforehand_names_no_file(folder_config):
    folder_config.data.train_pp = "decode|resize(8)|random_crop(9)|value_range(-1, 1)"
    with pytest.raises(ValueError, match=r"^random_crop of 9 x 9 from a smaller image"):
        next(get_dataset(folder_config.data, batch_size=4, seed=0).train_batches())


@pytest.mark.parametrize("size", [(1_000_001, 1), (1, 1_000_001)])
def test_longer_pngs_than_tensorflow_reads(size):
    data = tf.constant(png(size))
    assert images.decode(data).shape == (*size[::-1], 3)
    assert images.decode_deep(data).shape == (*size[::-1], 3)


def test_images_longer_than_a_jpeg_are_prepared(tmp_path, capsys):
    for label, size in (("a", (140_000, 3)), ("b", (30, 20))):
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / "0.png").write_bytes(png(size))
    code = prepare.main([str(tmp_path / "in"), str(tmp_path / "out"), "--resize=2", "--name=small"])
    assert code == 0, capsys.readouterr().err
    for data, ending in ((png((140_000, 3)), b"\x89PNG"), (png((30, 20)), b"\xff\xd8")):
        stored = storing._shrink(tf.constant(data), 2, 95).numpy()
        assert stored.startswith(ending)
        assert min(Image.open(io.BytesIO(stored)).size) == 2


class Enlarger(Model):
    """A model that repeats pixels."""

    upscale = 4

    def clone(self):
        return self

    def apply(self, variables, x, train):
        return x.repeat(4, axis=1).repeat(4, axis=2)


def test_a_result_larger_than_the_memory_is_refused_before_it_is_made(monkeypatch):
    restorer = tiles.Restorer(Enlarger(), {}, method="tiles", tile=64)
    image = np.broadcast_to(np.float32(0), (1, 40_000_000, 3))  # takes no memory
    available = psutil.virtual_memory()._replace(available=2**34)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    message = r"result would have 160,000,000 x 4 pixels, which take about 28\.6 GiB of memory, and"
    for call in (lambda: restorer(image), lambda: restorer.method_for(image.shape[:2])):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3)])
@pytest.mark.parametrize("method", ["whole", "tiles"])
def test_thin_images_are_restored(size, method):
    image = noise((*size, 3))
    restorer = tiles.Restorer(Enlarger(), {}, method=method, tile=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = restorer(image)
    np.testing.assert_allclose(restored, image.repeat(4, 0).repeat(4, 1), atol=1e-6)


def test_the_weights_of_the_narrowest_tile():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(tiles._feather(1), [1])
        np.testing.assert_array_equal(tiles._feather(3), [1, 1, 1])


def test_photos_smaller_than_the_factor_are_named(tmp_path, folder_config):
    for i, size in enumerate([(20, 16), (9, 1)]):
        (tmp_path / "photos" / "test").mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "test" / f"{i}.png").write_bytes(png(size))
    data = folder_config.data
    data.kind, data.source, data.test_source = "degraded", "", str(tmp_path / "photos")
    data.train_pp = "random_crop(8)|value_range(-1, 1)"
    data.eval_pp = "value_range(-1, 1)"
    message = r"cannot prepare .*test/1\.png: it has fewer pixels a side than the model's factor, 2"
    with pytest.raises(ValueError, match=message):
        list(get_dataset(data, batch_size=2, seed=0, scale=2).eval_batches("test"))
