"""The task flow: its loss, figures, tiles and colours, and a run from end to end."""

import csv
import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from configs import common
from input_pipeline.sources import KINDS
from tests.runs import assert_same_runs
from vit_jax import flow_colours, flow_tiles, losses, ops, optical_flow, plugins, report, train
from vit_jax.flow_report import FlowReport
from vit_jax.machinery import sharding
from vit_jax.models import MODELS, get_model
from vit_jax.tasks import flow as task
from vit_jax.workdir import Workdir

GOLDEN = np.load(Path(__file__).parent / "golden" / "flow_figures.npz")
PUBLISHED_NAMES = {
    "chairs/epe": "epe_pixels",
    "chairs/1px": "px1",
    "chairs/3px": "px3",
    "chairs/5px": "px5",
    "sintel/epe": "epe_pixels",
    "sintel/epe_matched": "matched",
    "sintel/epe_unmatched": "unmatched",
    "sintel/s0-10": "s0-10",
    "sintel/s10-40": "s10-40",
    "sintel/s40+": "s40+",
    "kitti/epe": "epe_images",
    "kitti/f1_all": "f1_all",
}


@pytest.fixture(scope="module", autouse=True)
def moved_frames():
    """The plugin, which is taken away again: other tests look at all that there are."""
    plugins.load(["tests.moved_frames"])
    yield sys.modules["tests.moved_frames"]
    del MODELS["Follower"], KINDS["moved_frames"], sys.modules["tests.moved_frames"]


@pytest.fixture(scope="module")
def golden_pairs():
    """Guesses and their batch: frames of three sizes, padded, and NaN where they are not valid."""

    def padded(name, value):
        stacked = np.full((3, 8, 11, *GOLDEN[f"{name}0"].shape[2:]), value, np.float32)
        for i, whole in enumerate(stacked):
            x = GOLDEN[f"{name}{i}"]
            whole[: x.shape[0], : x.shape[1]] = x
        return stacked

    valid = padded("valid", 0)
    flow = np.where(valid[..., None] > 0, padded("gt", 0), np.nan)
    batch = {"flow": flow, "valid": valid, "occluded": padded("occluded", 0)}
    return jnp.asarray(padded("pred", 7)), {k: jnp.asarray(v) for k, v in batch.items()}


def figure_of(name, pairs):
    metric = task.get_metric(name, "sequence")
    return metric.finish(np.concatenate([np.asarray(metric.each(*pair)) for pair in pairs]))


# Figures.


@pytest.mark.parametrize(("name", "published"), PUBLISHED_NAMES.items())
def test_figures_are_the_golden_ones(name, published, golden_pairs):
    expected = json.loads(str(GOLDEN["expected"]))[published]
    assert figure_of(name, [golden_pairs]) == pytest.approx(expected, rel=1e-6)


def line(errors, truth=100.0, **more):
    """Pixels in a row with a true flow to the right, and guesses that are off by some pixels."""
    flow = np.stack(np.broadcast_arrays(np.asarray(truth, float), np.zeros(len(errors))), -1)
    guess = flow + np.stack([np.asarray(errors), np.zeros(len(errors))], -1)
    batch = {"flow": flow[None, None], "valid": np.ones((1, 1, len(errors))), **more}
    as_float = {k: jnp.asarray(v, jnp.float32) for k, v in batch.items()}
    return jnp.asarray(guess[None, None], jnp.float32), as_float


@pytest.mark.parametrize(
    ("name", "errors", "truth", "expected"),
    [
        ("chairs/1px", [0.5, 1, 2, 0], 100, 50),  # strictly below
        ("kitti/f1_all", [3, 4, 4, 4], [10, 100, 60, 0], 50),  # of 3 pixels and 5 %, both above
        ("kitti/f1_all", [math.nan, 0], 10, 50),
        ("sintel/s0-10", [1, 2, 4], [9, 10, 40], 1),
        ("sintel/s10-40", [1, 2, 4], [9, 10, 40], 2),
        ("sintel/s40+", [1, 2, 4], [9, 10, 40], 4),
        ("constant/epe", [7, 7, 7], [1, 2, 6], 5 / 3),
    ],
)
def test_borders_of_figures(name, errors, truth, expected):
    assert figure_of(name, [line(errors, truth)]) == pytest.approx(expected)


