"""Calibration fitted on held-out training images: the maps, the folds, and going on where it was stopped."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sppnet.common.errors import InputError
from sppnet.common.progress import quiet
from sppnet.detection.backbones import build_network
from sppnet.detection.calibration import LEAST_PROBABILITY, logistic, segments
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.heads import SVMHead
from sppnet.detection.training import TrainingData
from sppnet.detection.training.calibration_fitting import (
    calibrated,
    detect_held_out,
    fit_calibration,
    fit_rising_map,
    held_out_folds,
    kept_detectors,
)
from sppnet.detection.training.presets import CalibrationSettings
from sppnet.detection.training.svm_training import train_with_folds
from sppnet.eval.calibration import MatchedDetections, reliability
from sppnet.proposals import ProposalCache
from sppnet.svm.mining import NEVER

# Slope and intercept of the true maps; detections of the last two classes are few, and none.
SLOPES, INTERCEPTS, COUNTS = (4.0, 2.0, 2.0, 2.0), (-2.0, -3.0, -3.0, -3.0), (6000, 6000, 5, 0)


def drawn(seed=0):
    """Detections whose scores tell by known maps how often they are right."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    scores = rng.normal(-0.5, 1, len(labels)).astype(np.float32)
    correct = rng.random(len(labels)) < logistic(
        np.take(SLOPES, labels) * scores + np.take(INTERCEPTS, labels)
    )
    objects = np.bincount(labels[correct], minlength=len(COUNTS)) + 3
    return MatchedDetections(scores, labels, correct, objects)


@pytest.mark.parametrize("knots", [[], [-0.5, 0.7]])
def test_the_map_is_that_of_scikit_learn(knots):
    rng = np.random.default_rng(0)
    scores, knots = rng.normal(size=300), np.array(knots)
    correct = rng.random(300) < logistic(3 * scores - 1 + np.maximum(scores, 0))
    right, wrong = rng.random(300) * correct, rng.random(300) * ~correct
    targets = (right.sum() + 1) / (right.sum() + 2), 1 / (wrong.sum() + 2)
    # A target between 0 and 1 is a right and a wrong detection of such weights. The reference has other
    # parameters for the same functions: the change of slope at each knot.
    parts = np.stack([scores, *(np.maximum(scores - knot, 0) for knot in knots)], axis=1)
    positive = right * targets[0] + wrong * targets[1]
    reference = LogisticRegression(C=1e9, tol=1e-10, max_iter=10000).fit(
        np.concatenate([parts, parts]),
        np.repeat([True, False], 300),
        np.concatenate([positive, right + wrong - positive]),
    )
    slopes, intercept = fit_rising_map(scores, right, wrong, knots)
    np.testing.assert_allclose(slopes, np.cumsum(reference.coef_), rtol=5e-3)
    logits = segments(scores, knots) @ slopes + intercept
    np.testing.assert_allclose(logits, reference.decision_function(parts), atol=0.02)


def test_detections_that_are_apart_give_no_infinite_slope():
    values = np.array([-1.0, -0.5, 0.5, 1.0])
    slopes, _ = fit_rising_map(values, np.array([0, 0, 1.0, 1]), np.array([1.0, 1, 0, 0]), np.zeros(0))
    assert 0 < slopes.item() < 5


def test_a_map_rises_even_if_better_scores_are_worse():
    values = np.array([-1.0, -0.5, 0.5, 1.0])
    slopes, _ = fit_rising_map(values, np.array([1.0, 1, 0, 0]), np.array([0, 0, 1.0, 1]), np.array([0.0]))
    assert (slopes > 0).all()


def test_classes_have_maps_of_their_own_where_detections_are_many():
    matched, fresh = drawn(), drawn(seed=1)
    calibration = fit_calibration(matched)
    scores = np.linspace(-1, 1, 9)
    for label in (0, 1):
        expected = logistic(SLOPES[label] * scores + INTERCEPTS[label])
        np.testing.assert_allclose(calibration.probabilities(scores, np.full(9, label)), expected, atol=0.05)
    plain = reliability(logistic(fresh.scores.astype(np.float64)), fresh.correct).error
    error = reliability(calibration.probabilities(fresh.scores, fresh.labels), fresh.correct).error
    assert error < 0.01 < plain


