"""Files of a person that are answered: what is written, and what is said."""

import io
import itertools
import logging
import os
from pathlib import Path, PurePath

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.commands import run
from tests.helpers import TINY_SWINIR, photo, random_params, saved, smooth, write_image
from vit_jax import photos, results, tiles
from vit_jax.models.base import Model
from vit_jax.tasks import restore
from vit_jax.tasks.base import Answer, Item


def test_predict(dehazing_run, tmp_path):
    workdir, _ = dehazing_run
    folder = tmp_path / "hazy"
    (folder / "deep").mkdir(parents=True)
    saved("RGB", folder / "a.jpg")
    saved("RGBA", folder / "deep" / "b.png")
    Image.fromarray(smooth((20, 20), 0)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no image")
    arguments = [f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "--compare", "--ensemble"]
    result = run("predict", *arguments, folder, tmp_path / "small.png", tmp_path / "text.png")
    assert result.returncode == 1
    assert f"{folder}/a.jpg -> {tmp_path}/out/a.jpg (40 x 30, whole" in result.stdout
    errors = result.stderr.splitlines()
    assert errors == [
        f"cannot restore {tmp_path}/small.png: images of 20 x 20 pixels are too small for "
        "DehazeFormer: both sides must have at least 25",
        f"cannot restore {tmp_path}/text.png: not an image in a format that Pillow reads",
        "2 of 4 failed",
    ]
    written = [p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("[!.]*.*")]
    assert sorted(map(str, written)) == [
        "a.jpg", "compare/a.jpg.png", "compare/deep/b.png", "deep/b.png",
    ]  # fmt: skip
    with Image.open(tmp_path / "out" / "deep" / "b.png") as restored:
        assert (restored.mode, restored.size) == ("RGBA", (40, 30))
    with Image.open(tmp_path / "out" / "compare" / "a.jpg.png") as both:
        assert both.size == (80, 30)


def test_predict_enlarges_files(enlarging_run, tmp_path):
    workdir, _ = enlarging_run
    folder = tmp_path / "small"
    folder.mkdir()
    Image.fromarray(photo((30, 41))).save(folder / "a.jpg")
    transparent = Image.fromarray(photo((30, 41)))
    transparent.putalpha(Image.fromarray(photo((30, 41))[..., 0]))
    transparent.save(folder / "b.png")
    deep = tf.io.encode_png(photo((30, 41)).astype(np.uint16) * 257).numpy()
    (folder / "c.png").write_bytes(deep)
    result = run("predict", f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "--compare",
                 folder)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"{folder}/a.jpg -> {tmp_path}/out/a.jpg (82 x 60, whole" in result.stdout
    for name, mode in (("a.jpg", "RGB"), ("b.png", "RGBA")):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.size, image.mode) == ((82, 60), mode)
    assert photos.read(tmp_path / "out" / "c.png").stored is None  # still of 16 bits
    with Image.open(tmp_path / "out" / "compare" / "a.jpg.png") as both:
        assert both.size == (164, 60)


