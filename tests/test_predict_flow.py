"""Flow of a person's frames: by tiles, from a warm start, and what is written and said of it."""

import dataclasses
import functools
import io
import types
from pathlib import PurePath

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from checkpoints import npz
from input_pipeline import flow_files
from tests.commands import run
from tests.helpers import photo, random_variables, smooth
from tests.videos import write_video
from vit_jax import flow_pictures, flow_tiles, results
from vit_jax.flow_colours import flow_to_colours
from vit_jax.flow_predictor import FlowEstimator, FlowPredictor, Settings
from vit_jax.models import get_model
from vit_jax.models.base import Model
from vit_jax.options import FlowOptions
from vit_jax.tasks import flow as flow_task
from vit_jax.warm_start import forward_interpolate

SIZE = (24, 40)


class Local(Model):
    """A stand-in whose flow at a pixel depends on that pixel alone."""

    task = "flow"
    any_size = True

    def __call__(self, image, image2, train=False):
        return (10 * image2 - 9 * image)[..., :2]


class Warm(Model):
    """A stand-in that adds (2, 1) places of 8 pixels to what it begins with."""

    task = "flow"
    any_size = True

    def __call__(self, image, image2, train=False, initial=None, low=False):
        assert low
        grid = initial + jnp.array([2.0, 1.0])
        flow = 8 * jnp.repeat(jnp.repeat(grid, 8, axis=1), 8, axis=2)
        return flow[:, : image.shape[1], : image.shape[2]], grid


def pretrained(model=None, settings=None):
    return types.SimpleNamespace(
        name="Stand-in", model=model or Local(), variables={}, settings=settings or {}
    )


def expected_flow(first, second):
    one, other = (x[..., :2] / np.float32(127.5) - 1 for x in (first, second))
    return 10 * other - 9 * one


def pair(size, seed=0):
    return smooth(size, seed), smooth(size, seed + 1)


# Frames of any size.


@pytest.mark.parametrize(
    ("size", "tile", "count"),
    [
        ((64, 64), (64, 64), 1),
        ((436, 1024), (436, 1024), 1),
        ((376, 1242), (376, 1242), 1),
        ((720, 1280), (392, 672), 4),
        ((1080, 1920), (408, 992), 6),
        ((1920, 1080), (440, 576), 10),
        ((2160, 3840), (416, 1008), 24),
        ((20, 60000), (65, 1048), 61),
    ],
)
def test_large_frames_are_looked_at_by_tiles_of_one_size(size, tile, count):
    tiling = FlowEstimator(pretrained()).tiling(size)
    assert (tiling.tile, len(tiling.corners)) == (tile, count)
    assert all(
        larger - starts[-1] == side >= starts[0] == 0
        for larger, starts, side in zip(tiling.size, tiling.starts, tile)
    )


def test_what_is_said_of_tiles():
    run = {"flow.tile": (48, 64)}
    assert FlowEstimator(pretrained(settings=run)).tiling((60, 60)).tile == (48, 64)
    assert FlowEstimator(pretrained(settings=run), tile=72).tiling((60, 60)).tile == (72, 72)
    assert FlowEstimator(pretrained(settings=run), tile=0).tiling((900, 900)).tile == (900, 900)


@pytest.mark.parametrize("size", [(61, 83), (20, 83), (20, 30)])
def test_tiles_are_blended_as_in_evaluation(size):
    settings = {"flow.tile": (32, 48)}
    first, second = pair(size)
    found = FlowEstimator(pretrained(settings=settings))(first, second)
    np.testing.assert_allclose(found, expected_flow(first, second), atol=1e-5)
    batch = {
        key: x[None] / np.float32(127.5) - 1 for key, x in zip(("image", "image2"), (first, second))
    }
    answer = flow_tiles.make_answer(Local(), settings)
    np.testing.assert_allclose(found, answer({}, batch)[0], atol=1e-5)


