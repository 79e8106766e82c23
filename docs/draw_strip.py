"""Draws the README's pictures: what goes into five models, and below it what comes out.

Command:   make demo; a run of configs/flow_photos.py in runs/flow; one of configs/mosaics.py in
           runs/mosaics, with its data in runs/mosaics_data; then, with the extra `published`,
           python docs/draw_strip.py
Result:    docs/pictures/strip.jpg
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from skimage import data, transform
from sklearn import datasets

import vit_jax
from input_pipeline import palettes
from vit_jax import attention_maps, flow_colours

ROOT = Path(__file__).parent.parent
_PICTURE = ROOT / "docs/pictures/strip.jpg"
_DIGIT = 1466  # of the test split
_MOSAIC = "000.png"
_PANEL, _DPI = 2.4, 110  # inches, and pixels in one


class Panel(NamedTuple):
    """An image, an array (h, w, 3) or PIL's, and the words above it; `heat` is laid over it."""

    title: str
    image: np.ndarray | Image.Image
    heat: np.ndarray | None = None


def dehaze() -> tuple[Panel, Panel]:
    """A photo in haze by Koschmieder's law, denser the higher up, and without the haze."""
    clear = datasets.load_sample_image("china.jpg")[20:420, 120:520] / 255
    depth = np.linspace(1, 0.3, len(clear))[:, None, None]
    transmission = np.exp(-1.6 * depth)
    hazy = clear * transmission + 0.85 * (1 - transmission)
    return Panel("a photo made hazy", hazy), Panel(
        "without, by DehazeFormer-T", vit_jax.load("package:dehazer")(hazy)
    )


def enlarge() -> tuple[Panel, Panel]:
    """A cat's eye, four times as large in two ways."""
    small = data.chelsea()[90:150, 130:190]
    bicubic = Image.fromarray(small).resize((240, 240), Image.Resampling.BICUBIC)
    return Panel("60 x 60 pixels, bicubic", bicubic), Panel(
        "times four, by RRDB", vit_jax.load("package:realesrgan-x4plus")(small)
    )


def classify() -> tuple[Panel, Panel]:
    """A digit, its class, and where the model of `make demo` looks."""
    model = vit_jax.load(ROOT / "runs/digits")
    digit = np.repeat(datasets.load_digits().images[_DIGIT][..., None] / 16, 3, axis=-1)
    larger = jax.image.resize(jnp.asarray(digit), (16, 16, 3), "bilinear")
    attention, _ = attention_maps.look(model.model, model.variables, larger[None] * 2 - 1)
    name, p = next(iter(model(digit).items()))
    return Panel("a digit", np.asarray(larger)), Panel(
        f"{name}: {p:.0%}, where ViT looks", np.asarray(larger), np.asarray(attention[0])
    )


def segment() -> tuple[Panel, Panel]:
    """A mosaic of photos, and the class of each of its pixels, as colours."""
    path = ROOT / "runs/mosaics_data/test/images" / _MOSAIC
    model = vit_jax.load(ROOT / "runs/mosaics")
    found = model(path)
    colours = palettes.palette_for(model.labels)[found]
    return Panel("parts of photos", Image.open(path)), Panel("what is where, by FPN", colours)


def follow() -> tuple[Panel, Panel]:
    """A cup that is turned and comes nearer, and where each pixel goes, as colours."""
    photo = data.coffee()[60:260, 250:450] / 255
    centre = np.array(photo.shape[1::-1]) / 2
    nearer = transform.SimilarityTransform(scale=1.06, rotation=np.radians(6))
    about = transform.AffineTransform(translation=-centre) + nearer
    about += transform.AffineTransform(translation=centre)
    frames = [
        transform.resize(frame, (64, 64), anti_aliasing=True)
        for frame in (photo, transform.warp(photo, about.inverse, mode="reflect"))
    ]
    flow = vit_jax.load(ROOT / "runs/flow")(*frames)
    return Panel("the first of two frames", frames[0]), Panel(
        "how it moves, by FlowFormer", flow_colours.flow_to_colours(flow)
    )


def draw(pairs: Sequence[tuple[Panel, Panel]]) -> Figure:
    """Draws each pair as a column."""
    figure = Figure(figsize=(_PANEL * len(pairs), 2.15 * _PANEL), dpi=_DPI, layout="constrained")
    axes = figure.subplots(2, len(pairs))
    for ax, panel in zip(axes.T.flat, (panel for pair in pairs for panel in pair)):
        h, w = np.shape(panel.image)[:2]
        ax.imshow(panel.image, aspect="auto")
        if panel.heat is not None:
            extent = (-0.5, w - 0.5, h - 0.5, -0.5)
            ax.imshow(
                panel.heat, cmap="inferno", alpha=0.6, interpolation="bilinear", extent=extent
            )
        ax.set_title(panel.title, fontsize=10)
        ax.set_axis_off()
    return figure


if __name__ == "__main__":
    strip = draw([dehaze(), enlarge(), classify(), segment(), follow()])
    strip.savefig(_PICTURE, pil_kwargs={"quality": 88})
    print(f"{_PICTURE}: {_PICTURE.stat().st_size / 1e3:.0f} kB")
