"""Snapshots of arrays on disk, from which a stopped training goes on."""

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
    """Those of a snapshot's entries whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter: ``<number>.<name>`` to a tensor."""
    state = optimiser.state_dict()["state"]
    return {f"{number}.{name}": one for number, moments in state.items() for name, one in moments.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Takes over what `optimiser_tensors` gave; the settings stay as they are."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, moment = name.partition(".")
        moments.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})


@contextmanager
def disk_errors_named(work: Path) -> Iterator[None]:
    """Turns what the disk refuses while ``work`` is written to into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or work}: {error.strerror or error}; free some space, run again"
        ) from error


class Checkpoint:
    """The latest snapshot in a folder; one that was made for something else counts as none.

    A snapshot is a folder of ``.npy`` files, which load as memory maps, so that a large one need not be in
    memory twice. It is written beside the one before, which goes only when the new one is complete.
    """

    def __init__(self, folder: Path, purpose: Mapping[str, Any]) -> None:
        """Snapshots in ``folder``; ``purpose``, JSON values, is what one must have been made for."""
        digest = json_digest(purpose)[:16]
        self._places = [folder / f"checkpoint-{digest}-{letter}" for letter in "ab"]

    def load(self) -> dict[str, NDArray[Any]] | None:
        """The arrays of the latest snapshot, memory-mapped; None where there is none, or a damaged one."""
        latest = self._latest()
        if latest is None:
            return None
        try:
            files = latest.glob("*.npy")
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
        except (EOFError, ValueError) as error:
            # What a power cut left: files whose contents never came to the disk.
            _LOG.warning("%s: damaged (%s); what it was a snapshot of begins anew", latest, error)
            return None

    def _latest(self) -> Path | None:
        done = [place for place in self._places if (place / "done").exists()]
        return max(done, key=lambda place: (place / "done").stat().st_mtime_ns, default=None)

    def save(self, arrays: Arrays) -> None:
        """Writes a snapshot."""
        latest = self._latest()
        target = next(place for place in self._places if place != latest)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(target / f"{name}.npy", array, allow_pickle=False)
        (target / "done").touch()
        for place in self._places:
            if place != target:
                shutil.rmtree(place, ignore_errors=True)
