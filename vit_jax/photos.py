"""A person's image files, read for a model and written back as they were: depth, mode, metadata."""

import dataclasses
import io
import logging
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.Image import Transpose

from input_pipeline import files

_LOG = logging.getLogger(__name__)

_PNG = b"\x89PNG\r\n\x1a\n"
# Parts of a PNG that hold for other pixels, too: colours, EXIF, resolution, texts and time.
_METADATA_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"eXIf", b"pHYs", b"tEXt", b"zTXt",
                    b"iTXt", b"tIME")  # fmt: skip
# How well formats that lose something are written; a lossless WebP stays one.
_QUALITIES: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "MPO": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95, "exact": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
# Pixels that a side can have; of others, Pillow says so itself.
_LONGEST = {
    "JPEG": files.LONGEST_JPEG,
    "MPO": files.LONGEST_JPEG,
    "WEBP": 16_383,
    "GIF": 65_535,
    "ICO": 256,
}
# Of a TIFF: description, make, model, resolution, software, date, artist, copyright.
_TIFF_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)

# EXIF orientation -> how to turn the stored pixels upright, and back.
_TURNS = {
    2: (Transpose.FLIP_LEFT_RIGHT, Transpose.FLIP_LEFT_RIGHT),
    3: (Transpose.ROTATE_180, Transpose.ROTATE_180),
    4: (Transpose.FLIP_TOP_BOTTOM, Transpose.FLIP_TOP_BOTTOM),
    5: (Transpose.TRANSPOSE, Transpose.TRANSPOSE),
    6: (Transpose.ROTATE_270, Transpose.ROTATE_90),
    7: (Transpose.TRANSVERSE, Transpose.TRANSVERSE),
    8: (Transpose.ROTATE_90, Transpose.ROTATE_270),
}


@dataclasses.dataclass(frozen=True)
class Photo:
    """An image file's pixels, and what it takes to write others in their place.

    Attributes:
        pixels: (h, w, 3) float32 in [-1, 1], upright.
        stored: the image as Pillow read it; None if it is a 16-bit PNG.
        data: the bytes of the file.
    """

    pixels: np.ndarray
    stored: Image.Image | None
    data: bytes

    def encode(self, pixels: np.ndarray) -> bytes:
        """Makes the bytes of a file like this one with other pixels.

        Depth, mode, transparency and format stay; so do EXIF data, colour profile, resolution, XMP,
        comments, the texts of a PNG and the authorship of a TIFF. What a palette showed is written
        without it (a GIF gets a new one), and black and white as grey. JPEG, AVIF and WebP are
        written with quality 95, the last without loss if it was. Transparency is enlarged with the
        image. Of CMYK, black keeps its share of what is dark in a pixel, and what does not change
        stays to the last bit before compression.

        Args:
            pixels: (h, w, 3) in [-1, 1], upright, of any size; what lies outside is clipped.

        Raises:
            ValueError: if the format cannot be as large.
        """
        unit = (np.clip(pixels, -1, 1) + 1) / 2
        if self.stored is None:
            return _encode_deep_png(unit, self.data)
        encoded = _encode_with_pillow(unit, self.stored, _is_lossless_webp(self.data))
        return _with_metadata(encoded, self.data) if self.stored.format == "PNG" else encoded

    def picture(self, pixels: np.ndarray) -> Image.Image:
        """Makes an upright picture of other pixels: RGB, or RGBA if this is transparent.

        Args:
            pixels: (h, w, 3) in [-1, 1], upright, of any size; what lies outside is clipped.
        """
        image = Image.fromarray(show(pixels))
        stored = self.stored or Image.open(io.BytesIO(self.data))
        if stored.has_transparency_data:
            alpha = _upright(stored).convert("RGBA").getchannel("A")
            image.putalpha(alpha.resize(image.size, Image.BICUBIC))
        return image


