"""Storing a data set again, and checking ImageNet before it is trained on."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from input_pipeline import check, check_imagenet, get_dataset, prepare
from tests.helpers import data_config, write_classes, write_image
from tests.tiny_colors import TinyColors

SPEC = "decode|resize_small(12)|central_crop(12)|value_range(-1, 1)"


def stored(data_dir, name):
    """The labels and the images' bytes, by split, in TFDS's own reading."""
    builder = tfds.builder(name, data_dir=data_dir)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    return {
        split: [
            (int(example["label"]), bytes(example["image"]))
            for example in builder.as_data_source(split, decoders=undecoded)
        ]
        for split in builder.info.splits
    }


def test_large_images_shrink_and_small_ones_stay(tmp_path, capsys):
    """Files of many kinds; each is found again by its label."""
    folder = tmp_path / "My photos!"
    large = write_image(folder / "train" / "a" / "large.jpg", (200, 30, 30), size=(80, 40))
    kept = [
        write_image(folder / "train" / "b" / "kept.jpg", (30, 30, 200)),
        write_image(folder / "train" / "c" / "kept.png", (30, 30, 200)),
    ]
    turned = write_image(folder / "val" / "a" / "turned.webp", (30, 200, 30))
    assert prepare.main([str(folder), str(tmp_path / "out"), "--resize=20"]) == 0
    printed = capsys.readouterr().out
    assert "train: 3 images of 3 classes" in printed
    assert "--config.data.source=tfds:my_photos_20" in printed
    splits = stored(tmp_path / "out", "my_photos_20")
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 3, "val": 1}
    by_label = dict(splits["train"])
    assert [by_label[1], by_label[2]] == [path.read_bytes() for path in kept]
    small = Image.open(io.BytesIO(by_label[0]))
    assert (small.format, small.size) == ("JPEG", (40, 20))
    expected = Image.open(large).resize((40, 20), Image.BILINEAR)
    assert np.abs(np.asarray(small, float) - np.asarray(expected, float)).mean() < 3
    [(_, data)] = splits["val"]
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(turned).convert("RGB")))


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_what_is_written_can_be_trained_on(tmp_path, file_format):
    write_classes(tmp_path / "photos" / "train", 10)
    write_classes(tmp_path / "photos" / "val", 3, start=50)
    args = [str(tmp_path / "photos"), str(tmp_path), "--name=again", f"--format={file_format}"]
    assert prepare.main(args) == 0
    spec = dict(train_pp=SPEC, eval_pp=SPEC)
    where = dict(data_dir=str(tmp_path), val_split="val", test_split="")
    again = get_dataset(data_config("tfds:again", tfds=where, **spec), 4, 0)
    originals = get_dataset(data_config(tmp_path / "photos", **spec), 4, 0)
    assert again.class_names == originals.class_names == ("blue", "red")
    images = []
    for dataset in (again, originals):
        batches = dataset.eval_batches("val")
        rows = [image for batch in batches for image in batch["image"][batch["_mask"] > 0]]
        images.append(sorted(rows, key=lambda image: image.tobytes()))
    np.testing.assert_array_equal(*images)
    stream = again.train_batches()
    labels = np.concatenate([next(stream)["label"] for _ in range(5)])
    assert labels.sum() == 10
    assert 0 < labels[:10].sum() < 10  # the classes are mixed in the files already


def test_a_tfds_set_with_its_own_splits(tmp_path, capsys):
    TinyColors(data_dir=tmp_path / "before").download_and_prepare()
    args = ["tfds:tiny_colors", str(tmp_path / "after"), f"--data_dir={tmp_path / 'before'}"]
    assert prepare.main([*args, "--resize=4"]) == 0
    assert "train: 25 images of 2 classes\ntest: 7 images" in capsys.readouterr().out
    assert len(stored(tmp_path / "after", "tiny_colors_4")["test"]) == 7


def test_what_cannot_be_stored(tmp_path, capsys):
    def error(*args):
        assert prepare.main([str(arg) for arg in args]) == 2
        return capsys.readouterr().err

    out = tmp_path / "out"
    write_classes(tmp_path / "photos", 3)
    assert "'digits' is neither a folder of classes nor tfds:NAME" in error("digits", out)
    assert "there is no such folder" in error(tmp_path / "nowhere", out)
    assert "quality must lie in 1 .. 100" in error(tmp_path / "photos", out, "--quality=0")
    assert "resize must be at least 1" in error(tmp_path / "photos", out, "--resize=-3")
    assert "'../up' must be of lower case" in error(tmp_path / "photos", out, "--name=../up")
    assert not out.exists()

    bad = tmp_path / "photos" / "red" / "bad.png"
    bad.write_bytes((tmp_path / "photos" / "red" / "0.png").read_bytes()[:200])
    assert f"1 unreadable image(s): {bad}" in error(tmp_path / "photos", out)
    assert not (out / "photos_copy" / "1.0.0").exists()
    assert prepare.main([str(tmp_path / "photos"), str(out), "--skip_corrupt"]) == 0
    capsys.readouterr()
    assert "is there already: remove it, or choose another --name" in error(
        tmp_path / "photos", out
    )


# ImageNet, of which these are three classes.

SYNSETS = ("n01440764", "n01443537", "n01484850")


class Imagenet2012(TinyColors):
    """Stands in for the real one, by its name."""

    name = "imagenet2012"
    counts = {"train": 9, "validation": 3}  # noqa: RUF012

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": tfds.features.ClassLabel(names=SYNSETS),
                }
            )
        )


@pytest.fixture
def small_imagenet(monkeypatch, tmp_path):
    """Makes three classes, 9 and 3 images, all that there is of ImageNet."""
    monkeypatch.setattr(check_imagenet, "_SIZES", {"train": 9, "validation": 3})
    monkeypatch.setattr(
        check_imagenet.tfds, "builder", lambda name, data_dir: Imagenet2012(data_dir=data_dir)
    )
    for split, count in (("train", 3), ("val", 1)):
        for synset in SYNSETS:
            for i in range(count):
                write_image(tmp_path / "raw" / split / synset / f"{i}.JPEG", (1, 2, 3))
    return tmp_path


def checked(capsys, *args):
    """The exit code and what is wrong."""
    code = check.main(["imagenet2012", *map(str, args)])
    lines = capsys.readouterr().out.splitlines()
    problems = [line.removeprefix("PROBLEM  ") for line in lines if line.startswith("PROBLEM")]
    assert (code == 0) == (not problems) == (lines[-1] == "no problems")
    return problems


def test_imagenet_before_it_is_prepared(small_imagenet, capsys):
    manual = small_imagenet / "downloads" / "manual"
    not_there, train, val = checked(capsys, f"--data_dir={small_imagenet}")
    assert "imagenet2012/1.0.0 is not prepared" in not_there
    assert f"{manual}/ILSVRC2012_img_train.tar is not there: get it from https://image-net" in train
    assert "ILSVRC2012_img_val.tar" in val
    manual.mkdir(parents=True)
    for name, size in check_imagenet._ARCHIVES.items():
        with open(manual / name, "wb") as file:
            os.truncate(file.fileno(), size)  # takes no room
    [ready] = checked(capsys, f"--data_dir={small_imagenet}")
    assert f"a training with --config.data.tfds.manual_dir={manual} prepares it" in ready
    os.truncate(manual / name, 5)
    assert "has 5 bytes, 6,744,924,160 expected" in checked(capsys, f"--manual_dir={manual}")[1]


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_imagenet_that_is_prepared(small_imagenet, capsys, monkeypatch, file_format):
    builder = Imagenet2012(data_dir=small_imagenet, file_format=file_format)
    builder.download_and_prepare()
    where = f"--data_dir={small_imagenet}"
    assert checked(capsys, where) == []
    [path] = [Path(f.filename) for f in builder.info.splits["train"].file_instructions]
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] if file_format == "tfrecord" else whole[:100])
    [problem] = checked(capsys, where)
    if file_format == "tfrecord":
        assert f"train: the files have {len(whole) - 5:,} bytes, {len(whole):,} expected" in problem
    else:
        assert "train[0:1] cannot be read" in problem
    path.unlink()
    assert "train: 1 of 1 files are not there" in checked(capsys, where)[0]
    path.write_bytes(whole)
    monkeypatch.setattr(check_imagenet, "_SIZES", {"train": 9, "validation": 50_000})
    assert checked(capsys, where) == ["validation: 3 images, 50,000 expected"]


def test_imagenet_as_a_folder(small_imagenet, capsys):
    raw = small_imagenet / "raw"
    where = f"--folder={raw}"
    assert checked(capsys, where) == []

    (raw / "train" / SYNSETS[0] / "0.JPEG").write_bytes(b"")
    (raw / "train" / SYNSETS[1] / "1.JPEG").write_bytes(b"\xff\xd8\xffnothing")
    (raw / "train" / SYNSETS[2]).rename(raw / "train" / "shark")
    found = "\n".join(checked(capsys, where))
    assert "train: 1 classes are missing: n01484850" in found
    assert "train: these are no classes of ImageNet: shark" in found
    assert "train: 6 images, 9 expected" in found
    assert "train: 1 files are empty" in found
    assert f"train: cannot read {raw}/train/{SYNSETS[1]}/1.JPEG (not an image" in found
    assert "val" not in found

    for path in list((raw / "val").rglob("*.JPEG")):
        path.rename(raw / "val" / f"{path.parent.name}_{path.name}")
        path.parent.rmdir()
    assert "has 3 files and no class folders" in "\n".join(checked(capsys, where))
    (raw / "val" / "n01440764.tar").write_bytes(b"")
    assert "has 1 archives, such as n01440764.tar: unpack" in "\n".join(checked(capsys, where))
