"""Fixtures for the tests of proposals."""

import resource

import pytest


@pytest.fixture
def full_disk():
    """Gives a function that limits the size of files of this process, like a full disk; None: no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)
