"""VOC average precision: published fixtures, hand-made cases, and a slow reference on random data."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.voc_evaluation import evaluate_slowly, synthetic_test_set
from sppnet.common.errors import InputError
from sppnet.data.detections import Detections
from sppnet.data.types import Dataset, Example
from sppnet.data.voc import load_voc
from sppnet.eval import box_iou, evaluate_voc
from sppnet.eval.average_precision import RECALL_STEPS, average_precision_11point, average_precision_area


def make_example(image_id, boxes, labels=None, difficult=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.array(labels, np.int64)
    difficult = np.zeros(len(boxes), bool) if difficult is None else np.array(difficult, bool)
    path = Path(f"{image_id}.jpg")
    return Example(image_id, path, 500, 500, boxes, labels, difficult, np.zeros(len(boxes), bool))


def make_detections(boxes, scores, labels=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.array(labels, np.int64)
    return Detections(boxes, np.array(scores, np.float32), labels)


def make_dataset(*examples, classes=("thing",)):
    return Dataset("made", "test", classes, examples)


def edges(x, y, width, height):
    """Converts a box with inclusive corner pixels (x, y) and (x + width, y + height) to edges."""
    return [x, y, x + width + 1, y + height + 1]


# Object-Detection-Metrics, groundtruths/*.txt and detections/*.txt (data: MIT, Rafael Padilla):
# x, y, width, height; detections with the score in percent before.
PADILLA_GROUND_TRUTH = (
    [(25, 16, 38, 56), (129, 123, 41, 62)],
    [(123, 11, 43, 55), (38, 132, 59, 45)],
    [(16, 14, 35, 48), (123, 30, 49, 44), (99, 139, 47, 47)],
    [(53, 42, 40, 52), (154, 43, 31, 34)],
    [(59, 31, 44, 51), (48, 128, 34, 52)],
    [(36, 89, 52, 76), (62, 58, 44, 67)],
    [(28, 31, 55, 63), (58, 67, 50, 58)],
)
PADILLA_DETECTIONS = (
    [(88, 5, 67, 31, 48), (70, 119, 111, 40, 67), (80, 124, 9, 49, 67)],
    [(71, 64, 111, 64, 58), (54, 26, 140, 60, 47), (74, 19, 18, 43, 35)],
    [
        *[(18, 109, 15, 77, 39), (67, 86, 63, 46, 45), (38, 160, 62, 36, 53)],
        *[(91, 105, 131, 47, 47), (44, 18, 148, 40, 44)],
    ],
    [(35, 83, 28, 28, 26), (78, 28, 68, 42, 67), (45, 87, 89, 25, 39), (14, 10, 155, 60, 26)],
    [(62, 50, 38, 28, 46), (44, 95, 11, 53, 28), (95, 29, 131, 72, 29), (23, 29, 163, 72, 29)],
    [(45, 43, 48, 74, 38), (84, 17, 155, 29, 35), (43, 95, 110, 25, 42)],
    [(48, 16, 20, 101, 88), (95, 33, 116, 37, 49)],
)


# Expected values: review_object_detection_metrics, tests/test_eval_pascal.py.
@pytest.mark.parametrize(
    ("threshold", "eleven", "area"),
    [
        pytest.param(0.1, 0.3333333333, 0.3371980676, id="iou.1"),
        pytest.param(0.3, 0.2683982683, 0.2456866804, id="iou.3"),
        pytest.param(0.5, 0.0303030303, 0.0222222222, id="iou.5"),
        pytest.param(0.75, 0, 0, id="iou.75"),
    ],
)
def test_padilla_fixture(threshold, eleven, area):
    ground_truth = make_dataset(
        *(make_example(str(i), [edges(*box) for box in part]) for i, part in enumerate(PADILLA_GROUND_TRUTH))
    )
    detections = {
        str(i): make_detections([edges(*row[1:]) for row in part], [row[0] / 100 for row in part])
        for i, part in enumerate(PADILLA_DETECTIONS)
    }
    result = evaluate_voc(ground_truth, detections, threshold)
    assert (result.classes[0].ground_truths, result.classes[0].detections) == (15, 24)
    assert result.map_11point == pytest.approx(eleven, abs=1e-9)
    assert result.map_area == pytest.approx(area, abs=1e-9)


def inclusive(boxes):
    """Converts chainercv's boxes, whose corners are inclusive pixels, to edges."""
    return np.array(boxes, float) + np.array([0, 0, 1, 1])


