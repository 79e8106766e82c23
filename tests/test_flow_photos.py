"""Pairs made from photos: the flow leads to the same colours, and what is hidden is said so."""

import jax
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from flax import traverse_util
from PIL import Image

from configs import common, flow_photos
from input_pipeline import get_dataset
from input_pipeline.sources import flow_from_photos
from input_pipeline.sources.flow_from_photos import Layers, render
from tests.helpers import photo, write_image
from vit_jax.models import get_model
from vit_jax.models.flowformer import PARAMETER_COUNTS, FlowFormer


def data_config(folder, **motion):
    config = common.get_config().data
    config.kind = "flow_from_photos"
    config.source = str(folder)
    config.train_pp = config.eval_pp = "value_range(-1, 1)"
    config.motion.update({"size": (48, 64), "draws": 2, "pieces": (1, 1), **motion})
    return config


def open_data(config, batch_size=2):
    return get_dataset(config, batch_size, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two photos to train on, and one to validate on; all of one, so that they look alike."""
    folder = tmp_path_factory.mktemp("photos")
    for i, split in enumerate(("train", "train", "val")):
        (folder / split).mkdir(exist_ok=True)
        Image.fromarray(photo((180, 240), 60 * i)).save(folder / split / f"{i}.png")
    return folder


def seen_along(frame, flow):
    """A frame (h, w, 3) at the places to which a flow leads, by cubic interpolation."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]]
    at = [y + flow[..., 1], x + flow[..., 0]]
    channels = [
        scipy.ndimage.map_coordinates(frame[..., k], at, order=3, mode="nearest") for k in range(3)
    ]
    return np.stack(channels, axis=-1)


def test_the_second_frame_along_the_flow_is_the_first(folder):
    (batch,) = open_data(data_config(folder, shift=6.0)).eval_batches("val")
    assert set(batch) == {"image", "image2", "flow", "valid", "occluded", "_mask", "index"}
    assert (batch["valid"] == 1).all()
    for first, second, flow, occluded in zip(
        batch["image"], batch["image2"], batch["flow"], batch["occluded"]
    ):
        seen = occluded == 0
        assert 0.6 < seen.mean() < 0.999
        assert np.linalg.norm(flow, axis=-1).max() < 30

        def difference(flow, where, second=second, first=first):
            found = np.abs(seen_along(second, flow) - first).mean(axis=-1)[where] * 127.5
            return np.median(found), found.mean()

        median, mean = difference(flow, seen)
        assert (median < 1.5, mean < 4) == (True, True)
        assert difference(np.zeros_like(flow), seen)[1] > 4 * mean
        assert difference(flow, ~seen)[1] > 3 * mean


def still(shifts, centres, radii, size=(20, 30)):
    """Layers that are shifted alone, and circles."""
    count = len(shifts)
    return Layers(
        warp=tf.zeros((count, *size, 2)),
        turn=tf.eye(2, batch_shape=[count]),
        centre=tf.constant(centres, tf.float32),
        shift=tf.constant(shifts, tf.float32),
        radius=tf.constant(radii, tf.float32),
        waves=tf.zeros((count, 3, 2)),
    )


def test_flow_and_occlusion_of_layers_that_are_shifted():
    """By whole pixels, so that it can be painted pixel by pixel."""
    shifts, centres = [(1, 0), (-4, 2), (5, 0)], [(15, 10), (20, 8), (9, 9)]
    radii = [1000, 5.2, 4.3]
    colours = np.array([40, 120, 200], np.float32)
    pictures = tf.ones((3, 60, 80, 1)) * colours[:, None, None, None] * tf.ones(3)
    example = {k: v.numpy() for k, v in render(pictures, still(shifts, centres, radii)).items()}
    y, x = np.mgrid[:20, :30]

    def painted(moves):
        top = np.zeros((20, 30), int)
        for k in (1, 2):
            dx, dy = np.array(centres[k]) + np.array(moves[k])
            top[np.hypot(x - dx, y - dy) <= radii[k]] = k
        return top

    first, second = painted(np.zeros((3, 2))), painted(shifts)
    np.testing.assert_array_equal(example["flow"], np.array(shifts)[first])
    ends = np.stack([x, y], -1) + np.array(shifts)[first]
    outside = ((ends < 0) | (ends > [29, 19])).any(axis=-1)
    inside = np.clip(ends, 0, [29, 19])
    hidden = second[inside[..., 1], inside[..., 0]] > first
    np.testing.assert_array_equal(example["occluded"], outside | hidden)
    assert hidden.sum() > 5
    for key, top in (("image", first), ("image2", second)):
        near = np.abs(example[key].astype(int) - colours[top][..., None]).max(axis=-1)
        assert (near == 0).mean() > 0.85  # but for soft outlines


def test_a_point_moves_there_and_back():
    motion = common.get_config().data.motion
    layers = flow_from_photos.draw_layers(tf.constant([3, 4]), motion)
    height, width = motion.size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    grid = tf.constant(np.stack([x, y], -1))
    back = layers.back(grid)
    np.testing.assert_allclose(layers.forward(back), np.broadcast_to(grid, back.shape), atol=2e-3)
    turn = layers.turn.numpy()
    zoom = np.sqrt(np.linalg.det(turn))
    assert ((zoom > 1 / 1.1 - 1e-6) & (zoom < 1.1 + 1e-6)).all()
    angles = np.degrees(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert (np.abs(angles).max() <= 8, np.ptp(angles) > 1) == (True, True)
    assert np.linalg.norm(layers.shift, axis=-1).max() <= 10
    assert np.abs(layers.warp).max() < 3  # a cubic through points of up to 2
    # No field folds over, even where it is as strong as is allowed.
    motion.warp = min(motion.size) / 16
    warp = np.concatenate(
        [flow_from_photos.draw_layers(tf.constant([i, 0]), motion).warp for i in range(20)]
    )
    for axis in (1, 2):
        assert np.abs(np.diff(warp, axis=axis)).max() < 1


def test_how_many_pieces_there_are():
    motion = common.get_config().data.motion
    motion.pieces = (1, 3)
    draw = tf.function(lambda seed: flow_from_photos.draw_layers(seed, motion).radius)
    counts = [int((draw(tf.constant([i, 0])).numpy() > 0).sum()) - 1 for i in range(40)]
    assert set(counts) == {1, 2, 3}


@pytest.mark.slow
def test_pairs_depend_on_seed_epoch_and_photo_alone(folder):
    data = open_data(data_config(folder))
    assert {k: s.num_examples for k, s in data.splits.items()} == {"train": 2, "val": 2}
    assert data.splits["val"].names == ("2.png", "2.png")
    batches = data.train_batches()
    epochs = [next(batches) for _ in range(3)]
    assert len({image.tobytes() for batch in epochs for image in batch["image"]}) == 6
    again = next(open_data(data_config(folder)).train_batches(start_step=2))
    for key, value in epochs[2].items():
        np.testing.assert_array_equal(value, again[key])
    first, second = (next(data.eval_batches("val")) for _ in range(2))
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])
    assert (first["flow"][0] != first["flow"][1]).any()


