"""Data made from seeds, and the settings of which tests/golden/batches.json holds the batches.

After a change of randomness that is meant, `golden_batches.write()` writes that file again.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from configs import common
from input_pipeline import Dataset, Shard, get_dataset
from input_pipeline.cpu_tf import tf

GOLDEN = Path(__file__).parent / "golden" / "batches.json"

_FULL = "value_range(-1, 1)"
_PAIRED = "pad_to(20)|random_crop(16)|flip_lr|rot90|value_range(-1, 1)"


def _pixels(name: str, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8: smooth colours with noise, drawn by a name."""
    random = np.random.RandomState(sum(name.encode()))
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    colours = (
        random.uniform(0, 255, 3) + 90 * np.sin(6 * y + 3 * x + random.uniform(0, 6))[..., None]
    )
    return np.clip(colours + random.randint(-30, 31, (*size, 3)), 0, 255).astype(np.uint8)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_classes(folder: Path, suffix: str = ".png") -> None:
    """Writes two classes of images of several sizes, without splits."""
    for label in ("cat", "dog"):
        for i in range(10):
            pixels = _pixels(f"{label}{i}", (20 + i % 3, 18 + i % 4))
            if suffix == ".png":
                _write_png(folder / label / f"{i}.png", pixels)
            else:
                (folder / label).mkdir(parents=True, exist_ok=True)
                data = tf.io.encode_jpeg(pixels, quality=90).numpy()
                (folder / label / f"{i}{suffix}").write_bytes(data)


