"""Refuses image files that would take minutes or gigabytes to decode, by what their headers state.

A file of some kilobytes may ask for thousands of passes over all pixels, for tiles that are far larger than
the image, or for millions of separately coded blocks. Only formats whose headers are checked here are
decoded.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from sppnet.common.errors import InputError
from sppnet.data.image_header import ImageHeader

# Pixels times scans of a JPEG, and scans. A progressive JPEG has about ten scans; 100 megapixels take libjpeg
# up to 0.2 s a scan.
_MAX_SCANNED_PIXELS = 3_000_000_000
_MAX_SCANS = 1000
# Pixels of all tiles of a TIFF, which reach over the right and the lower border of the image.
_MAX_TILED_PIXELS = 200_000_000
# JPEG 2000: OpenJPEG holds about 300 bytes for each block, and 5 KB for each tile.
_MAX_BLOCKS = 1_000_000
_MAX_TILES = 20_000
_MAX_PACKETS = 5_000_000
_MAX_CHANNELS = 4
_MAX_MARKERS = 1_000_000

_JP2_SIGNATURE = b"\0\0\0\x0cjP  "
_J2K_START = b"\xff\x4f\xff\x51"
_PNM = re.compile(rb"P[1-7]\s")
_PNM_SIZE = re.compile(rb"P[1-6]\s+(\d{1,10})\s+(\d{1,10})\s")
_PAM_SIZE = re.compile(rb"(WIDTH|HEIGHT)\s+(\d{1,10})\s")

Size = tuple[int, int]


class _Damaged(ValueError):
    """The header is damaged, so that nothing can be said about the image."""


def check_limits(data: bytes, header: ImageHeader, name: str, max_pixels: int) -> None:
    """Checks that the decoding of an image file is cheap enough.

    Args:
        data: the bytes of the file.
        header: what `read_header` gives for them.
        name: the file's name, for error messages.
        max_pixels: the limit of pixels.

    Raises:
        InputError: too many pixels, or too much work or memory for them; a header that is damaged; a format
            that is not known here.
    """
    try:
        size, work = _examine(data, header)
    except _Damaged as error:
        raise InputError(f"{name}: the image is truncated or damaged ({error}); fetch it again") from error
    if size is not None:
        check_pixels(*size, name, max_pixels)
    if work is not None:
        raise InputError(f"{name}: {work}; it would take too long or too much memory; convert it to JPEG")


def check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    """Checks the size of an image against the limit of pixels.

    Raises:
        InputError: it is over the limit.
    """
    if width * height > max_pixels:
        raise InputError(f"{name}: {width}x{height} is over the limit of {max_pixels} pixels; shrink it")


def is_known(data: bytes) -> bool:
    """Whether a file begins as one of the formats that are decoded.

    These are JPEG, PNG, GIF, BMP, TIFF, WebP, AVIF, JPEG 2000 and PNM (``.ppm``, ``.pgm``, ``.pbm``).
    """
    return (
        data.startswith((b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", _JP2_SIGNATURE, _J2K_START))
        or data[:4] in _TIFF_ORDERS
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        or data[4:8] == b"ftyp"
        or _PNM.match(data) is not None
    )


def _examine(data: bytes, header: ImageHeader) -> tuple[Size | None, str | None]:
    """The size that the header states, None if it is unknown, and what is too much, None if nothing is."""
    if data.startswith(b"\xff\xd8"):
        size = _stated(header)
        return size, _jpeg_work(data, size, header.scan)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_chunks(data)
        return _stated(header), None
    if data[:4] in _TIFF_ORDERS:
        return _examine_tiff(data)
    if data.startswith((_JP2_SIGNATURE, _J2K_START)):
        return _examine_jpeg_2000(data)
    if data.startswith(b"BM"):
        return _bmp_size(data), None
    if data.startswith(b"GIF8"):
        return (_number(data, 6, 2, "little"), _number(data, 8, 2, "little")), None
    if _PNM.match(data):
        return _pnm_size(data), None
    if data.startswith(b"RIFF"):
        return _stated(header), None
    # AVIF: libavif has limits of its own, 268 megapixels among them.
    return header.size, None


def _stated(header: ImageHeader) -> Size:
    if header.size is None:
        raise _Damaged("it states no size")
    return header.size


def _number(data: bytes, offset: int, count: int, order: Literal["little", "big"]) -> int:
    part = data[offset : offset + count]
    if len(part) < count:
        raise _Damaged("its header is cut")
    return int.from_bytes(part, order)


def _jpeg_work(data: bytes, size: Size, first_scan: int) -> str | None:
    # In the data of a scan 0xFF is followed by a zero, so that this finds scans and nothing else.
    scans = data.count(b"\xff\xda", first_scan)
    width, height = size
    if scans > _MAX_SCANS or scans * width * height > _MAX_SCANNED_PIXELS:
        return f"{width}x{height} pixels in {scans} scans"
    return None


def _check_chunks(data: bytes) -> None:
    """Checks that the chunks of a PNG lie in the file: OpenCV would reserve memory for what they state."""
    if data[12:16] != b"IHDR":
        raise _Damaged("it states no size")
    offset = 8
    while offset + 8 <= len(data) and data[offset + 4 : offset + 8] != b"IEND":
        length = _number(data, offset, 4, "big")
        if offset + 12 + length > len(data):
            raise _Damaged(f"a chunk states {length} bytes, {max(0, len(data) - offset - 12)} are left")
        offset += 12 + length


def _bmp_size(data: bytes) -> Size:
    if _number(data, 14, 4, "little") == 12:  # BITMAPCOREHEADER
        return _number(data, 18, 2, "little"), _number(data, 20, 2, "little")
    height = int.from_bytes(data[22:26], "little", signed=True)  # negative: the top row comes first
    return _number(data, 18, 4, "little"), abs(height)


def _pnm_size(data: bytes) -> Size:
    head = re.sub(rb"#[^\n\r]*", b" ", data[:4096])
    if match := _PNM_SIZE.match(head):
        return int(match[1]), int(match[2])
    sides: dict[bytes, int] = {}
    for side, value in _PAM_SIZE.findall(head):
        sides[side] = max(sides.get(side, 0), int(value))
    if not head.startswith(b"P7") or len(sides) < 2:
        raise _Damaged("it states no size")
    return sides[b"WIDTH"], sides[b"HEIGHT"]


class _Tiff(NamedTuple):
    """How numbers stand in a TIFF file: the order of bytes, and the layout of its directories (TIFF 6.0, 2).

    Attributes:
        order: of the bytes of a number.
        first: the offset of the offset of the first directory.
        offset_bytes: the length of an offset, and of a value in an entry.
        count_bytes: the length of the number of entries.
    """

    order: Literal["little", "big"]
    first: int
    offset_bytes: int
    count_bytes: int


_TIFF_ORDERS = {
    b"II*\0": _Tiff("little", 4, 4, 2),
    b"MM\0*": _Tiff("big", 4, 4, 2),
    b"II+\0": _Tiff("little", 8, 8, 8),  # BigTIFF
    b"MM\0+": _Tiff("big", 8, 8, 8),
}
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 256, 257, 322, 323
_TIFF_TYPE_BYTES = {1: 1, 3: 2, 4: 4, 16: 8}
_TIFF_MAX_ENTRIES = 4096


def _examine_tiff(data: bytes) -> tuple[Size, str | None]:
    tiff = _TIFF_ORDERS[data[:4]]
    directory = _number(data, tiff.first, tiff.offset_bytes, tiff.order)
    entries = min(_number(data, directory, tiff.count_bytes, tiff.order), _TIFF_MAX_ENTRIES)
    values: dict[int, int] = {}
    for index in range(entries):
        entry = directory + tiff.count_bytes + index * (4 + 2 * tiff.offset_bytes)
        tag = _number(data, entry, 2, tiff.order)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT):
            value_bytes = _TIFF_TYPE_BYTES.get(_number(data, entry + 2, 2, tiff.order))
            if value_bytes is None or value_bytes > tiff.offset_bytes:
                raise _Damaged(f"tag {tag} is no whole number")
            value = _number(data, entry + 4 + tiff.offset_bytes, value_bytes, tiff.order)
            values[tag] = max(values.get(tag, 0), value)
    if _TIFF_WIDTH not in values or _TIFF_HEIGHT not in values:
        raise _Damaged("it states no size")
    width, height = values[_TIFF_WIDTH], values[_TIFF_HEIGHT]
    tile_width, tile_height = values.get(_TIFF_TILE_WIDTH, 0), values.get(_TIFF_TILE_HEIGHT, 0)
    if tile_width and tile_height:
        tiled = -(-width // tile_width) * tile_width * -(-height // tile_height) * tile_height
        if tiled > _MAX_TILED_PIXELS:
            return (width, height), f"its tiles of {tile_width}x{tile_height} have {tiled} pixels in all"
    return (width, height), None


def _examine_jpeg_2000(data: bytes) -> tuple[Size, str | None]:
    """Examines every codestream of the file: only the boxes around them tell which is decoded."""
    start = data.find(_J2K_START)
    if start < 0:
        raise _Damaged("it has no codestream")
    size, work = _examine_codestream(data, start)
    while work is None and (start := data.find(_J2K_START, start + 1)) >= 0:
        other, work = _examine_codestream(data, start)
        size = max(size, other, key=lambda sides: sides[0] * sides[1])
    return size, work


def _examine_codestream(data: bytes, start: int) -> tuple[Size, str | None]:
    """Examines a codestream (ISO/IEC 15444-1, annex A)."""
    # SIZ: length, capabilities, then the right and lower end, the offsets, the tiles, and their offsets.
    right, lower, left, upper, tile_width, tile_height = (
        _number(data, start + 8 + 4 * index, 4, "big") for index in range(6)
    )
    channels = _number(data, start + 40, 2, "big")
    size = max(0, right - left), max(0, lower - upper)
    if min(tile_width, tile_height) < 1:
        raise _Damaged("its tiles have no size")
    tiles = -(-size[0] // tile_width) * -(-size[1] // tile_height)
    if channels > _MAX_CHANNELS or tiles > _MAX_TILES:
        return size, f"{channels} channels in {tiles} tiles"
    for coding in _codings(data, start + 2):
        samples = size[0] * size[1] * channels
        blocks = packets = 0
        # Resolution 0 is the smallest; each further one has four times as many samples.
        for resolution, (block_bits, precinct_bits) in enumerate(coding.resolutions):
            part = samples >> 2 * (len(coding.resolutions) - 1 - resolution)
            blocks += part >> block_bits
            packets += ((part >> precinct_bits) + tiles * channels) * coding.layers
        if blocks > _MAX_BLOCKS or packets > _MAX_PACKETS:
            return size, f"{size[0]}x{size[1]} pixels in {blocks} blocks and {packets} packets"
    return size, None


class _Coding(NamedTuple):
    """A coding style.

    Attributes:
        layers: of quality.
        resolutions: for each, the logarithms to base 2 of the samples of a code block, and of a precinct.
    """

    layers: int
    resolutions: list[tuple[int, int]]


def _codings(data: bytes, offset: int) -> Iterator[_Coding]:
    """Yields the coding styles of the main header and of the tiles' headers."""
    layers = 1
    tile_end = 0
    for _ in range(_MAX_MARKERS):
        marker = data[offset : offset + 2]
        if marker == b"\xff\x93":  # SOD: the data of the tile
            offset = tile_end
            continue
        if len(marker) < 2 or marker[0] != 0xFF or marker == b"\xff\xd9":
            return
        length = _number(data, offset + 2, 2, "big")
        body = data[offset + 4 : offset + 2 + length]
        if marker == b"\xff\x90":  # SOT; a length of 0: to the end of the file
            tile_end = offset + (int.from_bytes(body[2:6], "big") or len(data))
            if tile_end <= offset:
                return
        elif marker == b"\xff\x52":  # COD
            layers = max(layers, _number(body, 2, 2, "big"))
            yield _Coding(layers, _resolutions(_number(body, 0, 1, "big"), body[5:]))
        elif marker == b"\xff\x53":  # COC, of one channel, which takes one byte
            yield _Coding(layers, _resolutions(_number(body, 1, 1, "big"), body[2:]))
        offset += 2 + length


def _resolutions(style: int, body: bytes) -> list[tuple[int, int]]:
    levels = _number(body, 0, 1, "big")
    block_width, block_height = _number(body, 1, 1, "big") + 2, _number(body, 2, 1, "big") + 2
    resolutions = []
    for index in range(min(levels, 32) + 1):
        precinct = _number(body, 5 + index, 1, "big") if style & 1 else 0xFF
        width, height = precinct & 15, precinct >> 4
        # A block lies in a subband, which has half of the sides of its resolution, except for the first.
        halved = 1 if index else 0
        block = max(0, min(block_width, width - halved)) + max(0, min(block_height, height - halved))
        resolutions.append((block, width + height))
    return resolutions
