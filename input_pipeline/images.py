"""Decoding of image files, whatever a person has, to RGB of 8 or 16 bits.

Most files of a training set are plain JPEGs or PNGs; TensorFlow decodes those without holding
Python's lock, and crops a JPEG while decoding it. Everything else (EXIF rotation, palettes,
transparency, 16 bits, WebP, TIFF, ...) goes through Pillow. Both give the same pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from etils import epath
from PIL import Image

from input_pipeline import files
from input_pipeline.tf_or_numpy import tf

# A file is plain if its pixels begin within its first bytes, and there is no word of EXIF data or
# PNG transparency before them.
_HEADER_BYTES = 4096
_NEEDS_PILLOW = r"\C*(?:Exif|eXIf|tRNS)\C*"
_JPEG_PIXELS = (0xFF, 0xDA)
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # from which on Pillow calls an image a bomb
_RATIOS = (1, 2, 4, 8)  # by which libjpeg makes images smaller while it decodes them
_LEAST = 2  # times the pixels that are wanted, along either side, which decoding leaves
_LONGEST_PNG = 1_000_000  # pixels of a side that TensorFlow reads

Window = Callable[["tf.Tensor"], "tf.Tensor"]


def decode(data: tf.Tensor) -> tf.Tensor:
    """Decodes one image.

    Rotates by the EXIF orientation, shows transparent pixels as white, scales 16 bits to 8, takes
    the first frame of an animation.

    Args:
        data: () string, the bytes of the file.

    Returns:
        (h, w, 3) uint8.

    Raises:
        tf.errors.OpError: when run, if the bytes are not a whole image.
    """
    image = tf.case(
        [
            (_is_plain_jpeg(data), lambda: _decode_jpeg(data)),
            (_is_plain_png(data), lambda: tf.io.decode_png(data, channels=3)),
        ],
        default=lambda: _decode_with_pillow(data),
    )
    return tf.ensure_shape(image, (None, None, 3))


def decode_deep(data: tf.Tensor) -> tf.Tensor:
    """Decodes one image like `decode`, to 16 bits; 8-bit values v become 257 v.

    Args:
        data: () string, the bytes of the file.

    Returns:
        (h, w, 3) uint16.

    Raises:
        tf.errors.OpError: when run, if the bytes are not a whole image.
    """
    image = tf.case(
        [
            (_is_plain_jpeg(data), lambda: deepen(_decode_jpeg(data))),
            (_is_plain_png(data), lambda: deepen(tf.io.decode_png(data, channels=3))),
            (_is_plain_png(data, 16), lambda: tf.io.decode_png(data, 3, tf.uint16)),
        ],
        default=lambda: _decode_deep_with_pillow(data),
    )
    return tf.ensure_shape(image, (None, None, 3))


def deepen(image: tf.Tensor) -> tf.Tensor:
    """Turns uint8 into uint16, white staying white."""
    return tf.cast(image, tf.uint16) * 257


def decode_and_crop(
    data: tf.Tensor, window: Window, wanted: tuple[int, int] | None = None
) -> tf.Tensor:
    """Decodes one image and crops it; of a plain, whole JPEG only the window is decoded.

    Along the window's border the colours of a chroma-subsampled JPEG can differ slightly from
    those of `decode`, since the pixels beyond it are not there to interpolate from.

    Args:
        data: () string, the bytes of the file.
        window: from the shape (3,) int32 (h, w, channels) to (4,) int32 (top, left, height,
            width), inside the image.
        wanted: (height, width) to which the window is made smaller afterwards. A JPEG may then be
            decoded at a half, a quarter or an eighth, which leaves work out, while the window
            keeps at least twice the pixels a side; its corners become multiples of 2, 4 or 8. What
            it is made smaller to with antialiasing was 0.25, 0.34 and 0.46 of 255 levels off on
            average over 125 crops of 40 photos, and 1.3 in the worst of them.

    Returns:
        (height, width, 3) uint8; fewer if `wanted` says so.

    Raises:
        tf.errors.OpError: when run, if the bytes are not a whole image.
    """

    def crop_decoded() -> tf.Tensor:
        image = decode(data)
        return crop(image, window(tf.shape(image)))

    def crop_while_decoding() -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(data)
        whole = window(shape)
        if wanted is None:
            return _decode_window(data, whole, 1)
        times = tf.reduce_min(whole[2:] // (_LEAST * np.array(wanted, np.int32)))
        is_bomb = tf.reduce_prod(tf.cast(shape[:2], tf.int64)) > MOST_PIXELS
        times = tf.where(is_bomb, 0, times)  # which is refused at its full size alone
        choice = tf.reduce_sum(tf.cast(times >= _RATIOS[1:], tf.int32))
        branches = [functools.partial(_decode_window, data, whole, ratio) for ratio in _RATIOS]
        return tf.switch_case(choice, branches)

    # The window's decoding would not notice that a file is cut off below it, or is a bomb.
    is_whole = tf.strings.substr(data, tf.maximum(tf.strings.length(data) - 2, 0), 2) == b"\xff\xd9"
    image = tf.cond(is_whole & _is_plain_jpeg(data), crop_while_decoding, crop_decoded)
    return tf.ensure_shape(image, (None, None, 3))


def _decode_window(data: tf.Tensor, window: tf.Tensor, ratio: int) -> tf.Tensor:
    """Decodes a window of a JPEG, smaller by a ratio of libjpeg's, at whose multiples it begins."""
    return tf.raw_ops.DecodeAndCropJpeg(
        contents=data, crop_window=window // ratio, channels=3, ratio=ratio,
        dct_method="INTEGER_ACCURATE",
    )  # fmt: skip


