"""Compiles kernels with numba, and finds a folder for their machine code."""

import functools
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

_LOG = logging.getLogger(__name__)


def kernel(**options: Any) -> Callable[[Function], Function]:
    """Makes the decorator of a kernel: numba compiles it at its first call, and keeps the machine code.

    The code is kept in the folder that ``NUMBA_CACHE_DIR`` names, else beside the module or in the user's
    cache, where numba keeps it; else in `private_folder`. If there is no such folder either, each process
    compiles again. Kernels release Python's lock.

    Args:
        **options: of ``numba.njit``.

    Example:
        >>> @kernel()
        ... def twice(number: int) -> int:
        ...     return 2 * number
        >>> twice(21)
        42
    """

    def decorate(function: Function) -> Function:
        def compile_lazily(cache: bool) -> Function:
            compiled: Function = numba.njit(function, nogil=True, cache=cache, **options)
            return compiled

        with suppress(RuntimeError):
            return compile_lazily(cache=True)
        # numba found no folder that it can write to.
        folder = _fallback_folder(_temporary_folder())
        if folder is not None:
            with suppress(RuntimeError), _numba_caches_in(folder):
                return compile_lazily(cache=True)
        return compile_lazily(cache=False)

    return decorate


def private_folder(parent: Path) -> Path | None:
    """Makes a folder that no other user can write to, or finds it again; None: there can be none.

    numba unpickles what it finds in its cache, so another user who can write there can run code here.

    Args:
        parent: the system's folder of temporary files.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     first, again = private_folder(Path(parent)), private_folder(Path(parent))
        ...     first == again, oct(first.stat().st_mode & 0o777)
        (True, '0o700')
    """
    user = f"-{os.getuid()}" if sys.platform != "win32" else ""
    folder = parent.resolve() / f"sppnet-kernels{user}"
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return folder if _only_this_user_writes(folder) else None
    except OSError:
        return None


def _only_this_user_writes(folder: Path) -> bool:
    if sys.platform == "win32":
        # The folder of temporary files is the user's own there.
        return True
    user, state, parent = os.getuid(), folder.lstat(), folder.parent.stat()
    is_private = stat.S_ISDIR(state.st_mode) and state.st_uid == user and stat.S_IMODE(state.st_mode) == 0o700
    # Whoever may rename the folder may put another in its place.
    others_rename = bool(parent.st_mode & 0o022) and not parent.st_mode & stat.S_ISVTX
    return is_private and parent.st_uid in (0, user) and not others_rename


def _temporary_folder() -> Path | None:
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return None


@functools.cache
def _fallback_folder(parent: Path | None) -> Path | None:
    folder = None if parent is None else private_folder(parent)
    if folder is None:
        _LOG.warning(
            "compiled kernels cannot be kept, so that each process compiles them again; name a folder of "
            "yours in NUMBA_CACHE_DIR"
        )
    return folder


@contextmanager
def _numba_caches_in(folder: Path) -> Iterator[None]:
    # numba looks this up when a function is decorated. It is set back, for other packages have their own.
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before
