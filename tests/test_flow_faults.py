"""Data sets of optical flow with faults: what is missing or damaged is named, in one line."""

import logging
import os
import re
import shutil

import numpy as np
import pytest

from input_pipeline import check, flow_files
from input_pipeline.sources import flow_layouts, get_splits
from tests import flow_folders as made
from tests.flow_folders import (
    SIZE,
    config_of,
    flow_of,
    frame,
    opened,
    read_alone,
    save,
)

REMOVED = {
    "chairs": ("data/00002_img2.ppm", r"data/00002_img2\.ppm is missing"),
    "things": ("frames_finalpass/TRAIN/A/0000/left/0007.png",
               r"frames_finalpass/TRAIN/A/0000/left/0007\.png is missing"),
    "things first": ("frames_cleanpass/TRAIN/A/0000/left/0006.png",
                     r"into_future/left/OpticalFlowIntoFuture_0006_L\.pfm has no frame"),
    "things last": ("frames_cleanpass/TRAIN/A/0000/left/0008.png",
                    r"into_future/left/OpticalFlowIntoFuture_0008_L\.pfm has no frame"),
    "things flow": ("optical_flow/TRAIN/A/0000/into_past/left/OpticalFlowIntoPast_0007_L.pfm",
                    r"TRAIN/A/0000/left/0007\.png has no flow of its number"),
    "things direction": ("optical_flow/TRAIN/A/0000/into_past", r"A/0000/into_past is missing"),
    "things sequence": ("optical_flow/TRAIN/A/0000", r"optical_flow/TRAIN/A/0000 is missing"),
    "sintel": ("training/final/alley_1/frame_0002.png",
               r"training/final/alley_1/frame_0002\.png is missing"),
    "sintel first": ("training/clean/alley_1/frame_0001.png",
                     r"training/flow/alley_1/frame_0001\.flo has no frame of its number"),
    "sintel last": ("training/clean/alley_1/frame_0003.png",
                    r"training/clean/alley_1/frame_0003\.png is missing"),
    "sintel flow": ("training/flow/alley_1/frame_0001.flo",
                    r"clean/alley_1/frame_0001\.png has no flow of its number"),
    "sintel mask": ("training/occlusions/alley_1/frame_0001.png",
                    r"training/occlusions/alley_1/frame_0001\.png is missing"),
    "sintel scene": ("training/clean/alley_1", r"training/clean/alley_1 is missing"),
    "kitti": ("training/image_2/000001_11.png", r"training/image_2/000001_11\.png is missing"),
    "kitti flow": ("training/flow_occ/000000_10.png", r"flow_occ/000000_10\.png is missing"),
    "kitti noc": ("training/flow_noc/000000_10.png", r"flow_noc/000000_10\.png is missing"),
    "hd1k": ("hd1k_input/image_2/000000_0001.png", r"image_2/000000_0001\.png is missing"),
    "hd1k flow": ("hd1k_flow_gt/flow_occ/000000_0000.png", r"000000_0000\.png has no flow"),
    "own": ("b_img2.png", r"b_img1\.png has no second frame"),
    "own flow": ("b_flow.flo", r"b_img1\.png has no flow"),
}  # fmt: skip


@pytest.mark.parametrize("name", REMOVED)
def test_what_is_missing_is_named(tmp_path, name, caplog):
    file, message = REMOVED[name]
    folder = getattr(made, name.split()[0])(tmp_path)
    before = {part: names_of(some) for part, some in flow_layouts.find_parts(folder).items()}
    if (folder / file).is_dir():
        shutil.rmtree(folder / file)
    else:
        (folder / file).unlink()
    with pytest.raises(ValueError, match=message) as caught:
        get_splits(config_of(folder))
    assert len(str(caught.value).splitlines()) == 1
    assert check.main([str(folder), "--kind=flow"]) == 1
    get_splits(config_of(folder, skip_corrupt=True))
    assert re.search(f"left out: .*{message}", caplog.text)
    after = {part: names_of(some) for part, some in flow_layouts.find_parts(folder).items()}
    for part, pairs in after.items():
        assert pairs.items() <= before[part].items()  # none has become another
    assert (after == before) == name.endswith(("mask", "noc"))


def names_of(part):
    return {
        pair.name: (pair.image, pair.image2, pair.flow)
        for pairs in part.splits.values()
        for pair in pairs
    }


def test_pairs_are_those_of_names_whatever_is_beside_them(tmp_path):
    folder = made.sintel(tmp_path, ["alley_1"], masks=False)
    expected = read_alone(folder)
    scene = folder / "training" / "clean" / "alley_1"
    (scene / "Thumbs.db").write_bytes(b"none")
    (scene / ".hidden_0002.png").write_bytes(b"none")
    (scene / "notes.txt").write_text("nothing")
    (folder / "training" / "clean" / ".ipynb_checkpoints").mkdir()
    (folder / "training" / "clean" / "list.txt").write_text("nothing")
    assert list(read_alone(folder)) == list(expected)
    save(scene / "frame_0002.jpg", frame(0))
    with pytest.raises(ValueError, match=r"frame_0002\.jpg and .*frame_0002\.png have one number"):
        opened(folder)


