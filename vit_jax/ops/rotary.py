"""Rotary positions of patches on a grid."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

ROTARIES = ("", "dinov3", "eva02")


@dataclasses.dataclass(frozen=True)
class Waves:
    """By what `rotate` turns queries and keys.

    Attributes:
        sin: (n, c) float32, of n tokens and the c channels of a head; of JAX if they are scaled.
        cos: the same.
        are_neighbours: whether two channels that are turned together stand side by side, or else
            half of the head apart.
    """

    sin: np.ndarray | jax.Array
    cos: np.ndarray | jax.Array
    are_neighbours: bool


def rotary_waves(
    kind: str,
    grid: tuple[int, int],
    head_size: int,
    before: int = 0,
    after: int = 0,
    side: int = 16,
    scale: jax.Array | None = None,
) -> Waves:
    """Sines and cosines of the places of patches; half of the channels turn by row, half by column.

    "dinov3": -1 and 1 are the borders of the grid along either axis, so that any grid will do, and
    periods go from 1 to 100. "eva02": places are those on a grid of `side`, whatever the grid,
    and periods are as for words.

    Source: Su et al., "RoFormer" (2021); Siméoni et al., "DINOv3" (2025), and Fang et al., "EVA-02"
    (2023), the published code of both.

    Args:
        kind: one of `ROTARIES`, but not "".
        grid: (h, w) of the patches.
        head_size: channels of a head; a multiple of 4.
        before: tokens before the patches, which are not turned, such as a class token.
        after: tokens behind them, which are not turned.
        side: of the grid that the weights were trained on; of "eva02".
        scale: by which all places are multiplied, a number; None for 1.

    Raises:
        ValueError: if head_size does not fit.
    """
    if head_size % 4:
        raise ValueError(
            f"rotary positions need heads of a multiple of 4 channels, not of {head_size}"
        )
    share = np.arange(head_size // 4, dtype=np.float32) / (head_size // 4)
    if kind == "dinov3":
        places = [(np.arange(length) + 0.5) / length * 2 - 1 for length in grid]
        frequencies = 2 * math.pi / 100.0**share
    else:
        places = [np.arange(length) / length * side for length in grid]
        frequencies = 10_000.0**-share
    of_rows, of_columns = (at[:, None] * frequencies for at in places)
    angles = np.concatenate(
        [np.repeat(of_rows, grid[1], axis=0), np.tile(of_columns, (grid[0], 1))], axis=1
    )
    angles = np.repeat(angles, 2, axis=1) if kind == "eva02" else np.tile(angles, (1, 2))
    angles = np.pad(angles, ((before, after), (0, 0)))
    if scale is not None:
        scaled = angles.astype(np.float32) * scale
        return Waves(jnp.sin(scaled), jnp.cos(scaled), are_neighbours=kind == "eva02")
    sin, cos = np.sin(angles).astype(np.float32), np.cos(angles).astype(np.float32)
    return Waves(sin, cos, are_neighbours=kind == "eva02")


def random_scale(key: jax.Array, largest: float) -> jax.Array:
    """A number between 1 / largest and largest, whose logarithm is uniform; float32."""
    bound = math.log(largest)
    return jnp.exp(jax.random.uniform(key, (), jnp.float32, -bound, bound))


def rotate(x: jax.Array, waves: Waves) -> jax.Array:
    """Turns pairs of channels.

    Args:
        x: (b, n, heads, c), queries or keys.
        waves: of its tokens.

    Returns:
        Of the shape and type of x; computed in float32.
    """
    wide = x.astype(jnp.float32)
    if waves.are_neighbours:
        pairs = wide.reshape(*x.shape[:-1], -1, 2)
        turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    else:
        first, second = jnp.split(wide, 2, axis=-1)
        turned = jnp.concatenate([-second, first], axis=-1)
    return (wide * waves.cos[:, None] + turned * waves.sin[:, None]).astype(x.dtype)
