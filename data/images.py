"""Decodes image files; no other module does."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import Image
from sppnet.common.errors import InputError

# OpenCV's own limit is 2^30 pixels, 3 GB decoded; a photograph of 100 megapixels is already rare.
MAX_PIXELS = 100_000_000
DECODER = f"opencv-{cv2.__version__}"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# ITU-T T.81, table B.1: the frame headers are C0 to CF without DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}
_JPEG_SCAN = 0xDA


def read_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> Image:
    """Decodes an image file.

    Any depth and number of channels becomes 8-bit RGB: gray is repeated, alpha is dropped, CMYK is converted,
    of 16 bits the upper 8 are kept. The EXIF orientation is ignored, as the VOC devkit does: annotations are
    in stored pixels. TIFF is an exception of OpenCV: it applies the orientation and multiplies by alpha.

    Args:
        path: the file.
        max_pixels: refuse larger images; JPEG and PNG before their pixels are decoded.

    Returns:
        uint8 (H, W, 3), RGB, contiguous.

    Raises:
        InputError: the file is missing, is no image that OpenCV can decode, is truncated, or is too large.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = cv2.imwrite(f"{folder}/a.png", np.zeros((80, 100, 3), np.uint8))
        ...     read_image(f"{folder}/a.png").shape
        (80, 100, 3)
    """
    return _decode(_read_bytes(path), str(path), max_pixels)


def decode_image(encoded: NDArray[np.uint8], name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Decodes the bytes of an image file, as `read_image` does.

    Args:
        encoded: uint8 (N,), the bytes of the file.
        name: the file's name in an error.
        max_pixels: as in `read_image`.

    Returns:
        uint8 (H, W, 3), RGB, contiguous.

    Raises:
        InputError: as `read_image`.

    Example:
        >>> _, encoded = cv2.imencode(".png", np.zeros((80, 100, 3), np.uint8))
        >>> decode_image(encoded, "a.png").shape
        (80, 100, 3)
    """
    return _decode(encoded.tobytes(), name, max_pixels)


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height of an image file in stored pixels; JPEG and PNG are not decoded for it.

    Raises:
        InputError: as `read_image`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = cv2.imwrite(f"{folder}/a.png", np.zeros((80, 100, 3), np.uint8))
        ...     image_size(f"{folder}/a.png")
        (100, 80)
    """
    data = _read_bytes(path)
    size = _stated_size(data)
    if size is None:
        height, width = _decode(data, str(path), MAX_PIXELS).shape[:2]
        size = width, height
    return size


def _read_bytes(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _decode(data: bytes, name: str, max_pixels: int) -> Image:
    if not data:
        raise InputError(f"{name}: the file is empty; fetch the image again")
    size = _stated_size(data)
    if size is not None:
        _check_pixels(*size, name, max_pixels)
    # OpenCV fails where bytes are missing at the end. A tail of zeros (an unfinished download into a
    # preallocated file) is no error to it, but the rest of the picture is smeared. Such a file has no end
    # marker.
    complete = not data.startswith(b"\xff\xd8") or data.rfind(b"\xff\xd9") > _jpeg_header(data)[1]
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if complete else None
    except cv2.error as error:  # OpenCV's own limit on pixels, or out of memory
        raise InputError(f"{name}: OpenCV cannot decode it ({error.err}); convert or shrink it") from error
    if decoded is None:
        if size is not None:
            raise InputError(f"{name}: the image is truncated or damaged; fetch it again")
        raise InputError(f"{name}: not an image that OpenCV can decode; convert it to JPEG or PNG")
    height, width = decoded.shape[:2]
    _check_pixels(width, height, name, max_pixels)
    image: Image = np.ascontiguousarray(decoded, np.uint8)
    return image


def _check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InputError(f"{name}: {width}x{height} is over the limit of {max_pixels} pixels; shrink it")


def _stated_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the header of a PNG or JPEG; None for other formats and broken headers."""
    if data.startswith(_PNG_SIGNATURE) and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(b"\xff\xd8"):
        return _jpeg_header(data)[0]
    return None


def _jpeg_header(data: bytes) -> tuple[tuple[int, int] | None, int]:
    """Width and height from the frame header, and the offset of the first scan (or the end of the header)."""
    size = None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            at += 2
        elif marker == _JPEG_SCAN:
            break
        else:
            if marker in _JPEG_FRAMES and at + 9 <= len(data):
                height, width = (int.from_bytes(data[start : start + 2], "big") for start in (at + 5, at + 7))
                size = width, height
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return size, at
