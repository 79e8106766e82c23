"""Haze that is made from clear photos and their depth maps."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import get_dataset, sample_photos
from input_pipeline.sources import get_splits, hazy_from_clear
from input_pipeline.sources.base import fold_in
from input_pipeline.sources.pairs import find_pairs
from tests.helpers import (
    FULL,
    data_config,
    dataset,
    noise,
    pairs_config,
    sizes,
    write_classes,
    write_image,
    write_same_pairs,
)
from vit_jax import image_quality


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
    assert {k: s.num_examples for k, s in data.splits.items()} == {"train": 11, "val": 2, "test": 4}
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


# Depth maps and other files beside the photos


@pytest.mark.parametrize(
    "name",
    [
        "a_depth.png",
        "a_depth.PNG",
        "a_Depth.jpg",
        "a_depth.tif",
        "a_depth.npy",
        "a-depth.png",
        "a.depth.png",
        "a_depth_map.png",
        "a_depth16.png",
        "a_depth (1).png",
        "depth_a.png",
    ],
)
def test_a_depth_map_of_any_kind_is_used_and_no_photo(tmp_path, name, caplog):
    """With the depth of one half 0, that half stays clear."""
    Image.new("RGB", (16, 12), (100, 0, 0)).save(tmp_path / "a.png")
    depth = np.zeros((12, 16), np.uint8)
    depth[:, 8:] = 200
    if name.endswith("npy"):
        np.save(tmp_path / name, depth / 7)
    else:
        options = {"quality": 100} if name.endswith("jpg") else {}
        Image.fromarray(depth).save(tmp_path / name, **options)
    config = data_config(tmp_path, "hazy_from_clear", val_fraction=0.0)
    config.train_pp = f"random_crop((12, 16))|{FULL}"
    data = get_dataset(config, 1, 0)
    batch = next(data.train_batches())
    assert data.splits["train"].num_examples == 1
    np.testing.assert_allclose(batch["image"][0, :, :7], batch["target"][0, :, :7], atol=0.02)
    assert (batch["image"][0, :, 9:, 1] - batch["target"][0, :, 9:, 1]).min() > 0.5

    quality = {"degradation.quality": 40}
    config = data_config(tmp_path, "degraded", val_fraction=0.0)
    config.update_from_flattened_dict(quality)
    assert sizes(config) == {"train": 1}
    assert "1 depth maps are left out" in caplog.text


def test_depth_maps_are_no_part_of_pairs_and_classes(tmp_path, caplog):
    write_same_pairs(tmp_path / "pairs", ["a.png"], clear="clear")
    write_image(tmp_path / "pairs" / "hazy" / "a_depth.png", (9, 9, 9))
    (pair,) = find_pairs(tmp_path / "pairs")["all"].pairs
    assert pair.input.name == "a.png"
    write_classes(tmp_path / "classes", 2)
    write_image(tmp_path / "classes" / "red" / "1_depth.png", (9, 9, 9))
    assert sizes(data_config(tmp_path / "classes", val_fraction=0.0)) == {"train": 4}
    assert caplog.text.count("1 depth maps are left out, such as") == 2


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("a_depth.exr", r"a_depth\.exr is no depth map that can be read: make it an image"),
        ("a_depth.jpg", r"a\.png has two depth maps, .*a_depth\.jpg and .*a_depth\.png"),
    ],
)
def test_depth_maps_that_cannot_be_used(tmp_path, side, message):
    write_image(tmp_path / "a.png", (9, 9, 9))
    (tmp_path / side).write_bytes(b"")
    if side.endswith("jpg"):
        write_image(tmp_path / "a_depth.png", (9, 9, 9))
    with pytest.raises(ValueError, match=message):
        get_splits(data_config(tmp_path, "hazy_from_clear"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((16, 20), -1.0), "finite numbers from 0"),
        (np.full((16, 20), np.nan), "finite numbers from 0"),
        (np.zeros((16, 20, 3)), r"\(h, w\) finite numbers"),
        (np.zeros((20, 16)), "another size than its photo"),
        (np.array([{}]), "allow_pickle=False"),
    ],
)
def test_wrong_arrays_of_depth(tmp_path, array, message):
    write_image(tmp_path / "a.png", (9, 9, 9))
    np.save(tmp_path / "a_depth.npy", array, allow_pickle=True)
    config = data_config(tmp_path, "hazy_from_clear", val_fraction=0.0)
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        next(get_dataset(config, 1, 0).train_batches())


def test_depth_maps_without_a_photo_and_in_folders(tmp_path, caplog):
    for name in ("a.png", "b_depth.png", "depth/a.png", "sub/_depth.png"):
        write_image(tmp_path / name, (9, 9, 9))
    assert sizes(data_config(tmp_path, "hazy_from_clear", val_fraction=0.0)) == {"train": 1}
    assert "2 depth maps are those of no photo and are left out, such as 'b_depth.png'" in (
        caplog.text
    )
    assert "1 images lie in folders for depth maps and are left out" in caplog.text


def test_hazy_images_of_pairs_are_no_clear_photos(tmp_path):
    write_same_pairs(tmp_path, ["1.png", "2.png"], clear="clear")
    (source,) = get_splits(data_config(tmp_path, "hazy_from_clear", val_fraction=0.0)).values()
    assert {os.path.basename(os.path.dirname(p)) for p in source.columns["photo"]} == {"clear"}


def test_photos_beside_a_folder_of_clear_ones_are_named(tmp_path, caplog):
    for name in ("1.png", "2.png", "beach/3.png", "clear/4.png"):
        write_image(tmp_path / name, (9, 9, 9))
    assert sizes(data_config(tmp_path, "hazy_from_clear", val_fraction=0.0)) == {"train": 1}
    assert "3 images are not in clear, which is taken for the clear ones" in caplog.text