# chainercv, tests/evaluations_tests/test_eval_detection_voc.py (data: MIT, Preferred Networks).
@pytest.mark.parametrize(
    ("threshold", "difficult_boxes", "recall", "precision"),
    [
        pytest.param(0.5, [], [0, 0, 1], [0, 0, 1 / 3], id="one-box"),
        pytest.param(0.97, [], [0, 0, 0], [0, 0, 0], id="iou-too-small"),
        pytest.param(0.5, [[1, 1, 2, 2]], [0, 0, 1], [0, 0, 1 / 3], id="difficult"),
    ],
)
def test_chainercv_curve(threshold, difficult_boxes, recall, precision):
    difficult = [False] + [True] * len(difficult_boxes)
    ground_truth = make_dataset(
        make_example("a", inclusive([[0, 0, 1, 0.9], *difficult_boxes]), difficult=difficult)
    )
    boxes = inclusive([[0, 0, 1, 1], [0, 0, 2, 2], [0.3, 0.3, 0.5, 0.5]])
    result = evaluate_voc(ground_truth, {"a": make_detections(boxes, [0.8, 0.9, 1])}, threshold)
    np.testing.assert_equal(result.classes[0].recall, np.array(recall))
    np.testing.assert_equal(result.classes[0].precision, np.array(precision))


def test_chainercv_average_precision():
    ground_truth = make_dataset(
        make_example("a", inclusive([[0, 0, 1, 1], [1, 0, 4, 4]]), [0, 0]),
        make_example("b", inclusive([[2, 2, 3, 3]]), [2]),
        classes=("first", "absent", "last"),
    )
    detections = {
        "a": make_detections(inclusive([[0, 4, 1, 5], [0, 0, 1, 1]]), [1, 0.9], [0, 0]),
        "b": make_detections(
            inclusive([[0, 0, 2, 2], [2, 2, 3, 3], [5, 5, 7, 7]]), [0.7, 0.6, 0.8], [0, 2, 2]
        ),
    }
    result = evaluate_voc(ground_truth, detections, 0.4)
    first, absent, last = result.classes
    np.testing.assert_equal(first.recall, [0, 0.5, 0.5])
    np.testing.assert_equal(first.precision, [0, 0.5, 1 / 3])
    np.testing.assert_equal(last.recall, [0, 1])
    np.testing.assert_equal(last.precision, [0, 0.5])
    np.testing.assert_allclose([c.ap_area for c in result.classes], [0.25, np.nan, 0.5], atol=1e-15)
    np.testing.assert_allclose(
        [c.ap_11point for c in result.classes], [0.5 / 11 * 6, np.nan, 0.5], atol=1e-15
    )
    assert result.map_area == pytest.approx((0.25 + 0.5) / 2)
    assert result.map_11point == pytest.approx((0.5 / 11 * 6 + 0.5) / 2)
    assert (absent.ground_truths, result.counted_classes) == (0, 2)


@pytest.mark.parametrize(
    ("right", "expected"),
    [pytest.param(20, 1, id="exactly-half"), pytest.param(20.001, 0, id="just-below")],
)
def test_threshold_is_inclusive(right, expected):
    ground_truth = make_dataset(make_example("a", [[0, 0, 10, 7]]))  # IoU 70/140
    result = evaluate_voc(ground_truth, {"a": make_detections([[0, 0, right, 7]], [1])})
    assert result.map_area == expected


