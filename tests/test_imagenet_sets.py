"""ImageNet's other test sets, laid out as they are downloaded: -V2, -A, -R, and ReaL."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from checkpoints import npz
from input_pipeline import imagenet
from input_pipeline.sources import get_splits
from tests.commands import run
from tests.helpers import TINY, data_config, random_params, write_classes, write_image
from vit_jax import class_names, classification, pretrained
from vit_jax import weights as weight_files

SOME = ("n01498041", "n01531178", "n02009912")  # of ImageNet-A: stingray, goldfinch, egret
NUMBERS = [6, 11, 132]


def test_the_classes_of_imagenet():
    found = imagenet.synsets()
    assert len(set(found)) == 1000
    assert list(found) == sorted(found)
    assert (found[0], found[388], found[999]) == ("n01440764", "n02510455", "n15075141")
    assert [found.index(name) for name in SOME] == NUMBERS


def test_names_are_those_that_tfds_gives_when_it_is_imported():
    from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST

    assert imagenet.names() == tuple(IMAGENET_LABELS_LIST)


def test_which_classes_folders_are():
    assert imagenet.class_numbers(SOME) == NUMBERS
    assert imagenet.class_numbers(SOME[::-1]) == NUMBERS[::-1]
    as_text = sorted(map(str, range(1000)))  # 0, 1, 10, 100, 101, ...
    assert imagenet.class_numbers(as_text)[:4] == [0, 1, 10, 100]
    for others in (["0", "1", "2"], ["ants", "bees"], [*SOME, "n99999999"], [*SOME, "ants"]):
        assert imagenet.class_numbers(others) is None


def test_names_of_imagenets_classes_are_known():
    names = class_names.imagenet1k()
    assert class_names.are_imagenet1k(names)
    assert class_names.are_imagenet1k(imagenet.synsets())
    assert not class_names.are_imagenet1k(names[::-1])
    assert not class_names.are_imagenet1k([f"c{i}" for i in range(1000)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of ImageNet's 1000 classes."""
    _, params = random_params("ViT-B_16", (16, 16), num_classes=1000, **TINY)
    path = tmp_path_factory.mktemp("model") / "a.npz"
    npz.save(path, params, pretrained.say_made_for("ViT-B_16", TINY))
    return path, params["head"]


def adapt(path, names, **arguments):
    model, init = random_params("ViT-B_16", (16, 16), seed=1, num_classes=len(names), **TINY)
    weights = weight_files.read(path)
    return pretrained.adapt(
        weights, {"params": init}, model, (16, 16), class_names=names, **arguments
    )["params"]["head"]


def assert_rows(head, original, rows):
    np.testing.assert_array_equal(head["kernel"], original["kernel"][:, rows])
    np.testing.assert_array_equal(head["bias"], original["bias"][rows])


def test_of_the_head_the_classes_of_the_folder_are_kept(saved, caplog):
    path, head = saved
    caplog.set_level("INFO")
    assert_rows(adapt(path, SOME), head, NUMBERS)
    assert "the head's 1000 classes are taken to be ImageNet-1k's in their order" in caplog.text
    assert "of the head's 1000 classes the data's 3 are kept" in caplog.text
    caplog.clear()
    assert_rows(adapt(path, SOME, labels="imagenet1k"), head, NUMBERS)
    assert "taken to be" not in caplog.text
    by_number = [str(i) for i in range(1000)]
    for labels in ("", "imagenet1k"):
        assert_rows(adapt(path, by_number, labels=labels), head, np.arange(1000))
        as_text = sorted(by_number)
        assert_rows(adapt(path, as_text, labels=labels), head, np.array(as_text, int))


def test_a_head_for_other_classes_begins_anew(saved, tmp_path):
    path, head = saved
    (tmp_path / "other.txt").write_text("\n".join(f"c{i}" for i in range(1000)))
    other = str(tmp_path / "other.txt")
    adapted = adapt(path, SOME, labels=other)
    assert not np.array_equal(adapted["bias"], head["bias"][NUMBERS])
    assert_rows(adapt(path, ("c7", "c3"), labels=other), head, [7, 3])
    (tmp_path / "numbers.txt").write_text("\n".join(f"{i}" for i in range(1000)))
    adapted = adapt(path, ("0", "1"), labels=str(tmp_path / "numbers.txt"))  # of which set?
    assert not np.array_equal(adapted["bias"], head["bias"][:2])


def test_folders_of_imagenet_v2_are_in_the_order_of_their_numbers(tmp_path):
    for i in range(12):
        write_image(tmp_path / str(i) / "a.jpeg", (i, 0, 0))
    config = data_config(tmp_path, val_fraction=0.0)
    assert get_splits(config)["train"].class_names == tuple(str(i) for i in range(12))


def test_any_label_of_real_is_right():
    labels = np.array([[2, 0, -1], [-1, -1, -1], [1, -1, -1], [0, 1, -1]])
    out = jnp.array([[3.0, 0, 0], [3, 0, 0], [3, 0, 0], [0, 0, 3]])
    each = np.asarray(classification.real_accuracy(out, {"real": labels}))
    np.testing.assert_array_equal(each, [1, np.nan, 0, 0])


