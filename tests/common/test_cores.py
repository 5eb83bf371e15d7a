"""The number of cores that a process may use, and torch's threads."""

import os

import pytest
import torch

from sppnet.common.cores import allowed_cores, limit_torch_threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_the_affinity_counts():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert allowed_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture
def threads(monkeypatch):
    """Gives a function that tells torch's threads after the limit, from 3, for a process with one core."""
    before = torch.get_num_threads()
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def limited():
        torch.set_num_threads(3)
        limit_torch_threads()
        return torch.get_num_threads()

    yield limited
    torch.set_num_threads(before)


def test_torch_takes_the_allowed_cores(threads):
    assert threads() == 1


def test_the_users_own_number_of_threads_stands(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads() == 3
