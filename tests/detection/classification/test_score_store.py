"""Kept scores: damage of the file is a miss, never other scores."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.detection.classification.score_store import ScoreStore


class CountingTester:
    """Stands for a `ViewTester`: the scores of a file are told by its content."""

    classes = ("cat", "dog", "bird")

    def __init__(self):
        self.count = 0

    def made_by(self):
        return {"classifier": "made up"}

    def scores_of_files(self, files):
        for file in files:
            self.count += 1
            yield file, right_scores(file)


def right_scores(file):
    return np.float32(file.read_bytes()[0]) + np.array([0.25, 0.5, 0.125], np.float32)


@pytest.fixture
def files(tmp_path):
    """Two hundred files, and so some pages of scores."""
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{number:03d}" for number in range(200)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    return paths


def read(path, files):
    """Reads all scores, which must be right; returns the store and how many were computed."""
    tester = CountingTester()
    with closing(ScoreStore(path, tester)) as store:
        for file, scores, _ in store.scores_of_files(files):
            np.testing.assert_array_equal(scores, right_scores(file))
    return store, tester.count


@pytest.fixture
def path(tmp_path, files):
    """A filled store."""
    path = tmp_path / "scores.sqlite"
    assert read(path, files)[1] == len(files)
    assert read(path, files)[1] == 0
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.mark.parametrize(
    "change",
    [
        "scores = x'ff' || 'text'",
        "scores = substr(scores, 2)",
        "scores = 'text'",
        "scores = NULL",
        "scores = 1.5",
        "scores = CAST(x'0000003f' || substr(scores, 5) AS BLOB)",
    ],
)
def test_damaged_entries_are_computed_again_and_counted(path, files, caplog, change):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '')")
        db.execute("PRAGMA writable_schema = RESET")
        db.execute(f"UPDATE scores SET {change}")
    store, computed = read(path, files)
    assert (store.damaged, computed) == (len(files), len(files))
    (message,) = caplog.messages
    assert "scores.sqlite: the entry of image" in message
    assert read(path, files)[1] == 0


def test_entries_of_version_0_1_0_have_no_checksum_and_are_read(path, files):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE scores SET scores = substr(scores, 1, 12)")
    store, computed = read(path, files)
    assert (store.damaged, computed) == (0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bytes_give_no_other_scores(path, files, seed):
    whole = path.read_bytes()
    rng = np.random.default_rng(seed)
    for position in rng.integers(4096, len(whole), 5):
        for file in path.parent.glob("scores.sqlite*"):
            file.unlink()
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ rng.integers(1, 256)]) + whole[position + 1 :]
        )
        read(path, files)
        assert read(path, files)[1] == 0


def test_what_can_be_read_of_a_file_with_damaged_pages_is_kept(path, files, caplog):
    whole = path.read_bytes()
    damaged = whole[: 3 * 4096] + b"\xaa" * 4096 + whole[4 * 4096 :]
    path.write_bytes(damaged)
    _, computed = read(path, files)
    assert 0 < computed < 60
    (message,) = caplog.messages
    assert f"{len(files) - computed} scores" in message
    assert path.with_name("scores.sqlite.damaged").read_bytes()[4096:] == damaged[4096:]
    assert read(path, files)[1] == 0


def test_a_file_that_is_no_store_is_left_alone(tmp_path, files):
    path = tmp_path / "scores.sqlite"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(InputError, match=r"scores\.sqlite: scores cannot be kept there"):
        read(path, files)
    assert path.read_bytes() == b"not a database " * 100


def test_a_schema_that_is_no_text_is_named(path, files):
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"CREATE TABLE scores", b"CREATE TABLE \xffcores"))
    with pytest.raises(InputError, match=r"scores\.sqlite: scores cannot be kept there"):
        read(path, files)