def test_a_figure_without_pixels_is_no_number():
    pair = line([1, 2], 5)
    assert math.isnan(figure_of("sintel/s40+", [pair]))
    empty = {**pair[1], "valid": jnp.zeros((1, 1, 2))}
    assert figure_of("kitti/epe", [pair, (pair[0], empty)]) == pytest.approx(1.5)
    each = np.concatenate([task.get_metric("kitti/epe", "").each(*pair), [[0, 0]]])
    np.testing.assert_allclose(optical_flow.own_figures(each), [1.5, math.nan])


@pytest.mark.parametrize("reach", [140, 5])
def test_occlusion_distance(reach):
    occluded = np.zeros((2, 23, 31), np.float32)
    occluded[0, 5:9, 20:] = occluded[0, 18, 2] = 1
    distance = np.asarray(optical_flow.occlusion_distance(jnp.asarray(occluded), reach))
    to_occluded, to_seen = (
        scipy.ndimage.distance_transform_edt(x) for x in (1 - occluded[0], occluded[0])
    )
    expected = np.maximum(to_occluded, to_seen)
    expected[expected > reach] = np.inf
    np.testing.assert_allclose(distance[0], expected, rtol=1e-6)
    assert np.isinf(distance[1]).all()  # nothing is occluded


def test_figures_by_distance():
    occluded = np.zeros((1, 1, 200))
    occluded[..., 0] = 1
    errors = [1.0] * 10 + [2.0] * 50 + [4.0] * 80 + [8.0] * 60  # 0 itself is 1 from the border
    pair = line(errors, occluded=occluded)
    figures = [figure_of(f"sintel/{name}", [pair]) for name in ("d0-10", "d10-60", "d60-140")]
    assert figures == pytest.approx([1, 2, 4])


def test_unknown_metric(golden_pairs):
    with pytest.raises(ValueError, match=r"unknown metric 'epe'; .*of flows there are: chairs/epe"):
        task.get_metric("epe", "sequence")
    with pytest.raises(ValueError, match="cannot be compared with"):
        optical_flow.endpoint_error(jnp.zeros((1, 4, 4, 2)), golden_pairs[1])


# The loss.


def golden_sequence():
    batch = {"flow": GOLDEN["loss_gt"].transpose(0, 2, 3, 1), "valid": GOLDEN["loss_valid"]}
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    return jnp.asarray(GOLDEN["loss_preds"].transpose(0, 1, 3, 4, 2)), batch


def test_sequence_loss():
    guesses, batch = golden_sequence()
    loss = optical_flow.sequence(guesses, batch)
    assert loss.shape == (2,)
    assert float(loss.mean()) == pytest.approx(float(GOLDEN["loss"]), rel=1e-6)
    # In evaluation there is the last guess alone; what moves as far as max_flow has no say.
    last = jax.jit(optical_flow.sequence)(guesses[-1], batch)
    length = np.linalg.norm(batch["flow"], axis=-1)
    for most, loss in ((400, last), (10, optical_flow.sequence(guesses[-1], batch, max_flow=10))):
        counts = (np.asarray(batch["valid"]) >= 0.5) & (length < most)
        errors = np.abs(guesses[-1] - batch["flow"]) * counts[..., None]
        np.testing.assert_allclose(loss, errors.mean((1, 2, 3)), rtol=1e-5)


