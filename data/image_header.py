"""Reads the size and the orientation of an image from the header of its file, without decoding it.

The orientation is EXIF's (tag 0x0112, EXIF 2.32, section 4.6.4): 1 for an image that is shown as it is
stored, 2 to 8 for one that viewers mirror or turn first. Cameras write it when they are held upright.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sppnet.common.arrays import Image

# Gives so many bytes of a file from an offset on, fewer at its end: `read(offset, count)`.
Reader = Callable[[int, int], bytes]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8"
# ITU-T T.81, table B.1: the frame headers are C0 to CF without DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}
_JPEG_SCAN = 0xDA
_JPEG_APP1 = 0xE1
_EXIF_NAME = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
# The first directory of EXIF has some dozens of entries; a damaged one may claim 65,535.
_MAX_ENTRIES = 1000
# Longer EXIF is cut: its first directory stands at the beginning.
_MAX_EXIF = 1 << 20
# The largest offset that a file can have, about: a damaged header may name larger ones.
_MAX_OFFSET = 1 << 62
# Of chunks or segments. A PNG of 100 megapixels in chunks of 8 KB has 50,000 of them.
_MAX_CHUNKS = 100_000
# AVIF: (quarter turns against the clock, mirrored: None, 0 top to bottom or 1 left to right) to EXIF.
_AVIF_ORIENTATIONS = {
    (0, None): 1, (0, 1): 2, (2, None): 3, (0, 0): 4, (1, 0): 5, (3, None): 6, (3, 0): 7, (1, None): 8,
    (2, 0): 2, (2, 1): 4, (3, 1): 5, (1, 1): 7,
}  # fmt: skip


@dataclass(frozen=True)
class ImageHeader:
    """The size and the orientation that the header of an image file states.

    Attributes:
        size: the stored width and height in pixels; None: a format whose header is not read, or a broken one.
        orientation: EXIF's orientation, 1 to 8, of JPEG, PNG, WebP and AVIF. Other formats have 1, TIFF
            because OpenCV applies its orientation whatever it is asked.
        scan: of a JPEG, the offset of the first scan, or of the header's end where there is none.
    """

    size: tuple[int, int] | None = None
    orientation: int = 1
    scan: int = 0

    def applied_orientation(self, annotated: tuple[int, int] | None = None) -> int:
        """Returns the orientation to apply: the file's, or 1 if only the stored size is the annotated one.

        Args:
            annotated: width and height as an annotation states them; None: it states none.
        """
        if self.size is not None and self.orientation >= 5 and self.size[0] != self.size[1]:
            return 1 if annotated == self.size else self.orientation
        return self.orientation

    def applied_size(self, annotated: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """Returns width and height after `applied_orientation`; None: the header states no size."""
        if self.size is None or self.applied_orientation(annotated) < 5:
            return self.size
        return self.size[1], self.size[0]


def read_header(data: bytes) -> ImageHeader:
    """Reads the header from the bytes of an image file."""
    return _read(lambda offset, count: data[offset : offset + count])


def read_file_header(path: Path | str) -> ImageHeader:
    """Reads the header of an image file; of a large file only small parts are read.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:

        def read(offset: int, count: int) -> bytes:
            if offset >= _MAX_OFFSET:
                return b""
            file.seek(offset)
            return file.read(count)

        return _read(read)


def turn(image: Image, orientation: int) -> Image:
    """Mirrors and turns an image as its orientation asks for.

    Args:
        image: uint8 (H, W, 3), as stored.
        orientation: 1 to 8.

    Returns:
        uint8, (H, W, 3) for the orientations 1 to 4, (W, H, 3) for 5 to 8; a view.
    """
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    # After the transposition: 6 shows the left column of the stored image as its top row, from the right.
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def _read(read: Reader) -> ImageHeader:
    start = read(0, 16)
    if start.startswith(_JPEG_SIGNATURE):
        return _read_jpeg(read)
    if start.startswith(_PNG_SIGNATURE):
        return _read_png(read)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _read_webp(read)
    if start[4:12] in (b"ftypavif", b"ftypavis", b"ftypmif1"):
        return _read_avif(read)
    return ImageHeader()


def _read_jpeg(read: Reader) -> ImageHeader:
    size, orientation = None, None
    offset = 2
    for _ in range(_MAX_CHUNKS):
        segment = read(offset, 10)
        if len(segment) < 4:
            break
        marker = segment[1]
        if segment[0] != 0xFF:  # libjpeg skips bytes between segments
            skipped = read(offset, _MAX_EXIF).find(b"\xff")
            if skipped < 0:
                break
            offset += skipped
        elif marker == 0xFF:  # padding before a marker
            offset += 1
        elif marker == 0 or marker in _JPEG_WITHOUT_LENGTH:
            offset += 2
        elif marker == _JPEG_SCAN:
            break
        else:
            length = int.from_bytes(segment[2:4], "big")
            if marker in _JPEG_FRAMES and len(segment) >= 9:
                size = int.from_bytes(segment[7:9], "big"), int.from_bytes(segment[5:7], "big")
            if marker == _JPEG_APP1 and orientation is None and segment[4:10] == _EXIF_NAME:
                orientation = _exif_orientation(read(offset + 10, length - 8 if length > 8 else 0))
            offset += 2 + length
    return ImageHeader(size, orientation or 1, offset)


