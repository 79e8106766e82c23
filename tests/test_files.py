"""Folders as people have them: links, hidden copies, names of splits and classes, side files."""

import io
import logging
import os

import numpy as np
import pytest
from PIL import Image

from configs import common
from input_pipeline import check, files, get_dataset
from input_pipeline.arguments import expand_home
from input_pipeline.sources import get_splits
from input_pipeline.sources.pairs import find_pairs
from tests.conftest import COLORS, write_classes, write_image
from vit_jax import photos, predict
from vit_jax.models.base import Model
from vit_jax.tasks import restore

FULL = "value_range(-1, 1)"
HIDDEN = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails", "lost+found", "$RECYCLE.BIN")


def data_config(source, kind="classes", **changes):
    config = common.get_config().data
    config.source, config.kind = str(source), kind
    if kind != "classes":
        config.train_pp = f"random_crop(8)|{FULL}"
        config.eval_pp = FULL
    config.update(changes)
    return config


def sizes(config, **arguments):
    return {name: source.num_examples for name, source in get_splits(config, **arguments).items()}


def write_pairs(folder, names, hazy="hazy", clear="GT"):
    for name in names:
        write_image(folder / hazy / name, (200, 200, 200))
        write_image(folder / clear / name, (100, 100, 100))


# Hidden copies and links


@pytest.mark.parametrize("hidden", HIDDEN)
def test_nothing_of_hidden_and_system_folders_is_used(tmp_path, hidden, capsys):
    write_pairs(tmp_path / "pairs", ["1.png", "2.png"])
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
    write_pairs(elsewhere, ["1.png", "2.png"])
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
    write_pairs(tmp_path / "pairs", ["1.png", "2.png"])
    (tmp_path / "pairs" / "hazy" / "up").symlink_to(tmp_path / "pairs")
    assert len(find_pairs(tmp_path / "pairs")["all"].pairs) == 2


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


def test_photos_beside_a_folder_of_clear_ones_are_named(tmp_path, caplog):
    for name in ("1.png", "2.png", "beach/3.png", "clear/4.png"):
        write_image(tmp_path / name, (9, 9, 9))
    assert sizes(data_config(tmp_path, "hazy_from_clear", val_fraction=0.0)) == {"train": 1}
    assert "3 images are not in clear, which is taken for the clear ones" in caplog.text


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    write_image(tmp_path / "b.png", (9, 9, 9))
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")  # to open it would take for ever
    problems = restore_folder(tmp_path, tmp_path / "out")
    assert problems == [f"cannot restore {tmp_path}/a.png: No such file or directory"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


# One file does not end the batch


class Identity:
    """A restorer that does nothing, or fails for images of one width."""

    method, model = "whole", Model()

    def __init__(self, fails_at=None):
        self.fails_at = fails_at

    def method_for(self, size):
        if size[1] == self.fails_at:
            raise AssertionError("of our own")
        return "whole"

    def __call__(self, image):
        return image


def restore_folder(folder, output, compares=False, restorer=None):
    predictor = restore.RestoringPredictor(restorer or Identity(), compares, output)
    named = predict.name_outputs([str(folder)], predictor, output)
    problems = predict.answer_files(predictor, named, output)
    return [problem for some in problems.values() for problem in some]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.gif", "GIF"), ("a.png", "PNG"), ("a.webp", "WEBP"), ("a.tif", "TIFF"), ("a.jpg", "MPO")],
)
def test_of_several_frames_the_first_is_restored(tmp_path, caplog, name, kind):
    frames = [Image.new("RGB", (16, 12), (value, 0, 0)) for value in (50, 100, 200)]
    folder = tmp_path / "in"
    folder.mkdir()
    frames[0].save(folder / name, kind, save_all=True, append_images=frames[1:])
    write_image(folder / "z.png", (9, 9, 9))
    assert restore_folder(folder, tmp_path / "out") == []
    assert f"{folder / name} has 3 frames; only the first is restored" in caplog.text
    with Image.open(tmp_path / "out" / name) as written:
        assert getattr(written, "n_frames", 1) == 1
        np.testing.assert_allclose(np.asarray(written.convert("RGB"))[..., 0], 50, atol=5)
    assert (tmp_path / "out" / "z.png").exists()


def test_an_animation_that_is_cut_off_further_on(tmp_path):
    random = np.random.default_rng(0)
    frames = [Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)) for _ in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    (tmp_path / "a.gif").write_bytes(buffer.getvalue()[: int(0.7 * len(buffer.getvalue()))])
    assert restore_folder(tmp_path, tmp_path / "out") == []


