"""Runs that earlier versions left: they are read, evaluated, used, and continued to their end.

The golden file holds two runs of version 0.1, stopped after step 3 of 6, with the weights that they
had in the end: digits with averages, scanned blocks and mixing; and noise taken off photos with a
discriminator.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from checkpoints import npz
from vit_jax import pretrained, train
from vit_jax.workdir import Workdir

GOLDEN = Path(__file__).parent / "golden" / "runs_of_0.1.tar.gz"


@pytest.fixture
def runs(tmp_path):
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "runs"


def smooth(size, seed):
    cells = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(cells).resize(size[::-1], Image.BICUBIC)


@pytest.mark.parametrize("name", ["classes", pytest.param("adversarial", marks=pytest.mark.slow)])
def test_they_go_on_where_they_were(runs, name, tmp_path):
    workdir = Workdir(runs / name)
    config = workdir.read_config()
    assert not config.plugins
    assert config.distill.teacher == ""
    if name == "adversarial":
        for split, count, start in (("train", 8, 0), ("test", 3, 20)):
            (tmp_path / "photos" / split).mkdir(parents=True)
            for i in range(start, start + count):
                smooth((96, 100), i).save(tmp_path / "photos" / split / f"{i}.png")
        config.data.source = str(tmp_path / "photos")
    before = pretrained.load(workdir.path)
    assert before.variables["params"]
    figures = train.train_and_evaluate(config, workdir.path)
    (test,) = (line for line in workdir.read_metrics() if line["split"] == "test")
    assert test["loss"] == figures["test"]["loss"]
    found, expected = npz.load(workdir.weights), npz.load(runs / name / "expected.npz")

    def compare(path, a, b):
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            for key in a:
                compare(f"{path}/{key}", a[key], b[key])
        else:
            np.testing.assert_allclose(a, b, atol=2e-5, err_msg=path)

    compare("", found, expected)
