"""What a model makes of an image before its head: maps of features, and pictures of them.

A picture shows the first three principal components of the features of all places as red, green and
blue, as in Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (TMLR 2024);
nothing is taken for background there.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from vit_jax import fonts
from vit_jax.models.base import Model

VECTOR = "vector"

_MOST_PLACES = 1024  # of a map, by which colours are chosen
_TAILS = (1, 99)  # percentiles that become 0 and 1
_SIDE = 3.4  # inches
_TITLE_COLUMNS = 30  # letters over a picture


def compute(model: Model, variables: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
    """Computes the features of images.

    Args:
        model: one that gives feature maps, see `Model.feature_strides`; with a head or without.
        variables: its variables.
        images: (b, h, w, 3), prepared for the model.

    Returns:
        By "stride_S" the map whose places are S pixels apart, (b, rows, columns, channels) float32,
        the finest first; and by "vector" what the head sees, of two heads the first, (b, d)
        float32, if that is a vector.

    Raises:
        ValueError: if the model gives no maps.
    """
    if not model.feature_strides:
        raise ValueError(
            f"{type(model).__name__} gives no map of features to show: take a ViT, Swin, Twins, "
            "EfficientFormerV2 or ResNet"
        )
    maps = model.apply(variables, images, train=False, feature_maps=True)
    strides = model.feature_strides
    found = {f"stride_{s}": x.astype(jnp.float32) for s, x in zip(strides, maps, strict=True)}
    if model.has_field("num_classes"):
        vectors: Any = model.clone(num_classes=0).apply(variables, images, train=False)
        if vectors.ndim == 2:
            found[VECTOR] = vectors.astype(jnp.float32)
    return found


@dataclasses.dataclass(frozen=True)
class Colours:
    """How features become colours: by three axes, each from a lowest to a highest value.

    Attributes:
        mean: (channels,) of the features.
        axes: (channels, 3) of length 1, the first along which features differ most.
        low: (3,) what becomes 0 along each.
        high: (3,) what becomes 1.
    """

    mean: np.ndarray
    axes: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def paint(self, features: np.ndarray) -> np.ndarray:
        """(..., channels) -> (..., 3) in [0, 1]."""
        span = self.high - self.low
        shares = ((features - self.mean) @ self.axes - self.low) / np.where(span > 0, span, 1)
        return np.clip(shares, 0, 1)


def choose_colours(maps: Sequence[np.ndarray]) -> Colours:
    """Chooses colours that suit some maps together, so that what is alike in them looks alike.

    Args:
        maps: (rows, columns, channels) each, of any rows and columns; of a large one some places
            are looked at, evenly spread.

    Returns:
        The colours. The number of an axis that is farthest from 0 is positive, so that the same
        maps have the same colours again; and one place in fifty is beyond the lowest or the highest
        value of each, so that a few odd ones do not leave the others grey.
    """
    flat = [m.reshape(-1, m.shape[-1]) for m in maps]
    places = np.concatenate([x[:: -(-len(x) // _MOST_PLACES)] for x in flat]).astype(np.float64)
    mean = places.mean(axis=0)
    centred = places - mean
    _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    low, high = np.percentile(centred @ axes, _TAILS, axis=0)
    return Colours(mean, axes, low, high)


def draw(image: np.ndarray, painted: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draws an image, and beside it its features in colours, laid out over as much room.

    Args:
        image: (h, w, 3) in [0, 1].
        painted: by title, (rows, columns, 3) in [0, 1].
        title: over the picture; cut short if need be, but for its last eight letters.
    """
    h, w = image.shape[:2]
    count = 1 + len(painted)
    size = (_SIDE * count, _SIDE * h / w + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    title = fonts.shorten(fonts.legible(title), _TITLE_COLUMNS * count, tail=8)
    figure.suptitle(title, **fonts.style(title))
    panels = figure.subplots(1, count, squeeze=False).flat
    for axes, (name, picture) in zip(panels, [("image", image), *painted.items()]):
        axes.imshow(picture, interpolation="nearest", extent=(0, w, h, 0))
        axes.set_title(name, fontsize=9)
        axes.axis("off")
    return figure
