"""The offline cache of proposals: one SQLite file that is crash-safe and readable while it is written."""

import logging
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.locks import check_locks, sqlite_advice
from sppnet.common.sqlite_rebuild import decode_leniently, has_damaged_pages, rebuild, sealed, unsealed
from sppnet.proposals.engine import Engine, canonical_json, method_digest

_LOG = logging.getLogger(__name__)
_SCHEMA_VERSION = 1
# One transaction, so that no other process sees half of the schema.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS methods (digest TEXT PRIMARY KEY, parameters TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS proposals (
    image_id TEXT NOT NULL, image_digest TEXT NOT NULL, method TEXT NOT NULL REFERENCES methods,
    count INTEGER NOT NULL, boxes BLOB NOT NULL,
    PRIMARY KEY (image_id, image_digest, method)
);
PRAGMA user_version = {_SCHEMA_VERSION};
COMMIT;
"""
# The primary keys.
_KEYS = {"methods": ["digest"], "proposals": ["image_id", "image_digest", "method"]}
_ENTRY = " AND ".join(f"{name} = ?" for name in _KEYS["proposals"])

Value = TypeVar("Value")


class Key(NamedTuple):
    """The key of a cache entry.

    Attributes:
        image_id: the id of the example.
        image_digest: SHA-256 of the image file, in hexadecimal; `image_key` computes it.

    Example:
        >>> Key("000005", "e3b0c44298fc").image_id
        '000005'
    """

    image_id: str
    image_digest: str


class ProposalCache:
    """A cache of proposals by image and method. A changed image, parameter or version makes a new entry.

    One process writes; any number of processes read, and readers never wait for the writer. Each `put` is one
    transaction, so a kill loses at most the running call. Boxes are stored as little-endian uint16, or as
    uint32 if an edge is beyond 65,535 pixels: 8 or 16 bytes per box. An entry carries a checksum; a damaged
    one is deleted, so that it is made again. Entries of version 0.1.0 have no checksum and are read as they
    are. A file with damaged pages is replaced by one with all entries that can still be read; a warning says
    how many, and the damaged file stays beside it as ``<name>.damaged``.

    Attributes:
        path: the SQLite file.
        method: SHA-256 of the engine's parameters; the cache reads and writes entries of this method only.
        damaged: number of damaged entries so far; the first one is named in a warning.

    Example:
        >>> import tempfile
        >>> from sppnet.proposals import SelectiveSearch
        >>> key = Key("000005", "e3b0c44298fc")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with ProposalCache(f"{folder}/proposals.sqlite", SelectiveSearch()) as cache:
        ...         cache.put([(key, np.array([[0, 0, 40, 30]], np.float32))])
        ...     with ProposalCache(f"{folder}/proposals.sqlite", SelectiveSearch(seed=1)) as other_method:
        ...         other_method.missing([key]) == [key]
        ...     with ProposalCache(f"{folder}/proposals.sqlite", SelectiveSearch()) as cache:
        ...         cache.get(key).tolist()
        True
        [[0.0, 0.0, 40.0, 30.0]]
    """

    def __init__(self, path: Path | str, engine: Engine) -> None:
        """Opens the file at ``path`` for the boxes of ``engine``, or creates it.

        Raises:
            InputError: the file cannot be opened, or is not a cache of this version.
        """
        self.path = Path(path)
        self.method = method_digest(engine)
        self.damaged = 0
        self._parameters = canonical_json(engine.parameters())
        self._open()

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            check_locks(self.path.parent, "give a folder on another disk with --cache or SPPNET_CACHE")
            # Prefetching reads in its own thread, but two threads never read at the same time.
            self._db = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            decode_leniently(self._db)
            # One statement, so that both values belong to one state of the file: another process may be
            # creating it.
            version, tables = self._db.execute(
                "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
            ).fetchone()
            if version != _SCHEMA_VERSION:
                if version or tables:
                    raise InputError(
                        f"{self.path}: not a proposal cache of version {_SCHEMA_VERSION}; move it away"
                    )
                # The file keeps this mode: later openings write nothing and so wait for no writer.
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.executescript(_SCHEMA)
            # In WAL mode NORMAL survives a killed process; only a power failure may lose the last entries.
            self._db.execute("PRAGMA synchronous = NORMAL")
        # Python cannot decode what SQLite says about a schema with damaged letters.
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.path}: cannot be used as the proposal cache ({error}); "
                + sqlite_advice(
                    error, "check the disk and the file's permissions, or move the file away if it is damaged"
                )
            ) from error

    def __enter__(self) -> "ProposalCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file, as the end of a ``with`` block does."""
        self._db.close()

    def get(self, key: Key) -> FloatArray | None:
        """Returns the boxes of an image, or None if the method has no entry for it, or a damaged one.

        Returns:
            float32 (N, 4) xyxy, best first; N is 0 if the method proposed no box.

        Raises:
            InputError: the file cannot be read.
        """
        query = f"SELECT count, boxes FROM proposals WHERE {_ENTRY}"
        row = self._working("read", lambda: self._db.execute(query, (*key, self.method)).fetchone())
        if row is None:
            return None
        boxes = self._unpacked(key, *row)
        if boxes is None:
            if not self.damaged:
                _LOG.warning(
                    "%s: the entry of image %s is damaged; it is made again, as all damaged entries are",
                    self.path, key.image_id,
                )  # fmt: skip
            self.damaged += 1
            # Without it, it is missing for all. Where the file cannot be written it is missing here.
            with suppress(sqlite3.Error), self._db:
                self._db.execute(f"DELETE FROM proposals WHERE {_ENTRY}", (*key, self.method))
        return boxes

    def _unpacked(self, key: Key, count: Any, stored: Any) -> FloatArray | None:
        """The boxes of an entry; None if it is damaged."""
        if not isinstance(count, int) or not isinstance(stored, bytes):
            return None
        # Entries of version 0.1.0 are the boxes alone.
        packed = (
            stored if len(stored) in (8 * count, 16 * count) else unsealed(stored, *key, self.method, count)
        )
        if packed is None or len(packed) not in (8 * count, 16 * count):
            return None
        integers = np.frombuffer(packed, "<u2" if len(packed) == 8 * count else "<u4").reshape(-1, 4)
        return integers.astype(np.float32)

    def _working(self, verb: str, action: Callable[[], Value]) -> Value:
        """Does something with the file, which is rebuilt before if it has damaged pages."""
        try:
            try:
                return action()
            except sqlite3.Error as error:
                if not has_damaged_pages(error):
                    raise
            self._db.close()
            try:
                _LOG.warning(rebuild(self.path, _SCHEMA, _KEYS))
            finally:
                self._open()
            return action()
        except sqlite3.Error as error:
            raise InputError(
                f"{self.path}: cannot be {verb} ({error}); "
                f"{sqlite_advice(error, 'free some space and run again')}, the boxes stored before are kept"
            ) from error

    def present(self) -> set[tuple[str, str]]:
        """Returns the keys of all entries of this method, as plain tuples (0.3 kB of memory per image).

        Raises:
            InputError: the file cannot be read.
        """
        query = "SELECT image_id, image_digest FROM proposals WHERE method = ?"
        return self._working("read", lambda: set(self._db.execute(query, (self.method,))))

    def counts(self) -> dict[tuple[str, str], int]:
        """Returns the number of boxes of all entries of this method, by their keys as plain tuples.

        Raises:
            InputError: the file cannot be read.
        """
        query = "SELECT image_id, image_digest, count FROM proposals WHERE method = ?"
        rows = self._working("read", lambda: self._db.execute(query, (self.method,)).fetchall())
        known = {}
        for image_id, image_digest, count in rows:
            if isinstance(count, int):
                known[image_id, image_digest] = count
            else:
                # It is damaged, so this deletes it, and it is made again.
                self.get(Key(image_id, image_digest))
        return known

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Returns the keys that have no entry, in their order."""
        present = self.present()
        return [key for key in keys if key not in present]

    def put(self, entries: Iterable[tuple[Key, FloatArray]]) -> None:
        """Stores boxes in one transaction, replacing entries of equal keys.

        Args:
            entries: pairs of a key and boxes (N, 4) xyxy, whole numbers from 0.

        Raises:
            InputError: a box is not of whole numbers from 0, or the disk is full. Then nothing of this call
                is stored; entries of earlier calls are kept.
        """
        rows = []
        for key, boxes in entries:
            integers = boxes.astype(np.uint32)
            if boxes.shape != (len(boxes), 4) or not np.array_equal(integers, boxes):
                raise InputError(f"boxes of image {key.image_id}: only whole numbers from 0 can be cached")
            compact = integers.astype("<u2") if integers.max(initial=0) < 1 << 16 else integers.astype("<u4")
            stored = sealed(compact.tobytes(), *key, self.method, len(boxes))
            rows.append((*key, self.method, len(boxes), stored))
        if not rows:
            return

        def write() -> None:
            with self._db:
                # Written here and not when the file is opened, because readers must not write.
                method = (self.method, self._parameters)
                self._db.execute("INSERT OR IGNORE INTO methods VALUES (?, ?)", method)
                self._db.executemany("INSERT OR REPLACE INTO proposals VALUES (?, ?, ?, ?, ?)", rows)

        self._working("written", write)