def test_classes_with_few_detections_share_the_map_of_all():
    matched = drawn()
    calibration = fit_calibration(matched)
    scores = np.linspace(-2, 1, 7)
    # Many objects, so that Platt's targets are those of right and wrong.
    together = replace(matched, labels=np.zeros_like(matched.labels), ground_truths=np.array([10000]))
    expected = fit_calibration(together).probabilities(scores, np.zeros(7, np.int64))
    np.testing.assert_allclose(calibration.probabilities(scores, np.full(7, 3)), expected, atol=0.05)
    np.testing.assert_allclose(calibration.probabilities(scores, np.full(7, 2)), expected, atol=0.1)


def test_improbable_detections_are_not_kept():
    matched = drawn()
    held_out = fit_calibration(matched).held_out
    assert 0 < len(held_out.scores) < len(matched.scores)
    assert held_out.scores.min() >= LEAST_PROBABILITY
    np.testing.assert_array_equal(held_out.ground_truths, matched.ground_truths)


def test_without_a_right_detection_there_is_no_calibration():
    matched = drawn()
    assert fit_calibration(replace(matched, correct=np.zeros_like(matched.correct))) is None
    nothing = MatchedDetections(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, bool), np.ones(2))
    assert fit_calibration(nothing) is None


def test_few_images_are_all_held_out_in_folds():
    settings = CalibrationSettings(folds=3, images=40)
    for count, folds in ((40, 3), (2, 2), (3, 3)):
        parts = held_out_folds(count, settings, seed=0)
        assert len(parts) == folds
        assert sorted(np.concatenate(parts)) == list(range(count))
        assert all(part == sorted(part) for part in parts)
    assert held_out_folds(1, settings, seed=0) == []
    assert held_out_folds(0, settings, seed=0) == []


def test_of_many_images_some_are_held_out():
    settings = CalibrationSettings(folds=3, images=40)
    parts = held_out_folds(1000, settings, seed=0)
    assert [len(part) for part in parts] == [14, 13, 13]
    assert len(set(np.concatenate(parts))) == 40
    assert np.concatenate(parts).max() < 1000
    assert parts == held_out_folds(1000, settings, seed=0)
    assert parts != held_out_folds(1000, settings, seed=1)


@pytest.mark.parametrize("values", [{"folds": 1}, {"images": 0}])
def test_wrong_settings(values):
    with pytest.raises(InputError, match="folds must be at least 2"):
        CalibrationSettings(**values)


@pytest.fixture
def data(tmp_path, tiny_train, tiny_settings):
    with ProposalCache(tmp_path / "proposals.sqlite", tiny_settings.proposals) as cache:
        yield TrainingData(tiny_train, tiny_settings.proposals, cache, tmp_path / "maps", 10**9)


@pytest.fixture
def trainer(tiny_settings, data):
    """Trains a detector and those of folds, and counts how often."""

    def train(work, folds):
        train.calls += 1
        extractor = SPPExtractor(build_network("alexnet", "random"), tiny_settings.features)
        return train_with_folds(data, extractor, tiny_settings, work, quiet, folds)

    train.calls = 0
    return train


FOLDS = [[0, 2, 4], [1, 3, 5]]


def test_folds_leave_the_detector_as_it_is(trainer, tmp_path):
    alone, none = trainer(tmp_path / "alone", [])
    detector, fold_detectors = trainer(tmp_path / "folds", FOLDS)
    assert none == []
    np.testing.assert_array_equal(alone.head.weights, detector.head.weights)
    np.testing.assert_array_equal(alone.regressors.weights, detector.regressors.weights)
    assert [len(fold_detectors), fold_detectors[0].regressors] == [2, detector.regressors]


