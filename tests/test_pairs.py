import numpy as np
import pytest
from PIL import Image

from input_pipeline import check
from input_pipeline.sources.pairs import find_pairs


def write(path, size=(12, 10), value=100):
    """Writes an image of one grey value; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)


LAYOUTS = {
    "DehazeFormer": (
        "equal names",
        {"train/hazy/1_2.png": "train/GT/1_2.png", "train/hazy/3_1.png": "train/GT/3_1.png"},
        ["1", "3"],
    ),
    "other suffixes": ("equal names", {"hazy/0122.jpg": "GT/0122.png"}, ["0122"]),
    "RESIDE": (
        "many hazy per clear",
        {
            "hazy/0001_1_0.90179.png": "clear/0001.png",
            "hazy/0001_2_0.97842.png": "clear/0001.png",
            "hazy/part2/0002_1_0.8.png": "clear/0002.png",
        },
        ["0001", "0001", "0002"],
    ),
    "O-HAZE": (
        "end in _hazy and _GT",
        {"hazy/01_outdoor_hazy.jpg": "GT/01_outdoor_GT.jpg"},
        ["01"],
    ),
    "NH-HAZE": (
        "end in _hazy and _GT",
        {"01_hazy.png": "01_GT.png", "02_hazy.png": "02_GT.png"},
        ["01", "02"],
    ),
    "RS-Haze": (
        "what precedes the first _",
        {"hazy/00215_minmax_RGB_gamma.png": "GT/00215_RGB_gamma.png"},
        ["00215"],
    ),
    "subfolders": (
        "equal names",
        {"hazy/a/1.png": "GT/a/1.png", "hazy/b/1.png": "GT/b/1.png"},
        ["a/1", "b/1"],
    ),
    "dates": (
        "equal names",
        {"hazy/2021_01.png": "GT/2021_01.png", "hazy/2021_02.png": "GT/2021_02.png"},
        ["2021_01", "2021_02"],
    ),
    "words": (
        "equal names",
        {"input/old_house.png": "target/old_house.png", "input/old_inn.png": "target/old_inn.png"},
        ["old_house", "old_inn"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    words, names, scenes = LAYOUTS[layout]
    for hazy, clear in names.items():
        write(tmp_path / hazy)
        write(tmp_path / clear)
    ((name, split),) = find_pairs(tmp_path).items()
    assert name == ("train" if layout == "DehazeFormer" else "all")
    assert words in split.layout
    found = {
        str(p.input.relative_to(tmp_path)): str(p.target.relative_to(tmp_path)) for p in split.pairs
    }
    assert found == names
    assert [pair.scene for pair in split.pairs] == scenes
    assert split.orphans == ()


def test_a_sound_data_set(tmp_path, capsys):
    for split, numbers in (("train", (1, 2)), ("test", (3,))):
        for number in numbers:
            write(tmp_path / split / "hazy" / f"{number}.png", value=110)
            write(tmp_path / split / "GT" / f"{number}.png", value=100)
    assert check.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "train: 2 pairs, by equal names\n    1 size: 10 to 10 pixels high, 12 to 12 wide" in out
    assert f"PSNR of the hazy images: {20 * np.log10(25.5):.2f} dB, mean over 2" in out
    assert out.endswith("no problems\n")


def test_every_fault_is_named(tmp_path, capsys):
    train, test = tmp_path / "train", tmp_path / "test"
    for name in ("1_1", "2_1", "3_1", "4_1"):
        write(train / "hazy" / f"{name}.png", value=110 if name != "1_1" else 100)
        write(train / "GT" / f"{name}.png")
    write(train / "hazy" / "5_1.png")  # without its clear image
    write(train / "GT" / "2_1.png", size=(12, 11))
    data = (train / "hazy" / "3_1.png").read_bytes()
    (train / "hazy" / "3_1.png").write_bytes(data[: len(data) // 2])
    write(test / "hazy" / "4_7.png", value=110)  # the scene of train's 4_1
    write(test / "GT" / "4_7.png")
    write(tmp_path / "elsewhere" / "hazy" / "1_9.png")
    write(tmp_path / "elsewhere" / "GT" / "1_9.png")

    assert check.main([str(tmp_path), f"--against={tmp_path / 'elsewhere'}"]) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PROBLEM")]
    expected = [
        f"train: 1 without a partner: {train}/hazy/5_1.png",
        f"train: 1 unreadable: {train}/hazy/3_1.png (",
        f"train: 1 of another size than its partner: {train}/hazy/2_1.png (10 x 12), "
        f"{train}/GT/2_1.png (11 x 12)",
        f"train: 1 (of a sample) equal to the clear image: {train}/hazy/1_1.png",
        "1 scenes are both in train and in test: 4",
        f"1 scenes are both in train and in all of {tmp_path}/elsewhere: 1",
    ]
    assert len(problems) == len(expected)
    for problem, text in zip(problems, expected):
        assert problem.startswith(f"PROBLEM  {text}")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no pairs: it needs a folder of hazy or small images"),
        (["hazy/1.png"], "has only one of the two: a folder of hazy or small images"),
        (["hazy/a.png", "GT/b.png"], "holds no pairs"),
        (["hazy/1_2.png", "GT/1.png", "GT/1.jpg"], "has clear images of the same name"),
    ],
)
def test_folders_without_pairs(tmp_path, capsys, files, message):
    for file in files:
        write(tmp_path / file)
    assert check.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert check.main([str(tmp_path / "no")]) == 2
    assert "there is no folder" in capsys.readouterr().err
