"""Mixup and cutmix, on the device."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]
Box = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # top, bottom, left, right; () int32


def mix(key: jax.Array, batch: Batch, mixup_alpha: float, cutmix_alpha: float) -> dict:
    """Mixes each example with another of the batch.

    Mixup alone is big_vision's: the other is the one before, and has the smaller share. Cutmix, or
    both, is timm's: the other is the one as far from the batch's other end.

    Args:
        key: random key.
        batch: `image` (b, h, w, c) and `label` (b, classes) float32.
        mixup_alpha: of mixup's Beta(alpha, alpha) distribution; 0 is off.
        cutmix_alpha: the same for cutmix; with both on, each batch takes either, evenly.

    Returns:
        The batch with mixed images and labels.
    """
    choose_key, share_key, box_key = jax.random.split(key, 3)

    def cut() -> dict:
        share = jax.random.beta(share_key, cutmix_alpha, cutmix_alpha)
        return cutmix(batch, draw_box(box_key, share, batch["image"].shape[1:3]))

    if not cutmix_alpha and not mixup_alpha:
        return dict(batch)
    if not mixup_alpha:
        return cut()
    share = jax.random.beta(share_key, mixup_alpha, mixup_alpha)
    if not cutmix_alpha:
        return mixup(batch, jnp.maximum(share, 1 - share), one_before)
    return jax.lax.cond(
        jax.random.bernoulli(choose_key), lambda: mixup(batch, share, opposite), cut
    )


def mixup(batch: Batch, share: jax.Array | float, other: Callable[[jax.Array], jax.Array]) -> dict:
    """Blends images and labels (Zhang et al., "mixup", ICLR 2018).

    Args:
        batch: see `mix`.
        share: of each example, in [0, 1]; the rest is the other's.
        other: from the batch to the other examples, `one_before` or `opposite`.
    """
    mixed = {k: share * batch[k] + (1 - share) * other(batch[k]) for k in ("image", "label")}
    return {**batch, **mixed}


def cutmix(batch: Batch, box: Box) -> dict:
    """Pastes a rectangle of the opposite images (Yun et al., "CutMix", ICCV 2019).

    The labels are mixed by the rectangle's area.
    """
    top, bottom, left, right = box
    images, labels = batch["image"], batch["label"]
    h, w = images.shape[1:3]
    rows, columns = jnp.arange(h), jnp.arange(w)
    pasted = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    share = 1 - (bottom - top) * (right - left) / (h * w)
    return {
        **batch,
        "image": jnp.where(pasted[None, :, :, None], opposite(images), images),
        "label": share * labels + (1 - share) * opposite(labels),
    }


def draw_box(key: jax.Array, share: jax.Array, size: tuple[int, ...]) -> Box:
    """A rectangle about a random pixel, cut at the border, of 1 - share of (h, w) before that."""
    keys = jax.random.split(key)
    centre = tuple(jax.random.randint(k, (), 0, side) for k, side in zip(keys, size))
    return box_about(centre, share, size)


def box_about(
    centre: tuple[jax.Array, ...], share: jax.Array | float, size: tuple[int, ...]
) -> Box:
    """That of `draw_box`, whose sides are those of (h, w) times sqrt(1 - share), rounded down."""

    def ends(middle: jax.Array, whole: int) -> tuple[jax.Array, jax.Array]:
        side = jnp.floor(whole * jnp.sqrt(1 - share)).astype(jnp.int32)
        first, last = middle - side // 2, middle + (side + 1) // 2
        return jnp.clip(first, 0, whole), jnp.clip(last, 0, whole)

    return (*ends(centre[0], size[0]), *ends(centre[1], size[1]))


def one_before(x: jax.Array) -> jax.Array:
    """The batch with each example in the place of the next."""
    return jnp.roll(x, 1, axis=0)


def opposite(x: jax.Array) -> jax.Array:
    """The batch in reverse order."""
    return x[::-1]
