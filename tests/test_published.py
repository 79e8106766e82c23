"""The names of published weights, and where they lead."""

import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints import files, published, torch
from tests.helpers import random_params
from vit_jax import pretrained
from vit_jax import weights as weight_files
from vit_jax.models import MODELS, list_models

ROOT = Path(__file__).parent.parent


def test_rows_name_models_once():
    rows = [row for family in published.FAMILIES for row in family.rows]
    assert len({row.name for row in rows}) == len({row.file for row in rows}) == len(rows)
    for family in published.FAMILIES:
        assert {row.model for row in family.rows} == family.megabytes.keys() <= MODELS.keys()
        for row in family.rows:
            assert row.name == row.name.lower()
            assert row.is_fetched != bool(family.place)
            # A model's name alone is ambiguous, unless its weights are one's own.
            assert row.name not in {name.lower() for name in MODELS} or row.name in _OF_ONE_KIND


_OF_ONE_KIND = {
    "swinir-classical-x2", "swinir-classical-x3", "swinir-classical-x4", "swinir-classical-x8",
    "swinir-lightweight-x2", "swinir-lightweight-x3", "swinir-lightweight-x4", "swinir-real-m-x4",
    "swinir-real-l-x4",
}  # fmt: skip


@pytest.mark.slow
def test_sizes_are_those_of_the_models():
    counts = list_models()
    for family in published.FAMILIES:
        assert family.megabytes == {k: round(counts[k] * 4e-6) for k in family.megabytes}


def test_the_page_shows_the_table():
    page = (ROOT / "docs/published.md").read_text()
    assert page.endswith(published.show_markdown())


def test_the_command_lists_and_searches():
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "checkpoints.published", *words],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip

    everything = run()
    assert everything.returncode == 0
    assert all(f"  {name} " in everything.stdout for name in published.PUBLISHED)
    found = run("DehazeFormer", "indoor").stdout
    assert "dehazeformer-l-indoor" in found
    assert "to be downloaded by hand from https://drive.google.com" in found
    assert "outdoor" not in found
    nothing = run("no-such")
    assert (nothing.returncode, nothing.stdout) == (
        1, "no published weights are known for no-such\n",
    )  # fmt: skip
    assert run("--help").returncode == 0
    assert run("--hepl").returncode == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dehazeformer-t-indoor", "downloaded by hand: indoor/dehazeformer-t.pth in https://drive"),
        (
            "DehazeFormer-T",
            "is a model, of which .* dehazeformer-t-indoor, .*-outdoor, .*; say one",
        ),
        (
            "flowformer-sintl",
            "there is no file flowformer-sintl; did you mean .* flowformer-sintel",
        ),
        (
            "nothing-like-it",
            "holds no run, and is no file.* `python -m checkpoints.published` lists",
        ),
    ],
)
def test_what_cannot_be_fetched_says_what_to_do(name, message):
    with pytest.raises(ValueError, match=message):
        weight_files.read(name)


def test_paths_and_addresses_stay(tmp_path, monkeypatch):
    for path in ("gs://a/swin-t-i1k", "a/swin-t-i1k", "package:realesrgan-anime", "x.npz"):
        assert published.resolve(path) == path
    assert published.resolve("Swin-T-i1k") == "hf://timm/swin_tiny_patch4_window7_224.ms_in1k"
    assert weight_files.find("swin-t-i1k", "gs://elsewhere") == "swin-t-i1k"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swin-t-i1k").touch()
    assert published.resolve("swin-t-i1k") == "swin-t-i1k"


def test_a_name_is_loaded(tmp_path, monkeypatch):
    """As the model that it is of, with its fields."""
    fields = {"num_blocks": 6}
    model, params = random_params("RRDB-x4", (8, 8), **fields)
    path = tmp_path / "weights.safetensors"
    torch.write(path, torch.to_state_dict({"params": params}, model))
    asked = []
    monkeypatch.setattr(files, "fetch", lambda address: asked.append(address) or path)
    loaded = pretrained.load("realesrgan-anime")
    assert (loaded.name, loaded.fields["num_blocks"]) == ("RRDB-x4", 6)
    assert asked[0] == published.PUBLISHED["realesrgan-anime"].file
