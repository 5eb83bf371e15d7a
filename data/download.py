"""Downloads the official VOC2007 archives, continues broken downloads, checks and unpacks the files."""

import errno
import hashlib
import http.client
import os
import platform
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sppnet.common.errors import InputError
from sppnet.common.files import sync_folder
from sppnet.common.progress import Progress, quiet


@dataclass(frozen=True)
class Archive:
    """A file on the server.

    Attributes:
        name: the file's name.
        md5: the MD5 of its bytes, in hexadecimal.

    Example:
        >>> Archive("VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f").name
        'VOCtest_06-Nov-2007.tar'
    """

    name: str
    md5: str


# MD5 sums from torchvision.datasets.voc; they guard against damage, not against an attacker.
VOC2007_ARCHIVES = (
    Archive("VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
    Archive("VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
)
# The long-term address according to its administrator (pytorch/vision pull request 9216); the well-known
# http://host.robots.ox.ac.uk redirects to it.
VOC2007_URL = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/"

_TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 20
# What damaged headers lead to, beside errors of the archive itself.
_MEMBER_ERRORS = (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError)


def download_voc2007(
    root: Path,
    base_url: str = VOC2007_URL,
    archives: Sequence[Archive] = VOC2007_ARCHIVES,
    progress: Progress = quiet,
    attempts: int = 5,
    pause: float = 2.0,
) -> Path:
    """Downloads the official archives and unpacks them as ``root/VOC2007``.

    An interrupted download continues where it stopped, in this call or in the next. All archives are unpacked
    into one hidden folder, which is then renamed, so ``root/VOC2007`` appears whole or not at all. An archive
    with anything but files and folders, such as links, or with names that lead out of it, is refused before
    anything is extracted. If
    ``root/VOC2007`` exists already, nothing is done. The archives are removed at the end.

    Args:
        root: the devkit folder (``VOC_ROOT``).
        base_url: the folder on the server, or on a mirror with the same file names.
        archives: the files to download; each holds ``VOCdevkit/VOC2007``.
        progress: called with an archive's name, the bytes downloaded so far, and the bytes in total. If the
            server does not give the total, the bytes so far stand for it.
        attempts: give up after this many connections in a row that brought no new bytes.
        pause: seconds before the next attempt, doubled after each attempt that brought no new bytes.

    Returns:
        ``root/VOC2007``.

    Raises:
        InputError: the server does not answer or has no such file; an archive is damaged (it is removed, and
            the next call downloads it again) or does not hold ``VOCdevkit/VOC2007``; the disk is full; or
            this Python is older than 3.11.4.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     Path(root, "VOC2007").mkdir()
        ...     download_voc2007(Path(root)).name  # there already
        'VOC2007'
    """
    root = Path(root)
    target = root / "VOC2007"
    if target.is_dir():
        return target
    if not hasattr(tarfile, "data_filter"):
        # Checked first because the download takes long.
        raise InputError(
            f"Python {platform.python_version()} cannot unpack archives safely; use 3.11.4 or newer, or "
            "unpack VOC2007 by hand and give its devkit as VOC_ROOT"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        files = [_fetch(archive, root, base_url, progress, attempts, pause) for archive in archives]
        _unpack(files, target)
        for file in files:
            file.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"{root}: the disk is full; make room and run this again to continue") from error
        raise InputError(f"{root}: cannot be written ({error}); check the folder") from error
    return target


def _fetch(
    archive: Archive, root: Path, base_url: str, progress: Progress, attempts: int, pause: float
) -> Path:
    path, part = root / archive.name, root / f"{archive.name}.part"
    if not path.is_file():
        url = f"{base_url.rstrip('/')}/{archive.name}"
        failures, most_bytes = 0, _size(part)
        while True:
            try:
                _fetch_rest(url, part, lambda done, total: progress(archive.name, done, total))
                break
            except _Interrupted as error:
                reason = error
            failures = 0 if _size(part) > most_bytes else failures + 1
            most_bytes = max(most_bytes, _size(part))
            if failures >= attempts:
                raise InputError(f"{url}: {reason}; check the network, then run this again to continue")
            time.sleep(pause * 2**failures)
        part.replace(path)
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != archive.md5:
        path.unlink()
        raise InputError(
            f"{path}: damaged: its MD5 is {md5}, not {archive.md5}; it was removed, run this again to "
            "download it again"
        )
    return path


class _Interrupted(Exception):
    """A fault of the network or the server; another attempt may succeed."""


def _fetch_rest(url: str, part: Path, progress: Callable[[int, int], None]) -> None:
    """Downloads the bytes that ``part`` lacks and appends them."""
    present = _size(part)
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={present}-"} if present else {})
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # No bytes follow: the part is complete, or it is from another file.
            if error.headers.get("Content-Range") == f"bytes */{present}":
                return
            part.unlink()
            raise _Interrupted("the file on the server has changed") from error
        if error.code < 500:
            raise InputError(
                f"{url}: the server answers {error.code} {error.reason}; give another base URL"
            ) from error
        raise _Interrupted(f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(str(error)) from error
    except ValueError as error:
        raise InputError(f"{url}: {error}; give a base URL that starts with https:// or http://") from error
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {present}-"):
            part.unlink()
            raise _Interrupted("the server sent another part of the file")
        length = response.headers.get("Content-Length")
        done = present if resumed else 0
        total = done + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as file:
            progress(done, total or done)
            while chunk := _read_chunk(response):
                file.write(chunk)
                done += len(chunk)
                progress(done, total or done)
    if total is not None and done < total:
        raise _Interrupted("the connection was cut")


def _read_chunk(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(str(error)) from error


def _unpack(files: Sequence[Path], target: Path) -> None:
    hidden = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        for file in files:
            _extract(file, hidden)
        unpacked = hidden / "VOCdevkit" / target.name
        if not unpacked.is_dir():
            raise InputError(f"{files[0]}: holds no VOCdevkit/{target.name}; remove it")
        # So that a power cut leaves no empty files. Windows has no such call for all files.
        if hasattr(os, "sync"):
            os.sync()
        unpacked.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _extract(file: Path, folder: Path) -> None:
    """Extracts an archive that holds nothing but files and folders; all members are checked before."""
    try:
        # Official archives are not compressed; a compressed one could swell to any size.
        with tarfile.open(file, "r:") as archive:
            members = archive.getmembers()
            _check_members(members, file.stat().st_size)
            archive.extractall(folder, members, filter="data")
    except _MEMBER_ERRORS as error:
        raise InputError(f"{file}: not a usable archive ({error}); remove it") from error
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            raise
        raise InputError(f"{file}: not a usable archive ({error.strerror}); remove it") from error


def _check_members(members: Sequence[tarfile.TarInfo], archive_bytes: int) -> None:
    """Checks that members are files and folders, lie inside, and do not replace each other.

    Raises:
        ValueError: one does not; the message names it.
    """
    files: set[PurePosixPath] = set()
    for member in members:
        name = PurePosixPath(member.name)
        if not (member.isfile() or member.isdir()) or member.issparse():
            raise ValueError(f"{member.name!r} is no regular file or folder")
        if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name:
            raise ValueError(f"{member.name!r} leads out of the folder")
        if name in files:
            raise ValueError(f"{member.name!r} is in it twice")
        if member.isfile():
            files.add(name)
    for member in members:
        if not files.isdisjoint(PurePosixPath(member.name).parents):
            raise ValueError(f"{member.name!r} lies below a file")
    if sum(member.size for member in members) > archive_bytes:
        raise ValueError("its files are larger than the archive")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
