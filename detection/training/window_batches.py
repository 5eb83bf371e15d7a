"""Vectors of drawn windows in a file, far more than memory holds, and the batches made of them."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.common.distributed import Group
from sppnet.common.errors import InputError
from sppnet.detection.training.finetuning_settings import FineTuningSettings
from sppnet.detection.training.window_sampling import Windows, WindowSampler

# Windows over which the mean and deviation of vectors are taken, and those read at a time.
_SAMPLE, _CHUNK = 8192, 1024


class WindowFile:
    """The pooled vectors of some windows, as float16 in a file.

    They are read with plain reads, not through a memory map, whose pages would count as the process' memory.
    """

    def __init__(self, path: Path, length: int) -> None:
        """Opens an empty file at ``path``, in place of one that is there; vectors have ``length`` numbers."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self.length = path, length
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115

    def fill(
        self, sampler: WindowSampler, windows: Windows, scale: float, progress: Callable[[int, int], None]
    ) -> None:
        """Pools windows and writes them, times ``scale``, which keeps them within float16's range.

        Raises:
            InputError: a vector is beyond that range.
            OSError: the disk is full.
        """
        progress(0, len(windows))
        for places, vectors in sampler.vectors(windows):
            with np.errstate(over="ignore"):
                rows = (vectors * np.float32(scale)).astype(np.float16)
            if not np.isfinite(rows).all():
                raise InputError(
                    f"{sampler.image_path(int(windows.images[places[0]]))}: pooled vectors exceed float16; "
                    "are these the network's own weights?"
                )
            for place, row in zip(places, rows, strict=True):
                self._file.seek(int(place) * row.nbytes)
                self._file.write(row.data)
            progress(int(places[-1]) + 1, len(windows))

    def read(self, places: IntArray) -> FloatArray:
        """float32 (n, length), the vectors at n places."""
        rows = np.empty((len(places), self.length), np.float16)
        for place, row in zip(places, rows, strict=True):
            self._file.seek(int(place) * row.nbytes)
            if self._file.readinto(row.data) != row.nbytes:
                raise OSError(0, "is shorter than it was written", str(self._path))
        return rows.astype(np.float32)

    def close(self) -> None:
        """Closes the file and deletes it."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class Drawn:
    """A draw: the labels of all its windows, the vectors of this process', and the order they come in.

    Attributes:
        file: the vectors.
        mine: int64 (n,), which windows those are, in the order of the file; rising.
        labels: int64 (N,), of all windows; that of the background is the number of classes.
    """

    def __init__(
        self,
        file: WindowFile,
        mine: IntArray,
        labels: IntArray,
        classes: int,
        settings: FineTuningSettings,
        number: int,
    ) -> None:
        """The draw ``number``, from 1, of a training."""
        self.file, self.mine, self.labels = file, mine, labels
        self.settings = settings
        self.first = (number - 1) * settings.draw_steps
        self.positives = _Shuffled(np.flatnonzero(labels < classes), (settings.seed, number, 0))
        self.negatives = _Shuffled(np.flatnonzero(labels == classes), (settings.seed, number, 1))

    def batch(self, step: int) -> tuple[Tensor, Tensor, int]:
        """This process' part of a step's batch.

        Returns:
            vectors (n, d), labels (n,), and how many windows the whole batch has.
        """
        place, positives = step - self.first, self.settings.positives
        negatives = self.settings.batch - positives
        chosen = np.concatenate(
            [
                self.positives.take(place * positives, positives),
                self.negatives.take(place * negatives, negatives),
            ]
        )
        own = chosen[np.isin(chosen, self.mine)]
        vectors = self.file.read(np.searchsorted(self.mine, own))
        return torch.from_numpy(vectors), torch.from_numpy(self.labels[own]), len(chosen)

    def moments(self, group: Group) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, float64 (d,) each, of some of the processes' vectors."""
        rng = np.random.default_rng(self.settings.seed)
        chosen = np.sort(rng.permutation(len(self.labels))[:_SAMPLE])
        mine = np.searchsorted(self.mine, chosen[np.isin(chosen, self.mine)])
        sums = torch.zeros(2, self.file.length, dtype=torch.float64)
        for start in range(0, len(mine), _CHUNK):
            vectors = torch.from_numpy(self.file.read(mine[start : start + _CHUNK])).double()
            sums += torch.stack([vectors.sum(dim=0), (vectors * vectors).sum(dim=0)])
        group.add(sums)
        mean, square = sums / len(chosen)
        return mean, (square - mean * mean).clamp(min=0).sqrt()


class _Shuffled:
    """Numbers in random order, over and over, each time in another; any stretch without those before it."""

    def __init__(self, numbers: IntArray, seed: tuple[int, ...]) -> None:
        self._numbers = numbers

        @functools.lru_cache(maxsize=2)
        def order(turn: int) -> IntArray:
            return np.random.default_rng([*seed, turn]).permutation(numbers)

        self._order = order

    def take(self, start: int, count: int) -> IntArray:
        """``count`` numbers from place ``start``; none where there are none."""
        if len(self._numbers) == 0:
            return self._numbers
        turns, places = np.divmod(np.arange(start, start + count), len(self._numbers))
        return np.concatenate(
            [self._order(int(turn))[places[turns == turn]] for turn in np.unique(turns)]
            or [self._numbers[:0]]
        )
