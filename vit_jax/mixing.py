"""Mixup and cutmix, on the device."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]


def mix(key: jax.Array, batch: Batch, mixup_alpha: float, cutmix_alpha: float) -> dict:
    """Mixes each example with its neighbour in the batch.

    Args:
        key: random key.
        batch: `image` (b, h, w, c) and `label` (b, classes) float32.
        mixup_alpha: of mixup's Beta(alpha, alpha) distribution; 0 is off.
        cutmix_alpha: the same for cutmix; with both on, each batch takes either, evenly.

    Returns:
        The batch with mixed images and labels.
    """
    choose_key, mix_key = jax.random.split(key)
    if mixup_alpha and cutmix_alpha:
        return jax.lax.cond(
            jax.random.bernoulli(choose_key),
            lambda: mixup(mix_key, batch, mixup_alpha),
            lambda: cutmix(mix_key, batch, cutmix_alpha),
        )
    if mixup_alpha:
        return mixup(mix_key, batch, mixup_alpha)
    if cutmix_alpha:
        return cutmix(mix_key, batch, cutmix_alpha)
    return dict(batch)


def mixup(key: jax.Array, batch: Batch, alpha: float) -> dict:
    """Blends images and labels (Zhang et al., "mixup", ICLR 2018); one share per batch."""
    share = jax.random.beta(key, alpha, alpha)
    mixed = {k: share * batch[k] + (1 - share) * _neighbour(batch[k]) for k in ("image", "label")}
    return {**batch, **mixed}


def cutmix(key: jax.Array, batch: Batch, alpha: float) -> dict:
    """Pastes a rectangle (Yun et al., "CutMix", ICCV 2019); one rectangle per batch.

    The labels are mixed by the rectangle's true area, after it was cut at the border.
    """
    share_key, y_key, x_key = jax.random.split(key, 3)
    images = batch["image"]
    h, w = images.shape[1:3]
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
    rows = _interval(jax.random.uniform(y_key) * h, side * h, h)
    columns = _interval(jax.random.uniform(x_key) * w, side * w, w)
    pasted = rows[:, None] & columns[None, :]
    share = 1 - jnp.mean(pasted.astype(jnp.float32))
    labels = share * batch["label"] + (1 - share) * _neighbour(batch["label"])
    images = jnp.where(pasted[None, :, :, None], _neighbour(images), images)
    return {**batch, "image": images, "label": labels}


def _interval(centre: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Returns (size,) bool, true for the pixels of an interval."""
    return jnp.abs(jnp.arange(size) + 0.5 - centre) < length / 2


def _neighbour(x: jax.Array) -> jax.Array:
    return jnp.roll(x, 1, axis=0)
