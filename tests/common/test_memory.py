"""Peak memory, and giving memory back."""

import ctypes

import numpy as np

from sppnet.common.memory import give_back, peak_bytes, reset_peak


def test_peak_sees_an_allocation_after_a_reset():
    reset_peak()
    before = peak_bytes()
    block = np.ones(25_000_000)
    assert peak_bytes() >= before + 0.9 * block.nbytes


def test_giving_back_does_nothing_where_the_library_cannot(monkeypatch):
    def missing_library(name):
        raise OSError("no such library")

    give_back()
    monkeypatch.setattr(ctypes, "CDLL", missing_library)
    give_back()
