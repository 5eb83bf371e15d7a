"""Snapshots of arrays on disk. A training that was stopped continues from the latest one."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.common.errors import InputError
from sppnet.common.files import json_digest

_LOG = logging.getLogger(__name__)

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

    A snapshot is a folder of ``.npy`` files. They load as memory maps, so a large snapshot is not held in
    memory twice. A new snapshot is written beside the old one, which is removed once the new one is complete.

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

    def load(self) -> dict[str, NDArray[Any]] | None:
        """The arrays of the latest snapshot, memory-mapped; None if there is none, or it is damaged."""
        latest = self._latest()
        if latest is None:
            return None
        try:
            files = latest.glob("*.npy")
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
        except (EOFError, ValueError) as error:
            # After a power cut, a file may exist although its contents never reached the disk.
            _LOG.warning("%s: damaged (%s); its work starts again from the beginning", latest, error)
            return None

    def _latest(self) -> Path | None:
        complete = [folder for folder in self._folders if (folder / "done").exists()]
        return max(complete, key=lambda folder: (folder / "done").stat().st_mtime_ns, default=None)

    def save(self, arrays: Arrays) -> None:
        """Writes a snapshot, then removes the previous one."""
        latest = self._latest()
        target = next(folder for folder in self._folders if folder != latest)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(target / f"{name}.npy", array, allow_pickle=False)
        (target / "done").touch()
        for folder in self._folders:
            if folder != target:
                shutil.rmtree(folder, ignore_errors=True)
