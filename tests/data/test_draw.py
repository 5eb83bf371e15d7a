"""Drawn detections: the pixels of lines and labels, and images of any shape."""

from pathlib import Path

import numpy as np
import pytest

from sppnet.data.detections import Detections
from sppnet.data.draw import draw_detections, draw_ground_truth
from sppnet.data.types import Example

CLASSES = ("cat", "dog", "pottedplant")


def detections(boxes, scores, labels):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


def ground_truth(box):
    flags = np.zeros(1, bool)
    return Example("a", Path("a.jpg"), 0, 0, np.array([box], np.float32), np.zeros(1, np.int64), flags, flags)


def gray(height, width):
    return np.full((height, width, 3), 77, np.uint8)


def changed(image):
    return (image != 77).any(axis=2)


def test_box_is_drawn_on_the_pixels_it_covers():
    image = gray(240, 400)
    drawn = draw_detections(image, detections([[100, 120, 200, 220]], [1], [0]), CLASSES)
    rows, columns = np.nonzero(changed(drawn)[120:])
    assert (rows.max() + 120, columns.min(), columns.max()) == (219, 100, 199)
    assert not changed(drawn)[130:210, 110:190].any()
    assert (image == 77).all()
    assert (drawn.dtype, drawn.shape) == (np.uint8, image.shape)


def test_label_is_above_the_box_or_within_at_the_border():
    above = changed(draw_detections(gray(300, 400), detections([[100, 120, 200, 220]], [1], [0]), CLASSES))
    assert above[112, 105:140].all()
    within = changed(draw_detections(gray(300, 400), detections([[100, 0, 200, 220]], [1], [0]), CLASSES))
    assert within[3, 105:140].all()


def test_min_score():
    two = detections([[10, 50, 90, 90], [110, 50, 190, 90]], [0.4, 0.5], [0, 1])
    drawn = changed(draw_detections(gray(100, 200), two, CLASSES, min_score=0.5))
    assert drawn[60:, 100:].any()
    assert not drawn[60:, :100].any()


def test_no_detections():
    assert not changed(draw_detections(gray(10, 10), detections([], [], []), CLASSES)).any()


def test_classes_have_different_colours():
    colours = {
        tuple(draw_detections(gray(90, 90), detections([[10, 60, 80, 80]], [1], [label]), ["x"] * 50)[70, 10])
        for label in range(50)
    }
    assert len(colours) == 50


def test_surest_is_on_top():
    box = [[10, 60, 80, 80]] * 2
    surest = draw_detections(gray(90, 90), detections(box[:1], [2], [1]), CLASSES)
    for order in ([1, 2], [2, 1]):
        labels = [0, 1] if order == [1, 2] else [1, 0]
        both = draw_detections(gray(90, 90), detections(box, order, labels), CLASSES)
        np.testing.assert_array_equal(both[70, 10], surest[70, 10])


def test_ground_truth_is_dashed():
    drawn = draw_detections(
        gray(100, 100), detections([], [], []), CLASSES, ground_truth=ground_truth([10, 20, 60, 80])
    )
    assert set(drawn[20, 10:60].ravel().tolist()) == {0, 255}
    expected = np.zeros((100, 100), bool)
    expected[20:80, 10:60] = True
    expected[21:79, 11:59] = False
    np.testing.assert_array_equal(changed(drawn), expected)


@pytest.mark.parametrize(
    "shape", [(1, 1), (20, 10_000), (10_000, 20), (2, 3)], ids=["1x1", "wide", "tall", "tiny"]
)
@pytest.mark.parametrize(
    "box",
    [[0, 0, 1, 1], [-50, -50, 20_000, 20_000], [0.2, 0.2, 0.4, 0.4], [-9, -9, -5, -5], [1e9, 1e9, 2e9, 2e9]],
    ids=["pixel", "beyond", "below-a-pixel", "outside", "far"],
)
def test_any_shape(shape, box):
    drawn = draw_detections(
        gray(*shape), detections([box], [123.456], [2]), CLASSES, ground_truth=ground_truth(box)
    )
    assert drawn.shape == (*shape, 3)
    assert changed(drawn).any()


@pytest.mark.parametrize("name", ["half\udce9", "a\nb", "nul\0", "猫", "\U0001f600", "x" * 300])
def test_any_name(name):
    """OpenCV ends the process at half a surrogate."""
    drawn = draw_detections(gray(100, 100), detections([[10, 40, 60, 80]], [0.5], [0]), [name])
    assert changed(drawn[:40]).any()


def annotated(boxes, difficult):
    rows = np.arange(len(boxes))
    boxes = np.array(boxes, np.float32)
    return Example(
        "a", Path("a.jpg"), 200, 200, boxes, rows, np.isin(rows, difficult), np.zeros(len(rows), bool)
    )


def test_annotation_is_drawn_in_a_smaller_copy():
    drawn = draw_ground_truth(gray(100, 100), annotated([[40, 60, 160, 180]], []), CLASSES)
    rows, columns = np.nonzero(changed(drawn)[30:])
    assert (rows.max() + 30, columns.min(), columns.max()) == (89, 20, 79)
    assert not changed(drawn)[35:85, 25:75].any()


def test_difficult_objects_are_dashed_and_small_ones_on_top():
    drawn = draw_ground_truth(
        gray(200, 200), annotated([[0, 40, 200, 200], [20, 100, 60, 140]], [1]), CLASSES
    )
    assert set(drawn[139, 20:60].ravel().tolist()) == {0, 255}
    assert set(drawn[199].ravel().tolist()) != {0, 255}
    # The smaller box shares an edge with the larger one and is seen.
    both = draw_ground_truth(gray(200, 200), annotated([[20, 100, 60, 140], [20, 40, 190, 199]], []), CLASSES)
    assert both[135, 20].tolist() != both[180, 20].tolist()


def test_annotation_without_objects():
    assert not changed(draw_ground_truth(gray(9, 9), annotated(np.zeros((0, 4)), []), CLASSES)).any()
