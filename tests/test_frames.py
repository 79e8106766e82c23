"""Which frames a person means, and what is read of them."""

import builtins
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from tests.helpers import photo
from tests.videos import write_video
from vit_jax import frames

SIZE = (24, 32)


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(*arguments):
    """The names of the files of each item, the place of its results, and its number of answers."""
    items = frames.find(list(map(str, arguments)))
    return [([path.name for path in item.paths], str(item.inside), item.count) for item in items]


def error_of(*arguments):
    with pytest.raises(ValueError) as info:  # noqa: PT011  the callers look at the message
        frames.find(list(map(str, arguments)))
    (line,) = str(info.value).splitlines()
    return line


def test_files_pairs_folders_and_videos_can_be_mixed(tmp_path):
    touch(tmp_path, "s/frame_0002.png", "s/frame_0001.png", "s/frame_0003.png", "s/notes.txt")
    assert found("x/b.ppm", "a.jpg", tmp_path / "s", "x/Film.MP4", "c", "d") == [
        (["b.ppm", "a.jpg"], "b.ppm", 1),
        (["frame_0001.png", "frame_0002.png", "frame_0003.png"], "frame_0001.png", 2),
        (["Film.MP4"], "Film.MP4", None),
        (["c", "d"], "c", 1),
    ]


def test_folders_inside_are_sequences_of_their_own(tmp_path):
    touch(tmp_path, "clean/alley/frame_0001.png", "clean/alley/frame_0002.png", "late.mkv",
          "clean/cave/frame_0007.png", "clean/cave/frame_0008.png", ".hidden/1.png")  # fmt: skip
    assert found(tmp_path) == [
        (["frame_0001.png", "frame_0002.png"], "clean/alley/frame_0001.png", 1),
        (["frame_0007.png", "frame_0008.png"], "clean/cave/frame_0007.png", 1),
        (["late.mkv"], "late.mkv", None),
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10.png", "9.png", "8.png"], [["8.png", "9.png", "10.png"]]),
        (["a_98_x.png", "a_100_x.jpg", "a_99_x.png"],
         [["a_98_x.png", "a_99_x.png", "a_100_x.jpg"]]),
        (["00001_img2.ppm", "00002_img1.ppm", "00001_img1.ppm", "00002_img2.ppm"],
         [["00001_img1.ppm", "00001_img2.ppm"], ["00002_img1.ppm", "00002_img2.ppm"]]),
        (["000000_10.png", "000000_11.png"], [["000000_10.png", "000000_11.png"]]),
        (["r2_1920x1080.png", "r1_1920x1080.png"], [["r1_1920x1080.png", "r2_1920x1080.png"]]),
        (["left_1.png", "right_1.png", "left_2.png", "right_2.png"],
         [["left_1.png", "left_2.png"], ["right_1.png", "right_2.png"]]),
    ],
)  # fmt: skip
def test_frames_are_ordered_by_the_last_number_that_differs(tmp_path, names, expected):
    touch(tmp_path, *names)
    assert [names for names, _, _ in found(tmp_path)] == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["f_0001.png", "f_0002.png", "f_0005.png", "f_0008.png"],
         "F/f_0003.png is missing (2 between f_0002.png and f_0005.png): add what is missing"),
        (["9_b.jpg", "11_b.jpg"], "F/10_b.jpg is missing (1 between 9_b.jpg and 11_b.jpg)"),
        (["0_99.jpg", "1_99.jpg", "1_101.jpg"], "F/0_99.jpg is a frame alone: no other file of F"),
        (["f_1.png", "f_01.png"], "F/f_01.png and f_1.png have the same number, or none, and so"),
        (["a.png", "a.jpg"], "F/a.jpg and a.png have the same number, or none, and so no order"),
        (["f_1.png", "f_2.png", "cover.png"], "F/cover.png is a frame alone: no other file of F"),
        (["a.txt"], "folder F holds no frames (.jpg, "),
    ],
)  # fmt: skip
def test_a_sequence_that_is_not_whole_is_refused(tmp_path, names, expected):
    touch(tmp_path, *names)
    assert error_of(tmp_path).replace(str(tmp_path), "F").startswith(expected)