def test_overlap_is_not_rounded_to_the_threshold():
    """IoU 0.49999997, which float32 arithmetic would round to 0.5."""
    detections = {"a": make_detections([[130.1, 106.1, 666.10004, 272.1]], [1])}
    ground_truth = make_dataset(make_example("a", [[130.1, 106.1, 398.1, 272.1]]))
    assert evaluate_voc(ground_truth, detections).map_area == 0


@pytest.mark.parametrize("steps", [(0, 0), (0, 3), (2, 5)])
def test_inclusive_pixels_equal_edges(steps):
    """The devkit's +1 arithmetic on inclusive corners gives the same overlaps as edges."""
    a, b = np.array([11, 21, 60, 90]), np.array([11, 21, 60, 90]) + np.array(steps + steps) * 7
    low, high = np.maximum(a, b)[:2], np.minimum(a, b)[2:]
    inner = np.prod(high - low + 1)
    outer = np.prod(a[2:] - a[:2] + 1) + np.prod(b[2:] - b[:2] + 1) - inner
    assert box_iou([a - [1, 1, 0, 0]], [b - [1, 1, 0, 0]])[0, 0] == inner / outer


def test_box_iou_corner_cases():
    a = [[0, 0, 10, 10], [5, 5, 5, 5], [0, 0, 4, 4]]
    b = [[10, 0, 20, 10], [5, 5, 5, 5], [0, 0, 8, 8], [2, 2, 6, 6]]
    expected = [[0, 0, 64 / 100, 16 / 100], [0, 0, 0, 0], [0, 0, 16 / 64, 4 / 28]]
    np.testing.assert_array_equal(box_iou(a, b), expected)
    assert box_iou(np.empty((0, 4)), b).shape == (0, 4)


BOX, FAR = [0, 0, 10, 10], [100, 100, 110, 110]


def test_difficult_matched_twice_counts_for_nothing():
    ground_truth = make_dataset(make_example("a", [BOX, FAR], difficult=[True, False]))
    curve = evaluate_voc(ground_truth, {"a": make_detections([BOX, BOX, FAR], [3, 2, 1])}).classes[0]
    np.testing.assert_array_equal(curve.precision, [np.nan, np.nan, 1])
    np.testing.assert_array_equal(curve.recall, [0, 0, 1])
    assert (curve.ap_11point, curve.ap_area, curve.ground_truths) == (1, 1, 1)


def test_only_difficult_matches_score_zero():
    ground_truth = make_dataset(make_example("a", [BOX, FAR], difficult=[True, False]))
    result = evaluate_voc(ground_truth, {"a": make_detections([BOX], [1])})
    assert (result.map_11point, result.map_area) == (0, 0)


def test_difficult_takes_a_detection_that_overlaps_it_more():
    """The argmax is over all objects; with the second best object the detection would be a true positive."""
    ground_truth = make_dataset(make_example("a", [[0, 0, 10, 9], BOX], difficult=[False, True]))
    curve = evaluate_voc(ground_truth, {"a": make_detections([BOX], [1])}).classes[0]
    np.testing.assert_array_equal(curve.recall, [0])


def test_duplicate_is_false_and_does_not_take_the_second_best():
    """The devkit does not fall back to a free object: both detections are matched with the first object."""
    ground_truth = make_dataset(make_example("a", [BOX, [0, 0, 10, 8]]))
    curve = evaluate_voc(ground_truth, {"a": make_detections([BOX, BOX], [2, 1])}).classes[0]
    np.testing.assert_array_equal(curve.precision, [1, 1 / 2])
    np.testing.assert_array_equal(curve.recall, [1 / 2, 1 / 2])


