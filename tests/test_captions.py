"""Images and what is said of them: the batches, TFDS, and the command that checks."""

import numpy as np
import pytest

from input_pipeline import Shard, check, get_dataset
from input_pipeline.sources import get_splits
from tests.captioned_images import SPEC, Letters, captions_config, photos, write
from tests.helpers import data_config
from tests.tiny_captions import TinyCaptions
from tests.tiny_colors import TinyColors

# Batches


@pytest.fixture
def folder(tmp_path):
    """Seven images, of which the i-th has i + 1 captions."""
    photos(tmp_path / "images", *(f"{i}.png" for i in range(7)))
    rows = [f"{i}.png,{i}{'abcdefg'[j]}\n" for i in range(7) for j in range(i + 1)]
    write(tmp_path / "captions.csv", "image,caption\n" + "".join(rows))
    return tmp_path


def take(batches, count):
    return [next(batches) for _ in range(count)]


def numbers(batch):
    return np.round(batch["image"][:, 0, 0, 0] / 10).astype(int)


def texts(rows):
    return ["".join(map(chr, row[row != 9])) for row in rows]


def test_a_caption_is_drawn_in_each_epoch(folder):
    data = get_dataset(captions_config(folder), 7, seed=0, tokenize=Letters())
    assert data.keys == ("image", "text", "captions", "num_captions")
    assert data.train_example["text"] == ((4,), np.int32)
    epochs = take(data.train_batches(), 200)
    drawn = {}
    for batch in epochs:
        assert set(batch) == {"image", "text"}
        for number, text in zip(numbers(batch), texts(batch["text"])):
            assert text[0] == str(number)
            drawn.setdefault(number, []).append("abcdefg".index(text[1]))
    for number, picks in drawn.items():
        assert set(picks) == set(range(number + 1))
        expected = number / 2
        deviation = np.sqrt(((number + 1) ** 2 - 1) / 12 / 200)
        assert abs(np.mean(picks) - expected) < 4 * deviation + 1e-9


def test_captions_are_a_function_of_seed_and_step(folder):
    """So that a run can be resumed, and however many processes and whether there is a cache."""
    config = captions_config(folder)
    whole = take(get_dataset(config, 6, seed=1, tokenize=Letters()).train_batches(), 5)
    config.cache = True
    parts = [
        take(get_dataset(config, 6, 1, Shard(i, 2), tokenize=Letters()).train_batches(2), 3)
        for i in range(2)
    ]
    for step in range(3):
        for key, value in whole[2 + step].items():
            joined = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(joined, value)
    others = take(get_dataset(config, 6, seed=2, tokenize=Letters()).train_batches(), 5)
    assert any((a["text"] != b["text"]).any() for a, b in zip(whole, others))


@pytest.mark.parametrize("count", [1, 2])
def test_an_evaluation_has_all_captions(folder, count):
    seen = {}
    for i in range(count):
        data = get_dataset(captions_config(folder), 4, 0, Shard(i, count), tokenize=Letters())
        assert data.example["captions"] == ((7, 4), np.int32)
        for batch in data.eval_batches("train"):
            real = batch["_mask"] > 0
            assert not batch["num_captions"][~real].any()
            np.testing.assert_array_equal(batch["text"], batch["captions"][:, 0])
            for number, index, own, rows in zip(
                numbers(batch)[real], batch["index"][real], batch["num_captions"][real],
                batch["captions"][real],
            ):  # fmt: skip
                assert index == number
                seen[number] = texts(rows[:own])
                assert (rows[own:] == Letters.pad).all()
    assert seen == {i: [f"{i}{letter}" for letter in "abcdefg"[: i + 1]] for i in range(7)}


def test_no_image_is_in_two_splits(folder):
    config = captions_config(folder)
    config.val_fraction = 0.3
    splits = get_splits(config)
    names = [name for source in splits.values() for name in source.names]
    assert sorted(names) == [f"{i}.png" for i in range(7)]
    assert {split: source.num_examples for split, source in splits.items()} == {
        "train": 2, "val": 3, "test": 2
    }  # fmt: skip


def test_other_captions_are_other_data(folder, tmp_path):
    config = captions_config(folder)
    first = get_dataset(config, 2, 0).identity
    assert get_dataset(config, 2, 0).identity == first
    path = folder / "captions.csv"
    path.write_text(path.read_text().replace("3a", "3x"))
    assert get_dataset(config, 2, 0).identity != first


def test_mirroring_is_warned_of(folder, caplog):
    config = captions_config(folder)
    config.train_pp = "decode|flip_lr|resize(4)|value_range(0, 255)"
    get_dataset(config, 2, 0)
    assert "flip_lr" not in caplog.text
    path = folder / "captions.csv"
    path.write_text(path.read_text() + "1.png,On the Left .\n1.png,brightly\n")
    get_dataset(config, 2, 0)
    assert "flip_lr, which mirrors images, and 1 of 30 texts say left or right" in caplog.text
    caplog.clear()
    get_dataset(captions_config(folder), 2, 0)
    assert "flip_lr" not in caplog.text