def test_one_frame_is_not_enough(tmp_path):
    expected = "a.png is a frame alone: give two of them, a folder of frames, or a video"
    assert error_of("a.png") == expected
    touch(tmp_path, "1.png", "2.png")
    assert error_of("a.png", tmp_path, "b.png") == expected
    assert error_of("c.png", "d.png", "a.png") == expected


def test_videos_need_pyav(monkeypatch):
    load = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    assert error_of("film.mp4") == (
        "reading videos takes PyAV, which is not installed: pip install 'vit_jax[video]'"
    )
    assert found("a.png", "b.png")


def read(*arguments):
    (item,) = frames.find(list(map(str, arguments)))
    return list(frames.read(item))


def test_images_are_read_one_by_one(tmp_path):
    Image.fromarray(photo(SIZE)).save(tmp_path / "f1.ppm")
    (tmp_path / "f2.png").write_text("no image")
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(photo(SIZE)[..., 0]).save(tmp_path / "f3.png", exif=exif)
    first, second, third = read(tmp_path)
    np.testing.assert_array_equal(first.pixels, photo(SIZE))
    assert (first.path, first.inside) == (tmp_path / "f1.ppm", PurePath("f1"))
    assert second.pixels is None
    assert second.problem == f"cannot read {tmp_path}/f2.png: not an image in a format that " + (
        "Pillow reads"
    )
    turned = np.repeat(np.rot90(photo(SIZE)[..., :1], -1), 3, axis=-1)
    np.testing.assert_array_equal(third.pixels, turned)


@pytest.mark.parametrize("turns", [0, 1])
def test_videos_are_read_frame_by_frame(tmp_path, turns):
    expected = [photo((24 + 3, 32))[i : i + 24] for i in range(3)]
    write_video(tmp_path / "film.mov", expected, rate=20, turns=turns)
    some = read(tmp_path / "film.mov")
    assert [frame.name.rpartition("/")[2] for frame in some] == [
        "film.mov at 0.000 s", "film.mov at 0.050 s", "film.mov at 0.100 s"
    ]  # fmt: skip
    assert [str(frame.inside) for frame in some] == [f"film/00000{i}" for i in (1, 2, 3)]
    for frame, pixels in zip(some, expected):
        np.testing.assert_array_equal(frame.pixels, np.rot90(pixels, turns))


def test_a_video_is_not_read_ahead(tmp_path, monkeypatch):
    write_video(tmp_path / "film.mkv", [photo(SIZE)] * 40)
    decoded = []
    monkeypatch.setattr(frames, "_upright", lambda frame: decoded.append(frame.time))
    (item,) = frames.find([tmp_path / "film.mkv"])
    reading = frames.read(item)
    next(reading), next(reading)
    assert decoded == [0, 0.04]


def test_damaged_frames_of_a_video(tmp_path):
    path = tmp_path / "film.mov"
    pictures = [np.roll(photo((64, 96)), i, axis=1) for i in range(6)]
    write_video(path, pictures)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    some = read(path)
    assert len(some) == 6
    (bad,) = [i for i, frame in enumerate(some) if frame.pixels is None]
    assert some[bad].problem.startswith(f"cannot read {path} after {(bad - 1) / 25:.3f} s: ")
    for i, (frame, pixels) in enumerate(zip(some, pictures)):
        if i != bad:
            np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gone.mp4", None, "No such file or directory"),
        ("empty.mp4", b"", "Invalid data found when processing input"),
        ("text.webm", b"no video", "Invalid data found when processing input"),
    ],
)
def test_what_is_no_video(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, OSError)) as info:
        read(tmp_path / name)
    assert expected in str(info.value)


def test_what_is_a_video():
    assert frames.is_video(Path("a/b.MKV"))
    assert not frames.is_video(Path("a.mp4/b.png"))
