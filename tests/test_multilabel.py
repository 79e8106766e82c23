"""Images of several classes: tables of their labels, and a run on them."""

import csv
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import common
from input_pipeline import sample_photos
from input_pipeline.sources import get_splits
from tests.helpers import TINY, data_config, write_image
from vit_jax import experiment, pretrained, train
from vit_jax.tasks import classify
from vit_jax.workdir import Workdir

NAMES = ("a.png", "b.png", "c.png", "d.png")


def write_table(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def folder(tmp_path):
    """Four images."""
    for i, name in enumerate(NAMES):
        write_image(tmp_path / name, (60 * i, 0, 0), size=(8, 8))
    return tmp_path


def found(source, **changes):
    """Classes, and the labels of each image by split."""
    splits = get_splits(data_config(source, "multilabel", val_fraction=0.0, **changes))
    names = splits["train"].class_names
    return names, {
        split: {
            name: "".join(names[i] for i in np.flatnonzero(label))
            for name, label in zip(source.names, source.columns["label"])
        }
        for split, source in splits.items()
    }


EXPECTED = {"a.png": "xy", "b.png": "", "c.png": "y", "d.png": "xz"}


@pytest.mark.parametrize(
    "lines",
    [
        ("image,labels", "a.png,y|x", "b.png,", "c.png,y", "d.png,x | z"),
        ("File Name;Tags", 'a.png;"y;x"', "b.png;", "c.png;y", "d.png;x,z"),
        ("id\tpath\tlabels", "1\ta.png\ty,x", "2\tb.png\t", "", "3\tc.png\ty", "4\td.png\tz|x|x"),
        ("file,x,y,z", "a.png,1,1,0", "b.png,0,0,0", "c.png,,1,", "d.png,1.0,False,TRUE"),
    ],
)
def test_tables(folder, lines):
    table = write_table(folder / "labels.csv", *lines)
    assert found(folder) == (("x", "y", "z"), {"train": EXPECTED})
    assert found(table) == found(folder)


def test_columns_keep_their_order_and_numbers_are_sorted_as_such(folder):
    write_table(folder / "t.tsv", "image\tz\ta", "a.png\t1\t0", "b.png\t0\t1")
    assert found(folder) == (("z", "a"), {"train": {"a.png": "z", "b.png": "a"}})
    (folder / "t.tsv").unlink()
    write_table(folder / "t.csv", "image,labels", "a.png,10|9", "b.png,2")
    assert found(folder)[0] == ("2", "9", "10")


def test_splits(folder):
    expected = {"train": {"a.png": "x", "b.png": "y"}, "val": {"c.png": "x"}, "test": {"d.png": ""}}
    write_table(
        folder / "t.csv", "split,image,labels", "train,a.png,x", "train,b.png,y", "valid,c.png,x",
        "test,d.png,",
    )  # fmt: skip
    assert found(folder)[1] == expected
    (folder / "t.csv").unlink()
    write_table(folder / "train.csv", "image,labels", "a.png,x", "b.png,y")
    write_table(folder / "validation.csv", "image,labels", "c.png,x")
    write_table(folder / "test.csv", "image,labels", "d.png,")
    assert found(folder)[1] == expected


@pytest.mark.parametrize("is_one_table", [True, False])
def test_folders_of_splits(tmp_path, is_one_table):
    for split in ("train", "test"):
        for name in NAMES[:2]:
            write_image(tmp_path / split / "images" / name, (60, 0, 0), size=(8, 8))
    if is_one_table:
        names = [f"{split}/images/{name}" for split in ("train", "test") for name in NAMES[:2]]
        write_table(tmp_path / "all.csv", "image,x", *(f"{name},1" for name in names))
    else:
        for split in ("train", "test"):
            write_table(tmp_path / split / "labels.csv", "image,x", "a.png,1", "b.png,1")
    splits = get_splits(data_config(tmp_path, "multilabel", val_fraction=0.4))
    assert {name: source.num_examples for name, source in splits.items()} == {
        "train": 1, "val": 1, "test": 2,
    }  # fmt: skip


def test_what_is_split_off_depends_on_the_images_alone(folder):
    write_table(folder / "t.csv", "image,x", *(f"{name},1" for name in NAMES))
    config = data_config(folder, "multilabel", val_fraction=0.25)
    names = {split: source.names for split, source in get_splits(config).items()}
    assert sorted(map(len, names.values())) == [1, 1, 2]
    assert sorted(name for some in names.values() for name in some) == list(NAMES)
    write_table(folder / "t.csv", "image,x", *(f"{name},0" for name in NAMES[::-1]))
    again = get_splits(config)
    assert {k: set(source.names) for k, source in again.items()} == {
        k: set(some) for k, some in names.items()
    }
    assert again["train"].digest not in ("", get_splits(config)["val"].digest)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("image,labels", "a.png,x", "e.png,y"), r"t.csv line 3: there is no image .*/e.png$"),
        (("image,labels", "a.png,x", "b.png,x", "./a.png,y"), "line 4: './a.png' is in .* line 2"),
        (("image,labels", "a.png,x,y"), "line 2: it has 3 fields, and the first line 2"),
        (("image,labels", ",x"), "line 2: it names no image"),
        (("image,labels", "t.csv,x"), "line 2: .*t.csv is no image"),
        (("image,x,y", "a.png,1,0", "b.png,2,0"), "line 3: 'x' must be 0 or 1, and is '2'"),
        (("image,split,x", "a.png,train,1", "b.png,spare,0"), "line 3: the split 'spare' is none"),
        (("image,split,x", "a.png,train,1", "b.png,,0"), "line 3 says no split, and other rows do"),
        (
            ("image,split,labels", "a.png,train,dog|cat", "b.png,test,dgo"),
            "1 rows .* line 3: the class 'dgo' is that of no image to train on, did you mean 'dog'",
        ),
        (("image,labels", "a.png,", "b.png,"), "no row to train on has a label"),
        (("image,labels",), "t.csv has no rows below its first line"),
        (("image", "a.png"), "its first line must name the columns: image, and either labels"),
        (("what,labels", "a.png,x"), "its first line must .*; it is 'what,labels'"),
        (("image,x,x", "a.png,1,1"), "each title once; it is 'image,x,x'"),
        (("image,labels", 'a.png,"x'), "line 2: .* is a quote not closed"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(folder, lines, message):
    write_table(folder / "t.csv", *lines)
    with pytest.raises(ValueError, match=message):
        found(folder)


def test_tables_that_do_not_fit_each_other(folder):
    with pytest.raises(ValueError, match=r"holds no table: put in labels.csv; its first line must"):
        found(folder)
    with pytest.raises(ValueError, match="there is no such folder or table"):
        found(folder / "none")
    write_table(folder / "train.csv", "image,x,y", "a.png,1,0")
    write_table(folder / "test.csv", "image,y", "b.png,1")
    with pytest.raises(ValueError, match=r"test.csv line 1: it has no column 'x'"):
        found(folder)
    write_table(folder / "test.csv", "image,x,y", "a.png,1,0", "c.png,1,0")
    with pytest.raises(ValueError, match=r"line 2: 'a.png' is in .*csv line 2 already"):
        found(folder)
    write_table(folder / "other.csv", "image,x,y", "b.png,1,0")
    with pytest.raises(ValueError, match=r"several tables may hold the labels: .*other.csv"):
        found(folder)


def test_what_is_left_out_or_odd_is_said(folder, caplog):
    write_table(folder / "t.csv", "image,labels", "a.png,haze primary", "b.png,haze")
    found(folder)
    assert "2 images are in no row of the labels and are left out, such as 'c.png'" in caplog.text
    assert "such as 'haze primary': if that is several classes, put | between" in caplog.text
    write_table(folder / "t.csv", "image,split,x,y", "a.png,train,1,0", "b.png,test,0,1")
    found(folder)
    assert "no image to train on is of y" in caplog.text


def test_skip_corrupt(folder):
    write_table(folder / "t.csv", "image,x", *(f"{name},1" for name in NAMES))
    (folder / "b.png").write_bytes(b"no image")
    assert list(found(folder, skip_corrupt=True)[1]["train"]) == ["a.png", "c.png", "d.png"]


# A run.


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Images that are red, blue, both or neither, in train and test."""
    folder = tmp_path_factory.mktemp("colours")
    lines = ["image,split,blue,red,green"]
    for i in range(24):
        blue, red = i % 2, i // 2 % 2
        write_image(folder / f"{i}.png", (40 + 180 * red, 40, 40 + 180 * blue), (8, 8), seed=i)
        lines.append(f"{i}.png,{'test' if i >= 16 else 'train'},{blue},{red},0")
    write_table(folder / "labels.csv", *lines)
    return folder


def colours_config(folder):
    config = common.get_config()
    config.model_name = "ViT-Ti_16"
    config.model.update(TINY, classifier="gap")
    config.data.update(kind="multilabel", source=str(folder), val_fraction=0.0)
    config.data.train_pp = config.data.eval_pp = "decode|resize(8)|value_range(-1, 1)"
    config.batch_size, config.total_steps, config.eval_every = 8, 30, 30
    config.loss, config.best_metric = "sigmoid_xent", "auc"
    config.metrics = ("mean_average_precision", "auc", "f1", "log_loss")
    config.optim.learning_rate = 0.01
    return config


def test_a_run_and_what_it_says_of_an_image(colours, tmp_path):
    figures = train.train_and_evaluate(colours_config(colours), tmp_path / "run")
    assert figures["test"]["mean_average_precision"] == 1  # of blue and red: green never occurs
    assert figures["test"]["log_loss"] == pytest.approx(figures["test"]["loss"] / 3, rel=1e-5)
    last = Workdir(tmp_path / "run").read_metrics()[-1]
    assert last["auc"] == figures["test"]["auc"] == 1
    report = tmp_path / "run" / "report"
    names = {"average_precision.png", "classes.csv", "curves.png", "index.html", "predictions.png"}
    assert {path.name for path in report.iterdir()} == names
    rows = list(csv.DictReader((report / "classes.csv").read_text().splitlines()))
    assert [(row["class"], row["examples"]) for row in rows] == [
        ("blue", "4"), ("red", "4"), ("green", "0"),
    ]  # fmt: skip
    predictor = classify.Classifier(pretrained.load(tmp_path / "run"))
    assert predictor.header == ("blue", "red", "green")
    (answer,) = predictor.answers(predictor.find([colours / "23.png"]))
    blue, red, green = map(float, answer.row)
    assert min(blue, red) > 0.7
    assert green < 0.3
    assert re.fullmatch(r".*23.png: (blue|red) \d+\.\d%; (blue|red) .*%; green .*%", answer.line)


def test_what_is_for_one_label_is_refused_together(colours):
    config = colours_config(colours)
    config.loss, config.metrics, config.best_metric = "softmax_xent", ("accuracy",), "accuracy"
    message = r"set loss to sigmoid_xent, not softmax_xent; take accuracy out .*multilabel\.py does"
    with pytest.raises(ValueError, match=message):
        experiment.build(config)


def test_mixing_blends_the_labels_of_neighbours():
    config = colours_config("")
    config.mixup_alpha = 1.0
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], np.float32)
    batch = {"image": np.zeros((3, 8, 8, 3), np.float32), "label": labels}
    mixed = classify.prepare(config, SimpleNamespace(num_classes=3))(jax.random.key(0), batch)[
        "label"
    ]
    share = float(mixed[0, 0])
    assert 0 < share < 1
    expected = share * labels + (1 - share) * np.roll(labels, 1, axis=0)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_the_digits_to_try_it_on(tmp_path, monkeypatch):
    digits = {"train": (0, 0.7, 60), "val": (0.7, 0.8, 5), "test": (0.8, 1, 7)}
    monkeypatch.setattr(sample_photos, "_DIGITS", digits)
    assert sample_photos.main([str(tmp_path), "--kind=multilabel"]) == 0
    names, splits = found(tmp_path)
    assert names == tuple("0123456789")
    assert {name: len(some) for name, some in splits.items()} == {
        "train": 60, "val": 5, "test": 7,
    }  # fmt: skip
    assert {len(labels) for labels in splits["train"].values()} == {1, 2, 3, 4}
