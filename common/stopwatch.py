"""A stopwatch that adds up time by stage."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopwatch:
    """Adds up wall and processor time by the name of the stage; threads may share a stopwatch.

    Attributes:
        seconds: stage to seconds of wall time, in the order of first use.
        cpu_seconds: stage to seconds of processor time, of all threads of the process together.

    Example:
        >>> clock = Stopwatch()
        >>> with clock("decode"):
        ...     pass
        >>> list(clock.seconds)
        ['decode']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._adding = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A lock cannot be pickled, and a detector is sent to other processes with its clock.
        return {"seconds": dict(self.seconds), "cpu_seconds": dict(self.cpu_seconds)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _adding=threading.Lock())

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start, cpu_start = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            with self._adding:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + wall
                self.cpu_seconds[stage] = self.cpu_seconds.get(stage, 0.0) + cpu
