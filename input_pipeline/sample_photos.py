"""Writes photos to try things out on: python -m input_pipeline.sample_photos FOLDER.

They come with scikit-image and scikit-learn, so nothing is downloaded. FOLDER gets train, val and
test: clear photos for data.kind=hazy_from_clear, beside one of which lies a depth map made from its
measured disparities; or with --kind=flow_from_photos the same, but for the grey ones; or with
--kind=classes a folder for each of eight photos, with patches of it;
or with --kind=captions parts of fourteen photos with what is to be seen in them beside; or with
--kind=multilabel pictures of up to four handwritten digits, and a table of which they are; or with
--kind=segmentation mosaics of parts of the eight photos, and masks of which they are; or with
--kind=small a small part of a photo alone, to be enlarged.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from input_pipeline.arguments import Parser

# Of the Middlebury stereo pair "Motorcycle" at scikit-image's size, in pixels: depth is in inverse
# proportion to the disparity plus this.
_DISPARITY_OFFSET = 31.086


# Class -> its photo's name in scikit-image.
_CLASSES = {
    "brick": "brick",
    "cat": "chelsea",
    "coins": "coins",
    "grass": "grass",
    "gravel": "gravel",
    "moon": "moon",
    "stars": "hubble_deep_field",
    "tissue": "immunohistochemistry",
}
_PATCH = 96  # side in pixels
# Split -> where its patches lie in a photo, as parts of the width, and how many there are.
_SPLITS = {"train": (0, 0.5, 32), "val": (0.5, 0.75, 8), "test": (0.75, 1, 12)}
# Split -> how many mosaics are made of such patches, and the most parts that one has.
_MOSAICS = {"train": 256, "val": 24, "test": 48}
_MOST_PARTS = 4
# Photo, as a class is called -> its name in scikit-image, and what can be said of it.
CAPTIONED = {
    "astronaut": ("astronaut", "a woman in an orange space suit", "a portrait of an astronaut"),
    "brick": ("brick", "a wall of grey bricks", "bricks and mortar, seen from the front"),
    "cat": ("chelsea", "a ginger cat looks at you", "the face of a cat with whiskers"),
    "clock": ("clock", "a clock, blurred by motion", "the dial of a clock in grey"),
    "coffee": ("coffee", "a cup of coffee on a saucer", "coffee and a spoon on a wooden table"),
    "coins": ("coins", "old coins in rows", "many round coins on a dark ground"),
    "eye": ("retina", "the back of an eye with its veins", "a retina, orange and round"),
    "grass": ("grass", "a lawn seen from above", "blades of grass in grey"),
    "horse": ("horse", "the black shape of a horse", "a horse cut out of paper"),
    "moon": ("moon", "craters on the moon", "the moon seen through a telescope"),
    "page": ("page", "a page of printed text", "letters on yellowed paper"),
    "photographer": ("camera", "a man with a camera on a tripod", "a photographer in a dark coat"),
    "rocket": ("rocket", "a rocket on its launch pad", "a rocket lit by lamps, before its start"),
    "stars": ("hubble_deep_field", "galaxies in a dark sky", "many stars on black ground"),
}  # fmt: skip
# Photos without colours, in scikit-image: among them a bright sky and paper, which a model that has
# seen none takes for haze.
_GREY = ("brick", "camera", "clock", "coins", "grass", "gravel", "page")
_PARTS = {"train": 16, "test": 4}  # of each photo
# Split -> its share of the digits, and how many pictures are made of them.
_DIGITS = {"train": (0, 0.7, 2000), "val": (0.7, 0.8, 200), "test": (0.8, 1, 400)}


def write_captioned(folder: Path) -> None:
    """Writes square parts of fourteen photos, and beside each a .txt with a caption per line.

    Parts of a photo overlap, those of the other split too: a model that tells them apart has
    learned these photos, and no more.

    Args:
        folder: gets train/ and test/ with PHOTO_NUMBER.jpg of 96 x 96 pixels; what is there already
            is written again.

    Raises:
        ValueError: if scikit-image is not installed.
    """
    random = np.random.default_rng(0)
    for label, (name, *captions) in CAPTIONED.items():
        photo = Image.fromarray(_photo(name)).convert("RGB")
        for split, count in _PARTS.items():
            (folder / split).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                side = int(random.uniform(0.5, 1) * min(photo.size))
                left, top = (int(random.integers(n - side, endpoint=True)) for n in photo.size)
                part = photo.crop((left, top, left + side, top + side))
                part = part.resize((_PATCH, _PATCH), Image.Resampling.BICUBIC)
                part.save(folder / split / f"{label}_{i:02}.jpg", quality=95)
                beside = folder / split / f"{label}_{i:02}.txt"
                beside.write_text("".join(f"{caption}\n" for caption in captions))


def write_classes(folder: Path) -> None:
    """Writes patches of eight photos, which are the classes; those of the splits do not overlap.

    Args:
        folder: gets train/, val/ and test/, and in them a folder per class with JPEGs of 96 x 96
            pixels; what is there already is written again.

    Raises:
        ValueError: if scikit-image is not installed.
    """
    data, _ = _libraries()
    random = np.random.default_rng(0)
    for label, name in _CLASSES.items():
        photo = getattr(data, name)()
        for split, (begin, end, count) in _SPLITS.items():
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                patch = Image.fromarray(_patch(photo, begin, end, random)).convert("RGB")
                patch.save(folder / split / label / f"{i:02}.jpg", quality=95)


def write_segmented(folder: Path) -> None:
    """Writes mosaics of two to four patches of the eight photos, and masks of which lies where.

    Args:
        folder: gets train/, val/ and test/ with images/ of PNGs of 96 x 96 pixels and masks/, and
            classes.txt; what is there already is written again.

    Raises:
        ValueError: if scikit-image is not installed.
    """
    data, _ = _libraries()
    random = np.random.default_rng(0)
    photos = [
        np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
        for name in _CLASSES.values()
    ]
    for split, count in _MOSAICS.items():
        begin, end, _ = _SPLITS[split]
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            parts = random.integers(2, _MOST_PARTS, endpoint=True)
            classes = random.choice(len(photos), parts, replace=False)
            part = _nearest(random.uniform(0, _PATCH, (parts, 2)))
            patches = [_patch(photos[label], begin, end, random) for label in classes]
            picture = np.choose(part[..., None], patches)
            Image.fromarray(picture).save(folder / split / "images" / f"{i:03}.png")
            mask = classes[part].astype(np.uint8)
            Image.fromarray(mask).save(folder / split / "masks" / f"{i:03}.png")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in _CLASSES))


def _nearest(points: np.ndarray) -> np.ndarray:
    """(parts, 2) places in a patch -> (side, side): which of them is the nearest to each pixel."""
    pixels = np.moveaxis(np.indices((_PATCH, _PATCH)), 0, -1)
    return np.linalg.norm(pixels[:, :, None] - points, axis=-1).argmin(axis=-1)


def _patch(photo: np.ndarray, begin: float, end: float, random: np.random.Generator) -> np.ndarray:
    """A square of a photo (h, w, 3) from anywhere between two parts of its width."""
    height, width = photo.shape[:2]
    top = random.integers(height - _PATCH, endpoint=True)
    left = random.integers(begin * width, end * width - _PATCH, endpoint=True)
    return photo[top : top + _PATCH, left : left + _PATCH]


def write_multilabel(folder: Path) -> None:
    """Writes pictures of one to four handwritten digits, and labels.csv, which says which they are.

    Args:
        folder: gets labels.csv, with a split for each picture, and images/ of PNGs of 32 x 32
            pixels; no digit is in two splits. What is there already is written again.

    Raises:
        ValueError: if scikit-learn is not installed.
    """
    _, datasets = _libraries()
    digits = datasets.load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    random = np.random.default_rng(0)
    order = random.permutation(len(pixels))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = ["image,labels,split"]
    for split, (begin, end, count) in _DIGITS.items():
        own = order[round(begin * len(order)) : round(end * len(order))]
        for i in range(count):
            cells = np.zeros((2, 2, 16, 16), np.uint8)
            places = random.permutation(4)[: random.integers(1, 4, endpoint=True)]
            chosen = random.choice(own, len(places), replace=False)
            cells.reshape(4, 16, 16)[places] = pixels[chosen]
            picture = cells.transpose(0, 2, 1, 3).reshape(32, 32)
            Image.fromarray(picture).save(folder / "images" / f"{split}_{i:04}.png")
            labels = "|".join(str(label) for label in sorted(set(digits.target[chosen])))
            lines.append(f"{split}_{i:04}.png,{labels},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def write_small(folder: Path) -> None:
    """Writes the part of a photo around a cat's eye: fur and edges, for a model that enlarges.

    Args:
        folder: gets cat.png, 200 x 160 pixels; what is there already is written again.

    Raises:
        ValueError: if scikit-image is not installed.
    """
    data, _ = _libraries()
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.chelsea()[60:220, 110:310]).save(folder / "cat.png")


def write_to_haze(folder: Path) -> None:
    """Writes the clear photos, and to train/ some without colours besides.

    Args:
        folder: gets train/, val/ and test/; what is there already is written again.

    Raises:
        ValueError: if scikit-image or scikit-learn is not installed.
    """
    write_clear(folder)
    for name in _GREY:
        Image.fromarray(_photo(name)).convert("RGB").save(folder / "train" / f"{name}.png")


def write_clear(folder: Path) -> None:
    """Writes the clear photos.

    Args:
        folder: gets train/, val/ and test/; what is there already is written again.

    Raises:
        ValueError: if scikit-image or scikit-learn is not installed.
    """
    data, datasets = _libraries()
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
    depth.save(folder / "train" / "motorcycle_depth.png")


def _photo(name: str) -> np.ndarray:
    """uint8 pixels of a photo of scikit-image."""
    pixels = getattr(_libraries()[0], name)()
    return pixels if pixels.dtype == np.uint8 else (pixels * 255).astype(np.uint8)


def _libraries() -> tuple[ModuleType, ModuleType]:
    try:
        from skimage import data
        from sklearn import datasets
    except ImportError as error:
        raise ValueError(
            f"the sample photos need {error.name}: pip install 'vit_jax[demo]'"
        ) from None
    return data, datasets


def _depth(disparity: np.ndarray) -> np.ndarray:
    """(h, w) disparities, infinite where unknown -> uint16 depths, white for the farthest."""
    known = np.isfinite(disparity)
    depth = 1 / (np.where(known, disparity, disparity[known].min()) + _DISPARITY_OFFSET)
    return np.round(depth / depth.max() * 65535).astype(np.uint16)


# By data.kind, but for small, on which nothing is trained.
_WRITERS = {
    "hazy_from_clear": write_to_haze,
    "flow_from_photos": write_clear,
    "classes": write_classes,
    "captions": write_captioned,
    "multilabel": write_multilabel,
    "segmentation": write_segmented,
    "small": write_small,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the photos; returns the exit code."""
    parser = Parser("input_pipeline.sample_photos", __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=list(_WRITERS), default="hazy_from_clear")
    parsed = parser.read(arguments)
    try:
        _WRITERS[parsed.kind](parsed.folder)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    print(f"the photos are in {parsed.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
