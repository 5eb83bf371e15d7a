"""Ground truth and detections as plain dicts: equal to data sets, any kind of array, and errors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.voc_evaluation import synthetic_test_set
from sppnet.common.errors import InputError
from sppnet.data import Dataset, Detections, Example, load_voc
from sppnet.eval import coco_metrics, evaluate_voc


def plain_ground_truth(dataset, label_form):
    return {
        example.image_id: {
            "boxes": example.boxes,
            "labels": label_form(example.labels),
            "difficult": example.difficult,
        }
        for example in dataset
    }


def plain_detections(detections, label_form):
    return {
        image_id: {"boxes": part.boxes, "labels": label_form(part.labels), "scores": part.scores}
        for image_id, part in detections.items()
    }


def assert_same(result, expected):
    assert [figures.name for figures in result.classes] == [figures.name for figures in expected.classes]
    for figures, expected_figures in zip(result.classes, expected.classes, strict=True):
        np.testing.assert_array_equal(figures.precision, expected_figures.precision)
        np.testing.assert_array_equal(figures.recall, expected_figures.recall)
        assert figures.ground_truths == expected_figures.ground_truths
        np.testing.assert_equal(figures.ap_11point, expected_figures.ap_11point)
        np.testing.assert_equal(figures.ap_area, expected_figures.ap_area)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_equals_the_data_set_on_random_boxes(seed, threshold):
    dataset, detections = synthetic_test_set(12, seed)
    expected = evaluate_voc(dataset, detections, threshold)
    assert expected.map_area > 0

    def names(labels):
        return [dataset.classes[label] for label in labels]

    for truth_form in (names, np.asarray):
        for detection_form in (names, np.asarray):
            plain = plain_ground_truth(dataset, truth_form), plain_detections(detections, detection_form)
            assert_same(evaluate_voc(*plain, threshold, classes=dataset.classes), expected)
    assert_same(evaluate_voc(dataset, plain_detections(detections, names), threshold), expected)
    plain = plain_ground_truth(dataset, names)
    assert_same(evaluate_voc(plain, detections, threshold, classes=dataset.classes), expected)


def test_equals_the_data_set_on_real_ground_truth(voc_root):
    dataset = load_voc(voc_root, "test")
    rng = np.random.default_rng(0)
    detections = {}
    for example in dataset:
        boxes = example.boxes.repeat(4, axis=0)
        boxes = boxes + rng.normal(0, 10, (len(boxes), 1)).astype(np.float32)
        scores = rng.random(len(boxes)).astype(np.float32).round(2)
        detections[example.image_id] = Detections(boxes, scores, example.labels.repeat(4))
    expected = evaluate_voc(dataset, detections)
    assert 0.2 < expected.map_area < 0.9
    # VOC's classes are in alphabetical order, and all twenty occur.
    ground_truth = plain_ground_truth(dataset, lambda labels: [dataset.classes[label] for label in labels])
    assert_same(evaluate_voc(ground_truth, plain_detections(detections, np.asarray)), expected)
    assert_same(evaluate_voc(ground_truth, detections), expected)


def test_coco_figures_equal_those_of_the_data_set():
    dataset, detections = synthetic_test_set(4)
    plain = plain_ground_truth(dataset, np.asarray), plain_detections(detections, np.asarray)
    figures = coco_metrics(*plain, classes=dataset.classes)
    np.testing.assert_equal(figures, coco_metrics(dataset, detections))
    assert figures["AP50"] > 0


BOX, FAR = [0, 0, 10, 10], [50, 50, 60, 60]
CAT = {"boxes": [BOX], "labels": ["cat"]}


def half(values):
    array = np.array(values)
    return array.astype(np.float16) if array.dtype.kind == "f" else array.astype(np.uint8)


def tensor_with_gradient(values):
    tensor = torch.tensor(values)
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("convert", [list, np.array, half, torch.tensor, tensor_with_gradient])
def test_kinds_of_arrays(convert):
    ground_truth = {7: {"boxes": convert([BOX, FAR]), "labels": convert([3, 1]), "difficult": [0, 1]}}
    detections = {
        7: {"boxes": convert([FAR, BOX]), "labels": convert([1, 3]), "scores": convert([0.5, 0.25])}
    }
    result = evaluate_voc(ground_truth, detections)
    assert [(figures.name, figures.ground_truths) for figures in result.classes] == [("1", 0), ("3", 1)]
    assert result.by_class["3"].ap_area == 1


def test_precision_of_the_input_is_kept():
    """Scores that are equal in float32 keep their order."""
    low, high = 0.5, 0.5 + 1e-12
    detections = {"a": {"boxes": [FAR, BOX], "labels": ["cat", "cat"], "scores": [low, high]}}
    assert evaluate_voc({"a": CAT}, detections).map_area == 1


@pytest.mark.parametrize("empty", [[], np.empty((0, 4)), torch.empty(0), torch.empty((0, 4))])
def test_images_without_boxes(empty):
    ground_truth = {"a": {"boxes": empty, "labels": []}, "b": CAT}
    detections = {"a": {"boxes": empty, "labels": empty[:, 0] if np.ndim(empty) > 1 else empty, "scores": []}}
    result = evaluate_voc(ground_truth, detections)
    assert (result.map_area, result.counted_classes) == (0, 1)


def test_no_images():
    result = evaluate_voc({}, {})
    assert result.classes == ()
    assert np.isnan(result.map_11point)


def test_further_keys_are_not_read():
    ground_truth = {"a": CAT | {"iscrowd": [1], "masks": object()}}
    detections = {"a": CAT | {"scores": [1], "keypoints": None}}
    assert evaluate_voc(ground_truth, detections).map_area == 1


def test_classes_are_the_sorted_names_of_the_ground_truth():
    ground_truth = {"a": {"boxes": [BOX, FAR], "labels": ["dog", "cat"]}, "b": CAT}
    detections = {"a": {"boxes": [FAR, BOX], "labels": [0, 1], "scores": [1, 1]}, "b": CAT | {"scores": [1]}}
    result = evaluate_voc(ground_truth, detections)
    assert list(result.by_class) == ["cat", "dog"]
    assert result.map_area == 1


def test_numbers_without_names_are_the_classes():
    """COCO's category ids have gaps; labels of detections are the same numbers, also in `Detections`."""
    ground_truth = {"a": {"boxes": [BOX, FAR], "labels": [90, 5]}}
    plain = {"a": {"boxes": [BOX, FAR], "labels": [90, 5], "scores": [1, 1]}}
    for detections in (plain, {"a": Detections.of([BOX, FAR], [1, 1], [90, 5])}):
        result = evaluate_voc(ground_truth, detections)
        assert list(result.by_class) == ["5", "90"]
        assert result.map_area == 1


