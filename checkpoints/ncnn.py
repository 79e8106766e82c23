"""Weights in ncnn's format, of RRDBNet: the generator of ESRGAN and Real-ESRGAN.

A .param file is text, with a layer a line: its type, its name, how many blobs it takes and gives,
their names, and its options as NUMBER=VALUE. A .bin file has, for one convolution after another in
the order of these lines, a tag that says how the weights are stored, the weights, and the biases.
Source: github.com/Tencent/ncnn, src/modelbin.cpp and src/layer/convolution.cpp.
"""

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

_MAGIC = "7767517"
# By tag; int8 and tables are not read.
_TYPES: dict[int, np.dtype] = {0: np.dtype("<f4"), 0x01306B47: np.dtype("<f2")}
_ALIGNMENT = 4  # bytes

_Options = dict[int, tuple[float, ...]]

# What the layers of RRDBNet say, besides the first two: the channels that a convolution gives and
# how many weights it has; its kernel, dilation and padding; its leaky ReLU; the residual's 0.2;
# nearest neighbours, twice as many either way.
_CHANNELS, _SIZE = 0, 6
_CONV: _Options = {1: (3,), 4: (1,), 5: (1,)}
_RELU: _Options = {9: (2,), -23310: (1, 0.2)}
_RESIDUAL: _Options = {0: (1,), -23301: (2, 0.2, 1)}
_NEAREST: _Options = {0: (1,), 1: (2,), 2: (2,)}
_KERNEL = (3, 3)


def read_rrdb(
    param: str | os.PathLike[str], binary: str | os.PathLike[str]
) -> dict[str, np.ndarray]:
    """Reads the weights of an RRDBNet that enlarges four times.

    Args:
        param: the .param file.
        binary: its .bin file.

    Returns:
        float32 arrays by BasicSR's names, such as "body.0.rdb1.conv1.weight" (out, in, 3, 3).

    Raises:
        ValueError: if a file is of another network or another kind, cut off, or too long; it names
            the file and the layer.
        OSError: if a file cannot be read.
    """
    shapes = _read_shapes(Path(param))
    arrays = {}
    with Path(binary).open("rb") as file:
        for name, shape in shapes.items():
            try:
                weights = _take(file, math.prod(shape), _take_type(file))
                arrays[f"{name}.weight"] = weights.reshape(shape)
                arrays[f"{name}.bias"] = _take(file, shape[0], _TYPES[0])
            except ValueError as error:
                raise ValueError(f"{os.fspath(binary)}: {name}: {error}") from None
        if _remaining(file):
            raise ValueError(
                f"{os.fspath(binary)} has {_remaining(file)} bytes more than the layers of "
                f"{os.fspath(param)} take"
            )
    return arrays


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes (out, in, 3, 3) by BasicSR's names, in the order of the file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != _MAGIC:
        raise ValueError(f"{path} is no .param file of ncnn: it does not begin with {_MAGIC}")
    rows = [(number, line.split()) for number, line in enumerate(lines[2:], start=3)]
    rows = [(number, row) for number, row in rows if row and row[0] != "Split"]
    convolutions = sum(row[0] == "Convolution" for _, row in rows)
    layers = list(_rrdb_layers(max(convolutions - 6, 0) // 15))
    shapes = {}
    for (number, row), (kind, name, options) in zip(rows, layers):
        try:
            shape = _read_layer(row, kind, options)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if kind == "Convolution":
            shapes[name] = shape
    if len(rows) != len(layers):
        raise ValueError(
            f"{path} has {len(rows)} layers, in place of RRDBNet's {len(layers)} (Split aside)"
        )
    return shapes


def _rrdb_layers(num_blocks: int) -> Iterator[tuple[str, str, _Options]]:
    """Type of each layer but Split, BasicSR's name if it is a convolution, and options."""
    yield "Input", "", {}
    yield "Convolution", "conv_first", _CONV
    for block, i in itertools.product(range(num_blocks), range(1, 4)):
        for j in range(1, 5):
            yield "Convolution", f"body.{block}.rdb{i}.conv{j}", _CONV | _RELU
            yield "Concat", "", {}
        yield "Convolution", f"body.{block}.rdb{i}.conv5", _CONV
        yield "Eltwise", "", _RESIDUAL
        if i == 3:
            yield "Eltwise", "", _RESIDUAL
    yield "Convolution", "conv_body", _CONV
    yield "BinaryOp", "", {}
    for name in ("conv_up1", "conv_up2"):
        yield "Interp", "", _NEAREST
        yield "Convolution", name, _CONV | _RELU
    yield "Convolution", "conv_hr", _CONV | _RELU
    yield "Convolution", "conv_last", _CONV


def _read_layer(row: Sequence[str], kind: str, expected: _Options) -> tuple[int, ...]:
    """The shape of a convolution's weights; () for other layers, which have none."""
    if row[0] != kind:
        raise ValueError(f"a layer {row[0]}, where RRDBNet has {kind}")
    try:
        blobs = int(row[2]) + int(row[3])
        pairs = [option.split("=", 1) for option in row[4 + blobs :]]
        options = {int(key): tuple(map(float, value.split(","))) for key, value in pairs}
    except (ValueError, IndexError):
        raise ValueError(f"not a layer with its options: {' '.join(row)[:200]}") from None
    shape: tuple[int, ...] = ()
    if kind == "Convolution":
        channels, size = (_pop_count(options, number) for number in (_CHANNELS, _SIZE))
        each = channels * math.prod(_KERNEL)
        if size % each:
            raise ValueError(f"{size} weights are not a multiple of {channels} x 3 x 3")
        shape = (channels, size // each, *_KERNEL)
    if options != expected:
        raise ValueError(f"{kind} with the options {options}, where RRDBNet has {expected}")
    return shape


def _pop_count(options: _Options, number: int) -> int:
    value = options.pop(number, ())
    if len(value) != 1 or not value[0].is_integer() or value[0] < 1:
        raise ValueError(f"option {number} must be a number of at least 1, not {value}")
    return int(value[0])


def _take_type(file: BinaryIO) -> np.dtype:
    """Reads a tag: how the weights behind it are stored."""
    tag = int.from_bytes(_take_bytes(file, 4), "little")
    if tag not in _TYPES:
        known = " or ".join(f"0x{tag:08X} ({dtype.name})" for tag, dtype in _TYPES.items())
        raise ValueError(f"unknown tag 0x{tag:08X}, in place of {known}")
    return _TYPES[tag]


def _take(file: BinaryIO, count: int, dtype: np.dtype) -> np.ndarray:
    """Reads numbers, and what fills them up to four bytes; gives (count,) float32."""
    size = count * dtype.itemsize
    data = _take_bytes(file, size + -size % _ALIGNMENT)
    return np.frombuffer(data, dtype, count).astype(np.float32)


def _take_bytes(file: BinaryIO, size: int) -> bytes:
    remaining = _remaining(file)  # before room is made for what a wrong .param says
    if size > remaining:
        raise ValueError(f"{size} bytes are missing the last {size - remaining}: it is cut off")
    return file.read(size)


def _remaining(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size - file.tell()