def write_validation(folder):
    """Images of three classes by names as ILSVRC's have, and labels of all."""
    numbers = iter((5, 1, 2, 4, 3, 6))
    paths = {
        number: write_image(
            folder / name / f"ILSVRC2012_val_{number:08}.JPEG", (40 * number, 90, 9 * i), seed=i
        )
        for i, name in enumerate(SOME * 2)
        for number in [next(numbers)]
    }
    lists = [[6, 11], [999], [], [132], [11, 132, 999], [6, 11, 132]]
    real = folder.parent / "real.json"
    real.write_text(json.dumps(lists))
    return paths, dict(enumerate(lists, start=1)), real


def test_labels_of_real_go_by_the_images_numbers(tmp_path):
    paths, lists, real = write_validation(tmp_path / "val")
    config = data_config(tmp_path / "val", val_fraction=0.0, real=str(real))
    (source,) = get_splits(config).values()
    assert source.eval_truths == ("real",)
    found = {
        int(os.path.basename(path).partition(".")[0][-8:]): [NUMBERS[i] for i in row if i >= 0]
        for path, row in zip(source.columns["path"].tolist(), source.columns["real"])
    }
    assert found.keys() == paths.keys()
    known = {k: [number for number in some if number in NUMBERS] for k, some in lists.items()}
    assert found == known

    write_image(tmp_path / "all" / "train" / SOME[0] / "n01498041_7.JPEG", (0, 0, 0))
    write_image(tmp_path / "all" / "train" / SOME[1] / "n01531178_7.JPEG", (0, 0, 0))
    write_image(tmp_path / "all" / "val" / SOME[0] / "ILSVRC2012_val_00000001.JPEG", (0, 0, 0))
    sources = get_splits(data_config(tmp_path / "all", real=str(real)))
    assert (sources["train"].columns["real"] == -1).all()
    assert sources["val"].columns["real"].tolist() == [[0, 1, -1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"real": "gone.json"}, "cannot read gone.json: No such file or directory; data.real is "),
        ({"real": [[1000]]}, "is another file: data.real is real.json of ReaL, a list of class"),
        ({"real": {"a": [1]}}, "is another file"),
        ({"real": [[]]}, "is another file"),
        ({"real": [[1]]}, "ILSVRC2012_val_00000001.JPEG to 00000001, and ILSVRC2012_val_000000"),
        ({"real": [[999]] * 6}, "has labels of no image of train"),
        ({"source": "digits"}, "data.real is for ImageNet's validation images, in a folder"),
        ({"source": "colors"}, "called by the WordNet ids of ImageNet's classes, .* has 'blue'"),
    ],
)
def test_what_real_cannot_be_used_for(changes, message, tmp_path):
    *_, real = write_validation(tmp_path / "val")
    write_classes(tmp_path / "colors", 1)
    config = data_config(tmp_path / "val", val_fraction=0.0, real=str(real))
    if isinstance(changes.get("real"), list | dict):
        real.write_text(json.dumps(changes["real"]))
    elif "real" in changes:
        config.real = changes["real"]
    if "source" in changes:
        config.source = changes["source"].replace("colors", str(tmp_path / "colors"))
    with pytest.raises(ValueError, match=message):
        get_splits(config)


def shares_of(path, photos):
    """(n, 1000) probabilities of a model's classes."""
    found = vit_jax.load(path, labels="none")(list(photos))
    return np.array([[shares[f"class {i}"] for i in range(1000)] for shares in found])


def evaluate(path, source, workdir, *changes):
    return run(
        "main", f"--config=configs/evaluate.py:{path}", f"--workdir={workdir}",
        f"--config.data.source={source}", *changes,
    )  # fmt: skip


def figures_in(stdout):
    head, line = (line.split() for line in stdout.splitlines()[-2:])
    return dict(zip(head[1:], map(float, line[1:])))


@pytest.mark.slow
def test_evaluation_on_some_classes_and_on_real(saved, tmp_path):
    path, _ = saved
    paths, lists, real = write_validation(tmp_path / "val")
    result = evaluate(path, tmp_path / "val", tmp_path / "w")
    assert result.returncode == 0, result.stderr
    assert "of the head's 1000 classes the data's 3 are kept" in result.stderr
    guesses = dict(zip(paths, np.argmax(shares_of(path, paths.values())[:, NUMBERS], axis=1)))
    right = np.mean([SOME[guesses[k]] == paths[k].parent.name for k in paths])
    assert figures_in(result.stdout)["accuracy"] == pytest.approx(right, abs=1e-4)

    result = evaluate(path, tmp_path / "val", tmp_path / "r", f"--config.data.real={real}")
    assert result.returncode == 2
    metrics = "--config.metrics=('accuracy', 'real_accuracy')"
    assert "error: data.real is for real_accuracy: say --config.metrics=" in result.stderr
    assert metrics.partition("=")[2] in result.stderr
    result = evaluate(path, tmp_path / "val", tmp_path / "r", f"--config.data.real={real}", metrics)
    assert result.returncode == 0, result.stderr
    known = {k: set(some) & set(NUMBERS) for k, some in lists.items()}
    is_right = [NUMBERS[guesses[k]] in some for k, some in known.items() if some]
    assert len(is_right) == 4
    figures = figures_in(result.stdout)
    assert figures["real_accuracy"] == pytest.approx(np.mean(is_right), abs=1e-4)
    assert figures["accuracy"] == pytest.approx(right, abs=1e-4)
    assert figures["examples"] == 6

    result = evaluate(path, tmp_path / "val", tmp_path / "n", metrics)
    assert result.returncode == 2
    assert "the metric real_accuracy is computed from real, and these data have" in result.stderr
