"""Reads the weights of a Caffe ``.caffemodel``; parses only the needed parts of the protobuf wire format.

Field numbers are from `caffe.proto` (BVLC/caffe). Layers are stored in one of three forms; SPP-net's released
files have the oldest:

- V2: ``NetParameter.layer`` = 100, ``LayerParameter``: name 1, blobs 7;
- V1: ``NetParameter.layers`` = 2, ``V1LayerParameter``: name 4, blobs 6;
- V0: as V1, with the nested ``V0LayerParameter layer`` = 1: name 1, blobs 50.

``BlobProto``: data 5, shape 7 (``dim`` = 1), and the older num 1, channels 2, height 3, width 4.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sppnet.common.errors import InputError

# A wire value: an integer, or the bytes of a length-delimited or fixed-width field.
Value = int | memoryview
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DIMENSIONS = 32  # Caffe's kMaxBlobAxes
_MAX_BLOBS = 10_000
_MAX_FILE_BYTES = 2**31  # protobuf's own limit for a message


class _WireError(ValueError):
    """The bytes are not a protobuf message of the expected form."""


def read_caffemodel(path: Path) -> dict[str, list[Tensor]]:
    """Reads the blobs of every layer that has blobs.

    Args:
        path: a ``.caffemodel`` in binary form.

    Returns:
        layer name to its blobs in order (weight, bias), float32. The four dimensions of old files are kept: a
        bias then has shape (1, 1, 1, n).

    Raises:
        InputError: the file cannot be read, is truncated, or is not a caffemodel.
    """
    try:
        if path.stat().st_size >= _MAX_FILE_BYTES:
            raise InputError(f"{path}: larger than 2 GiB; no caffemodel is")
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    layers: dict[str, list[Tensor]] = {}
    total = 0
    try:
        for number, value in _fields(content):
            if number == 100:
                name, blobs = _layer(_message(value), name_field=1, blobs_field=7)
            elif number == 2:
                name, blobs = _old_layer(_message(value))
            else:
                continue
            total += len(blobs)
            if total > _MAX_BLOBS:
                raise _WireError(f"more than {_MAX_BLOBS} blobs")
            if blobs and name in layers:
                raise _WireError(f"two layers are called {name!r}")
            if blobs:
                layers[name] = blobs
    except _WireError as error:
        raise InputError(f"{path}: not a whole caffemodel ({error}); fetch it again") from error
    if not layers:
        raise InputError(f"{path}: no layer with weights; is this a caffemodel?")
    return layers


def _old_layer(message: memoryview) -> tuple[str, list[Tensor]]:
    """Reads a ``V1LayerParameter``, or the ``V0LayerParameter`` nested in it."""
    for number, value in _fields(message):
        if number == 1:
            return _layer(_message(value), name_field=1, blobs_field=50)
    return _layer(message, name_field=4, blobs_field=6)


def _layer(message: memoryview, name_field: int, blobs_field: int) -> tuple[str, list[Tensor]]:
    name, blobs = "", list[Tensor]()
    for number, value in _fields(message):
        if number == name_field:
            name = str(_message(value), "utf-8", "replace")
        elif number == blobs_field:
            if len(blobs) >= _MAX_BLOBS:
                raise _WireError(f"more than {_MAX_BLOBS} blobs")
            blobs.append(_blob(_message(value)))
    return name, blobs


def _blob(message: memoryview) -> Tensor:
    data = bytearray()
    legacy = [0, 0, 0, 0]
    shape: list[int] | None = None
    for number, value in _fields(message):
        if number == 5:  # The values are packed, or single float32 values.
            data += _message(value)
        elif number == 7:
            shape = _dimensions(_message(value))
        elif 1 <= number <= 4 and isinstance(value, int):
            legacy[number - 1] = value
    sizes = legacy if shape is None else shape
    if not data or prod(sizes) * 4 != len(data):
        raise _WireError(f"a blob of shape {sizes} holds {len(data)} bytes of float32")
    return torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32, copy=True)).reshape(sizes)


def _dimensions(message: memoryview) -> list[int]:
    """Reads the ``dim`` fields of a ``BlobShape``, packed or single."""
    sizes: list[int] = []
    for number, value in _fields(message):
        if number != 1:
            continue
        if isinstance(value, int):
            sizes.append(value)
        else:
            position = 0
            while position < len(value):
                size, position = _varint(value, position)
                sizes.append(size)
        if len(sizes) > _MAX_DIMENSIONS:
            raise _WireError(f"a blob has more than {_MAX_DIMENSIONS} dimensions")
    return sizes


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise _WireError("a number stands where a message should")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Yields (field number, value) for the fields of a message in file order, without copying."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(message, position)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise _WireError(f"wire type {wire_type} at byte {position}")
        if length > len(message) - position:
            raise _WireError(f"a field of {length} bytes where {len(message) - position} are left")
        yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Reads the integer at a position; returns it and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _WireError(f"an integer does not end at byte {position}")
