"""Folders of pairs: what is augmented alike, split by scene, and evaluated as a whole."""

import io
import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import Shard, check, get_dataset, images
from tests.helpers import (
    FULL,
    data_config,
    dataset,
    degraded_config,
    pairs_config,
    photo,
    shrink,
    smooth,
    to_grey_levels,
    write_image,
    write_pairs,
)
from vit_jax import experiment
from vit_jax import train as training


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
            "unknown data.kind 'pair'; .*there are: classes, multilabel, photos, pairs, degraded",
        ),
        ({"source": "digits"}, "data.kind='pairs' needs a folder"),
        ({"source": ""}, "no data: say --config.data.source=FOLDER$"),
        (
            {"kind": "classes", "test_source": "x"},
            "test_source is for data.kind pairs, degraded, captions, flow, translation alone",
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


@pytest.mark.parametrize("scale", [2, 4])
def test_pairs_of_small_and_large_images(set_of_pairs, scale, capsys):
    config = degraded_config(set_of_pairs)
    config.data.kind = "pairs"
    config.data.val_fraction = 0.0
    data = dataset(config, scale=scale)
    assert data.splits["train"].num_examples == 3
    batch = next(data.train_batches())
    again = shrink(to_grey_levels(batch["target"][0]), scale).astype(int)
    difference = np.abs(again - to_grey_levels(batch["image"][0]))
    assert difference[2:-2, 2:-2].max() <= 1
    assert check.main([str(set_of_pairs), f"--scale={scale}"]) == 0
    assert "3 pairs, by names that end in the factor" in capsys.readouterr().out


def test_pairs_of_another_factor_are_named(set_of_pairs):
    Image.fromarray(photo((10, 18))).save(set_of_pairs / "LR_bicubic" / "X2" / "p1x2.png")
    config = degraded_config(set_of_pairs)
    config.data.kind = "pairs"
    config.data.val_fraction = 0.0
    with pytest.raises(ValueError, match=r"p1x2\.png \(10 x 18\), .*p1\.png \(41 x 36\)"):
        for _, _ in zip(dataset(config, scale=2).train_batches(), range(4)):
            pass


# RESIDE's border


def write_reside(folder, border=10, size=(620, 460), names=("1", "2")):
    """As published: hazy images show the middle of their clear one."""
    width, height = size
    full = (height + 2 * border, width + 2 * border, 3)
    (folder / "clear").mkdir(parents=True)
    (folder / "hazy").mkdir()
    clear = {}
    for i, name in enumerate(names):
        clear[name] = np.random.default_rng(i).integers(0, 256, full).astype(np.uint8)
        Image.fromarray(clear[name]).save(folder / "clear" / f"{name}.png", compress_level=1)
        middle = clear[name][border : border + height, border : border + width]
        for level in ("1_0.9", "2_0.7"):
            path = folder / "hazy" / f"{name}_{level}.png"
            Image.fromarray(middle // 2 + 100).save(path, compress_level=1)
    return clear


def test_native_reside(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    clear = write_reside(tmp_path)
    config = data_config(tmp_path, "pairs", val_fraction=0.0, skip_corrupt=True)
    data = get_dataset(config, 1, 0)
    assert data.splits["train"].num_examples == 4
    told = "larger than hazy ones by 10 pixels on each side, as in RESIDE, which are cut off"
    assert caplog.text.count(told) == 1
    for batch in data.eval_batches("train"):
        name = "12"[int(batch["index"][0]) // 2]
        expected = clear[name][10:-10, 10:-10] / 127.5 - 1
        assert batch["image"].shape == (1, 460, 620, 3)
        np.testing.assert_allclose(batch["target"][0], expected, atol=1e-6)
    assert check.main([str(tmp_path)]) == 0
    assert "4 clear images have a border more than the hazy ones" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("clear", "hazy", "fits"),
    [
        ((84, 64), (64, 44), True),
        ((128, 128), (64, 64), False),  # made smaller
        ((64, 64), (60, 60), True),
        ((84, 64), (62, 44), False),  # not the same on all sides
        ((83, 63), (62, 42), False),  # nor on opposite ones
        ((60, 40), (64, 44), False),  # the hazy one is the larger
        ((128, 96), (64, 48), False),
    ],
)
def test_other_differences_of_size_stay_errors(tmp_path, clear, hazy, fits):
    write_image(tmp_path / "hazy" / "1.png", (9, 9, 9), size=hazy)
    write_image(tmp_path / "GT" / "1.png", (9, 9, 9), size=clear)
    data = get_dataset(data_config(tmp_path, "pairs", val_fraction=0.0), 1, 0)
    if fits:
        assert next(data.eval_batches("train"))["target"].shape == (1, *hazy[::-1], 3)
    else:
        with pytest.raises(ValueError, match="of sizes that do not fit"):
            next(data.eval_batches("train"))
    assert check.main([str(tmp_path)]) == (0 if fits else 1)
