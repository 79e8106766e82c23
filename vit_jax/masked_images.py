"""Masked autoencoders' losses, and images put together of what they predict.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022), and the published
code, whose variances are unbiased.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Batch = Mapping[str, Any]
Out = Mapping[str, jax.Array]  # of `models.mae.MaskedAutoencoder`

_EPSILON = 1e-6  # of variances


def normalized_loss(out: Out, batch: Batch) -> jax.Array:
    """The mean squared error of each image's masked patches, (b,).

    Pixels are normalised by their patch's mean and deviation.

    Args:
        out: `pixels` (b, n, p^2 * 3) and `mask` (b, n), 1 for what was masked.
        batch: `image` (b, h, w, 3).
    """
    patches = to_patches(batch["image"], out["pixels"])
    mean, deviation = _statistics(patches)
    return _masked_mean(out, (patches - mean) / deviation)


def pixel_loss(out: Out, batch: Batch) -> jax.Array:
    """The same of the pixels as they are."""
    return _masked_mean(out, to_patches(batch["image"], out["pixels"]))


LOSSES = {"normalized_pixels": normalized_loss, "pixels": pixel_loss}


def reconstruct(out: Out, images: jax.Array, loss: str) -> tuple[jax.Array, jax.Array]:
    """Puts images together of the patches that were seen, and of others.

    Args:
        out: of the model.
        images: (b, h, w, 3), as it saw them.
        loss: one of `LOSSES`, with which it was trained. Where pixels are normalised, mean and
            deviation of a patch are the image's: a model does not say them.

    Returns:
        Images of the masked patches' means over the image, and images of what was predicted in
        their place, both like `images`.
    """
    patches = to_patches(images, out["pixels"])
    mean, deviation = _statistics(patches)
    is_normalized = LOSSES[loss] is normalized_loss
    predicted = out["pixels"] * deviation + mean if is_normalized else out["pixels"]
    blank = jnp.broadcast_to(jnp.mean(images, axis=(1, 2, 3))[:, None, None], patches.shape)
    is_masked = out["mask"][..., None] > 0
    blanked, filled = (jnp.where(is_masked, new, patches) for new in (blank, predicted))
    return _to_images(blanked, images.shape), _to_images(filled, images.shape)


def to_patches(images: jax.Array, like: jax.Array) -> jax.Array:
    """(b, h, w, 3) -> (b, n, p^2 * 3) float32, of the same patches as other such pixels."""
    p = math.isqrt(like.shape[-1] // images.shape[-1])
    b, h, w, c = images.shape
    patches = images.astype(jnp.float32).reshape(b, h // p, p, w // p, p, c)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * p * c)


def _to_images(patches: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    b, h, w, c = shape
    p = math.isqrt(patches.shape[-1] // c)
    pixels = patches.reshape(b, h // p, w // p, p, p, c)
    return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def _statistics(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation of each patch, (b, n, 1)."""
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    variance = jnp.var(patches, axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + _EPSILON)


def _masked_mean(out: Out, targets: jax.Array) -> jax.Array:
    errors = jnp.mean(jnp.square(out["pixels"] - targets), axis=-1)
    return jnp.sum(errors * out["mask"], axis=1) / jnp.sum(out["mask"], axis=1)
