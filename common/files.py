"""Digests, text files of users, and writing so that a reader never sees half of a file or folder."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sppnet.common.errors import InputError


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(values: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of JSON values, whatever the order of their names."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_text(path: Path, what: str) -> str:
    """The text of a file that a user wrote: UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        what: it holds, for error messages.

    Raises:
        InputError: it cannot be read, or is not UTF-8; the first line that is not is named.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: {what} cannot be read, for it is not UTF-8 ({error.reason}); "
            "save the file as UTF-8"
        ) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``: it replaces it when the block ends well, and goes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    # mkstemp makes the file private; give it the mode an ordinary new file would have.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(name, 0o666 & ~umask)
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, indent: int) -> None:
    """Writes a value as JSON, replacing the file as a whole; names that are not UTF-8 are escaped.

    Raises:
        TypeError: a part of it is nothing that JSON can hold.
        ValueError: a number in it is nan or infinite.
    """
    text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Keeps others out of a folder, made if need be, as long as the block lasts or the process lives.

    Raises:
        InputError: another process is in such a block with the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; check the folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{folder}: another process is at work on this run; wait for it, or give another RUN name"
            ) from error
        except OSError:
            # A file system without locks: as careful as one can be there.
            pass
        yield


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder``, new or empty: it becomes it when the block ends well, and goes otherwise.

    What a kill left of one is removed by the next.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
