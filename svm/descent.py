"""Compiled coordinate descent on the dual of one SVM, and the squared lengths of feature rows."""

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.common.kernels import kernel

# Feature rows as floats, or as whole numbers that are multiplied by one factor (unit) per row.
RowArray = NDArray[np.float32] | NDArray[np.int8]

# Sums may be reordered to use vector registers; NaN and infinity keep their meaning.
_REORDER = {"reassoc", "contract", "nsz"}


@kernel(fastmath=_REORDER)
def _dot(a: RowArray, b: RowArray) -> float:
    total = np.float32(0.0)
    for k in range(a.shape[0]):
        total += np.float32(a[k]) * np.float32(b[k])
    return total  # type: ignore[return-value]  # a double would halve the vector width


@kernel(fastmath=_REORDER)
def _add(step: np.float32, row: RowArray, w: FloatArray) -> None:
    for k in range(w.shape[0]):
        w[k] += step * np.float32(row[k])


@kernel()
def _fill_squared_norms(features: RowArray, units: FloatArray, rows: IntArray, norms: FloatArray) -> None:
    for row in rows:
        norms[row] = units[row] * units[row] * _dot(features[row], features[row])


@kernel()
def _gradient(sign: float, row: RowArray, unit: float, w: FloatArray, bias: float) -> float:
    return sign * (unit * _dot(row, w) + bias) - 1.0


@kernel()
def _sweep(
    features: RowArray,
    units: FloatArray,
    rows: IntArray,
    signs: FloatArray,
    bounds: FloatArray,
    curvatures: FloatArray,
    multiplier: float,
    alphas: FloatArray,
    w: FloatArray,
    v: float,
    active: IntArray,
) -> tuple[float, float, int]:
    """Makes one pass over the active rows; returns v, the gain in the dual, and the count of active rows."""
    kept = 0
    gain = 0.0
    for i in active:
        row, unit = features[rows[i]], units[rows[i]]
        gradient = _gradient(signs[i], row, unit, w, multiplier * v)
        old = alphas[i]
        new = np.float32(min(max(old - gradient / curvatures[i], 0.0), bounds[i]))
        if new != old:
            change = new - old
            gain -= change * (gradient + 0.5 * change * curvatures[i])
            _add(np.float32(signs[i] * change * unit), row, w)
            v += signs[i] * change * multiplier
            alphas[i] = new
        if new != old or 0.0 < new < bounds[i]:
            active[kept] = i
            kept += 1
    return v, gain, kept


@kernel()
def descend(
    features: RowArray,
    units: FloatArray,
    rows: IntArray,
    signs: FloatArray,
    bounds: FloatArray,
    curvatures: FloatArray,
    multiplier: float,
    tolerance: float,
    max_sweeps: int,
    seed: int,
    alphas: FloatArray,
    w: FloatArray,
    margins: FloatArray,
) -> tuple[float, float, float, int]:
    """Solves the problem of one class; see `sppnet.svm.solver` for the objective.

    Args:
        features: float32 or int8 (N, d), each row contiguous.
        units: float32 (N,), the factor of each row.
        rows: int64 (n,), indices of the problem's rows.
        signs: float32 (n,), 1 for positives, -1 for negatives.
        bounds: float32 (n,), largest value of each dual variable.
        curvatures: float32 (n,), squared lengths of the rows, including the constant feature.
        multiplier: B, the value of the constant feature.
        tolerance: largest duality gap, as a fraction of the objective.
        max_sweeps: largest number of visits to a row, on average.
        seed: seed of the order of visits.
        alphas: float32 (n,), dual variables to start from; overwritten with the solution.
        w: float32 (d,), weights; overwritten with the solution.
        margins: float32 (n,), scores of the rows; overwritten.

    Returns:
        v, the objective, the duality gap, and the number of visits to rows.
    """
    np.random.seed(seed)  # noqa: NPY002 - numba's generator, one per thread
    n = rows.shape[0]
    # w follows from the alphas. It is computed again at every call; otherwise rounding errors would add up
    # over warm starts.
    w[:] = 0.0
    v = 0.0
    for i in range(n):
        if alphas[i] > 0.0:
            _add(np.float32(signs[i] * alphas[i] * units[rows[i]]), features[rows[i]], w)
            v += signs[i] * alphas[i] * multiplier
    active = np.empty(n, np.int64)
    visits = 0
    while True:
        # A pass over all rows computes the gap, and finds the rows that violate optimality or may move.
        squared_norm = v * v
        for k in range(w.shape[0]):
            squared_norm += np.float64(w[k]) * np.float64(w[k])
        loss = 0.0
        alpha_sum = 0.0
        size = 0
        for i in range(n):
            # At a cold start all scores are zero, so the rows need not be read.
            gradient = (
                _gradient(signs[i], features[rows[i]], units[rows[i]], w, multiplier * v)
                if squared_norm > 0.0
                else -1.0
            )
            margins[i] = signs[i] * (gradient + 1.0)
            loss += bounds[i] * max(-gradient, 0.0)
            alpha_sum += alphas[i]
            settled = gradient >= 0.0 if alphas[i] <= 0.0 else alphas[i] >= bounds[i] and gradient <= 0.0
            if not settled:
                active[size] = i
                size += 1
        visits += n if squared_norm > 0.0 else 0
        objective = 0.5 * squared_norm + loss
        gap = objective - (alpha_sum - 0.5 * squared_norm)
        if gap <= tolerance * objective or visits >= max_sweeps * n or size == 0:
            return v, objective, gap, visits
        # Now come passes over the active rows: rows that move, or whose alpha is between its bounds. The next
        # pass over all rows is due when it costs less than the passes since the last one, or when the active
        # rows are nearly solved.
        first_gain = 0.0
        visits_before = visits
        while visits < max_sweeps * n and size > 0:
            np.random.shuffle(active[:size])  # noqa: NPY002
            visits += size
            v, gain, size = _sweep(
                features, units, rows, signs, bounds, curvatures, multiplier, alphas, w, v, active[:size]
            )
            first_gain = max(first_gain, gain)
            if gain <= 0.01 * tolerance * objective or (
                visits - visits_before >= n and gain <= 0.1 * first_gain
            ):
                break


def squared_norms(features: RowArray, rows: IntArray, units: FloatArray | None = None) -> FloatArray:
    """Computes the squared lengths of ``rows`` of features (N, d): float32 (N,), zero for all other rows."""
    norms = np.zeros(len(features), np.float32)
    _fill_squared_norms(features, units_or_ones(features, units), rows, norms)
    return norms


def units_or_ones(features: RowArray, units: FloatArray | None) -> FloatArray:
    """Returns the factor of each row, float32 (N,): ``units``, or ones if ``units`` is None."""
    return np.ones(len(features), np.float32) if units is None else units
