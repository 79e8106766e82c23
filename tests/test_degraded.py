"""Clean photos that are made smaller, noisy, or into JPEGs."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers import FULL, dataset, degraded_config, photo, shrink, to_grey_levels


@pytest.mark.parametrize("scale", [2, 3])
def test_small_and_large_crops_show_the_same(photos_folder, scale):
    data = dataset(degraded_config(photos_folder), scale=scale)
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
    data = dataset(degraded_config(photos_folder), scale=scale)
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
    data = dataset(degraded_config(photos_folder, sigma=50.0), scale=1)
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
    data = dataset(degraded_config(photos_folder, sigma=25.0, grayscale=True), scale=1)
    (batch,) = data.eval_batches("val")
    for name in ("image", "target"):
        np.testing.assert_array_equal(batch[name][..., 0], batch[name][..., 2])
    assert noise_of(batch).std() == pytest.approx(2 * 25 / 255, rel=0.03)


@pytest.mark.parametrize("grayscale", [False, True])
def test_jpeg(photos_folder, grayscale):
    config = degraded_config(photos_folder, quality=10, grayscale=grayscale)
    (batch,) = dataset(config, scale=1).eval_batches("val")
    clean = Image.fromarray(to_grey_levels(batch["target"][0]))
    file = io.BytesIO()
    (clean.convert("L") if grayscale else clean).save(file, "JPEG", quality=10)
    expected = np.asarray(Image.open(file).convert("RGB")).astype(int)
    found = to_grey_levels(batch["image"][0])
    assert np.mean(np.abs(found - expected) > 2) < 0.02
    assert np.abs(expected - np.asarray(clean)).mean() > 2


def test_the_large_images_of_a_folder_of_pairs_are_the_photos(set_of_pairs):
    config = degraded_config(set_of_pairs)
    config.data.test_source = str(set_of_pairs)
    splits = dataset(config, scale=2).splits
    assert splits["test"].names == ("p0.png", "p1.png", "p2.png")
    (set_of_pairs / "train").mkdir()
    (set_of_pairs / "HR").rename(set_of_pairs / "train" / "HR")
    with pytest.raises(ValueError, match=r"data\.test_source='.*' has no test folder"):
        dataset(config, scale=2)


def test_faulty_and_small_photos_are_named(tmp_path):
    for i, size in enumerate([(40, 40), (40, 30), (40, 40)]):
        Image.fromarray(photo(size, 40 * i)).save(tmp_path / f"{i}.png")
    config = degraded_config(tmp_path)
    config.data.val_fraction = 0.0
    config.data.train_pp = f"random_crop(32)|{FULL}"
    with pytest.raises(ValueError, match=r"crop less, .*; the smallest is .*1\.png \(40 x 30\)"):
        list(zip(dataset(config, scale=2).train_batches(), range(4)))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"cannot read .*1\.png: .*skip_corrupt=True"):
        list(zip(dataset(config, scale=2).train_batches(), range(4)))
    config.data.skip_corrupt = True
    data = dataset(config, scale=2)
    assert data.splits["train"].num_examples == 2
    assert len(list(zip(data.train_batches(), range(4)))) == 4


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
    config = degraded_config(photos_folder)
    config.data.update(changes)
    with pytest.raises(ValueError, match=message):
        _ = dataset(config, scale=scale).train_image_shape
