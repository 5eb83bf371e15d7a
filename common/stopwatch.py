"""Where the time goes, stage by stage."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up wall and processor time by the name of the stage; threads may share one.

    Attributes:
        seconds: stage to seconds of wall time, in the order of first use.
        cpu_seconds: likewise, processor time of all threads of the process, whatever they do.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._adding = threading.Lock()

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
