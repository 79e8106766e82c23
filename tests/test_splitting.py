"""Which examples go to which split depends on names and data.split_seed, and stays as it was."""

import pytest

from configs import common
from input_pipeline.sources import get_splits


def touch(folder, names):
    """Makes empty files, which nothing here reads."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder, kind, scale=1, **changes):
    """Names by split, less their common ending."""
    config = common.get_config().data
    config.source, config.kind = str(folder), kind
    config.degradation.sigma = 1.0
    config.update(changes)
    column = {"classes": "path", "pairs": "input"}.get(kind, "photo")
    return {
        split: " ".join(
            str(path).removeprefix(f"{folder}/").removesuffix(".png")
            for path in source.columns[column]
        )
        for split, source in get_splits(config, scale).items()
    }


CLASSES = [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(7)]
LETTERS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]


@pytest.mark.parametrize(
    ("files", "settings", "expected"),
    [
        (
            [*CLASSES, "cat/more/3.png", "cat/more/4.png"],
            dict(kind="classes", val_fraction=0.3),
            {
                "train": "cat/0 cat/2 cat/6 cat/more/4 dog/0 dog/3",
                "val": "cat/1 cat/3 cat/more/3 dog/4 dog/5 dog/6",
                "test": "cat/4 cat/5 dog/1 dog/2",
            },
        ),
        (
            [*CLASSES, "cat/more/3.png", "cat/more/4.png"],
            dict(kind="classes", val_fraction=0.3, split_seed=1),
            {
                "train": "cat/1 cat/4 cat/6 cat/more/4 dog/2 dog/6",
                "val": "cat/0 cat/2 cat/5 dog/1 dog/3 dog/5",
                "test": "cat/3 cat/more/3 dog/0 dog/4",
            },
        ),
        (
            [*(f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(6)), "test/cat/9.png"],
            dict(kind="classes", val_fraction=0.2),
            {
                "train": "train/cat/0 train/cat/2 train/cat/4 train/cat/5 "
                "train/dog/0 train/dog/1 train/dog/2 train/dog/3",
                "val": "train/cat/1 train/cat/3 train/dog/4 train/dog/5",
                "test": "test/cat/9",
            },
        ),
        (
            [f"{name}.png" for s in range(8) for name in (f"GT/{s}", f"hazy/{s}_0", f"hazy/{s}_1")],
            dict(kind="pairs", val_fraction=0.2),
            {
                "train": "hazy/0_0 hazy/0_1 hazy/2_0 hazy/2_1 hazy/3_0 hazy/3_1 hazy/6_0 hazy/6_1",
                "val": "hazy/1_0 hazy/1_1 hazy/5_0 hazy/5_1",
                "test": "hazy/4_0 hazy/4_1 hazy/7_0 hazy/7_1",
            },
        ),
        (
            [f"{name}.png" for s in range(8) for name in (f"GT/{s}", f"hazy/{s}_0", f"hazy/{s}_1")],
            dict(kind="pairs", val_fraction=0.2, split_seed=3),
            {
                "train": "hazy/0_0 hazy/0_1 hazy/2_0 hazy/2_1 hazy/5_0 hazy/5_1 hazy/7_0 hazy/7_1",
                "val": "hazy/3_0 hazy/3_1 hazy/6_0 hazy/6_1",
                "test": "hazy/1_0 hazy/1_1 hazy/4_0 hazy/4_1",
            },
        ),
        (
            [f"{name}.png" for name in LETTERS],
            dict(kind="hazy_from_clear"),
            {"train": "b c d e f h i j", "val": "a", "test": "g"},
        ),
        (
            [*(f"train/{name}.png" for name in LETTERS), "test/k.png"],
            dict(kind="degraded", val_fraction=0.25),
            {
                "train": "train/b train/c train/f train/g train/h train/i train/j",
                "val": "train/a train/d train/e",
                "test": "test/k",
            },
        ),
    ],
)
def test_splits_are_those_of_before(tmp_path, files, settings, expected):
    touch(tmp_path, files)
    assert found(tmp_path, **settings) == expected
