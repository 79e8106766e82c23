"""Pictures of the flow between two frames: its colours, and what it does to the second frame."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vit_jax import ops
from vit_jax.flow_colours import flow_to_colours, longest

_SMALLEST, _LARGEST = 320, 1280  # pixels of the longer side of a frame beside others
_TITLE, _MARGIN, _FONT = 28, 6, 18  # pixels: of a line of text, around it, of its letters
_WHEEL = 128  # pixels of the legend's diameter
_STRIPE = 8  # pixels, of what has left the frame
_STRIPES = np.array([[255, 0, 255], [90, 0, 90]], np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """Makes a PNG of (h, w, 3) uint8."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def warp_back(second: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves what a second frame shows back to where the first has it, bilinearly.

    Args:
        second: (h, w, 3) uint8.
        flow: (h, w, 2) pixels, from the first frame to the second.

    Returns:
        (h, w, 3) uint8, and (h, w) bool: whether the flow leads to a place inside of the frame; 0
        where it does not.
    """
    height, width = second.shape[:2]
    x = np.arange(width, dtype=np.float32) + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)  # not if they are NaN
    places = np.where(inside[..., None], np.stack([x, y], axis=-1), 0)
    moved = np.array(_sample(second, places))
    moved[~inside] = 0
    return moved, inside


@functools.partial(jax.jit, compiler_options=ops.compiler_options())
def _sample(image: jax.Array, places: jax.Array) -> jax.Array:
    read = ops.bilinear_sample(image[None].astype(jnp.float32), places[None])
    return jnp.round(read[0]).astype(jnp.uint8)


def draw_comparison(
    first: np.ndarray, second: np.ndarray, flow: np.ndarray, max_flow: float | None = None
) -> np.ndarray:
    """Draws two frames, the flow between them, and the second moved back onto the first.

    Stripes are where the flow leads out of the second frame. Beside it is the wheel of colours.

    Args:
        first: (h, w, 3) uint8.
        second: the same.
        flow: (h, w, 2) pixels.
        max_flow: the length of full saturation; None is the longest.

    Returns:
        (_, _, 3) uint8; large frames are made smaller, and tiny ones larger.
    """
    moved, inside = warp_back(second, flow)
    size = _shown_size(first.shape[:2])
    back = _resized(moved, size)
    left = np.asarray(Image.fromarray(~inside).resize(size, Image.Resampling.NEAREST))
    diagonals = np.add.outer(np.arange(left.shape[0]), np.arange(left.shape[1]))
    back[left] = _STRIPES[diagonals // _STRIPE % 2][left]
    scale = max_flow or longest(flow)
    panels = (
        ("first frame", _resized(first, size)),
        ("second frame", _resized(second, size)),
        (
            f"flow, up to {longest(flow):.1f} pixels",
            _resized(flow_to_colours(flow, max_flow), size),
        ),
        ("second moved back; stripes: outside", back),
    )
    cell = (size[0] + _MARGIN, size[1] + _TITLE)
    sheet = (2 * cell[0] + _WHEEL + _MARGIN, max(2 * cell[1], _WHEEL + 2 * _TITLE) + _MARGIN)
    picture = Image.new("RGB", sheet, "white")
    font = ImageFont.load_default(_FONT)
    draw = ImageDraw.Draw(picture)
    for i, (title, pixels) in enumerate(panels):
        x, y = _MARGIN + i % 2 * cell[0], i // 2 * cell[1]
        draw.text((x, y + _TITLE / 2), _fitting(title, font, size[0]), "black", font, anchor="lm")
        picture.paste(Image.fromarray(pixels), (x, y + _TITLE))
    x = _MARGIN + 2 * cell[0]
    picture.paste(Image.fromarray(draw_wheel(_WHEEL - _MARGIN)), (x, _TITLE))
    legend = f"{scale:.1f} pixels"
    draw.text((x + _WHEEL / 2, 1.5 * _TITLE + _WHEEL), legend, "black", font, anchor="mm")
    return np.asarray(picture)


def draw_wheel(side: int) -> np.ndarray:
    """Draws what the colours of flows mean: each lies where it leads, seen from the middle.

    Args:
        side: pixels of the picture, and of the wheel's diameter.

    Returns:
        (side, side, 3) uint8, white around the wheel.
    """
    along = (np.arange(side) + 0.5) / side * 2 - 1
    arrows = np.stack(np.meshgrid(along, along), axis=-1)
    wheel = flow_to_colours(arrows, 1.0)
    wheel[np.linalg.norm(arrows, axis=-1) > 1] = 255
    return wheel


def _shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) at which a frame of (h, w) is shown beside others."""
    longer = max(size)
    scale = min(_LARGEST / longer, 1) if longer >= _SMALLEST else -(-_SMALLEST // longer)
    return max(round(size[1] * scale), 1), max(round(size[0] * scale), 1)


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """As many of a text's letters as there is room for."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