def test_other_tiles_are_blended_gently():
    class Bordered(Local):
        """Says 1, and 0 near the border."""

        def __call__(self, image, image2, train=False):
            ones = jnp.ones((len(image), *(side - 40 for side in image.shape[1:3]), 2))
            return jnp.pad(ones, ((0, 0), (20, 20), (20, 20), (0, 0)))

    frame = np.zeros((200, 200, 3), np.uint8)
    found = FlowEstimator(pretrained(Bordered()), tile=132)(frame, frame)[20:-20, 20:-20]
    assert found.min() > 0.9
    assert np.abs(np.diff(found, axis=0)).max() < 0.1
    in_run = {"flow.tile": (110, 110)}
    published = FlowEstimator(pretrained(Bordered(), in_run))(frame, frame)[20:-20, 20:-20]
    assert np.abs(np.diff(published, axis=0)).max() > 0.4


def test_a_runs_iterations_are_its_models():
    with pytest.raises(ValueError, match="Local has no iterations"):
        FlowEstimator(pretrained(settings={"flow.iterations": 3}))


def test_a_warm_start_goes_on_tile_by_tile():
    estimate = FlowEstimator(pretrained(Warm(), {"flow.tile": (24, 24)}), warm_start=True)
    frames = [np.zeros((40, 40, 3), np.uint8)] * 2
    begin = np.full((3, 3, 2), (2, 1), np.float32)
    np.testing.assert_allclose(estimate(*frames), np.full((40, 40, 2), (16, 8)), atol=1e-5)
    second = estimate(*frames, goes_on=True)
    # (2, 1) places from each place of a tile; one vector at least ends in it.
    expected = 8 * (forward_interpolate(begin) + begin)
    np.testing.assert_allclose(second[0, 0], expected[0, 0], atol=1e-5)
    assert (second[0, 0] == 2 * np.array([16, 8])).all()
    np.testing.assert_allclose(estimate(*frames), np.full((40, 40, 2), (16, 8)), atol=1e-5)


def test_what_is_no_number_is_said():
    class Lost(Local):
        def __call__(self, image, image2, train=False):
            return jnp.full((*image.shape[:3], 2), jnp.nan)

    with pytest.raises(ValueError, match="what the model says are no numbers"):
        FlowEstimator(pretrained(Lost()))(*pair(SIZE))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"format": "png"}, "--format must be one of flo, kitti, not 'png'"),
        ({"max_flow": 0.0}, "--max_flow must be a positive number of pixels, not 0.0"),
        ({"max_flow": float("inf")}, "--max_flow must be a positive number"),
        ({"tile": -1}, "--tile must have more than the 64 pixels that neighbours have in common"),
        ({"tile": 64}, "or be 0 for the whole frame, not 64"),
    ],
)
def test_settings_out_of_range(settings, expected):
    with pytest.raises(ValueError, match=expected):
        Settings(**settings)


def test_the_flags_are_the_settings():
    flags, settings = (
        {field.name for field in dataclasses.fields(kind)} for kind in (FlowOptions, Settings)
    )
    assert flags == settings
    predictor = flow_task.make_predictor(pretrained(), FlowOptions(tile=0), None)
    assert predictor._settings == Settings(tile=0)


# Files.


def answers_of(arguments, output, model=None, **settings):
    """The answers, by the path that predict takes; what is written lies in output."""
    predictor = FlowPredictor(pretrained(model), Settings(**settings), output)
    items = predictor.find(list(map(str, arguments)))
    results.check_outputs(items, predictor, output)
    output.mkdir()
    return results.answer_items(predictor, items, output)


def write_frames(folder, count, size=SIZE, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [smooth(size, seed) for seed in range(count)]
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"f{i:02d}{suffix}")
    return pictures


def written(output):
    return sorted(str(path.relative_to(output)) for path in output.rglob("*.*"))


