"""COCO figures: known answers, and the effect of difficult objects."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sppnet.data.coco import load_coco
from sppnet.data.detections import Detections
from sppnet.data.types import Dataset, Example
from sppnet.eval.coco import STATS, coco_metrics
from sppnet.eval.detections import write_coco_results


def make_example(image_id, boxes, labels, difficult=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    flags = np.zeros(len(boxes), bool)
    difficult = flags if difficult is None else np.array(difficult)
    path = Path(f"{image_id}.jpg")
    return Example(image_id, path, 500, 500, boxes, np.array(labels, np.int64), difficult, flags)


def make_detections(boxes, scores, labels):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


BOX, FAR = [0, 0, 50, 50], [200, 200, 210, 210]  # medium and small
GROUND_TRUTH = Dataset(
    "made", "test", ("a", "b", "none"), (make_example("x", [BOX, FAR], [0, 1]), make_example("y", [BOX], [0]))
)


def test_perfect(capsys):
    detections = {"x": make_detections([BOX, FAR], [1, 1], [0, 1]), "y": make_detections([BOX], [1], [0])}
    figures = coco_metrics(GROUND_TRUTH, detections)
    assert tuple(figures) == STATS
    expected = dict.fromkeys(STATS, 1.0) | {"AP_large": np.nan, "AR_large": np.nan}
    np.testing.assert_allclose(list(figures.values()), list(expected.values()))
    assert capsys.readouterr().out == ""


def test_no_detections():
    figures = coco_metrics(GROUND_TRUTH, {})
    assert (figures["AP"], figures["AR_100"]) == (0, 0)


def test_no_ground_truth():
    ground_truth = Dataset("made", "test", ("a",), (make_example("x", [BOX], [0], [True]),))
    assert np.isnan(list(coco_metrics(ground_truth, {"x": make_detections([BOX], [1], [0])}).values())).all()
    assert np.isnan(list(coco_metrics(Dataset("made", "test", (), ()), {}).values())).all()


def test_mean_over_thresholds():
    """IoU 0.8 counts at 0.5, 0.55 … 0.8 (7 of 10); the missed class halves the mean."""
    detections = {name: make_detections([[0, 0, 50, 40]], [1], [0]) for name in "xy"}
    figures = coco_metrics(GROUND_TRUTH, detections)
    assert figures["AP"] == pytest.approx((7 / 10 + 0) / 2)
    assert (figures["AP50"], figures["AP75"]) == (pytest.approx(1 / 2), pytest.approx(1 / 2))
    assert figures["AP_medium"] == pytest.approx(7 / 10)


@pytest.mark.parametrize(
    ("difficult", "ap50"),
    [pytest.param([False, True], 1, id="forgiven"), pytest.param([False, False], 1 / 2, id="counted")],
)
def test_difficult_is_a_crowd(difficult, ap50):
    """A box within a difficult object does not count, although its IoU is 1/4 (see `coco_metrics`)."""
    ground_truth = Dataset("made", "test", ("a",), (make_example("x", [FAR, BOX], [0, 0], difficult),))
    detections = {"x": make_detections([[0, 0, 25, 25], [0, 0, 25, 25], FAR], [3, 2, 1], [0, 0, 0])}
    figures = coco_metrics(ground_truth, detections)
    # If it counts, one of two objects is hit at rank 3: precision 1/3 up to recall 1/2 (51 of 101 points).
    expected = 1 if ap50 == 1 else 51 / 101 / 3
    assert figures["AP50"] == pytest.approx(expected)


def test_first_match_counts():
    """pycocotools takes id 0 for no match; the first object and the first detection must still count."""
    ground_truth = Dataset("made", "test", ("a",), (make_example("x", [BOX], [0]),))
    assert coco_metrics(ground_truth, {"x": make_detections([BOX], [1], [0])})["AP"] == pytest.approx(1)


def test_results_have_the_ids_of_the_file(tmp_path):
    """pycocotools gives the same figures from the results and from annotations whose ids have gaps."""
    rng = np.random.default_rng(0)
    annotations, detections = [], {}
    for image in (900, 7, 42):
        (tmp_path / f"{image}.png").write_bytes(b"")
        boxes, labels = [], []
        for category in (3, 90, 18, 3):
            left, top, width, height = rng.integers(1, 120, 4).tolist()
            box = [left, top, width, height]
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": category,
                                "bbox": box, "area": width * height, "iscrowd": 0})  # fmt: skip
            shift = rng.uniform(-8, 8, 4)
            boxes.append(np.array([left, top, left + width, top + height]) + shift * [1, 1, 0, 0])
            labels.append((3, 18, 90).index(category) if rng.random() < 0.8 else 0)
        detections[str(image)] = make_detections(boxes, rng.random(4), labels)
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 300, "height": 300}
            for number in (900, 7, 42)
        ],
        "categories": [{"id": number, "name": f"c{number}"} for number in (90, 3, 18)],
        "annotations": annotations,
    }
    (tmp_path / "made.json").write_text(json.dumps(content))
    dataset = load_coco(tmp_path / "made.json", tmp_path)
    figures = coco_metrics(dataset, detections)
    assert 0.1 < figures["AP50"] < 0.95
    assert coco_metrics(replace(dataset, category_ids=None, image_ids=None), detections) == pytest.approx(
        figures, nan_ok=True
    )
    write_coco_results(tmp_path / "coco.json", detections, dataset.category_ids, dataset.image_ids)
    expected = figures_of_files(tmp_path / "made.json", tmp_path / "coco.json")
    np.testing.assert_allclose(list(figures.values()), expected, atol=1e-6)


def figures_of_files(annotations, results):
    """Computes the figures with pycocotools alone, from the two files."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(annotations))
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats)


