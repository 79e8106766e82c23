"""Where a model looks: attention weights per layer and head, their rollout, and pictures of them.

Source of the rollout: Abnar & Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020).
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from vit_jax import fonts
from vit_jax.models.base import Model
from vit_jax.ops.window_maps import WindowMaps, unmerge, window_rollout

_MOST_HEADS = 16
_TITLE_COLUMNS = 22  # letters over a picture

_TOKENS_AT_ONCE = 32

# Of alignments: letters of a token, what stands for blanks, heads one below the other, inches.
_TOKEN_COLUMNS = 14
_BLANK = "\u2423"
_HEADS_BELOW = 4
_SMALLEST, _SMALLEST_HEAD, _LABELS = 2.4, 1.2, 1.6


class EncoderDecoderMaps(NamedTuple):
    """Attention weights of an encoder-decoder, float32: query, then key; rows sum to 1.

    Attributes:
        encoder: (layers, b, heads, m, m) of the m source tokens.
        decoder: (layers, b, heads, n, n) of the n target tokens, which see none after themselves.
        cross: (layers, b, heads, n, m) of the target tokens to those of the source. In row i the
            model has read target token i, and looks in order to write the one after it.
    """

    encoder: jax.Array
    decoder: jax.Array
    cross: jax.Array


def attention_maps(
    model: nn.Module, variables: Mapping[str, Any], *inputs: jax.Array
) -> jax.Array | tuple[WindowMaps, ...] | EncoderDecoderMaps:
    """Computes the attention weights of every layer and head.

    Args:
        model: a `VisionTransformer`, hybrids included; `Swin`, `SwinIR` or `DehazeFormer`; or a
            `Transformer`.
        variables: its variables.
        inputs: what a call of it takes, such as images (b, h, w, 3).

    Returns:
        Of a `VisionTransformer`: (layers, b, heads, n, n) float32: how much the token of the second
        last axis attends to that of the last; rows sum to 1. Patches come last, in row-major order,
        after any tokens of class, of distillation, and registers.

        Of a model with windows: a `WindowMaps` of each block, over its feature map. Where a picture
        is mirrored at its border, as by SwinIR, they lie over the picture alone.

        Of a `Transformer`: `EncoderDecoderMaps`.

    Raises:
        ValueError: if the model has no attention that can be looked at.
    """
    captured = _capture(model, variables, *inputs)
    if "decoder" in captured:
        return _of_both_sides(captured)
    return _of_windows(captured, inputs[0]) or _of_layers(captured["Transformer"])


def _capture(model: Any, variables: Mapping[str, Any], *inputs: jax.Array) -> Any:
    if isinstance(model, Model) and any(model.values_of(["part_side"]).values()):
        model = model.clone(part_side=0)  # of which each would have maps of its own
    _, state = model.apply(variables, *inputs, train=False, mutable=["intermediates"])
    captured = state.get("intermediates", {})
    sides = {"encoder", "decoder"} <= captured.keys()
    if not sides and "Transformer" not in captured and not _windows_in(captured):
        raise ValueError(f"{type(model).__name__} has no attention to look at")
    return captured


def _windows_in(captured: Any) -> list[WindowMaps]:
    """Those of all blocks, in the order of the numbers in their names."""
    leaves = jax.tree_util.tree_leaves_with_path(
        captured, is_leaf=lambda leaf: isinstance(leaf, WindowMaps)
    )
    found = [
        ([int(n) for n in re.findall(r"\d+", jax.tree_util.keystr(path))], leaf)
        for path, leaf in leaves
        if isinstance(leaf, WindowMaps)
    ]
    return [leaf for _, leaf in sorted(found, key=lambda entry: entry[0])]


def _of_windows(captured: Any, images: jax.Array) -> tuple[WindowMaps, ...]:
    """Those of all blocks; where a map is larger than the image, its border is a mirror image."""
    found = _windows_in(captured)
    if not found:
        return ()
    _, height, width, _ = images.shape
    return tuple(
        maps.over_picture((min(maps.size[0], height), min(maps.size[1], width))) for maps in found
    )


def _of_layers(
    blocks: Mapping[str, Any],
    block: str = "encoderblock",
    attention: str = "MultiHeadDotProductAttention_1",
) -> jax.Array:
    if block in blocks:  # scanned
        return _weights(blocks[block][attention])
    return jnp.stack([_weights(blocks[f"{block}_{i}"][attention]) for i in range(len(blocks))])


def _of_both_sides(captured: Mapping[str, Any]) -> EncoderDecoderMaps:
    return EncoderDecoderMaps(
        _of_layers(captured["encoder"], "encoderblock", "self_attention"),
        _of_layers(captured["decoder"], "decoderblock", "self_attention"),
        _of_layers(captured["decoder"], "decoderblock", "cross_attention"),
    )


def _weights(attention: Mapping[str, Any]) -> jax.Array:
    return attention["attention"][0]


def rollout(maps: jax.Array) -> jax.Array:
    """Follows attention through the layers, down to the patches; for windows: `window_rollout`.

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
        model: a `VisionTransformer`, hybrids included, or a `Swin`.
        variables: its variables.
        images: (b, h, w, 3), prepared for the model.

    Returns:
        The rollout of what the head sees: the class token's, if it sees that, or its mean with the
        distillation token's; else that of all patches together, weighted by the pooling attention
        if the model has one: (b, rows, columns). And the heads of the last attention, of the same
        tokens, or those of the pooling attention: (b, heads, rows, columns). In Swin the rows and
        columns are those of the first layer; a pixel of the last one is shared among those that it
        was merged from.

    Raises:
        ValueError: if the model has no attention.
    """
    captured = _capture(model, variables, images)
    windows = _of_windows(captured, images)
    if windows:
        h, w = windows[-1].size
        heads = windows[-1].received() / (h * w)
        return window_rollout(windows), unmerge(heads, windows[0].size)
    maps = _of_layers(captured["Transformer"])
    rolled = rollout(maps)
    _, height, width, _ = images.shape
    if "MAPHead_0" in captured:
        heads = _weights(captured["MAPHead_0"]["MultiHeadDotProductAttention_0"])[:, :, 0]
        rolled = jnp.einsum("bhn,bnm->bm", heads, rolled) / heads.shape[1]
    else:
        patches = (height // model.stride) * (width // model.stride)
        seen = slice(-patches, None)
        if model.classifier.startswith("token"):
            seen = slice(2 if model.distillation_token and model.num_classes else 1)
        heads = jnp.mean(maps[-1][:, :, seen], axis=2)
        rolled = jnp.mean(rolled[:, seen], axis=1)
    size = (height, width)
    return to_grid(model, rolled, size), to_grid(model, heads, size)


def to_grid(model: nn.Module, weights: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    """Lays what a token attends to out over the image.

    Args:
        model: that the weights come from.
        weights: (..., n), rows of `attention_maps` or `rollout`.
        image_size: (h, w) of the images in pixels.

    Returns:
        (..., rows, columns): the weights of the patches, which sum to less than 1 if there are
        other tokens.
    """
    rows, columns = (side // model.stride for side in image_size)
    others = weights.shape[-1] - rows * columns
    return weights[..., others:].reshape(*weights.shape[:-1], rows, columns)


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


def look_across(
    model: nn.Module, variables: Mapping[str, Any], source: jax.Array, target: jax.Array
) -> jax.Array:
    """Says where in a source a `Transformer` looks as it writes each token of a target.

    Args:
        model: a `Transformer`.
        variables: its variables.
        source: (b, m) int32.
        target: (b, n) int32, which begins with the token that begins a target.

    Returns:
        (b, heads, n - 1, m) float32 weights of the last layer. Row i is of target token i + 1,
        which the model writes when it has read the one before; padding of the source has 0.

    Raises:
        ValueError: if the model has no source to look at.
    """
    maps = attention_maps(model, variables, source, target)
    if not isinstance(maps, EncoderDecoderMaps):
        raise ValueError(f"{type(model).__name__} has no source to look at, as a Transformer has")
    return maps.cross[-1, :, :, :-1]


def make_alignment_drawer(
    model: Any, variables: Mapping[str, Any], name: Callable[[int], str]
) -> Callable[[Sequence[int], Sequence[int], str], Figure]:
    """Makes what draws where a `Transformer` looks as it writes a sentence.

    It is compiled once for up to 32 tokens, once for up to 64 and so on.

    Args:
        model: a `Transformer`.
        variables: its variables.
        name: a token's number -> how a person reads it.

    Returns:
        A function of the source's tokens with their end, the target's with begin and end, both
        without padding, and a title.
    """
    look = jax.jit(functools.partial(look_across, model))

    def padded(tokens: Sequence[int]) -> np.ndarray:
        count = -(-len(tokens) // _TOKENS_AT_ONCE) * _TOKENS_AT_ONCE
        return np.pad(tokens, (0, count - len(tokens)), constant_values=model.pad)[None]

    def draw(source: Sequence[int], target: Sequence[int], title: str) -> Figure:
        weights = np.asarray(look(variables, padded(source), padded(target)))[0]
        written = target[1:]
        return draw_alignment(
            [name(int(token)) for token in source],
            [name(int(token)) for token in written],
            weights[:, : len(written), : len(source)],
            title,
        )

    return draw


def draw_alignment(
    source_pieces: Sequence[str],
    target_pieces: Sequence[str],
    weights: np.ndarray,
    title: str = "",
) -> Figure:
    """Draws which tokens of a source those of a target attended to.

    Args:
        source_pieces: m tokens as a person reads them, in columns.
        target_pieces: n tokens, in rows: those that were written, the first being the one after
            that which begins a target.
        weights: (n, m) in [0, 1], such as the mean over the heads; or (heads, n, m), of which the
            mean is drawn large, and the first 16 beside it.
        title: over the picture; cut short if need be.

    Raises:
        ValueError: if the weights are not those of so many tokens.
    """
    heads = np.asarray(weights, np.float32)
    heads = heads[None] if heads.ndim == 2 else heads
    if heads.ndim != 3 or heads.shape[1:] != (len(target_pieces), len(source_pieces)):
        raise ValueError(
            f"weights of shape {np.shape(weights)} are not those of {len(target_pieces)} target "
            f"tokens to {len(source_pieces)} source tokens: they must have shape (heads, "
            f"{len(target_pieces)}, {len(source_pieces)}), or that without heads"
        )
    panels = [] if len(heads) == 1 else list(heads[:_MOST_HEADS])
    cell = _cell(max(heads.shape[1:]))
    width, height = (max(cell * count, _SMALLEST) for count in (heads.shape[2], heads.shape[1]))
    rows = min(len(panels), _HEADS_BELOW) or 1
    columns = -(-len(panels) // rows)
    beside = max(width / rows, _SMALLEST_HEAD) * columns
    figure = Figure(figsize=(width + beside + _LABELS, height + _LABELS), layout="constrained")
    title = fonts.shorten(fonts.legible(title), int(9 * (width + beside + _LABELS)), tail=8)
    figure.suptitle(title, **fonts.style(title))
    large, *small = _alignment_axes(figure, rows, columns, width, beside)
    drawn = large.imshow(heads.mean(axis=0), aspect="auto", cmap="Blues", vmin=0)
    _label_tokens(large, source_pieces, target_pieces, size=min(10, 50 * cell))
    name = f"weight, mean of {len(heads)} heads" if len(heads) > 1 else "weight"
    figure.colorbar(drawn, ax=large, location="bottom", shrink=0.6, aspect=30, label=name)
    for ax in small[len(panels) :]:
        ax.axis("off")
    for i, (ax, panel) in enumerate(zip(small, panels)):
        ax.imshow(panel, aspect="auto", cmap="Blues", vmin=0, vmax=heads.max())
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"head {i + 1}", fontsize=9)
    return figure


def _cell(count: int) -> float:
    """Inches of a token, of so many in the longer sentence: fewer are larger."""
    return float(np.clip(9 / max(count, 1), 0.17, 0.4))


def _alignment_axes(figure: Figure, rows: int, columns: int, width: float, beside: float) -> Any:
    """One large axes, and a grid of small ones to its right, in the order of rows."""
    if not columns:
        return [figure.subplots()]
    grid = figure.add_gridspec(
        rows, 1 + columns, width_ratios=[width + _LABELS] + [beside / columns] * columns
    )
    large = figure.add_subplot(grid[:, 0])
    return [large] + [
        figure.add_subplot(grid[i, 1 + j]) for i in range(rows) for j in range(columns)
    ]


def _label_tokens(ax: Any, source: Sequence[str], target: Sequence[str], size: float) -> None:
    """Writes the tokens at the axes, those of the source at the top and upright."""
    for axis, pieces, rotation in ((ax.xaxis, source, 90), (ax.yaxis, target, 0)):
        labels = [
            fonts.shorten(fonts.legible(piece.strip() or _BLANK), _TOKEN_COLUMNS)
            for piece in pieces
        ]
        axis.set_ticks(
            range(len(labels)), labels=labels, rotation=rotation, fontsize=size,
            **fonts.style(*labels),
        )  # fmt: skip
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.tick_params(length=0)
    ax.set(xlabel="source", ylabel="target")
