"""Linear SVMs on vectors of images against scikit-learn, the choice of C, and splits."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from sppnet.common.errors import InputError
from sppnet.detection.classification import linear_svm
from sppnet.detection.classification.linear_svm import (
    class_accuracy,
    fit_folder,
    fit_linear,
    fit_voc,
    split_images,
)
from sppnet.eval import evaluate_voc_classification

# (images, length of a vector): more images than numbers in a vector, and fewer.
SHAPES = pytest.mark.parametrize(("count", "length"), [(120, 30), (60, 200)], ids=["tall", "wide"])


def clouds(count, length, classes=3, seed=0, spread=1.0):
    """Makes vectors of norm 1 around a centre for each class, and their labels."""
    rng = np.random.default_rng(seed)
    ground_truth = rng.integers(0, classes, count)
    centres = rng.random((classes, length))
    features = np.abs(centres[ground_truth] + spread * rng.standard_normal((count, length)))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), ground_truth


def one_hot(ground_truth, classes=3):
    return np.where(ground_truth[:, None] == np.arange(classes), 1, -1).astype(np.int8)


def objective(features, ground_truth, cost, weights, bias):
    loss = np.maximum(0, 1 - ground_truth * (features.astype(np.float64) @ weights + bias))
    return 0.5 * (np.square(weights, dtype=np.float64).sum() + float(bias) ** 2) + cost * loss.sum()


def reference(features, ground_truth, cost):
    """Trains with liblinear's ``-s 3 -B 1``."""
    model = LinearSVC(
        loss="hinge", dual=True, C=cost, intercept_scaling=1, tol=1e-6, max_iter=200_000, random_state=0
    )
    return model.fit(features, ground_truth)


def agreement(labels, scores):
    """Measures the agreement of scores and labels; it rises with each right score."""
    return float((labels * np.tanh(scores)).mean())


@SHAPES
@pytest.mark.parametrize("cost", [0.1, 3.0, 30.0])
def test_the_objective_is_liblinears(count, length, cost):
    features, ground_truth = clouds(count, length)
    labels = one_hot(ground_truth)
    fit = fit_linear(features, labels, agreement, [cost])
    assert fit.cost == cost
    scores = fit.svms.score(features)
    for label, signs in enumerate(labels.T):
        model = reference(features, signs, cost)
        reached = objective(features, signs, cost, fit.svms.weights[label], fit.svms.bias[label])
        least = objective(features, signs, cost, model.coef_[0], model.intercept_[0])
        assert reached == pytest.approx(least, rel=1e-3)
        expected = model.decision_function(features)
        np.testing.assert_allclose(scores[:, label], expected, atol=0.05 * np.abs(expected).max())


@SHAPES
def test_images_labelled_0_are_not_seen(count, length):
    features, ground_truth = clouds(count, length)
    labels = one_hot(ground_truth)
    labels[::5, 1] = 0
    seen = labels[:, 1] != 0
    fit = fit_linear(features, labels, agreement, [1.0])
    model = reference(features[seen], labels[seen, 1], 1.0)
    least = objective(features[seen], labels[seen, 1], 1.0, model.coef_[0], model.intercept_[0])
    arguments = features[seen], labels[seen, 1], 1.0, fit.svms.weights[1], fit.svms.bias[1]
    assert objective(*arguments) == pytest.approx(least, rel=1e-3)
    # The values of the left-out images do not matter.
    features[::5] = features[::5, ::-1]
    other = fit_linear(features, labels, agreement, [1.0])
    np.testing.assert_allclose(other.svms.weights[1], fit.svms.weights[1], atol=0.03)
    assert np.abs(other.svms.weights[0] - fit.svms.weights[0]).max() > 0.1
    # A class with no positive and no negative image.
    labels[:, 2] = 0
    assert not fit_linear(features, labels, agreement, [1.0]).svms.weights[2].any()


