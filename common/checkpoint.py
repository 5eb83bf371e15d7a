"""Snapshots of arrays on disk. A training that was stopped continues from the latest one."""

import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.common.errors import InputError
from sppnet.common.files import checksum, json_digest, make_folder, write_json

_LOG = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
# It says in place of a manifest that a snapshot of version 0.1.0 is complete.
_DONE = "done"

Arrays = Mapping[str, NDArray[Any]]
Value = TypeVar("Value")


def part(state: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Selects the entries of a snapshot whose names begin with ``prefix``, and cuts the prefix off the names.

    Example:
        >>> part({"net.weight": 1, "net.bias": 2, "optimiser.step": 3}, "net.")
        {'weight': 1, 'bias': 2}
    """
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns an optimiser's state of each parameter: ``<number of the parameter>.<name>`` to tensor."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": tensor for number, moments in state.items() for name, tensor in moments.items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restores the state that `optimiser_tensors` returned; the optimiser's settings stay as they are."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, moment = name.partition(".")
        moments.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})


@contextmanager
def disk_errors_named(work: Path) -> Iterator[None]:
    """Turns a disk error into an `InputError` that names the file, or ``work`` if the error names no file."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or work}: {error.strerror or error}; free some space, run again"
        ) from error


class Checkpoint:
    """The latest snapshot in a folder, for one purpose; snapshots for other purposes are ignored.

    A snapshot is a folder of ``.npy`` files and a manifest, which is written last and has a rising number and
    the length and checksum of each file. The arrays load as memory maps, so a large snapshot is not held in
    memory twice. A new snapshot is written beside the old one, which is removed once the new one is on the
    disk. All is verified when it is loaded.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = Checkpoint(Path(folder), {"training": "fc6", "seed": 0})
        ...     checkpoint.save({"step": np.array(7)})
        ...     print(checkpoint.load()["step"], Checkpoint(Path(folder), {"training": "fc7"}).load())
        7 None
    """

    def __init__(self, folder: Path, purpose: Mapping[str, Any]) -> None:
        """Makes no file yet.

        Args:
            folder: the folder of the snapshots.
            purpose: JSON values that name the work, its settings and its data.
        """
        digest = json_digest(purpose)[:16]
        self._folders = [folder / f"checkpoint-{digest}-{letter}" for letter in "ab"]
        self._damaged: set[Path] = set()

    def load(self) -> dict[str, NDArray[Any]] | None:
        """The arrays of the latest whole snapshot, memory-mapped; None if there is none.

        Damaged snapshots are named in one warning.
        """
        arrays, faults = None, {}
        for folder in sorted(self._folders, key=_number, reverse=True):
            if arrays is None and _number(folder) >= 0:
                try:
                    arrays = {file.stem: np.load(file, "r", allow_pickle=False) for file in _verified(folder)}
                except (OSError, EOFError, ValueError) as error:
                    faults[folder] = error
        if faults:
            consequence = "starts again from the beginning" if arrays is None else "goes on from an older one"
            _LOG.warning(
                "%s; its work %s",
                "; ".join(f"{folder}: damaged ({error})" for folder, error in faults.items()),
                consequence,
            )
        self._damaged = set(faults)
        return arrays

    def save(self, arrays: Arrays) -> None:
        """Writes a snapshot, then removes the previous one.

        Raises:
            OSError: the disk is full.
        """
        numbers = {folder: _number(folder) for folder in self._folders}
        whole = {
            folder: number
            for folder, number in numbers.items()
            if number < math.inf and folder not in self._damaged
        }
        latest = max(whole, key=whole.__getitem__, default=None)
        target = next(folder for folder in self._folders if folder != latest)
        shutil.rmtree(target, ignore_errors=True)
        make_folder(target)
        content = {
            "number": 1 + max(0, *(int(number) for number in numbers.values() if number < math.inf)),
            "files": {name: _write(target / f"{name}.npy", array) for name, array in arrays.items()},
        }
        # It says that the snapshot is complete.
        write_json(target / _MANIFEST, content | {"digest": json_digest(content)}, indent=None)
        for folder in self._folders:
            if folder != target:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Removes the snapshots of this purpose."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def _number(folder: Path) -> float:
    """The number of a snapshot; 0: of version 0.1.0; -1: there is none; infinity: its manifest is damaged."""
    try:
        number: int = _manifest(folder)["number"]
    except FileNotFoundError:
        return 0 if (folder / _DONE).exists() else -1
    except (OSError, ValueError):
        return math.inf
    return number


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / _MANIFEST).read_bytes())
    except RecursionError as error:
        raise ValueError(f"{_MANIFEST} is nested too deep") from error
    if not isinstance(content, dict) or content.pop("digest", None) != json_digest(content):
        raise ValueError(f"{_MANIFEST} is not as it was written")
    return content


def _verified(folder: Path) -> list[Path]:
    """The files of a snapshot, after a comparison with its manifest; those of version 0.1.0 have none."""
    if not (folder / _MANIFEST).exists():
        return list(folder.glob("*.npy"))
    files = {folder / f"{name}.npy": written for name, written in _manifest(folder)["files"].items()}
    for file, written in files.items():
        if _length_and_checksum(file) != written:
            raise ValueError(f"{file.name} is not as it was written")
    return list(files)


def _length_and_checksum(file: Path) -> list[int]:
    length = value = 0
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            length, value = length + len(block), checksum(block, start=value)
    return [length, value]


class _CheckedFile:
    """A file that is written to the disk, with the length and the checksum of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.written = [0, 0]

    def write(self, block: bytes) -> int:
        length, value = self.written
        self.written = [length + len(block), checksum(block, start=value)]
        return self._file.write(block)


def _write(path: Path, array: NDArray[Any]) -> list[int]:
    """Writes an array, waits until it is on the disk, and returns its file's length and checksum."""
    with open(path, "wb") as file:
        checked = _CheckedFile(file)
        np.save(checked, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return checked.written
