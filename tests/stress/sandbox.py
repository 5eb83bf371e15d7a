"""Runs work in forks of this process, with limits of memory and time, and sees what they leave outside.

A fork needs no start-up: all that the work imports is there already. This process must not have computed
with several threads, which do not survive a fork; `OMP_NUM_THREADS=1` sees to that.
"""

import os
import resource
import select
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_SECONDS = 0.2


def fork(work: Callable[[], Any], log: Path | None = None) -> int:
    """Runs work in a fork, whose exit status is that of an exception or of 0; returns its process id.

    Args:
        work: what to do. SystemExit counts as in any program.
        log: a file for all that is printed; None: it is thrown away.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # An interrupt that finds the fork before its `try` would end the campaign a second time, in the fork.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process
    code = 70
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        # Before or after the work: a command handles its own.
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            # Not sys.exit: the clean-up of the process that was forked is not the fork's to do.
            os._exit(code)


def ended(process: int, block: bool = True) -> int | None:
    """The exit code of a process, negative for a signal; None: it runs still."""
    done, status = os.waitpid(process, 0 if block else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def stop(process: int) -> None:
    """Kills a process that was forked here, and waits for its end."""
    os.kill(process, signal.SIGKILL)
    ended(process)


def cpu_seconds(process: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def limit_memory(more: int) -> None:
    """Lets this process's address space grow by so many bytes, and writes no core files."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def next_line(pipe: int, process: int, seconds: float) -> bytes | None:
    """The next line that a process writes to a pipe, empty at its end; None: it computes for too long.

    Args:
        pipe: the reading end. A line is shorter than a pipe's atomic write, so it comes whole.
        process: writes the lines.
        seconds: of processor time that a line may take; six times as long may pass on a clock.
    """
    begun, computed = time.monotonic(), cpu_seconds(process)
    line = b""
    while not line.endswith(b"\n"):
        if select.select([pipe], [], [], _POLL_SECONDS)[0]:
            piece = os.read(pipe, 1)
            if not piece:
                return b""
            line += piece
        elif cpu_seconds(process) - computed > seconds or time.monotonic() - begun > 6 * seconds:
            return None
    return line


def listing_outside(folder: Path, inside: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below ``folder`` but not in ``inside``, with its size and time of change."""
    found = {}
    for path in folder.iterdir():
        # The log is written to from inside.
        if path == inside or path.name == "log.txt":
            continue
        for entry in (path, *path.rglob("*")):
            status = entry.lstat()
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            found[str(entry.relative_to(folder))] = (size, status.st_mtime_ns)
    return found
