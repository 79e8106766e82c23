"""A plugin: pairs of frames that move as a whole, and a small model of optical flow.

Frames to train on are of one size, others of two. One pair to validate on has no valid pixel.
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.cpu_tf import tf
from input_pipeline.sources import Kind, register_kind
from input_pipeline.sources.base import IndexedSource
from vit_jax.models import register
from vit_jax.models.base import Model

SIZE = (16, 24)
SIZES = ((16, 24), (12, 20), (16, 24), (12, 20))  # to validate on
TRUTHS = ("image2", "flow", "valid", "occluded")


class Follower(Model):
    """Guesses a flow from each pixel's surroundings, and halves what is left with each guess."""

    iterations: int = 3
    features: int = 8
    dtype: Any = jnp.float32

    task = "flow"
    any_size = True

    def inputs(self, image_size: tuple[int, int]) -> tuple[jax.ShapeDtypeStruct, ...]:
        return (jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32),) * 2

    @nn.compact
    def __call__(self, image: jax.Array, image2: jax.Array, train: bool = False) -> jax.Array:
        frames = jnp.concatenate([image, image2], axis=-1)
        hidden = nn.relu(nn.Conv(self.features, (3, 3), name="conv")(frames))
        flow = nn.Conv(2, (1, 1), name="flow")(hidden)
        guesses = jnp.stack([flow * (1 - 2.0**-i) for i in range(1, self.iterations + 1)])
        return guesses if train else guesses[-1]


def columns(count: int, seed: int, lacks: int = -1) -> dict[str, np.ndarray]:
    """Pairs of random frames; the second has moved by up to 4 pixels, mostly to the right."""
    random = np.random.default_rng(seed)
    flows = np.stack([random.integers(1, 5, count), random.integers(-2, 3, count)], axis=-1)
    large = random.integers(0, 256, (count, SIZE[0] + 8, SIZE[1] + 8, 3), np.uint8)
    h, w = SIZE
    first = large[:, 4 : 4 + h, 4 : 4 + w]
    second = [x[4 - v : 4 - v + h, 4 - u : 4 - u + w] for x, (u, v) in zip(large, flows)]
    dense = np.broadcast_to(flows[:, None, None], (count, h, w, 2)).astype(np.float32)
    across = np.arange(w) + flows[:, None, None, 0]
    occluded = np.broadcast_to(across >= w, (count, h, w)).astype(np.float32)
    valid = np.ones((count, h, w), np.float32)
    valid[:, :2] = 0
    dense = np.where(valid[..., None] > 0, dense, np.nan)
    if lacks >= 0:
        valid[lacks] = 0
    return dict(image=first, image2=np.stack(second), flow=dense, valid=valid, occluded=occluded)


def find_splits(config: Any) -> dict[str, IndexedSource]:
    """A folder called "seen" does not say what is occluded."""
    truths = TRUTHS[:3] if Path(config.source).name == "seen" else TRUTHS

    def cut(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        size = tf.constant(SIZES)[row["index"]]
        return {**row, **{key: row[key][: size[0], : size[1]] for key in ("image", *TRUTHS)}}

    count = len(SIZES)
    others = IndexedSource(
        columns(count, 1, lacks=1), truths=truths, names=tuple(f"pair {i}" for i in range(count)),
        loader=cut, image_sizes=lambda: np.array(SIZES),
    )  # fmt: skip
    return {"train": IndexedSource(columns(8, 0), truths=truths), "val": others}


register(Follower, {"Follower": {}})
register_kind("moved_frames", Kind(find_splits, TRUTHS))
