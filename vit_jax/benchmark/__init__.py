"""How fast this code is beside others that compute the same; see `python -m vit_jax.benchmark`."""
