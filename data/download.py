"""Fetching the official VOC2007 archives: resumed, checked, and unpacked out of sight."""

import errno
import hashlib
import http.client
import platform
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sppnet.common.errors import InputError


@dataclass(frozen=True)
class Archive:
    """A file on the server, and the MD5 of its bytes in hexadecimal."""

    name: str
    md5: str


# Sums as in torchvision.datasets.voc; they guard against damage, not against an attacker.
VOC2007_ARCHIVES = (
    Archive("VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
    Archive("VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
)
# The long-term address according to its administrator (pytorch/vision pull request 9216); the well-known
# http://host.robots.ox.ac.uk redirects to it.
VOC2007_URL = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/"

_TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 20

Progress = Callable[[str, int, int | None], None]


def download_voc2007(
    root: Path,
    base_url: str = VOC2007_URL,
    archives: Sequence[Archive] = VOC2007_ARCHIVES,
    progress: Progress | None = None,
    attempts: int = 5,
    pause: float = 2.0,
) -> Path:
    """Makes ``root/VOC2007`` from the official archives.

    An interrupted download goes on where it stopped, in this call or in the next. All archives are unpacked
    into one hidden folder, which is then renamed, so ``root/VOC2007`` appears whole or not at all. Where it
    exists already, nothing is done. The archives are removed in the end.

    Args:
        root: the devkit folder (``VOC_ROOT``).
        base_url: folder on a server; a mirror that keeps the archives' names will do.
        archives: what to fetch; each holds ``VOCdevkit/VOC2007``.
        progress: called with an archive's name, the bytes present, and the bytes in all (None if unknown).
        attempts: how often in a row a connection may bring nothing before giving up.
        pause: seconds before the next attempt, doubled for each one that brings nothing.

    Returns:
        ``root/VOC2007``.

    Raises:
        InputError: the server does not answer or has no such file, an archive is damaged (it is removed, so
            that the next call fetches it anew) or holds something else, the disk is full, or this Python is
            older than 3.11.4.
    """
    root = Path(root)
    target = root / "VOC2007"
    if target.is_dir():
        return target
    if not hasattr(tarfile, "data_filter"):
        # Said before the download, not after it.
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
            raise InputError(f"{root}: the disk is full; make room and run this again to go on") from error
        raise InputError(f"{root}: cannot be written ({error}); check the folder") from error
    return target


def _fetch(
    archive: Archive, root: Path, base_url: str, progress: Progress | None, attempts: int, pause: float
) -> Path:
    path, part = root / archive.name, root / f"{archive.name}.part"
    if not path.is_file():
        url = f"{base_url.rstrip('/')}/{archive.name}"
        failures, most = 0, _size(part)
        while True:
            try:
                _fetch_rest(url, part, lambda done, total: progress and progress(archive.name, done, total))
                break
            except _Interrupted as error:
                reason = error
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= attempts:
                raise InputError(f"{url}: {reason}; check the network, then run this again to go on")
            time.sleep(pause * 2**failures)
        part.replace(path)
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != archive.md5:
        path.unlink()
        raise InputError(
            f"{path}: damaged: its MD5 is {md5}, not {archive.md5}; it was removed, run this again to "
            "fetch it anew"
        )
    return path


class _Interrupted(Exception):
    """The network's fault: worth another attempt."""


def _fetch_rest(url: str, part: Path, progress: Callable[[int, int | None], object]) -> None:
    """Appends what is missing of ``part``."""
    have = _size(part)
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after what we have: it is complete, or from another file
            if error.headers.get("Content-Range") == f"bytes */{have}":
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
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise _Interrupted("the server sent another part of the file")
        length = response.headers.get("Content-Length")
        done = have if resumed else 0
        total = done + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as file:
            progress(done, total)
            while chunk := _read_chunk(response):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
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
            try:
                with tarfile.open(file) as archive:
                    archive.extractall(hidden, filter="data")
            except tarfile.TarError as error:
                raise InputError(f"{file}: not a usable archive ({error}); remove it") from error
        made = hidden / "VOCdevkit" / target.name
        if not made.is_dir():
            raise InputError(f"{files[0]}: holds no VOCdevkit/{target.name}; remove it")
        made.rename(target)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
