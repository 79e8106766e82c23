"""Reading JPEGs for training on one core: ours, plain tf.data, simplejpeg, OpenCV and Pillow."""

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline import fields, images, preprocess
from input_pipeline.cpu_tf import tf
from vit_jax.benchmark.goals import CV2_AREA, CV2_LINEAR, PILLOW, PLAIN_TF_DATA, SIMPLEJPEG
from vit_jax.benchmark.race import OURS, Contender, installed

_SIZE = 224
_HEIGHT, _WIDTH = 375, 500  # as most of ImageNet
_AREA, _ASPECT = (0.05, 1.0), (3 / 4, 4 / 3)
_SEEN = 20  # files whose results are compared

Window = tuple[int, int, int, int]  # top, left, height, width
# From a file, and what draws a window of (height, width), to (224, 224, 3) values up to 255.
Read = Callable[[bytes, Callable[[int, int], Window]], np.ndarray]


def read(count: int) -> Iterator[Contender]:
    """Decoding, a random crop resized to 224 pixels, a random flip, and values in [-1, 1].

    All on one core, for which TensorFlow plans as well, if nothing has begun it before.
    """
    with _on_one_core():
        yield from _contenders(count)


def _contenders(count: int) -> Iterator[Contender]:
    files = make_jpegs(count)
    apply = preprocess.build(
        f"decode|inception_crop({_SIZE}, area={_AREA})|flip_lr|value_range(-1, 1)", train=True
    )

    def ours(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return apply({"image": data}, seed)["image"]

    yield _of_tf_data(OURS, files, ours, images.decode, _read_as_ours)
    yield _of_tf_data(
        PLAIN_TF_DATA, files, _plain, lambda data: tf.io.decode_jpeg(data, channels=3), _read_plain
    )
    yield _of_python(PILLOW, files, _decode_by_pillow, _read_by_pillow)
    if installed("simplejpeg"):
        yield from _of_simplejpeg(files)


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


@contextlib.contextmanager
def _on_one_core() -> Iterator[None]:
    """Keeps this thread, and those that it begins, to one core where that can be asked for."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _of_tf_data(
    name: str,
    files: list[bytes],
    prepare: Callable[..., Any],
    decode: Callable[..., Any],
    read: Read,
) -> Contender:
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False  # which on one core waits for up to half of the time
    seeds = tf.constant(np.arange(2 * len(files), dtype=np.int32).reshape(-1, 2))
    dataset = tf.data.Dataset.from_tensor_slices((files, seeds)).map(prepare, synchronous=True)
    dataset = dataset.batch(50).with_options(options)

    @_on_one_core()
    def call() -> None:
        for _ in dataset.as_numpy_iterator():
            pass

    def output() -> np.ndarray:
        return np.stack([decode(data).numpy() for data in files[:5]]).astype(np.float32)

    return Contender(name, call, output, deviation=_deviation(files, read))


def _of_python(
    name: str, files: list[bytes], decode: Callable[[bytes], np.ndarray], read: Read
) -> Contender:
    random = np.random.default_rng(0)

    def prepare(data: bytes) -> np.ndarray:
        image = read(data, lambda height, width: _random_window(random, height, width))
        if random.uniform() < 0.5:
            image = image[:, ::-1]
        return image.astype(np.float32) / 127.5 - 1

    @_on_one_core()
    def call() -> None:
        for begin in range(0, len(files), 50):
            np.stack([prepare(data) for data in files[begin : begin + 50]])

    def output() -> np.ndarray:
        return np.stack([decode(data) for data in files[:5]]).astype(np.float32)

    return Contender(name, call, output, deviation=_deviation(files, read))


def _of_simplejpeg(files: list[bytes]) -> Iterator[Contender]:
    import simplejpeg

    def by_pillow(data: bytes, draw: Callable[[int, int], Window]) -> np.ndarray:
        image = simplejpeg.decode_jpeg(data)
        top, left, height, width = draw(*image.shape[:2])
        crop = Image.fromarray(image[top : top + height, left : left + width])
        return np.asarray(crop.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR))

    yield _of_python(SIMPLEJPEG, files, simplejpeg.decode_jpeg, by_pillow)
    if not installed("cv2"):
        return
    import cv2

    cv2.setNumThreads(1)

    def by_cv2(interpolation: int) -> Read:
        def read(data: bytes, draw: Callable[[int, int], Window]) -> np.ndarray:
            image = simplejpeg.decode_jpeg(data)
            top, left, height, width = draw(*image.shape[:2])
            crop = image[top : top + height, left : left + width]
            return cv2.resize(crop, (_SIZE, _SIZE), interpolation=interpolation)

        return read

    yield _of_python(CV2_AREA, files, simplejpeg.decode_jpeg, by_cv2(cv2.INTER_AREA))
    yield _of_python(CV2_LINEAR, files, simplejpeg.decode_jpeg, by_cv2(cv2.INTER_LINEAR))


def _decode_by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def _read_by_pillow(data: bytes, draw: Callable[[int, int], Window]) -> np.ndarray:
    """By its draft mode, where an image is large enough for it, and `reducing_gap`."""
    image = Image.open(io.BytesIO(data))
    whole = image.size
    top, left, height, width = draw(whole[1], whole[0])
    smaller = max(min(height, width) // _SIZE, 1)
    image.draft("RGB", (whole[0] // smaller, whole[1] // smaller))
    x, y = image.size[0] / whole[0], image.size[1] / whole[1]
    box = (left * x, top * y, (left + width) * x, (top + height) * y)
    bilinear = Image.Resampling.BILINEAR
    return np.asarray(image.resize((_SIZE, _SIZE), bilinear, box, reducing_gap=2.0))


def _read_as_ours(data: bytes, draw: Callable[[int, int], Window]) -> np.ndarray:
    image = images.decode_and_crop(tf.constant(data), lambda _: tf.constant(draw(_HEIGHT, _WIDTH)))
    return fields.resized(image, fields.Kind.IMAGE, (_SIZE, _SIZE), "bilinear").numpy()


def _read_plain(data: bytes, draw: Callable[[int, int], Window], **decoding: str) -> np.ndarray:
    image = tf.io.decode_jpeg(data, channels=3, **decoding)
    crop = images.crop(image, tf.constant(draw(*image.shape[:2])))
    return tf.image.resize(crop, (_SIZE, _SIZE), antialias=True).numpy()


def _deviation(files: list[bytes], read: Read) -> float:
    """How far results are from those of exact decoding and antialiasing, on average, of 255."""
    random = np.random.default_rng(1)
    found = []
    for data in files[:_SEEN]:
        window = _random_window(random, _HEIGHT, _WIDTH)
        exact = _read_plain(data, lambda *_, w=window: w, dct_method="INTEGER_ACCURATE")
        found.append(np.abs(read(data, lambda *_, w=window: w).astype(np.float32) - exact).mean())
    return float(np.mean(found))


def _random_window(random: np.random.Generator, height: int, width: int) -> Window:
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
