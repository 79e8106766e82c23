"""Names of as many bytes as file systems take, 255, are read and written like all others."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from PIL import Image

from checkpoints import files, npz
from checkpoints import torch as torch_format
from input_pipeline import prepare, storing
from tests.helpers import noise
from vit_jax import export, results, workdir
from vit_jax.benchmark import accelerator
from vit_jax.models import get_model
from vit_jax.tasks import restore
from vit_jax.tasks.base import Answer

# Of 255 bytes, before an ending: ASCII, and letters of two, three and four bytes.
LETTERS = ["a", "ü", "語", "🐟"]


def name_of(letter, ending, size=255):
    count, rest = divmod(size - len(ending), len(letter.encode()))
    return "x" * rest + letter * count + ending


def size_of(name):
    return len(os.fsencode(name))


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")

    def be_interrupted():
        with files.written_whole(path) as partial:
            partial.write_text("half")
            assert len(os.listdir(tmp_path)) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a"]
    with files.written_whole(path) as partial:
        partial.write_text("first")
    partial.write_text("of a process that was killed, and is written over")
    with files.written_whole(path) as partial:
        partial.write_text("after")
    assert path.read_text() == "after"
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(OSError, match="no room"), files.written_whole(path):
        raise OSError("no room")  # before there is a file


@pytest.mark.parametrize("letter", LETTERS)
def test_weights(tmp_path, letter):
    params = {"a": {"kernel": np.arange(6.0).reshape(2, 3)}}
    npz.save(tmp_path / name_of(letter, ".npz"), params)
    stored = npz.load(tmp_path / name_of(letter, ".npz"))
    np.testing.assert_array_equal(stored["a"]["kernel"], params["a"]["kernel"])
    path = tmp_path / name_of(letter, ".safetensors")
    torch_format.write(path, {"a": np.arange(3.0)})
    np.testing.assert_array_equal(torch_format.read(path)["a"], np.arange(3.0))
    assert sorted(os.listdir(tmp_path)) == sorted(
        [name_of(letter, ".npz"), name_of(letter, ".safetensors")]
    )


@pytest.mark.parametrize("letter", LETTERS)
def test_restored_files(tmp_path, letter):
    names = [name_of(letter, ".png"), name_of(letter, "b.png"), "short.png"]
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name)
    out = tmp_path / "out"
    predictor = restore.RestoringPredictor(lambda image: image, compares=True, output=out)
    items = predictor.find([str(tmp_path / "in")])
    results.check_outputs(items, predictor, out)
    assert sorted(item.inside.name for item in items) == sorted(names)
    for item in items:
        result, picture = predictor.outputs(item)
        assert picture.suffix == ".png"
        answer = Answer(item.paths[0], files={result: b"bytes", picture: b"picture"})
        assert not results._write(answer, out)
    assert sorted(os.listdir(out)) == sorted([*names, "compare"])
    assert len(os.listdir(out / "compare")) == 3
    assert "short.png" in os.listdir(out / "compare")


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("size", [250, 251, 252, 255])
def test_names_that_become_longer(letter, size):
    name = name_of(letter, "", size)
    longer = files.with_ending(name, ".png")
    assert size_of(longer) <= 255
    assert longer.endswith(".png")
    assert (longer == name + ".png") == (size <= 251)
    longer.encode()  # no letter is cut apart
    other = name[:-1] + "y"
    assert files.with_ending(other, ".png") != longer
    assert files.with_ending(os.fsdecode(b"\xff" * 255), ".png").endswith(".png")


@pytest.mark.slow
@pytest.mark.parametrize("letter", LETTERS)
def test_exported_and_noted(tmp_path, letter):
    model = get_model(
        "ViT-Ti_16",
        num_classes=2,
        patch_size=4,
        hidden_size=8,
        num_layers=1,
        num_heads=1,
        mlp_dim=8,
    )
    variables = model.init(jax.random.key(0), noise((1, 8, 8, 3)))

    @dataclasses.dataclass
    class Loaded:
        model: object
        variables: object
        image_size: tuple[int, int] = (8, 8)
        name: str = "ViT-Ti_16"
        loss: str = "softmax_xent"
        labels: None = None
        eval_pp: str = ""

    path = tmp_path / name_of(letter, ".stablehlo")
    (part,) = export.parts_of(Loaded(model, variables))
    export.write_stablehlo(part, path)
    images = noise((2, 8, 8, 3))
    np.testing.assert_allclose(
        export.read_stablehlo(path)(images), model.apply(variables, images, train=False), atol=1e-5
    )
    record = accelerator.Record(
        tmp_path / name_of(letter, ".json"), accelerator.Settings("float32", seconds=1.0)
    )
    record.finish()
    assert json.loads((tmp_path / name_of(letter, ".json")).read_text())["complete"]
    folder = workdir.Workdir(tmp_path / name_of(letter, ""))
    folder.path.mkdir()
    folder.write_labels(["a", "b"])
    assert folder.read_labels() == ("a", "b")
    assert os.listdir(folder.path) == ["labels.txt"]


def test_a_prepared_data_set_whose_folder_has_a_long_name(tmp_path, capsys):
    source = tmp_path / name_of("a", "")
    for i, label in enumerate("ab"):
        (source / label).mkdir(parents=True)
        Image.new("RGB", (9, 9), (i, i, i)).save(source / label / "0.png")
    out = tmp_path / "out"
    assert prepare.main([str(source), str(out), "--resize=4"]) == 0, capsys.readouterr().err
    name = storing.name_for(str(source), 4)
    assert name.endswith("_4")
    assert (out / name / "1.0.0").is_dir()
    assert storing.name_for("b" + str(source), 4) != name
    assert prepare.main([str(source), str(out), "--name", "a" * 250]) == 2
    assert "name" in capsys.readouterr().err
