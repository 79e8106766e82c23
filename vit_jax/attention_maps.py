"""Where a Vision Transformer looks: attention weights per layer and head, and their rollout.

Source of the rollout: Abnar & Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

_MOST_HEADS = 16


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
    _, state = model.apply(variables, images, train=False, mutable=["intermediates"])
    blocks = state.get("intermediates", {}).get("Transformer", {})
    if "encoderblock" in blocks:  # scanned
        return _weights(blocks["encoderblock"])
    if "encoderblock_0" not in blocks:
        raise ValueError(f"{type(model).__name__} has no attention to look at")
    return jnp.stack([_weights(blocks[f"encoderblock_{i}"]) for i in range(len(blocks))])


def _weights(block: Mapping[str, Any]) -> jax.Array:
    return block["MultiHeadDotProductAttention_1"]["attention"][0]


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


def to_grid(
    model: nn.Module, weights: jax.Array, image_size: tuple[int, int], pool: bool = True
) -> jax.Array:
    """Lays what the tokens attend to out over the image.

    Args:
        model: that the weights come from.
        weights: (..., n, n), of `attention_maps` or `rollout`.
        image_size: (h, w) of the images in pixels.
        pool: whether to take the class token's row, or the mean of all rows if there is none; else
            every row has its map.

    Returns:
        (..., rows, columns), or (..., n, rows, columns) unless pool; the weights of the patches,
        which sum to less than 1 if there is a class token.
    """
    rows, columns = (side // model.stride for side in image_size)
    class_tokens = weights.shape[-1] - rows * columns
    if pool:
        weights = weights[..., 0, :] if class_tokens else jnp.mean(weights, axis=-2)
    return weights[..., class_tokens:].reshape(*weights.shape[:-1], rows, columns)


def write_picture(
    path: Path, image: np.ndarray, rolled: np.ndarray, heads: np.ndarray, title: str
) -> None:
    """Draws an image, its rollout over it, and each head of the last layer over it.

    Args:
        path: of the .png file.
        image: (h, w, 3) in [0, 1].
        rolled: (rows, columns) rollout.
        heads: (heads, rows, columns) attention.
        title: over the picture.
    """
    maps = [("rollout", rolled)]
    maps += [(f"last layer, head {i + 1}", head) for i, head in enumerate(heads[:_MOST_HEADS])]
    columns = min(len(maps) + 1, 5)
    rows = -(-(len(maps) + 1) // columns)
    h, w = image.shape[:2]
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows * h / w + 0.5 * rows), layout="constrained")
    figure.suptitle(title)
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
    figure.savefig(path, format="png", dpi=110)
