"""metrics.json, the table and the plots."""

import io
import json

import cv2
import numpy as np
import pytest
from rich.console import Console

from benchmarks.voc_evaluation import synthetic_test_set
from sppnet.data.images import read_image
from sppnet.eval.output import new_figure, write_png
from sppnet.eval.report import class_table, metrics_dict, plot_precision_recall, write_metrics
from sppnet.eval.voc import ClassResult, VOCResult, evaluate_voc


def curve(name, precision, ground_truths):
    precision = np.array(precision, float)
    recall = np.arange(1, len(precision) + 1) / max(ground_truths, 1)
    ap = 0.5 if ground_truths else np.nan
    return ClassResult(name, ap, ap / 2, precision, recall, ground_truths, len(precision))


RESULT = VOCResult(0.5, (curve("cat", [1, 1, 2 / 3], 4), curve("dog", [], 2), curve("none", [0], 0)))


def test_metrics_file(tmp_path):
    path = tmp_path / "run" / "metrics.json"
    write_metrics(path, RESULT, {"AP": 0.25, "AP_small": np.nan}, {"split": "test", "limit": None})
    metrics = json.loads(path.read_text())
    assert metrics == {
        "map_11point": 0.5,
        "map_area": 0.25,
        "iou_threshold": 0.5,
        "counted_classes": 2,
        "ground_truths": 6,
        "detections": 4,
        "classes": {
            "cat": {"ap_11point": 0.5, "ap_area": 0.25, "ground_truths": 4, "detections": 3},
            "dog": {"ap_11point": 0.5, "ap_area": 0.25, "ground_truths": 2, "detections": 0},
            "none": {"ap_11point": None, "ap_area": None, "ground_truths": 0, "detections": 1},
        },
        "coco": {"AP": 0.25, "AP_small": None},
        "settings": {"split": "test", "limit": None},
    }
    assert list(path.parent.iterdir()) == [path]


def test_metrics_without_coco():
    assert "coco" not in metrics_dict(RESULT)


def test_names_are_drawn_as_they_are(tmp_path, recwarn):
    """No formula, no error of its parser, and no warning for each character that the font lacks."""
    names = ("$\\foo$", "a_b^c$x$", "$", "猫", "الكلب", "\U0001f600", "x" * 300, "half\udce9", "\0\n")
    plot_precision_recall(tmp_path / "curves.png", VOCResult(0.5, tuple(curve(n, [1, 1], 2) for n in names)))
    assert (tmp_path / "curves.png").is_file()
    assert list(recwarn) == []
    figure = new_figure(1, 1)
    text = figure.text(0, 0, "$x$")
    write_png(tmp_path / "text.png", figure)
    assert not text.get_parse_math()


def test_names_are_no_markup():
    result = VOCResult(0.5, (curve("dog [small]", [1], 1), curve("[/b]", [1], 1)))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(class_table(result, "set [red]"))
    text = console.export_text()
    for name in ("dog [small]", "[/b]", "set [red]"):
        assert name in text


@pytest.mark.parametrize(
    ("setting", "error"), [(object(), TypeError), (np.nan, ValueError)], ids=["object", "nan"]
)
def test_settings_that_json_cannot_hold(tmp_path, setting, error):
    with pytest.raises(error):
        write_metrics(tmp_path / "metrics.json", RESULT, settings={"x": setting})
    assert not list(tmp_path.iterdir())


def test_table():
    console = Console(width=100)
    with console.capture() as capture:
        console.print(class_table(RESULT, "title"))
    rows = [line.replace("│", "┃").split("┃")[1:-1] for line in capture.get().splitlines() if line[0] in "│┃"]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["class", "AP 11-pt", "AP area", "ground truths", "detections"],
        ["cat", "50.0", "25.0", "4", "3"],
        ["dog", "50.0", "25.0", "2", "0"],
        ["none", "–", "–", "0", "1"],
        ["mean of 2 of 3 classes", "50.0", "25.0", "6", "4"],
    ]


@pytest.mark.parametrize("classes", [1, 3, 27])
def test_plot_has_a_panel_for_each_class(tmp_path, classes):
    path = tmp_path / "curves.png"
    plot_precision_recall(path, VOCResult(0.5, (RESULT.classes * 9)[:classes]))
    ink = (read_image(path) < 128).any(axis=2)
    columns = 5 if classes <= 25 else 6
    # Only frames have long dark horizontal lines: two for each panel, at the same heights within a row.
    runs = np.array([np.ones(ink.shape[1] // columns // 2)], np.uint8)
    lines = cv2.erode(ink.astype(np.uint8), runs, borderValue=0)
    count, _ = cv2.connectedComponents(lines)
    assert count - 1 == 2 * classes
    assert ink.shape[0] / -(-classes // columns) == pytest.approx(2.3 * 110)
    assert ink.shape[1] / columns == pytest.approx(2.4 * 110)
    assert list(tmp_path.iterdir()) == [path]


def test_plot_of_real_curves(tmp_path):
    """Curves that begin with NaN precision (matches with difficult objects) raise no warning."""
    ground_truth, detections = synthetic_test_set(10, seed=1)
    plot_precision_recall(tmp_path / "curves.png", evaluate_voc(ground_truth, detections))
    assert read_image(tmp_path / "curves.png").shape == (4 * 253, 5 * 264, 3)