def random_files(folder, rng, image_ids):
    """Writes a COCO file in random order, and returns its data set and detections with many ties.

    All edges are tenths of a pixel on a coarse grid, so that equal overlaps and overlaps of exactly a
    threshold are common.
    """
    (folder / "a.png").write_bytes(b"")
    categories = (7, 30, 2)

    def boxes(count):
        left_top, sizes = rng.integers(0, 3, (count, 2)), rng.integers(1, 5, (count, 2))
        return (left_top * 107 + 1) / 10, sizes * 107 / 10

    annotations = []
    for image_id in image_ids:
        for left_top, size in zip(*boxes(rng.integers(0, 5)), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(categories)),
                    "bbox": [*left_top.tolist(), *size.tolist()],
                    "area": float(size[0] * size[1]),
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
    images = [{"id": number, "file_name": "a.png", "width": 90, "height": 90} for number in image_ids]
    content = {
        "images": images,
        "categories": [{"id": number, "name": f"c{number}"} for number in categories],
        "annotations": [annotations[index] for index in rng.permutation(len(annotations))],
    }
    (folder / "made.json").write_text(json.dumps(content))
    dataset = load_coco(folder / "made.json", folder)
    detections = {}
    for example in dataset:
        left_top, sizes = boxes(8)
        edges = np.concatenate([left_top, left_top + sizes], axis=1)
        scores, labels = rng.choice([0.3, 0.7], 8), rng.integers(0, 3, 8)
        detections[example.image_id] = make_detections(edges, scores, labels)
    return dataset, detections


@pytest.mark.parametrize(
    "image_ids",
    [
        pytest.param([900, 7, 42, 10**12, 8], id="numbers"),
        pytest.param(["b", "10", "9", "a/c", "é"], id="texts"),
        pytest.param(["000010", "000009", "11", "2", "1"], id="texts-of-digits"),
    ],
)
def test_equals_pycocotools_on_the_files(tmp_path, image_ids):
    for seed in range(4):
        dataset, detections = random_files(tmp_path, np.random.default_rng(seed), image_ids)
        write_coco_results(tmp_path / "coco.json", detections, dataset.category_ids, dataset.image_ids)
        expected = figures_of_files(tmp_path / "made.json", tmp_path / "coco.json")
        figures = list(coco_metrics(dataset, detections).values())
        np.testing.assert_allclose(figures, expected, rtol=0, atol=1e-9)


def test_order_of_plain_images_is_that_of_their_ids():
    """Of two equal scores, that of image 9 counts first: a miss, so the precision at the hit is 1/2."""
    ground_truth = {10: {"boxes": [BOX], "labels": ["a"]}, 9: {"boxes": [BOX], "labels": ["a"]}}
    detections = {
        name: {"boxes": [box], "labels": ["a"], "scores": [0.5]} for name, box in ((9, FAR), (10, BOX))
    }
    turned = dict(reversed(ground_truth.items()))
    for order in (ground_truth, turned):
        # A recall of 1/2 reaches 51 of the 101 points.
        assert coco_metrics(order, detections)["AP50"] == pytest.approx(51 / 101 / 2)
