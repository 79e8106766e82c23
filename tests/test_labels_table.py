"""Images of one class each, as a table says: the table is read as in test_multilabel.py."""

import numpy as np
import pytest

from input_pipeline.sources import get_splits
from tests.helpers import data_config, write_image
from vit_jax import train
from vit_jax.workdir import Workdir

NAMES = ("a.png", "b.png", "c.png", "d.png")


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(NAMES):
        write_image(tmp_path / name, (60 * i, 0, 0), size=(8, 8))
    return tmp_path


def write_table(folder, *lines, name="labels.csv"):
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder / name


def found(source):
    splits = get_splits(data_config(source, "classes", val_fraction=0.0))
    names = splits["train"].class_names
    return {
        split: {name: names[label] for name, label in zip(source.names, source.columns["label"])}
        for split, source in splits.items()
    }


@pytest.mark.parametrize(
    "lines",
    [
        (
            "image,label",
            'a.png,"cat, grey"',
            "b.png,dog|wolf",
            "c.png,dog|wolf",
            'd.png,"cat, grey"',
        ),
        ("class;file", "cat, grey;a.png", "dog|wolf;b.png", "dog|wolf;c.png", "cat, grey;d.png"),
        ('image,"cat, grey",dog|wolf', "a.png,1,0", "b.png,0,1", "c.png,,1", "d.png,True,0"),
    ],
)
def test_tables(folder, lines):
    expected = {
        "a.png": "cat, grey",
        "b.png": "dog|wolf",
        "c.png": "dog|wolf",
        "d.png": "cat, grey",
    }
    assert found(write_table(folder, *lines)) == {"train": expected}


def test_splits_and_numbers(folder):
    lines = ("image,label,split", "a.png,10,train", "b.png,9,train", "c.png,9,val", "d.png,10,test")
    table = write_table(folder, *lines, name="which.tsv")
    splits = get_splits(data_config(table, "classes"))
    assert splits["train"].class_names == ("9", "10")
    labels = {split: source.columns["label"] for split, source in splits.items()}
    assert {split: label.tolist() for split, label in labels.items()} == {
        "train": [1, 0], "val": [0], "test": [1],
    }  # fmt: skip
    assert labels["train"].dtype == np.int32


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("image,label", "a.png,", "b.png,x"), "line 2: it has no classes, and one is needed"),
        (("image,x,y", "a.png,1,1", "b.png,0,1"), "line 2: it has 2 classes, and one is needed"),
        (("image,label", "a.png,x", "b.png,x"), "has one class alone, 'x'"),
        (("image,label,split", "a.png,x,train", "b.png,y,train", "c.png,z,val"),
         "line 4: the class 'z' is that of no image to train on"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(folder, lines, message):
    with pytest.raises(ValueError, match=message):
        found(write_table(folder, *lines))


def test_a_folder_with_a_table_says_how_it_is_named(folder):
    table = write_table(folder, "image,label", "a.png,x")
    with pytest.raises(ValueError, match=rf"no class subfolders: .*--config.data.source={table}"):
        found(folder)


def test_a_run(folder, folder_config):
    lines = ("image,label,split", "a.png,x,train", "b.png,y,train", "c.png,x,train", "d.png,y,val")
    folder_config.data.source = str(write_table(folder, *lines))
    folder_config.update(batch_size=2, total_steps=2)
    train.train_and_evaluate(folder_config, folder / "w")
    assert (folder / "w" / "labels.txt").read_text() == "x\ny\n"
    assert Workdir(folder / "w").read_metrics()[-1]["split"] == "val"
