"""The stopwatch: sums by stage, threads, copies for other processes."""

import copy
import threading
from contextlib import suppress

from sppnet.common.stopwatch import Stopwatch


class MeetingPoint(dict):
    """Makes threads meet between reading a value and writing it back, unless a lock keeps them apart."""

    def __init__(self, threads):
        super().__init__()
        self.barrier = threading.Barrier(threads)

    def get(self, key, default):
        value = super().get(key, default)
        # Broken: the lock kept the other threads out.
        with suppress(threading.BrokenBarrierError):
            self.barrier.wait(0.2)
        return value


def test_adds_up_by_stage(monkeypatch):
    monkeypatch.setattr("sppnet.common.stopwatch.time.perf_counter", iter([0, 2, 10, 15, 20, 21]).__next__)
    monkeypatch.setattr("sppnet.common.stopwatch.time.process_time", iter([0, 4, 20, 30, 40, 42]).__next__)
    clock = Stopwatch()
    for stage in ("decode", "maps", "decode"):
        with clock(stage):
            pass
    assert clock.seconds == {"decode": 3, "maps": 5}
    assert clock.cpu_seconds == {"decode": 6, "maps": 10}


def test_counts_a_stage_that_fails():
    clock = Stopwatch()
    with suppress(KeyError), clock("decode"):
        raise KeyError
    assert list(clock.seconds) == ["decode"]


def test_threads_lose_nothing(monkeypatch):
    local = threading.local()

    def tick():
        """0, 1, 2 and so on in each thread."""
        local.now = getattr(local, "now", -1) + 1
        return local.now

    monkeypatch.setattr("sppnet.common.stopwatch.time.perf_counter", tick)
    clock = Stopwatch()
    clock.seconds = MeetingPoint(2)

    def run():
        with clock("stage"):
            pass

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds == {"stage": 2}


def test_can_be_copied():
    clock = Stopwatch()
    with clock("decode"):
        pass
    second = copy.deepcopy(clock)
    assert second.seconds == clock.seconds
    with second("maps"):
        pass
    assert (list(second.seconds), list(clock.seconds)) == (["decode", "maps"], ["decode"])
