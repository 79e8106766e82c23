"""What a segmenter says of pixels: its losses, and the counts that its figures are made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ops

IGNORED = 255  # the label of pixels that nothing is known of
AUXILIARY = 0.4  # the share of an auxiliary head's loss, as Zhao et al. (CVPR 2017) have it

Batch = Mapping[str, Any]
Out = Any  # (b, h, w, classes) logits, or a dict of them, see `logits_of`
_PixelLoss = Callable[[jax.Array, Batch], jax.Array]


def logits_of(out: Out) -> jax.Array:
    """The (b, h, w, classes) logits that say which class a pixel is of.

    Args:
        out: they themselves; or in training, of a model with an auxiliary head, a dict of "logits"
            and "auxiliary", each of a size of its own.
    """
    return out["logits"] if isinstance(out, Mapping) else out


def resized_logits(logits: jax.Array, size: Sequence[int]) -> jax.Array:
    """Gives (b, h, w, classes) logits another size, as float32."""
    if logits.ndim != 4:
        raise ValueError(
            f"a mask is compared with (b, h, w, classes) logits, and the model gives {logits.shape}"
        )
    height, width = size
    return ops.resize_bilinear(logits.astype(jnp.float32), (height, width))


# Losses. Each takes logits of any size, which are resized to the mask's.


def pixel_xent(out: Out, batch: Batch, auxiliary: float = AUXILIARY) -> jax.Array:
    """Softmax cross-entropy in nats, whose mean over a batch is that over its labelled pixels.

    An example's number is the sum over its pixels, times the examples of the batch by the labelled
    pixels of the batch. So the mean is PyTorch's `cross_entropy(ignore_index=255)`, in which an
    example counts by its labelled pixels. Of a batch in several parts (`accum_steps`), each is
    averaged over its own pixels, as data-parallel PyTorch does on each device; here, devices share
    one batch.

    Args:
        out: (b, h, w, classes) logits, or a dict of them, see `logits_of`.
        batch: `mask` (b, H, W) int32, 255 where nothing is known; rows of which `_mask` is 0 are
            padding.
        auxiliary: times the auxiliary head's loss, which is added if there is one.

    Returns:
        (b,) float32; 0 where no pixel is labelled.
    """
    return _with_auxiliary(_valid_mean, out, batch, auxiliary)


def pixel_xent_all(out: Out, batch: Batch, auxiliary: float = AUXILIARY) -> jax.Array:
    """Softmax cross-entropy in nats: the mean over all pixels, unlabelled ones counting 0.

    So mmsegmentation before 1.0 has it, with which Swin's UPerNets were trained.

    Args:
        out: (b, h, w, classes) logits, or a dict of them, see `logits_of`.
        batch: `mask` (b, H, W) int32, 255 where nothing is known.
        auxiliary: times the auxiliary head's loss, which is added if there is one.

    Returns:
        (b,) float32.
    """
    return _with_auxiliary(
        lambda logits, batch: jnp.mean(_xent(logits, batch["mask"]), axis=(1, 2)),
        out, batch, auxiliary,
    )  # fmt: skip


def dice(out: Out, batch: Batch, auxiliary: float = AUXILIARY) -> jax.Array:
    """1 - the soft Dice coefficient, a mean over the classes that occur in an example.

    Of a class with probabilities p and truth t, 0 or 1, of the labelled pixels, it is
    (2 sum(p t) + 1) / (sum(p) + sum(t) + 1).

    Source: Milletari et al., "V-Net" (3DV 2016), for several classes, without the squares of its
    denominator, and with 1 added to both sides, which keeps it from changing fast where a class has
    few pixels.

    Args:
        out: (b, h, w, classes) logits, or a dict of them, see `logits_of`.
        batch: `mask` (b, H, W) int32, 255 where nothing is known.
        auxiliary: times the auxiliary head's loss, which is added if there is one.

    Returns:
        (b,) float32 in [0, 1], and the auxiliary head's share; 0 where no pixel is labelled.
    """
    return _with_auxiliary(_dice, out, batch, auxiliary)


def _with_auxiliary(loss: _PixelLoss, out: Out, batch: Batch, share: float) -> jax.Array:
    total = loss(logits_of(out), batch)
    if isinstance(out, Mapping) and "auxiliary" in out:
        total += share * loss(out["auxiliary"], batch)
    return total


def _valid_mean(logits: jax.Array, batch: Batch) -> jax.Array:
    each = jnp.sum(_xent(logits, batch["mask"]), axis=(1, 2))
    pixels = jnp.sum(is_labelled(batch["mask"], logits.shape[-1]), axis=(1, 2), dtype=jnp.float32)
    real = batch.get("_mask", jnp.ones(len(each), jnp.float32))
    per_example = jnp.sum(pixels * real) / jnp.maximum(jnp.sum(real), 1)
    return each * real / jnp.maximum(per_example, 1e-6)


def _xent(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """(b, H, W) cross-entropies of the pixels of masks, 0 of unlabelled ones."""
    logits = resized_logits(logits, mask.shape[1:])
    truth = jnp.clip(mask, 0, logits.shape[-1] - 1)[..., None]
    right = jnp.take_along_axis(logits, truth, axis=-1)[..., 0]
    xent = jax.nn.logsumexp(logits, axis=-1) - right
    return jnp.where(is_labelled(mask, logits.shape[-1]), xent, 0)


def _dice(logits: jax.Array, batch: Batch) -> jax.Array:
    mask, classes = batch["mask"], logits.shape[-1]
    truth = jnp.where(is_labelled(mask, classes), mask, -1)[..., None] == jnp.arange(classes)
    p = jax.nn.softmax(resized_logits(logits, mask.shape[1:]), axis=-1)
    p = jnp.where(is_labelled(mask, classes)[..., None], p, 0)
    there = jnp.sum(truth, axis=(1, 2), dtype=jnp.float32)
    both = jnp.sum(jnp.where(truth, p, 0), axis=(1, 2))
    coefficient = (2 * both + 1) / (jnp.sum(p, axis=(1, 2)) + there + 1)
    occurs = there > 0
    missing = jnp.sum(jnp.where(occurs, 1 - coefficient, 0), axis=-1)
    return missing / jnp.maximum(jnp.sum(occurs, axis=-1), 1)


def is_labelled(mask: Any, classes: int) -> Any:
    """Where the numbers of a mask, of numpy or JAX, are of classes: not 255 nor beyond them."""
    return (mask != IGNORED) & (mask >= 0) & (mask < classes)


# Counts and figures.


def confusion(out: jax.Array, batch: Batch) -> jax.Array:
    """Counts the labelled pixels of each example, by true class and by the one of largest logit.

    Args:
        out: (b, h, w, classes) logits of any size, which are resized to the mask's.
        batch: `mask` (b, H, W) int32, 255 where nothing is known.

    Returns:
        (b, classes, classes) int32; the row is the truth.
    """
    mask, classes = batch["mask"], out.shape[-1]
    guess = jnp.argmax(resized_logits(out, mask.shape[1:]), axis=-1)
    example = jnp.arange(len(mask))[:, None, None]
    cell = (example * classes + jnp.clip(mask, 0, classes - 1)) * classes + guess
    count = is_labelled(mask, classes).astype(jnp.int32)
    cells = jnp.zeros(len(mask) * classes**2, jnp.int32).at[cell.ravel()].add(count.ravel())
    return cells.reshape(len(mask), classes, classes)


def count_pixels(out: jax.Array, batch: Batch) -> jax.Array:
    """Counts the labelled pixels of each class: all that the figures of a split are made of.

    The arguments are those of `confusion`, of which these are the diagonal and the sums.

    Returns:
        (b, 3, classes) int32: of a class those that are found, those taken for it, and those that
        are of it.
    """
    return counts_of(confusion(out, batch), jnp)


def counts_of(matrix: Any, module: Any = np) -> Any:
    """The counts of `count_pixels` in (..., classes, classes) matrices of `confusion`.

    Args:
        matrix: the matrices.
        module: whose arrays they are, numpy or jax.numpy.
    """
    found = module.diagonal(matrix, axis1=-2, axis2=-1)
    return module.stack([found, matrix.sum(axis=-2), matrix.sum(axis=-1)], axis=-2)


def class_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of each class.

    Args:
        counts: (..., 3, classes) of `count_pixels`, of images or summed over those of a split.

    Returns:
        (..., classes) float64, NaN where a class does not occur: `iou` and `dice` where it is
        neither there nor guessed, `accuracy` where it is not there.
    """
    found, guessed, there = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    with np.errstate(invalid="ignore"):
        return {
            "iou": found / (guessed + there - found),
            "accuracy": found / there,
            "dice": 2 * found / (guessed + there),
        }


def split_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Figures over all classes, as mmsegmentation and torchmetrics compute them.

    A class that is guessed but never there counts as IoU and Dice 0, and is left out of
    `mean_accuracy`; one that is neither is left out of all.

    Args:
        counts: (..., 3, classes) of `count_pixels`, of images or summed over those of a split.

    Returns:
        (...) float64 by name, NaN where no pixel is labelled.
    """
    figures = class_figures(counts)
    found, _, there = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    total = there.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        weighted = np.sum(there * np.nan_to_num(figures["iou"]), axis=-1) / total
        right = found.sum(axis=-1) / total
    return {
        "miou": _mean_of_known(figures["iou"]),
        "pixel_accuracy": right,
        "mean_accuracy": _mean_of_known(figures["accuracy"]),
        "dice": _mean_of_known(figures["dice"]),
        "frequency_weighted_iou": weighted,
    }


def _mean_of_known(figures: np.ndarray) -> np.ndarray:
    known = ~np.isnan(figures)
    with np.errstate(invalid="ignore"):
        return np.where(known, figures, 0).sum(axis=-1) / known.sum(axis=-1)


FIGURES = tuple(split_figures(np.ones((3, 1))))