def test_detections_with_class_names_are_matched_by_name():
    """A detector may have its classes in another order than the ground truth."""
    detections = {"a": Detections.of([BOX], [1], [1], classes=["dog", "cat"])}
    assert evaluate_voc({"a": CAT}, detections).map_area == 1
    flags = np.zeros(1, bool)
    example = Example("a", Path("a.jpg"), 99, 99, np.array([BOX], np.float32), np.array([0]), flags, flags)
    assert evaluate_voc(Dataset("toys", "test", ("cat", "dog"), (example,)), detections).map_area == 1


def test_image_ids_as_numbers_and_texts():
    detections = {"17": CAT | {"scores": [1]}}
    assert evaluate_voc({17: CAT}, detections).map_area == 1
    assert evaluate_voc({np.int64(17): CAT}, detections).map_area == 1


@pytest.mark.parametrize(
    ("ground_truth", "message"),
    [
        pytest.param([CAT], "the ground truth: a list; give a sppnet Dataset or a dict", id="list"),
        pytest.param({None: CAT}, "image id None; give a text or a whole number", id="image-id"),
        pytest.param({1: CAT, "1": CAT}, "image id '1' is there as a text and as a number", id="same-id"),
        pytest.param({"a": [BOX]}, "ground truth of image 'a': a list; give a dict", id="no-dict"),
        pytest.param({"a": {"boxes": [BOX]}}, "image 'a': 'labels' missing", id="no-labels"),
        pytest.param({"a": {}}, "image 'a': 'boxes' and 'labels' missing", id="nothing"),
        pytest.param({"a": CAT | {"boxes": BOX}}, r"'boxes' has the shape \(4,\); give \(N, 4\)", id="flat"),
        pytest.param({"a": CAT | {"boxes": [[1, 2, 3]]}}, r"shape \(1, 3\)", id="three-columns"),
        pytest.param({"a": CAT | {"boxes": [BOX, [1]]}}, "'boxes' is no array", id="ragged"),
        pytest.param({"a": CAT | {"boxes": ["wide"]}}, "'boxes' holds 'wide'; give numbers", id="text"),
        pytest.param({"a": CAT | {"boxes": [[None] * 4]}}, "'boxes' holds None; give", id="no-number"),
        pytest.param({"a": CAT | {"boxes": [[0, 0, np.nan, 1]]}}, "box 0 is NaN or infinite", id="nan"),
        pytest.param({"a": CAT | {"boxes": [[0, 0, 1, np.inf]]}}, "box 0 is NaN or infinite", id="infinite"),
        pytest.param({"a": CAT | {"boxes": [[50, 50, 9, 9]]}}, "inverted: .* not x, y, width", id="inverted"),
        pytest.param({"a": CAT | {"labels": ["cat"] * 2}}, r"'labels' has the shape \(2,\)", id="two-labels"),
        pytest.param({"a": CAT | {"labels": [0.5]}}, "'labels' holds 0.5; give class names", id="fraction"),
        pytest.param({"a": CAT | {"labels": [None]}}, "'labels' holds None", id="none"),
        pytest.param(
            {"a": {"boxes": [BOX, BOX], "labels": ["cat", 1]}},
            "'labels' holds 1; give class names",
            id="mixed",
        ),
        pytest.param(
            {"a": CAT, "b": CAT | {"labels": [1]}}, "some labels are names, others", id="mixed-images"
        ),
        pytest.param({"a": CAT | {"difficult": [True, False]}}, "'difficult' has the shape", id="two-flags"),
        pytest.param({"a": CAT | {"difficult": [2]}}, "'difficult' must hold true or false", id="flag"),
        pytest.param(
            {"a": CAT | {"difficult": ["no"]}}, "'difficult' must hold true or false", id="flag-text"
        ),
    ],
)
def test_bad_ground_truth(ground_truth, message):
    for evaluate in (evaluate_voc, coco_metrics):
        with pytest.raises(InputError, match=message):
            evaluate(ground_truth, {})


