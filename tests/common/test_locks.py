"""Locks, and file systems without them."""

import errno
import os
import sqlite3
from contextlib import closing

import pytest

from sppnet.common.errors import InputError
from sppnet.common.files import only_process
from sppnet.common.locks import check_locks, lock, sqlite_advice

fcntl = pytest.importorskip("fcntl")


@pytest.fixture
def answer(monkeypatch):
    """Gives a function after which the system answers all locks with an error."""

    def refuse(number):
        def fail(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", fail)
        monkeypatch.setattr(fcntl, "lockf", fail)

    return refuse


def test_a_second_lock_is_refused_until_the_first_file_is_closed(tmp_path):
    with open(tmp_path / "file", "w") as second:
        with open(tmp_path / "file", "w") as first:
            lock(first)
            with pytest.raises(BlockingIOError):
                lock(second)
        lock(second)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_named(answer, tmp_path, number):
    answer(number)
    with pytest.raises(InputError, match=f"{tmp_path.name}: .* no file locks .*; give another folder$"):
        check_locks(tmp_path, "give another folder")
    assert list(tmp_path.iterdir()) == []
    # The folder of a run is used without: its lock only keeps people from starting twice.
    with only_process(tmp_path / "run"):
        pass


def test_a_folder_in_which_nothing_can_be_checked_is_taken(answer, tmp_path):
    check_locks(tmp_path, "")
    check_locks(tmp_path / "missing", "")
    answer(errno.EAGAIN)
    check_locks(tmp_path, "")


def test_a_lock_of_another_process_is_told_from_other_errors(tmp_path):
    with closing(sqlite3.connect(tmp_path / "file")) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with (
            closing(sqlite3.connect(tmp_path / "file", timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError) as caught,
        ):
            other.execute("BEGIN IMMEDIATE")
    assert "another process is writing there" in sqlite_advice(caught.value, "free some space")
    with closing(sqlite3.connect(tmp_path / "file")) as db, pytest.raises(sqlite3.OperationalError) as caught:
        db.execute("SELECT nothing")
    assert sqlite_advice(caught.value, "free some space") == "free some space"
