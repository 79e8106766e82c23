"""A ViT of flax's own modules, as google-research/vision_transformer computes it.

For its time to be compared with; it takes our parameters.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Block(nn.Module):
    """x + attention, then x + MLP."""

    num_heads: int
    mlp_dim: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""
        y = nn.LayerNorm(name="LayerNorm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(
            self.num_heads, deterministic=True, name="MultiHeadDotProductAttention_1"
        )(y, y)
        y = nn.LayerNorm(name="LayerNorm_2")(x)
        return x + Mlp(self.mlp_dim, name="MlpBlock_3")(y)


class Mlp(nn.Module):
    """Two dense layers."""

    mlp_dim: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""
        y = nn.gelu(nn.Dense(self.mlp_dim, name="Dense_0")(x))
        return nn.Dense(x.shape[-1], name="Dense_1")(y)


class Encoder(nn.Module):
    """Position embeddings and blocks."""

    num_layers: int
    num_heads: int
    mlp_dim: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""
        x = Positions(name="posembed_input")(x)
        for i in range(self.num_layers):
            x = Block(self.num_heads, self.mlp_dim, name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class Positions(nn.Module):
    """Adds what was learned for each place."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, n, d) -> (b, n, d)."""
        shape = (1, *x.shape[1:])
        return x + self.param("pos_embedding", nn.initializers.normal(0.02), shape)


class VisionTransformer(nn.Module):
    """A ViT with a class token; the fields are those of ours."""

    num_classes: int
    patch_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_dim: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """(b, h, w, 3) -> (b, num_classes) logits."""
        d, p = self.hidden_size, (self.patch_size, self.patch_size)
        x = nn.Conv(d, p, strides=p, padding="VALID", name="embedding")(images)
        b = x.shape[0]
        x = x.reshape(b, -1, d)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, d))
        x = jnp.concatenate([jnp.tile(cls, (b, 1, 1)), x], axis=1)
        x = Encoder(self.num_layers, self.num_heads, self.mlp_dim, name="Transformer")(x)
        return nn.Dense(self.num_classes, name="head")(x[:, 0])
