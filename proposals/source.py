"""Where workers find image files: at a path that all machines share, or below a URL."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fsspec.core import url_to_fs

from sppnet.common.errors import InputError


class FileAt(NamedTuple):
    """A file as a worker finds it.

    Attributes:
        url: of a folder, as fsspec takes it; empty where ``name`` is a path on every machine.
        name: the path, absolute; or what is below ``url``, with slashes.
    """

    url: str
    name: str

    def __str__(self) -> str:
        return f"{self.url}: {self.name}" if self.url else self.name

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            InputError: it cannot be read on this machine.
        """
        try:
            if not self.url:
                return Path(self.name).read_bytes()
            # A chain such as zip://folder::https://host/images.zip cannot just be lengthened at its end.
            files, folder = url_to_fs(self.url)
            content: bytes = files.cat_file(f"{folder.rstrip('/')}/{self.name}")
            return content
        # Every file system of fsspec has errors of its own.
        except Exception as error:
            raise InputError(
                f"{self}: cannot be read on {socket.gethostname()} ({type(error).__name__}: {error}); "
                "all workers must reach the image files, at the same path or by --images-url"
            ) from error


@dataclass(frozen=True)
class ImageSource:
    """A URL below which workers find what this machine has in a folder.

    Attributes:
        folder: on this machine.
        url: as fsspec takes it: ``s3://bucket/VOCdevkit``, ``file:///mnt/VOCdevkit``,
            ``zip://VOCdevkit::https://host/voc.zip``. Some need a package of their own, such as s3fs.
    """

    folder: Path
    url: str

    def locate(self, path: Path) -> FileAt:
        """Where workers find the file that is at ``path`` here.

        Raises:
            InputError: ``path`` is not in ``folder``.
        """
        try:
            # Not resolved: a link inside the folder keeps its name.
            name = Path(os.path.abspath(path)).relative_to(os.path.abspath(self.folder))
        except ValueError as error:
            raise InputError(
                f"{path}: is not in {self.folder}, for which {self.url} stands; leave --images-url out"
            ) from error
        return FileAt(self.url, name.as_posix())


def shared_file(path: Path) -> FileAt:
    """A file that workers find at the same path: made absolute, for they run in other folders."""
    return FileAt("", os.path.abspath(path))