def find_images(paths: Iterable[str]) -> list[Path]:
    """Lists the images that are meant.

    Args:
        paths: files, which are taken as they are, and folders, which are searched through.

    Returns:
        Paths of files, those of a folder sorted; see `files.list_files` for what is left out.

    Raises:
        ValueError: if a folder holds no images.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        everything = files.list_files(path)
        inside = list(filter(files.is_image, everything))
        others = [file for file in everything if not files.is_image(file)]
        files.tell_left_out(path, others, "files are no images by their names and are left out")
        if not inside:
            raise ValueError(f"folder {path} holds no images ({', '.join(files.SUFFIXES)})")
        found.extend(inside)
    return found


def read(path: Path, data: bytes | None = None) -> Photo:
    """Reads an image file.

    Args:
        path: of the file.
        data: its contents, if they are known.

    Raises:
        ValueError: if it is no image, or one that cannot be written as it was.
        OSError: if it cannot be read.
    """
    data = path.read_bytes() if data is None else data
    is_deep_png = data[:8] == _PNG and data[24:25] == b"\x10"
    with files.opened(io.BytesIO(data)) as image:
        if not is_deep_png:
            image.load()
    frames = _count_frames(data)
    if frames > 1:
        _LOG.warning("%s has %d frames; only the first is restored", path, frames)
    if is_deep_png:
        return Photo(_decode_deep_png(data), None, data)
    Image.init()
    if image.format not in Image.SAVE:
        raise ValueError(f"{image.format} files can be read but not written; convert it to PNG")
    if image.format == "TIFF" and max(image.tag_v2.get(258, (8,))) > 8 and not _is_deep(image):
        raise ValueError("a TIFF of more than 8 bits per colour; convert it to a 16-bit PNG")
    return Photo(_to_pixels(image), image, data)


def _count_frames(data: bytes) -> int:
    """The number of frames of an image file, which Pillow tells of one that is not decoded yet."""
    try:
        with files.opened(io.BytesIO(data)) as image:
            return getattr(image, "n_frames", 1)
    except ValueError:
        return 1  # of one that is damaged further on, if not at once


def explain(error: Exception) -> str:
    """Says in a line what is wrong with a file, of which reading or use raised an error."""
    reason = (getattr(error, "strerror", None) or str(error)).strip().partition("\n")[0]
    if isinstance(error, ValueError | OSError) and reason:
        return reason
    return f"{type(error).__name__}: {reason}".rstrip(": ")


def show(pixels: np.ndarray) -> np.ndarray:
    """Turns pixels in [-1, 1] into uint8 ones."""
    return np.round((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)


def side_by_side(pictures: Sequence[Image.Image], gap: int = 0) -> bytes:
    """A PNG of pictures of one size, with white between them."""
    width, height = pictures[0].size
    whole = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), "white")
    for i, picture in enumerate(pictures):
        whole.paste(picture, (i * (width + gap), 0))
    data = io.BytesIO()
    whole.save(data, "PNG")
    return data.getvalue()


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I")


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _upright(image: Image.Image) -> Image.Image:
    turn, _ = _TURNS.get(_orientation(image), (None, None))
    return image if turn is None else image.transpose(turn)


def _to_pixels(image: Image.Image) -> np.ndarray:
    image = _upright(image)
    if image.mode == "F":
        raise ValueError("a floating-point image; convert it to 8 or 16 bits first")
    if not _is_deep(image):
        if image.has_transparency_data:
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB"), np.float32) / 127.5 - 1
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("an integer image of more than 16 bits; convert it to 8 or 16 first")
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.float32) / 32767.5 - 1


def _is_lossless_webp(data: bytes) -> bool:
    """Whether the chunk of pixels that comes first, maybe after metadata, is lossless."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return False
    lossy, lossless = data.find(b"VP8 "), data.find(b"VP8L")
    return lossless >= 0 and (lossy < 0 or lossless < lossy)


def _encode_with_pillow(unit: np.ndarray, stored: Image.Image, lossless: bool) -> bytes:
    longest = _LONGEST.get(stored.format)
    if longest is not None and max(unit.shape[:2]) > longest:
        raise ValueError(
            f"{stored.format} files have at most {longest:,} pixels a side, and this would have "
            f"{unit.shape[1]:,} x {unit.shape[0]:,}: convert it to PNG first"
        )
    if _is_deep(stored):
        grey = np.round(_luma(unit) * 65535).astype(np.uint16)
        image = Image.fromarray(grey)
    else:
        image = Image.fromarray(np.round(unit * 255).astype(np.uint8))
    _, back = _TURNS.get(_orientation(stored), (None, None))
    if back is not None:
        image = image.transpose(back)
    if stored.has_transparency_data:
        alpha = stored.convert("RGBA").getchannel("A")
        image.putalpha(alpha.resize(image.size, Image.BICUBIC))
        image = image.convert("LA") if stored.mode in ("LA", "L", "1") else image
    elif stored.mode in ("L", "1"):
        image = image.convert("L")
    elif stored.mode == "CMYK":
        image = _to_cmyk(image, stored)
    elif stored.mode in ("YCbCr", "HSV", "LAB"):
        image = _to_mode(image, stored)
    options = {k: stored.info[k] for k in ("exif", "icc_profile", "dpi", "xmp", "comment")
               if k in stored.info}  # fmt: skip
    if "exif" in options and image.size != stored.size:
        options["exif"] = _exif_of_size(stored, image.size)
    options |= {"lossless": True, "exact": True} if lossless else _QUALITIES.get(stored.format, {})
    if stored.format == "AVIF" and image.mode == "L":
        options["subsampling"] = "4:0:0"
    if stored.format == "ICO":
        options["sizes"] = [image.size]
    if stored.format == "TIFF":
        options.pop("dpi", None)  # a TIFF without one gets a resolution of 1 from Pillow
        options["tiffinfo"] = {k: stored.tag_v2[k] for k in _TIFF_TAGS if k in stored.tag_v2}
        if stored.mode != "1":  # whose compressions are for it alone
            options["compression"] = stored.info.get("compression")
        if "jpeg" in str(options.get("compression")):
            options["quality"] = 95
    written = io.BytesIO()
    image.save(written, stored.format, **({} if stored.format == "PNG" else options))
    return written.getvalue()


