"""Metrics: functions (out, batch) -> one number per example; a score is their mean."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from vit_jax import image_quality

Batch = Mapping[str, jax.Array]
Metric = Callable[[jax.Array, Batch], jax.Array]


def accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Top-1 accuracy: 1 where the largest of the (b, classes) logits is the label's."""
    return _in_top(out, batch["label"], 1)


def top5_accuracy(out: jax.Array, batch: Batch) -> jax.Array:
    """Top-5 accuracy: 1 where the label is among the five largest of the (b, classes) logits."""
    return _in_top(out, batch["label"], min(5, out.shape[-1]))


def _in_top(out: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    if labels.ndim == 2:
        labels = jnp.argmax(labels, axis=-1)
    _, top = jax.lax.top_k(out, k)
    return jnp.any(top == labels[:, None], axis=-1).astype(jnp.float32)


METRICS: dict[str, Metric] = {"accuracy": accuracy, "top5_accuracy": top5_accuracy}

_SOME_IMAGES = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)


def get_metric(name: str, predicts: str) -> Metric:
    """Finds a metric by name.

    Args:
        name: of a function of this file for labels; for images PROTOCOL/FIGURE, such as
            "dehazeformer/psnr", see `image_quality.PROTOCOLS`.
        predicts: what the output is compared with, "label" or "target".

    Returns:
        A function (out, batch) -> (b,).

    Raises:
        ValueError: for an unknown name; it lists what there is.
    """
    if predicts == "target":
        return _get_figure(name)
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; on a label there are: {', '.join(METRICS)}")
    return METRICS[name]


def _get_figure(name: str) -> Metric:
    known = [
        f"{protocol}/{figure}"
        for protocol, compute in image_quality.PROTOCOLS.items()
        for figure in jax.eval_shape(compute, _SOME_IMAGES, _SOME_IMAGES)
    ]
    if name not in known:
        raise ValueError(f"unknown metric {name!r}; on images there are: {', '.join(known)}")
    protocol, _, figure = name.partition("/")

    if protocol == "basicsr":
        return lambda out, batch: _basicsr(out, batch)[figure]
    return lambda out, batch: image_quality.PROTOCOLS[protocol](out, batch["target"])[figure]


def _basicsr(out: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Leaves out as many pixels along the border as the images were enlarged times."""
    scale = batch["target"].shape[1] // batch["image"].shape[1]
    border = scale if scale > 1 else 0
    return image_quality.basicsr(out, batch["target"], border)
