"""Scores of images, kept on disk as soon as they are known, so that a test that was stopped goes on."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.files import json_digest
from sppnet.data.images import image_digest
from sppnet.detection.classification.view_testing import ViewTester

_SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (
    image TEXT NOT NULL, tester TEXT NOT NULL, scores BLOB NOT NULL, PRIMARY KEY (image, tester)
) WITHOUT ROWID
"""


class ScoreStore:
    """One SQLite file with the scores that testers gave images, found by digests of both.

    Another image, classifier, view or size is another entry, so that no stale scores are found. Each image is
    one transaction: a kill loses only the images under way.
    """

    def __init__(self, path: Path, tester: ViewTester) -> None:
        """Opens or makes the file.

        Args:
            path: the file.
            tester: whose scores are kept and looked up.

        Raises:
            InputError: the file cannot be made, or is no file of scores.
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
        """The scores of image files, those kept from before and new ones.

        New scores are kept as they come; files that cannot be read are tried again each time.

        Args:
            files: N image files.

        Yields:
            in the order of the files, as `ViewTester.scores_of_files`: the file, its scores or the error, and
            whether they were kept from before.

        Raises:
            InputError: the store is damaged, or cannot be written.
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
