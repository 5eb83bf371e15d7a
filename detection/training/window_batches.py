"""Pooled vectors of drawn regions in a file, far more than memory holds, and batches made of them."""

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

# Vectors over which mean and deviation are taken, and vectors read at a time.
_SAMPLE, _CHUNK = 8192, 1024


class VectorFile:
    """Vectors as float16 in a file.

    They are read with plain reads, not through a memory map, whose pages would count as the process' memory.
    """

    def __init__(self, path: Path, length: int) -> None:
        """Opens an empty file at ``path``, in place of one that is there; vectors have ``length`` numbers."""
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
        """Pools regions and writes their vectors, one row a region.

        Args:
            sampler: pools the regions.
            regions: N of them.
            norm_factor: vectors are multiplied by it, which keeps them within float16's range.
            progress: called with regions done and regions in all.

        Raises:
            InputError: a vector is beyond that range.
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
        """The vectors, float32 (n, length), in n rows of the file."""
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
    """The regions of one draw: labels of all, vectors of this process' share, and the batches made of them.

    Attributes:
        file: the vectors of the share.
        share: int64 (n,), indices of the regions of this process, rising; row i of the file is ``share[i]``.
        labels: int64 (N,), of all regions: 0 to C - 1, and C for the background.
        classes: number of classes, C.
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
        """The draw ``number``, from 1, of a training."""
        self.file, self.share, self.labels, self.classes = file, share, labels, classes
        self._settings = settings
        self._first_step = (number - 1) * settings.draw_steps
        self._positives = _Shuffled(np.flatnonzero(labels < classes), (settings.seed, number, 0))
        self._negatives = _Shuffled(np.flatnonzero(labels == classes), (settings.seed, number, 1))

    def batch(self, step: int) -> tuple[Tensor, Tensor, int]:
        """This process' part of a step's batch.

        Returns:
            vectors float32 (n, d), labels int64 (n,), and how many regions the whole batch has.
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
        """Mean and standard deviation, float64 (d,) each, of a sample of the processes' vectors."""
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
    """Numbers in random order, repeated without end, each time in another order."""

    def __init__(self, numbers: IntArray, seed: tuple[int, ...]) -> None:
        self._numbers = numbers

        @functools.lru_cache(maxsize=2)
        def order(turn: int) -> IntArray:
            return np.random.default_rng([*seed, turn]).permutation(numbers)

        self._order = order

    def take(self, start: int, count: int) -> IntArray:
        """``count`` numbers of the sequence from index ``start`` on; none where there are no numbers."""
        if len(self._numbers) == 0:
            return self._numbers
        turns, indices = np.divmod(np.arange(start, start + count), len(self._numbers))
        return np.concatenate(
            [self._order(int(turn))[indices[turns == turn]] for turn in np.unique(turns)]
            or [self._numbers[:0]]
        )
