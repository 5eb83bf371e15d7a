"""Decodes image files: the only module that does."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import Image
from sppnet.common.errors import InputError
from sppnet.common.files import file_digest
from sppnet.data.image_header import ImageHeader, read_file_header, read_header, turn
from sppnet.data.image_limits import check_limits, check_pixels, is_known

# OpenCV's own limit is 2^30 pixels, 3 GB decoded; a photograph of 100 megapixels is already rare.
MAX_PIXELS = 100_000_000
DECODER = f"opencv-{cv2.__version__}"


def read_image(
    path: Path | str, max_pixels: int = MAX_PIXELS, annotated: tuple[int, int] | None = None
) -> Image:
    """Decodes an image file, turned as its EXIF orientation says.

    Any depth and number of channels becomes 8-bit RGB: gray is repeated, alpha is dropped, CMYK is converted,
    and of 16 bits the upper 8 are kept. TIFF is an exception: OpenCV multiplies its colours by alpha.

    Viewers and labelling tools show an image turned, so that annotations are in turned pixels. Where an
    annotation states the size of the stored image, and that of the turned one is another, its boxes are in
    stored pixels, and the image is not turned.

    Args:
        path: the file.
        max_pixels: larger images are refused, before their pixels are decoded.
        annotated: width and height as the image's annotation states them; None: there is none.

    Returns:
        uint8 (H, W, 3), RGB, contiguous.

    Raises:
        InputError: the file is missing, truncated or too large, would take minutes or gigabytes to decode
            (see `sppnet.data.image_limits`), or OpenCV cannot decode it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = cv2.imwrite(f"{folder}/a.png", np.zeros((80, 100, 3), np.uint8))
        ...     read_image(f"{folder}/a.png").shape
        (80, 100, 3)
    """
    return _decode(_read_bytes(path), str(path), max_pixels, annotated)


def decode_image(
    encoded: NDArray[np.uint8],
    name: str,
    max_pixels: int = MAX_PIXELS,
    annotated: tuple[int, int] | None = None,
) -> Image:
    """Decodes the bytes of an image file, as `read_image` does.

    Args:
        encoded: uint8 (N,), the bytes of the file.
        name: the file's name, for error messages.
        max_pixels: as in `read_image`.
        annotated: as in `read_image`.

    Returns:
        uint8 (H, W, 3), RGB, contiguous.

    Raises:
        InputError: as in `read_image`.

    Example:
        >>> _, encoded = cv2.imencode(".png", np.zeros((80, 100, 3), np.uint8))
        >>> decode_image(encoded, "a.png").shape
        (80, 100, 3)
    """
    return _decode(encoded.tobytes(), name, max_pixels, annotated)


def image_size(path: Path | str, annotated: tuple[int, int] | None = None) -> tuple[int, int]:
    """Returns width and height of an image as `read_image` decodes it, from the header where that has them.

    Args:
        path: the file. JPEG, PNG, WebP and AVIF are not decoded.
        annotated: as in `read_image`.

    Raises:
        InputError: as in `read_image`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = cv2.imwrite(f"{folder}/a.png", np.zeros((80, 100, 3), np.uint8))
        ...     image_size(f"{folder}/a.png")
        (100, 80)
    """
    size = image_header(path).applied_size(annotated)
    if size is None:
        height, width = read_image(path).shape[:2]
        size = width, height
    return size


def image_header(path: Path | str) -> ImageHeader:
    """Reads the stored size and the EXIF orientation of an image file, without decoding it.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return read_file_header(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # a path with a null byte
        raise InputError(f"{str(path)!r}: cannot be read ({error}); check the path") from error


def image_digest(path: Path | str, annotated: tuple[int, int] | None = None) -> str:
    """Computes a digest of an image as `read_image` decodes it, under which caches keep results.

    It is the SHA-256 of the file's bytes. Where the image is turned by its EXIF orientation, that is hashed,
    too: results of the stored image must not be taken for those of the turned one.

    Args:
        path: the file.
        annotated: as in `read_image`.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = cv2.imwrite(f"{folder}/a.png", np.zeros((80, 100, 3), np.uint8))
        ...     image_digest(f"{folder}/a.png") == file_digest(Path(folder, "a.png"))
        True
    """
    return _turned_digest(file_digest(Path(path)), read_file_header(path).applied_orientation(annotated))


def content_digest(data: bytes, annotated: tuple[int, int] | None = None) -> str:
    """Computes the digest that `image_digest` gives for a file with these bytes."""
    return _turned_digest(hashlib.sha256(data).hexdigest(), read_header(data).applied_orientation(annotated))


def _turned_digest(digest: str, orientation: int) -> str:
    if orientation == 1:
        return digest
    return hashlib.sha256(f"{digest} EXIF orientation {orientation}".encode()).hexdigest()


def _read_bytes(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # a path with a null byte
        raise InputError(f"{str(path)!r}: cannot be read ({error}); check the path") from error


def _decode(data: bytes, name: str, max_pixels: int, annotated: tuple[int, int] | None) -> Image:
    if not data:
        raise InputError(f"{name}: the file is empty; fetch the image again")
    header = read_header(data)
    if not is_known(data):
        raise InputError(f"{name}: not an image of a format that is read; convert it to JPEG or PNG")
    check_limits(data, header, name, max_pixels)
    # OpenCV fails if bytes are missing at the end. It accepts a tail of zeros (an unfinished download into a
    # preallocated file), but smears the rest of the picture. Such a file has no end marker.
    complete = not data.startswith(b"\xff\xd8") or data.rfind(b"\xff\xd9") > header.scan
    # OpenCV would turn fewer formats than viewers do.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if complete else None
    except cv2.error as error:  # OpenCV's own limit on pixels, or out of memory
        raise InputError(f"{name}: OpenCV cannot decode it ({error.err}); convert or shrink it") from error
    if decoded is None:
        if header.size is not None:
            raise InputError(f"{name}: the image is truncated or damaged; fetch it again")
        raise InputError(f"{name}: not an image that OpenCV can decode; convert it to JPEG or PNG")
    height, width = decoded.shape[:2]
    check_pixels(width, height, name, max_pixels)
    stored: Image = np.asarray(decoded, np.uint8)
    return np.ascontiguousarray(turn(stored, header.applied_orientation(annotated)))