def test_a_folder_of_frames(tmp_path, capsys):
    first, second, _ = write_frames(tmp_path / "in" / "s", 3, suffix=".ppm")
    assert answers_of([tmp_path / "in"], tmp_path / "out", compare=True) == (2, [])
    assert written(tmp_path / "out") == [
        "compare/s/f00.png", "compare/s/f01.png",
        "s/f00.flo", "s/f00_flow.png", "s/f01.flo", "s/f01_flow.png",
    ]  # fmt: skip
    flow, _ = flow_files.read(tmp_path / "out" / "s" / "f00.flo")
    np.testing.assert_allclose(flow, expected_flow(first, second), atol=1e-5)
    with Image.open(tmp_path / "out" / "s" / "f00_flow.png") as image:
        np.testing.assert_array_equal(np.asarray(image), flow_to_colours(flow))
    with Image.open(tmp_path / "out" / "compare" / "s" / "f00.png") as image:
        picture = flow_pictures.draw_comparison(first, second, flow)
        np.testing.assert_array_equal(np.asarray(image), picture)
    line, _ = capsys.readouterr().out.splitlines()
    lengths = np.linalg.norm(flow, axis=-1)
    assert line.startswith(f"{tmp_path}/in/s/f00.ppm -> {tmp_path}/out/s/f00.flo (40 x 24, whole, ")
    assert line.endswith(
        f" s): moves by {lengths.mean():.2f} pixels on average, {lengths.max():.2f} at most"
    )