def test_sequence_loss_of_an_expression():
    guesses, batch = golden_sequence()
    weighted = [0.5**2, 0.5, 1] @ np.array([optical_flow.sequence(g, batch) for g in guesses])
    for text in ("sequence(gamma=0.5)", "sequence(0.5, max_flow=400)", "2 * sequence(0.5)"):
        factor = 2 if "*" in text else 1
        loss = losses.get_loss(text, task.TASK.losses)(guesses, batch)
        np.testing.assert_allclose(loss, factor * weighted, rtol=1e-6)
    for text, message in {
        "sequence(gamma=0)": "gamma must be a positive number, not 0",
        "sequence(decay=0.8)": r"does not fit sequence\(gamma, max_flow\)",
        "sequence(0.8, gamma=0.8)": r"does not fit sequence\(gamma, max_flow\)",
        "sequence(gamma=": "cannot read the loss",
    }.items():
        with pytest.raises(ValueError, match=message):
            losses.get_loss(text, task.TASK.losses)
    with pytest.raises(ValueError, match="and the model gives"):
        optical_flow.sequence(guesses[:, :, :3], batch)


def test_gradients_of_the_loss_where_the_truth_is_no_number():
    guesses, batch = golden_sequence()
    batch["flow"] = jnp.where(batch["valid"][..., None] >= 0.5, batch["flow"], jnp.nan)
    gradient = jax.grad(lambda x: optical_flow.sequence(x, batch).mean())(guesses)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[:, np.asarray(batch["valid"]) < 0.5].any()


# Padding and tiles.


@pytest.mark.parametrize("mode", ops.PADDINGS)
def test_padding(mode):
    image, expected = (GOLDEN[k].transpose(0, 2, 3, 1) for k in ("pad_in", f"pad_{mode}"))
    np.testing.assert_array_equal(ops.pad_to_multiple(jnp.asarray(image), 8, mode), expected)
    (top, _), (left, _) = ops.multiple_margins((13, 21), 8, mode)
    np.testing.assert_array_equal(expected[:, top : top + 13, left : left + 21], image)


def test_unknown_padding():
    with pytest.raises(ValueError, match=r"unknown padding 'same'; .*there are: sintel, kitti"):
        ops.multiple_margins((13, 21), 8, "same")


def test_tiles():
    size, tile = (tuple(map(int, GOLDEN[k])) for k in ("tile_image_size", "tile_size"))
    tiling = flow_tiles.Tiling(size, tile, int(GOLDEN["tile_overlap"]), float(GOLDEN["tile_sigma"]))
    np.testing.assert_array_equal(tiling.corners, GOLDEN["tile_starts"])
    guesses = jnp.asarray(GOLDEN["tile_preds"].transpose(0, 2, 3, 1))
    starts = jnp.asarray(GOLDEN["tile_starts"])

    def flow_at(corner):
        return guesses[jnp.argmax((starts == corner).all(axis=1))][None]

    blended = tiling.blend(flow_at)
    np.testing.assert_allclose(blended[0].transpose(2, 0, 1), GOLDEN["tile_out"], atol=2e-6)


@pytest.mark.parametrize(
    ("size", "tile", "starts"),
    [
        ((436, 1024), (432, 960), ([0, 4], [0, 64])),  # Sintel
        ((376, 1242), (376, 720), ([0], [0, 522])),  # KITTI: no row of tiles twice
        ((825, 960), (432, 960), ([0, 393], [0])),  # the published rule has one beyond the border
    ],
)
def test_tiles_of_published_sizes(size, tile, starts):
    tiling = flow_tiles.Tiling(size, tile)
    assert tiling.starts == starts
    total = np.zeros(size)
    for (top, left), weight in zip(tiling.corners, tiling.weights):
        total[top : top + tile[0], left : left + tile[1]] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)  # also in the corners, as 0 / 0 is not
    if len(tiling.corners) > 1:
        ys, xs = ((np.arange(n) / n - 0.5) for n in tile)
        published = np.exp(-200 * (ys[:, None] ** 2 + xs**2))
        top, left = size[0] // 2, 30  # where two tiles or none overlap, far from 0
        (row, column), weight = tiling.corners[0], tiling.weights[0]
        shares = [
            published[top - r, left - c]
            for r, c in tiling.corners
            if 0 <= top - r < tile[0] and 0 <= left - c < tile[1]
        ]
        expected = published[top - row, left - column] / sum(shares)
        assert weight[top, left] == pytest.approx(expected, rel=1e-4)


