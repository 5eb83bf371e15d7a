"""Trains one-vs-rest linear SVMs by coordinate descent on the L1-hinge dual, without copying rows.

R-CNN and the released SPP-net code use liblinear with ``-s 3 -B 10 -w1 2``. Its objective, used here too, is

    min over w, v   1/2 (||w||^2 + v^2) + C sum_i c_i max(0, 1 - y_i (w.x_i + B v))

where ``b = B v`` is the bias, regularised through a constant feature of value B, and ``c_i`` is the weight of
a positive or a negative.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from sppnet.common.arrays import BoolArray, FloatArray, IntArray
from sppnet.svm.descent import RowArray, descend, squared_norms, units_or_ones

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SolverSettings:
    """Settings of the objective, and the limits at which the solver stops.

    Attributes:
        cost: C = 1e-3 (R-CNN and SPP-net, released code).
        bias_multiplier: B = 10, the value of the constant feature (released code, liblinear ``-B 10``).
        positive_weight: c_i of a positive, 2; a negative has 1 (released code, liblinear ``-w1 2``).
        tolerance: stop when the duality gap, which bounds the distance to the least objective, is at most
            this fraction of the objective: 5e-4, half of the 1e-3 within which the objective must agree with
            liblinear.
        max_sweeps: stop after visiting each row this many times on average; ``Solution.gap`` then bounds the
            distance to the least objective.
        seed: seed of the order in which rows are visited.

    Raises:
        ValueError: a value is not positive.

    Example:
        >>> SolverSettings(cost=0.1).positive_weight
        2.0
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
    """The training set of one class, as indices into a shared array of feature rows.

    Attributes:
        rows: int64 (n,), indices of the training samples.
        positive: bool (n,), true for samples of the class.
        alphas: float32 (n,), dual variables to start from, or ``None`` for zeros.

    Example:
        >>> problem = Problem(rows=np.array([0, 2, 3]), positive=np.array([True, False, False]))
        >>> problem.alphas is None
        True
    """

    rows: IntArray
    positive: BoolArray
    alphas: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Solution:
    """The trained SVM of one class.

    Attributes:
        weights: float32 (d,), w.
        bias: b; the score of a row x is ``weights . x + bias``.
        alphas: float32 (n,), dual variables of the problem's rows; a later `Problem` may start from them.
        margins: float32 (n,), scores of the problem's rows.
        objective: the primal objective reached.
        gap: objective minus dual objective: the least objective is not below ``objective - gap``.
        sweeps: average number of visits to a row.

    Example:
        >>> x = np.array([[1, 0], [0, 1]], np.float32)
        >>> problem = Problem(np.arange(2), np.array([True, False]))
        >>> (solution,) = train_svms(x, [problem], SolverSettings(cost=1.0))
        >>> bool(solution.margins[0] > 0 > solution.margins[1])
        True
    """

    weights: FloatArray
    bias: float
    alphas: FloatArray
    margins: FloatArray
    objective: float
    gap: float
    sweeps: float


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
        features: float32 or int8 (N, d), each row contiguous; only the problems' rows are read, and no row is
            copied.
        problems: the rows of each class, and the dual variables to start from.
        settings: the objective, and the limits at which the solver stops.
        norms: float32 (N,), squared length of each row from `squared_norms`; None: they are computed.
        threads: problems solved at a time (the kernel releases the GIL); the result does not depend on it.
        units: float32 (N,), factor of each row, applied before all else; None: ones.

    Returns:
        one solution for each problem, in their order; all zero for a problem without rows. A warning is
        logged if ``settings.max_sweeps`` ended a training.

    Raises:
        ValueError: shapes do not match, or a feature is not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> features = rng.random((60, 5), dtype=np.float32)
        >>> features[:20] += 1
        >>> problem = Problem(np.arange(60), np.arange(60) < 20)
        >>> (solution,) = train_svms(features, [problem], SolverSettings(cost=1.0))
        >>> bool((solution.margins[:20] > solution.margins[20:].max()).all())
        True
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
    units = units_or_ones(features, units)
    for problem in problems:
        _check(problem, len(features))
    if norms is None:
        every_row = np.concatenate([np.empty(0, np.int64), *(problem.rows for problem in problems)])
        norms = squared_norms(features, np.unique(every_row), units)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        solutions = list(
            pool.map(lambda problem: _train(features, units, problem, settings, norms), problems)
        )
    unfinished = [
        solution
        for solution in solutions
        if solution.sweeps >= settings.max_sweeps and solution.gap > settings.tolerance * solution.objective
    ]
    if unfinished:
        farthest = max(unfinished, key=lambda solution: solution.gap / solution.objective)
        _LOG.warning(
            "%d of %d SVMs at C = %g stopped after %d sweeps, %.1g %% above the least objective at most",
            len(unfinished), len(solutions), settings.cost, settings.max_sweeps,
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
    # A row of zeros without a bias has curvature 0. Any divisor serves: the step is clipped to the bounds.
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
    v, objective, gap, visits = descend(
        features, units, rows, signs, costs.astype(np.float32), curvatures, float(settings.bias_multiplier),
        float(settings.tolerance), settings.max_sweeps, settings.seed, alphas, weights, margins,
    )  # fmt: skip
    bias = settings.bias_multiplier * v
    return Solution(weights, bias, alphas, margins, objective, gap, visits / max(len(rows), 1))
