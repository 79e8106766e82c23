"""Where a Vision Transformer looks: attention weights per layer and head, and their rollout.

Source of the rollout: Abnar & Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from vit_jax import fonts

_MOST_HEADS = 16
_TITLE_COLUMNS = 22  # letters over a picture


def attention_maps(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """Computes the attention weights of every layer and head.

    Args:
        model: a `VisionTransformer`, hybrids included.
        variables: its variables.
        images: (b, h, w, 3) in [-1, 1].

    Returns:
        (layers, b, heads, n, n) float32: how much the token of the second last axis attends to
        that of the last; rows sum to 1. Patches come in row-major order, after any class token.

    Raises:
        ValueError: if the model has no attention.
    """
    return _of_layers(_capture(model, variables, images))


def _capture(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> Any:
    _, state = model.apply(variables, images, train=False, mutable=["intermediates"])
    if "Transformer" not in state.get("intermediates", {}):
        raise ValueError(f"{type(model).__name__} has no attention to look at")
    return state["intermediates"]


def _of_layers(captured: Mapping[str, Any]) -> jax.Array:
    blocks = captured["Transformer"]
    if "encoderblock" in blocks:  # scanned
        return _weights(blocks["encoderblock"]["MultiHeadDotProductAttention_1"])
    return jnp.stack(
        [
            _weights(blocks[f"encoderblock_{i}"]["MultiHeadDotProductAttention_1"])
            for i in range(len(blocks))
        ]
    )


def _weights(attention: Mapping[str, Any]) -> jax.Array:
    return attention["attention"][0]


def rollout(maps: jax.Array) -> jax.Array:
    """Follows attention through the layers, down to the patches.

    Each layer passes on the mean of its heads and, as much again, its shortcut.

    Args:
        maps: (layers, b, heads, n, n), from `attention_maps`.

    Returns:
        (b, n, n): how much each token of the last layer draws on each of the first; rows sum to 1.
    """
    n = maps.shape[-1]
    layers = (jnp.mean(maps, axis=2) + jnp.eye(n)) / 2
    total = layers[0]
    for layer in layers[1:]:
        total = layer @ total
    return total


def look(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Says where a model looks to answer.

    Args:
        model: a `VisionTransformer`, hybrids included.
        variables: its variables.
        images: (b, h, w, 3) in [-1, 1].

    Returns:
        The rollout of what the head sees: the class token's, or that of all patches together,
        weighted by the pooling attention if the model has one: (b, rows, columns). And the heads of
        the last attention: the class token's, the mean over the patches', or those of the pooling
        attention: (b, heads, rows, columns).

    Raises:
        ValueError: if the model has no attention.
    """
    captured = _capture(model, variables, images)
    maps = _of_layers(captured)
    rolled = rollout(maps)
    if "MAPHead_0" in captured:
        heads = _weights(captured["MAPHead_0"]["MultiHeadDotProductAttention_0"])[:, :, 0]
        rolled = jnp.einsum("bhn,bnm->bm", heads, rolled) / heads.shape[1]
    elif model.classifier in ("token", "token_unpooled"):
        heads, rolled = maps[-1][:, :, 0], rolled[:, 0]
    else:
        heads, rolled = jnp.mean(maps[-1], axis=2), jnp.mean(rolled, axis=1)
    _, height, width, _ = images.shape
    size = (height, width)
    return to_grid(model, rolled, size), to_grid(model, heads, size)


def to_grid(model: nn.Module, weights: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    """Lays what a token attends to out over the image.

    Args:
        model: that the weights come from.
        weights: (..., n), rows of `attention_maps` or `rollout`.
        image_size: (h, w) of the images in pixels.

    Returns:
        (..., rows, columns): the weights of the patches, which sum to less than 1 if there is a
        class token.
    """
    rows, columns = (side // model.stride for side in image_size)
    class_tokens = weights.shape[-1] - rows * columns
    return weights[..., class_tokens:].reshape(*weights.shape[:-1], rows, columns)


def draw(image: np.ndarray, rolled: np.ndarray, heads: np.ndarray, title: str) -> Figure:
    """Draws an image, its rollout over it, and each head of the last attention over it.

    Args:
        image: (h, w, 3) in [0, 1].
        rolled: (rows, columns) rollout.
        heads: (heads, rows, columns) attention; the first 16 are drawn.
        title: over the picture; cut short if need be, but for its last eight letters.
    """
    maps = [("rollout", rolled)]
    maps += [(f"last attention, head {i + 1}", head) for i, head in enumerate(heads[:_MOST_HEADS])]
    columns = min(len(maps) + 1, 5)
    rows = -(-(len(maps) + 1) // columns)
    h, w = image.shape[:2]
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows * h / w + 0.5 * rows), layout="constrained")
    title = fonts.shorten(fonts.legible(title), _TITLE_COLUMNS * columns, tail=8)
    figure.suptitle(title, **fonts.style(title))
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax in axes:
        ax.axis("off")
    axes[0].imshow(image)
    axes[0].set_title("image", fontsize=9)
    for ax, (name, weights) in zip(axes[1:], maps):
        ax.imshow(image)
        heat = np.asarray(weights, np.float32)
        extent = (-0.5, w - 0.5, h - 0.5, -0.5)
        ax.imshow(heat, cmap="inferno", alpha=0.6, interpolation="bilinear", extent=extent)
        ax.set_title(name, fontsize=9)
    return figure
