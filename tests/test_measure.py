"""vit_jax.measure: figures of folders of images, as the libraries have them, and what it says."""

import csv
import functools
import math
import re
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import scipy.ndimage
import sewar
import skimage.measure
import skimage.metrics
from PIL import Image
from sklearn.metrics import mutual_info_score

from input_pipeline.sources import pairs
from tests.commands import ROOT, run
from tests.helpers import smooth, smooth_with_noise
from vit_jax import image_quality, legend, measure, measuring

LARGE, SMALL = (175, 181), (48, 60)


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def picture(size, seed, channels=3):
    pixels = np.round((smooth_with_noise(size, seed, channels) + 1) * 127.5).astype(np.uint8)
    return pixels if channels == 3 else pixels[..., 0]


def spoiled(pixels, seed):
    noise = np.random.default_rng(seed).normal(scale=4 + seed, size=pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def write_results(folder, sizes):
    """Writes GT/N.png and OUT/N.png; returns the results and truths by N.png."""
    found = {}
    for i, size in enumerate(sizes):
        truth = save(picture(size, i), folder / "GT" / f"{i}.png")
        result = save(spoiled(truth, i), folder / "OUT" / f"{i}.png")
        found[f"{i}.png"] = result.astype(np.float64), truth.astype(np.float64)
    return found


def read_table(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ssim_of(x, y, largest=255):
    return skimage.metrics.structural_similarity(
        y, x, data_range=largest, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        channel_axis=-1 if x.ndim == 3 else None,
    )  # fmt: skip


def ms_ssim_of(x, y):
    """Of one channel, as pytorch_msssim has it."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def windows(z):
        return scipy.ndimage.gaussian_filter(z, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    product = 1.0
    for level, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mx, my = windows(x), windows(y)
        covariance = windows(x * y) - mx * my
        spread = windows(x * x) - mx**2 + windows(y * y) - my**2
        figure = (2 * covariance + c2) / (spread + c2)
        if level == 4:
            figure = figure * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        product *= max(figure.mean(), 0) ** weight
        x, y = (np.pad(z, [(side % 2, 0) for side in z.shape]) for z in (x, y))
        x, y = (z.reshape(z.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3)) for z in (x, y))
    return product


def test_results_have_the_figures_of_the_libraries(tmp_path):
    images = write_results(tmp_path, [LARGE, SMALL, SMALL])
    result = run("measure", tmp_path / "OUT", f"--truth={tmp_path / 'GT'}", "-o", tmp_path / "W")
    assert result.returncode == 0, result.stderr
    rows = read_table(tmp_path / "W" / "figures.csv")
    assert [row["file"] for row in rows] == [str(tmp_path / "OUT" / name) for name in images]
    luma = np.array([65.481, 128.553, 24.966]) / 255
    for row, (x, y) in zip(rows, images.values()):
        luma_x, luma_y = x @ luma + 16, y @ luma + 16
        expected = {
            "psnr": sewar.psnr(y, x, MAX=255),
            "psnr_y": skimage.metrics.peak_signal_noise_ratio(luma_y, luma_x, data_range=255),
            "ssim": ssim_of(x, y),
            "ssim_y": ssim_of(luma_x, luma_y),
            "mse": sewar.mse(y, x),
        }
        if x.shape[:2] == LARGE:
            expected["ms_ssim"] = np.mean([ms_ssim_of(x[..., c], y[..., c]) for c in range(3)])
        for name, value in expected.items():
            found = float(row[f"basicsr/{name}"])
            np.testing.assert_allclose(found, value, rtol=1e-6, err_msg=name)
    assert [row["basicsr/ms_ssim"] == "" for row in rows] == [False, True, True]
    assert (tmp_path / "W" / "figures.png").stat().st_size > 10_000

    said = result.stdout
    assert f"3 images of {tmp_path / 'OUT'} with {tmp_path / 'GT'}, by equal names" in said
    mean = np.mean([float(row["basicsr/psnr"]) for row in rows])
    assert f"\nbasicsr/psnr {mean:.4f} " in re.sub(" +", " ", said)
    assert "basicsr/ms_ssim is of 1 of the 3: it needs sides of more than 160 pixels" in said
    assert "mean squared error over R, G and B; 0 to 65025" in said


@pytest.mark.parametrize("protocol", image_quality.PROTOCOLS)
def test_what_a_protocol_leaves_open_is_of_its_own_images(protocol):
    x, y = (picture(LARGE, seed) for seed in (1, 2))
    (compute,) = measuring.by_protocol(protocol)
    with jax.enable_x64(True):
        found = {
            name: float(value) for name, value in compute(*map(jax.numpy.asarray, (x, y))).items()
        }
    assert set(found) >= {f"{protocol}/{k}" for k in ("psnr", "ssim", "ms_ssim", "psnr_b", "mse")}
    largest = 255 if protocol == "basicsr" else 1
    mse = np.mean((x.astype(np.float64) - y) ** 2) * (largest / 255) ** 2
    np.testing.assert_allclose(found[f"{protocol}/mse"], mse, rtol=1e-9)
    psnr = 10 * math.log10(largest**2 / mse)
    np.testing.assert_allclose(found[f"{protocol}/psnr"], psnr, rtol=1e-9)
    channels = [ms_ssim_of(*(z[..., c].astype(np.float64) for z in (x, y))) for c in range(3)]
    np.testing.assert_allclose(found[f"{protocol}/ms_ssim"], np.mean(channels), rtol=1e-6)
    for name in found:
        meaning = legend.meaning_of(name)
        assert ("luma" in meaning.words) == name.endswith("_y")
        assert ("65025" in meaning.values) == (name == "basicsr/mse")


def test_of_enlarged_images_the_border_and_what_is_over_are_left_out(tmp_path):
    truth = save(picture((43, 57), 1), tmp_path / "HR" / "baby.png")
    result = spoiled(truth, 1)[:40, :56]
    result[:4] = 0
    save(result, tmp_path / "OUT" / "babyx4.png")
    found = measuring.find_with_truths(tmp_path / "OUT", tmp_path)
    assert found.items == ((tmp_path / "OUT" / "babyx4.png", tmp_path / "HR" / "baby.png"),)
    read = functools.partial(measuring.read_with_truth, scale=4)
    figures = measuring.Meter(read, measuring.by_protocol("basicsr", 4))(found.items[0])
    x, y = (z[4:36, 4:52].astype(np.float64) for z in (result, truth))
    np.testing.assert_allclose(figures["basicsr/ssim"], ssim_of(x, y), rtol=1e-9)
    with pytest.raises(ValueError, match=r"another size: .*babyx4.png \(40 x 56\), .*\(43 x 57\)"):
        measuring.read_with_truth(found.items[0], scale=2)
    with pytest.raises(ValueError, match="skimage leaves no border out"):
        measuring.by_protocol("skimage", 4)


@pytest.mark.parametrize(
    ("results", "truths"),
    [
        (["a.png", "b/a.png"], ["a.jpg", "b/a.jpg"]),
        (["a.jpg.png", "b.png"], ["a.png", "b.png"]),  # as predict draws them
        (["a.jpg.png", "b.webp.png"], ["a.jpg", "b.webp"]),
        (["a.jpg.png", "a.png"], ["a.jpg", "a.png"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["7_1_0.9.jpg"], ["7.png"]),
        (["a.png", "compare/a.png"], ["a.png"]),
    ],
)  # fmt: skip
def test_truths_are_found_by_names(tmp_path, results, truths):
    for folder, names in (("OUT", results), ("GT", truths)):
        for name in names:
            save(smooth((4, 4), 1), tmp_path / folder / name)
    split = pairs.find_truths(tmp_path / "OUT", tmp_path / "GT")
    expected = [(tmp_path / "OUT" / a, tmp_path / "GT" / b) for a, b in zip(results, truths)]
    assert sorted((pair.input, pair.target) for pair in split.pairs) == sorted(expected)
    assert split.orphans == ()


def test_truths_are_found_by_a_pattern_and_of_two_files(tmp_path):
    ours, truth = tmp_path / "OUT" / "x-7.png", tmp_path / "GT" / "y-7.png"
    for path in (ours, truth, tmp_path / "GT" / "y-8.png"):
        save(smooth((4, 4), 1), path)
    split = pairs.find_truths(ours.parent, truth.parent, "x-{scene}.png y-{scene}.png")
    assert [(pair.input, pair.target) for pair in split.pairs] == [(ours, truth)]
    assert split.orphans == (tmp_path / "GT" / "y-8.png",)
    (pair,) = pairs.find_truths(ours, truth).pairs
    assert (pair.input, pair.target) == (ours, truth)
    with pytest.raises(ValueError, match=r"no image in .*OUT has the name of one in .*y-7.png"):
        pairs.find_truths(ours.parent, truth.parent)


def test_what_cannot_be_measured_is_named_and_the_rest_is(tmp_path):
    write_results(tmp_path, [SMALL] * 4)
    results, truths = tmp_path / "OUT", tmp_path / "GT"
    save(smooth((9, 40), 1), results / "extra.png")
    save(smooth((30, 40), 1), truths / "0.png")
    (results / "1.png").write_bytes(b"no image")
    save(smooth((9, 40), 1), results / "2.png")
    save(smooth((9, 40), 1), truths / "2.png")
    save(smooth((9, 40), 1), truths / "lone.png")
    result = run("measure", results, f"--truth={truths}", "--protocol=skimage")
    assert result.returncode == 1
    assert f"cannot measure {results}/0.png: the truth has another size: " in result.stderr
    assert f"cannot measure {results}/1.png: cannot read {results}/1.png (not an" in result.stderr
    assert f"cannot measure {results}/2.png: SSIM needs images of at least 11" in result.stderr
    assert f"{results}/extra.png has no partner in {truths}" in result.stderr
    assert f"{truths}/lone.png has no partner in {results}" in result.stderr
    assert result.stderr.endswith("5 could not be measured\n")
    assert result.stdout.count("  3.png") == 2 * 4  # lowest and highest of each figure


def fusion_of(folder):
    """Writes a fused image and its sources; returns them."""
    a, b = (picture((64, 51), seed, 1) for seed in (3, 4))
    fused = spoiled((0.6 * a + 0.4 * b).astype(np.uint8), 3)
    for pixels, name in ((fused, "F/1.png"), (a, "ir/1.png"), (b, "vis/1.png")):
        save(pixels, folder / name)
    return fused, a, b


def test_fused_images_have_the_figures_of_the_libraries(tmp_path):
    f, a, b = fusion_of(tmp_path)
    sources = [tmp_path / "ir", tmp_path / "vis"]
    result = run("measure", "--sources", *sources, tmp_path / "F", f"--output={tmp_path}")
    assert result.returncode == 0, result.stderr
    (row,) = read_table(tmp_path / "figures.csv")
    assert (row["source_a"], row["source_b"]) == tuple(str(x / "1.png") for x in sources)
    f_, a_, b_ = (x.astype(np.float64) for x in (f, a, b))

    def correlation(x, y):
        return np.corrcoef(x.ravel(), y.ravel())[0, 1]

    gy, gx = np.gradient(f_)
    steps = [np.mean(np.diff(f_, axis=axis) ** 2) for axis in (0, 1)]
    expected = {
        "EN": skimage.measure.shannon_entropy(f),
        "SF": math.sqrt(sum(steps)),
        "SD": f_.std(),
        "AG": np.sqrt((gx**2 + gy**2) / 2).sum() / (63 * 50),
        "MI": sum(mutual_info_score(f.ravel(), x.ravel()) for x in (a, b)) / math.log(2),
        "CC": (correlation(a_, f_) + correlation(b_, f_)) / 2,
        "SCD": correlation(f_ - b_, a_) + correlation(f_ - a_, b_),
        "VIF": sewar.vifp(a, f) + sewar.vifp(b, f),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(float(row[name]), value, rtol=1e-6, err_msg=name)
    assert [*row][4:] == [*expected, "Qabf", "Nabf"]
    assert "Nabf  edges that neither A nor B has; 0 to 1; lower is better" in result.stdout


def test_images_alone_and_what_is_not_defined_for_them(tmp_path):
    save(picture((20, 30), 1), tmp_path / "a.png")
    save(np.full((20, 30), 7, np.uint8), tmp_path / "flat.png")
    result = run("measure", tmp_path)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    deviation = next(line for line in lines if line[:1] == ["SD"])
    grey = np.asarray(Image.open(tmp_path / "a.png").convert("L"), np.float64).std()
    assert deviation[1:4] == [f"{grey / 2:.4f}", f"{grey / 2:.4f}", "0"]
    assert deviation[4:] == ["flat.png", f"{grey:.4f}", "a.png"]

    same = run("measure", tmp_path, "--sources", tmp_path, tmp_path)
    assert same.returncode == 0, same.stderr
    assert "VIF is of 0 of the 2: it needs sides of at least 41 pixels" in same.stdout
    assert "CC is of 1 of the 2: it needs in all three more than one grey level" in same.stdout


def test_folders_are_compared(tmp_path):
    write_results(tmp_path, [SMALL, SMALL])
    folders = tmp_path / "OUT", tmp_path / "GT"
    result = run("measure", *folders, f"--truth={tmp_path / 'GT'}", f"--output={tmp_path / 'W'}")
    assert result.returncode == 0, result.stderr
    rows = read_table(tmp_path / "W" / "figures.csv")
    assert [row["folder"] for row in rows] == [str(folder) for folder in folders for _ in "12"]
    means = [np.mean([float(row["basicsr/ssim"]) for row in rows[i : i + 2]]) for i in (0, 2)]
    table = result.stdout.partition("mean of")[2]
    line = next(line for line in table.splitlines() if line.startswith("basicsr/ssim "))
    assert line.split()[1:] == [f"{mean:.4f}" for mean in means]
    assert table.splitlines()[1].split()[2] == "inf"  # PSNR of images that are equal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to measure"),
        (["OUT", "--truth=gone"], "there is no folder gone"),
        (["gone"], "there is no file or folder gone"),
        (["OUT", "--truth=OUT", "--protocol=basics"], "did you mean 'basicsr'"),
        (["OUT", "--truth=OUT", "--scale=2", "--protocol=skimage"], "leaves no border out"),
        (["OUT", "--protocol=skimage"], "--protocol is for results with a --truth"),
        (["OUT", "--scale=2"], "--scale is for results with a --truth"),
        (["OUT", "--pattern={scene} {scene}"], "--pattern is for results with a --truth"),
        (["OUT", "--sources=OUT"], "--sources takes two folders: --sources A B"),
        (["OUT", "--truth=OUT", "--sources", "OUT", "OUT"], "--truth or --sources"),
    ],
)  # fmt: skip
def test_mistakes_are_answered_in_a_line(tmp_path, arguments, message):
    save(smooth((20, 20), 1), tmp_path / "OUT" / "a.png")
    result = run("measure", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_sources_are_two_words_of_the_command():
    joined = ["F", "--sources=A", "--sources=B", "-o", "W"]
    assert measure.join_sources(["F", "--sources", "A", "B", "-o", "W"]) == joined
    assert measure.join_sources(["F", "--sources", "A", "-o", "W"]) == [
        "F", "--sources", "A", "-o", "W",
    ]  # fmt: skip
    assert measure.join_sources(joined) == joined


def test_memory_is_shared_by_those_that_fit(tmp_path):
    room = measuring._Room(10)
    entered, leave = threading.Event(), threading.Event()

    def take(size):
        with room.taken(size):
            entered.set()
            leave.wait(60)

    first = threading.Thread(target=take, args=(6,), daemon=True)
    first.start()
    assert entered.wait(60)
    with room.taken(4):  # which fits beside it
        entered.clear()
        second = threading.Thread(target=take, args=(20,), daemon=True)  # waits to be alone
        second.start()
    assert not entered.wait(0.2)
    leave.set()
    for thread in (first, second):
        thread.join(60)
        assert not thread.is_alive()
    assert entered.is_set()


def test_tensorflow_is_not_needed(tmp_path):
    write_results(tmp_path, [SMALL])
    code = """
import runpy, sys
sys.modules["tensorflow"] = None  # importing it would raise
runpy.run_module("vit_jax.measure", run_name="__main__", alter_sys=True)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "OUT"), f"--truth={tmp_path / 'GT'}"]
    command += [f"--output={tmp_path / 'W'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "W" / "figures.csv").exists()
