"""Locks on files that work on Linux, macOS and Windows, and a check that a file system has them."""

import errno
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from sppnet.common.errors import InputError

# What systems answer where a file system has no locks: NFS without its lock service, Lustre mounted without
# flock, some drivers of cloud storage.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


def lock(file: IO[Any]) -> None:
    """Locks a file for this process until the file is closed or the process ends; does not wait.

    Args:
        file: open for writing.

    Raises:
        BlockingIOError: another process, or another open file of this process, holds the lock.
        OSError: the file system has no locks.

    Example:
        >>> with tempfile.TemporaryFile() as file:
        ...     lock(file)
    """
    # Imported here: each system has only one of them.
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from error
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_locks(folder: Path, advice: str) -> None:
    """Checks that the file system of a folder has the locks that SQLite needs.

    SQLite itself takes their absence for a lock of another process, waits a minute for it, and then says
    ``database is locked``.

    Args:
        folder: must be there. Where nothing can be written in it, nothing is checked.
        advice: what to do, for the message.

    Raises:
        InputError: there are no locks.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check_locks(Path(folder), "give another folder")
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # The kind of lock that SQLite takes; of a file of its own, for closing the database here would
            # drop the locks that this process has on it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise InputError(
                f"{folder}: this file system has no file locks ({error.strerror}), and SQLite needs them; "
                f"{advice}"
            ) from error


def sqlite_advice(error: Exception, advice: str) -> str:
    """Says what to do about an error of SQLite or the disk.

    Args:
        error: what was raised.
        advice: what to do, unless another process holds the lock of the file.

    Example:
        >>> sqlite_advice(OSError("no space"), "free some space")
        'free some space'
    """
    import sqlite3

    # The low byte is the code, the others say more.
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return "another process is writing there, and has been for a minute; wait for it, and run again"
    return advice
