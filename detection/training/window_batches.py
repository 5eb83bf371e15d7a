"""Stores the pooled vectors of drawn regions in a file, beyond memory, and makes batches of them.

Regions are boxes that were drawn from ground truth and proposals.
"""

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
from sppnet.detection.training.window_sampling import Regions, RegionSampler

# Number of vectors for mean and deviation, and number of vectors that are read at a time.
_SAMPLE, _CHUNK = 8192, 1024


class VectorFile:
    """A file of float16 vectors.

    Plain reads are used because the pages of a memory map would count as memory of the process.
    """

    def __init__(self, path: Path, length: int) -> None:
        """Creates an empty file at ``path``, replacing an old one; vectors have ``length`` numbers."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self.length = path, length
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115

    def fill(
        self,
        sampler: RegionSampler,
        regions: Regions,
        norm_factor: float,
        progress: Callable[[int, int], None],
    ) -> None:
        """Pools regions and writes their vectors, one row per region.

        Args:
            sampler: pools the regions.
            regions: the regions.
            norm_factor: a factor on the vectors that keeps them within float16's range.
            progress: called with the regions done and the regions in total.

        Raises:
            InputError: a vector is beyond float16's range.
            OSError: the disk is full.
        """
        progress(0, len(regions))
        for indices, vectors in sampler.vectors(regions):
            with np.errstate(over="ignore"):
                rows = (vectors * np.float32(norm_factor)).astype(np.float16)
            if not np.isfinite(rows).all():
                raise InputError(
                    f"{sampler.image_path(int(regions.images[indices[0]]))}: pooled vectors exceed float16; "
                    "are these the network's own weights?"
                )
            for index, row in zip(indices, rows, strict=True):
                self._file.seek(int(index) * row.nbytes)
                self._file.write(row.data)
            progress(int(indices[-1]) + 1, len(regions))

    def read(self, rows: IntArray) -> FloatArray:
        """Reads the vectors in n rows of the file: float32 (n, length)."""
        vectors = np.empty((len(rows), self.length), np.float16)
        for row, vector in zip(rows, vectors, strict=True):
            self._file.seek(int(row) * vector.nbytes)
            if self._file.readinto(vector.data) != vector.nbytes:
                raise OSError(0, "is shorter than it was written", str(self._path))
        return vectors.astype(np.float32)

    def close(self) -> None:
        """Closes the file and deletes it."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class RegionDraw:
    """The regions of one draw: all labels, the vectors of this process's share, and batches of them.

    Attributes:
        file: the vectors of the share.
        share: int64 (n,), rising indices of this process's regions; row i of the file is region ``share[i]``.
        labels: int64 (N,), the label of each region: 0 to C - 1, and C for the background.
        classes: C, the number of classes.
    """

    def __init__(
        self,
        file: VectorFile,
        share: IntArray,
        labels: IntArray,
        classes: int,
        settings: FineTuningSettings,
        number: int,
    ) -> None:
        """Makes draw ``number``, counted from 1, of a training."""
        self.file, self.share, self.labels, self.classes = file, share, labels, classes
        self._settings = settings
        self._first_step = (number - 1) * settings.draw_steps
        self._positives = _Shuffled(np.flatnonzero(labels < classes), (settings.seed, number, 0))
        self._negatives = _Shuffled(np.flatnonzero(labels == classes), (settings.seed, number, 1))

    def batch(self, step: int) -> tuple[Tensor, Tensor, int]:
        """Reads this process's part of a step's batch.

        Returns:
            vectors float32 (n, d), labels int64 (n,), and the number of regions of the whole batch.
        """
        turn, positives = step - self._first_step, self._settings.positives
        negatives = self._settings.batch - positives
        chosen = np.concatenate(
            [
                self._positives.take(turn * positives, positives),
                self._negatives.take(turn * negatives, negatives),
            ]
        )
        shared = chosen[np.isin(chosen, self.share)]
        vectors = self.file.read(np.searchsorted(self.share, shared))
        return torch.from_numpy(vectors), torch.from_numpy(self.labels[shared]), len(chosen)

    def moments(self, group: Group) -> tuple[Tensor, Tensor]:
        """Computes mean and standard deviation, float64 (d,) each, of a sample of all processes' vectors."""
        rng = np.random.default_rng(self._settings.seed)
        chosen = np.sort(rng.permutation(len(self.labels))[:_SAMPLE])
        rows = np.searchsorted(self.share, chosen[np.isin(chosen, self.share)])
        sums = torch.zeros(2, self.file.length, dtype=torch.float64)
        for start in range(0, len(rows), _CHUNK):
            vectors = torch.from_numpy(self.file.read(rows[start : start + _CHUNK])).double()
            sums += torch.stack([vectors.sum(dim=0), (vectors * vectors).sum(dim=0)])
        group.add(sums)
        mean, square = sums / len(chosen)
        return mean, (square - mean * mean).clamp(min=0).sqrt()


class _Shuffled:
    """Numbers in random order, repeated without end in a new order each time."""

    def __init__(self, numbers: IntArray, seed: tuple[int, ...]) -> None:
        self._numbers = numbers

        @functools.lru_cache(maxsize=2)
        def order(turn: int) -> IntArray:
            return np.random.default_rng([*seed, turn]).permutation(numbers)

        self._order = order

    def take(self, start: int, count: int) -> IntArray:
        """Returns ``count`` numbers of the sequence from index ``start`` on; none if there are no numbers."""
        if len(self._numbers) == 0:
            return self._numbers
        turns, indices = np.divmod(np.arange(start, start + count), len(self._numbers))
        return np.concatenate(
            [self._order(int(turn))[indices[turns == turn]] for turn in np.unique(turns)]
            or [self._numbers[:0]]
        )