class Pointer:
    """A model whose flow says where in its tile a pixel lies, and how bright the frames are."""

    def apply(self, variables, image, image2, train):
        del variables, train
        return jnp.stack([image[..., 0], image2[..., 0]], axis=-1)

    has_field = staticmethod(lambda name: False)


@pytest.mark.parametrize("size", [(40, 70), (20, 30), (60, 30), (24, 32)])
def test_tiles_leave_what_does_not_depend_on_them(size):
    answer = flow_tiles.make_answer(Pointer(), {"flow.tile": [24, 32]})
    frames = np.random.default_rng(0).uniform(-1, 1, (2, 2, *size, 3)).astype(np.float32)
    flow = jax.jit(answer)({}, {"image": frames[0], "image2": frames[1]})
    np.testing.assert_allclose(flow, frames[..., 0].transpose(1, 2, 3, 0), atol=1e-6)
    padded = flow_tiles.pad_to_tile(jnp.asarray(frames[0]), (24, 32))
    assert (np.asarray(padded)[:, size[0] :] == -1).all()  # black
    assert padded.shape[1:3] == tuple(max(pair) for pair in zip(size, (24, 32)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flow.tile": (432,)}, r"flow.tile must be \(height, width\).*not \(432,\)"),
        ({"flow.tile": (432, -1)}, "flow.tile must be"),
        ({"flow.tile": (432, 20)}, "20 in common: take larger ones"),
        ({"flow.iterations": -1}, "flow.iterations must be at least 1, or 0"),
        ({"flow.iterations": 3}, "Pointer has no iterations: set flow.iterations to 0"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        flow_tiles.make_answer(Pointer(), settings)


def test_iterations_to_evaluate():
    model = get_model("Follower")
    frames = np.random.default_rng(0).uniform(-1, 1, (2, 1, 9, 8, 3)).astype(np.float32)
    batch = {"image": frames[0], "image2": frames[1]}
    variables = model.init(jax.random.key(0), *frames)
    whole = flow_tiles.make_answer(model, {})(variables, batch)
    many = flow_tiles.make_answer(model, {"flow.iterations": 9})(variables, batch)
    np.testing.assert_allclose(many / (1 - 2.0**-9), whole / (1 - 2.0**-3), rtol=1e-5)


# Colours.


@pytest.mark.parametrize(("key", "most"), [("rgb", None), ("rgb_max8", 8.0)])
def test_colours(key, most):
    colours = flow_colours.flow_to_colours(GOLDEN["colour_flow"], most)
    np.testing.assert_array_equal(colours, GOLDEN[f"colour_{key}"])
    np.testing.assert_array_equal(flow_colours.make_wheel(), GOLDEN["colour_wheel"])


def test_colours_of_what_is_not_known():
    flow, valid = GOLDEN["colour_flow"].copy(), np.ones((12, 16), np.float32)
    flow[3, 3, 0], flow[4, 4, 1], flow[5, 5], valid[6, 6] = np.nan, 1e10, np.inf, 0
    flow[6, 6] = 1e6
    expected = GOLDEN["colour_rgb"].copy()
    for i in range(3, 7):
        expected[i, i] = 0
    np.testing.assert_array_equal(flow_colours.flow_to_colours(flow, valid=valid), expected)
    assert not flow_colours.flow_to_colours(np.full((2, 2, 2), np.nan)).any()
    assert (flow_colours.flow_to_colours(np.zeros((2, 2, 2))) == 255).all()
    with pytest.raises(ValueError, match="max_flow must be a positive number of pixels, not 0"):
        flow_colours.flow_to_colours(flow, 0)
    with pytest.raises(ValueError, match=r"a flow is \(h, w, 2\), not \(1, 12, 16, 2\)"):
        flow_colours.flow_to_colours(flow[None])


# Noise.


def test_noise():
    config = common.get_config()
    assert task.prepare(config, None) is None
    config.flow.noise = 5.0
    prepare = jax.jit(task.prepare(config, None))
    frames = jnp.zeros((2, 64, 64, 3))
    deviations = []
    for seed in range(12):
        batch = prepare(jax.random.key(seed), {"image": frames, "image2": frames, "flow": frames})
        deviations.append([float(batch[k].std()) * 127.5 for k in ("image", "image2")])
        assert not np.array_equal(batch["image"], batch["image2"])
        assert not batch["flow"].any()
    deviations = np.array(deviations)
    np.testing.assert_allclose(deviations[:, 0], deviations[:, 1], rtol=0.05)  # one for the step
    assert 0 < deviations.min() < 1.5 < 3.5 < deviations.max() < 5
    bright = prepare(jax.random.key(1), {"image": frames + 1, "image2": frames - 1})
    assert (float(bright["image"].max()), float(bright["image2"].min())) == (1, -1)
    config.flow.noise = -1.0
    with pytest.raises(ValueError, match=r"flow\.noise must be a deviation from 0 to 255, not -1"):
        task.prepare(config, None)


# From end to end.


def flow_config(source):
    config = common.get_config()
    config.plugins = ("tests.moved_frames",)
    config.model_name = "Follower"
    config.data.kind, config.data.source = "moved_frames", str(source)
    config.data.train_pp = config.data.eval_pp = "value_range(-1, 1)"
    config.loss = "sequence(gamma=0.85)"
    config.metrics = ("chairs/epe", "sintel/epe_matched", "constant/epe")
    config.best_metric, config.best_mode = "chairs/epe", "min"
    config.flow.noise = 5.0
    config.batch_size, config.accum_steps, config.total_steps = 8, 2, 24
    config.eval_every, config.checkpoint_every, config.log_every = 24, 12, 1
    config.optim.learning_rate = 0.05
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run, and its figures."""
    folder = tmp_path_factory.mktemp("flow")
    return folder / "run", train.train_and_evaluate(flow_config(folder), folder / "run")


@pytest.mark.slow
def test_it_trains_and_evaluates(trained, moved_frames):
    workdir, figures = trained
    val = figures["val"]
    # Of the four pairs, one has no valid pixel, and two are smaller.
    pairs = moved_frames.columns(4, 1, lacks=1)
    lengths = [np.linalg.norm(pairs["flow"][i, 2, 0]) for i in range(4)]
    sizes = [(h - 2) * w for h, w in moved_frames.SIZES]
    sizes[1] = 0
    zero = np.dot(lengths, sizes) / sum(sizes)
    assert val["input/chairs/epe"] == pytest.approx(zero, rel=1e-6)
    assert val["constant/epe"] == pytest.approx(0, abs=1e-6)
    assert val["chairs/epe"] < 0.7 * zero
    assert val["examples"] == 4
    losses = [m["loss"] for m in Workdir(workdir).read_metrics() if m["split"] == "train"]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_the_report(trained):
    workdir, figures = trained
    rows = list(csv.DictReader((workdir / "report" / "val.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [f"pair {i}" for i in range(4)]
    own = [float(row["chairs/epe"]) for row in rows]
    assert math.isnan(own[1])
    assert np.average(np.array(own)[[0, 2, 3]], weights=[14 * 24, 14 * 24, 10 * 20]) == (
        pytest.approx(figures["val"]["chairs/epe"], rel=1e-5)
    )
    with Image.open(workdir / "report" / "flows.png") as picture:
        assert min(picture.size) > 500


def test_published_figures_stand_beside():
    figures = {"sintel/epe": 1.234, "kitti/epe": 4.5, "kitti/f1_all": 15.04, "examples": 200}
    lines = report.format_comparison("KITTI-2015-train", "FlowFormer", figures).splitlines()
    assert lines == [
        "published for FlowFormer (quoted) on KITTI-2015-train: kitti/epe 4.09 (here 4.50), "
        "kitti/f1_all 14.7 (here 15.04)",
        "published for RAFT (quoted) on KITTI-2015-train: kitti/epe 5.04 (here 4.50), "
        "kitti/f1_all 17.4 (here 15.04)",
    ]
    lines = report.format_comparison("Sintel-final-train", "FlowFormer", figures).splitlines()
    assert lines == [
        "published scores are of the 1041 examples of Sintel-final-train, and these 200 are "
        "others: no comparison"
    ]
    figures["examples"] = 1041
    lines = report.format_comparison("Sintel-final-train", "FlowFormer", figures).splitlines()
    assert lines[0].endswith("on Sintel-final-train: sintel/epe 2.4 (here 1.23)")
    others = {"sintel/1px": 90.0, "examples": 1041}
    assert report.format_comparison("Sintel-final-train", "FlowFormer", others) == (
        "published for FlowFormer on Sintel-final-train: sintel/epe, which config.metrics does not "
        "have"
    )
    config = flow_config("x")
    config.benchmark, config.metrics = "KITTI-2015-train", ("kitti/epe",)
    config.best_metric, config.model_name = "kitti/epe", "FlowFormer"
    shown = FlowReport((), config)
    shown.choose({
        "loss": np.ones(200), "kitti/epe": np.array(100 * [[8.0, 2], [12, 2]]),
        "input/kitti/epe": np.array(200 * [[20.0, 2]]), "index": np.arange(200),
    })  # fmt: skip
    texts = shown.header("test")
    assert texts[1] == "all 200 pairs: kitti/epe 5.000 (no motion: 10.000)"
    assert texts[2].endswith("kitti/epe 4.09 (here 5.00)")


@pytest.mark.slow
def test_it_resumes_bit_for_bit(trained, tmp_path, monkeypatch):
    """Stopped after step 14, of which the checkpoint of step 12 is left."""
    workdir, _ = trained
    config = flow_config(workdir.parent)

    def stop(monitor, step, metrics):
        monitor_train(monitor, step, metrics)
        if step == 14:
            raise RuntimeError("as if it were killed")

    monitor_train = train.Monitor.train
    monkeypatch.setattr(train.Monitor, "train", stop)
    with pytest.raises(RuntimeError, match="as if"):
        train.train_and_evaluate(config, tmp_path)
    monkeypatch.setattr(train.Monitor, "train", monitor_train)
    train.train_and_evaluate(config, tmp_path)
    assert_same_runs(workdir, tmp_path)


@pytest.mark.slow
def test_fsdp_and_parts_of_a_batch_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "_MIN_SHARDED_SIZE", 2)  # the model is small
    losses = []
    for fsdp, parts in ((1, 1), (2, 1), (2, 2)):
        config = flow_config(tmp_path)
        config.fsdp, config.accum_steps, config.total_steps = fsdp, parts, 2
        config.metrics = ("chairs/epe",)
        workdir = tmp_path / f"{fsdp}{parts}"
        train.train_and_evaluate(config, workdir)
        metrics = Workdir(workdir).read_metrics()
        losses.append([m["loss"] for m in metrics if m["split"] == "train"])
    assert losses[0][1] < losses[0][0]
    np.testing.assert_allclose(losses, [losses[0]] * 3, rtol=1e-5)


def test_metrics_that_the_data_lack(tmp_path):
    (tmp_path / "seen").mkdir()
    config = flow_config(tmp_path / "seen")
    message = (
        "the metric sintel/epe_matched is computed from occluded, and these data have image2, "
        "flow, valid alone: take it out of config.metrics"
    )
    with pytest.raises(ValueError, match=message):
        train.train_and_evaluate(config, tmp_path / "run")


def test_settings_of_other_tasks(tmp_path):
    config = flow_config(tmp_path)
    config.model_name, config.loss, config.metrics = "ViT-Ti_16", "softmax_xent", ("accuracy",)
    config.best_metric, config.data.kind = "accuracy", "classes"
    message = "flow.noise is for the task flow, and ViT-Ti_16 is for classify: set it to 0"
    with pytest.raises(ValueError, match=message):
        train.train_and_evaluate(config, tmp_path / "run")