@pytest.mark.slow
def test_pieces_are_of_photos_of_the_same_split(tmp_path):
    for split, color in (("train", (230, 20, 20)), ("val", (20, 20, 230))):
        for i in range(2):
            write_image(tmp_path / split / f"{i}.png", color, size=(70, 60), seed=i)
    data = open_data(data_config(tmp_path, pieces=(2, 2)))
    for batch in data.eval_batches("val"):
        assert batch["image"][..., 0].max() < 0 < batch["image"][..., 2].min()
    batch = next(data.train_batches())
    assert batch["image2"][..., 2].max() < 0 < batch["image2"][..., 0].min()


@pytest.mark.slow
def test_photos_of_any_kind(tmp_path):
    """A tiny one, a grey one, and one that is far larger than a frame."""
    Image.fromarray(photo((180, 240))[:9, :7]).save(tmp_path / "a.png")
    Image.fromarray(photo((180, 240))[..., 0]).save(tmp_path / "b.png")
    Image.fromarray(photo((180, 240)).repeat(5, 0).repeat(5, 1)).save(tmp_path / "c.jpg")
    config = data_config(tmp_path)
    config.val_fraction = 0.0
    config.train_pp = "decode|flow_augment((32, 48))|value_range(-1, 1)"
    batch = next(open_data(config, 3).train_batches())
    assert batch["image"].shape == (3, 32, 48, 3)
    assert all(np.isfinite(value).all() for value in batch.values())
    assert (batch["image"].std(axis=(1, 2, 3)) > 0.02).all()


def test_a_broken_photo_is_named(tmp_path):
    write_image(tmp_path / "a.png", (9, 9, 9))
    (tmp_path / "b.png").write_bytes(b"no image")
    config = data_config(tmp_path)
    config.val_fraction = 0.0
    with pytest.raises(ValueError, match=r"b\.png: .*Remove it, or leave such photos out with"):
        next(open_data(config).train_batches())
    config.skip_corrupt = True
    assert open_data(config).splits["train"].num_examples == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size", (8, 64), r"motion.size must be \(h, w\) of at least 16 pixels, not \(8, 64\)"),
        ("size", (64,), r"motion.size must be \(h, w\)"),
        ("pieces", (3, 1), r"motion.pieces must be \(fewest, most\) from 0 to 16, not \(3, 1\)"),
        ("shift", -1.0, r"motion.shift must lie in \[0, 48\] for frames of 48 x 64 pixels"),
        ("rotation", 200.0, "motion.rotation must lie in"),
        ("zoom", 0.5, r"motion.zoom must lie in \[1, 4\]"),
        ("warp", 4.0, r"motion.warp must lie in \[0, 3\] for frames of 48 x 64"),
        ("draws", 0, "motion.draws must be at least 1, not 0"),
    ],
)
def test_wrong_motion(tmp_path, key, value, message):
    write_image(tmp_path / "a.png", (9, 9, 9))
    config = data_config(tmp_path)
    config.motion[key] = value
    with pytest.raises(ValueError, match=message):
        open_data(config)


def test_the_recipe_makes_frames_that_its_model_divides():
    config = flow_photos.get_config()
    assert config.data.kind == "flow_from_photos"
    assert all(side % 8 == 0 for side in config.data.motion.size)


def test_the_recipe_s_model_is_known_by_its_shapes():
    config = flow_photos.get_config()
    model = get_model(config.model_name, **config.model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((16, 24)))["params"]
    flat = traverse_util.flatten_dict(shapes, sep="/")
    assert sum(leaf.size for leaf in flat.values()) < PARAMETER_COUNTS["FlowFormer-small"] / 3
    fields = FlowFormer.fields_in({name: leaf.shape for name, leaf in flat.items()})
    assert fields["width"] == config.model.width
    with pytest.raises(ValueError, match="width=30 must be a multiple of 4"):
        jax.eval_shape(get_model("FlowFormer-small", width=30).init, jax.random.key(0),
                       *model.inputs((16, 24)))  # fmt: skip
