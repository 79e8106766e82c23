"""Files of optical flow: Middlebury's .flo, PFM, and KITTI's 16-bit PNG.

A flow is (h, w, 2) float32, by how many pixels each point of the first image moves to the right,
[..., 0], and down, [..., 1]. Where it is not known, readers say so, and leave the numbers as they
are in the file.

Sources: Baker et al., "A Database and Evaluation Methodology for Optical Flow" (IJCV 2011), for
.flo; the development kit of KITTI 2015 for PNGs, whose writer truncates, where this one rounds.
"""

import dataclasses
import math
import os
import re
import struct
from pathlib import Path

import numpy as np

SUFFIXES = (".flo", ".pfm", ".png")
LIMIT = 1000.0  # pixels, from which on neither part of a flow is believed

_MOST_FLOW = 1e9  # pixels, above which a number stands for an unknown flow
_FLO = b"PIEH"  # the float32 202021.25, little-endian
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PFM = re.compile(rb"(PF|Pf)\s+(\d{1,18})\s+(\d{1,18})\s+([^\s]{1,40})(?:\r\n|\s)")
_HEAD_BYTES = 256  # more than any header takes
_MOST_SIDE = 1 << 17  # pixels
_MOST_PIXELS = 1 << 27  # of a PNG, which can be far larger than its file
_MOST_DEFLATED = 1032  # times smaller than what is compressed a deflated stream can be
_STEPS = 64  # of KITTI's numbers per pixel
_ZERO = 1 << 15  # KITTI's number of no motion


@dataclasses.dataclass(frozen=True)
class _Header:
    """What the beginning of a file of plain numbers says.

    Attributes:
        shape: (h, w, c).
        start: the byte with which the numbers begin.
        dtype: of a number.
    """

    shape: tuple[int, int, int]
    start: int
    dtype: str


