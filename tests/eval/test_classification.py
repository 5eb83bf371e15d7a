"""Top-1, top-5, confusion: by hand, and against scikit-learn."""

import csv
import json

import cv2
import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from sppnet.eval.classification import evaluate_classification
from sppnet.eval.classification_report import accuracy_table, write_classification

ABC = ("ant", "bee", "cat")


@pytest.fixture
def by_hand():
    """Scores of three images: of two ants one is taken for a bee, one bee is taken for a cat; no cats."""
    scores = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.2, 0.7]], np.float32)
    return evaluate_classification(scores, np.array([0, 0, 1]), ABC)


def test_by_hand(by_hand):
    np.testing.assert_array_equal(by_hand.confusion, [[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert by_hand.images == 3
    assert by_hand.top1_error == pytest.approx(2 / 3)
    assert by_hand.top5_error == 0
    np.testing.assert_array_equal(by_hand.accuracies, np.float32([0.5, 0, np.nan]))


def test_equals_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, 300)
    scores = rng.random((300, 12), np.float32)
    scores[np.arange(300), labels] += 0.3
    result = evaluate_classification(scores, labels, [str(number) for number in range(12)])
    for error, k in ((result.top1_error, 1), (result.top5_error, 5)):
        assert error == pytest.approx(1 - top_k_accuracy_score(labels, scores, k=k))
    expected = confusion_matrix(labels, scores.argmax(axis=1), labels=range(12))
    np.testing.assert_array_equal(result.confusion, expected)


def test_of_equal_scores_the_first_counts():
    result = evaluate_classification(np.zeros((7, 7), np.float32), np.arange(7), list("abcdefg"))
    assert result.top1_error == pytest.approx(6 / 7)
    assert result.top5_error == pytest.approx(2 / 7)


@pytest.mark.parametrize(
    ("shape", "labels"), [((0, 3), []), ((2, 3), [0]), ((1, 4), [0])], ids=["no image", "labels", "classes"]
)
def test_shapes_that_do_not_match(shape, labels):
    with pytest.raises(ValueError, match="classes"):
        evaluate_classification(np.zeros(shape, np.float32), np.array(labels, np.int64), ABC)


def test_files(by_hand, tmp_path):
    write_classification(tmp_path / "new", by_hand, {"views": "ten"})
    written = json.loads((tmp_path / "new" / "classification.json").read_text())
    assert written["accuracy"] == {"ant": 0.5, "bee": 0.0, "cat": None}
    assert written["settings"] == {"views": "ten"}
    with (tmp_path / "new" / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == list(ABC)
    assert rows[1] == ["ant", "1", "1", "0"]
    assert rows[2] == ["bee", "0", "0", "1"]


def test_picture_shades_the_cells(tmp_path):
    """Right answers in every class give a dark diagonal, also with too many classes for names."""
    for count in (4, 130):
        classes = [f"c{number}" for number in range(count)]
        result = evaluate_classification(np.eye(count, dtype=np.float32), np.arange(count), classes)
        write_classification(tmp_path, result)
        picture = cv2.imread(str(tmp_path / "confusion.png"))
        dark = (picture[:, :, 0].astype(int) - picture[:, :, 2] > 80).mean()
        assert 0.3 / count < dark < 1.1 / count


def test_table(by_hand):
    console = Console(width=100, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(accuracy_table(by_hand, "three"))
    text = captured.get()
    ant, bee, cat = (next(line for line in text.splitlines() if name in line[:6]) for name in ABC)
    assert "50.0" in ant
    assert "bee (1)" in ant
    assert "cat (1)" in bee
    assert "–" in cat
