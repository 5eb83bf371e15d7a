"""Digests, text files, JSON, locks, and files and folders that no reader sees half-written."""

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
    """Computes the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(values: Mapping[str, Any]) -> str:
    """Computes the SHA-256 of JSON values, as 64 hexadecimal digits; the order of the names does not matter.

    Example:
        >>> json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_text(path: Path, content: str) -> str:
    """Reads a text file that a user wrote: UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        content: words for the file's content in error messages, such as ``"the list of images"``.

    Raises:
        InputError: the file cannot be read, or is not UTF-8; the message names the first bad line.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {content} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: {content} cannot be read: it is not UTF-8 ({error.reason}); "
            "save the file as UTF-8"
        ) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary file beside ``path``, which replaces ``path`` when the block ends without an error.

    After an error the temporary file is removed, and ``path`` stays as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder, "list.txt")) as temporary:
        ...         _ = temporary.write_text("000017")
        ...     print(Path(folder, "list.txt").read_text())
        000017
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private, and safetensors puts a private file in its place; give it the mode
        # that an ordinary new file would have.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, indent: int | None = 2, allow_nan: bool = False) -> None:
    """Writes a value as JSON, replacing the file as a whole.

    Letters outside ASCII are written as they are; file names that are not UTF-8 are escaped.

    Args:
        path: the file; its folder is created if it is missing.
        value: dicts with string keys, lists, strings, numbers, booleans and None, nested in any way.
        indent: spaces for each level of nesting; None: everything on one line.
        allow_nan: write NaN and infinities as ``NaN`` and ``Infinity``. Python reads these, but strict JSON
            does not have them.

    Raises:
        TypeError: JSON cannot hold a part of the value.
        ValueError: a number is NaN or infinite and ``allow_nan`` is False.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(Path(folder, "figures.json"), {"map": 58.7}, indent=None)
        ...     print(Path(folder, "figures.json").read_text(), end="")
        {"map": 58.7}
    """
    text = json.dumps(value, indent=indent, allow_nan=allow_nan, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder while the block runs; the folder is created if it is missing.

    Raises:
        InputError: another process has locked the folder, or the folder cannot be written.
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
            # The file system has no locks, so nothing can be checked.
            pass
        yield


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder, which is renamed to ``folder`` when the block ends without an error.

    The empty folder lies beside ``folder`` and is removed after an error. The next call removes the remains
    of a killed process. ``folder`` itself must be missing or empty.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
