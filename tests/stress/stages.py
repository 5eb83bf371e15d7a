"""The stages on tiny data, each prepared so that it can be run alone, and their undisturbed results."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sandbox
import toy
from command import call
from fingerprint import of_files
from photos import photo
from tiny_dataset import write_tiny_voc

from sppnet.cli.app import app
from sppnet.common.resumable import PeriodicCheckpoint

_PRETRAINING = (
    "short_side = 36", "epochs = [2, 1]", "rates = [0.01, 0.001]", "batch = 3", "classifier.size = 32",
    "classifier.width = 8", "classifier.levels = [2, 1]",
)  # fmt: skip
_DISTILLING = (
    "network = 'toy'", "crop = 48", "scales = [64]", "border = 0", "steps = 8", "batch = 1",
    "snapshot_every = 2",
)  # fmt: skip
_JOB = ("--dataset", "tiny", "--run", "toy", "--jobs", "1", *toy.QUICK)


@dataclass(frozen=True)
class Stage:
    """A command that works for a while.

    Attributes:
        name: of the stage.
        command: the arguments of ``sppnet``.
        results: patterns of the files that must be equal to the bit, below the working folder.
    """

    name: str
    command: tuple[str, ...]
    results: tuple[str, ...]


def _set(changes: Sequence[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


# In the order of a run: each stage begins with the results of those before it.
STAGES = (
    Stage(
        "proposals",
        ("proposals", "--dataset", "tiny", "--jobs", "1", "--set", "proposals.max_proposals = 60"),
        ("cache/proposals.sqlite",),
    ),
    Stage("SVMs and calibration", ("train", *_JOB), ("runs/toy/model/*", "runs/toy/settings.toml")),
    Stage("fine-tuning", ("finetune", *_JOB), ("runs/toy/model-softmax/*",)),
    Stage("fc6 SVMs", ("train", "--head", "fc6", *_JOB), ("runs/toy/model-fc6/*",)),
    Stage("detection", ("detect", *_JOB), ("runs/toy/detections/**/*", "runs/toy/metrics.json")),
    Stage(
        "distilling",
        ("distill", "--dataset", "tiny", "--run", "taught", "--teacher", "toy=random 64", *_set(_DISTILLING)),
        ("runs/taught/*.safetensors", "runs/taught/snapshots/*"),
    ),
    Stage(
        "pretraining",
        (
            "pretrain",
            "--data",
            "classes",
            "--run",
            "pre",
            "--network",
            "toy",
            "--workers",
            "0",
            *_set(_PRETRAINING),
        ),
        ("runs/pre/classifier/*",),
    ),
)


class Prepared:
    """The working folders that stages begin with, and what the stages make of them undisturbed.

    Attributes:
        stages: of a run, in their order.
        before: name of a stage to the folder that it begins with.
        results: name of a stage to the digests of its results.
        seconds: name of a stage to the time that it takes.
        operations: name of a stage to the number of its changes of files.
    """

    def __init__(self, folder: Path, stages: Sequence[Stage] = STAGES) -> None:
        """Runs the stages, one after the other, and those that they build on.

        Raises:
            RuntimeError: a stage fails even so.
        """
        self.stages = tuple(stages)
        self.before: dict[str, Path] = {}
        self.results: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, int] = {}
        latest = folder / "start"
        latest.mkdir(parents=True)
        write_tiny_voc(latest / "tiny")
        for number in range(12):
            split = "val" if number % 3 == 2 else "train"
            photo(latest / f"classes/{split}/{('ant', 'bee')[number % 2]}/{number}.png", number)
        needed = STAGES[: 1 + max(STAGES.index(stage) for stage in self.stages)]
        # Once in this process, so that its forks find all modules imported and all kernels compiled.
        shutil.copytree(latest, folder / "warm")
        with chdir(folder / "warm"):
            for stage in needed:
                result = call(*stage.command)
                assert result.exit_code == 0, f"{stage.name}: {result.output}"
        for stage in needed:
            done = folder / f"after {stage.name}"
            shutil.copytree(latest, done)
            begun = time.monotonic()
            code = sandbox.ended(start(stage, done, _counting(done / "operations")))
            if code:
                printed = (done / "log.txt").read_text(errors="replace")
                raise RuntimeError(f"{stage.name}: ends with {code} undisturbed: {printed[-1000:]}")
            self.before[stage.name], self.seconds[stage.name] = latest, time.monotonic() - begun
            self.operations[stage.name] = int((done / "operations").read_text())
            self.results[stage.name] = of_files(done, stage.results)
            assert self.results[stage.name], f"{stage.name}: no results match {stage.results}"
            latest = done

    def differing(self, stage: Stage, work: Path) -> list[str]:
        """The results in a folder that are missing or not equal to the bit."""
        return sorted(dict(of_files(work, stage.results).items() ^ self.results[stage.name].items()))


def start(stage: Stage, work: Path, watch: Callable[[], None] | None, log: Path | None = None) -> int:
    """Starts the command of a stage in a fork.

    Args:
        stage: the command.
        work: its working folder.
        watch: called in the fork before the command.
        log: a file for all that is printed; by default in the working folder.
    """

    def run() -> None:
        # Of a process in the background both may be ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        _snapshot_after_every_step()
        if watch is not None:
            watch()
        app(list(stage.command), prog_name="sppnet")

    with chdir(work):
        return sandbox.fork(run, log or work / "log.txt")


def _snapshot_after_every_step() -> None:
    """Makes trainings write a snapshot after each step, where they otherwise wait for four minutes."""
    usual = PeriodicCheckpoint.__init__

    def often(self: PeriodicCheckpoint, checkpoint: Any, *others: Any, **named: Any) -> None:
        usual(self, checkpoint, 0)

    PeriodicCheckpoint.__init__ = often  # type: ignore[method-assign]


_CHANGES = frozenset(
    ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree")
)


def changes_files(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an event that Python announces is a change below the working folder."""
    if event == "open":
        if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
    elif event not in _CHANGES:
        return False
    path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
    return bool(path) and os.path.abspath(path).startswith(os.getcwd() + os.sep)


def _counting(file: Path) -> Callable[[], None]:
    """Counts the changes of files, and leaves their number in a file."""

    def watch() -> None:
        counter = os.open(file, os.O_WRONLY | os.O_CREAT)
        number = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal number
            if changes_files(event, arguments):
                number += 1
                os.pwrite(counter, str(number).encode(), 0)

        sys.addaudithook(hook)

    return watch
