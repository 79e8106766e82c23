"""How a model of optical flow looks at frames: whole, or by tiles whose flows are blended.

Source: FlowFormer's `evaluate_FlowFormer_tile.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import sliding
from vit_jax.models.base import Model

OVERLAP = 20  # pixels that neighbouring tiles have in common, or more
SIGMA = 0.05  # of the blending weights, where a tile's sides are 1
_BLACK = -1.0  # of frames in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Tiles that cover a frame, and how much each says of a pixel.

    Attributes:
        size: (h, w) of the frame, at least that of a tile.
        tile: (h, w) of a tile.
        overlap: pixels that neighbours have in common, or more.
        sigma: deviation of the weights, a Gaussian of the distance to the tile's middle in sides of
            the tile.

    Raises:
        ValueError: for tiles that do not reach beyond what they have in common.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    overlap: int = OVERLAP
    sigma: float = SIGMA

    def __post_init__(self) -> None:
        if min(self.tile) <= self.overlap:
            raise ValueError(
                f"tiles of {self.tile[0]} x {self.tile[1]} pixels are too small, since neighbours "
                f"have {self.overlap} in common: take larger ones, such as (432, 960)"
            )

    @property
    def starts(self) -> tuple[list[int], list[int]]:
        """Where tiles begin, along the height and along the width; none twice."""
        rows, columns = (
            sliding.window_starts(side, tile, tile - self.overlap)
            for side, tile in zip(self.size, self.tile)
        )
        return rows, columns

    @property
    def corners(self) -> np.ndarray:
        """(n, 2) int32 tops and lefts, row by row."""
        rows, columns = self.starts
        return np.array([(top, left) for top in rows for left in columns], np.int32)

    @property
    def weights(self) -> np.ndarray:
        """(n, tile_h, tile_w) float32, in the order of the corners; they sum to 1 at each pixel.

        The published weights are as small as 3e-43 in a tile's corner, which is less than hardware
        that flushes denormal numbers knows, and 0 by 0 where no other tile lies. These are divided
        by their sum as logarithms in float64.
        """
        rows, columns = self._factors
        return rows[:, :, None] * columns[:, None]

    @property
    def _factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Float32 whose products the weights are: (n, tile_h) of the rows, (n, tile_w) of columns.

        The tiles are all pairs of a top and a left, and a Gaussian is a product.
        """
        rows, columns = (self._shares(*sides) for sides in zip(self.starts, self.size, self.tile))
        count = len(columns)
        rows, columns = np.repeat(rows, count, axis=0), np.tile(columns, (len(rows), 1))
        return rows.astype(np.float32), columns.astype(np.float32)

    def _shares(self, starts: Sequence[int], side: int, tile: int) -> np.ndarray:
        """(tiles, tile) share that each tile along a side has in its own pixels."""
        distance = np.arange(tile) / tile - 0.5
        logarithm = -0.5 * np.square(distance / self.sigma)
        spread = np.full((len(starts), side), -np.inf)
        for row, start in zip(spread, starts):
            row[start : start + tile] = logarithm
        share = np.exp(spread - spread.max(axis=0))
        share /= share.sum(axis=0)
        return np.stack([row[start : start + tile] for row, start in zip(share, starts)])

    def blend(self, flow_at: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """The weighted mean of the tiles' flows, which are computed one after the other.

        Args:
            flow_at: from a tile's (2,) corner to its flow, (b, tile_h, tile_w, 2).

        Returns:
            (b, *size, 2) float32.
        """

        def add(total: jax.Array, tile: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
            corner, row, column = tile
            at = (0, corner[0], corner[1], 0)
            flow = flow_at(corner) * (row[:, None] * column)[..., None]
            before = jax.lax.dynamic_slice(total, at, flow.shape)
            return jax.lax.dynamic_update_slice(total, before + flow, at), None

        corners = jnp.asarray(self.corners)
        batch = jax.eval_shape(flow_at, corners[0]).shape[0]
        zeros = jnp.zeros((batch, *self.size, 2), jnp.float32)
        total, _ = jax.lax.scan(add, zeros, (corners, *map(jnp.asarray, self._factors)))
        return total


def pad_to_tile(image: jax.Array, tile: tuple[int, int]) -> jax.Array:
    """Adds black below and beside (b, h, w, 3) frames in [-1, 1] that are smaller than a tile."""
    below, beside = (max(least - side, 0) for least, side in zip(tile, image.shape[1:3]))
    margins = ((0, 0), (0, below), (0, beside), (0, 0))
    return jnp.pad(image, margins, constant_values=_BLACK)


def tile_in(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """(h, w) of the tiles that a run's settings say; None if it looks at the whole.

    Raises:
        ValueError: for another kind of value.
    """
    tile = tuple(settings.get("flow.tile", ()))
    if not tile:
        return None
    if len(tile) != 2 or not all(type(side) is int and side > 0 for side in tile):
        raise ValueError(
            f"flow.tile must be (height, width) in pixels, such as (432, 960), or (), not {tile}"
        )
    Tiling(tile, tile)  # or raises
    return tile


def iterated(model: Model, settings: Mapping[str, Any]) -> Model:
    """The model with as many iterations as a run's settings say."""
    count = settings.get("flow.iterations", 0)
    if count < 0:
        raise ValueError(f"flow.iterations must be at least 1, or 0 for the model's, not {count}")
    if not count:
        return model
    if not model.has_field("iterations"):
        raise ValueError(f"{type(model).__name__} has no iterations: set flow.iterations to 0")
    return model.clone(iterations=count)


def make_answer(
    model: Model, settings: Mapping[str, Any]
) -> Callable[[Any, Mapping[str, Any]], jax.Array]:
    """Makes what a model says to a batch of frames, see `Task.answer`: their (b, h, w, 2) flow.

    Frames that are smaller than a tile are padded with black, as the published script does, and
    cut to their size again.

    Raises:
        ValueError: for a setting that does not fit the model, or is out of its range.
    """
    tile, model = tile_in(settings), iterated(model, settings)

    def apply(variables: Any, *frames: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply(variables, *frames, train=False)).astype(jnp.float32)

    def answer(variables: Any, batch: Mapping[str, Any]) -> jax.Array:
        frames = (batch["image"], batch["image2"])
        if tile is None:
            return apply(variables, *frames)
        height, width = frames[0].shape[1:3]
        padded = [pad_to_tile(frame, tile) for frame in frames]
        tiling = Tiling((max(height, tile[0]), max(width, tile[1])), tile)

        def flow_at(corner: jax.Array) -> jax.Array:
            def cut(frame: jax.Array) -> jax.Array:
                at = (0, corner[0], corner[1], 0)
                return jax.lax.dynamic_slice(frame, at, (len(frame), *tile, frame.shape[-1]))

            return apply(variables, *map(cut, padded))

        if len(tiling.corners) == 1:
            return flow_at(jnp.zeros(2, jnp.int32))[:, :height, :width]
        return tiling.blend(flow_at)[:, :height, :width]

    return answer
