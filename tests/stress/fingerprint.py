"""Digests of values and of files, to compare results to the bit."""

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np


def fingerprint(value):
    """Returns the SHA-256 of a nested value of arrays, dataclasses, mappings, lists and plain values."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest, value):
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value):
        _feed(digest, [getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, Mapping):
        _feed(digest, sorted(value.items(), key=repr))
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())


def of_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Digests of the files that match patterns, by name; of SQLite files the rows count, not the bytes.

    Hidden files do not count: a killed process leaves its temporary ones.
    """
    matches = {path for name in names for path in folder.glob(name)}
    found = sorted(path for path in matches if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): _of_file(path) for path in found}


def _of_file(path: Path) -> str:
    if path.suffix != ".sqlite":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return fingerprint([sorted(database.execute(f"SELECT * FROM {name}"), key=repr) for name in tables])
