"""Folders as people have them: links, hidden copies and other files."""

import io

import pytest
from PIL import Image

from input_pipeline import check, files
from input_pipeline.sources.pairs import find_pairs
from tests.helpers import data_config, sizes, write_classes, write_image, write_same_pairs
from vit_jax import photos

HIDDEN = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails", "lost+found", "$RECYCLE.BIN")


@pytest.mark.parametrize("hidden", HIDDEN)
def test_nothing_of_hidden_and_system_folders_is_used(tmp_path, hidden, capsys):
    write_same_pairs(tmp_path / "pairs", ["1.png", "2.png"])
    for folder in ("pairs/hazy", "pairs/GT"):
        write_image(tmp_path / folder / hidden / "1-checkpoint.png", (0, 0, 0))
        write_image(tmp_path / folder / hidden / "sub" / "2.png", (0, 0, 0))
    assert check.main([str(tmp_path / "pairs")]) == 0
    assert "all: 2 pairs, by equal names" in capsys.readouterr().out

    write_image(tmp_path / "photos" / "a.png", (9, 9, 9))
    write_image(tmp_path / "photos" / hidden / "b.png", (9, 9, 9))
    found = photos.find_images([str(tmp_path / "photos")])
    assert found == [tmp_path / "photos" / "a.png"]
    for kind, changes in (("hazy_from_clear", {}), ("degraded", {"degradation.quality": 40})):
        config = data_config(tmp_path / "photos", kind, val_fraction=0.0)
        config.update_from_flattened_dict(changes)
        assert sizes(config) == {"train": 1}

    write_classes(tmp_path / "classes", 2)
    write_image(tmp_path / "classes" / "red" / hidden / "3.png", (0, 0, 0))
    write_image(tmp_path / "classes" / hidden / "3.png", (0, 0, 0))
    assert sizes(data_config(tmp_path / "classes", val_fraction=0.0)) == {"train": 4}


def test_a_thumbnail_does_not_spoil_pairs(tmp_path):
    for name in ("hazy/1_1.png", "hazy/1_2.png", "gt/1.png", "gt/.thumbnails/1.png"):
        write_image(tmp_path / name, (9, 9, 9))
    assert len(find_pairs(tmp_path)["all"].pairs) == 2


def test_a_hidden_folder_that_is_named_is_used(tmp_path):
    write_image(tmp_path / ".cache" / "a.png", (9, 9, 9))
    assert photos.find_images([str(tmp_path / ".cache")]) == [tmp_path / ".cache" / "a.png"]


def test_linked_folders_and_files_are_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_same_pairs(elsewhere, ["1.png", "2.png"])
    write_classes(elsewhere / "classes", 3)
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    (data / "deep" / "GT").symlink_to(elsewhere / "GT")
    assert len(photos.find_images([str(data)])) == 2
    assert sizes(data_config(data, "hazy_from_clear", val_fraction=0.0)) == {"train": 2}
    (data / "hazy").symlink_to(elsewhere / "hazy")
    (data / "GT").symlink_to(data / "deep" / "GT")
    assert len(find_pairs(data)["all"].pairs) == 2

    linked = tmp_path / "linked" / "Train"
    linked.mkdir(parents=True)
    (linked / "red").symlink_to(elsewhere / "classes" / "red")
    (linked / "blue").mkdir()
    (linked / "blue" / "0.png").symlink_to(elsewhere / "classes" / "blue" / "0.png")
    (linked / "blue" / "more").symlink_to(elsewhere / "classes" / "blue")
    assert sizes(data_config(tmp_path / "linked", val_fraction=0.0)) == {"train": 3 + 4}


def test_loops_of_links_end(tmp_path):
    write_image(tmp_path / "a" / "1.png", (9, 9, 9))
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "here").symlink_to(tmp_path / "a")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    found = photos.find_images([str(tmp_path)])
    assert found == [tmp_path / "a" / "1.png", tmp_path / "itself.png"]


def test_links_to_folders_above_are_not_followed(tmp_path, caplog):
    """Or a class would have the images of the others, and hazy images clear ones."""
    write_classes(tmp_path / "classes", 3)
    (tmp_path / "classes" / "red" / "all").symlink_to(tmp_path / "classes")
    assert sizes(data_config(tmp_path / "classes", val_fraction=0.0)) == {"train": 6}
    assert "red/all leads to a folder that it lies in, and is not followed" in caplog.text
    write_same_pairs(tmp_path / "pairs", ["1.png", "2.png"])
    (tmp_path / "pairs" / "hazy" / "up").symlink_to(tmp_path / "pairs")
    assert len(find_pairs(tmp_path / "pairs")["all"].pairs) == 2


def test_damaged_files_are_value_errors_whatever_pillow_raises(monkeypatch):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "BMP")
    for error in (AssertionError("closed"), IndexError("7"), EOFError(), KeyError("x")):

        def fail(self, error=error):
            raise error

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
        with pytest.raises(ValueError, match=rf"damaged image \({type(error).__name__}"):
            files.decode_in_python(buffer.getvalue())


def test_files_that_predict_leaves_out_are_named(tmp_path, caplog):
    write_image(tmp_path / "a.JFIF.png", (9, 9, 9)).rename(tmp_path / "a.jfif")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"heic")
    assert photos.find_images([str(tmp_path)]) == [tmp_path / "a.jfif"]
    assert "1 files are no images by their names and are left out, such as 'IMG_1.HEIC'" in (
        caplog.text
    )
