"""The SVM solver against a slow reference and against scikit-learn (liblinear)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.svm_solver import make_problems, objective, reference_svm
from sppnet.svm import LinearSVMs, Problem, SolverSettings, norm_factor, train_svms

EXACT = SolverSettings(tolerance=1e-5, max_sweeps=100_000)


def slow_objective(x, positive, settings_):
    """Computes the least objective by projected gradient on the dual, with full matrices in float64."""
    y = np.where(positive, 1.0, -1.0)
    constant = np.full((len(x), 1), settings_.bias_multiplier)
    augmented = y[:, None] * np.hstack([x.astype(np.float64), constant])
    bound = settings_.cost * np.where(positive, settings_.positive_weight, 1.0)
    gram = augmented @ augmented.T
    step = 1 / np.linalg.eigvalsh(gram)[-1]
    alpha = np.zeros(len(x))
    for _ in range(min(3_000_000 // len(x), 40_000)):
        previous, alpha = alpha, np.clip(alpha - step * (gram @ alpha - 1), 0, bound)
        if np.abs(alpha - previous).max() <= 1e-12 * bound.max():
            break
    w = augmented.T @ alpha
    return 0.5 * w @ w + bound @ np.maximum(0, 1 - augmented @ w), w


def problem(seed, count, dimension, positives, separation=1.0):
    rng = np.random.default_rng(seed)
    positive = np.arange(count) < positives
    x = np.abs(rng.standard_normal((count, dimension))).astype(np.float32)
    x[positive] += separation * rng.random(dimension, dtype=np.float32)
    return x * np.float32(20 / np.linalg.norm(x, axis=1).mean()), positive


@pytest.mark.parametrize(
    ("count", "dimension", "positives"),
    [(300, 50, 30), (80, 400, 8), (60, 10, 60), (60, 10, 0), (2, 3, 1), (1, 3, 1)],
    ids=["tall", "wide", "only_positives", "only_negatives", "two_rows", "one_row"],
)
def test_objective_equals_the_slow_solver(count, dimension, positives):
    x, positive = problem(0, count, dimension, positives)
    options = SolverSettings(tolerance=1e-4)
    (solution,) = train_svms(x, [Problem(np.arange(count), positive)], options)
    slow, w = slow_objective(x, positive, options)
    reached = objective(x, Problem(np.arange(count), positive), options, solution.weights, solution.bias)
    assert solution.objective == pytest.approx(reached, rel=1e-5)
    assert solution.gap <= 1e-4 * solution.objective
    assert reached == pytest.approx(slow, rel=1e-4)
    np.testing.assert_allclose(solution.weights, w[:-1], atol=0.02 * np.abs(w).max())


def test_training_that_is_cut_short_logs_a_warning(caplog):
    x, positive = problem(2, 400, 50, 40)
    hard, none = Problem(np.arange(400), positive), Problem(np.arange(0), positive[:0])
    train_svms(x, [hard, none], SolverSettings(cost=1.0))
    assert not caplog.records
    solutions = train_svms(x, [hard, none], SolverSettings(cost=1.0, max_sweeps=2))
    assert solutions[0].gap > 5e-4 * solutions[0].objective
    assert "1 of 2 SVMs at C = 1 stopped after 2 sweeps" in caplog.text


@pytest.mark.parametrize("cost", [1e-3, 0.1], ids=["c_paper", "c_large"])
@pytest.mark.parametrize("shape", [(600, 100, 60), (150, 1000, 20)], ids=["tall", "wide"])
def test_objective_equals_liblinear(shape, cost):
    x, positive = problem(1, *shape, separation=0.5)
    case = Problem(np.arange(len(x)), positive)
    options = SolverSettings(cost=cost)
    (solution,) = train_svms(x, [case], options)
    expected = objective(x, case, options, *reference_svm(x, case, options, 1e-6))
    assert objective(x, case, options, solution.weights, solution.bias) == pytest.approx(expected, rel=1e-3)


def test_duplicate_and_zero_rows():
    x, positive = problem(2, 60, 20, 10)
    x[:5] = x[5]
    x[-10:] = 0
    case = Problem(np.arange(60), positive)
    (solution,) = train_svms(x, [case], SolverSettings())
    expected = objective(x, case, SolverSettings(), *reference_svm(x, case, SolverSettings(), 1e-6))
    assert solution.objective == pytest.approx(expected, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 40),
    dimension=st.integers(1, 30),
    positives=st.integers(0, 40),
    weight=st.floats(0.5, 5),
)
def test_gap_bounds_the_distance_to_any_solution(seed, count, dimension, positives, weight):
    x, positive = problem(seed, count, dimension, positives)
    options = SolverSettings(positive_weight=weight, tolerance=1e-3)
    (solution,) = train_svms(x, [Problem(np.arange(count), positive)], options)
    (exact,) = train_svms(x, [Problem(np.arange(count), positive)], EXACT)
    (loose,) = train_svms(
        x, [Problem(np.arange(count), positive)], SolverSettings(positive_weight=weight, tolerance=0.3)
    )
    assert solution.objective - solution.gap <= loose.objective * (1 + 1e-5)
    assert loose.objective - loose.gap <= solution.objective * (1 + 1e-5)
    np.testing.assert_allclose(solution.margins, x @ solution.weights + solution.bias, atol=1e-4)
    assert exact.gap <= 1e-5 * exact.objective + 1e-9


def test_warm_start_reaches_the_same_optimum_sooner():
    x, positive = problem(3, 400, 80, 40)
    all_rows = np.arange(400)
    old_rows = all_rows[:300]
    (first,) = train_svms(x, [Problem(old_rows, positive[:300])], EXACT)
    (cold,) = train_svms(x, [Problem(all_rows, positive)], EXACT)
    start = np.concatenate([first.alphas, np.zeros(100, np.float32)])
    (warm,) = train_svms(x, [Problem(all_rows, positive, start)], EXACT)
    (again,) = train_svms(x, [Problem(all_rows, positive, cold.alphas)], SolverSettings())
    assert warm.objective == pytest.approx(cold.objective, rel=2e-5)
    np.testing.assert_allclose(warm.weights, cold.weights, atol=0.02 * np.abs(cold.weights).max())
    assert again.sweeps == 1


def test_weights_follow_from_alphas():
    x, positive = problem(4, 100, 30, 20)
    (solution,) = train_svms(x, [Problem(np.arange(100), positive)], SolverSettings())
    signed = solution.alphas * np.where(positive, 1, -1)
    np.testing.assert_allclose(solution.weights, signed @ x, atol=1e-5)
    assert solution.bias == pytest.approx(100 * signed.sum(), abs=1e-5)
    assert (solution.alphas >= 0).all()
    assert solution.alphas[positive].max() <= 2e-3 * 1.0001
    assert solution.alphas[~positive].max() <= 1e-3 * 1.0001


def test_threads_and_shared_rows_do_not_change_the_result():
    features, problems = make_problems(4, 150, 20, 64)
    alone = [train_svms(features, [case], SolverSettings())[0] for case in problems]
    together = train_svms(features, problems, SolverSettings(), threads=2)
    for expected, solution in zip(alone, together, strict=True):
        np.testing.assert_array_equal(solution.weights, expected.weights)
        np.testing.assert_array_equal(solution.alphas, expected.alphas)
        assert solution.bias == expected.bias


def test_rows_may_be_anywhere_in_the_array():
    x, positive = problem(5, 50, 16, 10)
    wide = np.full((200, 32), np.nan, np.float32)
    rows = np.random.default_rng(0).permutation(200)[:50]
    wide[rows, :16] = x
    (scattered,) = train_svms(wide[:, :16], [Problem(rows, positive)], SolverSettings())
    (together,) = train_svms(x, [Problem(np.arange(50), positive)], SolverSettings())
    np.testing.assert_allclose(scattered.weights, together.weights, atol=1e-6)


def test_no_rows_give_zero():
    (empty,) = train_svms(
        np.ones((3, 4), np.float32), [Problem(np.empty(0, np.int64), np.empty(0, bool))], EXACT
    )
    assert not empty.weights.any()
    assert empty.bias == 0


@pytest.mark.parametrize(
    ("features", "rows", "flags", "message"),
    [
        (np.ones((4, 3)), [0], [True], "float32"),
        (np.ones((4, 6), np.float32)[:, ::2], [0], [True], "contiguous"),
        (np.ones((4, 3), np.float32), [4], [True], "outside"),
        (np.ones((4, 3), np.float32), [-1], [True], "outside"),
        (np.ones((4, 3), np.float32), [0, 1], [True], "positive"),
        (np.full((4, 3), np.nan, np.float32), [2], [True], "row 2 is not finite"),
    ],
    ids=["float64", "strided", "beyond", "negative", "flags", "nan"],
)
def test_bad_input_is_named(features, rows, flags, message):
    with pytest.raises(ValueError, match=message):
        train_svms(features, [Problem(np.array(rows), np.array(flags))], SolverSettings())


def test_features_are_scored_after_multiplication_by_the_norm_factor():
    svms = LinearSVMs(np.array([[1, 2], [0, -1]], np.float32), np.array([0.5, 0], np.float32), 0.1)
    expected = [[0.1 * (1 * 3 + 2 * 4) + 0.5, -0.1 * 4]]
    np.testing.assert_allclose(svms.score(np.array([[3.0, 4.0]])), expected, rtol=1e-6)
    assert svms.score(np.empty((0, 2), np.float32)).shape == (0, 2)
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        svms.score(np.ones((1, 3), np.float32))


def test_norm_factor():
    assert norm_factor(40.0) == 20 / 40
    for bad in (0.0, float("nan"), -1.0):
        with pytest.raises(ValueError, match="norm"):
            norm_factor(bad)
