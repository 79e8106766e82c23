"""What is attended to within windows, laid out over the map that they are cut from."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.ops.windows import window_weights

_PADDING = -1


class WindowAxis(NamedTuple):
    """How windows lie along the rows of a map, or along its columns.

    Attributes:
        window: side of a window.
        shown: for each row of the windows one below the other, which of the map's it shows; -1
            where it is padding. A row that was mirrored at the border shows the one it comes from.
        place: for each row of the map, where it is itself among those.
    """

    window: int
    shown: tuple[int, ...]
    place: tuple[int, ...]

    def mirrored_from(self, side: int) -> "WindowAxis":
        """The same windows over the first rows, which those from `side` on mirror."""
        shown = (2 * (side - 1) - i if i >= side else i for i in self.shown)
        return WindowAxis(self.window, tuple(shown), self.place[:side])


def rolled_axis(side: int, window: int, shift: int, pads_first: bool = False) -> WindowAxis:
    """Windows along a side that is rolled back by `shift`, and padded at its end to whole windows.

    Args:
        side: of the map.
        window: side of the windows.
        shift: rows or columns by which it is rolled up or to the left.
        pads_first: whether the padding is rolled along.
    """
    whole = side + -side % window
    period = whole if pads_first else side
    rolled = [(i + shift) % period if i < period else _PADDING for i in range(whole)]
    place = tuple((i - shift) % period for i in range(side))
    return WindowAxis(window, tuple(i if i < side else _PADDING for i in rolled), place)


def mirrored_axis(side: int, window: int, begin: int) -> WindowAxis:
    """Windows along a side that begin `begin` before it, mirrored at both of its borders."""
    whole = begin + side + -(begin + side) % window
    mirrored = (abs(i) for i in range(-begin, whole - begin))
    axis = WindowAxis(window, tuple(mirrored), tuple(range(begin, begin + side)))
    return axis.mirrored_from(side)


@flax.struct.dataclass
class WindowMaps:
    """Attention weights of a layer with windows.

    Attributes:
        weights: (b, windows, heads, n, n) float32, query, then key; windows and the n pixels of
            each in row-major order, as they are after a shift. Rows sum to 1. What a shift has
            brought into a window has weight 0, padding that the model attends to has its own.
        vertical: where the rows of the windows come from.
        horizontal: where their columns do.
    """

    weights: jax.Array
    vertical: WindowAxis = flax.struct.field(pytree_node=False)
    horizontal: WindowAxis = flax.struct.field(pytree_node=False)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the map."""
        return len(self.vertical.place), len(self.horizontal.place)

    def at(self, row: int, column: int) -> jax.Array:
        """What one pixel of the map attends to.

        Args:
            row: of the pixel that asks, from 0 on.
            column: likewise.

        Returns:
            (b, heads, h, w) weights over the map. They sum to 1, less what goes to padding; what
            goes to a mirrored pixel counts for the one that it mirrors.

        Raises:
            ValueError: if there is no such pixel.
        """
        h, w = self.size
        if not (0 <= row < h and 0 <= column < w):
            raise ValueError(
                f"there is no pixel at row {row}, column {column} of a map of {h} x {w}: rows are "
                f"0 to {h - 1}, columns 0 to {w - 1}"
            )
        return self.draw(jnp.zeros((len(self.weights), h, w)).at[:, row, column].set(1))

    def received(self) -> jax.Array:
        """How much each pixel is attended to by all together.

        Returns:
            (b, heads, h, w): sums of the weights over the map's queries; their mean is 1, less what
            goes to padding.
        """
        return self.draw(jnp.ones((len(self.weights), *self.size)))

    def draw(self, queries: jax.Array) -> jax.Array:
        """What several pixels attend to, by the weight that each of them has.

        Args:
            queries: (b, h, w) weights of those who ask.

        Returns:
            (b, heads, h, w) weights of what they attend to: a product of a vector with the matrix
            of attention, which is never made.
        """
        wh, ww = self.vertical.window, self.horizontal.window
        height, width = len(self.vertical.shown), len(self.horizontal.shown)
        b, heads = self.weights.shape[0], self.weights.shape[2]
        rows, columns = np.array(self.vertical.place)[:, None], np.array(self.horizontal.place)
        asking = jnp.zeros((b, height, width)).at[:, rows, columns].set(queries)
        asking = asking.reshape(b, height // wh, wh, width // ww, ww).swapaxes(2, 3)
        drawn = jnp.einsum("bwq,bwhqk->bhwk", asking.reshape(b, -1, wh * ww), self.weights)
        drawn = drawn.reshape(b, heads, height // wh, width // ww, wh, ww).swapaxes(3, 4)
        drawn = drawn.reshape(b, heads, height, width)
        h, w = self.size
        rows, columns = (
            np.where(np.array(axis.shown) == _PADDING, side, axis.shown)
            for axis, side in ((self.vertical, h), (self.horizontal, w))
        )
        nothing = jnp.zeros((b, heads, h, w))
        return nothing.at[:, :, rows[:, None], columns].add(drawn, mode="drop")

    def over_picture(self, size: tuple[int, int]) -> "WindowMaps":
        """The same over the first (h, w) pixels, whose mirror image the others are."""
        axes = (axis.mirrored_from(i) for axis, i in zip((self.vertical, self.horizontal), size))
        return WindowMaps(self.weights, *axes)


def rolled_window_maps(
    qkv: jax.Array,
    table: jax.Array,
    size: tuple[int, int],
    window: tuple[int, int],
    shift: tuple[int, int],
    pads_first: bool = False,
) -> WindowMaps:
    """The weights of `window_attention`, of a map that was rolled by the shift and padded.

    Args:
        qkv: (b, h, w, 3 heads c), see `window_attention`.
        table: likewise.
        size: (h, w) of the map without padding.
        window: (wh, ww).
        shift: rows and columns by which the map was rolled up and to the left.
        pads_first: whether the padding was rolled along.
    """
    axes = (rolled_axis(*sides, pads_first) for sides in zip(size, window, shift))
    return WindowMaps(window_weights(qkv, table, window, shift), *axes)


def window_rollout(maps: Sequence[WindowMaps], queries: jax.Array | None = None) -> jax.Array:
    """Follows attention through layers with windows, down to the first map.

    Each layer passes on the mean of its heads and, as much again, its shortcut (Abnar & Zuidema,
    ACL 2020). Where the next map is half as large, each of its pixels draws on the up to 2 x 2 that
    were merged, alike. No matrix of all pixels by all is made. What lies between layers besides,
    such as SwinIR's convolutions, is passed by.

    Args:
        maps: of the layers, the first one first.
        queries: (b, h, w) weights of the pixels of the last map whose sources are wanted; None
            takes all alike, as a head does that averages them. For one pixel it is 1 there.

    Returns:
        (b, h, w) over the first map; the sum is that of the queries, less what goes to padding.

    Raises:
        ValueError: if a map is larger than one before it.
    """
    if queries is None:
        h, w = maps[-1].size
        queries = jnp.full((len(maps[-1].weights), h, w), 1 / (h * w))
    drawn = queries
    for layer in reversed(maps):
        drawn = unmerge(drawn, layer.size)
        drawn = (drawn + jnp.mean(layer.draw(drawn), axis=1)) / 2
    return drawn


def unmerge(weights: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Shares the weight of each pixel among those that it was merged from, 2 x 2 at a time.

    At the end of an odd side they are 2 or 1, for what pads them is no part of the map.

    Args:
        weights: (..., height, width).
        size: (h, w) of the map whose pixels were merged, once or repeatedly, or not at all.

    Returns:
        (..., h, w), with the same sum.

    Raises:
        ValueError: if no merging leads from one size to the other.
    """
    sizes = [size]
    while sizes[-1] != weights.shape[-2:]:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        if sizes[-1] == sizes[-2]:
            raise ValueError(
                f"a map of {size[0]} x {size[1]} does not become one of {weights.shape[-2]} x "
                f"{weights.shape[-1]} by merging 2 x 2 pixels: attention is followed down from a "
                "smaller map to larger ones alone"
            )
    for h, w in reversed(sizes[:-1]):
        rows, columns = np.full(-(-h // 2), 2), np.full(-(-w // 2), 2)
        rows[-1], columns[-1] = 2 - h % 2, 2 - w % 2
        share = weights / (rows[:, None] * columns)
        weights = share.repeat(2, axis=-2).repeat(2, axis=-1)[..., :h, :w]
    return weights
