"""Checks a MATLAB file of boxes before it is read: what it states about its parts must fit its bytes.

SciPy reserves memory for as many cells as a file states, decompresses whatever it holds, and ends the process
where an element of another type stands in place of numbers or text.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Literal, NamedTuple

# A compressed archive of boxes is about a quarter of its content. Smaller content does no harm.
_MAX_RATIO = 100
_HARMLESS_BYTES = 64_000_000
# Level 5 MAT-file format, MathWorks 2019: types of elements, and classes of arrays.
_HEADER_BYTES = 128
_UINT32, _MATRIX, _COMPRESSED = 6, 14, 15
_CELLS, _TEXT, _FIRST_NUMBERS, _LAST_NUMBERS, _OPAQUE = 1, 4, 6, 15, 17
_COMPLEX = 1 << 11
# The types of elements that hold numbers, with the bytes of a number, and those that hold text.
_NUMBER_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_TEXT_TYPES = (1, 2, 4, 16, 17, 18)
_MAX_DEPTH = 3


def most_bytes(file_bytes: int) -> int:
    """How many bytes the content of a compressed file of so many bytes may have.

    Example:
        >>> most_bytes(1000), most_bytes(10**6)
        (64000000, 100000000)
    """
    return max(_HARMLESS_BYTES, _MAX_RATIO * file_bytes)


def check_mat(data: bytes, names: frozenset[str]) -> None:
    """Checks the variables of these names.

    Args:
        data: the bytes of the file.
        names: of variables that will be read: cells of texts and numbers. Others are passed over.

    Raises:
        ValueError: it is of another format than 5, damaged, or far larger when decompressed.
    """
    orders: dict[bytes, Literal["<", ">"]] = {b"IM": "<", b"MI": ">"}
    order = orders.get(data[126:128])
    # Where one of the first four bytes is 0, SciPy reads format 4.
    if order is None or 0 in data[:4] or data.startswith(b"MATLAB 7.3"):
        raise ValueError("not of MATLAB's format 5 to 7; save it with -v7")
    left = most_bytes(len(data))
    for kind, content, whole in _elements(memoryview(data)[_HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            whole = memoryview(_inflated(content, left))
            left -= len(whole)
        for inner, matrix, _ in _elements(whole, order):
            if inner == _MATRIX:
                _check_matrix(matrix, order, names)


def _inflated(data: memoryview, most: int) -> bytes:
    inflater = zlib.decompressobj()
    content = inflater.decompress(data, most + 1)
    if len(content) > most:
        raise ValueError(f"it is over {_MAX_RATIO} times larger when decompressed")
    return content


class _Element(NamedTuple):
    """An element: its type, its content, and all of it with the padding."""

    kind: int
    content: memoryview
    whole: memoryview


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    offset = 0
    while offset + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, offset)
        if kind >> 16:  # up to four bytes, which stand in the tag
            kind, length, start, end = kind & 0xFFFF, kind >> 16, offset + 4, offset + 8
            if length > 4:
                raise ValueError(f"an element states {length} bytes in a tag of 4")
        else:
            start = offset + 8
            end = start + length + (0 if kind == _COMPRESSED else -length % 8)
        # The padding at the end may be missing.
        if start + length > len(data):
            raise ValueError(f"an element states {length} bytes, {len(data) - start} are left")
        # SciPy goes on behind the last element of an array, and those are padded.
        if kind == _MATRIX and length % 8 and start + length < len(data):
            raise ValueError(f"an array of {length} bytes is not padded")
        yield _Element(kind, data[start : start + length], data[offset:end])
        offset = end


def _check_matrix(data: memoryview, order: str, names: frozenset[str] | None, depth: int = 1) -> None:
    """Checks an array; ``names`` are those of variables to check, None within a variable."""
    elements = _elements(data, order)
    head = list(islice(elements, 3))
    # SciPy takes the first 16 bytes for the flags, whatever their tag says.
    if len(head) < 3 or (head[0].kind, len(head[0].content)) != (_UINT32, 8):
        raise ValueError("an array has no header")
    (flags,) = struct.unpack_from(f"{order}I", head[0].content)
    kind = flags & 0xFF
    # Only opaque objects have no dimensions.
    name = head[1 if kind == _OPAQUE else 2].content
    if names is not None and str(name, "latin-1") not in names:
        return
    dimensions = head[1].content
    if len(dimensions) < 8 or len(dimensions) % 4:
        raise ValueError(f"the sides of an array in {len(dimensions)} bytes")
    sides = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    count = math.prod(sides)
    parts, negative = list(elements), min(sides) < 0
    if kind == _CELLS:
        if negative or count != len(parts) or depth > _MAX_DEPTH:
            raise ValueError(f"{sides} cells, {len(parts)} of them are there")
        for cell in parts:
            if cell.kind != _MATRIX:
                raise ValueError(f"an element of type {cell.kind} in place of a cell")
            if cell.content:
                _check_matrix(cell.content, order, None, depth + 1)
    elif kind == _TEXT:
        if negative or count > len(data) or len(parts) != 1 or parts[0].kind not in _TEXT_TYPES:
            raise ValueError(f"a text of {sides} in {len(data)} bytes")
    elif _FIRST_NUMBERS <= kind <= _LAST_NUMBERS:
        # Complex numbers are two elements.
        if negative or flags & _COMPLEX or len(parts) != 1 or not _holds_numbers(parts[0], count):
            raise ValueError(f"an array of {sides} in {len(data)} bytes")
    else:
        raise ValueError("neither cells nor texts nor numbers")


def _holds_numbers(element: _Element, count: int) -> bool:
    size = _NUMBER_BYTES.get(element.kind)
    return size is not None and len(element.content) == size * count
