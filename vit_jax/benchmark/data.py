"""Reading JPEGs for training on one core: ours, plain tf.data, and simplejpeg with OpenCV."""

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline import images, preprocess
from input_pipeline.cpu_tf import tf
from vit_jax.benchmark.race import OURS, Case, Contender, Goal, installed

PLAIN, FASTEST = "plain tf.data", "simplejpeg and cv2"

_SIZE = 224
_HEIGHT, _WIDTH = 375, 500  # as most of ImageNet
_COUNT = 200
_AREA, _ASPECT = (0.05, 1.0), (3 / 4, 4 / 3)


def read(goals: tuple[Goal, ...] = ()) -> Case:
    """Decoding, a random crop resized to 224 pixels, a random flip, and values in [-1, 1]."""

    def contenders(_: Path) -> Iterator[Contender]:
        files = make_jpegs(_COUNT)
        apply = preprocess.build(
            f"decode|inception_crop({_SIZE}, area={_AREA})|flip_lr|value_range(-1, 1)", train=True
        )

        def ours(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            return apply({"image": data}, seed)["image"]

        yield _of_tf_data(OURS, files, ours, images.decode)
        yield _of_tf_data(PLAIN, files, _plain, lambda data: tf.io.decode_jpeg(data, channels=3))
        if installed("simplejpeg", "cv2"):
            yield _of_simplejpeg(files)

    # Decoders differ by a few of the 255 levels.
    return Case(
        f"{_COUNT} JPEGs of {_WIDTH} x {_HEIGHT} on one core", contenders, _COUNT,
        tolerance=0.05, goals=goals,
    )  # fmt: skip


def make_jpegs(count: int) -> list[bytes]:
    """Images as smooth and as large in bytes (about 110 KB) as ImageNet's are, from noise."""
    random = np.random.default_rng(0)
    files = []
    for _ in range(count):
        image = np.zeros((_HEIGHT, _WIDTH, 3))
        for octave in range(1, 8):  # the spectrum of photos: amplitude by the inverse of frequency
            shape = (2**octave + 1, 2**octave + 1, 3)
            noise = (random.uniform(-1, 1, shape) * 0.5**octave * 127).astype(np.float32)
            channels = [
                np.asarray(Image.fromarray(noise[..., c]).resize((_WIDTH, _HEIGHT)))
                for c in range(3)
            ]
            image += 1.4 * np.stack(channels, axis=-1)
        image += random.normal(scale=9, size=image.shape)
        file = io.BytesIO()
        pixels = np.clip(image + 127, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, format="JPEG", quality=95)
        files.append(file.getvalue())
    return files


def _plain(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """What a tutorial has."""
    image = tf.io.decode_jpeg(data, channels=3)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image), tf.zeros((1, 0, 4)), seed, min_object_covered=0.0,
        aspect_ratio_range=_ASPECT, area_range=_AREA, use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    image = tf.image.resize(tf.slice(image, begin, size), (_SIZE, _SIZE), antialias=True)
    image = tf.image.stateless_random_flip_left_right(image, seed)
    return tf.ensure_shape(image / 127.5 - 1, (_SIZE, _SIZE, 3))


def _of_tf_data(
    name: str, files: list[bytes], prepare: Callable[..., Any], decode: Callable[..., Any]
) -> Contender:
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    seeds = tf.constant(np.arange(2 * len(files), dtype=np.int32).reshape(-1, 2))
    dataset = tf.data.Dataset.from_tensor_slices((files, seeds)).map(prepare)
    dataset = dataset.batch(50).with_options(options)

    def call() -> None:
        for _ in dataset.as_numpy_iterator():
            pass

    def output() -> np.ndarray:
        return np.stack([decode(data).numpy() for data in files[:5]]).astype(np.float32)

    return Contender(name, call, output)


def _of_simplejpeg(files: list[bytes]) -> Contender:
    """Without the antialiasing of the others."""
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)
    random = np.random.default_rng(0)

    def prepare(data: bytes) -> np.ndarray:
        image = simplejpeg.decode_jpeg(data)
        top, left, height, width = _random_window(random, *image.shape[:2])
        crop = image[top : top + height, left : left + width]
        crop = cv2.resize(crop, (_SIZE, _SIZE), interpolation=cv2.INTER_LINEAR)
        if random.uniform() < 0.5:
            crop = crop[:, ::-1]
        return crop.astype(np.float32) / 127.5 - 1

    def call() -> None:
        for begin in range(0, len(files), 50):
            np.stack([prepare(data) for data in files[begin : begin + 50]])

    def output() -> np.ndarray:
        return np.stack([simplejpeg.decode_jpeg(data) for data in files[:5]]).astype(np.float32)

    return Contender(FASTEST, call, output)


def _random_window(
    random: np.random.Generator, height: int, width: int
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a window as ours are drawn."""
    for _ in range(100):
        aspect = random.uniform(*_ASPECT)
        low, high = (area * height * width for area in _AREA)
        area = random.uniform(low, high)
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            return int(top), int(left), h, w
    return 0, 0, height, width


def write_folder(folder: Path, count: int) -> None:
    """Writes an image folder of two classes."""
    for i, data in enumerate(make_jpegs(count)):
        path = folder / "train" / f"class{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
