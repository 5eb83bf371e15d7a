"""Compiled loops of spatial pyramid pooling, and the tables of maxima for them."""

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray
from sppnet.common.kernels import kernel


def max_tables(feature_map: FloatArray, count_y: int, count_x: int) -> FloatArray:
    """Computes the maxima over all blocks whose sides are powers of two (a sparse table).

    Any bin is the union of four such blocks, one in each of its corners.

    Args:
        feature_map: float32 (h, w, C).
        count_y: number of block heights: 1, 2, 4, … cells.
        count_x: number of block widths: 1, 2, 4, … cells.

    Returns:
        float32 (count_y, count_x, h, w, C): entry [i, j, y, x] is the maximum of the 2^i x 2^j cells from
        (y, x); entries of blocks that reach out of the map are not set.
    """
    tables = np.empty((count_y, count_x, *feature_map.shape), np.float32)
    tables[0, 0] = feature_map
    for i in range(count_y):
        if i > 0:
            half = 1 << (i - 1)
            np.maximum(tables[i - 1, 0, :-half], tables[i - 1, 0, half:], out=tables[i, 0, :-half])
        for j in range(1, count_x):
            half = 1 << (j - 1)
            np.maximum(tables[i, j - 1, :, :-half], tables[i, j - 1, :, half:], out=tables[i, j, :, :-half])
    return tables


@kernel()
def pool_windows(
    tables: NDArray[np.float32],
    use_tables: bool,
    windows: NDArray[np.int64],
    levels: NDArray[np.int64],
    finer: NDArray[np.int64],
    pooled: NDArray[np.float32],
) -> None:
    """Pools windows over a pyramid.

    Args:
        tables: the result of `max_tables`; or (1, 1, h, w, C), the map alone.
        use_tables: whether ``tables`` are tables, large enough for every bin.
        windows: (N, 4), cells x0 y0 x1 y1.
        levels: bins per side of each pyramid level.
        finer: for each level the index of an earlier level with twice the bins per side, or -1.
        pooled: (N, bins, C), the output.
    """
    starts = np.zeros(len(levels), np.int64)
    for level in range(1, len(levels)):
        starts[level] = starts[level - 1] + levels[level - 1] ** 2
    for index in range(len(windows)):
        window = windows[index]
        for level in range(len(levels)):
            n = levels[level]
            bins = pooled[index, starts[level] :]
            if finer[level] >= 0:
                _pool_finer(bins, pooled[index, starts[finer[level]] :], n)
            elif use_tables:
                _pool_tables(bins, tables, window, n)
            else:
                _pool_cells(bins, tables[0, 0], window, n)


@kernel()
def _pool_finer(bins: NDArray[np.float32], finer: NDArray[np.float32], n: int) -> None:
    """Sets each of n x n bins to the maximum of four of the 2n x 2n bins."""
    for row in range(n):
        for column in range(n):
            corner = finer[4 * row * n + 2 * column :]
            _maximum(bins[row * n + column], corner[0], corner[1], corner[2 * n], corner[2 * n + 1])


@kernel()
def _pool_tables(
    bins: NDArray[np.float32], tables: NDArray[np.float32], window: NDArray[np.int64], n: int
) -> None:
    """Sets each of n x n bins to the maximum of four blocks."""
    left, top, right, bottom = window
    for row in range(n):
        y0, y1 = _limits(row, n, top, bottom)
        i = _power(y1 - y0)
        y2 = y1 - (1 << i)
        for column in range(n):
            x0, x1 = _limits(column, n, left, right)
            j = _power(x1 - x0)
            x2 = x1 - (1 << j)
            block = tables[i, j]
            _maximum(bins[row * n + column], block[y0, x0], block[y0, x2], block[y2, x0], block[y2, x2])


@kernel()
def _pool_cells(
    bins: NDArray[np.float32], feature_map: NDArray[np.float32], window: NDArray[np.int64], n: int
) -> None:
    """Sets each of n x n bins to the maximum of its cells, three cells per pass."""
    left, top, right, bottom = window
    before = np.empty(feature_map.shape[2], np.float32)
    for row in range(n):
        y0, y1 = _limits(row, n, top, bottom)
        for column in range(n):
            x0, x1 = _limits(column, n, left, right)
            columns = x1 - x0
            last = (y1 - y0) * columns - 1
            target = bins[row * n + column]
            target[:] = feature_map[y0, x0]
            for cell in range(1, last + 1, 3):
                second, third = min(cell + 1, last), min(cell + 2, last)
                before[:] = target
                _maximum(
                    target,
                    before,
                    feature_map[y0 + cell // columns, x0 + cell % columns],
                    feature_map[y0 + second // columns, x0 + second % columns],
                    feature_map[y0 + third // columns, x0 + third % columns],
                )


@kernel()
def _limits(index: int, n: int, first: int, end: int) -> tuple[int, int]:
    """Returns first and last (exclusive) cell of bin ``index`` of n over the cells ``first`` to ``end``."""
    side = end - first
    return first + index * side // n, first - (-(index + 1) * side // n)


@kernel()
def _power(cells: int) -> int:
    """Returns the largest i with 2^i <= cells."""
    power = 0
    while (2 << power) <= cells:
        power += 1
    return power


@kernel()
def _maximum(
    target: NDArray[np.float32],
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    c: NDArray[np.float32],
    d: NDArray[np.float32],
) -> None:
    # LLVM vectorises this form, but not a maximum that overwrites one of its operands.
    for channel in range(target.size):
        e = max(a[channel], b[channel])
        f = max(c[channel], d[channel])
        target[channel] = max(e, f)
