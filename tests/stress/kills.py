"""Kills every stage at random moments, runs the same command again, and compares the results to the bit."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sandbox
from outcome import Outcome
from stages import Prepared, Stage, changes_files, start

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A stopped command may write down what it has; no stage here needs a second for that.
_STOP_SECONDS = 60.0
_DAY = 86_400


class Kills:
    """Trials of a command that is killed, some times over, and then let end."""

    def __init__(self, prepared: Prepared, folder: Path, kept: Path, seed: int, clocks: bool = False) -> None:
        """Makes no trial yet.

        Args:
            prepared: the stages.
            folder: for working folders.
            kept: folder for working folders of lost trials.
            seed: of moments and signals.
            clocks: whether the clock jumps by a day after each kill, back or forth.
        """
        self._prepared, self._folder, self._kept, self._clocks = prepared, folder, kept, clocks
        self._rng = np.random.default_rng(seed)

    def run(self, kills: int) -> Iterator[Outcome]:
        """Kills so many times in all, the stages sharing them."""
        for stage, part in zip(
            self._prepared.stages, np.array_split(np.arange(kills), len(self._prepared.stages)), strict=True
        ):
            outcome = Outcome(f"{'clock' if self._clocks else 'kill'}: {stage.name}")
            trial = 0
            while outcome.tried < len(part):
                self._trial(stage, trial, min(4, len(part) - outcome.tried), outcome)
                trial += 1
            yield outcome

    def _trial(self, stage: Stage, number: int, most: int, outcome: Outcome) -> None:
        """Kills a command and its successors up to ``most`` times, then lets it end."""
        work = self._folder / f"{stage.name} {number}"
        shutil.copytree(self._prepared.before[stage.name], work)
        told: list[str] = []
        loss = ""
        for _ in range(int(self._rng.integers(1, most + 1))):
            kill = self._kill_at_operation if self._rng.random() < 0.5 else self._kill_at_moment
            how, code = kill(stage, work)
            if code == 0:
                # It had ended before.
                continue
            told.append(how)
            if code is None:
                loss = "hangs"
                break
            if self._clocks:
                _shift_times(work, _DAY * int(self._rng.choice((-1, 1))))
        loss = loss or self._wrong(stage, work)
        if loss:
            loss = f"{stage.name}: after {', '.join(told) or 'no kill'} it {loss}: {self._keep(work)}"
        # What ends wrong without any kill is lost, too.
        outcome.count(loss, max(len(told), bool(loss)))
        shutil.rmtree(work, ignore_errors=True)

    def _wrong(self, stage: Stage, work: Path) -> str:
        """Runs the command to its end; returns what is wrong then, or was when it was killed."""
        code = sandbox.ended(start(stage, work, None))
        if code:
            return f"ends with {code}"
        if differing := self._prepared.differing(stage, work):
            return f"differs: {differing}"
        # All attempts write into one log.
        printed = (work / "log.txt").read_text(errors="replace")
        return "prints a traceback" if "Traceback" in printed else ""

    def _kill_at_moment(self, stage: Stage, work: Path) -> tuple[str, int | None]:
        name = SIGNALS[self._rng.integers(len(SIGNALS))]
        after = self._rng.uniform(0, self._prepared.seconds[stage.name])
        process = start(stage, work, None)
        code = _wait(process, after)
        if code is None:
            os.kill(process, name)
            code = _wait(process, _STOP_SECONDS)
            if code is None:
                sandbox.stop(process)
            elif code == 0:
                # It ended while the signal was on its way.
                return name.name, 0
        return f"{name.name} after {after:.3f} s", code

    def _kill_at_operation(self, stage: Stage, work: Path) -> tuple[str, int | None]:
        operation = int(self._rng.integers(1, self._prepared.operations[stage.name] + 1))
        delay = 0.0 if self._rng.random() < 0.5 else float(10 ** self._rng.uniform(-5, -2))
        code = sandbox.ended(start(stage, work, _dying(operation, delay)))
        return f"the end {delay:.5f} s after file operation {operation}", code

    def _keep(self, work: Path) -> Path:
        kept = self._kept / work.name.replace(" ", "-")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(work, kept)
        return kept


def _shift_times(folder: Path, seconds: int) -> None:
    """Makes all files of a folder older or newer, as if the clock had been set."""
    for path in folder.rglob("*"):
        status = path.lstat()
        os.utime(path, (status.st_atime + seconds, status.st_mtime + seconds), follow_symlinks=False)


def _wait(process: int, seconds: float) -> int | None:
    """The exit code of a process, if it ends within some seconds."""
    deadline = time.monotonic() + seconds
    while (code := sandbox.ended(process, block=False)) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    return code


def _dying(operation: int, delay: float) -> Callable[[], None]:
    """Ends the process at its change of files with a number, or in the middle of it a little later."""

    def watch() -> None:
        number = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal number
            if changes_files(event, arguments):
                number += 1
                if number == operation:
                    if not delay:
                        os._exit(9)
                    # Nothing handles the alarm: it ends the process, wherever it is.
                    signal.setitimer(signal.ITIMER_REAL, delay)

        sys.addaudithook(hook)

    return watch
