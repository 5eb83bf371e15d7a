"""Detections of photos for other programs: each file is read back by a reader of its own."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data import Detections, load_coco
from sppnet.data.photos import Photo
from sppnet.eval import read_voc_detections
from sppnet.eval.exports import (
    PhotoDetections,
    export_coco,
    export_csv,
    export_json,
    export_voc,
    export_yolo,
)

CLASSES = ("cat", 'a "dog", grey', "Katze ä")
ODD = os.fsdecode(b"b\xe9.jpg")
BOXES = [[0, 0, 20, 10], [10.25, 20.5, 60, 70.123456], [5, 5, 15, 25]]


@pytest.fixture
def results():
    """A photo with three detections, one without any whose name is not UTF-8, and a frame."""
    detections = Detections.of(BOXES, [0.25, 0.75, 0.123456789], [0, 1, 2])
    return [
        PhotoDetections(Photo(Path("in/trip/a.jpg"), "trip/a.jpg"), 100, 80, detections),
        PhotoDetections(Photo(Path("in", ODD), ODD), 50, 40, Detections.empty()),
        PhotoDetections(Photo(Path("clip.mp4"), "clip.mp4", 30), 64, 48, detections[[0]]),
    ]


def test_json(results, tmp_path):
    path = tmp_path / "new" / "a.json"
    export_json(path, results, CLASSES)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["classes"] == list(CLASSES)
    photos = document["photos"]
    assert [photo["photo"] for photo in photos] == ["in/trip/a.jpg", f"in/{ODD}", "clip.mp4#000030"]
    assert [(photo["width"], photo["height"]) for photo in photos] == [(100, 80), (50, 40), (64, 48)]
    assert photos[0]["detections"][0] == {
        "class": 'a "dog", grey', "score": 0.75, "xmin": 10.25, "ymin": 20.5, "xmax": 60.0, "ymax": 70.12,
    }  # fmt: skip
    scores = [detection["score"] for detection in photos[0]["detections"]]
    # The score comes back exactly, with no more digits than it needs.
    assert scores == [0.75, 0.25, 0.12345679]
    assert np.float32(scores[2]) == np.float32(0.123456789)
    assert photos[1]["detections"] == []


def test_csv(results, tmp_path):
    path = tmp_path / "a.csv"
    export_csv(path, results, CLASSES)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["photo"] for row in rows] == ["in/trip/a.jpg"] * 3 + ["clip.mp4#000030"]
    assert rows[0] == {
        "photo": "in/trip/a.jpg", "class": 'a "dog", grey', "score": "0.75",
        "xmin": "10.25", "ymin": "20.5", "xmax": "60.0", "ymax": "70.12",
    }  # fmt: skip
    odd = PhotoDetections(results[1].photo, 50, 40, results[2].detections)
    export_csv(path, [odd], CLASSES)
    assert "\nin/b\\udce9.jpg,cat," in path.read_text(encoding="utf-8")


def test_coco(results, tmp_path):
    path = tmp_path / "a.json"
    export_coco(path, results, CLASSES)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert [image["file_name"] for image in document["images"]] == ["trip/a.jpg", ODD, "clip.mp4#000030"]
    assert [category["name"] for category in document["categories"]] == list(CLASSES)
    assert document["annotations"][0] == {
        "id": 1, "image_id": 1, "category_id": 2, "bbox": [10.25, 20.5, 49.75, 49.62], "area": 2468.77,
        "iscrowd": 0, "score": 0.75,
    }  # fmt: skip
    assert [annotation["image_id"] for annotation in document["annotations"]] == [1, 1, 1, 3]


def test_coco_is_a_data_set(results, tmp_path):
    (tmp_path / "trip").mkdir()
    (tmp_path / "trip" / "a.jpg").touch()
    export_coco(tmp_path / "a.json", results[:1], CLASSES)
    (example,) = load_coco(tmp_path / "a.json", tmp_path)
    np.testing.assert_allclose(example.boxes, np.array(BOXES)[[1, 0, 2]], atol=0.01)
    assert example.labels.tolist() == [1, 0, 2]


def test_voc(results, tmp_path):
    results[1] = PhotoDetections(results[1].photo, 50, 40, Detections.of([[1, 2, 3, 4]], [0.5], [2]))
    export_voc(tmp_path, results, CLASSES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"comp4_det_test_{name}.txt" for name in CLASSES
    )
    detections = read_voc_detections(tmp_path, CLASSES)
    assert set(detections) == {"trip/a", "b\\udce9", "clip.mp4#000030"}
    np.testing.assert_allclose(detections["trip/a"].boxes, BOXES, atol=1e-4)
    np.testing.assert_array_equal(detections["trip/a"].scores, results[0].detections.scores)


def test_voc_of_any_name(tmp_path):
    def result(name):
        return PhotoDetections(Photo(Path(name), name), 9, 9, Detections.of([[1, 2, 3, 4]], [0.5], [2]))

    export_voc(tmp_path, [result("my photo.jpg"), result("two\nlines.jpg")], CLASSES)
    assert set(read_voc_detections(tmp_path, CLASSES)) == {"my photo", "two\\nlines"}
    with pytest.raises(InputError, match="the image id 'blank ' begins or ends with a blank"):
        export_voc(tmp_path, [result("blank .jpg")], CLASSES)


def test_yolo(results, tmp_path):
    export_yolo(tmp_path, results, CLASSES)
    labels = tmp_path / "labels"
    files = sorted(str(path.relative_to(labels)) for path in labels.rglob("*.txt"))
    assert files == sorted(["trip/a.txt", os.fsdecode(b"b\xe9.txt"), "clip.mp4#000030.txt"])
    assert (labels / os.fsdecode(b"b\xe9.txt")).read_text() == ""
    rows = np.loadtxt(labels / "trip" / "a.txt")
    assert rows[:, 0].tolist() == [1, 0, 2]
    assert rows[:, 5].tolist() == [0.75, 0.25, 0.12345679]
    middles, sizes = rows[:, 1:3] * (100, 80), rows[:, 3:5] * (100, 80)
    corners = np.hstack([middles - sizes / 2, middles + sizes / 2])
    np.testing.assert_allclose(corners, np.array(BOXES)[[1, 0, 2]], atol=1e-3)
    lines = (tmp_path / "data.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ["nc: 3", "names:", '  0: "cat"', '  1: "a \\"dog\\", grey"', '  2: "Katze ä"']


def test_yolo_boxes_end_at_the_border(tmp_path):
    detections = Detections.of([[-10, -10, 200, 90]], [0.5], [0])
    export_yolo(tmp_path, [PhotoDetections(Photo(Path("a.jpg"), "a.jpg"), 100, 80, detections)], ["cat"])
    assert (tmp_path / "labels" / "a.txt").read_text().split()[1:5] == ["0.500000"] * 2 + ["1.000000"] * 2


def test_yolo_replaces_its_own_labels_and_no_others(results, tmp_path):
    export_yolo(tmp_path, results, CLASSES)
    export_yolo(tmp_path, results[:1], CLASSES)
    (tmp_path / "data.yaml").write_text("names: [cat]\n")
    with pytest.raises(InputError, match="holds a data set or labels of another program"):
        export_yolo(tmp_path, results, CLASSES)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(InputError, match="give another folder"):
        export_yolo(tmp_path, results, CLASSES)


@pytest.mark.parametrize("export", [export_json, export_csv])
def test_an_error_leaves_no_half_of_a_file(tmp_path, export):
    broken = PhotoDetections(Photo(Path("a.jpg"), "a.jpg"), 9, 9, Detections.of([[0, 0, 1, 1]], [0.5], [7]))
    with pytest.raises(InputError, match="label 7"):
        export(tmp_path / "a", [broken], CLASSES)
    assert list(tmp_path.iterdir()) == []