@pytest.mark.slow
def test_predict(tmp_path):
    """FlowFormer itself, by the command, with a warm start from file to file."""
    model = get_model("FlowFormer-small", depth=0, width=32, iterations=1)
    variables = random_variables(model, (16, 24))
    npz.save(tmp_path / "weights.npz", variables["params"])
    write_frames(tmp_path / "in", 3, (16, 21))
    (tmp_path / "in" / "g1.png").write_text("no image")
    (tmp_path / "in" / "g2.png").write_text("no image")
    result = run(
        "predict", f"--weights={tmp_path}/weights.npz", "--field=iterations=1", "--warm_start",
        f"--output={tmp_path}/out", tmp_path / "in",
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "1 of 3 failed"
    first, second = result.stdout.splitlines()
    for line, name in ((first, "f00"), (second, "f01")):
        assert line.startswith(
            f"{tmp_path}/in/{name}.png -> {tmp_path}/out/{name}.flo (21 x 16, wh"
        )
    read = [np.asarray(Image.open(tmp_path / "in" / f"f0{i}.png")) for i in range(3)]
    images = [pixels[None] / np.float32(127.5) - 1 for pixels in read]
    apply = jax.jit(functools.partial(model.apply, variables, low=True))
    flow, low = apply(*images[:2], initial=np.zeros((1, 2, 3, 2), np.float32))
    begin = forward_interpolate(np.asarray(low[0]))
    for i, expected in enumerate((flow, apply(*images[1:], initial=begin[None])[0])):
        found, _ = flow_files.read(tmp_path / "out" / f"f0{i}.flo")
        np.testing.assert_allclose(found, expected[0], atol=1e-3 * np.abs(expected).max())


def test_kittis_format_and_colours_of_one_scale(tmp_path, caplog):
    first, second = write_frames(tmp_path / "in", 2)
    arguments = [tmp_path / "in" / name for name in ("f00.png", "f01.png")]
    assert answers_of(arguments, tmp_path / "out", format="kitti", max_flow=2.5) == (1, [])
    assert written(tmp_path / "out") == ["f00.png", "f00_flow.png"]
    flow, valid = flow_files.read(tmp_path / "out" / "f00.png")
    np.testing.assert_allclose(flow, expected_flow(first, second), atol=1 / 127)
    assert valid.all()
    with Image.open(tmp_path / "out" / "f00_flow.png") as image:
        colours = flow_to_colours(expected_flow(first, second), 2.5)
        assert np.mean(np.asarray(image) == colours) > 0.99
    assert not caplog.records


def test_kittis_format_cannot_hold_all(tmp_path, caplog):
    class Far(Local):
        def __call__(self, image, image2, train=False):
            return jnp.full((*image.shape[:3], 2), -600.0)

    write_frames(tmp_path / "in", 2)
    answers_of([tmp_path / "in"], tmp_path / "out", Far(), format="kitti")
    assert "f00.png moves by more than 512 pixels" in caplog.text
    assert (flow_files.read(tmp_path / "out" / "f00.png")[0] == -512).all()


def test_one_bad_frame_does_not_end_the_others(tmp_path):
    folder = tmp_path / "in"
    write_frames(folder, 7)
    (folder / "f02.png").write_text("no image")
    Image.fromarray(photo((24, 41))).save(folder / "f06.png")
    count, failures = answers_of([folder], tmp_path / "out")
    assert count == 6
    reason = f"cannot read {folder}/f02.png: not an image in a format that Pillow reads"
    assert failures == [
        (f"cannot tell the flow from {folder}/f01.png to {folder}/f02.png: {reason}",),
        (f"cannot tell the flow from {folder}/f02.png to {folder}/f03.png: {reason}",),
        (f"cannot tell the flow from {folder}/f05.png to {folder}/f06.png: their sizes differ, "
         "40 x 24 and 41 x 24 pixels",),
    ]  # fmt: skip
    assert written(tmp_path / "out") == [
        name for i in (0, 3, 4) for name in (f"f0{i}.flo", f"f0{i}_flow.png")
    ]


def test_a_warm_start_begins_anew_after_a_bad_frame_and_in_each_sequence(tmp_path):
    size = (64, 64)
    for name in ("a", "b"):
        write_frames(tmp_path / "in" / name, 5, size)
    (tmp_path / "in" / "a" / "f02.png").write_text("no image")
    answers_of([tmp_path / "in"], tmp_path / "out", Warm(), warm_start=True)
    flows = {
        name: flow_files.read(tmp_path / "out" / name)[0][-1, -1, 0]
        for name in written(tmp_path / "out") if name.endswith(".flo")
    }  # fmt: skip
    assert flows == {
        "a/f00.flo": 16, "a/f03.flo": 16,
        "b/f00.flo": 16, "b/f01.flo": 32, "b/f02.flo": 48, "b/f03.flo": 64,
    }  # fmt: skip


def test_a_picture_that_fails_leaves_the_flow(tmp_path, monkeypatch):
    write_frames(tmp_path / "in", 3)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(flow_pictures, "draw_comparison", fail)
    count, failures = answers_of([tmp_path / "in"], tmp_path / "out", compare=True)
    assert (count, len(failures)) == (2, 2)
    assert failures[0] == (
        f"cannot draw the flow from {tmp_path}/in/f00.png to {tmp_path}/in/f01.png: No space left "
        "on device",
    )
    assert len(written(tmp_path / "out")) == 4


def test_videos(tmp_path, capsys):
    pictures = [smooth(SIZE, seed) for seed in range(4)]
    write_video(tmp_path / "film.mkv", pictures, rate=10)
    write_video(tmp_path / "still.mkv", pictures[:1])
    (tmp_path / "bad.mp4").write_text("no video")
    names = ("bad.mp4", "still.mkv", "film.mkv")
    count, failures = answers_of([tmp_path / name for name in names], tmp_path / "out")
    assert count == 5
    assert failures == [
        (f"cannot read {tmp_path}/bad.mp4: Invalid data found when processing input",),
        (f"cannot read {tmp_path}/still.mkv: it has one frame alone",),
    ]
    assert written(tmp_path / "out") == [
        f"film/00000{i}{ending}" for i in (1, 2, 3) for ending in (".flo", "_flow.png")
    ]
    flow, _ = flow_files.read(tmp_path / "out" / "film" / "000003.flo")
    np.testing.assert_allclose(flow, expected_flow(*pictures[2:]), atol=1e-5)
    _, line, _ = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/film.mkv at 0.100 s -> {tmp_path}/out/film/000002.flo (40")


def test_flows_are_written_as_they_come(tmp_path):
    write_video(tmp_path / "film.mkv", [smooth(SIZE, 0)] * 30)
    predictor = FlowPredictor(pretrained(), output=tmp_path / "out")
    answers = predictor.answers(predictor.find([tmp_path / "film.mkv"]))
    assert next(answers).files.keys() == {
        PurePath("film/000001.flo"), PurePath("film/000001_flow.png")
    }  # fmt: skip


def test_nothing_is_overwritten(tmp_path):
    write_frames(tmp_path / "in", 3)
    write_video(tmp_path / "in" / "film.mkv", [smooth(SIZE, 0)] * 2)
    predictor = FlowPredictor(pretrained(), Settings(compare=True))
    items = predictor.find([tmp_path / "in"])
    outputs = [list(map(str, predictor.outputs(item))) for item in items]
    assert outputs == [
        [name.format(i) for i in (0, 1)
         for name in ("f0{}.flo", "f0{}_flow.png", "compare/f0{}.png")],
        ["film", "compare/film"],
    ]  # fmt: skip
    (tmp_path / "out" / "film").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"1 of the results are there already, such as .*out/film:"
    ):
        results.check_outputs(items, predictor, tmp_path / "out")
    names = [str(tmp_path / "in" / f"f0{i}.png") for i in (0, 1, 0, 2)]
    with pytest.raises(ValueError, match=r"f00.png and .*f00.png would both be written to .*flo:"):
        results.check_outputs(predictor.find(names), predictor, tmp_path / "new")


# Pictures.


def test_a_frame_is_moved_back():
    second = photo((20, 30))
    flow = np.zeros((20, 30, 2), np.float32)
    flow[..., 0], flow[..., 1] = 3, -2
    moved, inside = flow_pictures.warp_back(second, flow)
    expected = np.zeros((20, 30), bool)
    expected[2:, :27] = True
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(moved[2:, :27], second[:18, 3:])
    assert not moved[~inside].any()
    _, inside = flow_pictures.warp_back(second, -flow)
    np.testing.assert_array_equal(inside, expected[::-1, ::-1])
    half, _ = flow_pictures.warp_back(second, np.full_like(flow, (0.5, 0)))
    mean = (second[:, :-1].astype(float) + second[:, 1:]) / 2
    np.testing.assert_allclose(half[:, :-1], mean, atol=0.51)
    flow[5, 7] = np.nan
    assert not flow_pictures.warp_back(second, flow)[1][5, 7]


def test_the_comparison_shows_frames_flow_and_what_has_left():
    first, second = pair((400, 500))
    flow = np.full((400, 500, 2), (50, 0), np.float32)
    picture = flow_pictures.draw_comparison(first, second, flow)
    assert picture.shape == (2 * 428 + 6, 2 * 506 + 134, 3)
    cells = [picture[y : y + 400, x : x + 500] for y in (28, 456) for x in (6, 512)]
    np.testing.assert_array_equal(cells[0], first)
    np.testing.assert_array_equal(cells[1], second)
    np.testing.assert_array_equal(cells[2], flow_to_colours(flow))
    np.testing.assert_array_equal(cells[3][:, :450], second[:, 50:])
    assert {tuple(pixel) for pixel in cells[3][:, 450:].reshape(-1, 3)} == {
        (255, 0, 255),
        (90, 0, 90),
    }


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((64, 64), (320, 320)),
        ((100, 320), (320, 100)),
        ((2160, 3840), (1280, 720)),
        ((1, 5), (320, 64)),
    ],
)
def test_small_and_large_frames_are_shown_in_other_sizes(size, shown):
    assert flow_pictures._shown_size(size) == shown


def test_the_wheel_shows_where_colours_lead():
    wheel = flow_pictures.draw_wheel(101)
    right, down, left, up = wheel[50, 99], wheel[99, 50], wheel[50, 1], wheel[1, 50]
    directions = np.array([[(1, 0)], [(0, 1)], [(-1, 0)], [(0, -1)]], np.float32)
    expected = flow_to_colours(directions, 1.0)[:, 0].astype(int)
    np.testing.assert_allclose([right, down, left, up], expected, atol=16)
    assert (wheel[0, 0] == 255).all()
    assert (wheel[50, 50] > 240).all()


def test_a_png_keeps_pixels():
    pixels = photo(SIZE)
    with Image.open(io.BytesIO(flow_pictures.encode_png(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
