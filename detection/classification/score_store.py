"""Scores of images, kept on disk as soon as they are known, so that a test that was stopped goes on."""

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.files import json_digest
from sppnet.common.locks import check_locks, sqlite_advice
from sppnet.common.sqlite_rebuild import decode_leniently, has_damaged_pages, rebuild, sealed, unsealed
from sppnet.data.images import image_digest
from sppnet.detection.classification.view_testing import ViewTester

_LOG = logging.getLogger(__name__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (
    image TEXT NOT NULL, tester TEXT NOT NULL, scores BLOB NOT NULL, PRIMARY KEY (image, tester)
) WITHOUT ROWID
"""


class ScoreStore:
    """One SQLite file with the scores that testers gave images, found by digests of both.

    Another image, classifier, view or size is another entry, so that no stale scores are found. Each image is
    one transaction: a kill loses only the images under way. An entry carries a checksum; damaged entries are
    computed again. Entries of version 0.1.0 have none and are read as they are. A file with damaged pages is
    replaced by one with all entries that can still be read.

    Attributes:
        path: the file.
        damaged: number of damaged entries so far; the first one is named in a warning.
    """

    def __init__(self, path: Path, tester: ViewTester) -> None:
        """Opens or makes the file.

        Args:
            path: the file.
            tester: whose scores are kept and looked up.

        Raises:
            InputError: the file cannot be made, or is no file of scores.
        """
        self.path, self.damaged = path, 0
        self._tester, self._made_by = tester, json_digest(tester.made_by())
        self._length = len(tester.classes)
        self._open()

    def _open(self) -> None:
        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            check_locks(path.parent, "give a folder on another disk with --output")
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            decode_leniently(self._db)
            # In WAL mode NORMAL survives a killed process; only a power cut may lose the last entries.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(_SCHEMA)
        # Python cannot decode what SQLite says about a schema with damaged letters.
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: scores cannot be kept there ({error}); {sqlite_advice(error, 'delete it')}"
            ) from error

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def scores_of_files(self, files: Sequence[Path]) -> Iterator[tuple[Path, FloatArray | InputError, bool]]:
        """The scores of image files, those kept from before and new ones.

        New scores are kept as they come; files that cannot be read are tried again each time.

        Args:
            files: N image files.

        Yields:
            in the order of the files, as `ViewTester.scores_of_files`: the file, its scores or the error, and
            whether they were kept from before.

        Raises:
            InputError: the store cannot be read or written.
        """
        digests = {}
        for file in files:
            # If a file cannot be opened, the tester says why.
            with suppress(OSError):
                digests[file] = image_digest(file)
        entries = {file: self._get(digest) for file, digest in digests.items()}
        kept = {file: scores for file, scores in entries.items() if scores is not None}
        fresh = self._tester.scores_of_files([file for file in files if file not in kept])
        for file in files:
            if file in kept:
                yield file, kept[file], True
                continue
            _, scores = next(fresh)
            if not isinstance(scores, InputError):
                self._put(digests[file], scores)
            yield file, scores, False

    def _get(self, image: str) -> FloatArray | None:
        rows = self._execute("SELECT scores FROM scores WHERE image = ? AND tester = ?", image, self._made_by)
        if not rows:
            return None
        stored, length = rows[0][0], 4 * self._length
        values = None
        if isinstance(stored, bytes):
            # Entries of version 0.1.0 are the scores alone.
            values = stored if len(stored) == length else unsealed(stored, image, self._made_by)
        if values is None or len(values) != length:
            if not self.damaged:
                _LOG.warning(
                    "%s: the entry of image %s is damaged; it is computed again, as all damaged entries are",
                    self.path, image,
                )  # fmt: skip
            self.damaged += 1
            return None
        return np.frombuffer(values, "<f4").astype(np.float32)

    def _put(self, image: str, scores: FloatArray) -> None:
        stored = sealed(scores.astype("<f4").tobytes(), image, self._made_by)
        self._execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", image, self._made_by, stored)

    def _execute(self, statement: str, *values: str | bytes) -> list[tuple[Any, ...]]:
        """Executes a statement on the file, which is rebuilt before if it has damaged pages."""
        try:
            try:
                return self._db.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                if not has_damaged_pages(error):
                    raise
            self._db.close()
            try:
                _LOG.warning(rebuild(self.path, _SCHEMA, {"scores": ["image", "tester"]}))
            finally:
                self._open()
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise InputError(
                f"{self.path}: cannot be read or written ({error}); "
                f"{sqlite_advice(error, 'free some space and run again')}; what is kept already stays"
            ) from error
