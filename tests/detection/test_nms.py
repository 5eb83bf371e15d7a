"""Thresholds and non-maximum suppression against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.common.errors import InputError
from sppnet.detection.detection_settings import DetectionSettings
from sppnet.detection.nms import nms_best_first, suppress


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def slow_nms(boxes, scores, settings_):
    order = sorted(range(len(boxes)), key=lambda index: -scores[index])
    kept = []
    for index in order:
        if all(iou(boxes[index], boxes[better]) <= settings_.nms_iou for better in kept):
            kept.append(index)
    return kept[: settings_.max_per_class]


def slow_suppress(boxes, scores, settings_):
    detections = []
    for label in range(scores.shape[1]):
        above = [index for index in range(len(boxes)) if scores[index, label] > settings_.min_score]
        kept = slow_nms(boxes[above].tolist(), scores[above, label].tolist(), settings_)
        detections += [(above[index], label) for index in kept]
    return detections


def random_boxes(rng, count):
    corners = rng.uniform(0, 80, (count, 2))
    return np.hstack([corners, corners + rng.uniform(5, 60, (count, 2))]).astype(np.float32)


def pairs(result):
    indices, labels = result
    assert indices.dtype == labels.dtype == np.int64
    return list(zip(indices.tolist(), labels.tolist(), strict=True))


def test_defaults_are_the_papers_and_the_released_codes():
    assert DetectionSettings() == DetectionSettings(0.3, 100, -1.5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.sampled_from([1, 3, 100]),
)
def test_equals_the_slow_one(seed, count, classes, nms_iou, max_per_class):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, count)
    scores = rng.normal(-1, 1, (count, classes)).astype(np.float32)
    chosen = DetectionSettings(nms_iou, max_per_class, -1.5)
    assert pairs(suppress(boxes, scores, chosen)) == slow_suppress(boxes, scores, chosen)


def test_the_score_must_be_above_the_least():
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], np.float32)
    scores = np.array([[-1.5], [-1.4], [-1.6]], np.float32)
    assert pairs(suppress(boxes, scores, DetectionSettings())) == [(1, 0)]


@pytest.mark.parametrize(("nms_iou", "expected"), [(0.5, [0, 1]), (0.49, [0])])
def test_a_box_of_exactly_the_iou_is_kept(nms_iou, expected):
    # 5 x 10 inside 10 x 10 pixels has an overlap of exactly 0.5.
    boxes = np.array([[0, 0, 10, 10], [0, 0, 5, 10]], np.float32)
    kept = nms_best_first(boxes, np.array([2, 1], np.float32), DetectionSettings(nms_iou))
    assert kept.tolist() == expected


def test_a_suppressed_box_suppresses_nothing():
    # Each box overlaps the next by 6 / 14 = 0.43; the first and the third overlap by 2 / 18 = 0.11.
    boxes = np.array([[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]], np.float32)
    kept = nms_best_first(boxes, np.array([3, 2, 1], np.float32), DetectionSettings())
    assert kept.tolist() == [0, 2]


def test_of_equal_scores_the_first_is_kept():
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (50, 1))
    assert nms_best_first(boxes, np.zeros(50, np.float32), DetectionSettings()).tolist() == [0]
    apart = boxes + 20 * np.arange(50, dtype=np.float32)[:, None]
    assert nms_best_first(apart, np.zeros(50, np.float32), DetectionSettings()).tolist() == list(range(50))


def test_classes_do_not_suppress_each_other():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11]], np.float32)
    scores = np.array([[1, 2], [2, 1]], np.float32)
    assert pairs(suppress(boxes, scores, DetectionSettings())) == [(1, 0), (0, 1)]


def test_max_per_class_is_per_class():
    boxes = (np.arange(10)[:, None] * 20 + np.array([0, 0, 9, 9])).astype(np.float32)
    scores = np.stack([np.arange(10), -np.arange(10) / 10], axis=1).astype(np.float32)
    detections = pairs(suppress(boxes, scores, DetectionSettings(max_per_class=2)))
    assert detections == [(9, 0), (8, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize(("count", "classes"), [(0, 3), (0, 0), (5, 0)])
def test_no_boxes_or_no_classes(count, classes):
    boxes = random_boxes(np.random.default_rng(0), count)
    assert pairs(suppress(boxes, np.zeros((count, classes), np.float32), DetectionSettings())) == []


def test_scores_that_are_no_numbers_are_dropped():
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    assert pairs(suppress(boxes, np.array([[np.nan], [1]], np.float32), DetectionSettings())) == [(1, 0)]


@pytest.mark.parametrize(
    "values",
    [{"nms_iou": -0.1}, {"nms_iou": 1.1}, {"nms_iou": float("nan")}, {"max_per_class": 0}],
    ids=["below", "above", "nan", "none"],
)
def test_bad_settings(values):
    with pytest.raises(InputError, match="nms_iou must be"):
        DetectionSettings(**values)
