"""Data sets of optical flow: what is found in each layout, and what is read of it."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import flow_files, flow_sets, memory_cache, pipeline
from input_pipeline.sources import get_splits
from tests import flow_folders as made
from tests.flow_folders import (
    SIZE,
    VALUES,
    config_of,
    flow_of,
    frame,
    mask_of,
    opened,
    read,
    read_alone,
    save,
)


def check_example(example, image, image2, flow):
    """Whether an example has the frames and the flow with such seeds."""
    np.testing.assert_array_equal(example["image"], frame(image))
    np.testing.assert_array_equal(example["image2"], frame(image2))
    np.testing.assert_array_equal(example["flow"], flow_of(flow))


# Layouts


@pytest.mark.parametrize("name", ["FlyingChairs_train_val.txt", "chairs_split.txt"])
def test_chairs(tmp_path, name):
    folder = made.chairs(tmp_path / "FlyingChairs", "1121", name)
    if name == "chairs_split.txt":  # RAFT has it elsewhere, and no folder above data
        shutil.move(folder / name, tmp_path / name)
        folder = folder / "data"
        shutil.move(tmp_path / name, folder / name)
    data = opened(folder)
    assert {split: source.names for split, source in data.splits.items()} == {
        "train": ("00001", "00002", "00004"), "val": ("00003",),
    }  # fmt: skip
    check_example(read_alone(folder)["00003"], ord("1") + 2, ord("2") + 2, 2)


def test_chairs_without_a_list_are_split_by_name(tmp_path, caplog):
    folder = made.chairs(tmp_path / "FlyingChairs_release", "1" * 10)
    (folder / "FlyingChairs_train_val.txt").unlink()
    data = opened(folder, val_fraction=0.2)
    assert [data.splits[name].num_examples for name in ("train", "val", "test")] == [6, 2, 2]
    assert "has no FlyingChairs_train_val.txt or chairs_split.txt" in caplog.text


def test_things(tmp_path):
    data = opened(made.things(tmp_path))
    train, test = (data.splits[name].names for name in ("train", "test"))
    assert (len(train), len(test)) == (2 * 2 * 4, 2 * 4)  # passes, sequences, pairs
    found = read_alone(tmp_path)
    start = 10 * 1 + 100 * len("clean")
    ahead = found["things_clean/TRAIN/B/0001/into_future/0007"]
    check_example(ahead, start + 1, start + 2, 10 + 1)
    back = found["things_clean/TRAIN/B/0001/into_past/0008"]
    check_example(back, start + 2, start + 1, 10 + 5 + 2)
    assert "things_final/TRAIN/B/0001/into_past/0006" not in found


def test_sintel(tmp_path):
    data = opened(made.sintel(tmp_path / "Sintel"))
    found = read(data)
    assert list(found) == [
        f"{kind}/{scene}/frame_000{i}"
        for kind in ("clean", "final")
        for scene in ("alley_1", "bamboo_2")
        for i in (1, 2)
    ]
    example = found["final/bamboo_2/frame_0002"]
    check_example(example, 20 + 50 + 1, 20 + 50 + 2, 20 + 1)
    np.testing.assert_array_equal(example["occluded"], mask_of(21, "occlusions") > 0)
    assert example["occluded"].dtype == example["valid"].dtype == np.float32
    assert example["valid"].all()


def test_invalid_pixels_of_sintel_are_left_out_if_asked(tmp_path):
    found = read(opened(made.sintel(tmp_path), invalid=True))["clean/alley_1/frame_0001"]
    valid = mask_of(0, "invalid") == 0
    np.testing.assert_array_equal(found["valid"], valid)
    assert not found["flow"][~valid].any()
    np.testing.assert_array_equal(found["flow"][valid], flow_of(0)[valid])
    with pytest.raises(ValueError, match=r"data.flow.invalid is for MPI-Sintel with its folder"):
        opened(made.kitti(tmp_path / "kitti"), invalid=True)


def test_kitti(tmp_path):
    data = opened(made.kitti(tmp_path))
    found = read(data)
    assert {name: example["image"].shape[:2] for name, example in found.items()} == {
        "000000_10": SIZE, "000001_10": (5, 9),
    }  # fmt: skip
    for name, example in found.items():
        i, size = int(name[:6]), example["valid"].shape
        valid = np.random.default_rng(i).random(size) < 0.6
        seen = np.random.default_rng(i + 50).random(size) < 0.7
        np.testing.assert_array_equal(example["valid"], valid)
        np.testing.assert_array_equal(example["occluded"], valid & ~seen)
        np.testing.assert_array_equal(example["flow"], flow_of(i, size) * valid[..., None])
        np.testing.assert_array_equal(example["image2"], frame(10 * i + 1, size))
    without = opened(made.kitti(tmp_path / "b", visible=False))
    assert "occluded" not in without.truths


def test_hd1k(tmp_path):
    found = read_alone(made.hd1k(tmp_path, counts=(3, 2)))
    assert list(found) == ["000000_0000", "000000_0001", "000001_0000"]
    check_example(found["000000_0001"], 301, 302, 1)
    check_example(found["000001_0000"], 330, 331, 30)


@pytest.mark.parametrize("ending", ["{}_{}", "{1}/{0}"])
@pytest.mark.parametrize("flow", ["flo", "pfm", "png"])
def test_ones_own(tmp_path, ending, flow):
    folder = made.own(tmp_path / "pairs of mine ü", ["a b", "ü_1", "scene/c"], ending, flow)
    found = read_alone(folder)
    assert list(found) == ["a b", "scene/c", "ü_1"]
    for i, name in enumerate(("a b", "ü_1", "scene/c")):
        check_example(found[name], 10 * i, 10 * i + 1, 10 * i)
    expected = flow_sets.number("own_sparse" if flow == "png" else "own")
    assert set(opened(folder).splits["train"].columns["set"]) == {expected}


def test_ones_own_with_splits_and_occlusions(tmp_path):
    for split in ("train", "validation"):
        made.own(tmp_path / split, ["a"])
    occluded = np.eye(*SIZE, dtype=np.uint8)
    save(tmp_path / "validation" / "a_occluded.png", occluded)
    data = opened(tmp_path)
    assert [source.names for source in data.splits.values()] == [("train/a",), ("validation/a",)]
    found = read_alone(tmp_path)["validation/a"]
    np.testing.assert_array_equal(found["occluded"], occluded)
    assert "occluded" in data.splits["val"].truths
    assert "occluded" not in data.truths
    (tmp_path / "validation" / "a_occluded.png").rename(tmp_path / "train" / "a_occluded.png")
    data = opened(tmp_path)
    assert "occluded" in data.splits["train"].truths
    assert "occluded" not in data.truths  # or figures of it would be computed where it is not


def test_splits_can_lie_in_the_folders_of_frames_and_flow(tmp_path):
    made.own(tmp_path, ["train/a", "train/b", "val/scene/c"], "{1}/{0}")
    assert (tmp_path / "image1" / "train" / "a.png").exists()
    assert {name: source.names for name, source in get_splits(config_of(tmp_path)).items()} == {
        "train": ("train/a", "train/b"), "val": ("val/scene/c",),
    }  # fmt: skip


def everything(folder):
    """A folder that has all sets."""
    made.chairs(folder / "FlyingChairs")
    made.things(folder / "FlyingThings3D")
    made.sintel(folder / "Sintel", masks=False)
    made.kitti(folder / "KITTI 2015", visible=False)
    made.hd1k(folder / "more" / "HD1k")
    return folder


def test_a_mixture_of_all_sets_as_published(tmp_path):
    data = opened(everything(tmp_path), mixture="sintel")
    source = data.splits["train"]
    pairs = {"Sintel": 100 * 8, "KITTI 2015": 200 * 2, "HD1k": 5 * 3, "FlyingThings3D": 8}
    assert source.num_examples == sum(pairs.values())
    assert len(source.columns["flow"]) == 8 + 2 + 3 + 8  # each path is there once
    flows = source.columns["flow"][source.order]
    counts = {name: sum(f"/{name}/" in flow for flow in flows) for name in pairs}
    assert counts == pairs
    sets = source.columns["set"][source.order]
    sparse = [flow_sets.SETS[number].is_sparse for number in sets]
    assert sum(sparse) == pairs["KITTI 2015"] + pairs["HD1k"]
    assert opened(tmp_path, mixture="sintel_things").splits["train"].num_examples == 800 + 8
    assert opened(tmp_path, mixture="things").splits["train"].num_examples == 16
    own = opened(tmp_path, mixture=" 3*kitti+ hd1k ").splits["train"]
    assert own.num_examples == 3 * 2 + 3
    assert opened(tmp_path).splits["train"].num_examples == 3 + 16 + 8 + 2 + 3


def test_an_epoch_of_a_mixture_shows_each_row_as_often_as_it_weighs(tmp_path):
    everything(tmp_path)
    settings = {"mixture": "4 * kitti + hd1k", "train_pp": f"random_crop((3, 4))|{VALUES}"}
    data = opened(tmp_path, **settings)
    epochs = 2
    batches = data.train_batches()
    shown = [next(batches)["image"].tobytes() for _ in range(11 * epochs)]
    assert len(set(shown)) > 11  # the same row has another window each time
    again = opened(tmp_path, **settings).train_batches(start_step=5)
    assert [next(again)["image"].tobytes() for _ in range(6)] == shown[5:11]
    whole = opened(tmp_path, mixture="4 * kitti + hd1k", train_pp=f"central_crop((3, 4))|{VALUES}")
    batches = whole.train_batches()
    for _ in range(epochs):
        seen = [next(batches)["image"].tobytes() for _ in range(11)]
        assert sorted(seen.count(one) for one in set(seen)) == [1, 1, 1, 4, 4]


def test_a_cache_changes_nothing_and_keeps_each_pair_once(tmp_path, monkeypatch):
    everything(tmp_path)
    settings = {"mixture": "3 * kitti + hd1k", "train_pp": f"random_crop((3, 4))|flip_lr|{VALUES}"}
    caches = []

    def make(loader):
        caches.append(memory_cache.MemoryCache(loader))
        return caches[-1]

    monkeypatch.setattr(pipeline, "MemoryCache", make)
    first, second = (
        opened(tmp_path, cache=cache, **settings).train_batches() for cache in (False, True)
    )
    for _ in range(30):
        expected, actual = next(first), next(second)
        for key, value in expected.items():
            np.testing.assert_array_equal(actual[key], value)
    assert set(caches[0]._kept) == set(range(2 + 3))


# Splits


def test_tests_are_in_another_folder(tmp_path):
    made.things(tmp_path / "things")
    made.sintel(tmp_path / "sintel")
    made.kitti(tmp_path / "kitti")
    made.chairs(tmp_path / "FlyingChairs")

    def test_names(name, **changes):
        data = opened(tmp_path / "things", test_source=str(tmp_path / name), **changes)
        assert data.splits["train"].num_examples == 16
        return data.splits["test"].names

    assert test_names("sintel", test="sintel_final")[0] == "final/alley_1/frame_0001"
    assert len(test_names("sintel", test="sintel_clean + sintel_final")) == 8
    assert test_names("kitti") == ("000000_10", "000001_10")
    assert test_names("FlyingChairs") == ("00003",)
    alone = opened("", test_source=str(tmp_path / "kitti"))
    assert list(alone.splits) == ["test"]
    assert "occluded" in alone.truths
    assert len(read(alone, "test")) == 2


def test_scenes_stay_together(tmp_path):
    made.sintel(tmp_path, [f"scene_{i}" for i in range(6)])
    data = opened(tmp_path, val_fraction=0.3)
    assert set(data.splits) == {"train", "val"}
    scenes = [
        {name.split("/")[1] for name in data.splits[split].names} for split in ("train", "val")
    ]
    assert not scenes[0] & scenes[1]
    assert len(scenes[1]) == 2
    assert data.splits["val"].num_examples == 2 * 2 * 2  # both passes
    weighted = opened(tmp_path, val_fraction=0.3, mixture="9 * sintel_clean + sintel_final")
    assert weighted.splits["val"].num_examples == 8
    assert weighted.splits["train"].num_examples == 4 * 2 * 10


def test_batches_of_pairs_that_differ_in_size(tmp_path):
    sizes = [SIZE, (5, 9), SIZE, (7, 7), SIZE]
    made.kitti(tmp_path, 5, sizes)
    data = opened("", test_source=str(tmp_path), eval_pp="decode|value_range(-1, 1)")
    batches = list(data.eval_batches("test"))
    assert [batch["image"].shape for batch in batches] == [
        (1, *size, 3) for size in ((5, 9), SIZE, SIZE, SIZE, (7, 7))
    ]
    for batch in batches:
        height, width = batch["image"].shape[1:3]
        assert batch["image2"].shape == (1, height, width, 3)
        assert batch["flow"].shape == (1, height, width, 2)
        assert batch["valid"].shape == batch["occluded"].shape == (1, height, width)
        assert np.abs(batch["image"]).max() <= 1
    assert sorted(int(batch["index"][0]) for batch in batches) == [0, 1, 2, 3, 4]


# Pixels


def test_grey_frames_are_repeated_and_alpha_is_cut(tmp_path):
    made.own(tmp_path, ["a", "b"])
    grey = frame(0)[..., 0]
    Image.fromarray(grey).save(tmp_path / "a_img1.png")
    (tmp_path / "a_img2.png").unlink()
    Image.fromarray(grey).save(tmp_path / "a_img2.pgm")
    clear = np.concatenate([frame(1), np.zeros((*SIZE, 1), np.uint8)], axis=-1)
    Image.fromarray(clear).save(tmp_path / "b_img1.png")
    palette = Image.fromarray(grey).convert("P")
    palette.info["transparency"] = 0
    palette.save(tmp_path / "b_img2.png", transparency=0)
    found = read_alone(tmp_path)
    for key in ("image", "image2"):
        np.testing.assert_array_equal(found["a"][key], np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(found["b"]["image"], frame(1))
    np.testing.assert_array_equal(found["b"]["image2"], np.repeat(grey[..., None], 3, -1))


def test_unknown_flow_is_0_and_not_valid(tmp_path):
    made.own(tmp_path, ["a"])
    flow = np.ones((*SIZE, 2), np.float32)
    flow[0, :4, 0] = np.nan, 2e9, 1000, -999
    flow[1, 0, 1] = np.inf
    (tmp_path / "a_flow.flo").write_bytes(flow_files.encode_flo(flow))
    example = read(opened(tmp_path))["a"]
    invalid = np.zeros(SIZE, bool)
    invalid[0, :3] = invalid[1, 0] = True
    np.testing.assert_array_equal(example["valid"], ~invalid)
    assert not example["flow"][invalid].any()
    np.testing.assert_array_equal(example["flow"][0, 3], [-999, 1])
    spec = f"random_crop(5)|flip_lr|rot90|{VALUES}"
    batch = next(opened(tmp_path, train_pp=spec).train_batches())
    assert np.isfinite(batch["flow"]).all()


def test_augmentation_knows_of_which_set_an_example_is(tmp_path):
    everything(tmp_path)
    source = opened(tmp_path, mixture="kitti + things_clean").splits["train"]
    found = set()
    for i in range(len(source.columns["set"])):
        row = {key: tf.constant(column[i]) for key, column in source.columns.items()}
        example = source.load(row)
        assert "set" in source.truths
        found.add((flow_sets.SETS[int(example["set"])].name, example["flow"].shape[0]))
        assert "set" not in source.finish(example, tf.zeros(2, tf.int32))
    assert found == {("kitti", 6), ("kitti", 5), ("things", 6)}


def test_the_table_of_sets():
    assert [row.name for row in flow_sets.SETS[:5]] == ["chairs", "things", "sintel", "kitti",
                                                        "hd1k"]  # fmt: skip
    sintel = flow_sets.STAGES["sintel"]
    scales = {name: sintel.scales_of(name) for name in ("sintel", "things", "kitti", "hd1k")}
    assert scales == {"sintel": (-0.2, 0.6), "things": (-0.2, 0.6), "kitti": (-0.3, 0.5),
                      "hd1k": (-0.5, 0.2)}  # fmt: skip
    assert flow_sets.STAGES["kitti"].scales_of("kitti") == (-0.2, 0.4)
    assert [name for name, stage in flow_sets.STAGES.items() if not stage.flips] == ["kitti"]
