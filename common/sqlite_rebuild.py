"""Saves what can still be read of a SQLite file with damaged pages."""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from sppnet.common.errors import InputError
from sppnet.common.files import checksum, sync_file, sync_folder

_CHECKSUM_BYTES = 4


def sealed(content: bytes, *about: str | int) -> bytes:
    """Appends a checksum of the content, and of what it is about, to the content.

    Example:
        >>> unsealed(sealed(b"boxes", "image 17"), "image 17")
        b'boxes'
        >>> print(unsealed(sealed(b"boxes", "image 17"), "image 18"))
        None
    """
    return content + _seal(content, about)


def unsealed(stored: bytes, *about: str | int) -> bytes | None:
    """The content that `sealed` got; None if it is not as it was written, or is about something else."""
    content = stored[:-_CHECKSUM_BYTES]
    return content if stored[-_CHECKSUM_BYTES:] == _seal(content, about) else None


def _seal(content: bytes, about: Sequence[str | int]) -> bytes:
    return checksum(content, repr(about).encode()).to_bytes(_CHECKSUM_BYTES, "little")


def has_damaged_pages(error: sqlite3.Error) -> bool:
    """Whether SQLite found pages of the file damaged."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def decode_leniently(connection: sqlite3.Connection) -> None:
    """Lets texts that damage has made undecodable come with question marks in place of an error."""
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")


def rebuild(path: Path, schema: str, tables: Mapping[str, Sequence[str]]) -> str:
    """Replaces a SQLite file with damaged pages by one with all rows that can still be read.

    The damaged file stays beside it as ``<name>.damaged``, where the file system has hard links.

    Args:
        path: the file. This process must have closed it.
        schema: makes the tables in an empty file.
        tables: name of each table to the columns of its primary key.

    Returns:
        a sentence for people.

    Raises:
        InputError: nothing can be read, another program has the file open, or the disk is full.
    """
    fresh, aside = (path.with_name(f"{path.name}.{ending}") for ending in ("rebuilt", "damaged"))
    fresh.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=1)) as old, closing(sqlite3.connect(fresh)) as new:
            decode_leniently(old)
            # All goes into one file; it fails where another program has the file open.
            old.execute("PRAGMA journal_mode = DELETE")
            new.executescript(schema)
            kept = {name: _copy(old, new, name, keys) for name, keys in tables.items()}
            new.commit()
        sync_file(fresh)
        aside.unlink(missing_ok=True)
        with suppress(OSError):
            os.link(path, aside)
        os.replace(fresh, path)
        sync_folder(path.parent)
    except (sqlite3.Error, OSError) as error:
        fresh.unlink(missing_ok=True)
        raise InputError(
            f"{path}: damaged, and what is left cannot be saved ({error}); stop other programs that use it, "
            "free some space and run again, or move the file away"
        ) from error
    rows = ", ".join(f"{count} {name}" for name, count in kept.items())
    return f"{path}: had damaged pages; what could be read was kept ({rows}), the rest is made again"


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str, keys: Sequence[str]) -> int:
    """Copies the rows of a table that can be read; returns how many."""
    where = " AND ".join(f"{key} = ?" for key in keys)
    before = new.total_changes
    # A scan ends at a damaged page, so there is one from each end.
    scans = chain(_scan(old, table, keys, "ASC"), _scan(old, table, keys, "DESC"))
    for key in dict.fromkeys(scans):
        with suppress(sqlite3.Error):
            row = old.execute(f"SELECT * FROM {table} WHERE {where}", key).fetchone()
            if row is not None:
                new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    return new.total_changes - before


def _scan(db: sqlite3.Connection, table: str, keys: Sequence[str], order: str) -> Iterator[tuple[Any, ...]]:
    ordered = ", ".join(f"{key} {order}" for key in keys)
    with suppress(sqlite3.Error):
        yield from db.execute(f"SELECT {', '.join(keys)} FROM {table} ORDER BY {ordered}")
