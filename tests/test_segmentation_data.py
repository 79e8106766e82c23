"""Folders of images and masks: what is read of them, their classes, and what is wrong."""

import io
import logging
import re
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from input_pipeline import check, get_dataset, sample_photos
from input_pipeline.palettes import bit_palette, known_sets
from input_pipeline.sources import get_splits, masks
from tests.helpers import data_config
from tests.masked_images import (
    SIZE,
    VALUES,
    config_of,
    image_of,
    mask_of,
    opened,
    read,
    read_masks,
    row_of,
    save,
    two_of,
    write,
)

# Pixels


@pytest.mark.parametrize(
    ("mode", "labels"),
    [("P", (0, 1, 200)), ("L", (0, 1, 200)), ("1", (0, 1)), ("I;16", (0, 1, 200)),
     ("I", (0, 3)), ("RGB", (0, 7))],
)  # fmt: skip
def test_masks_are_numbers_in_whatever_mode(mode, labels):
    expected = mask_of(labels)
    image = Image.fromarray(expected)
    if mode == "P":
        image.putpalette(np.random.default_rng(0).bytes(768))  # dark or not, it is not looked at
    elif mode == "1":
        image = Image.fromarray(expected.astype(bool))
    elif mode == "I;16":
        image = Image.fromarray(expected.astype(np.uint16))
    elif mode == "RGB":
        image = Image.merge("RGB", [image] * 3)
    else:
        image = image.convert(mode)
    data = io.BytesIO()
    image.save(data, "PNG" if mode != "I" else "TIFF")
    assert Image.open(data).mode == mode
    np.testing.assert_array_equal(masks.decode_mask(data.getvalue()), expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_pngs_of_few_bits_hold_small_numbers(bits):
    """Written by hand, since Pillow writes none but of 1 bit."""
    most = 2**bits - 1
    expected = np.arange(64).reshape(8, 8) % (most + 1)
    ones = (expected[..., None] >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(ones.reshape(8, -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))  # fmt: skip

    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(masks.decode_mask(data), expected)


def test_images_and_masks_are_cropped_alike(tmp_path):
    for i in range(4):
        image = image_of(seed=i) // 128
        save(tmp_path / "images" / f"{i}.png", image)
        save(tmp_path / "masks" / f"{i}.png", image[..., 0])
    for cache, decode in ((False, ""), (True, "decode|")):
        config = config_of(tmp_path, cache=cache)
        config.train_pp = f"{decode}random_crop(6)|flip_lr|{VALUES}"
        batches = get_dataset(config, 4, seed=0).train_batches()
        for batch in (next(batches), next(batches)):
            assert batch["mask"].shape == (4, 6, 6)
            assert batch["mask"].dtype == np.int32
            np.testing.assert_array_equal(batch["mask"], batch["image"][..., 0].round())


@pytest.mark.parametrize(
    ("size", "orientation", "is_rotated"),
    [((8, 12), 6, False), ((12, 8), 6, True), ((8, 12), 3, False), ((8, 12), 1, False)],
)
def test_exif_rotates_an_image_only_if_its_mask_is(size, orientation, is_rotated, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "images" / "a.png", image_of(), exif=exif)
    save(tmp_path / "masks" / "a.png", mask_of((0, 1), size))
    source = opened(tmp_path).splits["train"]
    loaded = tf.function(source.load)(row_of(source, 0))
    expected = ImageOps.exif_transpose(Image.open(path)) if is_rotated else image_of()
    np.testing.assert_array_equal(loaded["image"], np.asarray(expected))
    assert loaded["image"].shape[:2] == loaded["mask"].shape == size


def test_evaluation_of_several_sizes_keeps_masks_whole(tmp_path):
    for i, size in enumerate([(8, 12), (10, 9), (8, 12)]):
        save(tmp_path / "images" / f"{i}.png", image_of(size, i))
        save(tmp_path / "masks" / f"{i}.png", mask_of((0, 1, 2), size))
    kept = opened(tmp_path, eval_pp=f"decode|resize_within(16, 24, masks=False)|{VALUES}")
    shapes = {name: (x.shape[:2], mask.shape) for name, (x, mask) in read(kept).items()}
    assert shapes == {"0": ((16, 24), (8, 12)), "1": ((18, 16), (10, 9)), "2": ((16, 24), (8, 12))}
    np.testing.assert_array_equal(read(kept)["2"][1], mask_of((0, 1, 2)))
    followed = opened(tmp_path, eval_pp=f"resize_within(16, 24)|{VALUES}")
    for image, mask in read(followed).values():
        assert image.shape[:2] == mask.shape
    batches = list(get_dataset(config_of(tmp_path), 2, seed=0, devices=2).eval_batches("train"))
    assert [batch["mask"].shape for batch in batches] == [(2, 8, 12), (2, 10, 9)]
    assert sorted(float(batch["_mask"].sum()) for batch in batches) == [1, 2]


# Classes


def labels_of(folder, **settings):
    settings = {"classes": "", "reduce_zero_label": None, "ignore": (), **settings}
    return masks.find_labels(
        SimpleNamespace(**settings), folder, None, sorted(folder.glob("masks/*.png"))
    )


def test_classes_are_counted_if_nothing_tells(tmp_path):
    write(tmp_path, two_of("images/{}.png", "masks/{}.png"), (0, 1, 4, 255))
    assert labels_of(tmp_path).class_names == ("class_0", "class_1", "class_2", "class_3",
                                               "class_4")  # fmt: skip
    assert labels_of(tmp_path, ignore=(4,)).class_names == ("class_0", "class_1")
    reduced = labels_of(tmp_path, reduce_zero_label=True)
    assert len(reduced.class_names) == 4
    np.testing.assert_array_equal(
        reduced.apply(np.array([[0, 1, 4, 255]], np.uint8)), [[255, 0, 3, 255]]
    )
    for labels in ((0,), (0, 255), (255,)):
        write(tmp_path, two_of("images/{}.png", "masks/{}.png"), labels)
        with pytest.raises(ValueError, match=r"leaves no two classes, since 255 is ignored"):
            labels_of(tmp_path)


def test_names_of_classes_from_a_file(tmp_path, monkeypatch):
    write(tmp_path, two_of("images/{}.png", "masks/{}.png"))
    (tmp_path / "classes.txt").write_text("sky\r\nroad\r\ntree house\r\n\r\n")
    assert opened(tmp_path).class_names == ("sky", "road", "tree house")
    (tmp_path / "own.txt").write_text("a\nb")
    with pytest.raises(ValueError, match=r"label 2, and the 2 classes \(of own.txt\) are 0 to 1"):
        read_masks(tmp_path, classes=str(tmp_path / "own.txt"))
    assert labels_of(tmp_path, classes="camvid").class_names[:2] == ("sky", "building")
    with pytest.raises(ValueError, match=r"classes='pascal' is neither a file nor a known set: ad"):
        labels_of(tmp_path, classes="pascal")
    for text, message in [
        ("", "is empty"),
        ("a\n\nb", "line 2 is empty"),
        ("0: a\n1: b", "has numbered lines, such as '1: b'"),
        ("a\nb\na", "names the class 'a' more than once"),
        ("\n".join(f"c{i}" for i in range(256)), "names 256 classes, and 255 are the most"),
    ]:
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            labels_of(tmp_path)


def test_settings_win_over_what_names_tell(tmp_path):
    pairs = {
        f"images/{folder}/{name}.jpg": f"annotations/{folder}/{name}.png"
        for folder, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001"))
    }
    write(tmp_path, pairs, (0, 1, 149))
    (as_found, *_), (as_stored, *_), (ignored, *_) = (
        list(read_masks(tmp_path, **changes).values())
        for changes in ({}, {"reduce_zero_label": False}, {"ignore": (149,)})
    )
    assert sorted(np.unique(as_found)) == [0, 148, 255]
    assert sorted(np.unique(as_stored)) == [0, 1, 149]
    assert sorted(np.unique(ignored)) == [0, 255]
    names = known_sets()["ade20k"].class_names
    (tmp_path / "classes.txt").write_text("\n".join(names))  # the set's own
    np.testing.assert_array_equal(next(iter(read_masks(tmp_path).values())), as_found)
    (tmp_path / "classes.txt").write_text("\n".join(f"c{i}" for i in range(150)))
    np.testing.assert_array_equal(next(iter(read_masks(tmp_path).values())), as_stored)
    with pytest.raises(ValueError, match=r"data.masks.ignore must be numbers from 0 to 255, not"):
        opened(tmp_path, ignore=(256,))


def test_validation_is_split_off_a_bare_folder(tmp_path):
    names = {f"images/{i}.png": f"masks/{i}.png" for i in range(10)}
    write(tmp_path, names)
    found = get_splits(config_of(tmp_path, val_fraction=0.1))
    assert {name: source.num_examples for name, source in found.items()} == {
        "train": 8, "val": 1, "test": 1,
    }  # fmt: skip
    everywhere = [name for source in found.values() for name in source.names]
    assert sorted(everywhere) == sorted(map(str, range(10)))


# What is wrong


@pytest.fixture
def faulty(tmp_path):
    """A folder in which all is wrong that can be, and two pairs that are good."""
    names = ["good", "good2", "size", "label", "deep", "colours", "jpeg", "cut", "cut_mask"]
    write(tmp_path, {f"train/images/{n}.png": f"train/masks/{n}.png" for n in names}, (0, 1, 2))
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    folder = tmp_path / "train"
    save(folder / "masks" / "size.png", mask_of((0, 1), (9, 12)))
    save(folder / "masks" / "label.png", mask_of((0, 3, 9)))
    save(folder / "masks" / "deep.png", mask_of((0, 700), dtype=np.uint16))
    save(folder / "masks" / "colours.png", bit_palette(5)[mask_of((0, 1, 2, 3, 4))])
    (folder / "masks" / "jpeg.png").unlink()
    save(folder / "masks" / "jpeg.jpg", mask_of((0, 1)))
    save(folder / "masks" / "cut_mask.png", np.random.default_rng(0).integers(0, 3, SIZE, np.uint8))
    for path in (folder / "images" / "cut.png", folder / "masks" / "cut_mask.png"):
        path.write_bytes(path.read_bytes()[:-32])
    return tmp_path


MESSAGES = (
    r"images/size\.png \(8 x 12\) and .*masks/size\.png \(9 x 12\) differ in size",
    r"masks/label\.png \(it has the labels 3, 9, and the 3 classes \(of classes\.txt\) are 0 to 2",
    r"masks/deep\.png \(it has the label 700, and",
    r"masks/colours\.png \(an image of 5 colours where a mask has one number per pixel, of its "
    r"class: give each colour the number of its class, and save it as a PNG of mode L or P",
    r"masks/jpeg\.jpg \(a JPEG, which does not keep the numbers of classes: make it a PNG\)",
    r"images/cut\.png \(",
    r"masks/cut_mask\.png \(",
)


def test_each_fault_is_named(faulty, capsys):
    assert check.main([str(faulty), "--kind=segmentation"]) == 1
    report = capsys.readouterr().out
    assert "train: 7 that cannot be used" in report
    for message in MESSAGES:
        assert len(re.findall(message, report)) == 1, message
    with pytest.raises(ValueError, match=r"7 image\(s\) or mask\(s\) that cannot be used"):
        read(opened(faulty))
    assert opened(faulty, skip_corrupt=True).splits["train"].names == ("good", "good2")


def test_each_fault_stops_the_run(faulty):
    source = opened(faulty).splits["train"]
    load = tf.function(source.load)
    for i, name in enumerate(source.names):
        row = row_of(source, i)
        if name.startswith("good"):
            assert load(row)["mask"].shape == SIZE
        else:
            with pytest.raises(tf.errors.OpError):
                load(row)


def test_images_without_a_mask(tmp_path, caplog):
    write(tmp_path, two_of("images/{}.png", "masks/{}.png"))
    save(tmp_path / "images" / "c.png", image_of())
    save(tmp_path / "masks" / "d.png", mask_of((0, 1)))
    with pytest.raises(
        ValueError, match=r"2 images or masks .*images/c\.png has no mask.*/d\.png has no image"
    ):
        opened(tmp_path)
    logging.getLogger("input_pipeline").propagate = True
    assert opened(tmp_path, skip_corrupt=True).splits["train"].names == ("a", "b")
    assert "images/c.png has no mask" in caplog.text
    assert check.main([str(tmp_path), "--kind=segmentation"]) == 1


def test_folders_without_images_and_masks(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        opened(tmp_path / "no")
    save(tmp_path / "images" / "a.png", image_of())
    with pytest.raises(ValueError, match="holds no images with masks: it needs a folder of images"):
        opened(tmp_path)
    write(tmp_path, {"images/b.jpg": "masks/b.png", "images/b.png": "masks/a.png"})
    with pytest.raises(ValueError, match=r"b\.jpg and .*b\.png have one name: which is meant"):
        opened(tmp_path)
    write(tmp_path / "two", {"images/b.jpg": "masks/b.png", "train/c.jpg": "trainannot/c.png"})
    with pytest.raises(ValueError, match=r"has folders for train, and images in others besides"):
        opened(tmp_path / "two")


def test_check_tells_the_classes(tmp_path, capsys):
    write(tmp_path, two_of("train/{}.png", "trainannot/{}.png") | {"val/a.png": "valannot/a.png"},
          (0, 1, 2, 11))  # fmt: skip
    assert check.main([str(tmp_path), "--kind=segmentation", "--classes=camvid"]) == 0
    report = capsys.readouterr().out
    assert "11 classes (of camvid)\ntrain: 2 images with masks\n    1 size: 8 to 8 pixels" in report
    assert "25.00 % pole, in 2\n" in report
    assert "25.00 % (ignored), in 2\n" in report
    assert "8 classes do not occur: road, " in report
    save(tmp_path / "val" / "a.png", image_of(seed=1))  # that of b in train
    arguments = [str(tmp_path), "--kind=segmentation"]
    assert check.main([*arguments, "--ignore=11", "--reduce_zero_label=True"]) == 1
    report = capsys.readouterr().out
    assert "2 classes (counted in the masks)" in report
    assert "50.00 % (ignored)" in report
    assert "1 images are in several splits: " in report
    assert check.main([*arguments, "--ignore=x"]) == 2
    with pytest.raises(SystemExit):
        check.main([str(tmp_path), "--classes=voc"])
    assert "--classes is not for " in capsys.readouterr().err


def test_the_mosaics_to_try_it_on(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_photos, "_MOSAICS", {"train": 6, "val": 2, "test": 3})
    assert sample_photos.main([str(tmp_path), "--kind=segmentation"]) == 0
    splits = get_splits(data_config(tmp_path, "segmentation"))
    assert {split: source.num_examples for split, source in splits.items()} == {
        "train": 6, "val": 2, "test": 3,
    }  # fmt: skip
    names = list(sample_photos._CLASSES)
    assert splits["train"].class_names == tuple(names)
    coloured = [names.index(name) for name in ("cat", "stars", "tissue")]
    for mask in sorted(tmp_path.glob("train/masks/*.png")):
        image = np.asarray(Image.open(tmp_path / "train" / "images" / mask.name))
        labels = np.asarray(Image.open(mask))
        assert image.shape == (*labels.shape, 3) == (96, 96, 3)
        assert 1 <= len(np.unique(labels)) <= 4
        grey = ~np.isin(labels, coloured)
        assert (np.ptp(image[grey], axis=-1) == 0).all()  # each pixel is of its class's photo
