"""Losses: functions (out, batch) -> one number per example."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from vit_jax import image_quality

Batch = Mapping[str, jax.Array]
Loss = Callable[[jax.Array, Batch], jax.Array]


def softmax_xent(out: jax.Array, batch: Batch) -> jax.Array:
    """Softmax cross-entropy in nats.

    Args:
        out: (b, classes) logits.
        batch: `label`, (b,) int32 or (b, classes) float32 that sums to 1.

    Returns:
        (b,) float32.
    """
    labels = _labels(out, batch)
    return optax.softmax_cross_entropy(out.astype(jnp.float32), labels)


def sigmoid_xent(out: jax.Array, batch: Batch) -> jax.Array:
    """Sigmoid cross-entropy in nats, summed over the classes.

    Source: Beyer et al., "Are we done with ImageNet?" (2020).

    Args:
        out: (b, classes) logits.
        batch: `label`, (b,) int32 or (b, classes) float32 in [0, 1].

    Returns:
        (b,) float32.
    """
    labels = _labels(out, batch)
    return jnp.sum(optax.sigmoid_binary_cross_entropy(out.astype(jnp.float32), labels), axis=-1)


def l1(out: jax.Array, batch: Batch) -> jax.Array:
    """Mean absolute difference of (b, h, w, c) images to `target`, over pixels and channels."""
    return jnp.mean(jnp.abs(_difference(out, batch)), axis=(1, 2, 3))


def mse(out: jax.Array, batch: Batch) -> jax.Array:
    """Mean squared difference of (b, h, w, c) images to `target`."""
    return jnp.mean(jnp.square(_difference(out, batch)), axis=(1, 2, 3))


def charbonnier(out: jax.Array, batch: Batch, epsilon: float = 1e-6) -> jax.Array:
    """Mean of sqrt(d^2 + epsilon) over the differences d of (b, h, w, c) images to `target`.

    Source: Charbonnier et al. (ICIP 1994). 1e-6 is common in restoration; SwinIR's 1e-9, for images
    in [0, 1], is 4e-9 for ours.
    """
    return jnp.mean(jnp.sqrt(jnp.square(_difference(out, batch)) + epsilon), axis=(1, 2, 3))


def ssim(out: jax.Array, batch: Batch) -> jax.Array:
    """1 - SSIM of (b, h, w, c) images in [-1, 1] to `target`; see `image_quality.ssim`."""
    images, targets = ((x.astype(jnp.float32) + 1) / 2 for x in (out, batch["target"]))
    return 1 - image_quality.ssim(images, targets)


def _difference(out: jax.Array, batch: Batch) -> jax.Array:
    return out.astype(jnp.float32) - batch["target"]


# By what the output is compared with.
LOSSES: dict[str, dict[str, Loss]] = {
    "label": {"softmax_xent": softmax_xent, "sigmoid_xent": sigmoid_xent},
    "target": {"l1": l1, "mse": mse, "charbonnier": charbonnier, "ssim": ssim},
}

_PLUS = re.compile(r"(?<![\d.][eE])\+")  # but for that of 1e+3


def get_loss(name: str, predicts: str) -> Loss:
    """Finds a loss, or makes a sum of several.

    Args:
        name: of a loss, or terms with weights, such as "l1 + 0.1 * ssim"; "charbonnier(4e-9)" is
            one with another epsilon.
        predicts: what the output is compared with, "label" or "target".

    Returns:
        A function (out, batch) -> (b,).

    Raises:
        ValueError: for an unknown name, or a weight or epsilon that is no positive number.
    """
    terms = [_parse_term(term, name, LOSSES[predicts], predicts) for term in _PLUS.split(name)]
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]
    return lambda out, batch: sum(weight * loss(out, batch) for weight, loss in terms)


def _parse_term(
    term: str, whole: str, losses: Mapping[str, Loss], predicts: str
) -> tuple[float, Loss]:
    weight_text, star, call = term.rpartition("*")
    name, parenthesis, argument = call.strip().partition("(")
    takes_epsilon = name in losses and "epsilon" in inspect.signature(losses[name]).parameters
    if name not in losses or (parenthesis and not takes_epsilon):
        raise ValueError(
            f"unknown loss {call.strip()!r} in {whole!r}; on a {predicts} there are: "
            f"{', '.join(losses)}"
        )
    loss = losses[name]
    if parenthesis:
        epsilon = _positive(argument.removesuffix(")"), f"loss {whole!r}: the epsilon")
        loss = functools.partial(loss, epsilon=epsilon)
    weight = _positive(weight_text, f"loss {whole!r}: the weight") if star else 1.0
    return weight, loss


def _positive(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"{what} {text.strip()!r} must be positive")
    return number


def _labels(out: jax.Array, batch: Batch) -> jax.Array:
    if out.ndim != 2:
        raise ValueError(
            f"a loss on labels needs (b, classes) logits, and the model gives {out.shape}: choose "
            "another classifier than the unpooled ones"
        )
    return one_hot(batch["label"], out.shape[-1])


def probabilities(logits: jax.Array, loss: str) -> jax.Array:
    """Turns (..., classes) logits into probabilities, as the loss they were trained with means."""
    if loss == "sigmoid_xent":
        return jax.nn.sigmoid(logits)
    return jax.nn.softmax(logits, axis=-1)


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Turns (b,) class numbers into (b, classes) float32; the latter stay as they are."""
    if labels.ndim == 2:
        return labels
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def smooth_labels(labels: jax.Array, smoothing: float) -> jax.Array:
    """Moves a share of each label's weight to all classes alike.

    Source: Szegedy et al., "Rethinking the Inception Architecture" (CVPR 2016).

    Args:
        labels: (b, classes) float32 that sums to 1.
        smoothing: the share, in [0, 1).

    Returns:
        (b, classes) float32 that sums to 1.
    """
    return labels * (1 - smoothing) + smoothing / labels.shape[-1]
