"""The spatial pyramid: windows of a feature map to vectors of one length (SPP-net §2.2)."""

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray
from sppnet.detection.features.projection import Windows

# SPP-net §4.1: 50 bins.
PAPER_LEVELS = (6, 3, 2, 1)


def num_bins(levels: Sequence[int]) -> int:
    """How many bins a pyramid has."""
    return sum(level * level for level in levels)


def spatial_pyramid_pool(
    feature_map: FloatArray, cells: Windows, levels: Sequence[int] = PAPER_LEVELS
) -> FloatArray:
    """Max-pools windows of a feature map over a spatial pyramid.

    Bin i of n over a window of w cells covers cells ``floor(i w / n)`` to ``ceil((i + 1) w / n)``
    (exclusive), in both directions, so bins of small windows overlap and none is empty.

    Args:
        feature_map: float32 (h, w, C), channels last.
        cells: int32 (N, 4), x0 y0 x1 y1, right and bottom exclusive, inside the map, at least one cell each.
        levels: bins a side, level by level.

    Returns:
        float32 (N, bins * C): level by level in the given order, bins row by row, channels within a bin.

    Raises:
        ValueError: cells outside the map or empty, or no level.
    """
    height, width, channels = feature_map.shape
    if not levels or min(levels) < 1:
        raise ValueError(f"levels {levels}: give at least one, each at least 1")
    pooled = np.empty((len(cells), num_bins(levels), channels), np.float32)
    if len(cells) == 0:
        return pooled.reshape(0, num_bins(levels) * channels)
    if (
        cells[:, :2].min() < 0
        or cells[:, 2].max() > width
        or cells[:, 3].max() > height
        or (cells[:, 2:] <= cells[:, :2]).any()
    ):
        raise ValueError(f"cells must be non-empty windows inside the {width} x {height} map")
    twice = [_twice_as_fine(levels, place) for place in range(len(levels))]
    coarsest = min(level for level, finer in zip(levels, twice, strict=True) if finer < 0)
    sides = cells[:, 2:] - cells[:, :2]
    columns, rows = -(-sides.max(axis=0) // coarsest)
    powers = _powers(int(rows), height), _powers(int(columns), width)
    read = int(sides.astype(np.int64).prod(axis=1).sum()) * twice.count(-1)
    if _worth_tables(read, powers[0] * powers[1] * height * width):
        tables = _max_tables(feature_map, *powers)
    else:
        tables = feature_map[None, None]
    _pool(tables, cells.astype(np.int64), np.array(levels), np.array(twice), pooled)
    return pooled.reshape(len(cells), -1)


def _worth_tables(read: int, made: int) -> bool:
    """Whether tables of so many cells are faster than to read so many cells of the map itself.

    They are not where windows are few, as in fine-tuning at several scales. Making a cell takes longer than
    reading one: up to this bound, reading was faster in every case measured.
    """
    return read > made


def _twice_as_fine(levels: Sequence[int], place: int) -> int:
    """The place of the earlier level with twice the bins a side; -1 where there is none.

    Each bin is exactly the union of its four: floor(i w / n) = floor(2 i w / 2 n), likewise the ceiling.
    """
    finer = 2 * levels[place]
    return levels.index(finer) if finer in levels[:place] else -1


def _powers(cells: int, side: int) -> int:
    """How many powers of two, from 1, blocks have a side of for bins of up to ``cells`` (+ 1)."""
    return min(cells + 1, side).bit_length()


def _max_tables(feature_map: FloatArray, powers_y: int, powers_x: int) -> FloatArray:
    """Maxima over all blocks with power-of-two sides.

    Entry [i, j, y, x] is the maximum of the 2^i x 2^j cells from (y, x); entries of blocks that reach out
    of the map are not set. Any bin is the union of four blocks, one in each corner.
    """
    tables = np.empty((powers_y, powers_x, *feature_map.shape), np.float32)
    tables[0, 0] = feature_map
    for i in range(powers_y):
        if i > 0:
            half = 1 << (i - 1)
            np.maximum(tables[i - 1, 0, :-half], tables[i - 1, 0, half:], out=tables[i, 0, :-half])
        for j in range(1, powers_x):
            half = 1 << (j - 1)
            np.maximum(tables[i, j - 1, :, :-half], tables[i, j - 1, :, half:], out=tables[i, j, :, :-half])
    return tables


@numba.njit(cache=True, nogil=True)
def _maximum(
    target: NDArray[np.float32],
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    c: NDArray[np.float32],
    d: NDArray[np.float32],
) -> None:
    # LLVM vectorises this; it does not vectorise a maximum that is stored over one of its operands.
    for channel in range(target.size):
        e = max(a[channel], b[channel])
        f = max(c[channel], d[channel])
        target[channel] = max(e, f)


@numba.njit(cache=True, nogil=True)
def _maximum_of_cells(
    target: NDArray[np.float32], one: NDArray[np.float32], y0: int, y1: int, x0: int, x1: int
) -> None:
    """The maximum over the map's cells themselves, three a pass."""
    columns = x1 - x0
    last = (y1 - y0) * columns - 1
    target[:] = one[y0, x0]
    before = np.empty_like(target)
    for cell in range(1, last + 1, 3):
        second, third = min(cell + 1, last), min(cell + 2, last)
        before[:] = target
        _maximum(
            target,
            before,
            one[y0 + cell // columns, x0 + cell % columns],
            one[y0 + second // columns, x0 + second % columns],
            one[y0 + third // columns, x0 + third % columns],
        )


@numba.njit(cache=True, nogil=True)
def _power(cells: int) -> int:
    """The largest i with 2^i <= cells."""
    power = 0
    while (2 << power) <= cells:
        power += 1
    return power


@numba.njit(cache=True, nogil=True)
def _pool(
    tables: NDArray[np.float32],
    cells: NDArray[np.int64],
    levels: NDArray[np.int64],
    twice: NDArray[np.int64],
    pooled: NDArray[np.float32],
) -> None:
    single = tables.shape[:2] == (1, 1)
    starts = np.zeros(len(levels), np.int64)
    for place in range(1, len(levels)):
        starts[place] = starts[place - 1] + levels[place - 1] ** 2
    for window in range(len(cells)):
        left, top, right, bottom = cells[window]
        columns, rows = right - left, bottom - top
        for place in range(len(levels)):
            n = levels[place]
            for row in range(n):
                y0, y1 = top + row * rows // n, top - (-(row + 1) * rows // n)
                i = _power(y1 - y0)
                for column in range(n):
                    target = pooled[window, starts[place] + row * n + column]
                    if twice[place] >= 0:
                        corner = starts[twice[place]] + 4 * row * n + 2 * column
                        finer = pooled[window, corner:]
                        _maximum(target, finer[0], finer[1], finer[2 * n], finer[2 * n + 1])
                        continue
                    x0, x1 = left + column * columns // n, left - (-(column + 1) * columns // n)
                    if single:
                        _maximum_of_cells(target, tables[0, 0], y0, y1, x0, x1)
                        continue
                    j = _power(x1 - x0)
                    block = tables[i, j]
                    y2, x2 = y1 - (1 << i), x1 - (1 << j)
                    _maximum(target, block[y0, x0], block[y0, x2], block[y2, x0], block[y2, x2])
