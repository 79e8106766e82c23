"""Clear photos, and what is made of them: smaller, noisy, or compressed by JPEG.

How many times smaller says the model, which is to enlarge as many times. Noise is Gaussian, and
neither clipped nor rounded, as the tests of denoising have it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import files, images
from input_pipeline.cpu_tf import tf
from input_pipeline.resampling import shrink_bicubic
from input_pipeline.sources import pairs, splitting
from input_pipeline.sources.base import Example, IndexedSource, Source, fold_in

_LOG = logging.getLogger(__name__)

_LUMA = (0.299, 0.587, 0.114)


def splits(config: Any, scale: int) -> dict[str, Source]:
    """Finds the photos of a folder.

    Args:
        config: `config.data`, of which `source`, `test_source`, `val_fraction`, `split_seed`,
            `degradation` and `skip_corrupt` are read. The folder may have train, val and test
            folders; what is missing is split off train by `splitting`. If it holds pairs,
            those of its clear images are taken. When training, a photo gets other noise in every
            epoch; in the other splits it is always the same.
        scale: how many times smaller the photos become; what is over is cut off them.

    Returns:
        Sources by split name.

    Raises:
        ValueError: for a folder that is missing, or without photos, or settings that do not fit.
    """
    _check_settings(config.degradation, scale)
    found: dict[str, Sequence[Path]] = {}
    if config.source:
        folders = splitting.find_splits(Path(config.source).expanduser())
        found = {name: _find_photos(folder) for name, folder in folders.items()}
    if config.test_source:
        folders = splitting.find_splits(Path(config.test_source).expanduser())
        found["test"] = _find_photos(splitting.get_test(folders, config.test_source))
    if config.skip_corrupt:
        found = {
            name: files.without_faults(photos, files.check_readable, name)
            for name, photos in found.items()
        }
    found = splitting.split_off_scenes(found, lambda path: path.stem, config)
    return {name: _source(photos, config.degradation, scale) for name, photos in found.items()}


def _find_photos(folder: Path) -> list[Path]:
    found = pairs.find_clear_photos(folder)
    files.tell_left_out(folder, found.depth.values(), "depth maps are left out")
    return found.images


def _explain(photos: Sequence[Path], message: str) -> str:
    """Names the photo that cannot be read, or, if the crop is too large, the smallest."""
    _LOG.warning("a photo could not be prepared; looking for it among %d ...", len(photos))
    faults = list(files.find_faults(photos, files.check_readable).values())
    if faults:
        return (
            f"{faults[0]}. Remove it, or leave such photos out with --config.data.skip_corrupt=True"
        )
    if "smaller image" not in message:
        return message
    sizes = files.read_sizes(photos)
    smallest = int(np.argmin(sizes.min(axis=1)))
    return f"{message}; the smallest is {photos[smallest]} ({'{} x {}'.format(*sizes[smallest])})"


def _check_settings(degradation: Any, scale: int) -> None:
    sigma, quality = degradation.sigma, degradation.quality
    if not 0 <= sigma <= 255:
        raise ValueError(f"data.degradation.sigma must lie in [0, 255], not {sigma}")
    if not 0 <= quality <= 100:
        raise ValueError(f"data.degradation.quality must lie in [1, 100], or be 0, not {quality}")
    if sigma and quality:
        raise ValueError("data.degradation has noise or JPEG: set sigma or quality to 0")
    if scale == 1 and not (sigma or quality):
        raise ValueError(
            "nothing is done to the photos: set data.degradation.sigma=25, or quality=40, or "
            "choose a model that enlarges"
        )


def _source(photos: Sequence[Path], degradation: Any, scale: int) -> IndexedSource:
    def load(example: Example) -> Example:
        clear = images.decode(tf.io.read_file(example["photo"]))
        height, width = (tf.shape(clear)[axis] // scale * scale for axis in (0, 1))
        clear = clear[:height, :width]
        if degradation.grayscale:
            clear = _to_grey(clear)
        image = shrink_bicubic(clear, scale)
        if degradation.quality:
            image = _compress(image, degradation.quality, degradation.grayscale, example["photo"])
        return {"image": images.deepen(image), "target": images.deepen(clear)}

    def finish(example: Example, seed: tf.Tensor) -> Example:
        if not degradation.sigma:
            return example
        channels = 1 if degradation.grayscale else 3
        return {**example, "image": _add_noise(example["image"], degradation.sigma, channels, seed)}

    def image_sizes() -> np.ndarray:
        return files.read_sizes(photos) // scale

    return IndexedSource(
        {"photo": np.array([str(path) for path in photos])},
        truths=("target",),
        loader=load,
        finisher=finish,
        explainer=lambda message: _explain(photos, message),
        names=tuple(path.name for path in photos),
        image_sizes=image_sizes,
    )


def _add_noise(image: tf.Tensor, sigma: float, channels: int, seed: tf.Tensor) -> tf.Tensor:
    """Adds Gaussian noise to an image.

    Args:
        image: (h, w, 3) float32 in [-1, 1].
        sigma: its deviation, of 255.
        channels: 3, or 1 for the same noise in all of them.
        seed: (2,) int32, of the example.
    """
    shape = [*tf.unstack(tf.shape(image)[:2]), channels]
    seed = fold_in(seed, -1)  # the ops of preprocessing fold in 0, 1, ...
    negative = tf.random.stateless_normal(shape, seed) * (-2 * tf.constant(sigma / 255))
    # A sum would be added up in another order, depending on what the image was made of.
    return image - tf.broadcast_to(negative, tf.shape(image))


def _to_grey(image: tf.Tensor) -> tf.Tensor:
    """Three equal channels of luma, (h, w, 3) uint8."""
    luma = tf.reduce_sum(tf.cast(image, tf.float32) * _LUMA, axis=-1, keepdims=True)
    return tf.repeat(tf.cast(tf.round(luma), tf.uint8), 3, axis=-1)


def _compress(image: tf.Tensor, quality: int, grayscale: bool, path: tf.Tensor) -> tf.Tensor:
    """What remains of an image in a JPEG, whose colours have half the resolution."""
    fits = tf.reduce_max(tf.shape(image)[:2]) <= files.LONGEST_JPEG
    message = f" has more than the {files.LONGEST_JPEG:,} pixels that a side of a JPEG can have"
    with tf.control_dependencies([tf.debugging.Assert(fits, [tf.strings.join([path, message])])]):
        image = image[..., :1] if grayscale else tf.identity(image)
    data = tf.io.encode_jpeg(image, "grayscale" if grayscale else "rgb", quality)
    return images.decode(data)
