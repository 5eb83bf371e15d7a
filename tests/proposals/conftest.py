"""Fixtures for the tests of proposals."""

import resource

import pytest


@pytest.fixture
def full_disk():
    """A function that lets no file of this process grow beyond a size, like a full disk; None ends that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)