def test_a_corrupt_image_is_named_or_left_out(folder, caplog):
    path = folder / "images" / "3.png"
    path.write_bytes(b"no image")
    config = captions_config(folder)
    with pytest.raises(ValueError, match=r"1 unreadable image\(s\): .*3.png"):
        list(get_dataset(config, 7, 0).eval_batches("train"))
    config.skip_corrupt = True
    (batch,) = get_dataset(config, 6, 0).eval_batches("train")
    assert set(numbers(batch)) == {0, 1, 2, 4, 5, 6}
    assert "3.png" in caplog.text


# TFDS


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def tfds_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    TinyCaptions(data_dir=str(folder), file_format=request.param).download_and_prepare()
    return folder


def tfds_config(folder, **changes):
    tfds = {"data_dir": str(folder), "shuffle_buffer": 10, **changes}
    return data_config("tfds:tiny_captions", "captions", train_pp=SPEC, eval_pp=SPEC, tfds=tfds)


@pytest.mark.slow
def test_tfds_has_captions(tfds_folder, caplog):
    class Short(Letters):
        length = 1

    data = get_dataset(tfds_config(tfds_folder), 3, 0, tokenize=Short())
    assert data.keys == ("image", "text", "captions", "num_captions")
    assert "train: 18 of 18 texts are longer than 1 tokens" in caplog.text
    data = get_dataset(tfds_config(tfds_folder), 3, 0, tokenize=Letters())
    epochs = [take(batches, 3) for batches in [data.train_batches()] for _ in range(12)]
    drawn = {}
    for batch in [batch for epoch in epochs for batch in epoch]:
        for number, text in zip(numbers(batch), texts(batch["text"])):
            drawn.setdefault(number, []).append(text)
    for number in range(9):
        assert len(drawn[number]) == 12
        assert set(drawn[number]) == {f"{number}{'abc'[j]}" for j in range(number % 3 + 1)}
    again = next(data.train_batches(7))
    np.testing.assert_array_equal(again["text"], epochs[2][1]["text"])
    seen = {}
    for batch in data.eval_batches("test"):
        assert batch["captions"].shape == (3, 3, 4)
        for number, real, own, rows in zip(
            numbers(batch), batch["_mask"], batch["num_captions"], batch["captions"]
        ):
            if real:
                seen[number] = texts(rows[:own])
                assert (rows[own:] == Letters.pad).all()
    assert seen == {i: [f"{i}{'abc'[j]}" for j in range(i % 3 + 1)] for i in range(5)}


def test_tfds_without_captions_is_refused(tmp_path):
    TinyColors(data_dir=str(tmp_path)).download_and_prepare()
    config = tfds_config(tmp_path)
    config.source = "tfds:tiny_colors"
    with pytest.raises(ValueError, match=r"tiny_colors/1.0.0 has no image and captions to learn f"):
        get_splits(config)
    config.source = "digits"
    with pytest.raises(
        ValueError, match=r"'captions' needs a folder or tfds:NAME, and data.source"
    ):
        get_splits(config)


# The command that checks


def test_check(tmp_path, capsys):
    photos(tmp_path / "images", *(f"{i}.png" for i in range(4)))
    rows = ["0.png,A dog .,train", "0.png,A dog .,train", "1.png,A brown cat sleeps .,train",
            "2.png,x,test", "3.png,x,test", "4.png,x,test"]  # fmt: skip
    write(tmp_path / "captions.csv", "image,caption,split\n" + "\n".join(rows))
    (tmp_path / "images" / "2.png").write_bytes((tmp_path / "images" / "1.png").read_bytes())
    (tmp_path / "images" / "3.png").write_bytes(b"nothing")
    assert check.main([str(tmp_path), "--kind=captions"]) == 1
    out = capsys.readouterr().out
    for line in (
        "train: 2 images",
        "    3 captions, 1 to 2 of an image, 2 of them different",
        "    3.7 words on average, the longest has 5: 'A brown cat sleeps .'",
        "PROBLEM  1 images that are not there or have no caption: 4.png (captions.csv line 7)",
        "PROBLEM  1 captions are there twice of one image: captions.csv line 3 (0.png: 'A dog .')",
        "PROBLEM  1 images are in several splits: 1.png and 2.png",
    ):
        assert line in out.splitlines()
    assert "PROBLEM  test: 1 unreadable: 3.png (not an image" in out


def test_check_finds_nothing_wrong(folder, capsys):
    assert check.main([str(folder), "--kind=captions", "--file=captions.csv"]) == 0
    assert "in no split: 7 images" in capsys.readouterr().out
    assert check.main([str(folder), "--kind=captions", "--images=none"]) == 2
    with pytest.raises(SystemExit):
        check.main([str(folder), "--kind=flow", "--file=captions.csv"])