def test_overlapping_two_objects_alike_goes_to_the_first():
    ground_truth = make_dataset(make_example("a", [[0, 0, 10, 10], [0, 10, 10, 20]], difficult=[True, False]))
    curve = evaluate_voc(ground_truth, {"a": make_detections([[0, 0, 10, 20]], [1])}).classes[0]
    np.testing.assert_array_equal(curve.precision, [np.nan])


@pytest.mark.parametrize(
    ("order", "precision"),
    [
        pytest.param([BOX, FAR], [1, 1 / 2], id="hit-first"),
        pytest.param([FAR, BOX], [0, 1 / 2], id="miss-first"),
    ],
)
def test_equal_scores_keep_their_order(order, precision):
    ground_truth = make_dataset(make_example("a", [BOX]))
    result = evaluate_voc(ground_truth, {"a": make_detections(order, [0.5, 0.5])})
    np.testing.assert_array_equal(result.classes[0].precision, precision)


def test_equal_scores_across_images_follow_the_data_set():
    ground_truth = make_dataset(make_example("z", [BOX]), make_example("a", [BOX]))
    detections = {"a": make_detections([FAR], [0.5]), "z": make_detections([BOX], [0.5])}
    np.testing.assert_array_equal(evaluate_voc(ground_truth, detections).classes[0].precision, [1, 1 / 2])


def test_class_without_ground_truth_does_not_count():
    ground_truth = make_dataset(
        make_example("a", [BOX, FAR], [0, 1], [False, True]), classes=("seen", "difficult", "absent")
    )
    result = evaluate_voc(ground_truth, {"a": make_detections([BOX, FAR, FAR], [1, 1, 1], [0, 1, 2])})
    np.testing.assert_array_equal([figures.ap_11point for figures in result.classes], [1, np.nan, np.nan])
    assert (result.map_11point, result.map_area, result.counted_classes) == (1, 1, 1)
    assert np.isnan(evaluate_voc(make_dataset(make_example("a", [])), {}).map_11point)


def test_results_by_class_and_in_short():
    ground_truth = make_dataset(make_example("a", [BOX, FAR], [0, 1]), classes=("cat", "dog", "none"))
    result = evaluate_voc(ground_truth, {"a": make_detections([BOX, FAR], [2, 1], [0, 0])})
    assert list(result.by_class) == ["cat", "dog", "none"]
    assert result.by_class["cat"] is result.classes[0]
    assert repr(result) == (
        "VOCResult(map_11point=0.5000, map_area=0.5000, iou_threshold=0.5, counted_classes=2)"
    )
    assert repr(result.classes[0]) == (
        "ClassResult(name='cat', ap_11point=1.0, ap_area=1.0, ground_truths=1, detections=2)"
    )


def test_image_without_detections_lowers_recall():
    ground_truth = make_dataset(make_example("a", [BOX]), make_example("b", [BOX]))
    result = evaluate_voc(ground_truth, {"a": make_detections([BOX], [1])})
    assert result.map_area == 1 / 2
    assert result.map_11point == pytest.approx(6 / 11)  # t = 0, .1 … .5


def test_recall_steps_are_multiples_of_a_tenth():
    above = {3: 0.30000000000000004, 6: 0.6000000000000001, 7: 0.7000000000000001}
    assert RECALL_STEPS.tolist() == [above.get(step, step / 10) for step in range(11)]


@pytest.mark.parametrize("hits", range(11))
def test_recall_exactly_at_a_step(hits):
    """Recall k/10 reaches step k, except for 3, 6 and 7, whose steps are a little above."""
    ground_truth = make_dataset(*(make_example(str(i), [BOX]) for i in range(10)))
    detections = {str(i): make_detections([BOX], [1]) for i in range(hits)}
    reached = hits if hits in (0, 3, 6, 7) else hits + 1
    assert evaluate_voc(ground_truth, detections).map_11point == pytest.approx(reached / 11, abs=1e-15)


