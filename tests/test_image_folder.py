"""Folders of classes as people have them: names of splits and classes."""

import pytest

from input_pipeline.sources import get_splits
from tests.helpers import COLORS, data_config, sizes, write_classes, write_image, write_same_pairs


def test_a_class_that_is_a_link_to_nowhere(tmp_path):
    write_classes(tmp_path, 2)
    (tmp_path / "green").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match="green is a link that leads nowhere: repair or remove it"):
        get_splits(data_config(tmp_path))


def test_splits_that_are_not_called_so(tmp_path, caplog):
    for name in ("images", "extra"):
        write_classes(tmp_path / name, 2)
    get_splits(data_config(tmp_path, val_fraction=0.0))
    assert "extra, images all hold folders called blue, red: are those the classes" in caplog.text


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "valid"),
        ("train", "validation"),
        ("Train", "Val"),
        ("TRAINING", "dev"),
        ("training_set", "Val Set"),
        ("train2017", "val2017"),
        ("train_images", "eval"),
    ],
)
def test_one_list_of_names_of_splits(tmp_path, train, val):
    write_classes(tmp_path / "classes" / train, 8)
    write_classes(tmp_path / "classes" / val, 3)
    write_classes(tmp_path / "classes" / "Testing", 2)
    expected = {"train": 16, "val": 6, "test": 4}
    assert sizes(data_config(tmp_path / "classes")) == expected
    for split, count in ((train, 8), (val, 3), ("Testing", 2)):
        write_same_pairs(tmp_path / "pairs" / split, [f"{split}{i}.png" for i in range(count)])
    assert sizes(data_config(tmp_path / "pairs", "pairs")) == {"train": 8, "val": 3, "test": 2}
    assert sizes(data_config(tmp_path / "pairs", "hazy_from_clear")) == {
        "train": 8, "val": 3, "test": 2,
    }  # fmt: skip


def test_what_lies_beside_train_is_named(tmp_path, caplog):
    write_classes(tmp_path / "train", 4)
    write_classes(tmp_path / "extra", 4)
    assert sizes(data_config(tmp_path, val_fraction=0.0)) == {"train": 8}
    assert "what lies beside them is left out: extra" in caplog.text


def test_two_folders_for_one_split(tmp_path):
    for name in ("train", "val", "Validation"):
        write_classes(tmp_path / name, 2)
    with pytest.raises(ValueError, match=r"Validation and .*/val are both for val"):
        get_splits(data_config(tmp_path))


def test_trains_are_vehicles_where_there_are_cars(tmp_path):
    for name in ("car", "train"):
        write_image(tmp_path / name / "1.png", (9, 9, 9))
    source = get_splits(data_config(tmp_path, val_fraction=0.0))["train"]
    assert source.class_names == ("car", "train")


def test_classes_called_like_splits(tmp_path):
    for name in ("dev", "ops"):
        write_image(tmp_path / name / "1.png", (9, 9, 9))
    source = get_splits(data_config(tmp_path, val_fraction=0.0))["train"]
    assert source.class_names == ("dev", "ops")
    (tmp_path / "ops").rename(tmp_path / "test")
    with pytest.raises(ValueError, match="has folders for val and test, and none for train"):
        get_splits(data_config(tmp_path))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (map(str, range(12)), map(str, range(12))),
        (["10", "9", "-1", "2.5"], ["-1", "2.5", "9", "10"]),
        (["07", "7", "10"], ["07", "7", "10"]),
        (["10", "9", "a"], ["10", "9", "a"]),
    ],
)
def test_classes_that_are_numbers_are_sorted_by_number(tmp_path, names, expected):
    for i, name in enumerate(names):
        write_image(tmp_path / name / f"{i}.png", (9, 9, 9))
    source = get_splits(data_config(tmp_path, val_fraction=0.0))["train"]
    assert source.class_names == tuple(expected)
    for path, label in zip(source.columns["path"], source.columns["label"]):
        assert f"/{source.class_names[label]}/" in path


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/train/1.jpg"], "holds one class alone, 'train', .*unpacked a level too deep"),
        (["train/train/a/1.jpg", "train/train/b/1.jpg"], "one class alone, 'train'.* too deep"),
        (["data/a/1.jpg", "data/b/1.jpg"], r"one class alone, 'data'.* is itself the data\.source"),
        (["data/train/a/1.jpg"], "class folder .*data has a folder 'train': splits come before"),
        (["a/test/1.jpg", "b/test/1.jpg"], "class folder .*a has a folder 'test'"),
        (["photos/1.jpg"], "one class alone, 'photos'.* each class needs a folder of its own"),
    ],
)
def test_suspicious_folders_of_classes(tmp_path, names, message):
    for name in names:
        write_image(tmp_path / name, (9, 9, 9))
    with pytest.raises(ValueError, match=message):
        get_splits(data_config(tmp_path))


def test_images_beside_and_below_class_folders(tmp_path, caplog):
    write_classes(tmp_path, 2)
    write_image(tmp_path / "red" / "more" / "9.png", COLORS["red"])
    write_image(tmp_path / "stray.png", (9, 9, 9))
    assert sizes(data_config(tmp_path, val_fraction=0.0)) == {"train": 5}
    assert "1 images lie beside the class folders and are left out, such as 'stray.png'" in (
        caplog.text
    )


def test_folders_of_pairs_taken_for_classes(tmp_path, caplog):
    write_same_pairs(tmp_path, ["1.png"])
    get_splits(data_config(tmp_path, val_fraction=0.0))
    assert "--config.data.kind=pairs" in caplog.text


def test_a_folder_of_images_and_masks_is_said_to_seem_such(tmp_path, caplog):
    write_classes(tmp_path / "whole", 2)
    for old, new in (("blue", "images"), ("red", "masks")):
        (tmp_path / "whole" / old).rename(tmp_path / "whole" / new)
    get_splits(data_config(tmp_path / "whole", val_fraction=0.0))
    assert "images and masks rather than classes: was --config.data.kind=segm" in caplog.text
