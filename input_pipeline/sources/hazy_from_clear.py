"""Hazy images made from clear photos, by the atmospheric scattering model.

A hazy image is I = J t + A (1 - t) with the clear image J, the airlight A and the transmission
t = exp(-beta d), where d is the depth from 0 to 1. The depth is that of NAME_depth beside the photo
NAME, an image (grey, white is farthest) or a .npy of (h, w) numbers (0 is nearest, the highest is
farthest), or else a smooth random field, farther towards the top.

Source: Koschmieder's law, as in Li et al., "Benchmarking Single-Image Dehazing and Beyond" (TIP
2019), whose ranges of beta and A for the indoor training set are the defaults.
"""

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import files, images
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import pairs, splitting
from input_pipeline.sources.base import Example, IndexedSource, Source, fold_in

_LOG = logging.getLogger(__name__)

_ARRAY = ".npy"
_FIELD_CELLS = 4  # control points of a random field along each side
_EVAL_SEED = 0


def splits(config: Any) -> dict[str, Source]:
    """Finds the photos of a folder.

    Args:
        config: `config.data`, of which `source`, `val_fraction`, `split_seed`, `skip_corrupt` and
            `haze` are read. The folder may have train, val and test folders; what is missing is
            split off train by `splitting`. When training, a photo gets other haze in every
            epoch; in the other splits it stands for `haze.draws` images, whose haze is always the
            same.

    Returns:
        Sources by split name.

    Raises:
        ValueError: for a folder that is missing, or without photos, or ranges that do not fit.
    """
    _check_ranges(config.haze)
    folders = splitting.find_splits(Path(config.source).expanduser())
    photos = {name: pairs.find_clear_photos(folder) for name, folder in folders.items()}
    found: dict[str, Sequence[Path]] = {name: some.images for name, some in photos.items()}
    depth = {photo: path for some in photos.values() for photo, path in some.depth.items()}
    unknown = [path for path in depth.values() if not _is_depth(path)]
    if unknown:
        raise ValueError(
            f"{unknown[0]} is no depth map that can be read: make it an image or .npy, or remove it"
        )
    _LOG.info("%d of %d photos have a depth map", len(depth), sum(map(len, found.values())))
    if config.skip_corrupt:
        check = functools.partial(_check_with_depth, depth=depth)
        found = {name: files.without_faults(photos, check, name) for name, photos in found.items()}
    found = splitting.split_off_scenes(found, lambda path: path.stem, config)
    return {
        name: _source(photos, depth, config.haze, 1 if name == "train" else config.haze.draws)
        for name, photos in found.items()
    }


def _check_ranges(haze: Any) -> None:
    for name, highest in (("beta", np.inf), ("airlight", 1)):
        value = tuple(haze[name])
        if len(value) != 2 or not 0 <= value[0] <= value[1] <= highest:
            raise ValueError(
                f"data.haze.{name} must be (lowest, highest) from 0 to {highest}, not {value}"
            )
    if haze.draws < 1:
        raise ValueError(f"data.haze.draws must be at least 1, not {haze.draws}")
    if not 0 <= haze.variation <= 1:
        raise ValueError(f"data.haze.variation must lie in [0, 1], not {haze.variation}")


def _is_depth(path: Path) -> bool:
    return files.is_image(path) or path.suffix.lower() == _ARRAY


def _source(
    photos: Sequence[Path], depth: Mapping[Path, Path], haze: Any, draws: int
) -> IndexedSource:
    rows = [path for path in photos for _ in range(draws)]
    beta, airlight, variation = tuple(haze.beta), tuple(haze.airlight), haze.variation

    def load(example: Example) -> Example:
        clear = images.decode_deep(tf.io.read_file(example["photo"]))
        fixed = fold_in(tf.constant([_EVAL_SEED, 0], tf.int32), example["index"])
        seed = fold_in(example.get("seed", fixed), -1)  # the ops of preprocessing fold in 0, 1, ...
        size = tf.shape(clear)[:2]
        depth = tf.cond(
            example["depth"] == "",
            lambda: random_depth(size, fold_in(seed, 0)),
            lambda: _read_depth(example["depth"], size),
        )
        clear_unit = tf.cast(clear, tf.float32) / clear.dtype.max
        hazy = add_haze(clear_unit, depth, fold_in(seed, 1), beta, airlight, variation)
        return {"image": tf.cast(tf.round(hazy * clear.dtype.max), clear.dtype), "target": clear}

    return IndexedSource(
        {
            "photo": np.array([str(path) for path in rows]),
            "depth": np.array([str(depth.get(path, "")) for path in rows]),
        },
        truths=("target",),
        loader=load,
        explainer=lambda message: _explain(photos, depth, message),
        names=tuple(path.name for path in rows),
        image_sizes=lambda: files.read_sizes(rows),
        loads_alike=False,
    )


