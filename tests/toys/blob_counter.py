"""A model from outside of the package: an image in, a number out."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models import register
from vit_jax.models.base import Model


class BlobCounter(Model):
    features: int = 8
    dtype: Any = jnp.float32

    task = "count"
    any_size = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Conv(self.features, (3, 3), dtype=self.dtype, name="conv")(images))
        return nn.Dense(1, name="head")(x.mean(axis=(1, 2)))[:, 0]


register(BlobCounter, {"BlobCounter": {}})