def test_nothing_is_overwritten(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        saved("RGB", tmp_path / folder / "1.png")
    predictor = restore.RestoringPredictor(None)
    both = predictor.find([str(tmp_path / "a"), str(tmp_path / "b" / "1.png")])
    with pytest.raises(ValueError, match=r"a/1.png and .*b/1.png would both be written to"):
        results.check_outputs(both, predictor, tmp_path / "out")
    with pytest.raises(ValueError, match="1 of the results are there already"):
        results.check_outputs(both[:1], predictor, tmp_path / "b")
    (tmp_path / "none" / "compare").mkdir(parents=True)
    saved("RGB", tmp_path / "none" / "compare" / "1.png")
    with pytest.raises(ValueError, match=r"there already, such as .*/1\.png"):
        results.check_outputs(
            both[:1], restore.RestoringPredictor(None, compares=True), tmp_path / "none"
        )


def test_no_result_lies_in_a_folder_that_is_anothers(tmp_path):
    class Folders(restore.RestoringPredictor):
        def outputs(self, item):
            return [item.inside.with_suffix("")]

    items = [Item((tmp_path / name,), PurePath(name)) for name in ("film.mp4", "film/1.png")]
    with pytest.raises(ValueError, match=r"/film.mp4 and .*/film/1.png would both be written"):
        results.check_outputs(items, Folders(None), tmp_path / "out")
    results.check_outputs(items[1:], Folders(None), tmp_path / "out")


def test_an_item_can_have_many_answers(tmp_path, caplog):
    class Thirds(restore.RestoringPredictor):
        def answers(self, items):
            for item, n in itertools.product(items, range(3)):
                if n == 2:
                    assert (tmp_path / "1.txt").read_bytes() == b"1"  # written as it comes
                problems = ("a", "b") if n == 1 else ()
                yield Answer(item.paths[0], files={PurePath(f"{n}.txt"): b"%d" % n},
                             problems=problems)  # fmt: skip

    items = [Item((Path("film"),), PurePath("film"), None)]
    assert results.answer_items(Thirds(None), items, tmp_path) == (3, [("a", "b")])


def test_a_model_for_grey_says_so_of_colours(tmp_path, caplog):
    logging.getLogger("vit_jax").propagate = True
    model, params = random_params("SwinIR-denoise-gray", (8, 8), **TINY_SWINIR)
    Image.fromarray(photo((16, 16))).save(tmp_path / "a.png")
    Image.fromarray(photo((16, 16))[..., 0]).save(tmp_path / "grey.png")
    restorer = tiles.Restorer(model, {"params": params}, method="whole")
    predictor = restore.RestoringPredictor(restorer, output=tmp_path / "out")
    items = predictor.find([tmp_path])
    assert results.answer_items(predictor, items, tmp_path / "out") == (2, [])
    assert caplog.text.count("has colours, which this model for grey images takes off it") == 1
    with Image.open(tmp_path / "out" / "grey.png") as image:
        assert (image.mode, image.size) == ("L", (16, 16))


# One file does not end the batch


class Identity:
    """A restorer that does nothing, or fails for images of one width."""

    method, model = "whole", Model()

    def __init__(self, fails_at=None):
        self.fails_at = fails_at

    def method_for(self, size):
        if size[1] == self.fails_at:
            raise AssertionError("of our own")
        return "whole"

    def __call__(self, image):
        return image


def restore_folder(folder, output, compares=False, restorer=None):
    predictor = restore.RestoringPredictor(restorer or Identity(), compares, output)
    items = predictor.find([str(folder)])
    results.check_outputs(items, predictor, output)
    _, failures = results.answer_items(predictor, items, output)
    return [problem for some in failures for problem in some]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.gif", "GIF"), ("a.png", "PNG"), ("a.webp", "WEBP"), ("a.tif", "TIFF"), ("a.jpg", "MPO")],
)
def test_of_several_frames_the_first_is_restored(tmp_path, caplog, name, kind):
    frames = [Image.new("RGB", (16, 12), (value, 0, 0)) for value in (50, 100, 200)]
    folder = tmp_path / "in"
    folder.mkdir()
    frames[0].save(folder / name, kind, save_all=True, append_images=frames[1:])
    write_image(folder / "z.png", (9, 9, 9))
    assert restore_folder(folder, tmp_path / "out") == []
    assert f"{folder / name} has 3 frames; only the first is restored" in caplog.text
    with Image.open(tmp_path / "out" / name) as written:
        assert getattr(written, "n_frames", 1) == 1
        np.testing.assert_allclose(np.asarray(written.convert("RGB"))[..., 0], 50, atol=5)
    assert (tmp_path / "out" / "z.png").exists()


def test_an_animation_that_is_cut_off_further_on(tmp_path):
    random = np.random.default_rng(0)
    frames = [Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)) for _ in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    (tmp_path / "a.gif").write_bytes(buffer.getvalue()[: int(0.7 * len(buffer.getvalue()))])
    assert restore_folder(tmp_path, tmp_path / "out") == []


def test_whatever_one_file_does_the_others_are_written(tmp_path, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name, width in (("a", 10), ("b", 11), ("c", 12), ("d", 13)):
        write_image(folder / f"{name}.png", (9, 9, 9), size=(width, 8))
    read = photos.read

    def fail_at_c(path, data):
        if path.stem == "c":
            raise RecursionError("maximum depth\nof many lines")
        return read(path, data)

    monkeypatch.setattr(photos, "read", fail_at_c)
    draw = restore._draw_comparison

    def fail_at_d(before, after):
        if before.shape[1] == 13:
            raise OSError(28, "No space left on device")
        return draw(before, after)

    monkeypatch.setattr(restore, "_draw_comparison", fail_at_d)
    problems = restore_folder(folder, out, True, Identity(fails_at=11))
    assert problems == [
        f"cannot restore {folder}/b.png: AssertionError: of our own",
        f"cannot restore {folder}/c.png: RecursionError: maximum depth",
        f"cannot compare {folder}/d.png: No space left on device",
    ]
    assert sorted(p.name for p in out.glob("*.png")) == ["a.png", "d.png"]
    assert [p.name for p in (out / "compare").iterdir()] == ["a.png"]


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    write_image(tmp_path / "b.png", (9, 9, 9))
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")  # to open it would take for ever
    problems = restore_folder(tmp_path, tmp_path / "out")
    assert problems == [f"cannot restore {tmp_path}/a.png: No such file or directory"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