def _read_png(read: Reader) -> ImageHeader:
    header = read(16, 8)
    if len(header) < 8:
        return ImageHeader()
    orientation = 1
    offset = len(_PNG_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        chunk = read(offset, 8)
        if len(chunk) < 8:
            break
        length = int.from_bytes(chunk[:4], "big")
        if chunk[4:] == b"eXIf":
            orientation = _exif_orientation(read(offset + 8, min(length, _MAX_EXIF))) or 1
            break
        offset += 12 + length
    size = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    return ImageHeader(size, orientation)


def _read_webp(read: Reader) -> ImageHeader:
    """Reads the chunks of a WebP file (RFC 9649)."""
    size, orientation = None, 1
    offset = 12
    for _ in range(_MAX_CHUNKS):
        chunk = read(offset, 18)
        if len(chunk) <= 8:
            break
        kind, length, body = chunk[:4], int.from_bytes(chunk[4:8], "little"), chunk[8:]
        if kind == b"EXIF":
            content = read(offset + 8, min(length, _MAX_EXIF))
            orientation = _exif_orientation(content.removeprefix(_EXIF_NAME)) or 1
        elif size is None and kind == b"VP8X" and len(body) == 10:
            width, height = (int.from_bytes(body[first : first + 3], "little") + 1 for first in (4, 7))
            size = width, height
        elif size is None and kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) == 10:
            width, height = (int.from_bytes(body[first : first + 2], "little") & 0x3FFF for first in (6, 8))
            size = width, height
        elif size is None and kind == b"VP8L" and body[:1] == b"\x2f":
            bits = int.from_bytes(body[1:5], "little")
            size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        offset += 8 + length + length % 2
    return ImageHeader(size, orientation)


def _read_avif(read: Reader) -> ImageHeader:
    """Reads the properties ``ispe``, ``irot`` and ``imir`` of an AVIF file (ISO/IEC 23008-12, section 6.5).

    OpenCV decodes AVIF without these turns, and browsers apply them, not EXIF's.
    """
    properties = _boxes(read, 0, None)
    for name in (b"meta", b"iprp", b"ipco"):
        # A full box has four bytes of version and flags before its content.
        offset, end = properties.get(name, [(0, 0)])[0]
        properties = _boxes(read, offset + (4 if name == b"meta" else 0), end)
    sizes = []
    for offset, _ in properties.get(b"ispe", []):
        numbers = read(offset + 4, 8)
        sizes.append((int.from_bytes(numbers[:4], "big"), int.from_bytes(numbers[4:], "big")))
    # Tiles and thumbnails are smaller than the image.
    size = max(sizes, key=lambda sides: sides[0] * sides[1], default=None)

    def value(name: bytes) -> int | None:
        starts = properties.get(name)
        return read(starts[0][0], 1)[0] if starts and read(starts[0][0], 1) else None

    turns, mirror = value(b"irot"), value(b"imir")
    orientation = _AVIF_ORIENTATIONS[(turns or 0) & 3, None if mirror is None else mirror & 1]
    return ImageHeader(size if size and min(size) > 0 else None, orientation)


def _boxes(read: Reader, offset: int, end: int | None) -> dict[bytes, list[tuple[int, int]]]:
    """Finds the boxes of an ISO media file between two offsets: the ranges of their contents, by name."""
    ranges: dict[bytes, list[tuple[int, int]]] = {}
    for _ in range(_MAX_ENTRIES):
        if end is not None and offset + 8 > end:
            break
        header = read(offset, 16)
        if len(header) < 8:
            break
        length, start = int.from_bytes(header[:4], "big"), offset + 8
        if length == 1:
            length, start = int.from_bytes(header[8:], "big"), offset + 16
        if length < start - offset:
            break
        ranges.setdefault(header[4:8], []).append((start, offset + length))
        offset += length
    return ranges


def _exif_orientation(exif: bytes) -> int | None:
    """Reads the orientation from EXIF's first directory; None where it has none, or none of 1 to 8."""
    orders: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
    order = orders.get(exif[:4])
    if order is None:
        return None

    def number(offset: int, count: int) -> int:
        return int.from_bytes(exif[offset : offset + count], order)

    first = number(4, 4)
    for index in range(min(number(first, 2), _MAX_ENTRIES)):
        entry = first + 2 + 12 * index
        if len(exif) < entry + 12:
            break
        if number(entry, 2) == _ORIENTATION_TAG:
            # A short; some programs write a long.
            value = number(entry + 8, {3: 2, 4: 4}.get(number(entry + 2, 2), 0))
            return value if 1 <= value <= 8 else None
    return None