def test_interpolation_by_hand():
    recall, precision = np.array([0.25, 0.25, 0.5, 0.5, 0.75]), np.array([1, 1 / 2, 2 / 3, 2 / 4, 3 / 5])
    area = 0.25 * 1 + 0.25 * 2 / 3 + 0.25 * 3 / 5
    eleven = (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5 + 3 * 0) / 11
    assert average_precision_area(recall, precision) == pytest.approx(area)
    assert average_precision_11point(recall, precision) == pytest.approx(eleven)


@pytest.mark.parametrize(
    ("image_id", "score", "label", "message"),
    [
        pytest.param("b", 1, 0, "'b'", id="unknown-image"),
        pytest.param("a", np.nan, 0, "a score is NaN", id="nan-score"),
        pytest.param("a", 1, 1, "outside the 1 classes", id="label-too-large"),
        pytest.param("a", 1, -1, "outside the 1 classes", id="label-negative"),
    ],
)
def test_bad_detections(image_id, score, label, message):
    ground_truth = make_dataset(make_example("a", [BOX]))
    with pytest.raises(InputError, match=message):
        evaluate_voc(ground_truth, {image_id: make_detections([BOX], [score], [label])})


@pytest.mark.parametrize("threshold", [0, -1, 1.01, np.nan])
def test_bad_threshold(threshold):
    with pytest.raises(ValueError, match="iou_threshold"):
        evaluate_voc(make_dataset(make_example("a", [BOX])), {}, threshold)


CLASSES = ("first", "second", "third")


@st.composite
def scenes(draw):
    """Small data sets on a coarse grid, so that ties, exact halves and several matches are common."""

    def boxes(count):
        corner = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4))
        rows = draw(st.lists(corner, min_size=count, max_size=count))
        return [[x * 10, y * 10, (x + w) * 10, (y + h) * 10] for x, y, w, h in rows]

    def values(elements, count):
        return draw(st.lists(elements, min_size=count, max_size=count))

    examples, detections = [], {}
    for image in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 5))
        labels = values(st.integers(0, 2), count)
        examples.append(make_example(str(image), boxes(count), labels, values(st.booleans(), count)))
        count = draw(st.integers(0, 8))
        if draw(st.booleans()) or count:
            scores = values(st.sampled_from([-1, 0, 0.25, 0.5, 2]), count)
            detections[str(image)] = make_detections(boxes(count), scores, values(st.integers(0, 2), count))
    return make_dataset(*examples, classes=CLASSES), detections, draw(st.sampled_from([0.2, 0.5, 0.75, 1]))


def average_precisions(result):
    return [(figures.ap_11point, figures.ap_area) for figures in result.classes]


@settings(deadline=None, max_examples=100)
@given(scenes())
def test_equals_slow_reference(scene):
    ground_truth, detections, threshold = scene
    averages = average_precisions(evaluate_voc(ground_truth, detections, threshold))
    expected = evaluate_slowly(ground_truth, detections, threshold)
    np.testing.assert_allclose(averages, expected, rtol=0, atol=1e-12)


def test_equals_slow_reference_on_many_boxes():
    ground_truth, detections = synthetic_test_set(15, seed=3)
    averages = average_precisions(evaluate_voc(ground_truth, detections))
    np.testing.assert_allclose(averages, evaluate_slowly(ground_truth, detections), rtol=0, atol=1e-12)
    assert np.nanmax(averages) > 0


def test_real_ground_truth_scores_one(voc_root):
    ground_truth = load_voc(voc_root, "test")
    detections = {
        example.image_id: make_detections(example.boxes, np.ones(len(example.labels)), example.labels)
        for example in ground_truth
    }
    result = evaluate_voc(ground_truth, detections)
    assert (result.map_11point, result.map_area, result.counted_classes) == (1, 1, 20)
    shifted = {
        image_id: make_detections(part.boxes + 10_000, part.scores, part.labels)
        for image_id, part in detections.items()
    }
    assert evaluate_voc(ground_truth, shifted).map_area == 0
