"""Layouts of the common sets for segmentation, found by looking, and what their labels mean."""

import numpy as np
import pytest

from input_pipeline.palettes import known_sets
from input_pipeline.sources import masks
from input_pipeline.sources.mask_layouts import find_masked_images, guess_set
from tests.masked_images import image_of, mask_of, opened, read_masks, save, two_of, write

LAYOUTS = {
    "bare": (two_of("images/{}.png", "masks/{}.png"), {"all": "ab"}),
    "splits first": (
        two_of("train/images/{}.jpg", "train/masks/{}.png")
        | {"val/images/c.jpg": "val/masks/c.png", "test/images/d.jpg": "test/masks/d.png"},
        {"train": "ab", "val": "c", "test": "d"},
    ),
    "roles first": (
        two_of("images/train/{}.jpg", "labels/train/{}.png")
        | {"images/val/c.jpg": "labels/val/c.png"},
        {"train": "ab", "val": "c"},
    ),
    "SegNet": (
        two_of("train/{}.png", "trainannot/{}.png") | {"val/c.png": "valannot/c.png"},
        {"train": "ab", "val": "c"},
    ),
    "folders side by side": (
        two_of("train/{}.jpg", "train_masks/{}_mask.gif"), {"train": "ab"}
    ),
    "mmsegmentation": (
        two_of("img_dir/train/{}.jpg", "ann_dir/train/{}_labelTrainIds.png"), {"train": "ab"}
    ),
    "folders of folders": (
        {"images/x/a.jpg": "masks/x/a.png", "images/y/a.jpg": "masks/y/a.png"},
        {"all": ["x/a", "y/a"]},
    ),
    "a level down": (two_of("data/set/images/{}.png", "data/set/masks/{}.png"), {"all": "ab"}),
    "labelme": (
        two_of("JPEGImages/{}.jpg", "SegmentationClassPNG/{}.png"), {"all": "ab"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_found_by_looking(name, tmp_path):
    pairs, expected = LAYOUTS[name]
    write(tmp_path, pairs)
    found = find_masked_images(tmp_path)
    assert {key: [pair.name for pair in split.pairs] for key, split in found.items()} == {
        key: list(names) for key, names in expected.items()
    }
    for split in found.values():
        assert not split.orphans
        for pair in split.pairs:
            image = pair.image.relative_to(tmp_path).as_posix()
            assert pairs[image] == pair.mask.relative_to(tmp_path).as_posix()
    assert guess_set(found) is None


PUBLISHED = {
    "ade20k": (
        {
            "images/training/ADE_train_00000001.jpg": "annotations/training/ADE_train_00000001.png",
            "images/validation/ADE_val_00000001.jpg": "annotations/validation/ADE_val_00000001.png",
        },
        {0: 255, 1: 0, 150: 149, 255: 255},
    ),
    "cityscapes": (
        {
            "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png":
                "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png",
            "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png":
                "gtFine/val/ulm/ulm_000001_000019_gtFine_labelTrainIds.png",
        },
        {0: 0, 18: 18, 255: 255},
    ),
    "cityscapes_ids": (
        {
            "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png":
                "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png",
        },
        {0: 255, 7: 0, 9: 255, 33: 18, 255: 255},
    ),
    "camvid": (
        {
            "train/0001TP_006690.png": "trainannot/0001TP_006690.png",
            "val/0016E5_07959.png": "valannot/0016E5_07959.png",
            "test/Seq05VD_f00000.png": "testannot/Seq05VD_f00000.png",
        },
        {0: 0, 10: 10, 11: 255},
    ),
    "lip": (
        {
            "TrainVal_images/train_images/77_1.jpg":
                "TrainVal_parsing_annotations/train_segmentations/77_1.png",
            "TrainVal_images/val_images/100034_483681.jpg":
                "TrainVal_parsing_annotations/val_segmentations/100034_483681.png",
        },
        {0: 0, 19: 19},
    ),
    "coco_stuff": (
        {
            "train2017/000000000009.jpg": "stuffthingmaps/train2017/000000000009.png",
            "val2017/000000000139.jpg": "stuffthingmaps/val2017/000000000139.png",
        },
        {0: 0, 10: 10, 12: 11, 91: 80, 181: 170, 255: 255},
    ),
    "coco_stuff_train_ids": (
        {
            "images/train2017/000000000009.jpg":
                "annotations/train2017/000000000009_labelTrainIds.png",
        },
        {0: 0, 170: 170, 255: 255},
    ),
    "coco_stuff_10k": (
        {
            "images/train2014/COCO_train2014_000000000077.jpg":
                "annotations/train2014/COCO_train2014_000000000077_labelTrainIds.png",
        },
        {0: 255, 1: 0, 171: 170},
    ),
}  # fmt: skip


def known_of(name):
    return masks.CODINGS[name].known


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_right_by_default(name, tmp_path):
    pairs, codes = PUBLISHED[name]
    write(tmp_path, pairs, tuple(codes), mode="P")
    # What lies beside them, as published.
    if known_of(name) == "cityscapes":
        save(
            tmp_path / "gtFine" / "train" / "ulm" / "ulm_000000_000019_gtFine_color.png", image_of()
        )
    save(tmp_path / "unlabeled2017" / "1.png", image_of())
    data = opened(tmp_path)
    first = masks.read_mask(find_masked_images(tmp_path)["train"].pairs[0].mask)
    mask = next(iter(read_masks(tmp_path).values()))
    np.testing.assert_array_equal(mask, np.vectorize(codes.get)(first))
    assert data.class_names == known_sets()[known_of(name)].class_names
    save(tmp_path / next(iter(pairs.values())), mask_of([max(set(range(250)) - set(codes))]))
    with pytest.raises(ValueError, match=r"it has the label 249, and the \d+ classes"):
        read_masks(tmp_path)


def test_voc_has_lists_and_palettes(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    ids = [f"2007_{i:06d}" for i in range(6)]
    masked = {f"JPEGImages/{i}.jpg": f"SegmentationClass/{i}.png" for i in ids[:5]}
    write(root, masked, (0, 20, 7, 255), mode="P")
    write(root, {f"JPEGImages/{i}.jpg": f"SegmentationObject/{i}.png" for i in ids[5:]}, (0, 3))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, some in (("train", ids[:3]), ("val", ids[3:5]), ("trainval", ids[:5]),
                       ("test", ids[5:])):  # fmt: skip
        (lists / f"{name}.txt").write_text("\n".join(some) + "\n")
    data = opened(tmp_path, val_fraction=0.2)  # of which there is no need
    assert {key: list(source.names) for key, source in data.splits.items()} == {
        "train": ids[:3], "val": ids[3:5],
    }  # fmt: skip
    assert data.class_names[:2] == ("background", "aeroplane")
    for i, mask in enumerate(read_masks(tmp_path).values()):
        np.testing.assert_array_equal(mask, np.roll(mask_of((0, 20, 7, 255)), i))
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()
    assert opened(tmp_path, val_fraction=0.2).splits["train"].num_examples == 3
    (lists / "train.txt").write_text("2007_000005\n2007_000009\n2007_000000")
    with pytest.raises(ValueError, match=r"2007_000005 of .*train\.txt has no mask"):
        opened(tmp_path)
    assert opened(tmp_path, skip_corrupt=True).splits["train"].names == ("2007_000000",)


def test_cityscapes_test_has_no_truth(tmp_path):
    pairs, codes = PUBLISHED["cityscapes"]
    city = "{}/test/bonn/bonn_000000_000019_{}.png"
    blank = {city.format("leftImg8bit", "leftImg8bit"): city.format("gtFine", "gtFine_labelIds")}
    write(tmp_path, pairs | blank, tuple(codes))
    assert set(opened(tmp_path).splits) == {"train", "val"}
