"""A bounded array of feature rows that all classes share, with the classes that train on each row."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.svm.descent import squared_norms

_LARGEST = 127
_SMALLEST = 1e-30  # Keeps the unit of a row of zeros above 0.
# The name of each array in checkpoints, and its attribute.
_STATE = {
    "rows": "rows",
    "units": "units",
    "norms": "norms",
    "held": "held",
    "alphas": "alphas",
    "keys": "keys",
    "windows": "samples",
    "_used": "_used",
}


class RowStore:
    """Feature rows in a fixed amount of memory; a row stays as long as a class holds it.

    The memory is reserved but not touched, so a part that was never filled costs nothing. Freed slots are
    used again, lowest first.

    Attributes:
        row_bytes: memory of one row, in bytes.
        capacity: number of rows that fit.
        rows: int8 (capacity, d). A feature is its number times the row's unit; the largest magnitude of a
            row is 127 units. This takes a quarter of the memory of float32, so four times the negatives are
            kept; on pooled proposals of VOC2007 it moves margins by 0.001 to 0.002 (standard deviation).
        units: float32 (capacity,), the unit of each row.
        norms: float32 (capacity,), the squared length of each row.
        held: bool (capacity, C), true if the class trains on the row.
        alphas: float32 (capacity, C), the dual variable of a row in the SVM of each class; zero if the class
            does not hold the row.
        keys, samples: int64 (capacity,), the image of a row, and the row's number in the image; -1 if free.
    """

    def __init__(self, memory_bytes: int, dimension: int, classes: int) -> None:
        """Reserves as many rows of ``dimension`` features as fit into ``memory_bytes`` with bookkeeping."""
        # Bytes of a row: features, unit, norm, held and alphas, key and sample, and the flag for "used".
        self.row_bytes = dimension + 4 + 4 + 5 * classes + 16 + 1
        self.capacity = memory_bytes // self.row_bytes
        self.rows = np.empty((self.capacity, dimension), np.int8)
        self.units = np.zeros(self.capacity, np.float32)
        self.norms = np.zeros(self.capacity, np.float32)
        self.held = np.zeros((self.capacity, classes), np.bool_)
        self.alphas = np.zeros((self.capacity, classes), np.float32)
        self.keys = np.full(self.capacity, -1, np.int64)
        self.samples = np.full(self.capacity, -1, np.int64)
        self._used = np.zeros(self.capacity, np.bool_)

    @property
    def free(self) -> int:
        """Number of rows that can be added."""
        return self.capacity - int(np.count_nonzero(self._used))

    @property
    def end(self) -> int:
        """One past the last slot in use; it may be far below the capacity."""
        return int(np.flatnonzero(self._used).max(initial=-1)) + 1

    def add(self, features: FloatArray, norm_factor: float, key: int, samples: IntArray) -> IntArray:
        """Stores feature rows that no class holds yet.

        Args:
            features: (n, d), not yet multiplied by ``norm_factor``.
            norm_factor: the factor on the stored features.
            key: the number of their image.
            samples: (n,), the number of each row in the image.

        Returns:
            int64 (n,), the slots of the rows.

        Raises:
            ValueError: there are more rows than free slots.
        """
        slots = np.flatnonzero(~self._used)[: len(features)]
        if len(slots) < len(features):
            raise ValueError(f"{len(features)} rows do not fit into {len(slots)} free ones")
        for slot, row in zip(slots, features, strict=True):
            unit = max(float(np.abs(row).max()), _SMALLEST) / _LARGEST
            self.rows[slot] = np.rint(row * np.float32(1 / unit))
            self.units[slot] = unit * norm_factor
        self.norms[slots] = squared_norms(self.rows, slots, self.units)[slots]
        self.keys[slots] = key
        self.samples[slots] = samples
        self._used[slots] = True
        return slots

    def scores(self, slots: IntArray, weights: FloatArray) -> FloatArray:
        """Returns the products of n rows with the weights (C, d): float32 (n, C)."""
        products: FloatArray = self.rows[slots].astype(np.float32) @ weights.T
        return products * self.units[slots, None]

    def release(self, slots: IntArray, label: np.integer | int) -> None:
        """Removes rows from a class; `sweep` then frees the rows that no class holds any more."""
        self.held[slots, label] = False
        self.alphas[slots, label] = 0.0

    def sweep(self) -> None:
        """Frees the rows that no class holds."""
        end = self.end
        orphans = np.flatnonzero(self._used[:end] & ~self.held[:end].any(axis=1))
        self.keys[orphans] = -1
        self.samples[orphans] = -1
        self._used[orphans] = False

    def find(self, key: int, count: int) -> IntArray:
        """Returns the slot of each of the ``count`` samples of an image, -1 if it is not stored."""
        slots = np.full(count, -1, np.int64)
        stored = np.flatnonzero(self.keys[: self.end] == key)
        slots[self.samples[stored]] = stored
        return slots

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Returns the content as views; save them before the store changes."""
        end = self.end
        return {name: getattr(self, attribute)[:end] for name, attribute in _STATE.items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restores the content that `state` returned.

        Raises:
            ValueError: there are more rows than fit, or a row has another shape.
        """
        end = len(state["keys"])
        if end > self.capacity:
            raise ValueError(f"the state has {end} rows; the memory given is enough for {self.capacity}")
        for name, attribute in _STATE.items():
            target = getattr(self, attribute)
            if state[name].shape[1:] != target.shape[1:]:
                raise ValueError(f"the state's {name} are {state[name].shape}, not (N, {target.shape[1:]})")
            target[:end] = state[name]
