"""Times `train_svms` and scikit-learn's LinearSVC (liblinear) on a synthetic but realistic problem.

    python -m benchmarks.svm_solver [--classes 20] [--reference-classes 4]

Both get the same float32 rows, which resemble pooled features: not negative, about a third not zero, mean
norm 20. All classes share the negatives and have a few hundred positives each. Both are imported and compiled
before the clock starts.
"""

import argparse
import os
import time

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.svm import LinearSVC

from sppnet.common.arrays import FloatArray
from sppnet.common.cores import allowed_cores
from sppnet.svm.solver import Problem, SolverSettings, train_svms


def make_problems(
    classes: int, negatives: int, positives: int, dimension: int, seed: int = 0
) -> tuple[FloatArray, list[Problem]]:
    """Makes features (rows, dimension) and a problem for each class; all classes share the negatives."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((40, dimension), np.float32)
    features = np.empty((negatives + classes * positives, dimension), np.float32)

    def fill(rows: slice, shift: FloatArray) -> None:
        latent = rng.standard_normal((rows.stop - rows.start, len(factors)), np.float32) + shift
        noise = rng.standard_normal((len(latent), dimension), np.float32)
        np.maximum(0.2 * latent @ factors + noise - 0.55, 0, out=features[rows])

    fill(slice(0, negatives), np.zeros(len(factors), np.float32))
    flags = np.arange(negatives + positives) >= negatives
    problems = []
    for start in range(negatives, len(features), positives):
        # With such small shifts the classes overlap, as with hard negatives: a third of the rows become
        # support vectors.
        fill(slice(start, start + positives), 0.3 * rng.standard_normal(len(factors), np.float32))
        rows = np.concatenate([np.arange(negatives), np.arange(start, start + positives)])
        problems.append(Problem(rows, flags))
    features *= 20 / np.linalg.norm(features, axis=1).mean()
    return features, problems


def objective(
    features: FloatArray, problem: Problem, settings: SolverSettings, weights: FloatArray, bias: float
) -> float:
    """Computes the objective of `sppnet.svm.solver` for the result of any solver, in float64."""
    w = weights.astype(np.float64)
    signs = np.where(problem.positive, 1, -1)
    costs = np.where(problem.positive, settings.positive_weight, 1) * settings.cost
    loss = np.maximum(0, 1 - signs * (features[problem.rows] @ w + bias))
    return float(0.5 * (w @ w + (bias / settings.bias_multiplier) ** 2) + costs @ loss)


def reference_svm(
    features: FloatArray, problem: Problem, settings: SolverSettings, tolerance: float = 1e-4
) -> tuple[FloatArray, float]:
    """Trains LinearSVC on this objective; returns weights and bias. The default tolerance is its own."""
    model = LinearSVC(
        loss="hinge", dual=True, C=settings.cost, intercept_scaling=settings.bias_multiplier,
        class_weight={1: settings.positive_weight, -1: 1}, tol=tolerance, max_iter=100_000,
    )  # fmt: skip
    model.fit(features[problem.rows], np.where(problem.positive, 1, -1))
    return model.coef_[0], float(model.intercept_[0])


def main() -> None:
    """Runs both solvers and prints times, objectives and ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.svm_solver")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--reference-classes", type=int, default=4, help="classes that LinearSVC trains")
    parser.add_argument("--negatives", type=int, default=3700)
    parser.add_argument("--positives", type=int, default=300)
    parser.add_argument("--dimension", type=int, default=12_800)
    options = parser.parse_args()
    settings = SolverSettings()
    threads = allowed_cores()
    features, problems = make_problems(2, 20, 5, 30)
    train_svms(features, problems, settings)
    reference_svm(features, problems[0], settings)
    features, problems = make_problems(
        options.classes, options.negatives, options.positives, options.dimension
    )

    table = Table(title=f"{options.negatives} + {options.positives} rows × {options.dimension}")
    for column in ("class", "tol", "seconds", "ours", "ratio", "objective", "ours", "difference"):
        table.add_column(column, justify="right")
    totals: dict[float, float] = {1e-2: 0.0, 1e-4: 0.0}
    ours_total = 0.0
    for index, problem in enumerate(problems[: options.reference_classes]):
        start = time.perf_counter()
        (solution,) = train_svms(features, [problem], settings)
        our_seconds = time.perf_counter() - start
        our_objective = objective(features, problem, settings, solution.weights, solution.bias)
        ours_total += our_seconds
        for tolerance in totals:
            start = time.perf_counter()
            weights, bias = reference_svm(features, problem, settings, tolerance)
            seconds = time.perf_counter() - start
            totals[tolerance] += seconds
            reference = objective(features, problem, settings, weights, bias)
            table.add_row(
                str(index), f"{tolerance:g}", f"{seconds:.2f}", f"{our_seconds:.2f}",
                f"{seconds / our_seconds:.1f}", f"{reference:.6f}", f"{our_objective:.6f}",
                f"{our_objective / reference - 1:+.1e}",
            )  # fmt: skip
    start = time.perf_counter()
    train_svms(features, problems, settings, threads=threads)
    wall = time.perf_counter() - start
    console = Console()
    console.print(table)
    console.print(f"load average {os.getloadavg()[0]:.1f} on {threads} cores")
    console.print(f"ours, {options.classes} classes in {threads} threads: {wall:.2f} s")
    for tolerance, seconds in totals.items():
        whole = seconds / options.reference_classes * options.classes
        console.print(
            f"liblinear at tol {tolerance:g}: {seconds / ours_total:.1f}x the time of ours, one thread each; "
            f"{options.classes} classes in turn {whole:.1f} s, {whole / wall:.1f}x"
        )


if __name__ == "__main__":
    main()