def test_inner_products_are_all_that_training_needs(monkeypatch):
    features, ground_truth = clouds(60, 200)
    rows = linear_svm.reduce_to_span(features)
    assert rows.shape == (60, 60)
    np.testing.assert_allclose(rows @ rows.T, features @ features.T, atol=2e-5)
    spans = fit_linear(features, one_hot(ground_truth), agreement, [0.3, 3.0])
    monkeypatch.setattr(linear_svm, "reduce_to_span", lambda features: features)
    direct = fit_linear(features, one_hot(ground_truth), agreement, [0.3, 3.0])
    assert spans.tried == pytest.approx(direct.tried, abs=2e-3)
    np.testing.assert_allclose(spans.svms.score(features), direct.svms.score(features), atol=0.02)


def test_equal_images_do_no_harm():
    """Equal images do no harm, even if rounding errors of inner products are larger than the jitter."""
    features, ground_truth = clouds(60, 200)
    labels = one_hot(ground_truth)
    repeated, twice = np.repeat(features, 2, axis=0), np.repeat(labels, 2, axis=0)
    fit = fit_linear(repeated, twice, agreement, [1.0])
    single = fit_linear(features, labels, agreement, [2.0])
    np.testing.assert_allclose(fit.svms.score(features), single.svms.score(features), atol=0.02)
    large = np.repeat(300 * features[:5], 12, axis=0)
    large[:, 0] += np.arange(60, dtype=np.float32) / 1000
    assert linear_svm.reduce_to_span(large) is large
    fit = fit_linear(large, np.repeat(one_hot(np.arange(5) % 3), 12, axis=0), agreement, [1.0])
    assert (fit.svms.score(large).argmax(axis=1) == np.repeat(np.arange(5) % 3, 12)).all()


def test_cross_validation_scores_images_that_were_held_out():
    """The measure gets scores from models that were trained on the other three folds."""
    features, ground_truth = clouds(90, 20)
    labels = one_hot(ground_truth)
    seen = []

    def spy(labels, scores):
        seen.append((labels.copy(), scores.copy()))
        return 0.0

    fit_linear(features, labels, spy, [0.3, 3.0], seed=5)
    folds = np.random.default_rng(5).permutation(90) % 4
    for cost, (given, scores) in zip([0.3, 3.0], seen, strict=True):
        np.testing.assert_array_equal(given, labels)
        expected = np.empty(labels.shape)
        for fold in range(4):
            out = folds == fold
            for label in range(3):
                model = reference(features[~out], labels[~out, label], cost)
                expected[out, label] = model.decision_function(features[out])
        np.testing.assert_allclose(scores, expected, atol=0.03)


def test_labels_that_mean_nothing_are_not_learnt_by_heart():
    """60 vectors of 200 numbers can be separated in any way, but not in the held-out folds."""
    features, _ = clouds(60, 200)
    labels = np.tile(np.array([1, -1], np.int8), 30)[:, None]
    fit = fit_linear(
        features, labels, lambda labels, scores: float(((scores > 0) == (labels > 0)).mean()), [30.0, 300.0]
    )
    assert ((fit.svms.score(features) > 0) == (labels > 0)).mean() > 0.95
    assert max(fit.tried.values()) < 0.75


@pytest.mark.parametrize(
    ("measured", "best"), [((0.1, 0.7, 0.7), 1.0), ((0.9, 0.1, 0.8), 0.1), ((0.1, 0.2, 0.3), 10.0)]
)
def test_the_best_cost_is_taken_and_the_smallest_of_equals(measured, best):
    features, ground_truth = clouds(40, 10)
    labels = one_hot(ground_truth)
    script = iter(measured)
    fit = fit_linear(features, labels, lambda *_: next(script), [10.0, 0.1, 1.0])
    assert fit.cost == best
    assert fit.tried == dict(zip((0.1, 1.0, 10.0), measured, strict=True))
    alone = fit_linear(features, labels, agreement, [best])
    np.testing.assert_array_equal(fit.svms.weights, alone.svms.weights)
    np.testing.assert_array_equal(fit.svms.bias, alone.svms.bias)


