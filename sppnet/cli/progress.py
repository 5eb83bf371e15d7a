"""Progress of long work: bars in a terminal, a line now and then in a log."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 30.0


class ProgressReport:
    """Called with a stage's name, how much is done, and how much there is; a bar for each stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
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
        self._printed = time.monotonic()

    def __enter__(self) -> "ProgressReport":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done < self._done.get(stage, 0):
            # It begins anew, as the test after each epoch; so does its estimate.
            self._begun.pop(stage)
            if stage in self._tasks:
                self._bars.reset(self._tasks[stage], total=total, completed=done)
        self._done[stage] = done
        self._begun.setdefault(stage, (time.monotonic(), done))
        if self._console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, completed=done)
            self._bars.update(self._tasks[stage], completed=done)
            return
        now = time.monotonic()
        start, before = self._begun[stage]
        if now - self._printed > _SECONDS_BETWEEN_LINES and done > before:
            left = (now - start) / (done - before) * (total - done)
            self._console.print(
                f"{stage}: {done} of {total}, about {left / 60:.0f} min left", highlight=False
            )
            self._printed = now
