import functools
import json
import re

import jax
import numpy as np
import pytest

from checkpoints import npz
from tests.commands import run
from tests.helpers import TINY, TINY_MIXER, TINY_SWINIR, random_params
from vit_jax import convert, pretrained
from vit_jax import weights as weight_files

LABELS = ("a", "b", "c")


@pytest.fixture
def vit(tmp_path):
    """A ViT with labels, in a file."""
    _, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    npz.save(tmp_path / "vit.npz", params)
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    return tmp_path / "vit.npz", params


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_from_format_to_format(vit, tmp_path):
    path, params = vit
    for i, target in enumerate(("a.safetensors", "run", "b.npz")):
        source = pretrained.load(path, *(("ViT-B_16", TINY) if path.suffix else ()))
        path = tmp_path / str(i) / target
        convert.write(path, source)
        weights = weight_files.read(path)
        assert weights.labels == LABELS
    assert_equal(npz.load(path), params)

    run_folder = tmp_path / "1" / "run"
    (run_folder / "weights.npz").unlink()  # so that its orbax checkpoint is read
    loaded = pretrained.load(run_folder)
    assert (loaded.name, loaded.labels, loaded.image_size) == ("ViT-B_16", LABELS, (16, 16))
    assert_equal(loaded.variables["params"], params)


def test_the_command(vit, tmp_path):
    path, _ = vit
    fields = [f"--field={name}={value}" for name, value in TINY.items()]
    target = tmp_path / "new" / "vit.safetensors"
    result = run("convert", path, target, "--model=ViT-B_16", *fields)
    assert result.returncode == 0, result.stderr
    lines = [f"largest difference of the {what}: 0, of values up to " for what in
             ("features", "logits")]  # fmt: skip
    assert re.match("\n".join(line + r"[\d.]+" for line in lines), result.stdout)
    assert result.stderr == f"wrote {target}: ViT-B_16, 3 classes\n"
    assert (target.parent / "labels.txt").read_text() == "a\nb\nc\n"
    again = run("convert", path, target, "--model=ViT-B_16", *fields)
    assert again.returncode == 2
    assert again.stderr == f"error: {target} is there already: choose another name\n"


@pytest.mark.parametrize("head", [0.0, 1.0])
def test_a_conversion_that_goes_wrong_is_noticed(vit, tmp_path, monkeypatch, capsys, head):
    """Also one of weights whose head is 0, as it is before any training."""
    path, params = vit
    params["head"] = jax.tree.map(lambda x: head * x, params["head"])
    npz.save(path, params)
    model = pretrained.load(path, "ViT-B_16", TINY)
    wrong = {**params, "cls": -params["cls"]}
    monkeypatch.setattr(convert.model_flags, "load_from", lambda _: model)
    for flag in ("_INSPECT", "_NAMING", "_CLASSES", "_PROMPTS"):
        monkeypatch.setattr(convert, flag, type("Flag", (), {"value": None}))
    monkeypatch.setattr(npz, "save", lambda path, *_, save=npz.save: save(path, wrong))
    assert convert.main(["convert", str(path), str(tmp_path / "b.npz")]) == 1
    assert "largest difference of the features: 0," not in capsys.readouterr().out


def test_sizes_are_not_guessed_from_the_number_of_patches(tmp_path, monkeypatch, capsys):
    """2 x 8 patches are 16, as 4 x 4 are."""
    _, params = random_params("ViT-B_16", (8, 32), num_classes=3, **TINY)
    npz.save(tmp_path / "a.npz", params)
    load = functools.partial(pretrained.load, name="ViT-B_16", fields=TINY, old_size=(8, 32))
    monkeypatch.setattr(convert.model_flags, "load_from", load)
    for flag in ("_INSPECT", "_NAMING", "_CLASSES", "_PROMPTS"):
        monkeypatch.setattr(convert, flag, type("Flag", (), {"value": None}))
    path = tmp_path / "b.safetensors"
    assert convert.main(["convert", str(tmp_path / "a.npz"), str(path)]) == 0
    assert "features: 0," in capsys.readouterr().out
    assert load(path).image_size == (8, 32)
    assert_equal(load(path).variables["params"], params)


def test_a_folder_without_names_has_none(tmp_path):
    _, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    npz.save(tmp_path / "a.npz", params)
    convert.write(
        tmp_path / "lr0.1", pretrained.load(tmp_path / "a.npz", "ViT-B_16", {**TINY, "scan": True})
    )
    loaded = pretrained.load(tmp_path / "lr0.1")
    assert (loaded.labels, loaded.image_size, loaded.model.scan) == (None, (16, 16), False)
    assert_equal(loaded.variables["params"], params)
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    with pytest.raises(ValueError, match="names the classes of other weights"):
        convert.write(tmp_path / "b.npz", loaded)


def test_nothing_is_overwritten_by_mistake(vit, tmp_path):
    model = pretrained.load(vit[0], "ViT-B_16", TINY)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "labels.txt").write_text("x\ny\nz\n")
    with pytest.raises(ValueError, match=r"other/labels\.txt names the classes of other weights"):
        convert.write(tmp_path / "other" / "a.npz", model)
    assert not (tmp_path / "other" / "a.npz").exists()
    convert.write(tmp_path / "run", model)
    with pytest.raises(ValueError, match="run is there already: choose another folder"):
        convert.write(tmp_path / "run", model)
    with pytest.raises(ValueError, match=r"a\.h5: weights are written to a file that ends in one"):
        convert.write(tmp_path / "a.h5", model)
    with pytest.raises(ValueError, match="cannot write to hf://a/b: choose a local path"):
        convert.write("hf://a/b", model)


def test_inspect(tmp_path):
    _, params = random_params("ViT-Ti_16", (32, 32), num_classes=3)
    npz.save(tmp_path / "a.npz", params)
    text = convert.inspect(tmp_path / "a.npz")
    assert re.search(r"^cls +1 x 1 x 192 +float32$", text, re.MULTILINE)
    assert text.splitlines()[-1] == (
        "200 arrays of 5,488,131 numbers; it fits ViT-Ti_16, with 3 classes and images of 32 x 32 "
        "pixels"
    )
    _, params = random_params("Mixer-B_16", (8, 8), **TINY_MIXER)
    np.savez(tmp_path / "b.npz", **{"head/bias": params["head"]["bias"].astype(np.float16)})
    text = convert.inspect(tmp_path / "b.npz")
    assert text.splitlines() == [
        "head/bias  1000  float16",
        "1 arrays of 1,000 numbers; it fits none of the published models with square images",
    ]


@pytest.mark.slow
def test_the_convert_command_and_its_namings(enlarging_run, tmp_path):
    workdir, _ = enlarging_run
    result = run("convert", workdir, tmp_path / "a.safetensors", "--naming=timm")
    assert result.returncode != 0
    assert (
        "unknown naming 'timm' of these weights; there is just one: leave it out" in result.stderr
    )
    result = run("convert", workdir, tmp_path / "a.npz", "--naming=timm")
    assert "--naming=timm is for .safetensors and .pth" in result.stderr
    result = run("convert", workdir, tmp_path / "a.safetensors")
    assert result.returncode == 0, result.stderr
    fields = [f"--field={key}={value}" for key, value in TINY_SWINIR.items()]
    name = "--model=SwinIR-lightweight-x2"
    result = run("convert", tmp_path / "a.safetensors", tmp_path / "run", name, *fields)
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["best_metric"] == "basicsr/psnr_y"
