import itertools

import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import checksums, resource

from configs import common
from input_pipeline import MadeUp, Shard, get_dataset
from input_pipeline.sources import KINDS, Kind, get_splits, kinds_with
from input_pipeline.sources import tfds as tfds_source
from input_pipeline.sources.base import IndexedSource
from tests import flow_folders
from tests.helpers import write_classes, write_image
from tests.tiny_colors import TinyColors


def data_config(source, **changes):
    config = common.get_config().data
    config.source = str(source)
    config.update(changes)
    return config


def paths(source):
    return [path.decode() for path in source.columns["path"].astype(bytes)]


# digits


def test_digits_are_split_in_proportion_and_apart():
    splits = get_splits(data_config("digits"))
    assert {k: v.num_examples for k, v in splits.items()} == {
        "train": 1257,
        "val": 180,
        "test": 360,
    }
    for source in splits.values():
        share = np.bincount(source.columns["label"]) / source.num_examples
        np.testing.assert_allclose(share, 0.1, atol=0.012)
        assert source.columns["image"].max() == 255
    seen = [{x.tobytes() for x in splits[name].columns["image"]} for name in splits]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    other = get_splits(data_config("digits", split_seed=1))
    assert {x.tobytes() for x in other["test"].columns["image"]} != seen[2]


# Folders


def test_folder_with_train_and_test(image_folder):
    splits = get_splits(data_config(image_folder))
    assert {k: v.num_examples for k, v in splits.items()} == {"train": 18, "test": 6, "val": 2}
    assert splits["test"].class_names == ("blue", "red")
    assert not set(paths(splits["train"])) & set(paths(splits["val"]))
    for source in splits.values():
        for path, label in zip(paths(source), source.columns["label"]):
            assert f"/{source.class_names[label]}/" in path


def test_plain_folder_of_classes(tmp_path):
    write_classes(tmp_path, 10)
    splits = get_splits(data_config(tmp_path))
    assert {k: v.num_examples for k, v in splits.items()} == {"train": 16, "val": 2, "test": 2}
    everything = [path for source in splits.values() for path in paths(source)]
    assert len(set(everything)) == len(everything) == 20


def test_a_val_folder_is_taken_as_it_is(tmp_path):
    write_classes(tmp_path / "train", 4)
    write_classes(tmp_path / "val", 3)
    splits = get_splits(data_config(tmp_path))
    assert {k: v.num_examples for k, v in splits.items()} == {"train": 8, "val": 6}


def test_no_val_if_none_is_wanted(image_folder):
    splits = get_splits(data_config(image_folder, val_fraction=0.0))
    assert {k: v.num_examples for k, v in splits.items()} == {"train": 20, "test": 6}


def test_which_images_are_split_off_is_stable(tmp_path):
    """The same names elsewhere are split alike, and a new image moves few of the others."""
    for folder, count in (("a", 40), ("b", 40), ("c", 41)):
        write_classes(tmp_path / folder, count)

    def val(folder, **changes):
        source = get_splits(data_config(tmp_path / folder, **changes))["val"]
        return {path.removeprefix(f"{tmp_path}/{folder}/") for path in paths(source)}

    assert val("a") == val("b")
    assert len(val("a") & val("c")) >= 6
    assert val("a") != val("a", split_seed=1)
    assert {name.split("/")[0] for name in val("a")} == {"blue", "red"}


def test_suffixes_in_capitals_count_and_other_files_are_named(tmp_path, caplog):
    write_classes(tmp_path, 3)
    (tmp_path / "red" / "0.png").rename(tmp_path / "red" / "0.PNG")
    (tmp_path / "red" / "notes.txt").write_text("no image")
    (tmp_path / "red" / ".DS_Store").write_text("no image")
    (tmp_path / "red" / "._1.png").write_text("no image")
    splits = get_splits(data_config(tmp_path, val_fraction=0.0))
    assert splits["train"].num_examples == 6
    assert "1 entries are not images and are left out, such as 'notes.txt'" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "train" / "green").mkdir(), "class folder .*/green holds no images"),
        (
            lambda f: write_image(f / "test" / "green" / "1.png", (0, 99, 0)),
            "test has classes that .*train lacks: green",
        ),
        (lambda f: (f / "val").mkdir(), "val has no class subfolders"),
    ],
)
def test_folders_at_odds_with_themselves(image_folder, spoil, message):
    spoil(image_folder)
    with pytest.raises(ValueError, match=message):
        get_splits(data_config(image_folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "/nowhere/at/all"}, "'/nowhere/at/all': there is no such folder"),
        ({"source": ""}, "--config.data.source=FOLDER"),
        ({"val_fraction": 0.7}, "val_fraction must lie in"),
    ],
)
def test_wrong_data(image_folder, changes, message):
    with pytest.raises(ValueError, match=message):
        get_splits(data_config(**{"source": image_folder, **changes}))


