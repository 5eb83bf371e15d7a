"""Detections: conversion and checks, indexing, merging, suppression, records, drawing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from sppnet.common.errors import InputError
from sppnet.data import Detections, draw_detections

CLASSES = ("cat", "dog")
BOXES = [[10, 20, 60, 80], [70, 10, 90, 40], [12, 22, 60, 80], [0, 0, 5, 5]]
SCORES = [0.92, 0.81, 0.4, -0.25]
LABELS = [1, 0, 1, 0]


@pytest.fixture
def detections():
    return Detections.of(BOXES, SCORES, LABELS, CLASSES)


def check_rows(detections, rows):
    """Checks that the detections are these rows of BOXES, SCORES and LABELS."""
    rows = list(rows)
    np.testing.assert_array_equal(detections.boxes, np.array(BOXES, np.float32)[rows].reshape(-1, 4))
    np.testing.assert_array_equal(detections.scores, np.array(SCORES, np.float32)[rows])
    np.testing.assert_array_equal(detections.labels, np.array(LABELS)[rows])
    types = (detections.boxes.dtype, detections.scores.dtype, detections.labels.dtype)
    assert types == (np.float32, np.float32, np.int64)


def random_detections(rng, count, classes=3, size=100):
    corners = rng.uniform(0, size, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, size / 2, (count, 2))], axis=1)
    # Few different scores, so that some are equal.
    return Detections.of(boxes, rng.integers(0, 20, count) / 10, rng.integers(0, classes, count))


class TestOf:
    def test_converts_any_number_type(self):
        for convert in (list, np.array, torch.tensor, lambda rows: np.array(rows, np.float16)):
            made = Detections.of(convert(BOXES), convert(SCORES), convert(LABELS), list(CLASSES))
            np.testing.assert_array_equal(made.boxes, np.array(BOXES, np.float32))
            np.testing.assert_allclose(made.scores, SCORES, rtol=1e-3)
            np.testing.assert_array_equal(made.labels, LABELS)
            types = (made.boxes.dtype, made.scores.dtype, made.labels.dtype)
            assert types == (np.float32, np.float32, np.int64)
            assert made.classes == CLASSES

    def test_nothing(self):
        for made in (Detections.of([], [], []), Detections.empty()):
            check_rows(made, [])
            assert made.classes is None
        assert Detections.empty(["cat"]).classes == ("cat",)

    @pytest.mark.parametrize(
        ("boxes", "scores", "labels", "message"),
        [
            pytest.param(
                [[0, 0, 1, 1]], [1, 1], [0], r"boxes \(1, 4\), scores \(2,\) and labels", id="scores"
            ),
            pytest.param([[0, 0, 1, 1]], [1], [0, 1], r"labels \(2,\); give \(N, 4\)", id="labels"),
            pytest.param([[0, 0, 1]], [1], [0], r"boxes \(1, 3\)", id="three-edges"),
            pytest.param([0, 0, 1, 1], [1], [0], r"boxes \(4,\)", id="flat"),
            pytest.param(3, 1, 0, r"boxes \(\), scores \(\)", id="scalars"),
            pytest.param([[0, 0, 1, 1], [0]], [1, 1], [0, 0], "arrays of numbers", id="ragged"),
            pytest.param([[0, 0, 1, 1]], ["x"], [0], "arrays of numbers", id="text"),
            pytest.param([[0, 0, 1, np.nan]], [1], [0], "NaN or infinite", id="box-nan"),
            pytest.param([[0, 0, 1, np.inf]], [1], [0], "NaN or infinite", id="box-infinite"),
            pytest.param([[0, 0, 1, 1e300]], [1], [0], "NaN or infinite", id="box-huge"),
            pytest.param([[0, 0, 1, 1]], [np.nan], [0], "NaN or infinite", id="score-nan"),
            pytest.param([[10, 10, 5, 20]], [1], [0], "a box is inverted", id="inverted"),
            pytest.param([[0, 0, 1, 1]], [1], [0.5], "label 0.5; give whole numbers", id="label-part"),
            pytest.param([[0, 0, 1, 1]], [1], [-1], "label -1; give whole numbers", id="label-negative"),
            pytest.param([[0, 0, 1, 1]], [1], [np.nan], "label nan; give whole numbers", id="label-nan"),
            pytest.param([[0, 0, 1, 1]], [1], [2], "label 2; .*below 2, the number of", id="label-high"),
        ],
    )
    def test_bad_input_is_named(self, boxes, scores, labels, message):
        with pytest.raises(InputError, match=f"detections: .*{message}"):
            Detections.of(boxes, scores, labels, CLASSES)


class TestIndexing:
    @pytest.mark.parametrize(
        ("index", "rows"),
        [
            (1, [1]),
            (-1, [3]),
            (np.int64(2), [2]),
            (slice(1, 3), [1, 2]),
            (slice(None, None, -1), [3, 2, 1, 0]),
            ([2, 0, 2], [2, 0, 2]),
            (np.array([3, 1]), [3, 1]),
            (np.array([True, False, True, False]), [0, 2]),
            ([False, True, False, False], [1]),
            (np.zeros(4, bool), []),
            ([], []),
        ],
    )
    def test_gives_detections(self, detections, index, rows):
        chosen = detections[index]
        check_rows(chosen, rows)
        assert chosen.classes == CLASSES
        assert len(chosen) == len(rows)

    @pytest.mark.parametrize("index", [4, -5, [0, 9], np.ones(3, bool)])
    def test_out_of_range(self, detections, index):
        with pytest.raises(IndexError):
            detections[index]

    def test_iterates_over_box_score_and_label(self, detections):
        rows = list(detections)
        np.testing.assert_array_equal([box for box, _, _ in rows], detections.boxes)
        assert [score for _, score, _ in rows] == detections.scores.tolist()
        assert [label for _, _, label in rows] == LABELS
        assert all(type(score) is float and type(label) is int for _, score, label in rows)


class TestFilter:
    def test_least_score(self, detections):
        check_rows(detections.filter(min_score=np.float32(0.4)), [0, 1, 2])
        check_rows(detections.filter(min_score=2), [])

    def test_labels(self, detections):
        check_rows(detections.filter(labels={0}), [1, 3])
        check_rows(detections.filter(labels=[]), [])
        check_rows(detections.filter(labels=np.array([0, 1])), range(4))

    def test_both_and_neither(self, detections):
        check_rows(detections.filter(0.5, [1]), [0])
        check_rows(detections.filter(), range(4))


class TestMerge:
    def test_keeps_the_order(self, detections):
        merged = Detections.merge([detections[2:], detections[:1]])
        check_rows(merged, [2, 3, 0])
        assert merged.classes == CLASSES

    def test_nothing(self, detections):
        check_rows(Detections.merge([]), [])
        merged = Detections.merge([Detections.empty(), detections, Detections.empty()])
        check_rows(merged, range(4))
        assert merged.classes == CLASSES

    def test_classes_that_one_part_lacks(self, detections):
        assert Detections.merge([detections, replace(detections, classes=None)]).classes is None

    def test_different_classes_are_refused(self, detections):
        with pytest.raises(InputError, match="different classes cannot be merged"):
            Detections.merge([detections, replace(detections, classes=("dog", "cat"))])


class TestNms:
    def test_within_a_class_only(self, detections):
        check_rows(detections.with_nms(0.3), [1, 3, 0])
        same = replace(detections, boxes=np.repeat(detections.boxes[:1], 4, axis=0))
        assert same.with_nms().scores.tolist() == detections.scores[[1, 0]].tolist()

    def test_overlap_at_the_threshold_stays(self):
        half = Detections.of([[0, 0, 10, 10], [0, 0, 10, 5]], [2, 1], [0, 0])
        assert len(half.with_nms(0.5)) == 2
        assert len(half.with_nms(0.4999)) == 1

    def test_boxes_without_area(self):
        points = Detections.of([[5, 5, 5, 5]] * 3, [1, 3, 2], [0, 0, 0])
        assert points.with_nms().scores.tolist() == [3, 2, 1]

    def test_nothing(self):
        check_rows(Detections.empty().with_nms(), [])

    @pytest.mark.parametrize("iou", [0.0, 0.3, 0.5, 0.7, 1.0])
    @pytest.mark.parametrize("seed", range(5))
    def test_equals_torchvision(self, seed, iou):
        detections = random_detections(np.random.default_rng(seed), count=300)
        kept = detections.with_nms(iou)
        expected = []
        for label in range(3):
            rows = np.flatnonzero(detections.labels == label)
            boxes, scores = torch.tensor(detections.boxes[rows]), torch.tensor(detections.scores[rows])
            expected += rows[nms(boxes, scores, iou).numpy()].tolist()
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(detections, name)[expected])

    def test_whole_pixels_at_common_thresholds(self):
        """Boxes of whole pixels often overlap exactly by a threshold such as 1/2 or 3/10."""
        rng = np.random.default_rng(0)
        for _ in range(50):
            corners = rng.integers(0, 10, (40, 2))
            boxes = np.concatenate([corners, corners + rng.integers(1, 11, (40, 2))], axis=1)
            detections = Detections.of(boxes, rng.permutation(40), np.zeros(40))
            for iou in (0.3, 0.5, 0.25, 1 / 3):
                expected = nms(torch.tensor(detections.boxes), torch.tensor(detections.scores), iou).numpy()
                np.testing.assert_array_equal(detections.with_nms(iou).boxes, detections.boxes[expected])


class TestRecords:
    def test_are_plain_values(self, detections):
        records = detections.to_records()
        assert records[0] == {
            "class": "dog", "score": pytest.approx(0.92), "xmin": 10, "ymin": 20, "xmax": 60, "ymax": 80
        }  # fmt: skip
        assert [record["class"] for record in records] == ["dog", "cat", "dog", "cat"]
        assert json.loads(json.dumps(records)) == records
        assert all(type(value) in (str, float) for record in records for value in record.values())

    def test_names(self, detections):
        assert detections.names() == ["dog", "cat", "dog", "cat"]
        assert detections.names(["a", "b"]) == ["b", "a", "b", "a"]
        assert replace(detections, classes=None).names() == ["label 1", "label 0", "label 1", "label 0"]
        with pytest.raises(InputError, match="label 1, but 1 classes"):
            detections.to_records(["a"])


class TestRepr:
    def test_best_first(self, detections):
        assert repr(detections) == "Detections(4: dog 0.92, cat 0.81, dog 0.40, cat -0.25)"
        assert repr(detections[::-1]) == repr(detections)

    def test_five_at_most(self, detections):
        five, six = detections[[0, 1, 1, 2, 2]], detections[[0, 1, 1, 2, 2, 3]]
        shown = "dog 0.92, cat 0.81, cat 0.81, dog 0.40, dog 0.40"
        assert (repr(five), repr(six)) == (f"Detections(5: {shown})", f"Detections(6: {shown}, …)")

    def test_nothing(self):
        assert repr(Detections.empty()) == "Detections(0)"


def test_draw(detections):
    image = np.full((120, 160, 3), 77, np.uint8)
    shown = detections.draw(image)
    assert (shown.dtype, shown.shape) == (np.uint8, image.shape)
    assert (image == 77).all()
    np.testing.assert_array_equal(shown, draw_detections(image, detections, CLASSES, -1))
    np.testing.assert_array_equal(
        detections.draw(image, ["a", "b"], 0.9), draw_detections(image, detections[:1], ["a", "b"])
    )
    assert (replace(detections, classes=None).draw(image) != 77).any()