def test_whatever_one_file_does_the_others_are_written(tmp_path, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name, width in (("a", 10), ("b", 11), ("c", 12), ("d", 13)):
        write_image(folder / f"{name}.png", (9, 9, 9), size=(width, 8))
    read = photos.read

    def fail_at_c(path):
        if path.stem == "c":
            raise RecursionError("maximum depth\nof many lines")
        return read(path)

    monkeypatch.setattr(photos, "read", fail_at_c)
    draw = restore._draw_comparison

    def fail_at_d(before, after):
        if before.shape[1] == 13:
            raise OSError(28, "No space left on device")
        return draw(before, after)

    monkeypatch.setattr(restore, "_draw_comparison", fail_at_d)
    problems = restore_folder(folder, out, True, Identity(fails_at=11))
    assert problems == [
        f"cannot restore {folder}/b.png: AssertionError: of our own",
        f"cannot restore {folder}/c.png: RecursionError: maximum depth",
        f"cannot compare {folder}/d.png: No space left on device",
    ]
    assert sorted(p.name for p in out.glob("*.png")) == ["a.png", "d.png"]
    assert [p.name for p in (out / "compare").iterdir()] == ["a.png.png"]


def test_damaged_files_are_value_errors_whatever_pillow_raises(monkeypatch):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "BMP")
    for error in (AssertionError("closed"), IndexError("7"), EOFError(), KeyError("x")):

        def fail(self, error=error):
            raise error

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
        with pytest.raises(ValueError, match=rf"damaged image \({type(error).__name__}"):
            files.decode_in_python(buffer.getvalue())


# Names of splits and classes


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
        write_pairs(tmp_path / "pairs" / split, [f"{split}{i}.png" for i in range(count)])
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
    write_pairs(tmp_path, ["1.png"])
    get_splits(data_config(tmp_path, val_fraction=0.0))
    assert "--config.data.kind=pairs" in caplog.text


# Side files


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
    dataset = get_dataset(config, 1, 0)
    batch = next(dataset.train_batches())
    assert dataset.splits["train"].num_examples == 1
    np.testing.assert_allclose(batch["image"][0, :, :7], batch["target"][0, :, :7], atol=0.02)
    assert (batch["image"][0, :, 9:, 1] - batch["target"][0, :, 9:, 1]).min() > 0.5

    quality = {"degradation.quality": 40}
    config = data_config(tmp_path, "degraded", val_fraction=0.0)
    config.update_from_flattened_dict(quality)
    assert sizes(config) == {"train": 1}
    assert "1 depth maps are left out" in caplog.text


def test_depth_maps_are_no_part_of_pairs_and_classes(tmp_path, caplog):
    write_pairs(tmp_path / "pairs", ["a.png"], clear="clear")
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
    write_pairs(tmp_path, ["1.png", "2.png"], clear="clear")
    (source,) = get_splits(data_config(tmp_path, "hazy_from_clear", val_fraction=0.0)).values()
    assert {os.path.basename(os.path.dirname(p)) for p in source.columns["photo"]} == {"clear"}


def test_files_that_predict_leaves_out_are_named(tmp_path, caplog):
    write_image(tmp_path / "a.JFIF.png", (9, 9, 9)).rename(tmp_path / "a.jfif")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"heic")
    assert photos.find_images([str(tmp_path)]) == [tmp_path / "a.jfif"]
    assert "1 files are no images by their names and are left out, such as 'IMG_1.HEIC'" in (
        caplog.text
    )


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
    dataset = get_dataset(config, 1, 0)
    assert dataset.splits["train"].num_examples == 4
    told = "larger than hazy ones by 10 pixels on each side, as in RESIDE, which are cut off"
    assert caplog.text.count(told) == 1
    for batch in dataset.eval_batches("train"):
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
    dataset = get_dataset(data_config(tmp_path, "pairs", val_fraction=0.0), 1, 0)
    if fits:
        assert next(dataset.eval_batches("train"))["target"].shape == (1, *hazy[::-1], 3)
    else:
        with pytest.raises(ValueError, match="of sizes that do not fit"):
            next(dataset.eval_batches("train"))
    assert check.main([str(tmp_path)]) == (0 if fits else 1)


# The home folder


def test_the_home_folder_in_whatever_a_person_types(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    typed = ["predict", "--output=~/restored", "--config.data.source=~", "-w=~/x", "~/a b.png",
             "--field=a=~/x", "--pattern=~x", "a~/b", "--n=3"]  # fmt: skip
    assert expand_home(typed) == [
        "predict", "--output=/home/me/restored", "--config.data.source=/home/me", "-w=/home/me/x",
        "/home/me/a b.png", "--field=a=~/x", "--pattern=~x", "a~/b", "--n=3",
    ]  # fmt: skip


def test_the_home_folder_of_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_pairs(tmp_path / "data", ["1.png"])
    assert check.main(["~/data", "--against=~/data"]) == 1
    assert f"1 scenes are both in all and in all of {tmp_path}/data: 1" in capsys.readouterr().out
