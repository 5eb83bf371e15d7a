"""Computes COCO's figures of detections with pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sppnet.eval.boxes import Float64
from sppnet.eval.plain import (
    DetectionsLike,
    Floats,
    GroundTruthLike,
    Objects,
    ScoredBoxes,
    read_detections,
    read_ground_truth,
)

# Imported in the functions, so that VOC's evaluation starts without pycocotools.
if TYPE_CHECKING:
    from pycocotools.coco import COCO

# The order of COCOeval.summarize().
STATS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


def coco_metrics(
    ground_truth: GroundTruthLike, detections: DetectionsLike, *, classes: Sequence[str] | None = None
) -> dict[str, float]:
    """Computes the twelve figures of COCO's detection challenge with pycocotools.

    Differences from `sppnet.eval.evaluate_voc`: AP is a mean over IoU 0.5 to 0.95, with 101 recall points and
    at most 100 detections for each class and image. Each detection is matched with the object that it
    overlaps most among the objects that are still *free*.

    VOC's ``difficult`` becomes ``iscrowd``, the only flag that pycocotools obeys (it overwrites ``ignore``
    with it). As in VOC, a difficult object adds nothing to the recall, and a detection that is matched with
    it is neither right nor wrong. But for a crowd pycocotools divides the intersection by the area of the
    *detection*, not of the union. So small boxes within a difficult object are not counted, while VOC counts
    them as false.

    Areas (small < 32² pixels <= medium <= 96² < large) are areas of boxes; COCO's own figures use the area of
    the segment.

    Args:
        ground_truth: in the forms of `sppnet.eval.evaluate_voc`.
        detections: in the forms of `sppnet.eval.evaluate_voc`.
        classes: as in `sppnet.eval.evaluate_voc`.

    Returns:
        AP, AP50, AP75, AP_small, AP_medium, AP_large, AR_1, AR_10, AR_100, AR_small, AR_medium, AR_large in
        [0, 1]; NaN if no object has that size.

    Raises:
        InputError: as in `sppnet.eval.evaluate_voc`.

    Example:
        >>> ground_truth = {"a.jpg": {"boxes": [[0, 0, 50, 50]], "labels": ["cat"]}}
        >>> detections = {"a.jpg": {"boxes": [[0, 0, 50, 40]], "labels": ["cat"], "scores": [0.9]}}
        >>> figures = coco_metrics(ground_truth, detections)
        >>> round(figures["AP50"], 6), round(figures["AP"], 6)
        (1.0, 0.7)
    """
    from pycocotools.cocoeval import COCOeval

    checked = read_ground_truth(ground_truth, classes)
    scored = read_detections(detections, checked)
    with contextlib.redirect_stdout(io.StringIO()):
        # pycocotools needs a dictionary for each detection; all classes at once would fill the memory.
        parts = [_evaluate_class(checked.objects, scored, label) for label in range(len(checked.classes))]
        total = COCOeval(iouType="bbox")
        shape = (len(total.params.iouThrs), len(total.params.recThrs), 0, 4, 3)
        precision, recall = np.empty(shape), np.empty((shape[0], *shape[2:]))
        counted = [part for part in parts if part is not None]
        total.eval = {
            "precision": np.concatenate([precision, *(part["precision"] for part in counted)], axis=2),
            "recall": np.concatenate([recall, *(part["recall"] for part in counted)], axis=1),
        }
        total.summarize()
    return {
        name: float(value) if value >= 0 else np.nan for name, value in zip(STATS, total.stats, strict=True)
    }


def _evaluate_class(
    objects: Sequence[Objects], scored: Sequence[ScoredBoxes], label: int
) -> dict[str, Float64] | None:
    """Returns pycocotools' precision (T, R, 1, A, M) and recall (T, 1, A, M) of a class; None: no objects."""
    from pycocotools.cocoeval import COCOeval

    annotations: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for image, (image_objects, image_results) in enumerate(zip(objects, scored, strict=True)):
        for row in np.flatnonzero(image_objects.labels == label):
            annotation = _annotation(len(annotations), image, image_objects.boxes[row])
            annotations.append(annotation | {"iscrowd": int(image_objects.difficult[row])})
        for row in np.flatnonzero(image_results.labels == label):
            result = _annotation(len(results), image, image_results.boxes[row])
            results.append(result | {"score": float(image_results.scores[row])})
    if all(annotation["iscrowd"] for annotation in annotations):
        return None
    evaluation = COCOeval(_index(annotations), _index(results), "bbox")
    evaluation.params.imgIds = sorted({entry["image_id"] for entry in annotations + results})
    evaluation.params.catIds = [1]
    evaluation.evaluate()
    evaluation.accumulate()
    return {name: evaluation.eval[name] for name in ("precision", "recall")}


def _annotation(index: int, image: int, box: Floats) -> dict[str, object]:
    left, top, right, bottom = box.tolist()
    size = (right - left, bottom - top)
    # Ids count from 1 because pycocotools takes a match with id 0 for no match.
    return {
        "id": index + 1,
        "image_id": image,
        "category_id": 1,
        "bbox": [left, top, *size],
        "area": size[0] * size[1],
    }


def _index(annotations: list[dict[str, object]]) -> "COCO":
    from pycocotools.coco import COCO

    images = {annotation["image_id"] for annotation in annotations}
    index = COCO()
    index.dataset = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": 1}],
        "annotations": annotations,
    }
    index.createIndex()
    return index
