"""Scores of images, kept on disk as soon as they are known, so that a test that was stopped goes on."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.files import file_digest, json_digest
from sppnet.detection.classification.view_testing import ViewTester

_SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (
    image TEXT NOT NULL, tester TEXT NOT NULL, scores BLOB NOT NULL, PRIMARY KEY (image, tester)
) WITHOUT ROWID
"""


class ScoreStore:
    """One SQLite file with the scores that testers gave images, found by digests of both.

    Another image, classifier, view or size is another entry, so what is found is never stale. Each image is
    one transaction: a kill loses those under way only.
    """

    def __init__(self, path: Path, tester: ViewTester) -> None:
        """Opens or makes the file at ``path`` for what ``tester`` gives.

        Raises:
            InputError: the file cannot be made, or is none of these.
        """
        self.path = path
        self._tester, self._made_by = tester, json_digest(tester.made_by())
        self._length = len(tester.classes)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            # In WAL mode NORMAL survives a killed process; only a power cut may lose the last entries.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{path}: scores cannot be kept there ({error}); delete it") from error

    def scores_of_files(self, files: Sequence[Path]) -> Iterator[tuple[Path, FloatArray | InputError, bool]]:
        """What `ViewTester.scores_of_files` yields, and whether it was kept from before.

        Scores are kept as they come; files that cannot be read are tried again each time.

        Raises:
            InputError: the store is damaged, or cannot be written.
        """
        digests = {}
        for file in files:
            # Of a file that cannot be opened, the tester says why.
            with suppress(OSError):
                digests[file] = file_digest(file)
        kept = {file: found for file, one in digests.items() if (found := self._get(one)) is not None}
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
        query = "SELECT scores FROM scores WHERE image = ? AND tester = ?"
        try:
            row = self._db.execute(query, (image, self._made_by)).fetchone()
        except sqlite3.Error as error:
            raise InputError(f"{self.path}: damaged ({error}); delete it") from error
        if row is None:
            return None
        scores = np.frombuffer(row[0], "<f4").astype(np.float32)
        if len(scores) != self._length:
            raise InputError(f"{self.path}: damaged (entry of image {image}); delete it")
        return scores

    def _put(self, image: str, scores: FloatArray) -> None:
        values = scores.astype("<f4").tobytes()
        try:
            self._db.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", (image, self._made_by, values))
        except sqlite3.Error as error:
            raise InputError(
                f"{self.path}: cannot be written ({error}); free some space and run again, what is kept "
                "already stays"
            ) from error
