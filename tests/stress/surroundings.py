"""Runs the stages where the disk is full, folders are read-only, files, memory or cores are few.

A command must end as usual, or with one line of an error; then, where all is well again, the same command
must give the undisturbed results.
"""

import ctypes
import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import sandbox
from outcome import Outcome
from stages import STAGES, Prepared, Stage, start

# linux/capability.h: _LINUX_CAPABILITY_VERSION_3.
_CAPABILITY_VERSION = 0x20080522

# Called in the process of the command, before it.
Limit = Callable[[], None]
# Given a working folder, a context in which the disk is bad.
Disk = Callable[[Path], AbstractContextManager[None]]


class Surroundings:
    """Trials of the stages in bad surroundings."""

    def __init__(self, prepared: Prepared, folder: Path, kept: Path, seed: int) -> None:
        """Makes no trial yet; the arguments are those of `Kills`."""
        self._prepared, self._folder, self._kept = prepared, folder, kept
        self._rng = np.random.default_rng(seed)

    def run(self, rounds: int) -> Iterator[Outcome]:
        """Tries each surrounding on each stage so many times."""
        yield self._limited("file size", rounds, self._few_bytes)
        yield self._on_disks("full disk", rounds, self._small_disk)
        yield self._limited("few descriptors", min(rounds, 1), lambda: _few_descriptors)
        yield self._limited("little memory", rounds, self._little_memory)
        yield self._read_only()
        yield self._two_at_once(rounds)
        yield self._no_home()

    def _limited(self, kind: str, rounds: int, draw: Callable[[], Limit]) -> Outcome:
        outcome = Outcome(kind)
        for stage in self._prepared.stages * rounds:
            self._trial(outcome, stage, draw())
        return outcome

    def _on_disks(self, kind: str, rounds: int, disk: Disk) -> Outcome:
        outcome = Outcome(kind)
        for stage in self._prepared.stages * rounds:
            try:
                self._trial(outcome, stage, lambda: None, disk)
            except PermissionError as error:
                outcome.skipped = str(error)
                break
        return outcome

    def _read_only(self) -> Outcome:
        outcome = Outcome("read-only folder")
        for stage in self._prepared.stages:
            self._trial(outcome, stage, _drop_privileges, _write_protected)
        return outcome

    def _two_at_once(self, rounds: int) -> Outcome:
        """One of two commands on one folder may be refused, not both."""
        outcome = Outcome("two processes at once")
        for stage in self._prepared.stages * rounds:
            work = self._new_folder(stage)
            codes = [sandbox.ended(process) for process in [start(stage, work, None) for _ in range(2)]]
            outcome.refused += 2 in codes
            printed = (work / "log.txt").read_text(errors="replace")
            loss = "" if set(codes) in ({0}, {0, 2}) else f"they end with {codes}"
            if "Traceback" in printed:
                loss = f"a traceback: {' '.join(printed.split())[-300:]}"
            outcome.count(self._closed(outcome.kind, stage, work, loss or self._wrong(stage, work)))
        return outcome

    def _no_home(self) -> Outcome:
        """A program that is started without a home, as in a container; proposals need no toy network."""
        outcome, stage = Outcome("no HOME"), STAGES[0]
        assert stage.name == "proposals"
        work = self._new_folder(stage)
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS")
        }
        command = [sys.executable, "-m", "sppnet", *stage.command]
        done = subprocess.run(
            command, cwd=work, env=environment | {"HOME": "/nonexistent"}, capture_output=True, text=True
        )
        loss = f"ends with {done.returncode}: {done.stderr[-300:]}" if done.returncode else ""
        outcome.count(self._closed(outcome.kind, stage, work, loss or self._wrong(stage, work)))
        return outcome

    def _trial(self, outcome: Outcome, stage: Stage, limit: Limit, disk: Disk | None = None) -> None:
        """Runs a stage in bad surroundings and then in good ones."""
        work = self._new_folder(stage)
        with (disk or (lambda folder: nullcontext()))(work):
            log = work.with_suffix(".log")
            code = sandbox.ended(start(stage, work, limit, log))
        printed = log.read_text(errors="replace")
        log.unlink()
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        loss = ""
        if code not in (0, 2) or "Traceback" in printed or (code == 2 and len(lines) != 1):
            loss = f"ends with {code}: {' '.join(printed.split())[-300:]}"
        outcome.refused += code == 2 and len(lines) == 1
        outcome.count(self._closed(outcome.kind, stage, work, loss or self._wrong(stage, work)))

    def _new_folder(self, stage: Stage) -> Path:
        work = self._folder / f"{stage.name} in bad surroundings"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self._prepared.before[stage.name], work)
        return work

    def _wrong(self, stage: Stage, work: Path) -> str:
        """Runs the stage where all is well; returns what is wrong then."""
        code = sandbox.ended(start(stage, work, None))
        if code:
            return f"afterwards it ends with {code}"
        differing = self._prepared.differing(stage, work)
        return f"afterwards it differs: {differing}" if differing else ""

    def _closed(self, kind: str, stage: Stage, work: Path, loss: str) -> str:
        if not loss:
            return ""
        kept = self._kept / f"{kind} {stage.name}".replace(" ", "-")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(work, kept)
        return f"{kind}: {stage.name}: {loss}: {kept}"

    def _few_bytes(self) -> Limit:
        # More than the command prints into its log.
        size = int(10 ** self._rng.uniform(3.7, 5.0))

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return limit

    def _little_memory(self) -> Limit:
        return partial(sandbox.limit_memory, int(10 ** self._rng.uniform(6.0, 8.7)))

    @contextmanager
    def _small_disk(self, work: Path) -> Iterator[None]:
        """Moves a folder to a disk with little room left, and back."""
        room = int(10 ** self._rng.uniform(3.7, 5.3))
        disk = self._folder / "disk"
        disk.mkdir(exist_ok=True)
        used = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
        # A page is the least that a file takes.
        size = used + 4096 * sum(1 for _ in work.rglob("*")) + room
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise PermissionError(errno.EPERM, "mounting a small disk is not allowed")
        try:
            shutil.copytree(work, disk / "work", symlinks=True)
            moved = work.with_name("moved")
            work.rename(moved)
            work.symlink_to(disk / "work")
            yield
            work.unlink()
            shutil.rmtree(moved)
            shutil.copytree(disk / "work", work, symlinks=True)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


def _few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _drop_privileges() -> None:
    """Gives up what lets root write anywhere; then root, too, needs the permission of a folder."""
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capset(header, sets):
        raise OSError("the privileges of root cannot be given up")


@contextmanager
def _write_protected(work: Path) -> Iterator[None]:
    folders = [path for path in (work, *work.rglob("*")) if path.is_dir() and not path.is_symlink()]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o755)
