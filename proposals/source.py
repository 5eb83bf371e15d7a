"""The address of an image file for workers: a path that all machines share, or a name below a URL."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sppnet.common.errors import InputError


class FileAt(NamedTuple):
    """The address of a file for a worker.

    Attributes:
        url: URL of a folder, as fsspec takes it; empty: ``name`` is a path on every machine.
        name: the absolute path; with a URL, the file's path below the URL, with slashes.
    """

    url: str
    name: str

    def __str__(self) -> str:
        return f"{self.url}: {self.name}" if self.url else self.name

    def read(self) -> bytes:
        """Reads the file's bytes.

        Raises:
            InputError: the file cannot be read on this machine.
        """
        try:
            if not self.url:
                return Path(self.name).read_bytes()
            # Imported here because only workers that read from a URL need it.
            from fsspec.core import url_to_fs

            # In a chain such as zip://folder::https://host/images.zip the file's name is not at the end.
            files, folder = url_to_fs(self.url)
            content: bytes = files.cat_file(f"{folder.rstrip('/')}/{self.name}")
            return content
        # Each file system of fsspec raises its own errors.
        except Exception as error:
            raise InputError(
                f"{self}: cannot be read on {socket.gethostname()} ({type(error).__name__}: {error}); "
                "all workers must reach the image files, at the same path or by --images-url"
            ) from error


@dataclass(frozen=True)
class ImageSource:
    """A URL at which workers find the files of a folder of this machine.

    Attributes:
        folder: the folder on this machine.
        url: the URL of the same files, as fsspec takes it: ``s3://bucket/VOCdevkit``,
            ``file:///mnt/VOCdevkit``, ``zip://VOCdevkit::https://host/voc.zip``. Some URLs need an extra
            package, such as s3fs.

    Example:
        >>> source = ImageSource(Path("VOCdevkit"), "s3://bucket/VOCdevkit")
        >>> str(source.locate(Path("VOCdevkit/VOC2007/JPEGImages/000005.jpg")))
        's3://bucket/VOCdevkit: VOC2007/JPEGImages/000005.jpg'
    """

    folder: Path
    url: str

    def locate(self, path: Path) -> FileAt:
        """Returns the workers' address of the file that this machine has at ``path``.

        Raises:
            InputError: ``path`` is not in ``folder``.
        """
        try:
            # Not resolved: a symbolic link inside the folder keeps its name.
            name = Path(os.path.abspath(path)).relative_to(os.path.abspath(self.folder))
        except ValueError as error:
            raise InputError(
                f"{path}: is not in {self.folder}, which {self.url} stands for; leave --images-url out"
            ) from error
        return FileAt(self.url, name.as_posix())


def shared_file(path: Path) -> FileAt:
    """Returns the address of a file that has the same path on all machines.

    The path is absolute because workers run in other folders.
    """
    return FileAt("", os.path.abspath(path))
