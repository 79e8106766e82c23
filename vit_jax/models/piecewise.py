"""Maps computed part by part: the same result, in the memory of a part."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Reach:
    """What a part needs to be computed as if it were the whole.

    Attributes:
        pixels: how far beyond itself a pixel of the result sees.
        align: what divides the places at which parts may begin, as windows do.
    """

    pixels: int
    align: int


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How an axis is cut into parts, which are all of one size.

    What is read of a part begins at a multiple of `align` and ends at the map's end or a multiple
    of it before, so that the last part lies in it as any other. Parts may overlap.

    Attributes:
        count: parts.
        written: pixels of each.
        read: pixels of each with what lies around it.
        step: from one to the next.
        margin: pixels that are read on either side.
        length: of the axis.
    """

    count: int
    written: int
    read: int
    step: int
    margin: int
    length: int

    def begins(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where part i is written, and where what is read of it begins."""
        written = jnp.minimum(i * self.step, self.length - self.written)
        return written, jnp.clip(written - self.margin, 0, self.length - self.read)


def _cut(length: int, side: int, reach: Reach) -> _Cut:
    margin = reach.pixels + -reach.pixels % reach.align
    count = -(-length // side)
    step = -(-length // count)
    step += -step % reach.align
    written = step + length % reach.align
    read = written + 2 * margin
    if read >= length:
        return _Cut(1, length, length, length, 0, length)
    return _Cut(-(-(length - written) // step) + 1, written, read, step, margin, length)


def compute(
    module: nn.Module,
    apply: Callable[..., jax.Array],
    maps: Sequence[jax.Array],
    like: jax.ShapeDtypeStruct,
    reach: Reach,
    side: int,
) -> jax.Array:
    """Computes a map from others, square by square.

    Args:
        module: whose submodules are applied.
        apply: from the module and a part of each of the maps to that of the result.
        maps: (b, h, w, c); sides are those of the result, or some times longer or shorter; if
            shorter by a factor, that divides `reach.align` and the sides of the result.
        like: shape and type of the result, (b, h, w, c).
        reach: of `apply`, in pixels of the result; what it makes of a part within that distance
            of where the part was cut off is thrown away.
        side: pixels of a part of the result, about; 0 for the whole at once.

    Returns:
        The same as of the maps as a whole, but for rounding.
    """
    height, width = like.shape[1:3]
    rows, columns = (_cut(n, side or n, reach) for n in (height, width))
    if rows.count * columns.count == 1:
        return apply(module, *maps)

    def piece(x: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        def scaled(pixels: Any) -> Any:
            return pixels * x.shape[1] // height

        begins = (0, scaled(top), scaled(left), 0)
        return jax.lax.dynamic_slice(
            x, begins, (x.shape[0], scaled(rows.read), scaled(columns.read), x.shape[3])
        )

    def add(module: nn.Module, whole: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        row, top = rows.begins(i // columns.count)
        column, left = columns.begins(i % columns.count)
        made = apply(module, *(piece(x, top, left) for x in maps))
        kept = (like.shape[0], rows.written, columns.written, like.shape[3])
        made = jax.lax.dynamic_slice(made, (0, row - top, column - left, 0), kept)
        return jax.lax.dynamic_update_slice(whole, made, (0, row, column, 0)), None

    scan = nn.scan(add, variable_broadcast="params", split_rngs={"params": False})
    count = rows.count * columns.count
    # All of it is overwritten. With zeros XLA would make the results of all calls at the start.
    whole = jnp.full(like.shape, maps[0][0, 0, 0, 0], like.dtype)
    whole, _ = scan(module, whole, jnp.arange(count))
    return whole
