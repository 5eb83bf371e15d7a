"""VOC's image classification: labels from objects, the protocol, tables and JSON."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from sppnet.data import VOC_CLASSES, Dataset, Example, load_voc
from sppnet.eval import classification_dict, classification_table, evaluate_voc_classification, image_labels

NAN = float("nan")


def one_class(labels, scores):
    return evaluate_voc_classification(np.array([labels]).T, np.array([scores]).T, ("cat",)).classes[0]


def slow_average_precisions(labels, scores):
    """Computes VOCevalcls.m and VOCap.m image by image; of equal scores the first image ranks first."""
    ranked = sorted(range(len(labels)), key=lambda image: (-scores[image], image))
    positives = sum(label > 0 for label in labels)
    true, false, curve = 0, 0, []
    for image in ranked:
        true += labels[image] > 0
        false += labels[image] < 0
        if true + false:
            curve.append((true / positives, true / (true + false)))
    eleven = 0.0
    for step in np.arange(0, 11) * 0.1:
        eleven += max((precision for recall, precision in curve if recall >= step), default=0.0) / 11
    area, before = 0.0, 0.0
    for index, (recall, _) in enumerate(curve):
        area += (recall - before) * max(precision for _, precision in curve[index:])
        before = recall
    return eleven, area


@pytest.mark.parametrize(
    ("labels", "scores", "eleven", "area"),
    [
        ([1, 1, -1], [3, 2, 1], 1, 1),  # positives first
        ([-1, 1], [2, 1], 1 / 2, 1 / 2),  # after a negative
        ([1, -1, 1], [3, 2, 1], (6 * 1 + 5 * 2 / 3) / 11, 1 / 2 + 1 / 2 * 2 / 3),  # recall 1/2 holds 6 steps
        ([0, 1, -1], [3, 2, 1], 1, 1),  # only difficult: as if it were not there
        ([1, -1], [1, 1], 1, 1),  # equal scores keep their order
        ([-1, 1], [1, 1], 1 / 2, 1 / 2),
        ([1, -1], [-np.inf, 0], 1 / 2, 1 / 2),  # the devkit's score of images that are not listed
    ],
)
def test_by_hand(labels, scores, eleven, area):
    result = one_class(labels, scores)
    assert result.ap_11point == pytest.approx(eleven)
    assert result.ap_area == pytest.approx(area)
    assert result.positives == labels.count(1)
    assert result.images == len(labels) - labels.count(0)


@pytest.mark.parametrize("seed", range(10))
def test_against_plain_loops(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 0, 1], (60, 3), p=[0.7, 0.1, 0.2])
    scores = rng.integers(0, 25, (60, 3)) / 5  # with ties
    result = evaluate_voc_classification(labels, scores, ("a", "b", "c"))
    for figures, ground_truth, values in zip(result.classes, labels.T, scores.T, strict=True):
        expected = slow_average_precisions(ground_truth, values)
        assert (figures.ap_11point, figures.ap_area) == pytest.approx(expected)


def test_a_class_without_positives_does_not_count():
    labels = np.array([[1, -1], [-1, 0]])
    result = evaluate_voc_classification(labels, -labels, ("cat", "dog"))
    assert np.isnan(result.classes[1].ap_11point)
    assert result.map_11point == result.classes[0].ap_11point == 0.5
    assert result.map_area == 0.5
    assert result.counted_classes == 1
    nothing = evaluate_voc_classification(labels[1:, 1:], labels[1:, 1:], ("dog",))
    assert np.isnan(nothing.map_11point)
    assert np.isnan(nothing.map_area)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (np.ones((3, 2)), np.ones((2, 2)), "labels"),
        (np.ones((3, 1)), np.ones((3, 1)), "labels"),
        (np.full((3, 2), 2), np.ones((3, 2)), "1, 0 or -1"),
        (np.ones((3, 2)), np.full((3, 2), NAN), "NaN"),
    ],
)
def test_bad_arrays(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        evaluate_voc_classification(labels, scores, ("cat", "dog"))


def make_example(labels, difficult, path):
    boxes = np.tile(np.array([[0, 0, 5, 5]], np.float32), (len(labels), 1))
    flags = np.array(difficult, bool)
    return Example(str(labels), path, 9, 9, boxes, np.array(labels, np.int64), flags, np.zeros_like(flags))


def test_labels_from_objects(tmp_path):
    examples = (
        make_example([], [], tmp_path),
        make_example([0], [False], tmp_path),
        make_example([0, 1], [True, False], tmp_path),
        make_example([0, 0], [False, True], tmp_path),  # an object that is not difficult decides
        make_example([0, 0], [True, False], tmp_path),
    )
    labels = image_labels(Dataset("made", "train", ("cat", "dog"), examples))
    assert labels.tolist() == [[-1, -1], [1, -1], [0, 1], [1, -1], [1, -1]]


def test_labels_equal_the_devkit(voc_root):
    split = "test"
    dataset = load_voc(voc_root, split)
    labels = image_labels(dataset)
    for column, name in enumerate(VOC_CLASSES):
        lines = (voc_root / "VOC2007/ImageSets/Main" / f"{name}_{split}.txt").read_text().splitlines()
        official = {line.split()[0]: int(line.split()[1]) for line in lines}
        assert [official[example.image_id] for example in dataset] == labels[:, column].tolist()


def test_figures_as_json_and_table():
    labels = np.array([[1, -1], [-1, 0]])
    result = evaluate_voc_classification(labels, labels, ("cat", "dog"))
    figures = json.loads(json.dumps(classification_dict(result), allow_nan=False))
    assert figures["map_11point"] == figures["map_area"] == 1
    assert figures["classes"]["cat"] == {"ap_11point": 1, "ap_area": 1, "positives": 1, "images": 2}
    assert figures["classes"]["dog"] == {"ap_11point": None, "ap_area": None, "positives": 0, "images": 1}
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(classification_table(result, "two images"))
    lines = [line.split() for line in console.export_text().replace("│", " ").splitlines()]
    assert ["cat", "100.0", "100.0", "1", "2"] in lines
    assert ["mean", "of", "1", "of", "2", "classes", "100.0", "100.0"] in lines