def test_a_fold_has_no_object_of_its_images(trainer, data, tmp_path):
    """Without any other positive a class is not trained."""
    everything = list(range(len(data.dataset)))
    _, (detector,) = trainer(tmp_path, [everything])
    assert (detector.head.bias == NEVER).all()
    assert not detector.head.weights.any()


def test_held_out_images_give_the_calibration(trainer, data, tmp_path):
    detector, fold_detectors = trainer(tmp_path, FOLDS)
    seen = []
    result = calibrated(
        detector, fold_detectors, FOLDS, data, tmp_path / "work", lambda *now: seen.append(now)
    )
    assert list(dict.fromkeys(seen)) == [("calibration", done, 6) for done in range(7)]
    assert result.head is detector.head
    parts = [
        detect_held_out(fold_detector, data, fold, quiet)
        for fold_detector, fold in zip(fold_detectors, FOLDS, strict=True)
    ]
    expected = fit_calibration(MatchedDetections.merge(parts))
    for name, array in expected.tensors().items():
        np.testing.assert_array_equal(result.calibration.tensors()[name], array)
    objects = [example.labels[~example.difficult] for example in data.dataset]
    counts = np.bincount(np.concatenate(objects), minlength=2)
    np.testing.assert_array_equal(result.calibration.held_out.ground_truths, counts)


def test_detections_are_those_of_the_detector(trainer, data, tmp_path):
    detector, _ = trainer(tmp_path, [])
    matched = detect_held_out(detector, data, [3, 1], quiet)
    alone = [detect_held_out(detector, data, [index], quiet) for index in (3, 1)]
    np.testing.assert_array_equal(matched.scores, MatchedDetections.merge(alone).scores)
    assert matched.correct.any()


@dataclass(frozen=True, eq=False)
class StoppingHead(SVMHead):
    """SVMs that stop the program after one image."""

    scored: list[int] = field(default_factory=list)

    def score(self, features):
        if self.scored:
            raise KeyboardInterrupt
        self.scored.append(len(features))
        return super().score(features)


def test_a_stop_loses_one_fold_at_most(trainer, data, tmp_path):
    detector, (first, second) = trainer(tmp_path, FOLDS)
    expected = calibrated(detector, [first, second], FOLDS, data, tmp_path / "other", quiet)

    def stopping(fold_detector):
        head = fold_detector.head
        return replace(fold_detector, head=StoppingHead(head.weights, head.bias, head.norm_factor))

    with pytest.raises(KeyboardInterrupt):
        calibrated(detector, [first, stopping(second)], FOLDS, data, tmp_path / "work", quiet)
    # Of the first fold the detections are there, so that nothing is detected in it again.
    result = calibrated(detector, [stopping(first), second], FOLDS, data, tmp_path / "work", quiet)
    for name, array in expected.calibration.tensors().items():
        np.testing.assert_array_equal(result.calibration.tensors()[name], array)


def test_without_held_out_images_there_is_no_calibration(trainer, data, tmp_path):
    detector, _ = trainer(tmp_path, [])
    assert calibrated(detector, [], [], data, tmp_path, quiet).calibration is None
    everything = [list(range(len(data.dataset)))]
    _, fold_detectors = trainer(tmp_path / "fold", everything)
    assert calibrated(detector, fold_detectors, everything, data, tmp_path, quiet).calibration is None


def test_detectors_are_kept_until_the_calibration_is_done(trainer, tmp_path):
    def train(work):
        return trainer(work, FOLDS)

    first, first_folds = kept_detectors(tmp_path, "0" * 64, train)
    assert not (tmp_path / "samples").exists()
    second, second_folds = kept_detectors(tmp_path, "0" * 64, train)
    assert trainer.calls == 1
    for kept, again in zip([first, *first_folds], [second, *second_folds], strict=True):
        np.testing.assert_array_equal(kept.head.weights, again.head.weights)
    # Damaged ones are trained again.
    weights = next(tmp_path.rglob("0/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    third, _ = kept_detectors(tmp_path, "0" * 64, train)
    assert trainer.calls == 2
    np.testing.assert_array_equal(third.head.weights, first.head.weights)
