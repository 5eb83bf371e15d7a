"""A video file as a stream for OpenCV, which crashes where a stream raises an error."""

import io
from pathlib import Path
from typing import BinaryIO

from sppnet.common.errors import InputError


class VideoStream(io.BufferedIOBase):
    """An open video file; what cannot be read is as the end of the file.

    A damaged video may ask for a position before the beginning. FFmpeg takes -1 as "there is none".

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file, VideoStream(file.name) as stream:
        ...     stream.seek(-5)
        -1
    """

    def __init__(self, path: Path | str) -> None:
        """Opens the file.

        Raises:
            InputError: it cannot be read.
        """
        try:
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 (`close` closes it)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except ValueError as error:  # a path with a null byte
            raise InputError(f"{str(path)!r}: cannot be read ({error}); check the path") from error

    def read(self, size: int | None = -1) -> bytes:
        """Reads so many bytes, or fewer at the end."""
        try:
            return self._file.read(-1 if size is None else size)
        except (OSError, ValueError):
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to a position and returns it, or -1 where there is no such position."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()