def read(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file of optical flow, of the format that its ending says.

    Args:
        path: of a .flo, .pfm or .png file.

    Returns:
        The flow, (h, w, 2) float32 pixels, and where it is known, (h, w) bool.

    Raises:
        ValueError: if it is damaged, or of another format; the message names it.
        OSError: if it cannot be opened.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")
    with path.open("rb") as file:
        _check_head(file.read(_HEAD_BYTES), os.fstat(file.fileno()).st_size, str(path))
        file.seek(0)
        return decode(file.read(), str(path))


def decode(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the bytes of a file as `read` does; the name's ending says its format."""
    decoders = {".flo": decode_flo, ".pfm": decode_pfm, ".png": decode_kitti_png}
    return decoders[_suffix(name)](data, name)


def decode_flo(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a .flo file; see `read`.

    Args:
        data: the bytes of the file.
        name: of the file, for messages.

    Returns:
        The flow, and where both of its numbers are below `LIMIT`, which those that stand for an
        unknown flow are not.
    """
    flow = _numbers(data, _flo_header(data, len(data), name)).astype(np.float32)
    return flow, _is_known(flow)


def decode_pfm(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a PFM file of 3 channels, of which the third is not looked at; see `decode_flo`."""
    pixels = decode_pfm_pixels(data, name)
    if pixels.shape[-1] != 3:
        raise ValueError(
            f"{name} is a PFM file of 1 channel (Pf), where a flow has 3 (PF): is it a disparity?"
        )
    flow = np.ascontiguousarray(pixels[..., :2])
    return flow, _is_known(flow)


def decode_pfm_pixels(data: bytes, name: str) -> np.ndarray:
    """Decodes a PFM file to (h, w, 1) or (h, w, 3) float32; its scale's size is not looked at."""
    return _numbers(data, _pfm_header(data, len(data), name))[::-1].astype(np.float32)


def decode_kitti_png(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a PNG of KITTI's: red and green are 64 times the flow, plus 2^15; blue says if known.

    Args:
        data: the bytes of the file.
        name: of the file, for messages.

    Returns:
        The flow, which is usually (-512, -512) where it is not known, and where it is.
    """
    height, width = _png_size(data, len(data), name)
    end = data.rfind(_PNG_END)
    if end < 0:
        raise ValueError(f"{name} is cut off: a PNG file without an end")
    if len(data) > end + len(_PNG_END):
        raise ValueError(f"{name} has {len(data) - end - len(_PNG_END)} bytes after its end")
    from input_pipeline.cpu_tf import tf  # takes seconds to import

    try:
        pixels = tf.io.decode_png(tf.constant(data), channels=3, dtype=tf.uint16).numpy()
    except tf.errors.OpError:
        raise ValueError(f"{name} is a damaged PNG file") from None
    assert pixels.shape == (height, width, 3)
    flow = (pixels[..., :2].astype(np.float32) - _ZERO) / _STEPS
    return flow, pixels[..., 2] > 0


def encode_flo(flow: np.ndarray) -> bytes:
    """Encodes a flow, (h, w, 2) numbers, as a .flo file."""
    flow = _checked(flow)
    height, width, _ = flow.shape
    return _FLO + struct.pack("<ii", width, height) + flow.astype("<f4").tobytes()


def encode_pfm(flow: np.ndarray, big_endian: bool = False) -> bytes:
    """Encodes a flow, (h, w, 2) numbers, as a PFM file, whose third channel is 0."""
    return encode_pfm_pixels(np.pad(_checked(flow), [(0, 0), (0, 0), (0, 1)]), big_endian)


def encode_pfm_pixels(pixels: np.ndarray, big_endian: bool = False) -> bytes:
    """Encodes (h, w, 1) or (h, w, 3) numbers as a PFM file."""
    height, width, channels = pixels.shape
    kind = {1: "Pf", 3: "PF"}.get(channels)
    if kind is None or not pixels.size:
        raise ValueError(f"a PFM file has 1 or 3 channels, and this is {pixels.shape}")
    head = f"{kind}\n{width} {height}\n{1.0 if big_endian else -1.0}\n".encode()
    return head + pixels[::-1].astype(">f4" if big_endian else "<f4").tobytes()


def encode_kitti_png(flow: np.ndarray, valid: np.ndarray | None = None) -> bytes:
    """Encodes a flow as KITTI's 16-bit PNG, rounded to 1/64 pixel, and at most 512 pixels long.

    Args:
        flow: (h, w, 2) numbers.
        valid: (h, w), whether each is known; by default all are. What is not, and what is NaN or
            above 1e9, which stands for an unknown flow, is 0 in all channels.

    Returns:
        The bytes of the file.
    """
    flow = _checked(flow).astype(np.float64)  # in float32 a sum would be rounded before it is
    known = (np.abs(flow) <= _MOST_FLOW).all(-1)
    if valid is not None:
        if np.shape(valid) != known.shape:
            raise ValueError(
                f"valid has the shape {np.shape(valid)}, where the flow's pixels are {known.shape}"
            )
        known &= np.asarray(valid, bool)
    flow = np.where(known[..., None], flow, 0)
    numbers = np.clip(np.rint(flow * _STEPS + _ZERO), 0, 2 * _ZERO - 1)
    pixels = np.concatenate([numbers, np.ones((*known.shape, 1))], axis=-1) * known[..., None]
    from input_pipeline.cpu_tf import tf  # takes seconds to import

    return bytes(tf.io.encode_png(pixels.astype(np.uint16)).numpy())


def _checked(flow: np.ndarray) -> np.ndarray:
    flow = np.asarray(flow)
    if flow.ndim != 3 or flow.shape[-1] != 2 or not flow.size:
        raise ValueError(f"a flow has the shape (h, w, 2), and this is {flow.shape}")
    return flow


def _is_known(flow: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        small = np.abs(flow) < LIMIT
    return small[..., 0] & small[..., 1]  # many times as fast as .all(-1)


def _suffix(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{name} is no file of optical flow by its name: {', '.join(SUFFIXES)}")
    return suffix


def _check_head(head: bytes, size: int, name: str) -> None:
    """Raises a ValueError if the beginning of a file says what a file of its size cannot hold."""
    checks = {".flo": _flo_header, ".pfm": _pfm_header, ".png": _png_size}
    checks[_suffix(name)](head, size, name)


def _flo_header(head: bytes, size: int, name: str) -> _Header:
    _check_magic(head, (_FLO,), name, ".flo")
    if len(head) < 12:
        raise ValueError(f"{name} is cut off: it has {size} bytes, fewer than the header of a .flo")
    width, height = struct.unpack("<ii", head[4:12])
    header = _Header((height, width, 2), 12, "<f4")
    _check_header(header, size, name)
    return header


def _pfm_header(head: bytes, size: int, name: str) -> _Header:
    _check_magic(head, (b"PF", b"Pf"), name, "PFM")
    match = _PFM.match(head[:_HEAD_BYTES])
    if match is None:
        raise ValueError(
            f"{name} has no whole header of a PFM file: PF, width and height, scale, a line each"
        )
    kind, width, height, text = match.groups()
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not scale or math.isnan(scale):
        raise ValueError(
            f"{name} has the scale {text.decode('latin-1')!r}, which must be a number other than 0"
        )
    shape = (int(height), int(width), 3 if kind == b"PF" else 1)
    header = _Header(shape, match.end(), "<f4" if scale < 0 else ">f4")
    _check_header(header, size, name)
    return header


def _png_size(head: bytes, size: int, name: str) -> tuple[int, int]:
    _check_magic(head, (_PNG,), name, "PNG")
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise ValueError(f"{name} is cut off: a PNG file of {size} bytes without a whole header")
    width, height, bits, colours = struct.unpack(">IIBB", head[16:26])
    if (bits, colours) != (16, 2):
        what = {0: "grey", 2: "RGB", 3: "a palette", 4: "grey and alpha", 6: "RGBA"}
        raise ValueError(
            f"{name} is a PNG file of {bits} bits, {what.get(colours, 'unknown colours')}, where a "
            "flow of KITTI's has 16 bits, RGB"
        )
    _check_sides(height, width, name)
    if height * width > _MOST_PIXELS or height * (6 * width + 1) > _MOST_DEFLATED * size:
        raise ValueError(
            f"{name}: its header says {width} x {height} pixels, which {size} bytes cannot hold"
        )
    return height, width


def _check_magic(head: bytes, expected: tuple[bytes, ...], name: str, what: str) -> None:
    if not head:
        raise ValueError(f"{name} is empty")
    if len(head) < len(expected[0]) and expected[0].startswith(head):
        raise ValueError(f"{name} is cut off: it has {len(head)} bytes")
    if not head.startswith(expected):
        begin = head[: len(expected[0])]
        raise ValueError(f"{name} is no {what} file: it begins with {begin!r}, not {expected[0]!r}")


def _check_sides(height: int, width: int, name: str) -> None:
    if not (0 < height <= _MOST_SIDE and 0 < width <= _MOST_SIDE):
        raise ValueError(f"{name}: its header says {width} x {height} pixels, which cannot be")


def _check_header(header: _Header, size: int, name: str) -> None:
    height, width, channels = header.shape
    _check_sides(height, width, name)
    expected = header.start + 4 * height * width * channels
    if size != expected:
        what = "is cut off" if size < expected else "has more than its flow"
        raise ValueError(
            f"{name} {what}: its header says {width} x {height} pixels, which are {expected} "
            f"bytes, and it has {size}"
        )


def _numbers(data: bytes, header: _Header) -> np.ndarray:
    return np.frombuffer(data, header.dtype, offset=header.start).reshape(header.shape)
