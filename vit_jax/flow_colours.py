"""The colours of a flow: its direction as a hue, its length as a saturation.

Source: Baker et al., "A Database and Evaluation Methodology for Optical Flow" (IJCV 2011), whose
colour wheel this is; the bytes are those of RAFT's and torchvision's pictures.
"""

import numpy as np

_UNKNOWN_FROM = 1e9  # longer components mean that the flow is not known, in Middlebury's files
_OUTSIDE = 0.75  # brightness of what is longer than the longest that the colours show

# Steps from a colour to the next, and the channel that rises or falls in them from which colour.
_SEGMENTS = (
    (15, (255, 0, 0), 1, 1),  # red to yellow
    (6, (255, 255, 0), 0, -1),
    (4, (0, 255, 0), 2, 1),
    (11, (0, 255, 255), 1, -1),
    (13, (0, 0, 255), 0, 1),
    (6, (255, 0, 255), 2, -1),  # magenta to red
)


def make_wheel() -> np.ndarray:
    """(55, 3) colours from 0 to 255, float32, from red over yellow, green, cyan, blue, magenta."""
    wheel = []
    for count, begin, channel, sign in _SEGMENTS:
        segment = np.tile(np.array(begin, np.float32), (count, 1))
        segment[:, channel] += sign * np.floor(255 * np.arange(count) / count)
        wheel.append(segment)
    return np.concatenate(wheel)


def is_known(flow: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Where a flow is finite and within Middlebury's bound, and valid if that is said: (h, w)."""
    known = (np.isfinite(flow) & (np.abs(flow) <= _UNKNOWN_FROM)).all(axis=-1)
    return known if valid is None else known & (np.asarray(valid) >= 0.5)


def longest(flow: np.ndarray, valid: np.ndarray | None = None) -> float:
    """The length in pixels of the longest vector of an (h, w, 2) flow that is known; 0 if none."""
    known = np.asarray(flow, np.float32)[is_known(flow, valid)]
    return float(np.sqrt(np.square(known).sum(axis=-1)).max(initial=0))


def flow_to_colours(
    flow: np.ndarray, max_flow: float | None = None, valid: np.ndarray | None = None
) -> np.ndarray:
    """Draws a flow: white where nothing moves, red to the right, yellow down, cyan to the left.

    Args:
        flow: (h, w, 2) pixels to the right and down.
        max_flow: the length in pixels of full saturation; longer vectors are darker. None is that
            of the longest vector.
        valid: (h, w), at least 0.5 where the flow is known; None is everywhere.

    Returns:
        (h, w, 3) uint8; black where the flow is not known: not valid, not finite, or beyond 1e9.

    Raises:
        ValueError: for another shape, or a max_flow that is not positive.
    """
    flow = np.asarray(flow)
    if flow.ndim != 3 or flow.shape[-1] != 2:
        raise ValueError(f"a flow is (h, w, 2), not {flow.shape}: give one picture at a time")
    if max_flow is not None and not 0 < max_flow < np.inf:
        raise ValueError(f"max_flow must be a positive number of pixels, not {max_flow}")
    known = is_known(flow, valid)
    scale = longest(flow, valid) if max_flow is None else max_flow
    scaled = np.where(known[..., None], flow, 0).astype(np.float32) / np.float32(scale + 1e-5)
    colours = _colours_of(scaled)
    colours[~known] = 0
    return colours


def _colours_of(flow: np.ndarray) -> np.ndarray:
    """Colours of an (h, w, 2) float32 flow whose lengths are shares of that of full saturation."""
    wheel = make_wheel() / 255
    u, v = flow[..., 0], flow[..., 1]
    length = np.sqrt(np.square(u) + np.square(v))[..., None]
    angle = np.arctan2(-v, -u) / np.float32(np.pi)
    at = (angle + 1) / 2 * (len(wheel) - 1)
    before = np.floor(at).astype(np.int32)
    share = (at - before)[..., None]
    hue = (1 - share) * wheel[before] + share * wheel[(before + 1) % len(wheel)]
    colour = np.where(length <= 1, 1 - length * (1 - hue), _OUTSIDE * hue)
    return np.floor(255 * colour).astype(np.uint8)
