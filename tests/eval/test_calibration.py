"""Right and wrong detections, reliability and working points, beside slow references."""

from pathlib import Path

import numpy as np
import pytest

from sppnet.data import Dataset, Detections, Example
from sppnet.eval import evaluate_voc
from sppnet.eval.calibration import (
    MatchedDetections,
    WorkingPoint,
    match_detections,
    plot_reliability,
    reliability,
    working_point,
)


def random_boxes(rng, count):
    corners = rng.integers(0, 40, (count, 2))
    return np.concatenate([corners, corners + rng.integers(5, 30, (count, 2))], axis=1).astype(np.float32)


def random_set(rng, images=30, classes=3):
    """A data set, and detections near its objects, some twice, with some scores equal."""
    examples, detections = [], {}
    for index in range(images):
        count = int(rng.integers(0, 5))
        boxes, labels = random_boxes(rng, count), rng.integers(0, classes, count)
        difficult = rng.random(count) < 0.3
        path = Path(f"{index}.jpg")
        examples.append(Example(path.stem, path, 80, 80, boxes, labels, difficult, np.zeros(count, bool)))
        near = np.repeat(boxes, 2, axis=0) + rng.integers(-3, 4, (2 * count, 4))
        proposed = np.concatenate([near, random_boxes(rng, 4)]).astype(np.float32)
        proposed[:, 2:] = np.maximum(proposed[:, 2:], proposed[:, :2] + 1)
        if index % 7:
            scores = rng.integers(0, 10, len(proposed)) / 10
            detections[path.stem] = Detections.of(
                proposed, scores, np.concatenate([np.repeat(labels, 2), rng.integers(0, classes, 4)])
            )
    names = tuple(f"class {label}" for label in range(classes))
    return Dataset("random", "test", names, tuple(examples)), detections


@pytest.mark.parametrize("iou", [0.3, 0.5])
def test_matches_are_those_of_the_voc_figures(iou):
    dataset, detections = random_set(np.random.default_rng(0))
    matched = match_detections(dataset, detections, iou)
    result = evaluate_voc(dataset, detections, iou)
    assert matched.correct.any()
    for label, figures in enumerate(result.classes):
        rows = matched.labels == label
        assert matched.ground_truths[label] == figures.ground_truths
        assert matched.correct[rows].sum() == pytest.approx(figures.recall[-1] * figures.ground_truths)
        assert matched.correct[rows].mean() == pytest.approx(figures.precision[-1])
        assert rows.sum() < figures.detections, "none is of a difficult object"


def test_parts_are_joined():
    dataset, detections = random_set(np.random.default_rng(1))
    parts = [match_detections(half, detections) for half in (dataset[:12], dataset[12:])]
    whole, joined = match_detections(dataset, detections), MatchedDetections.merge(parts)
    for name in ("scores", "labels", "correct", "ground_truths"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_no_detections():
    dataset, _ = random_set(np.random.default_rng(0))
    matched = match_detections(dataset, {})
    assert len(matched.scores) == 0
    assert matched.ground_truths.sum() > 0
    assert np.isnan(reliability(matched.scores, matched.correct).error)


def test_calibration_error_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    probabilities = np.concatenate([rng.random(500), [0.0, 0.1, 0.3, 1.0]])
    correct = rng.random(504) < probabilities**2
    error = 0.0
    for index in range(10):
        inside = [
            (value, right)
            for value, right in zip(probabilities, correct, strict=True)
            if index <= value * 10 < index + 1 or (index == 9 and value == 1)
        ]
        gap = np.mean([value for value, _ in inside]) - np.mean([right for _, right in inside])
        error += len(inside) / 504 * abs(gap)
    result = reliability(probabilities, correct)
    assert result.error == pytest.approx(error)
    assert result.counts.sum() == 504
    assert reliability(probabilities, rng.random(504) < probabilities).error < result.error


@pytest.mark.parametrize(
    ("probabilities", "correct", "bins"),
    [([0.5], [True, False], 10), ([1.5], [True], 10), ([np.nan], [True], 10), ([0.5], [True], 0)],
)
def test_reliability_of_wrong_values(probabilities, correct, bins):
    with pytest.raises(ValueError, match=r"probabilit"):
        reliability(probabilities, correct, bins)


def test_working_point_has_a_threshold_for_each_class():
    matched = MatchedDetections(
        np.array([0.9, 0.6, 0.6, 0.2], np.float32),
        np.array([0, 0, 1, 1]),
        np.array([True, False, True, True]),
        np.array([2, 2]),
    )
    point = working_point(matched, [0.7, 0.6])
    assert point == WorkingPoint(correct=2, detections=2, ground_truths=4)
    assert (point.precision, point.recall, point.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    nothing = WorkingPoint(0, 0, 0)
    assert np.isnan([nothing.precision, nothing.recall, nothing.f1]).all()


def test_the_diagram_is_drawn(tmp_path):
    result = reliability([0.2, 0.8, 0.9], [False, True, True])
    path = tmp_path / "reliability.png"
    plot_reliability(path, {"plain sigmoid": result, "calibrated": reliability([], [])})
    assert path.read_bytes()[1:4] == b"PNG"
