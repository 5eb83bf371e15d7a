"""Computes COCO's figures of detections with pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sppnet.data.types import Dataset
from sppnet.eval.boxes import Float64, left_top_sizes
from sppnet.eval.detections import coco_image_ids
from sppnet.eval.plain import (
    DetectionsLike,
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

    The figures are those of pycocotools on the COCO file and the file of `write_coco_results`, if the areas
    of that COCO file are areas of boxes, too. As there, the order of the images is that of their ids, and
    within an image the order is that of the files. It matters where scores or overlaps are equal. Edges are
    taken with their decimals in the files; see `sppnet.eval.boxes.edges_in_parts`.

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
    known = ground_truth.image_ids if isinstance(ground_truth, Dataset) else None
    ids = coco_image_ids(checked.image_ids, known)
    order = _sorted_by_id([ids[image_id] for image_id in checked.image_ids])
    images = [(checked.objects[index], scored[index]) for index in order]
    with contextlib.redirect_stdout(io.StringIO()):
        # pycocotools needs a dictionary for each detection; all classes at once would fill the memory.
        parts = [_evaluate_class(images, label) for label in range(len(checked.classes))]
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


def _sorted_by_id(ids: Sequence[int | str]) -> list[int]:
    """Returns the positions of ids in their order: numbers by value, texts by their characters."""
    texts = any(isinstance(image_id, str) for image_id in ids)
    return sorted(range(len(ids)), key=lambda index: str(ids[index]) if texts else ids[index])


def _evaluate_class(images: Sequence[tuple[Objects, ScoredBoxes]], label: int) -> dict[str, Float64] | None:
    """Returns pycocotools' precision (T, R, 1, A, M) and recall (T, 1, A, M) of a class; None: no objects."""
    from pycocotools.cocoeval import COCOeval

    if all(objects.difficult[objects.labels == label].all() for objects, _ in images):
        return None
    annotations: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for image, (objects, scored) in enumerate(images):
        rows = np.flatnonzero(objects.labels == label)
        for box, crowd in zip(left_top_sizes(objects.boxes[rows]), objects.difficult[rows], strict=True):
            annotations.append(_annotation(len(annotations), image, box) | {"iscrowd": int(crowd)})
        rows = np.flatnonzero(scored.labels == label)
        for box, score in zip(left_top_sizes(scored.boxes[rows]), scored.scores[rows], strict=True):
            results.append(_annotation(len(results), image, box) | {"score": float(score)})
    evaluation = COCOeval(_index(annotations), _index(results), "bbox")
    evaluation.params.imgIds = sorted({entry["image_id"] for entry in annotations + results})
    evaluation.params.catIds = [1]
    evaluation.evaluate()
    evaluation.accumulate()
    return {name: evaluation.eval[name] for name in ("precision", "recall")}


def _annotation(index: int, image: int, box: Float64) -> dict[str, object]:
    bbox = box.tolist()
    # Ids count from 1 because pycocotools takes a match with id 0 for no match.
    return {
        "id": index + 1,
        "image_id": image,
        "category_id": 1,
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
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