def _to_cmyk(image: Image.Image, stored: Image.Image) -> Image.Image:
    """Turns RGB into CMYK with as much black as a stored image had.

    Black keeps its share of the grey component, 255 - max(R, G, B); the inks are what then shows
    the colours. Of the values that show the same, those nearest to the stored ones are taken. As
    everywhere here, what CMYK shows is Pillow's R = (1 - C)(1 - K), whatever its profile.

    Args:
        image: RGB, of any size.
        stored: CMYK.
    """
    stored = stored.resize(image.size, Image.BICUBIC)  # of the same size, a copy
    shown = np.asarray(stored.convert("RGB"), np.int64)
    stored_values = np.asarray(stored, np.int64)
    inks, black = stored_values[..., :3], stored_values[..., 3:]
    new = np.asarray(image, np.int64)
    grey, new_grey = (255 - rgb.max(axis=-1, keepdims=True) for rgb in (shown, new))
    black = np.minimum(np.round(black * new_grey / np.maximum(grey, 1)).astype(np.int64), new_grey)
    paper = 255 - black  # what black leaves, of which the inks take some
    taken = paper - new
    least = np.ceil((taken - 0.5) * 255 / np.maximum(paper, 1))
    most = np.floor((taken + 0.5) * 255 / np.maximum(paper, 1))
    inks = np.where(paper, np.clip(inks, least, most), inks)
    values = np.concatenate([np.clip(inks, 0, 255), black], axis=-1)
    return Image.frombytes("CMYK", image.size, values.astype(np.uint8).tobytes())


def _to_mode(image: Image.Image, stored: Image.Image) -> Image.Image:
    """Turns RGB into a stored image's YCbCr, HSV or LAB, which can show colours that RGB cannot.

    What shows the same as before stays as it was.
    """
    stored = stored.resize(image.size, Image.BICUBIC)
    changed = np.any(np.asarray(image) != np.asarray(stored.convert("RGB")), axis=-1)
    if stored.mode == "LAB":  # `convert` goes in the other direction alone
        rgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        new = ImageCms.applyTransform(image, ImageCms.buildTransform(rgb, lab, "RGB", "LAB"))
    else:
        new = image.convert(stored.mode)
    stored.paste(new, mask=Image.fromarray(changed))
    return stored


def _exif_of_size(stored: Image.Image, size: tuple[int, int]) -> bytes:
    """EXIF data that name another size, without the old preview."""
    exif = stored.getexif()
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, side in zip((ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size):
        if tag in details:
            details[tag] = side
    return exif.tobytes()


def _luma(unit: np.ndarray) -> np.ndarray:
    """Grey as Pillow has it."""
    return unit @ np.array([0.299, 0.587, 0.114], np.float32)


# Pillow reads and writes PNGs of 16 bits with one channel only; TensorFlow does all of them.


def _decode_deep_png(data: bytes) -> np.ndarray:
    channels = _channels_of_deep_png(data)
    colors = channels[..., : 3 if channels.shape[-1] > 2 else 1]
    pixels = colors.astype(np.float32) / 32767.5 - 1
    return np.repeat(pixels, 3 // pixels.shape[-1], axis=-1)


def _channels_of_deep_png(data: bytes) -> np.ndarray:
    """(h, w, channels) uint16: grey, grey and alpha, RGB, or RGB and alpha."""
    from input_pipeline.cpu_tf import tf  # TensorFlow takes seconds to import

    try:
        return tf.io.decode_png(data, dtype=tf.uint16).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"not a whole PNG: {error.message.splitlines()[0]}") from error


def _encode_deep_png(unit: np.ndarray, original: bytes) -> bytes:
    from input_pipeline.cpu_tf import tf

    stored = _channels_of_deep_png(original)
    alpha = tf.image.resize(stored[..., -1:], unit.shape[:2], "bicubic")
    channels = np.empty((*unit.shape[:2], stored.shape[-1]), np.uint16)
    channels[..., -1:] = np.clip(np.round(alpha), 0, 65535)  # or a colour, which is written below
    if channels.shape[-1] > 2:
        channels[..., :3] = np.round(unit * 65535)
    else:
        channels[..., 0] = np.round(_luma(unit) * 65535)
    return _with_metadata(tf.io.encode_png(channels).numpy(), original)


def _with_metadata(png: bytes, original: bytes) -> bytes:
    """Copies what another PNG says besides its pixels."""
    header, *rest = (chunk for chunk in _chunks(png) if chunk[0] not in _METADATA_CHUNKS)
    metadata = [chunk for chunk in _chunks(original) if chunk[0] in _METADATA_CHUNKS]
    return _PNG + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [header, *metadata, *rest]
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the content of each part of a PNG file."""
    position, kind = len(_PNG), b""
    while kind != b"IEND" and position + 8 <= len(data):  # it may be missing, or not the end
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, data[position + 8 : position + 8 + length]
        position += length + 12
