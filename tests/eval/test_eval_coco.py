"""COCO figures: known answers, and what difficult objects do."""

from pathlib import Path

import numpy as np
import pytest

from data.types import Dataset, Detections, Example
from eval.coco import STATS, coco_metrics


def example(image_id, boxes, labels, difficult=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    flags = np.zeros(len(boxes), bool)
    difficult = flags if difficult is None else np.array(difficult)
    path = Path(f"{image_id}.jpg")
    return Example(image_id, path, 500, 500, boxes, np.array(labels, np.int64), difficult, flags)


def detections(boxes, scores, labels):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


BOX, FAR = [0, 0, 50, 50], [200, 200, 210, 210]  # medium and small
TRUTH = Dataset(
    "made", "test", ("a", "b", "none"), (example("x", [BOX, FAR], [0, 1]), example("y", [BOX], [0]))
)


def test_perfect(capsys):
    found = {"x": detections([BOX, FAR], [1, 1], [0, 1]), "y": detections([BOX], [1], [0])}
    figures = coco_metrics(TRUTH, found)
    assert tuple(figures) == STATS
    expected = dict.fromkeys(STATS, 1.0) | {"AP_large": np.nan, "AR_large": np.nan}
    np.testing.assert_allclose(list(figures.values()), list(expected.values()))
    assert capsys.readouterr().out == ""


def test_no_detections():
    figures = coco_metrics(TRUTH, {})
    assert (figures["AP"], figures["AR_100"]) == (0, 0)


def test_no_ground_truth():
    truth = Dataset("made", "test", ("a",), (example("x", [BOX], [0], [True]),))
    assert np.isnan(list(coco_metrics(truth, {"x": detections([BOX], [1], [0])}).values())).all()
    assert np.isnan(list(coco_metrics(Dataset("made", "test", (), ()), {}).values())).all()


def test_mean_over_thresholds():
    """IoU 0.8 is found at 0.5, 0.55 … 0.8 (7 of 10); the other class, missed, halves the mean."""
    found = {name: detections([[0, 0, 50, 40]], [1], [0]) for name in "xy"}
    figures = coco_metrics(TRUTH, found)
    assert figures["AP"] == pytest.approx((7 / 10 + 0) / 2)
    assert (figures["AP50"], figures["AP75"]) == (pytest.approx(1 / 2), pytest.approx(1 / 2))
    assert figures["AP_medium"] == pytest.approx(7 / 10)


@pytest.mark.parametrize(
    ("difficult", "ap50"),
    [pytest.param([False, True], 1, id="forgiven"), pytest.param([False, False], 1 / 2, id="counted")],
)
def test_difficult_is_a_crowd(difficult, ap50):
    """A box within a difficult object is forgiven, although its IoU is 1/4: the docstring's caveat."""
    truth = Dataset("made", "test", ("a",), (example("x", [FAR, BOX], [0, 0], difficult),))
    found = {"x": detections([[0, 0, 25, 25], [0, 0, 25, 25], FAR], [3, 2, 1], [0, 0, 0])}
    figures = coco_metrics(truth, found)
    # Counted: the one hit of two objects is third in rank, precision 1/3 up to recall 1/2 (51 of 101 points).
    expected = 1 if ap50 == 1 else 51 / 101 / 3
    assert figures["AP50"] == pytest.approx(expected)


def test_first_match_counts():
    """pycocotools takes id 0 for no match: the very first object and detection must still count."""
    truth = Dataset("made", "test", ("a",), (example("x", [BOX], [0]),))
    assert coco_metrics(truth, {"x": detections([BOX], [1], [0])})["AP"] == pytest.approx(1)
