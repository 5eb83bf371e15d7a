"""One-vs-rest linear SVMs: the L1-hinge dual by coordinate descent, warm-started, on rows that stay in place.

The objective is the one that R-CNN and the released SPP-net code give to liblinear (``-s 3 -B 10 -w1 2``):

    min over w, v   1/2 (||w||^2 + v^2) + C sum_i c_i max(0, 1 - y_i (w.x_i + B v))

with the bias ``b = B v`` regularised through a constant feature of value B, and ``c_i`` the class' weight.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import BoolArray, FloatArray, IntArray

_LOG = logging.getLogger(__name__)

# Feature rows as they are, or as whole numbers with a unit a row.
RowArray = NDArray[np.float32] | NDArray[np.int8]

# NaN and infinity keep their meaning; only the order of a sum is free, so that it may use vector registers.
_REORDER = {"reassoc", "contract", "nsz"}


@dataclass(frozen=True)
class SolverSettings:
    """What to minimise, and how closely.

    Attributes:
        cost: C = 1e-3 (R-CNN and SPP-net, released code).
        bias_multiplier: B = 10, the value of the constant feature (released code, liblinear ``-B 10``).
        positive_weight: c_i of a positive, 2; a negative has 1 (released code, liblinear ``-w1 2``).
        tolerance: stop when the duality gap, which bounds the distance to the least objective, is at most
            this part of the objective; half of the 1e-3 within which it must agree with liblinear.
        max_sweeps: stop after visiting each row so many times on average; ``Solution.gap`` then tells how far
            it came.
        seed: of the order in which rows are visited.
    """

    cost: float = 1e-3
    bias_multiplier: float = 10.0
    positive_weight: float = 2.0
    tolerance: float = 5e-4
    max_sweeps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.cost, self.positive_weight, self.tolerance) <= 0 or self.max_sweeps < 1:
            raise ValueError(f"{self}: cost, positive_weight, tolerance and max_sweeps must be positive")


@dataclass(frozen=True, eq=False)
class Problem:
    """One class' training set, as indices into a shared array of feature rows.

    Attributes:
        rows: int64 (n,) indices of the training windows.
        positive: bool (n,) true for windows of the class.
        alphas: float32 (n,) dual variables to start from, or ``None`` for zeros.
    """

    rows: IntArray
    positive: BoolArray
    alphas: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Solution:
    """One class' SVM.

    Attributes:
        weights: float32 (d,).
        bias: to be added to ``weights . x``.
        alphas: float32 (n,) dual variables of the problem's rows; a later `Problem` may start from them.
        margins: float32 (n,) scores of the problem's rows.
        objective: the (primal) objective reached.
        gap: objective minus dual objective: the least objective is nowhere below ``objective - gap``.
        sweeps: how many times a row was visited on average.
    """

    weights: FloatArray
    bias: float
    alphas: FloatArray
    margins: FloatArray
    objective: float
    gap: float
    sweeps: float


@numba.njit(nogil=True, cache=True, fastmath=_REORDER)
def _dot(a: RowArray, b: RowArray) -> float:
    total = np.float32(0.0)
    for k in range(a.shape[0]):
        total += np.float32(a[k]) * np.float32(b[k])
    return total  # type: ignore[return-value]  # a double would halve the vector width


@numba.njit(nogil=True, cache=True, fastmath=_REORDER)
def _add(step: np.float32, row: RowArray, w: FloatArray) -> None:
    for k in range(w.shape[0]):
        w[k] += step * np.float32(row[k])


@numba.njit(nogil=True, cache=True)
def _fill_squared_norms(features: RowArray, units: FloatArray, rows: IntArray, norms: FloatArray) -> None:
    for row in rows:
        norms[row] = units[row] * units[row] * _dot(features[row], features[row])


@numba.njit(nogil=True, cache=True)
def _gradient(sign: float, row: RowArray, unit: float, w: FloatArray, bias: float) -> float:
    return sign * (unit * _dot(row, w) + bias) - 1.0


@numba.njit(nogil=True, cache=True)
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
    """One pass over the active rows; returns v, the dual objective won, and how many rows stay active."""
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


@numba.njit(nogil=True, cache=True)
def _descend(
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
    """Fills alphas, w and margins; returns v, the objective, the gap and the number of visits to rows."""
    np.random.seed(seed)  # noqa: NPY002 - numba's generator, one per thread
    n = rows.shape[0]
    # w follows from the alphas; rebuilt at every call, so that rounding does not pile up over warm starts.
    w[:] = 0.0
    v = 0.0
    for i in range(n):
        if alphas[i] > 0.0:
            _add(np.float32(signs[i] * alphas[i] * units[rows[i]]), features[rows[i]], w)
            v += signs[i] * alphas[i] * multiplier
    active = np.empty(n, np.int64)
    visits = 0
    while True:
        # Every row: the gap, and which rows break the optimality conditions or are free to move.
        squared_norm = v * v
        for k in range(w.shape[0]):
            squared_norm += np.float64(w[k]) * np.float64(w[k])
        loss = 0.0
        alpha_sum = 0.0
        size = 0
        for i in range(n):
            # A cold start needs no look at the rows to know that all scores are zero.
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
        # Then only those, each while it moves or is free. Looking at every row again is worth it once that
        # costs less than was spent on these, or these are as good as solved.
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
    """Squared length of some rows of features (N, d), as float32 (N,) that is zero at the other rows."""
    norms = np.zeros(len(features), np.float32)
    _fill_squared_norms(features, _units(features, units), rows, norms)
    return norms


def _units(features: RowArray, units: FloatArray | None) -> FloatArray:
    return np.ones(len(features), np.float32) if units is None else units


def train_svms(
    features: RowArray,
    problems: Sequence[Problem],
    settings: SolverSettings,
    norms: FloatArray | None = None,
    threads: int = 1,
    units: FloatArray | None = None,
) -> list[Solution]:
    """Trains one SVM per problem, several at a time, on one shared array of feature rows.

    Args:
        features: float32 or int8 (N, d), each row contiguous; only the problems' rows are read, and none is
            copied.
        problems: the rows of each class and where to start from.
        settings: the objective, and when to stop.
        norms: float32 (N,) squared length of each row as from `squared_norms`, for callers that keep it.
        threads: problems solved at a time (the kernel releases the GIL); the result does not depend on it.
        units: float32 (N,) what each row is multiplied by before anything else; ones if None.

    Returns:
        One solution a problem, in their order; without any rows it is zero. A warning is logged where
        ``settings.max_sweeps`` ended the training of some.

    Raises:
        ValueError: arrays that do not fit together, or a feature that is not finite.
    """
    if (
        features.ndim != 2
        or features.dtype not in (np.float32, np.int8)
        or (features.size and features.strides[1] != features.itemsize)
    ):
        raise ValueError(
            "features must be float32 or int8 (N, d) with contiguous rows, "
            f"not {features.dtype} {features.shape}"
        )
    units = _units(features, units)
    for problem in problems:
        _check(problem, len(features))
    if norms is None:
        every_row = np.concatenate([np.empty(0, np.int64), *(problem.rows for problem in problems)])
        norms = squared_norms(features, np.unique(every_row), units)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        solutions = list(
            pool.map(lambda problem: _train(features, units, problem, settings, norms), problems)
        )
    early = [
        one
        for one in solutions
        if one.sweeps >= settings.max_sweeps and one.gap > settings.tolerance * one.objective
    ]
    if early:
        farthest = max(early, key=lambda one: one.gap / one.objective)
        _LOG.warning(
            "%d of %d SVMs at C = %g stopped after %d sweeps, %.1g %% above the least objective at most",
            len(early), len(solutions), settings.cost, settings.max_sweeps,
            100 * farthest.gap / farthest.objective,
        )  # fmt: skip
    return solutions


def _check(problem: Problem, count: int) -> None:
    rows = problem.rows
    for name, values in (("positive", problem.positive), ("alphas", problem.alphas)):
        if values is not None and values.shape != rows.shape:
            raise ValueError(f"a problem with rows {rows.shape} has {name} {values.shape}")
    if len(rows) and not (rows.min() >= 0 and rows.max() < count):
        raise ValueError(f"row indices {rows.min()}..{rows.max()} are outside the {count} feature rows")


def _train(
    features: RowArray, units: FloatArray, problem: Problem, settings: SolverSettings, norms: FloatArray
) -> Solution:
    rows = np.ascontiguousarray(problem.rows, np.int64)
    curvatures = norms[rows] + np.float32(settings.bias_multiplier**2)
    # A row of zeros without a bias has no curvature; its step is cut at the bounds whatever it is divided by.
    np.maximum(curvatures, np.finfo(np.float32).tiny, out=curvatures)
    if not np.isfinite(curvatures).all():
        raise ValueError(f"features: row {rows[~np.isfinite(curvatures)][0]} is not finite")
    signs = np.where(problem.positive, 1, -1).astype(np.float32)
    costs = settings.cost * np.where(problem.positive, settings.positive_weight, 1.0)
    alphas = np.zeros(len(rows), np.float32)
    if problem.alphas is not None:
        np.clip(problem.alphas, 0, costs, out=alphas)
    weights = np.empty(features.shape[1], np.float32)
    margins = np.empty(len(rows), np.float32)
    v, objective, gap, visits = _descend(
        features, units, rows, signs, costs.astype(np.float32), curvatures, float(settings.bias_multiplier),
        float(settings.tolerance), settings.max_sweeps, settings.seed, alphas, weights, margins,
    )  # fmt: skip
    bias = settings.bias_multiplier * v
    return Solution(weights, bias, alphas, margins, objective, gap, visits / max(len(rows), 1))
