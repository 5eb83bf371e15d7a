"""Measures time and memory of `evaluate_voc` at the size of VOC2007's test set, beside plain loops.

Run it with ``python -m benchmarks.voc_evaluation``.
"""

import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sppnet.data.detections import Detections
from sppnet.data.types import Dataset, Example
from sppnet.eval import evaluate_voc

# VOC2007 test: 4,952 images, 20 classes, 14,976 objects, of which 2,944 are difficult.
IMAGES, CLASSES, OBJECTS, DIFFICULT = 4952, 20, 14976, 2944
# Number of detections per class and image: the released SPP-net code keeps at most 100.
PER_CLASS = 100


def evaluate_slowly(
    dataset: Dataset, detections: Mapping[str, Detections], iou_threshold: float = 0.5
) -> list[tuple[float, float]]:
    """Evaluates with VOCevaldet.m in plain loops: the reference for `evaluate_voc` in tests and here.

    Returns:
        (11-point, area) average precision of each class; NaN for a class without ground truth.
    """
    return [
        _evaluate_class_slowly(dataset, detections, label, iou_threshold)
        for label in range(len(dataset.classes))
    ]


def _evaluate_class_slowly(
    dataset: Dataset, detections: Mapping[str, Detections], label: int, iou_threshold: float
) -> tuple[float, float]:
    objects: dict[str, list[tuple[list[float], bool]]] = {}
    lines: list[tuple[float, str, list[float]]] = []
    for example in dataset:
        rows = [row for row in range(len(example.labels)) if example.labels[row] == label]
        objects[example.image_id] = [
            (example.boxes[row].tolist(), bool(example.difficult[row])) for row in rows
        ]
        if example.image_id in detections:
            for box, score, detected_label in detections[example.image_id]:
                if detected_label == label:
                    lines.append((score, example.image_id, box.tolist()))
    positives = sum(not difficult for image in objects.values() for _, difficult in image)
    if positives == 0:
        return np.nan, np.nan
    lines.sort(key=lambda line: -line[0])  # Python's sort is stable.
    taken: set[tuple[str, int]] = set()
    true_positives = false_positives = 0
    curve: list[tuple[float, float]] = []
    for _, image, edges in lines:
        best, match = 0.0, -1
        for index, (object_box, _) in enumerate(objects[image]):
            width = min(edges[2], object_box[2]) - max(edges[0], object_box[0])
            height = min(edges[3], object_box[3]) - max(edges[1], object_box[1])
            if width > 0 and height > 0:
                areas = [(right - left) * (bottom - top) for left, top, right, bottom in (edges, object_box)]
                overlap = width * height / (areas[0] + areas[1] - width * height)
                if overlap > best:
                    best, match = overlap, index
        if best < iou_threshold:
            false_positives += 1
        elif not objects[image][match][1]:
            if (image, match) in taken:
                false_positives += 1
            else:
                taken.add((image, match))
                true_positives += 1
        if true_positives + false_positives:
            curve.append((true_positives / positives, true_positives / (true_positives + false_positives)))
    eleven = sum(max([p for r, p in curve if r >= k * 0.1], default=0.0) / 11 for k in range(11))
    area, best_precision = 0.0, 0.0
    for index in reversed(range(len(curve))):
        best_precision = max(best_precision, curve[index][1])
        area += (curve[index][0] - (curve[index - 1][0] if index else 0)) * best_precision
    return eleven, area


def synthetic_test_set(images: int, seed: int = 0) -> tuple[Dataset, dict[str, Detections]]:
    """Makes random objects in VOC2007's numbers, and 100 detections per class and image."""
    rng = np.random.default_rng(seed)
    examples, detections = [], {}
    for index in range(images):
        count = rng.poisson(OBJECTS / IMAGES)
        boxes = _random_boxes(rng, count)
        labels = rng.integers(0, CLASSES, count)
        difficult = rng.random(count) < DIFFICULT / OBJECTS
        name = f"{index:06d}"
        examples.append(
            Example(name, Path(f"{name}.jpg"), 500, 375, boxes, labels, difficult, np.zeros(count, np.bool_))
        )
        detected_boxes = _random_boxes(rng, CLASSES * PER_CLASS)
        detected_labels = np.repeat(np.arange(CLASSES), PER_CLASS)
        for box, label in zip(boxes, labels, strict=True):
            near = rng.choice(np.flatnonzero(detected_labels == label), 5)
            detected_boxes[near] = box + np.tile(rng.normal(0, 8, (5, 2)), 2)
        scores = rng.normal(size=len(detected_boxes)).astype(np.float32)
        detections[name] = Detections(detected_boxes, scores, detected_labels)
    names = tuple(f"class{label}" for label in range(CLASSES))
    return Dataset("synthetic", "test", names, tuple(examples)), detections


def _random_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    corners = rng.integers(0, 300, (count, 2))
    return np.concatenate([corners, corners + rng.integers(20, 200, (count, 2))], axis=1).astype(np.float32)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints the seconds at full size, the ratio to plain loops on a part, and the memory."""
    part, part_detections = synthetic_test_set(50)
    fast = _seconds(lambda: evaluate_voc(part, part_detections))
    slow = _seconds(lambda: evaluate_slowly(part, part_detections))
    print(f"50 images: {fast:.3f} s, plain loops {slow:.2f} s, ratio {slow / fast:.0f}")
    dataset, detections = synthetic_test_set(IMAGES)
    before = _peak_megabytes()
    seconds = _seconds(lambda: evaluate_voc(dataset, detections))
    count = sum(map(len, detections.values()))
    print(
        f"{IMAGES} images, {count:,} detections: {seconds:.1f} s, "
        f"{_peak_megabytes() - before:.0f} MB beside the detections"
    )


if __name__ == "__main__":
    main()