FAULTS = {
    "cut flow": ("a_flow.flo", lambda data: data[:-4], r"a_flow\.flo is cut off: its header says"),
    "no flow": ("a_flow.flo", lambda data: b"text", r"a_flow\.flo is no \.flo file"),
    "absurd": ("a_flow.flo", lambda data: b"PIEH" + b"\xff" * 8, r"a_flow\.flo: its header says"),
    "empty": ("a_img1.png", lambda data: b"", r"cannot read .*a_img1\.png: the file is empty"),
    "text": ("a_img2.png", lambda data: b"text", r"cannot read .*a_img2\.png: not an image"),
    "cut": ("a_img2.png", lambda data: data[:80], r"cannot read .*a_img2\.png"),
    "mask": ("a_occluded.png", lambda data: b"text", r"cannot read .*a_occluded\.png"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_read_is_named(tmp_path, name, capsys):
    file, change, message = FAULTS[name]
    made.own(tmp_path, ["a", "b"])
    for pair in "ab":
        save(tmp_path / f"{pair}_occluded.png", np.eye(*SIZE, dtype=np.uint8))
    (tmp_path / file).write_bytes(change((tmp_path / file).read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        read_alone(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert get_splits(config_of(tmp_path, skip_corrupt=True))["train"].names == ("b",)
    assert check.main([str(tmp_path), "--kind=flow"]) == 1
    assert re.search(f"PROBLEM  own: all: 1 that cannot be used: .*{message}",
                     capsys.readouterr().out)  # fmt: skip


@pytest.mark.parametrize("file", ["a_img1.png", "a_img2.png", "a_flow.flo", "a_occluded.png"])
def test_sizes_that_differ_are_an_error_that_names_the_files(tmp_path, file):
    made.own(tmp_path, ["a"])
    save(tmp_path / "a_occluded.png", np.eye(*SIZE, dtype=np.uint8))
    if file.endswith("flo"):
        (tmp_path / file).write_bytes(flow_files.encode_flo(flow_of(0, (6, 9))))
    else:
        save(tmp_path / file, frame(0, (6, 9)))
    with pytest.raises(ValueError, match=rf"{re.escape(file)} \(6 x 9\).* differ in size"):
        read_alone(tmp_path)


def test_links_that_lead_nowhere_are_named(tmp_path):
    made.own(tmp_path, ["a"])
    (tmp_path / "a_img2.png").unlink()
    (tmp_path / "a_img2.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match=r"cannot read .*a_img2\.png: .*No such file"):
        read_alone(tmp_path)
    folder = made.sintel(tmp_path / "sintel", masks=False)
    path = folder / "training" / "flow" / "alley_1" / "frame_0001.flo"
    path.unlink()
    path.symlink_to(path)  # a circle
    batches = opened(folder).train_batches()
    with pytest.raises(ValueError, match=r"^cannot read .*frame_0001\.flo: Too many") as caught:
        [next(batches) for _ in range(8)]
    assert len(str(caught.value).splitlines()) == 1
    assert "--config.data.skip_corrupt=True" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [("112", r"has 3 lines, and .*data 4 flows"), ("11212", r"has 5 lines, and .* 4 flows"),
     ("1123", r"line 4 is '3', which must be 1 for training or 2"),
     ("11x2", r"line 3 is 'x', which must be 1")],
)  # fmt: skip
def test_a_list_of_chairs_with_a_fault(tmp_path, lines, message):
    folder = made.chairs(tmp_path)
    (folder / "FlyingChairs_train_val.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        opened(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": "sintel"}, r"data.flow.mixture='sintel' needs sintel_clean, sintel_final, "
         r"kitti, hd1k, things_clean, and .* has chairs$"),
        ({"mixture": "2 * chair"}, r"data.flow.mixture='2 \* chair': '2 \* chair' is no new part"),
        ({"mixture": "chairs + chairs"}, "'chairs' is no new part with its weight"),
        ({"mixture": "0 * chairs"}, "is no new part with its weight"),
        ({"mixture": "+"}, "'' is no new part with its weight"),
        ({"test": "kitti"}, r"data.flow.test is of data.test_source, which is not given"),
        ({"source": "", "test_source": "SOURCE", "mixture": "chairs"},
         r"data.flow.mixture is of data.source, which is not given"),
        ({"test_source": "SOURCE", "test": "2 * chairs"}, "to test on, parts have no weights"),
        ({"test_source": "SOURCE", "test": "kitti"}, r"data.flow.test='kitti' needs kitti, and"),
        ({"test_source": "SINTEL"}, r"has sintel_clean, sintel_final: say which with "
         r"--config.data.flow.test"),
        ({"source": "NOTHING"}, "there is no folder .*NOTHING"),
        ({"source": "EMPTY"}, "holds no pairs of frames with their flow: it needs NAME_img1.png"),
        ({"source": "digits"}, "data.kind='flow' needs a folder, and data.source is 'digits'"),
        ({"val_fraction": 0.7}, "data.val_fraction must lie in"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(tmp_path, changes, message):
    source = made.chairs(tmp_path / "SOURCE")
    made.sintel(tmp_path / "SINTEL")
    (tmp_path / "EMPTY").mkdir()
    save(tmp_path / "EMPTY" / "a.png", frame(0))
    changes = {
        key: str(tmp_path / value) if str(value).isupper() else value
        for key, value in changes.items()
    }
    settings = {"source": str(source), **changes}
    config = config_of(settings.pop("source"), **settings)
    with pytest.raises(ValueError, match=message):
        get_splits(config)


def test_names_of_frames_that_are_odd(tmp_path):
    folder = made.sintel(tmp_path, ["alley_1"], masks=False) / "training"
    scene = folder / "clean" / "alley_1"
    save(scene / "frame_9999999999.png", frame(0))  # of which not each before it is looked for
    with pytest.raises(
        ValueError, match=r"frame_0004\.png is missing, as are those up to number 99"
    ):
        get_splits(config_of(tmp_path))
    (scene / "frame_9999999999.png").unlink()
    (scene / "frame_0002.png").unlink()
    os.mkfifo(scene / "frame_0002.png")
    with pytest.raises(ValueError, match=r"frame_0002\.png is missing\. Add"):
        get_splits(config_of(tmp_path))
    for name in ("clean", "final", "flow"):
        (folder / name / "alley_1").rename(folder / name / "alley\n1")
    with pytest.raises(ValueError, match=r"'final/alley\\n1/frame_0001', which has several lines"):
        get_splits(config_of(tmp_path, mixture="sintel_final"))


def test_sets_without_a_single_flow(tmp_path):
    made.hd1k(tmp_path)
    for path in (tmp_path / "hd1k_flow_gt" / "flow_occ").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"holds no whole pair of frames with their flow$"):
        get_splits(config_of(tmp_path))


def test_a_set_that_is_there_twice(tmp_path):
    made.kitti(tmp_path / "a")
    made.kitti(tmp_path / "b")
    with pytest.raises(ValueError, match=r"/a and .*/b both hold kitti: give the folder of one"):
        flow_layouts.find_parts(tmp_path)


def test_ones_own_files_of_which_it_is_not_clear_which_is_meant(tmp_path):
    made.own(tmp_path, ["a"])
    save(tmp_path / "a_img1.jpg", frame(0))
    with pytest.raises(ValueError, match=r"a_img1\.jpg and .*a_img1\.png are both the image of a"):
        flow_layouts.find_parts(tmp_path)


# Checking


def moving(folder, count, shift=0):
    """Pairs of which the second frame is the first, moved to the right by 1, 2, ... pixels."""
    for i in range(count):
        whole = np.random.default_rng(i).integers(0, 256, (20, 60, 3)).astype(np.uint8)
        save(folder / f"{i}_img1.png", whole[:, 20:50])
        save(folder / f"{i}_img2.png", whole[:, 19 - i : 49 - i])
        flow = np.zeros((20, 30, 2), np.float32)
        flow[..., 0] = (i + shift) % count + 1
        (folder / f"{i}_flow.flo").write_bytes(flow_files.encode_flo(flow))


def test_check_says_whether_flows_fit_their_frames(tmp_path, capsys):
    for name, shift in (("right", 0), ("shifted", 1)):
        (tmp_path / name).mkdir()
        moving(tmp_path / name, 5, shift)
    assert check.main([str(tmp_path / "right"), "--kind=flow"]) == 0
    out = capsys.readouterr().out
    assert "own, all: 5 pairs in" in out
    assert "1 size: 20 to 20 pixels high, 30 to 30 wide" in out
    assert "100.0 % of the pixels are known, 3.00 pixels long on average, 5.0 at most" in out
    assert "once moved by the flow by 0.0" in out
    assert out.endswith("no problems\n")
    # One pair less, as where a frame is missing and the others are counted.
    assert check.main([str(tmp_path / "shifted"), "--kind=flow"]) == 1
    assert "of 5 flows do not fit their frames, which they make less alike" in (
        capsys.readouterr().out
    )


def test_check_finds_pairs_in_several_splits_and_flows_known_nowhere(tmp_path, capsys):
    for split in ("train", "test"):
        made.own(tmp_path / split, ["a", split])
    for name in ("img1", "img2"):
        save(tmp_path / "test" / f"test_{name}.png", frame(ord(name[-1])))
    flow = np.full((*SIZE, 2), 1e10, np.float32)
    (tmp_path / "test" / "test_flow.flo").write_bytes(flow_files.encode_flo(flow))
    assert check.main([str(tmp_path), "--kind=flow"]) == 1
    out = capsys.readouterr().out
    assert "1 pairs are in several splits: train/a of train and test/a of test" in out
    assert re.search(r"test: 1 flows are known nowhere: .*test_flow\.flo", out)


def test_check_of_a_folder_without_flow(tmp_path, capsys):
    save(tmp_path / "a.png", frame(0))
    assert check.main([str(tmp_path), "--kind=flow"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no pairs of frames")


def test_the_log_says_what_was_found(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    opened(made.chairs(tmp_path))
    assert "chairs, pairs: 3 of train, 1 of val" in caplog.text