SURE_CAT = CAT | {"scores": [0.5]}


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        pytest.param([SURE_CAT], "detections: a list; give a dict {image id", id="list"),
        pytest.param(
            {"b": SURE_CAT}, "1 image.* that the ground truth lacks, such as 'b'", id="unknown-image"
        ),
        pytest.param({"a": CAT}, "detections of image 'a': 'scores' missing", id="no-scores"),
        pytest.param({"a": SURE_CAT | {"scores": [np.nan]}}, "image 'a': a score is NaN", id="nan-score"),
        pytest.param({"a": SURE_CAT | {"scores": 0.5}}, r"'scores' has the shape \(\)", id="one-score"),
        pytest.param(
            {"a": SURE_CAT | {"scores": ["high"]}}, "'scores' holds 'high'; give numbers", id="text"
        ),
        pytest.param(
            {"a": SURE_CAT | {"labels": ["dog"]}},
            r"'dog' is outside the 1 classes .*\(cat\)",
            id="unknown-class",
        ),
        pytest.param(
            {"a": SURE_CAT | {"labels": [1]}}, "label 1 is outside the 1 classes", id="unknown-label"
        ),
        pytest.param({"a": SURE_CAT | {"labels": [-1]}}, "label -1 is outside the 1", id="negative-label"),
        pytest.param(
            {"a": Detections.of([BOX], [1], [0], ["dog"])},
            "'dog' is outside the 1 classes",
            id="unknown-name",
        ),
        pytest.param(
            {"a": Detections.of([BOX], [1], [1])}, "a label is outside the 1 classes", id="typed-label"
        ),
        pytest.param(
            {"a": {"boxes": torch.zeros(1, 4, dtype=torch.bfloat16), "labels": [0], "scores": [1]}},
            "'boxes' is no array .*BFloat16",
            id="bfloat16",
        ),
    ],
)
def test_bad_detections(detections, message):
    for evaluate in (evaluate_voc, coco_metrics):
        with pytest.raises(InputError, match=message):
            evaluate({"a": CAT}, detections)


@pytest.mark.parametrize("classes", ["cat", [], ["cat", "cat"], [0, 1]])
def test_bad_classes(classes):
    with pytest.raises(InputError, match="give a list of different class names"):
        evaluate_voc({"a": CAT}, {}, classes=classes)


def test_a_name_that_the_classes_lack():
    with pytest.raises(InputError, match=r"ground truth of image 'a': label 'cat' is outside .*\(dog, hen\)"):
        evaluate_voc({"a": CAT}, {}, classes=["dog", "hen"])


def test_classes_of_a_data_set_are_its_own():
    with pytest.raises(InputError, match="classes= is for plain ground truth"):
        evaluate_voc(Dataset("toys", "test", ("cat",), ()), {}, classes=["cat"])


def test_scoring_imports_no_torch_and_no_plots():
    """A user of the evaluator alone waits for NumPy, not for networks, plots and tables."""
    script = """
import sys
from sppnet.eval import evaluate_voc, metrics_dict, plot_precision_recall, class_table, coco_metrics
cat = {"boxes": [[0, 0, 9, 9]], "labels": ["cat"]}
assert evaluate_voc({"a": cat}, {"a": cat | {"scores": [1]}}).map_11point == 1
print(sorted({"torch", "matplotlib", "rich", "pycocotools", "scipy", "sklearn"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
