"""Writes a few photos to try dehazing on: python -m input_pipeline.sample_photos FOLDER.

They come with scikit-image and scikit-learn, so nothing is downloaded. FOLDER gets train, val and
test; beside one photo lies a depth map, made from its measured disparities.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.sources.hazy_from_clear import DEPTH_ENDING

# Of the Middlebury stereo pair "Motorcycle" at scikit-image's size, in pixels: depth is in inverse
# proportion to the disparity plus this.
_DISPARITY_OFFSET = 31.086


def write(folder: Path) -> None:
    """Writes the photos.

    Args:
        folder: gets train/, val/ and test/; what is there already is written again.

    Raises:
        ValueError: if scikit-image or scikit-learn is not installed.
    """
    try:
        from skimage import data
        from sklearn import datasets
    except ImportError as error:
        raise ValueError(
            f"the sample photos need {error.name}: pip install 'vit_jax[demo]'"
        ) from None
    samples = datasets.load_sample_images()
    china, flower = samples.images
    motorcycle, _, disparity = data.stereo_motorcycle()
    splits: Mapping[str, Mapping[str, np.ndarray]] = {
        "train": {
            "astronaut": data.astronaut(),
            "chelsea": data.chelsea(),
            "flower": flower,
            "motorcycle": motorcycle,
        },
        "val": {"rocket": data.rocket()},
        "test": {"china": china, "coffee": data.coffee()},
    }
    for split, photos in splits.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for name, pixels in photos.items():
            Image.fromarray(pixels).save(folder / split / f"{name}.png")
    depth = Image.fromarray(_depth(disparity))
    depth.save(folder / "train" / f"motorcycle{DEPTH_ENDING}")


def _depth(disparity: np.ndarray) -> np.ndarray:
    """(h, w) disparities, infinite where unknown -> uint16 depths, white for the farthest."""
    known = np.isfinite(disparity)
    depth = 1 / (np.where(known, disparity, disparity[known].min()) + _DISPARITY_OFFSET)
    return np.round(depth / depth.max() * 65535).astype(np.uint16)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the photos; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.sample_photos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    try:
        write(folder)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    print(f"the photos are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
