"""The model card: what the Hub reads of it, what a person does with it, and whose it is."""

import contextlib
import io
import logging
import re
import shutil

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from checkpoints import torch
from tests.commands import run
from tests.helpers import TINY, noise, random_params, tiny_digits_config
from tests.test_report_page import summary
from vit_jax import load, model_card, train
from vit_jax.models import get_model
from vit_jax.workdir import Workdir

ODD = "a|b`c*d_ _e <i>f</i> [g](h) # ---"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder and its figures."""
    workdir = tmp_path_factory.mktemp("trained") / "digits"
    with contextlib.redirect_stdout(io.StringIO()):
        return workdir, train.train_and_evaluate(tiny_digits_config(), workdir)


def metadata(card):
    """The YAML at its beginning."""
    return yaml.safe_load(re.match(r"---\n(.*?\n)---\n", card, re.DOTALL)[1])


def commands(card, language):
    return re.findall(rf"^```{language}\n(.*?)\n```$", card, re.MULTILINE | re.DOTALL)


def test_the_hub_reads_the_figures(trained):
    workdir, figures = trained
    card = (workdir / "README.md").read_text()
    read = ModelCard(card).data
    assert read.to_dict() == metadata(card)
    assert (read.library_name, read.pipeline_tag) == ("vit_jax", "image-classification")
    assert read.model_name == "digits"
    results = {(r.dataset_split, r.metric_type): r.metric_value for r in read.eval_results}
    assert results == {(split, "accuracy"): f["accuracy"] for split, f in figures.items()}
    for split, values in figures.items():
        row = (
            f"| {split} | {values['accuracy']:.4f} | {values['loss']:.4f} | {values['examples']} |"
        )
        assert row in card.splitlines()
    assert "Images are prepared by `grayscale_to_rgb|resize(8)|value_range(-1, 1)`." in card
    assert "| optim.learning_rate | 0.01 |" in card


def test_what_the_card_names_is_enough_to_use_the_weights(trained, tmp_path):
    workdir, _ = trained
    card = (workdir / "README.md").read_text()
    (needed,) = re.findall(r"this is needed: (.*)\.", card)
    names = re.findall("`([^`]+)`", needed)
    assert names == ["weights.npz", "config.json", "data.json", "labels.txt"]
    folder = tmp_path / "FOLDER"
    folder.mkdir()
    for name in names:
        shutil.copy(workdir / name, folder)
    (python, from_torch) = commands(card, "python")
    assert 'vit_jax.load("FOLDER")' in python
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    answers = [load(path)(image) for path in (workdir, folder)]
    assert answers[0] == answers[1]
    (predict, convert) = commands(card, "sh")
    assert predict == "python -m vit_jax.predict --workdir=FOLDER FILE_OR_FOLDER..."
    assert 'load_file("timm.safetensors")' in from_torch
    result = run(*convert.removeprefix("python -m vit_jax.").split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "blocks.0.attn.qkv.weight" in torch.read(tmp_path / "timm.safetensors")


def test_a_card_that_was_changed_is_nobodys_but_the_persons(tmp_path, caplog):
    model, params = random_params("ViT-B_16", (8, 8), num_classes=2, **TINY)

    def write(**changes):
        model_card.write(Workdir(tmp_path), summary(**changes), {"params": params}, model)
        return path.read_text()

    path = tmp_path / "README.md"
    written = write()
    assert "the checkpoint of step 8" in write(step=8)
    assert write() == written
    with caplog.at_level(logging.WARNING, logger="vit_jax"):
        for changed in (written.replace("---\n", "---\nlicense: mit\n", 1), "Mine.\n", ""):
            path.write_text(changed)
            caplog.clear()
            assert write(step=8) == changed
            assert f"{path} was not written here, or was changed since" in caplog.text


def test_names_of_any_characters_are_text():
    from markdown_it import MarkdownIt

    parts = dict.fromkeys(("name", "model_name", "comparison", "data", "protocol", "usage"), ODD)
    card = model_card.make(
        summary(**parts, classes=(ODD,), command=f"x '```\n{ODD}'", settings={ODD: ODD},
                figures={"test": {ODD: 0.5}}, pipeline_tag="image-to-image", base="a/b"),
        ["timm"],
    )  # fmt: skip
    data = metadata(card)
    assert data["base_model"] == "a/b"
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"]["name"] == ODD
    assert result["metrics"] == [{"type": ODD, "value": 0.5}]
    tokens = MarkdownIt().enable("table").parse(card.split("---\n", 2)[2])
    headings = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert len(headings) == 6
    assert text_of(headings[0]) == f"{ODD} on {ODD}"
    cells = [
        text_of(tokens[i + 1]) for i, t in enumerate(tokens) if t.type in ("th_open", "td_open")
    ]
    assert cells == ["split", ODD, "test", "0.5000", "key", "value", ODD, ODD]
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special", "code_inline", "softbreak"}
    fences = [token.content for token in tokens if token.type == "fence"]
    assert fences[0] == f"x '```\n{ODD}'\n"
    assert f"{ODD}\n" in fences[1]


def text_of(token):
    return "".join(child.content for child in token.children)


def test_a_task_that_the_hub_does_not_know_has_no_results_there():
    card = model_card.make(summary(figures={"val": {"epe": 1.5}}, inputs=("image", "image2")), [])
    assert metadata(card) == {"library_name": "vit_jax", "tags": ["vit_jax", "jax", "flax"]}
    assert "| val | 1.5000 |" in card
    assert "these examples also chose the checkpoint" in card
    assert 'model("image.png", "image2.png")' in card
    assert "trained with" in card
    untrained = model_card.make(summary(figures={"val": {"epe": 1.5}}, step=0), [])
    assert "evaluated with vit_jax.\nIt is what it began with." in untrained
    assert "chose" not in untrained
    assert "no place in the files of PyTorch's libraries" in card


def test_figures_that_are_no_numbers_are_no_results():
    # Nor are those of the input itself.
    figures = {"auc": float("nan"), "f1": 0.25, "loss": 2.0, "examples": 3, "input/f1": 0.125}
    figures = {"test": figures}
    card = model_card.make(summary(figures=figures, pipeline_tag="image-classification"), [])
    (result,) = metadata(card)["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "f1", "value": 0.25}]


def test_the_recipe_names_folders_and_not_where_they_lie():
    settings = {"data.source": "/home/me/photos", "optim.name": "sgd"}
    card = model_card.make(summary(settings=settings), [])
    assert "| data.source | photos |\n| optim.name | sgd |" in card
    assert "/home" not in card


def test_texts_and_vocabularies():
    parts = summary(inputs=("source", "target_tokens"), classes=())
    card = model_card.make(parts, [""], has_vocabulary=True)
    assert 'model("A text.")' in card
    assert "this is needed: `weights.npz`, `config.json`, `data.json`, `vocabulary/`." in card
    assert "python -m vit_jax.convert FOLDER published.safetensors\n" in card


def test_of_the_namings_that_fit_those_of_whole_libraries_are_told():
    namings = ["transformers", "open_clip-timm", "timm"]
    one = model_card.make(summary(), namings, {"timm": ("timm", "model = f(weights)")})
    assert re.findall("convert FOLDER (.*)", one) == ["timm.safetensors --naming=timm"]
    assert commands(one, "python")[-1].endswith("\nmodel = f(weights)")
    card = model_card.make(summary(), namings)
    assert re.findall("convert FOLDER (.*)", card) == [
        "transformers.safetensors", "timm.safetensors --naming=timm",
    ]  # fmt: skip
    assert "# of the same sizes" in card


FOR_OTHERS = [
    ("token", "timm"), ("token", "transformers"), ("gap", "timm"), ("map", "timm")
]  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu"])
@pytest.mark.parametrize(("classifier", "naming"), FOR_OTHERS)
def test_what_the_card_says_of_other_libraries(
    classifier, naming, activation, tmp_path, monkeypatch
):
    import torch as pytorch

    import tests.torchvision_operators  # noqa: F401

    fields = dict(TINY, classifier=classifier, activation=activation)
    model, params = random_params("ViT-B_16", (16, 12), num_classes=5, **fields)
    namings = torch.fitting_namings({"params": params}, model)
    card = model_card.make(summary(), namings, model.torch_calls((16, 12)))
    arrays = torch.to_state_dict({"params": params}, model, naming)
    torch.write(tmp_path / f"{naming}.safetensors", arrays)
    monkeypatch.chdir(tmp_path)
    (python,) = (code for code in commands(card, "python") if f"{naming}.safetensors" in code)
    names = {}
    exec(python, names)
    images = noise((2, 16, 12, 3))
    with pytorch.no_grad():
        theirs = names["model"](pytorch.from_numpy(images.transpose(0, 3, 1, 2)))
    theirs = getattr(theirs, "logits", theirs).numpy()
    ours = np.asarray(model.apply({"params": params}, images))
    assert ours.std() > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * ours.std())


@pytest.mark.parametrize("fields", [dict(pre_norm=True), dict(position_embedding="none"),
    dict(norm_epsilon=1e-5), dict(classifier="unpooled"), dict(representation_size=8)])  # fmt: skip
def test_what_others_do_not_compute_is_not_told(fields):
    assert set(get_model("ViT-B_16").torch_calls((224, 224))) == {"timm", "transformers"}
    assert get_model("ViT-B_16", **fields).torch_calls((224, 224)) == {}