def small(config):
    config.train_pp = "decode|resize(8)|value_range(-1, 1)"
    config.eval_pp = "decode|resize(8)|value_range(-1, 1)"
    return config


def test_a_corrupt_image_is_an_error_that_names_it(image_folder):
    bad = image_folder / "train" / "red" / "5.png"
    bad.write_bytes(bad.read_bytes()[:100])
    dataset = get_dataset(small(data_config(image_folder, val_fraction=0.0)), 4, 0)
    batches = dataset.train_batches()
    with pytest.raises(ValueError, match=rf"1 unreadable image\(s\): {bad} .*skip_corrupt=True"):
        list(itertools.islice(batches, 6))
    with pytest.raises(ValueError, match=str(bad)):
        list(dataset.eval_batches("train"))


def test_skip_corrupt_reports_and_leaves_out(image_folder, caplog):
    bad = [image_folder / "train" / "red" / "5.png", image_folder / "test" / "blue" / "101.jpg"]
    for path in bad:
        path.write_bytes(b"junk")
    config = small(data_config(image_folder, skip_corrupt=True))
    dataset = get_dataset(config, 4, 0)
    assert {k: v.num_examples for k, v in dataset.splits.items()} == {
        "train": 17, "test": 5, "val": 2,
    }  # fmt: skip
    assert all(f"{path} (not an image" in caplog.text for path in bad)
    assert sum(batch["_mask"].sum() for batch in dataset.eval_batches("test")) == 5


# TFDS


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyColors(data_dir=str(folder)).download_and_prepare()
    return str(folder)


@pytest.fixture
def tfds_config(tfds_dir):
    return data_config(
        "tfds:tiny_colors",
        tfds=dict(
            data_dir=tfds_dir,
            train_split="train[:80%]",
            val_split="train[80%:]",
            shuffle_buffer=10,
        ),
        train_pp="decode|resize((6, 5))|value_range(0, 255)",
        eval_pp="decode|resize((6, 5))|value_range(0, 255)",
    )


def numbers(batches):
    """The examples' numbers, which are their images' values."""
    return [
        round(float(image[0, 0, 0]))
        for batch in batches
        for image, real in zip(batch["image"], batch.get("_mask", np.ones(len(batch["image"]))))
        if real
    ]


def test_tfds_splits(tfds_config):
    dataset = get_dataset(tfds_config, 4, 0)
    assert dataset.class_names == ("even", "odd")
    assert dataset.image_shape == (6, 5, 3)
    assert {k: v.num_examples for k, v in dataset.splits.items()} == {
        "train": 20, "val": 5, "test": 7,
    }  # fmt: skip
    train, val = numbers(dataset.eval_batches("train")), numbers(dataset.eval_batches("val"))
    assert sorted(train + val) == list(range(25))
    for batch in dataset.eval_batches("test"):
        real = batch["_mask"] > 0
        np.testing.assert_array_equal(
            batch["label"][real], np.round(batch["image"][real, 0, 0, 0]) % 2
        )


def test_tfds_training_order(tfds_config):
    """Each epoch has every example once, in another order; a resumed run goes on with it."""
    dataset = get_dataset(tfds_config, 4, 0)
    everything = set(numbers(dataset.eval_batches("train")))
    stream = dataset.train_batches()
    batches = [next(stream) for _ in range(15)]
    epochs = [numbers(batches[i : i + 5]) for i in (0, 5, 10)]
    assert all(set(epoch) == everything and len(epoch) == 20 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for start in (3, 7):
        again = dataset.train_batches(start)
        assert numbers([next(again) for _ in range(4)]) == numbers(batches[start : start + 4])
    other_seed = get_dataset(tfds_config, 4, 1).train_batches()
    assert numbers([next(other_seed) for _ in range(5)]) != epochs[0]


def test_tfds_shards_are_disjoint_and_complete(tfds_config):
    shards = [get_dataset(tfds_config, 4, 0, Shard(i, 2)) for i in range(2)]
    seen = [numbers(shard.eval_batches("test")) for shard in shards]
    assert sorted(seen[0] + seen[1]) == list(range(7))
    trained = []
    for shard in shards:
        stream = shard.train_batches()
        trained.append(numbers([next(stream) for _ in range(5)]))
    assert len(set(trained[0]) | set(trained[1])) == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "tfds:no_such_data"}, "TFDS knows no such data set"),
        ({"source": "tfds:tiny_colors:9.9.9"}, "TFDS knows no such data set"),
        ({"tfds": {"test_split": "exam"}}, "--config.data.tfds.test_split= leaves it out"),
        (
            {"tfds": {"val_split": "validation"}},
            "data.tfds.val_split='validation' does not fit.*has .*train",
        ),
        ({"tfds": {"train_split": "train[:0%]"}}, "holds no examples"),
        ({"tfds": {"shuffle_buffer": 0}}, "data.tfds.shuffle_buffer must be at least 1, not 0"),
        ({"skip_corrupt": True}, "skip_corrupt is for image folders"),
    ],
)
def test_wrong_tfds(tfds_config, changes, message):
    tfds_config.update(changes)
    with pytest.raises(ValueError, match=message):
        get_splits(tfds_config)


