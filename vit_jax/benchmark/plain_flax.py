"""A ViT of flax's own modules, as google-research/vision_transformer computes it.

For its time to be compared with; it takes our parameters.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

PLAIN = "plain flax"


class Block(nn.Module):
    """x + attention, then x + MLP."""

    num_heads: int
    mlp_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""
        y = nn.LayerNorm(dtype=self.dtype, name="LayerNorm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(
            self.num_heads, deterministic=True, dtype=self.dtype,
            name="MultiHeadDotProductAttention_1",
        )(y, y)  # fmt: skip
        y = nn.LayerNorm(dtype=self.dtype, name="LayerNorm_2")(x)
        return x + Mlp(self.mlp_dim, self.dtype, name="MlpBlock_3")(y)


class Mlp(nn.Module):
    """Two dense layers."""

    mlp_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""
        y = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype, name="Dense_0")(x))
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="Dense_1")(y)


class Encoder(nn.Module):
    """Position embeddings and blocks."""

    num_layers: int
    num_heads: int
    mlp_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""
        x = Positions(name="posembed_input")(x)
        for i in range(self.num_layers):
            x = Block(self.num_heads, self.mlp_dim, self.dtype, name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(dtype=self.dtype, name="encoder_norm")(x)


class Positions(nn.Module):
    """Adds what was learned for each place."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""
        shape = (1, *x.shape[1:])
        table = self.param("pos_embedding", nn.initializers.normal(0.02), shape)
        return x + table.astype(x.dtype)


class VisionTransformer(nn.Module):
    """A ViT with a class token; the fields are those of ours."""

    num_classes: int
    patch_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """(b, h, w, 3) -> (b, num_classes) logits."""
        d, p = self.hidden_size, (self.patch_size, self.patch_size)
        x = nn.Conv(d, p, strides=p, padding="VALID", dtype=self.dtype, name="embedding")(images)
        b = x.shape[0]
        x = x.reshape(b, -1, d)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, d))
        x = jnp.concatenate([jnp.tile(cls.astype(x.dtype), (b, 1, 1)), x], axis=1)
        x = Encoder(
            self.num_layers, self.num_heads, self.mlp_dim, self.dtype, name="Transformer"
        )(x)  # fmt: skip
        return nn.Dense(self.num_classes, name="head")(x[:, 0].astype(jnp.float32))


def like(model: Any) -> Iterator[tuple[str, VisionTransformer]]:
    """Makes, if flax's own modules can, what computes the same as a model.

    Yields:
        `PLAIN` in float32, as google-research/vision_transformer does by default, and another in
        the model's compute type if it has another, as big_vision does.
    """
    if model.values_of(["classifier", "resnet_layers"]) != {
        "classifier": "token", "resnet_layers": None,
    }:  # fmt: skip
        return
    fields = VisionTransformer.__dataclass_fields__
    names = [name for name in fields if name not in ("parent", "name", "dtype")]
    plain = VisionTransformer(**model.values_of(names))
    yield PLAIN, plain
    if model.dtype != jnp.float32:
        yield f"{PLAIN}, {model.dtype.name}", plain.clone(dtype=model.dtype)
