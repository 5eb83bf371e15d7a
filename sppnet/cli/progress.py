"""Shows the progress of long work: bars in a terminal, occasional lines in a log."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 30.0


class ProgressReport:
    """A `sppnet.common.progress.Progress` that shows a bar for each stage within a ``with`` block."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Reports on ``console``.

        Args:
            console: shows bars if it is a terminal, else lines.
            clock: gives the time in seconds, for the estimates in lines.
        """
        self._console, self._clock = console, clock
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._done: dict[str, int] = {}
        self._printed = clock()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows the progress of a stage: ``done`` of ``total``."""
        if done < self._done.get(stage, 0):
            # The stage begins again, like the test after each epoch, and so does its estimate.
            self._begun.pop(stage)
            if stage in self._tasks:
                self._bars.reset(self._tasks[stage], total=total, completed=done)
        self._done[stage] = done
        self._begun.setdefault(stage, (self._clock(), done))
        if self._console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, completed=done)
            self._bars.update(self._tasks[stage], completed=done)
            return
        now = self._clock()
        start, before = self._begun[stage]
        if now - self._printed > _SECONDS_BETWEEN_LINES and done > before:
            left = (now - start) / (done - before) * (total - done)
            self._console.print(
                f"{stage}: {done} of {total}, about {left / 60:.0f} min left", highlight=False
            )
            self._printed = now