def test_tfds_that_cannot_be_downloaded(tfds_config, tmp_path, monkeypatch):
    def fail(self, dl_manager):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(TinyColors, "_split_generators", fail)
    tfds_config.tfds.data_dir = str(tmp_path)
    with pytest.raises(ValueError, match=r"tiny_colors/1.0.0 cannot be prepared: no route to host"):
        get_splits(tfds_config)


def test_tfds_says_at_once_that_there_is_no_network(tfds_config, tmp_path, monkeypatch):
    """But not where the files were downloaded before, or come by hand."""
    url = "https://colours.example/all.zip"
    info = checksums.UrlInfo(size=1, checksum="0" * 64, filename="all.zip")
    monkeypatch.setattr(TinyColors, "url_infos", {url: info})
    asked = []

    def refuse(url, timeout):
        asked.append((url, timeout))
        raise error

    monkeypatch.setattr(tfds_source.requests, "head", refuse)
    tfds_config.tfds.data_dir = str(tmp_path)
    for error in (requests.ConnectTimeout(), requests.ConnectionError("no such host")):  # noqa: B007
        with pytest.raises(
            ValueError, match=r"prepared: colours\.example cannot be reached\. If .*data_dir; .*man"
        ):
            get_splits(tfds_config)
    assert asked == 2 * [(url, 10)]
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / resource.get_dl_fname(url, info.checksum)).touch()
    assert get_splits(tfds_config)["train"].num_examples
    assert len(asked) == 2


def test_tensorflow_sees_no_accelerator():
    assert not tf.config.get_visible_devices("GPU")


