"""Pairs of frames made from photos, between which the optical flow is known exactly.

A frame shows layers: a background, and over it pieces with smooth outlines, each cut out of a photo
and moved in a way of its own. A layer is a picture over a plane of canonical points. In frame 1 the
pixel x shows the point W(x) = x + d(x), where d is a smooth random field; in frame 2 the point p
lies at A(p), where A turns, enlarges and shifts. So the flow of a layer is A(W(x)) - x, which is
computed and not estimated, and what is hidden in frame 2 follows from the outlines.

Source of the idea: FlyingChairs, in Dosovitskiy et al., "FlowNet: Learning Optical Flow with
Convolutional Networks" (ICCV 2015), has affine motions of chairs over photos. Here the pieces are
of photos as well, and motions are not affine alone.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import antialiasing, files, images
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import pairs, splitting
from input_pipeline.sources.base import Example, IndexedSource, Source, fold_in

_EVAL_SEED = 0
_FINER = 2  # pixels of a layer per pixel of a frame, so that what is between them is not blurred
_MOST_SHRUNK = 2.0  # pixels of a photo per pixel of a frame
_WARP_CELLS = 4  # control points of a field of displacements along each side
_WAVES = (2.0, 3.0, 5.0)  # of an outline, per turn
_RADII = (0.12, 0.32)  # of the pieces, as shares of the shorter side
_MOST_PIECES = 16


@dataclasses.dataclass(frozen=True)
class Layers:
    """The outlines and motions of k layers, from the background to what covers all others.

    Attributes:
        warp: d, (k, h, w, 2) float32 pixels to the right and down, of each pixel of frame 1.
        turn: (k, 2, 2) float32, the matrix of A.
        centre: (k, 2) float32, the point around which a layer is turned, and its outline's middle.
        shift: (k, 2) float32 pixels.
        radius: (k,) float32 pixels; below 0 of a layer that is not there.
        waves: (k, n, 2) float32, heights of the outline's waves, as shares of the radius, and
            their phases in radians.
    """

    warp: tf.Tensor
    turn: tf.Tensor
    centre: tf.Tensor
    shift: tf.Tensor
    radius: tf.Tensor
    waves: tf.Tensor

    def forward(self, points: tf.Tensor) -> tf.Tensor:
        """Where points (k, h, w, 2) of the layers lie in frame 2, as (x, y)."""
        centre = self.centre[:, None, None]
        turned = tf.einsum("kij,khwj->khwi", self.turn, points - centre)
        return turned + centre + self.shift[:, None, None]

    def back(self, pixels: tf.Tensor) -> tf.Tensor:
        """The points (k, h, w, 2) of each layer that lie at pixels (h, w, 2) of frame 2."""
        centre = self.centre[:, None, None]
        moved = pixels - centre - self.shift[:, None, None]
        return tf.einsum("kij,khwj->khwi", tf.linalg.inv(self.turn), moved) + centre

    def coverage(self, points: tf.Tensor) -> tf.Tensor:
        """How much of each point (k, h, w, 2) belongs to its layer, (k, h, w) from 0 to 1."""
        x, y = tf.unstack(points - self.centre[:, None, None], axis=-1)
        angle, distance = tf.atan2(y, x), tf.sqrt(x * x + y * y)
        heights, phases = tf.unstack(self.waves[:, :, None, None], axis=-1)
        waves = heights * tf.cos(tf.constant(_WAVES)[:, None, None] * angle[:, None] + phases)
        radius = self.radius[:, None, None] * (1 + tf.reduce_sum(waves, axis=1))
        return tf.clip_by_value(radius - distance + 0.5, 0.0, 1.0)


def splits(config: Any) -> dict[str, Source]:
    """Finds the photos of a folder.

    Args:
        config: `config.data`, of which `source`, `val_fraction`, `split_seed`, `skip_corrupt` and
            `motion` are read. The folder may have train, val and test folders; what is missing is
            split off train by `splitting`. When training, a photo is the background of another
            pair in every epoch; in the other splits it is that of `motion.draws` pairs, which are
            always the same. The pieces are of it and another photo of the same split, in turns.

    Returns:
        Sources by split name. Examples have `image` and `image2`, (h, w, 3) uint8, `flow` (h, w, 2)
        float32, and (h, w) float32 `valid`, 1 everywhere, and `occluded`, 1 where what frame 1
        shows is hidden in frame 2, or outside of it.

    Raises:
        ValueError: for a folder that is missing, or without photos, or settings that do not fit.
    """
    _check_settings(config.motion)
    folders = splitting.find_splits(Path(config.source).expanduser())
    found: dict[str, Sequence[Path]] = {}
    for name, folder in folders.items():
        photos = pairs.find_clear_photos(folder)
        files.tell_left_out(folder, photos.depth.values(), "depth maps are left out")
        found[name] = photos.images
    if config.skip_corrupt:
        found = {
            name: files.without_faults(photos, files.check_readable, name)
            for name, photos in found.items()
        }
    found = splitting.split_off_scenes(found, lambda path: path.stem, config)
    return {
        name: _source(photos, config.motion, 1 if name == "train" else config.motion.draws)
        for name, photos in found.items()
    }


def _check_settings(motion: Any) -> None:
    size, pieces = tuple(motion.size), tuple(motion.pieces)
    if len(size) != 2 or any(type(side) is not int or side < 16 for side in size):
        raise ValueError(f"data.motion.size must be (h, w) of at least 16 pixels, not {size}")
    is_range = len(pieces) == 2 and all(type(count) is int for count in pieces)
    if not is_range or not 0 <= pieces[0] <= pieces[1] <= _MOST_PIECES:
        raise ValueError(
            f"data.motion.pieces must be (fewest, most) from 0 to {_MOST_PIECES}, not {pieces}"
        )
    # More, and the field of displacements would fold over.
    bounds = {
        "shift": (0, min(size)), "rotation": (0, 180), "zoom": (1, 4), "warp": (0, min(size) / 16),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        if not low <= motion[name] <= high:
            raise ValueError(
                f"data.motion.{name} must lie in [{low}, {high:g}] for frames of "
                f"{size[0]} x {size[1]} pixels, not {motion[name]}"
            )
    if motion.draws < 1:
        raise ValueError(f"data.motion.draws must be at least 1, not {motion.draws}")


def _source(photos: Sequence[Path], motion: Any, draws: int) -> IndexedSource:
    rows = [path for path in photos for _ in range(draws)]
    paths = [str(path) for path in photos]
    margin = math.ceil(motion.shift + motion.warp)

    def load(example: Example) -> Example:
        fixed = fold_in(tf.constant([_EVAL_SEED, 0], tf.int32), example["index"])
        seed = fold_in(example.get("seed", fixed), -1)  # the ops of preprocessing fold in 0, 1, ...
        layers = draw_layers(fold_in(seed, 0), motion)
        other = tf.random.stateless_uniform((), fold_in(seed, 1), 0, len(paths), tf.int32)
        chosen = [example["photo"], tf.constant(paths)[other]][: motion.pieces[1] + 1]
        photos = [images.decode(tf.io.read_file(path)) for path in chosen]
        size = tuple(side + 2 * margin for side in motion.size)
        pictures = [
            _cut_out(photos[i % len(photos)], size, fold_in(seed, 2 + i))
            for i in range(motion.pieces[1] + 1)
        ]
        return render(tf.stack(pictures), layers)

    return IndexedSource(
        {"photo": np.array([str(path) for path in rows])},
        truths=("image2", "flow", "valid", "occluded"),
        loader=load,
        explainer=functools.partial(_explain, photos),
        names=tuple(path.name for path in rows),
        loads_alike=False,
        decodes=True,
    )


def _explain(photos: Sequence[Path], message: str) -> str:
    faults = list(files.find_faults(photos, files.check_readable).values())
    if faults:
        return (
            f"{faults[0]}. Remove it, or leave such photos out with --config.data.skip_corrupt=True"
        )
    return message


def _cut_out(photo: tf.Tensor, size: tuple[int, int], seed: tf.Tensor) -> tf.Tensor:
    """A random part of a photo, as the picture of a layer.

    Args:
        photo: (h, w, 3) uint8.
        size: height and width in pixels of a frame.
        seed: (2,) int32.

    Returns:
        (2 height, 2 width, 3) float32 from 0 to 255. Of a large photo, up to 2 pixels become one of
        the frame; of one that is smaller than the layer, as large a part as there is is enlarged.
    """
    whole = tf.cast(tf.shape(photo)[:2], tf.float32)
    sides = tf.constant(size, tf.float32)
    most = tf.minimum(tf.reduce_min(whole / sides), _MOST_SHRUNK)
    least = tf.minimum(most, 1.0)
    share = tf.random.stateless_uniform((), fold_in(seed, 0))
    extent = tf.maximum(tf.floor(sides * least * (most / least) ** share), 1.0)
    begin = tf.floor(tf.random.stateless_uniform((2,), fold_in(seed, 1)) * (whole - extent + 1))
    begin = tf.minimum(begin, whole - extent)  # where a product is rounded up
    part = images.crop(photo, tf.cast(tf.concat([begin, extent], axis=0), tf.int32))
    # First what a frame's pixels cannot show is taken out, since it would flicker.
    picture = antialiasing.resize(part, size, "bicubic")
    finer = (size[0] * _FINER, size[1] * _FINER)
    return tf.clip_by_value(tf.image.resize(picture, finer, "bicubic"), 0.0, 255.0)


def draw_layers(seed: tf.Tensor, motion: Any) -> Layers:
    """Draws outlines and motions.

    Args:
        seed: (2,) int32.
        motion: `config.data.motion`: `size` (h, w) of the frames; `shift` in pixels, the length of
            the longest; `rotation` in degrees, to either side; `zoom`, the largest factor, of which
            the inverse is the smallest; `warp`, the most pixels along each axis of d; `pieces`, the
            fewest and the most.

    Returns:
        Layers, of which there are one more than the most pieces.
    """
    height, width = motion.size
    count = motion.pieces[1] + 1

    def draw(number: int, shape: tuple[int, ...], low: float, high: float) -> tf.Tensor:
        return tf.random.stateless_uniform((count, *shape), fold_in(seed, number), low, high)

    angle = draw(0, (), -1.0, 1.0) * math.radians(motion.rotation)
    zoom = tf.exp(draw(1, (), -1.0, 1.0) * math.log(motion.zoom))
    cos, sin = zoom * tf.cos(angle), zoom * tf.sin(angle)
    direction, length = draw(2, (), 0.0, 2 * math.pi), draw(3, (), 0.0, motion.shift)
    shift = tf.stack([length * tf.cos(direction), length * tf.sin(direction)], axis=-1)
    cells = draw(4, (_WARP_CELLS, _WARP_CELLS, 2), -motion.warp, motion.warp)
    middle = tf.constant([[(width - 1) / 2, (height - 1) / 2]], tf.float32)
    centre = draw(5, (2,), 0.0, 1.0) * [width - 1.0, height - 1.0]
    radius = draw(6, (), *_RADII) * min(motion.size)
    lowest, highest = motion.pieces
    pieces = tf.random.stateless_uniform((), fold_in(seed, 7), lowest, highest + 1, tf.int32)
    is_there = tf.range(count) <= pieces
    everywhere = tf.constant([2.0 * (height + width) * motion.zoom + 10 * motion.shift])
    heights = draw(8, (len(_WAVES),), 0.0, 0.5) / tf.constant(_WAVES)
    return Layers(
        warp=tf.image.resize(cells, (height, width), "bicubic"),
        turn=tf.reshape(tf.stack([cos, -sin, sin, cos], axis=-1), (count, 2, 2)),
        centre=tf.concat([middle, centre[1:]], axis=0),
        shift=shift,
        radius=tf.concat([everywhere, tf.where(is_there, radius, -1.0)[1:]], axis=0),
        waves=tf.stack([heights, draw(9, (len(_WAVES),), 0.0, 2 * math.pi)], axis=-1)
        * tf.cast(tf.range(count) > 0, tf.float32)[:, None, None],
    )


def render(pictures: tf.Tensor, layers: Layers) -> Example:
    """Draws both frames, and says what has become of each pixel of the first.

    Args:
        pictures: (k, 2 (h + 2 margin), 2 (w + 2 margin), 3) float32 from 0 to 255, what the layers
            show; mirrored beyond that.
        layers: k of them.

    Returns:
        The example, see `splits`.
    """
    height, width = layers.warp.shape[1:3]
    xy = tf.meshgrid(tf.range(width, dtype=tf.float32), tf.range(height, dtype=tf.float32))
    grid = tf.stack(xy, axis=-1)
    first, second = grid + layers.warp, layers.back(grid)
    coverage = layers.coverage(first)
    number = tf.range(tf.shape(pictures)[0])[:, None, None]
    visible = tf.reduce_max(tf.where(coverage >= 0.5, number, 0), axis=0)
    ends = layers.forward(first)
    end = tf.reduce_sum(tf.where((number == visible)[..., None], ends, 0.0), axis=0)
    hides = (layers.coverage(layers.back(end)) >= 0.5) & (number > visible)
    is_outside = tf.reduce_any((end < 0) | (end > [width - 1.0, height - 1.0]), axis=-1)
    show = functools.partial(_show, pictures, (height, width))
    return {
        "image": show(first, coverage),
        "image2": show(second, layers.coverage(second)),
        "flow": end - grid,
        "valid": tf.ones((height, width)),
        "occluded": tf.cast(tf.reduce_any(hides, axis=0) | is_outside, tf.float32),
    }


def _show(
    pictures: tf.Tensor, size: tuple[int, int], points: tf.Tensor, coverage: tf.Tensor
) -> tf.Tensor:
    """A frame, (h, w, 3) uint8, whose pixels show the points (k, h, w, 2) of the layers."""
    sides = tf.shape(pictures)[1:3]
    margin = (tf.cast(sides, tf.float32) / _FINER - tf.constant(size, tf.float32)) / 2
    at = (points[..., ::-1] + margin + 0.5) * _FINER - 0.5  # (y, x)
    last = tf.cast(sides - 1, tf.float32)
    at = tf.math.floormod(at, 2 * last)
    at = tf.minimum(at, 2 * last - at)  # mirrored
    low = tf.floor(at)
    layers = _sample(pictures, tf.cast(low, tf.int32), at - low)
    frame = tf.zeros((*size, 3))
    for colour, part in zip(tf.unstack(layers), tf.unstack(coverage[..., None])):
        frame += (colour - frame) * part
    return tf.cast(tf.round(tf.clip_by_value(frame, 0.0, 255.0)), tf.uint8)


def _sample(pictures: tf.Tensor, low: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Bilinear between pixel low and the next, (k, h, w, 2) as (y, x): (k, h, w, 3)."""
    count, height, width = tf.unstack(tf.shape(pictures)[:3])
    below = tf.minimum(low + 1, [height - 1, width - 1])
    (top, left), (bottom, right) = tf.unstack(low, axis=-1), tf.unstack(below, axis=-1)
    pixels = tf.reshape(pictures, (-1, 3))  # quicker to gather from
    layer = tf.range(count)[:, None, None] * height

    def row(y: tf.Tensor) -> tf.Tensor:
        first, second = (tf.gather(pixels, (layer + y) * width + x) for x in (left, right))
        return first + (second - first) * share[..., 1:]

    first, second = row(top), row(bottom)
    return first + (second - first) * share[..., :1]
