"""One bounded array of feature rows that all classes share, with who holds each row as a training window."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.svm.solver import squared_norms

_LARGEST = 127
_SMALLEST = 1e-30  # Of rows of zeros, too, the unit must be one to divide by.


class RowStore:
    """Feature rows of a fixed total size; a row stays as long as a class holds it.

    The memory is reserved, not touched: a part that was never filled costs nothing. Freed rows are used
    again, lowest first.

    Attributes:
        row_bytes: memory of one row.
        capacity: number of rows that fit.
        rows: int8 (capacity, d); a feature is its number times the row's unit, the row's largest magnitude
            being 127: a quarter of the memory of float32. On pooled windows of VOC2007 it moves margins
            by 0.001 to 0.002 (standard deviation), and four times the negatives are kept.
        units: float32 (capacity,).
        norms: float32 (capacity,) squared lengths.
        held: bool (capacity, C), which class trains on which row.
        alphas: float32 (capacity, C), the dual variable of a row in each class' SVM; zero where not held.
        keys, windows: int64 (capacity,), the image and the window in it that a row came from; -1 where free.
    """

    def __init__(self, memory_bytes: int, dimension: int, classes: int) -> None:
        """Reserves the rows of ``dimension`` numbers that fit into ``memory_bytes``, bookkeeping included."""
        # Per row: the features, unit, norm, held, alphas, key, window and whether it is used.
        self.row_bytes = dimension + 4 + 4 + 5 * classes + 16 + 1
        self.capacity = memory_bytes // self.row_bytes
        self.rows = np.empty((self.capacity, dimension), np.int8)
        self.units = np.zeros(self.capacity, np.float32)
        self.norms = np.zeros(self.capacity, np.float32)
        self.held = np.zeros((self.capacity, classes), np.bool_)
        self.alphas = np.zeros((self.capacity, classes), np.float32)
        self.keys = np.full(self.capacity, -1, np.int64)
        self.windows = np.full(self.capacity, -1, np.int64)
        self._used = np.zeros(self.capacity, np.bool_)

    @property
    def free(self) -> int:
        """Number of rows that can be added."""
        return self.capacity - int(np.count_nonzero(self._used))

    @property
    def end(self) -> int:
        """One past the last row in use: of short rows, capacity may be many times that."""
        return int(np.flatnonzero(self._used).max(initial=-1)) + 1

    def add(self, features: FloatArray, scale: float, key: int, windows: IntArray) -> IntArray:
        """Stores features (n, d) times ``scale``; returns their n slots. Nobody holds them yet.

        Raises:
            ValueError: more rows than are free.
        """
        slots = np.flatnonzero(~self._used)[: len(features)]
        if len(slots) < len(features):
            raise ValueError(f"{len(features)} rows do not fit into {len(slots)} free ones")
        for slot, row in zip(slots, features, strict=True):
            # A row of zeros may have any unit.
            unit = max(float(np.abs(row).max()), _SMALLEST) / _LARGEST
            self.rows[slot] = np.rint(row * np.float32(1 / unit))
            self.units[slot] = unit * scale
        self.norms[slots] = squared_norms(self.rows, slots, self.units)[slots]
        self.keys[slots] = key
        self.windows[slots] = windows
        self._used[slots] = True
        return slots

    def scores(self, slots: IntArray, weights: FloatArray) -> FloatArray:
        """float32 (n, C): the products of n rows with the weights (C, d)."""
        products: FloatArray = self.rows[slots].astype(np.float32) @ weights.T
        return products * self.units[slots, None]

    def release(self, slots: IntArray, label: np.integer | int) -> None:
        """A class lets go of rows; call `sweep` to free those that nobody holds any more."""
        self.held[slots, label] = False
        self.alphas[slots, label] = 0.0

    def sweep(self) -> None:
        """Frees the rows that no class holds."""
        end = self.end
        orphans = np.flatnonzero(self._used[:end] & ~self.held[:end].any(axis=1))
        self.keys[orphans] = -1
        self.windows[orphans] = -1
        self._used[orphans] = False

    def find(self, key: int, windows: int) -> IntArray:
        """int64 (windows,): the slot of each window of an image, -1 where it is not stored."""
        slots = np.full(windows, -1, np.int64)
        stored = np.flatnonzero(self.keys[: self.end] == key)
        slots[self.windows[stored]] = stored
        return slots

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The content, as views: write them away before the store changes."""
        end = self.end
        return {name: getattr(self, name)[:end] for name in self._STATE}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes over what `state` gave.

        Raises:
            ValueError: more rows than fit, or rows of another shape.
        """
        end = len(state["keys"])
        if end > self.capacity:
            raise ValueError(f"the state has {end} rows; the memory given is enough for {self.capacity}")
        for name in self._STATE:
            target = getattr(self, name)
            if state[name].shape[1:] != target.shape[1:]:
                raise ValueError(f"the state's {name} are {state[name].shape}, not (N, {target.shape[1:]})")
            target[:end] = state[name]

    _STATE = ("rows", "units", "norms", "held", "alphas", "keys", "windows", "_used")