def test_threads_do_not_change_the_result_and_the_seed_does():
    features, ground_truth = clouds(60, 100)
    fits = [
        fit_linear(features, one_hot(ground_truth), agreement, seed=seed, threads=threads)
        for seed, threads in ((0, 1), (0, 3), (1, 1))
    ]
    np.testing.assert_array_equal(fits[0].svms.weights, fits[1].svms.weights)
    assert fits[0].tried == fits[1].tried
    assert fits[0].tried != fits[2].tried


def test_voc_labels_are_measured_by_map():
    features, ground_truth = clouds(80, 30)
    labels = one_hot(ground_truth)
    labels[::7] = 0
    # An image may have several classes, or none.
    labels[3] = 1
    fit = fit_voc(features, labels)
    expected = []

    def measure(labels, scores):
        expected.append(evaluate_voc_classification(labels, scores, ("a", "b", "c")).map_11point)
        return expected[-1]

    fit_linear(features, labels, measure)
    assert list(fit.tried.values()) == expected
    assert fit.tried[fit.cost] == max(expected) > 0.5
    with pytest.raises(InputError, match="no training image has an object"):
        fit_voc(features, np.minimum(labels, 0))
    with pytest.raises(InputError, match="3 training images; linear SVMs need at least 4"):
        fit_voc(features[:3], labels[1:4])


def test_folders_are_measured_by_mean_accuracy():
    """The mean is over classes, so a rare class has the same weight as any other."""
    features, ground_truth = clouds(200, 40)
    keep = (ground_truth != 2) | (np.arange(200) % 8 == 0)
    features, ground_truth = features[keep], ground_truth[keep]
    fit = fit_folder(features, ground_truth, 3)
    expected = []

    def measure(labels, scores):
        shares = [(scores[ground_truth == label].argmax(axis=1) == label).mean() for label in range(3)]
        expected.append(np.mean(shares))
        return float(expected[-1])

    fit_linear(features, one_hot(ground_truth), measure)
    assert list(fit.tried.values()) == pytest.approx(expected)
    assert fit.tried[fit.cost] == max(fit.tried.values())
    fresh, fresh_labels = clouds(200, 40, spread=0.1)
    assert class_accuracy(fresh_labels, fit.svms.score(fresh)).min() > 0.9


def test_accuracy_of_classes():
    labels = np.array([0, 0, 0, 1, 2, 2])
    scores = np.array([[3, 1, 2], [1, 3, 2], [9, 0, 0], [0, 1, 0], [1, 2, 0], [2, 1, 0]], np.float32)
    np.testing.assert_allclose(class_accuracy(labels, scores), [2 / 3, 1, 0])


def test_splits_are_disjoint_and_per_class():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [4, 7, 20]))
    splits = [split_images(labels, ("a", "b", "c"), 3, 5, seed) for seed in (0, 1, 0)]
    for train, test in splits:
        assert not set(train) & set(test)
        assert len(set(train)) == len(train)
        np.testing.assert_array_equal(labels[train], np.repeat([0, 1, 2], 3))
        np.testing.assert_array_equal(labels[test], np.repeat([0, 1, 2], [1, 4, 5]))
    np.testing.assert_array_equal(np.concatenate(splits[0]), np.concatenate(splits[2]))
    assert set(splits[0][0]) != set(splits[1][0])
    # Over many splits, each image of a class is a training image equally often.
    trained = np.concatenate([split_images(labels, ("a", "b", "c"), 3, 5, seed)[0] for seed in range(400)])
    share = np.bincount(trained, minlength=31) / 400
    np.testing.assert_allclose(share, 3 / np.bincount(labels)[labels], atol=0.12)


def test_a_class_without_images_to_test_on_is_named():
    labels = np.repeat([0, 1], [8, 4])
    assert len(split_images(labels, ("ant", "bee"), 3, 5, 0)[1]) == 6
    with pytest.raises(InputError, match=r"class 'bee': 4 images, 4 of them.*--per-class"):
        split_images(labels, ("ant", "bee"), 4, 5, 0)
