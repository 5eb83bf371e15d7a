"""Checks before the work that its results can be written."""

import os
from pathlib import Path

from sppnet.common.errors import InputError


def check_output_folder(folder: Path) -> None:
    """Checks that files can be written into a folder, which need not exist yet; makes nothing.

    Raises:
        InputError: a file is in its way, or the user may not write there.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     check_output_folder(Path(file.name, "results"))
        Traceback (most recent call last):
        sppnet.common.errors.InputError: ...: is a file; give a folder to write to
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise InputError(f"{existing}: is a file; give a folder to write to")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{existing}: no files can be written there; give another folder")


def check_output_file(path: Path) -> None:
    """Checks that a file can be written, as `check_output_folder` does.

    Raises:
        InputError: it is a folder, or the file's folder cannot be written to.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file to write to")
    check_output_folder(path.parent)