def _read_depth(path: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    depth = tf.cond(
        tf.strings.regex_full_match(tf.strings.lower(path), r".*\.npy"),
        lambda: tf.ensure_shape(
            tf.numpy_function(_read_array, [path], tf.float32, stateful=False), (None, None)
        ),
        lambda: tf.cast(images.decode_deep(tf.io.read_file(path))[..., 0], tf.float32),
    )
    fits = tf.reduce_all(tf.shape(depth) == size)
    message = "a depth map has another size than its photo: "
    with tf.control_dependencies([tf.debugging.Assert(fits, [tf.strings.join([message, path])])]):
        highest = tf.reduce_max(depth)
        return depth / tf.where(highest > 0, highest, 1)


def _read_array(path: bytes | Path) -> np.ndarray:
    """Reads a depth map that is stored as an array."""
    path = Path(os.fsdecode(path))
    try:
        depth = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if depth.ndim == 3 and 1 in (depth.shape[0], depth.shape[-1]):
        depth = depth.reshape([side for side in depth.shape if side != 1] or (1, 1))
    is_depth = depth.ndim == 2 and depth.dtype.kind in "fiu" and depth.size
    if not is_depth or not np.isfinite(depth).all() or depth.min() < 0:
        raise ValueError(
            f"{path} is no depth map: (h, w) finite numbers from 0 are expected, not {depth.shape} "
            f"{depth.dtype}"
        )
    return depth.astype(np.float32)


def random_depth(size: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A smooth random depth map, farther towards the top.

    Args:
        size: (2,) int32, height and width.
        seed: (2,) int32.

    Returns:
        (height, width) float32 from 0 to 1.
    """
    cells = tf.random.stateless_uniform((_FIELD_CELLS, _FIELD_CELLS), seed)
    return _unit_range(_enlarge(cells + tf.linspace(1.0, 0.0, _FIELD_CELLS)[:, None], size))


def _enlarge(cells: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.image.resize(cells[..., None], size, "bicubic")[..., 0]


def _unit_range(x: tf.Tensor) -> tf.Tensor:
    low, high = tf.reduce_min(x), tf.reduce_max(x)
    return (x - low) / tf.maximum(high - low, 1e-6)


def add_haze(
    clear: tf.Tensor,
    depth: tf.Tensor,
    seed: tf.Tensor,
    beta: tuple[float, float],
    airlight: tuple[float, float],
    variation: float = 0.0,
) -> tf.Tensor:
    """Makes a clear image hazy.

    Args:
        clear: (h, w, 3) float32 in [0, 1].
        depth: (h, w) float32 in [0, 1].
        seed: (2,) int32.
        beta: lowest and highest scattering coefficient, per unit of depth.
        airlight: lowest and highest brightness of the haze, the same for all colours.
        variation: how much the haze's density varies smoothly from place to place; at 0 it is the
            same everywhere, at 1 it goes from none to twice the drawn beta.

    Returns:
        (h, w, 3) float32 in [0, 1].
    """
    drawn_beta = tf.random.stateless_uniform((), fold_in(seed, 0), *beta)
    drawn_airlight = tf.random.stateless_uniform((), fold_in(seed, 1), *airlight)
    density = drawn_beta
    if variation:
        cells = tf.random.stateless_uniform((_FIELD_CELLS, _FIELD_CELLS), fold_in(seed, 2))
        field = _unit_range(_enlarge(cells, tf.shape(depth)))
        density *= 1 + variation * (2 * field - 1)
    transmission = tf.exp(-density * depth)[..., None]
    return clear * transmission + drawn_airlight * (1 - transmission)


def _explain(photos: Sequence[Path], depth: Mapping[Path, Path], message: str) -> str:
    check = functools.partial(_check_with_depth, depth=depth)
    faults = list(files.find_faults(photos, check).values())
    return f"{faults[0]}. Remove it, or repair it" if faults else message


def _check_with_depth(photo: Path, depth: Mapping[Path, Path]) -> None:
    """Reads a photo and its depth map; raises a ValueError that names what cannot be read."""
    files.check_readable(photo)
    if photo not in depth:
        return
    if depth[photo].suffix.lower() == _ARRAY:
        _read_array(depth[photo])
    else:
        files.check_readable(depth[photo])
