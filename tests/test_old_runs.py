"""Runs that earlier versions left: they are read, evaluated, used, and continued to their end.

The golden file holds two runs of version 0.1, stopped after step 3 of 6, with the weights that they
had in the end: digits with averages, scanned blocks and mixing; and noise taken off photos with a
discriminator.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from checkpoints import npz
from vit_jax import pretrained, train
from vit_jax.workdir import Workdir

COMPARED = {"loss", "param_norm", "learning_rate", "generator_loss", "discriminator_loss",
            "discriminator_norm", "generator_adversarial"}  # fmt: skip
RENAMED = {"generator_loss": "total_loss"}
GOLDEN = Path(__file__).parent / "golden" / "runs_of_0.1.tar.gz"


@pytest.fixture
def runs(tmp_path):
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "runs"


def smooth(size, seed):
    cells = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(cells).resize(size[::-1], Image.BICUBIC)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name_of_run", ["classes", pytest.param("adversarial", marks=pytest.mark.slow)]
)
def test_they_go_on_where_they_were(runs, name_of_run, tmp_path):
    workdir = Workdir(runs / name_of_run)
    config = workdir.read_config()
    assert not config.plugins
    assert config.distill.teacher == ""
    if name_of_run == "adversarial":
        for split, count, start in (("train", 8, 0), ("test", 3, 20)):
            (tmp_path / "photos" / split).mkdir(parents=True)
            for i in range(start, start + count):
                smooth((96, 100), i).save(tmp_path / "photos" / split / f"{i}.png")
        config.data.source = str(tmp_path / "photos")
    assert pretrained.load(workdir.path).variables["params"]
    then = [line for line in workdir.read_metrics() if line["step"] > 3]
    train.train_and_evaluate(config, workdir.path)
    now = {(line["step"], line["split"]): line for line in workdir.read_metrics()}
    assert len([line for line in then if line["split"] == "train"]) == 3
    for line in then:
        if (line["step"], line["split"]) in now:  # the test's is of the best checkpoint
            for name in COMPARED & line.keys():
                found = now[line["step"], line["split"]][RENAMED.get(name, name)]
                assert found == pytest.approx(line[name], rel=2e-3), (line["step"], name)
    found, expected = (
        traverse_util.flatten_dict(npz.load(path), sep="/")
        for path in (workdir.weights, runs / name_of_run / "expected.npz")
    )
    assert found.keys() == expected.keys()
    # Other processors round otherwise, which Adam makes much of where a gradient is all but 0.
    off = sum(float(np.sum((found[k] - expected[k]) ** 2)) for k in found) ** 0.5
    assert off < 2e-3 * sum(float(np.sum(x**2)) for x in expected.values()) ** 0.5