@pytest.mark.slow
def test_array_records_are_shuffled_as_a_whole(tfds_config, tmp_path):
    """The same splits and examples as of TFRecords; batches do not depend on the processes."""
    TinyColors(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    as_tfrecord = get_dataset(tfds_config, 4, 0)
    tfds_config.tfds.data_dir = str(tmp_path)
    dataset = get_dataset(tfds_config, 4, 0)
    assert dataset.class_names == ("even", "odd")
    for split in ("train", "val", "test"):
        expected = numbers(as_tfrecord.eval_batches(split))
        assert sorted(numbers(dataset.eval_batches(split))) == sorted(expected)
    assert numbers(dataset.eval_batches("test", rows=[5, 2])) == [
        numbers(dataset.eval_batches("test"))[row] for row in (5, 2)
    ]
    stream = dataset.train_batches()
    batches = [next(stream) for _ in range(10)]
    assert len(set(numbers(batches[:5]))) == len(set(numbers(batches[5:]))) == 20
    assert numbers(batches[:5]) != numbers(batches[5:])
    assert numbers([next(dataset.train_batches(7))]) == numbers(batches[7:8])
    shards = [get_dataset(tfds_config, 4, 0, Shard(i, 2)).train_batches(7) for i in range(2)]
    assert numbers([next(shard) for shard in shards]) == numbers(batches[7:8])


def test_another_storage_is_refused(tfds_config, tmp_path):
    TinyColors(data_dir=tmp_path, file_format="parquet").download_and_prepare()
    tfds_config.tfds.data_dir = str(tmp_path)
    with pytest.raises(ValueError, match="is stored as parquet; prepare it as array_record or"):
        get_splits(tfds_config)


def test_resuming_deep_in_an_epoch_is_fast(tmp_path, monkeypatch):
    """The records before are read, but not parsed; the epochs before are not even read."""
    count, shards = 10_000, 16
    folder = tmp_path / "tiny_records" / "1.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(1, 1, 3)),
            "label": tfds.features.ClassLabel(names=["a"]),
        }
    )
    pixel = tf.io.encode_png(np.zeros((1, 1, 3), np.uint8)).numpy()
    record = tf.train.Example()
    record.features.feature["image"].bytes_list.value.append(pixel)
    record.features.feature["label"].int64_list.value.append(0)
    record = record.SerializeToString()
    for i in range(shards):
        path = folder / f"tiny_records-train.tfrecord-{i:05}-of-{shards:05}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(count // shards):
                writer.write(record)
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[count // shards] * shards,
        num_bytes=len(record) * count,
        filename_template=tfds.core.ShardedFileTemplate(
            dataset_name="tiny_records", data_dir=folder, split="train", filetype_suffix="tfrecord"
        ),
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=[split], check_data=False
    )
    spec = "decode|resize(1)|value_range(-1, 1)"
    config = data_config(
        "tfds:tiny_records", train_pp=spec, eval_pp=spec,
        tfds=dict(data_dir=str(tmp_path), test_split="", shuffle_buffer=100),
    )  # fmt: skip
    parsed, parse = [], tfds_source._parse

    def counting_parse(features, record):
        with tf.control_dependencies([tf.numpy_function(parsed.append, [record], [])]):
            return parse(features, tf.identity(record))

    monkeypatch.setattr(tfds_source, "_parse", counting_parse)
    epochs = 1_000_000_000  # which to read would take months
    next(get_dataset(config, 4, 0).train_batches(epochs * count // 4 + 2000))
    assert 4 <= len(parsed) < 1000  # some batches are prefetched


# Kinds


@pytest.mark.slow
def test_every_kind_has_the_truths_that_the_table_says(image_folder, tmp_path):
    for name in ("hazy", "GT"):
        write_image(tmp_path / "pairs" / name / "1.png", (9, 9, 9))
    for name in ("images", "masks"):
        path = write_image(tmp_path / "segmentation" / name / "1.png", (9, 9, 9))
    Image.fromarray(np.eye(16, 20, dtype=np.uint8)).save(path)
    write_image(tmp_path / "captions" / "1.png", (9, 9, 9)).with_suffix(".txt").write_text("grey")
    write_image(tmp_path / "multilabel" / "1.png", (9, 9, 9))
    (tmp_path / "multilabel" / "labels.csv").write_text("image,labels\n1.png,cat|dog\n")
    sources = {"classes": image_folder, "segmentation": tmp_path / "segmentation",
               "captions": tmp_path / "captions", "multilabel": tmp_path / "multilabel",
               "flow": flow_folders.own(tmp_path / "flow", ["a"])}  # fmt: skip
    # Of texts alone, see test_text_file.
    with_image = {kind: row for kind, row in KINDS.items() if not row.takes_tokenizer}
    for kind, row in with_image.items():
        config = data_config(
            sources.get(kind, tmp_path / "pairs"), kind=kind, val_fraction=0.0,
            train_pp="value_range(-1, 1)", eval_pp="value_range(-1, 1)",
        )  # fmt: skip
        config.degradation.sigma = 1.0
        if kind in ("classes", "multilabel", "photos", "captions"):
            small(config)
        data = get_dataset(config, 1, 0)
        assert set(data.truths) - {"set"} == set(row.truths)
        (name, *_) = data.splits
        assert set(next(data.eval_batches(name))) == {"image", *row.truths, "index", "_mask"}
    assert kinds_with("label") == ["classes", "multilabel"]
    assert kinds_with("target") == ["pairs", "degraded", "hazy_from_clear"]
    assert kinds_with("mask") == ["segmentation"]
    assert kinds_with("captions") == ["captions"]
    assert "flow" in kinds_with("image2")
    assert get_dataset(data_config("digits"), 1, 0).truths == ("label",)
    for num_classes, truth in ((3, "label"), (0, "target")):
        made_up = MadeUp((4, 4, 3), 2, num_classes)
        assert made_up.truths == (truth,)
        assert set(next(made_up.train_batches())) == {"image", truth}


def test_a_kind_with_masks_goes_through_the_whole_pipeline(tmp_path, monkeypatch):
    pixels = np.arange(4 * 6 * 6 * 3, dtype=np.uint8).reshape(4, 6, 6, 3)
    columns = {"image": pixels, "mask": pixels[..., 0].astype(np.int32)}
    train = IndexedSource(columns, truths=("mask",))
    monkeypatch.setitem(KINDS, "stripes", Kind(lambda config: {"train": train}, ("mask",)))
    assert kinds_with("mask") == ["segmentation", "stripes"]
    config = data_config(tmp_path, kind="stripes", eval_pp="value_range(0, 255)")
    config.train_pp = "random_crop(4)|flip_lr|value_range(0, 255)"
    data = get_dataset(config, 4, 0)
    for batch in (next(data.train_batches()), *data.eval_batches("train")):
        assert batch["mask"].dtype == np.int32
        np.testing.assert_array_equal(batch["mask"], batch["image"][..., 0].round())
