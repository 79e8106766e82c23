"""The task of restoring: its losses, metrics, figures and reports."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from checkpoints import npz
from tests.helpers import TINY_DEHAZEFORMER, noise, pairs_config, shrink
from vit_jax import experiment, image_quality, losses, ops, report
from vit_jax.models import get_model
from vit_jax.tasks import restore


def test_losses_on_images():
    out, target = noise((2, 16, 16, 3), 1), noise((2, 16, 16, 3), 2)
    batch = {"target": jnp.asarray(target)}
    d = out - target
    expected = {
        "l1": np.abs(d).mean((1, 2, 3)),
        "mse": (d**2).mean((1, 2, 3)),
        "charbonnier": np.sqrt(d**2 + 1e-6).mean((1, 2, 3)),
        "ssim": 1 - image_quality.ssim((out + 1) / 2, (target + 1) / 2),
        "tv": np.abs(np.diff(out, axis=1)).mean((1, 2, 3))
        + np.abs(np.diff(out, axis=2)).mean((1, 2, 3)),
    }
    assert set(expected) == set(restore.TASK.losses)
    for name, value in expected.items():
        np.testing.assert_allclose(
            losses.get_loss(name, restore.TASK.losses)(out, batch), value, rtol=1e-5
        )
    both = losses.get_loss("l1 + 0.5*ssim", restore.TASK.losses)(out, batch)
    np.testing.assert_allclose(both, expected["l1"] + 0.5 * expected["ssim"], rtol=1e-5)
    both = losses.get_loss("1e+1*mse+2.e+0 * l1", restore.TASK.losses)(out, batch)
    np.testing.assert_allclose(both, 10 * expected["mse"] + 2 * expected["l1"], rtol=1e-5)


def test_charbonnier_takes_an_epsilon():
    out, batch = noise((2, 4, 4, 3)), {"target": np.zeros((2, 4, 4, 3), np.float32)}
    expected = 0.5 * np.sqrt(out**2 + 0.04).mean((1, 2, 3))
    for name in ("0.5 * charbonnier(0.04)", "5e-1*charbonnier(epsilon=4e-2)"):
        found = losses.get_loss(name, restore.TASK.losses)(out, batch)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name, message in [
        ("charbonnier(x)", "epsilon must be a positive number, not 'x'"),
        ("charbonnier(-1e-3)", "epsilon must be a positive number, not -0.001"),
        ("charbonnier(1, 2)", r"charbonnier\(1, 2\) does not fit charbonnier\(epsilon\)"),
        ("charbonnier(1, epsilon=2)", "does not fit charbonnier"),
        ("l1(2)", r"l1\(2\) does not fit l1\(\)"),
        ("l1 - ssim", "unknown loss 'l1 - ssim'; "),
        ("l1 +", "cannot read the loss 'l1 \\+'; write l1, or"),
        ("", "cannot read the loss ''"),
    ]:
        with pytest.raises(ValueError, match=message):
            losses.get_loss(name, restore.TASK.losses)


@pytest.mark.slow
def test_the_border_is_left_out_where_images_were_enlarged():
    metric = restore.get_metric("basicsr/psnr_y", "l1").each
    target, out = noise((1, 40, 48, 3)), noise((1, 40, 48, 3), 1)
    out[:, 4:-4, 4:-4] = target[:, 4:-4, 4:-4] * 0.9
    inside = image_quality.basicsr(out, target, 4)["psnr_y"]
    found = metric(out, {"image": np.zeros((1, 10, 12, 3)), "target": target})
    np.testing.assert_allclose(found, inside)
    whole = metric(out, {"image": np.zeros((1, 40, 48, 3)), "target": target})
    assert whole < found - 5


@pytest.mark.slow
def test_training_restores(dehazing_run, pairs_folder):
    workdir, figures = dehazing_run
    assert figures["val"]["examples"] == 1
    test = figures["test"]
    assert test["examples"] == 3
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses_seen = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses_seen[-1] < losses_seen[0]
    for name in ("curves.png", "restored.png"):
        assert (workdir / "report" / name).stat().st_size > 5000
    assert not (workdir / "labels.txt").exists()

    # The figures are those of each whole image, computed one by one.
    model = get_model("DehazeFormer-T", **TINY_DEHAZEFORMER)
    params = npz.load(workdir / "weights.npz")
    rows = list(csv.DictReader((workdir / "report" / "test.csv").read_text().splitlines()))
    measure = jax.jit(image_quality.dehazeformer)
    for row in rows:
        hazy, clear = (
            np.asarray(Image.open(pairs_folder / "test" / k / row["file"]), np.float32) / 127.5 - 1
            for k in ("hazy", "GT")
        )
        restored = jax.jit(model.apply)({"params": params}, hazy[None])
        after = measure(restored, clear[None])
        before = measure(hazy[None], clear[None])
        for key in ("psnr", "ssim"):
            np.testing.assert_allclose(float(row[f"dehazeformer/{key}"]), after[key], rtol=1e-4)
            np.testing.assert_allclose(
                float(row[f"input/dehazeformer/{key}"]), before[key], rtol=1e-4
            )
    mean = np.mean([float(row["dehazeformer/psnr"]) for row in rows])
    np.testing.assert_allclose(test["dehazeformer/psnr"], mean, rtol=1e-5)


def test_training_and_its_report(enlarging_run, photos_folder):
    workdir, figures = enlarging_run
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "val", "test"}
    test = figures["test"]
    assert test["examples"] == 1
    # The input's figures are those of its bicubic enlargement.
    _, line = (workdir / "report" / "test.csv").read_text().splitlines()
    name = line.split(",")[0]
    large = np.asarray(Image.open(photos_folder / name))
    large = large[: len(large) // 2 * 2, : large.shape[1] // 2 * 2]
    enlarged = ops.bicubic_upsample(shrink(large, 2)[None] / np.float32(127.5) - 1, 2)
    expected = image_quality.basicsr(enlarged, large[None] / np.float32(127.5) - 1, 2)["psnr_y"]
    assert test["input/basicsr/psnr_y"] == pytest.approx(float(expected[0]), abs=1e-3)
    assert (workdir / "report" / "restored.png").stat().st_size > 10_000


def test_what_is_printed():
    figures = {"loss": 0.5, "dehazeformer/psnr": 30.123, "examples": 5,
               "input/dehazeformer/psnr": 12.0}  # fmt: skip
    table = report.format_table(7, {"test": figures}).splitlines()
    assert table[2].split() == ["test,", "input", "12.0000"]
    assert table[3].split() == ["test", "0.5000", "30.1230", "5"]
    line = report.format_comparison("SOTS-indoor", "DehazeFormer-T", figures)
    assert line == (
        "published scores are of the 500 examples of SOTS-indoor, and these 5 are others: no "
        "comparison"
    )
    figures["examples"] = 500
    line = report.format_comparison("SOTS-indoor", "DehazeFormer-T", figures)
    assert "DehazeFormer-T on SOTS-indoor: dehazeformer/psnr 35.15 (here 30.12)" in line
    line = report.format_comparison("SOTS-indoor", "DehazeFormer-D", figures)
    assert line == "no score of DehazeFormer-D on SOTS-indoor is known here"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "softmax_xent"}, "unknown loss 'softmax_xent'"),
        (
            {"mixup_alpha": 0.2},
            "mixup_alpha is for the task classify, .* is for restore: set it to 0",
        ),
        ({"metrics": ("psnr",)}, "unknown metric 'psnr'; .*on images there are"),
        ({"benchmark": "SOTS"}, "unknown benchmark 'SOTS'; .*there are: SOTS-indoor, RESIDE-6K"),
    ],
)
def test_wrong_settings_of_runs(pairs_folder, changes, message):
    config = pairs_config(pairs_folder)
    config.update(changes)
    with pytest.raises(ValueError, match=message):
        experiment.validate_config(config)


def test_data_of_another_kind(digits_config):
    digits_config.model_name = "DehazeFormer-T"
    digits_config.model = {}
    digits_config.update(loss="l1", metrics=(), best_metric="loss")
    with pytest.raises(ValueError, match=r"set data\.kind to pairs, degraded or hazy_from"):
        experiment.build(digits_config)
