"""Overlaps in the numbers of files: exact fractions as the reference, decimals that float32 rounds."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.data import Dataset, Detections, Example
from sppnet.eval import (
    box_iou,
    coco_metrics,
    evaluate_proposals,
    evaluate_voc,
    match_detections,
    read_voc_detections,
    write_voc_detections,
)


def exact_iou(a, b):
    """Intersection over union of boxes of fractions, as the nearest float64."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return float(shared / union)


@st.composite
def decimal_boxes(draw):
    """Boxes of at most three decimals, as fractions."""
    units = 10 ** draw(st.integers(0, 3))
    left, top = (draw(st.integers(0, 2000 * units)) for _ in "xy")
    width, height = (draw(st.integers(1, 800 * units)) for _ in "wh")
    return [Fraction(edge, units) for edge in (left, top, left + width, top + height)]


@settings(deadline=None, max_examples=200)
@given(decimal_boxes(), decimal_boxes(), st.sampled_from([np.float32, np.float64]))
def test_overlaps_of_decimals_are_exact(a, b, number_type):
    boxes = np.array([a, b], float).astype(number_type)
    assert box_iou(boxes, boxes[1:])[0, 0] == exact_iou(a, b)


def test_left_and_width_of_float64():
    """10.3 + 20.1 is 30.400000000000002; the boxes are those of a COCO file, with half the height."""
    left, top, width, height = 10.3, 7.7, 20.1, 0.6
    object_box = [left, top, left + width, top + height]
    half = [left, top, left + width, top + height / 2]
    assert box_iou([object_box], [half])[0, 0] == 0.5


def test_edges_between_the_decimals_keep_their_value():
    """The float32 next to 666.1 is another number, as are coordinates from 0 to 1 with many digits."""
    next_to = np.nextafter(np.float32(666.1), np.float32(np.inf))
    assert box_iou([[130.1, 0, 398.1, 9]], np.array([[130.1, 0, next_to, 9]], np.float32))[0, 0] < 0.5
    relative = np.array([[0.1234567, 0, 0.5234567, 1]])
    assert box_iou(relative, relative / 2)[0, 0] == pytest.approx(
        (0.26172835 - 0.1234567) * 0.5 / (0.4 + 0.1 - (0.26172835 - 0.1234567) * 0.5), abs=1e-12
    )


# A box and its half in tenths of a pixel, which is less than 1/2 in float32.
OBJECT = [0.1, 0.2, 10.1, 20.2]
HALF = [0.1, 0.2, 5.1, 20.2]


@pytest.fixture
def ground_truth():
    flags = np.zeros(1, bool)
    example = Example("a", Path("a.jpg"), 90, 90, np.array([OBJECT], np.float32), np.array([0]), flags, flags)
    return Dataset("made", "test", ("cat",), (example,))


@pytest.fixture
def detections():
    return {"a": Detections.of([HALF], [0.5], [0])}


def test_the_half_is_less_in_float32():
    a, b = np.array([OBJECT, HALF], np.float32).astype(float)
    assert (b[2] - b[0]) / (a[2] - a[0]) < 0.5 - 1e-9


def test_every_evaluator_takes_an_exact_half(ground_truth, detections):
    assert evaluate_voc(ground_truth, detections).map_area == 1
    assert match_detections(ground_truth, detections).correct.tolist() == [True]
    assert evaluate_proposals(ground_truth, [detections["a"].boxes], counts=[1]).recall(0.5).tolist() == [1]
    assert coco_metrics(ground_truth, detections)["AP50"] == pytest.approx(1)


def test_plain_boxes_keep_the_rounding_of_their_type(ground_truth):
    for boxes in ([HALF], np.array([HALF], np.float32), torch.tensor([HALF])):
        plain = {"a": {"boxes": boxes, "scores": [0.5], "labels": [0]}}
        assert evaluate_voc(ground_truth, plain).map_area == 1


def test_a_half_survives_a_file(ground_truth, detections, tmp_path):
    write_voc_detections(tmp_path, detections, ("cat",))
    (file,) = tmp_path.iterdir()
    assert file.read_text() == "a 0.5 1.1 1.2 5.1 20.2\n"
    assert evaluate_voc(ground_truth, read_voc_detections(tmp_path, ("cat",))).map_area == 1