def crop(image: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Cuts (top, left, height, width) out of an (h, w, c) image."""
    top, left, height, width = tf.unstack(window)
    return image[top : top + height, left : left + width]


def is_plain(data: tf.Tensor) -> tf.Tensor:
    """Whether the bytes of a file begin as those of a JPEG or 8-bit PNG of the common sort."""
    return _is_plain_jpeg(data) | _is_plain_png(data)


def check(data: bytes) -> None:
    """Decodes one image the way training does, and throws the pixels away.

    Raises:
        ValueError: if the bytes are not a whole image; the message says what is wrong.
    """
    files.decode_in_python(data)  # first, since it says better what is wrong, and says it quietly
    try:
        decode(tf.constant(data))
    except tf.errors.OpError as error:
        raise ValueError(error.message.splitlines()[0]) from error


def check_file(path: str) -> None:
    """Does what `check` does to a file; the ValueError names it."""
    try:
        check(epath.Path(path).read_bytes())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} ({error})") from error


def _is_plain_jpeg(data: tf.Tensor) -> tf.Tensor:
    header = tf.io.decode_raw(tf.strings.substr(data, 0, _HEADER_BYTES), tf.uint8)
    first, second = _JPEG_PIXELS
    has_pixels = tf.reduce_any((header[:-1] == first) & (header[1:] == second))
    is_jpeg = tf.strings.substr(data, 0, 3) == b"\xff\xd8\xff"
    return is_jpeg & has_pixels & _is_plain(data)


def _is_plain_png(data: tf.Tensor, bits: int = 8) -> tf.Tensor:
    signature = tf.strings.substr(data, 0, 8) == b"\x89PNG\r\n\x1a\n"
    # From byte 16 on: width and height, the bit depth, and the colour type, 0 for grey, 2 for RGB.
    head = tf.cond(
        tf.strings.length(data) > 26,
        lambda: tf.strings.substr(data, 16, 10),
        lambda: tf.constant(bytes(10)),
    )
    kind = tf.strings.substr(head, 8, 2)
    grey_or_rgb = tf.logical_or(kind == bytes([bits, 0]), kind == bytes([bits, 2]))
    # TensorFlow has a limit of its own for JPEGs, which is the same.
    sides = tf.io.decode_raw(tf.strings.substr(head, 0, 8), tf.int32, little_endian=False)
    is_small = tf.reduce_prod(tf.cast(sides, tf.int64)) <= MOST_PIXELS
    is_small &= tf.reduce_max(sides) <= _LONGEST_PNG
    header = tf.strings.substr(data, 0, _HEADER_BYTES)
    has_pixels = tf.strings.regex_full_match(header, r"\C*IDAT\C*")
    return signature & grey_or_rgb & has_pixels & is_small & _is_plain(data)


def _is_plain(data: tf.Tensor) -> tf.Tensor:
    header = tf.strings.substr(data, 0, _HEADER_BYTES)
    return tf.logical_not(tf.strings.regex_full_match(header, _NEEDS_PILLOW))


def _decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    # Accurate, as in Pillow: TensorFlow's default is faster by 1 % and off by a few grey levels.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_with_pillow(data: tf.Tensor) -> tf.Tensor:
    return _graph_of_pillow(deep=False)(data)


def _decode_deep_with_pillow(data: tf.Tensor) -> tf.Tensor:
    return _graph_of_pillow(deep=True)(data)


@functools.cache
def _graph_of_pillow(deep: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function, since eager numpy_function hands bytes over less their trailing zeros."""

    def decode_in_python(data: bytes) -> np.ndarray:
        return files.decode_in_python(data, deep)

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def decode(data: tf.Tensor) -> tf.Tensor:
        dtype = tf.uint16 if deep else tf.uint8
        return tf.numpy_function(decode_in_python, [data], dtype, stateful=False)

    return decode
