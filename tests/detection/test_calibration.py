"""Probabilities from raw scores, and the thresholds that held-out detections give."""

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.detection.calibration import THRESHOLD_PRIOR_OBJECTS, Calibration
from sppnet.eval.calibration import MatchedDetections


@pytest.fixture
def calibration():
    """Three classes: one with many held-out detections, one with few, one with none."""
    rng = np.random.default_rng(0)
    labels = np.array([0] * 400 + [1] * 12)
    # Rounded: some are equal.
    probabilities = rng.random(len(labels)).round(2).astype(np.float32)
    correct = rng.random(len(labels)) < probabilities
    objects = np.array([correct[labels == label].sum() + 5 for label in range(3)])
    held_out = MatchedDetections(probabilities, labels, correct, objects)
    slopes = np.array([[2.0, 0.5], [1.0, 1.0], [3.0, 9.0]])
    return Calibration(np.array([0.5]), slopes, np.array([-1.0, 0.5, 0.0]), held_out)


def counts(calibration, label, threshold):
    """The weights of right and shown detections and of objects, one detection after the other."""
    held_out = calibration.held_out
    total = held_out.ground_truths.sum()
    right = shown = 0.0
    for score, of_class, correct in zip(held_out.scores, held_out.labels, held_out.correct, strict=True):
        if score >= threshold:
            weight = (of_class == label) + THRESHOLD_PRIOR_OBJECTS / total
            shown += weight
            right += weight * correct
    return right, shown, held_out.ground_truths[label] + THRESHOLD_PRIOR_OBJECTS


def test_thresholds_of_the_best_f1(calibration):
    thresholds = calibration.thresholds("f1")
    candidates = np.unique(calibration.held_out.scores)
    for label, threshold in enumerate(thresholds):
        f1 = {}
        for candidate in (*candidates, threshold):
            right, shown, objects = counts(calibration, label, candidate)
            f1[float(candidate)] = 2 * right / (shown + objects)
        assert f1[float(threshold)] == pytest.approx(max(f1.values()))


@pytest.mark.parametrize("precision", [0.6, 0.8])
def test_thresholds_of_a_precision_are_the_lowest(calibration, precision):
    for label, threshold in enumerate(calibration.thresholds(f"precision:{precision}")):
        right, shown, _ = counts(calibration, label, threshold)
        assert right >= precision * shown - 1e-9
        for candidate in np.unique(calibration.held_out.scores):
            if candidate < threshold:
                right, shown, _ = counts(calibration, label, candidate)
                assert right < precision * shown + 1e-9


def test_a_precision_that_no_held_out_detections_have():
    held_out = MatchedDetections(
        np.array([0.8, 0.6], np.float32), np.zeros(2, np.int64), np.array([False, True]), np.array([3])
    )
    calibration = Calibration(np.zeros(0), np.ones((1, 1)), np.zeros(1), held_out)
    assert calibration.thresholds("precision:0.9").tolist() == [np.float32(0.9)]


def test_thresholds_without_held_out_detections():
    nothing = MatchedDetections(
        np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, bool), np.array([3, 0])
    )
    calibration = Calibration(np.zeros(0), np.ones((2, 1)), np.zeros(2), nothing)
    assert calibration.thresholds().tolist() == [0.5, 0.5]
    assert calibration.thresholds("precision:0.75").tolist() == [0.75, 0.75]


def test_a_probability_is_the_threshold_of_all_classes(calibration):
    assert calibration.thresholds(0.25).tolist() == [0.25] * 3
    assert calibration.thresholds("0.25").tolist() == [0.25] * 3


@pytest.mark.parametrize("choice", ["f2", "precision", "precision:90", "precision:", -0.5, 1.5, np.nan])
def test_other_thresholds_are_refused(calibration, choice):
    with pytest.raises(InputError, match=r'give "f1", "precision:0\.9"'):
        calibration.thresholds(choice)


def test_probabilities_keep_the_order_of_a_class(calibration):
    scores = np.linspace(-4, 4, 50, dtype=np.float32)
    for label in range(3):
        probabilities = calibration.probabilities(scores, np.full(50, label))
        assert probabilities.dtype == np.float32
        assert (np.diff(probabilities) >= 0).all()
        assert (np.diff(probabilities)[:25] > 0).all()
        low, high = calibration.slopes[label]
        logits = [
            low * score if score < 0.5 else low * 0.5 + high * (score - 0.5) for score in scores.tolist()
        ]
        expected = 1 / (1 + np.exp(-(np.array(logits) + calibration.intercepts[label])))
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    wild = calibration.probabilities(np.array([-1e6, 1e6], np.float32), np.zeros(2, np.int64))
    assert wild.tolist() == [0.0, 1.0]


def test_tensors_are_read_again(calibration):
    again = Calibration.from_tensors({"svm.bias": np.zeros(3)} | calibration.tensors())
    assert again.tensors().keys() == calibration.tensors().keys()
    for name, array in calibration.tensors().items():
        np.testing.assert_array_equal(again.tensors()[name], array)
    assert Calibration.from_tensors({"svm.bias": np.zeros(3)}) is None
    broken = calibration.tensors()
    del broken["calibration.held_out.labels"]
    with pytest.raises(KeyError):
        Calibration.from_tensors(broken)
