"""vit_jax: vision transformers in JAX/Flax, from pretraining to use."""

__version__ = "0.1.0"