def write_pairs(folder: Path, scale: int = 1) -> None:
    """Writes pairs of nine scenes; the smaller images are some of the larger one's pixels."""
    for i in range(9):
        target = _pixels(f"pair{i}", (scale * (17 + i % 2), scale * (19 + i % 3)))
        _write_png(folder / "GT" / f"{i}.png", target)
        _write_png(folder / "hazy" / f"{i}_1.png", 255 - target[::scale, ::scale] // 2)


def write_photos(folder: Path) -> None:
    """Writes clear photos, of which one has a depth map as an image and one as an array."""
    for i in range(8):
        _write_png(folder / f"{i}.png", _pixels(f"photo{i}", (36 + i % 2, 40)))
    depth = np.add.outer(np.arange(36), np.arange(40))
    _write_png(folder / "0_depth.png", depth.astype(np.uint8))
    np.save(folder / "2_depth.npy", depth.astype(np.float32))


class GoldenColours(tfds.core.GeneratorBasedBuilder):
    """Images of seeds, as PNG."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(12, 10, 3)),
                "label": tfds.features.ClassLabel(names=["even", "odd"]),
            }
        )
        return self.dataset_info_from_configs(features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager: Any) -> Mapping[str, Iterable[Any]]:
        del dl_manager
        return {
            split: self._generate(split, count) for split, count in (("train", 25), ("test", 7))
        }

    def _generate(self, split: str, count: int) -> Iterable[tuple[int, dict[str, Any]]]:
        for i in range(count):
            yield i, {"image": _pixels(f"{split}{i}", (12, 10)), "label": i % 2}

    _generate_examples = _generate


def _write_tfds(file_format: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        builder = GoldenColours(data_dir=str(folder), file_format=file_format)
        builder.download_and_prepare()

    return write


_CLASSES = {
    "train_pp": "decode|inception_crop(12)|flip_lr|randaug(2, 9)|random_erasing(0.5)|" + _FULL,
    "eval_pp": "decode|resize_small(16)|central_crop(14)|normalize",
}
_PAIRS = {"kind": "pairs", "train_pp": _PAIRED, "eval_pp": _FULL}
_ENLARGED = {
    "kind": "pairs",
    "train_pp": "random_crop(16, edge_decay=0.5)|flip_lr|rot90|value_range(-1, 1)",
    "eval_pp": _FULL,
}
_HAZE = {
    "kind": "hazy_from_clear",
    "train_pp": "pad_to(40)|random_crop(32, edge_decay=0.1)|flip_lr|value_range(-1, 1)",
    "eval_pp": _FULL,
    "haze.variation": 0.7,
    "haze.draws": 2,
}
_DEGRADED = {"kind": "degraded", "train_pp": "random_crop(24)|flip_lr|rot90|" + _FULL,
             "eval_pp": _FULL, "val_pp": "central_crop(20)|" + _FULL}  # fmt: skip
_TFDS = {
    "source": "tfds:golden_colours",
    "tfds.train_split": "train[:80%]",
    "tfds.val_split": "train[80%:]",
    "tfds.shuffle_buffer": 10,
    "train_pp": "decode|resize(14)|random_crop(10)|flip_lr|value_range(-1, 1)",
    "eval_pp": "decode|resize(8)|value_range(-1, 1)",
}

# Name -> who writes the data, the factor of the targets' size, what differs in config.data.
SETTINGS: dict[str, tuple[Callable[[Path], None] | None, int, dict[str, Any]]] = {
    "digits": (None, 1, {
        "source": "digits",
        "train_pp": "grayscale_to_rgb|resize(16)|shift(2)|pad(1)|value_range(-1, 1)",
        "eval_pp": "grayscale_to_rgb|resize(16, 'bicubic')|value_range(0, 1)",
    }),
    "classes": (write_classes, 1, _CLASSES),
    "classes, cached": (write_classes, 1, {**_CLASSES, "cache": True}),
    "classes, JPEG": (lambda folder: write_classes(folder, ".jpg"), 1, _CLASSES),
    "classes, another order": (write_classes, 1, {
        "train_pp": "decode|resize_small(30)|random_crop(24, edge_decay=0.5)|pad(2, 'reflect')|"
        "shift(3)|rot90|random_erasing|normalize",
        "eval_pp": "decode|resize((9, 7))|pad(1)|value_range(-1, 1)",
    }),
    "pairs": (write_pairs, 1, _PAIRS),
    "pairs, cached": (write_pairs, 1, {**_PAIRS, "cache": True}),
    "pairs, edge_decay": (write_pairs, 1, {
        **_PAIRS,
        "train_pp": "pad_to((20, 24))|random_crop(16, edge_decay=0.7)|shift(2)|value_range(-1, 1)",
        "val_pp": "pad_to(24)|central_crop(24)|value_range(-1, 1)",
    }),
    "pairs, resized": (write_pairs, 1, {
        **_PAIRS,
        "train_pp": "inception_crop(12)|pad(2)|shift(1)|value_range(-1, 1)",
        "eval_pp": "resize_small(12)|central_crop(12)|value_range(0, 1)",
    }),
    "pairs x2": (lambda folder: write_pairs(folder, 2), 2, _ENLARGED),
    "pairs x2, cached": (lambda folder: write_pairs(folder, 2), 2, {**_ENLARGED, "cache": True}),
    "pairs x2, centre": (lambda folder: write_pairs(folder, 2), 2, {
        **_ENLARGED, "val_pp": "central_crop((22, 18))|value_range(-1, 1)",
    }),
    "pairs x3": (lambda folder: write_pairs(folder, 3), 3, {
        **_ENLARGED, "train_pp": "random_crop((18, 21))|flip_lr|value_range(-1, 1)",
    }),
    "hazy_from_clear": (write_photos, 1, _HAZE),
    "degraded, noise": (write_photos, 1, {**_DEGRADED, "degradation.sigma": 25.0}),
    "degraded, grey noise": (write_photos, 1, {
        **_DEGRADED, "degradation.sigma": 25.0, "degradation.grayscale": True,
    }),
    "degraded, noise, cached": (write_photos, 1, {
        **_DEGRADED, "degradation.sigma": 25.0, "cache": True,
    }),
    "degraded, JPEG": (write_photos, 1, {**_DEGRADED, "degradation.quality": 30}),
    "degraded x2": (write_photos, 2, {**_DEGRADED, "degradation.quality": 30}),
    "degraded x2, noise": (write_photos, 2, {**_DEGRADED, "degradation.sigma": 15.0}),
    "tfds, tfrecord": (_write_tfds("tfrecord"), 1, _TFDS),
    "tfds, array_record": (_write_tfds("array_record"), 1, _TFDS),
}  # fmt: skip


def _open(name: str, folder: Path, shard: Shard | None = None) -> Dataset:
    write_data, scale, changes = SETTINGS[name]
    if write_data is not None and not any(folder.iterdir()):
        write_data(folder)
    config = common.get_config().data
    config.source = str(folder)
    config.val_fraction = 0.2
    if name.startswith("tfds"):
        config.tfds.data_dir = str(folder)
    config.update_from_flattened_dict(changes)
    return get_dataset(config, 4, seed=5, shard=shard, devices=2, scale=scale)


def digest(batches: Iterable[Mapping[str, np.ndarray]]) -> str:
    """What tells batches from others: their keys, shapes, types and values."""
    hashed = hashlib.sha256()
    for batch in batches:
        for key, array in sorted(batch.items()):
            hashed.update(f"{key} {array.shape} {array.dtype};".encode() + array.tobytes())
    return hashed.hexdigest()[:16]


def digests(name: str, folder: Path) -> dict[str, str]:
    """Digests of the training and evaluation batches of a setting, whose data go to a folder."""
    data = _open(name, folder)
    stream = data.train_batches()
    found = {"training": digest(next(stream) for _ in range(7))}
    again = data.train_batches(start_step=11)
    found["training, step 11"] = digest(next(again) for _ in range(2))
    second = _open(name, folder, Shard(1, 2))
    stream = second.train_batches(3)
    found["training, second process"] = digest(next(stream) for _ in range(2))
    for split in data.splits:
        found[split] = digest(data.eval_batches(split))
        found[f"{split}, second process"] = digest(second.eval_batches(split))
    if hasattr(data.splits["test"], "take"):
        found["rows of test"] = digest(data.eval_batches("test", rows=[1, 0]))
    return found


def write() -> None:
    """Writes the file of digests."""
    golden = {}
    for name in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            golden[name] = digests(name, Path(folder))
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
