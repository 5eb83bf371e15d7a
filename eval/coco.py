"""The COCO figures of the same detections, through pycocotools."""

import contextlib
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sppnet.data.types import Dataset, Detections

# The order of COCOeval.summarize().
STATS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


def coco_metrics(dataset: Dataset, detections: Mapping[str, Detections]) -> dict[str, float]:
    """The twelve figures of COCO's detection challenge, from pycocotools.

    What differs from `sppnet.eval.voc.evaluate_voc`: a mean over IoU 0.5 to 0.95, 101 recall points, at most
    100 detections a class and image, and each detection goes to the *free* object it overlaps most.

    VOC's ``difficult`` becomes ``iscrowd``, the only flag that pycocotools obeys (it overwrites ``ignore``
    with it). A difficult object adds nothing to the recall, and what is matched to it is neither right nor
    wrong, as in VOC. But for a crowd pycocotools divides the intersection by the area of the *detection*, not
    of the union; so small boxes that lie within a difficult object are forgiven, where VOC calls them false.

    Areas (small < 32² pixels <= medium <= 96² < large) are those of the boxes; COCO's own use the segment.

    Args:
        dataset: the ground truth.
        detections: image id → detections, labels indexing ``dataset.classes``. Images that the data set lacks
            are left out here and refused by `sppnet.eval.voc.evaluate_voc`.

    Returns:
        AP, AP50, AP75, AP_small, AP_medium, AP_large, AR_1, AR_10, AR_100, AR_small, AR_medium, AR_large in
        [0, 1]; nan where no object has that size.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        # One class at a time: pycocotools wants a dictionary for each detection; all at once fill the memory.
        parts = [_evaluate_class(dataset, detections, label) for label in range(len(dataset.classes))]
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
    dataset: Dataset, detections: Mapping[str, Detections], label: int
) -> dict[str, NDArray[np.float64]] | None:
    """pycocotools' precision (T, R, 1, A, M) and recall (T, 1, A, M) of a class; None without objects."""
    objects: list[dict[str, object]] = []
    found: list[dict[str, object]] = []
    for image, example in enumerate(dataset):
        rows = np.flatnonzero(example.labels == label)
        for box, difficult in zip(example.boxes[rows], example.difficult[rows].tolist(), strict=True):
            objects.append(_annotation(len(objects), image, box) | {"iscrowd": int(difficult)})
        if example.image_id in detections:
            its = detections[example.image_id]
            rows = np.flatnonzero(its.labels == label)
            for box, score in zip(its.boxes[rows], its.scores[rows].tolist(), strict=True):
                found.append(_annotation(len(found), image, box) | {"score": score})
    if all(annotation["iscrowd"] for annotation in objects):
        return None
    evaluation = COCOeval(_index(objects), _index(found), "bbox")
    evaluation.params.imgIds = sorted({annotation["image_id"] for annotation in objects + found})
    evaluation.params.catIds = [1]
    evaluation.evaluate()
    evaluation.accumulate()
    return {name: evaluation.eval[name] for name in ("precision", "recall")}


def _annotation(index: int, image: int, box: NDArray[np.float32]) -> dict[str, object]:
    left, top, right, bottom = box.tolist()
    size = (right - left, bottom - top)
    # Ids count from 1: to pycocotools a match with id 0 is no match.
    return {
        "id": index + 1,
        "image_id": image,
        "category_id": 1,
        "bbox": [left, top, *size],
        "area": size[0] * size[1],
    }


def _index(annotations: list[dict[str, object]]) -> COCO:
    images = {annotation["image_id"] for annotation in annotations}
    index = COCO()
    index.dataset = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": 1}],
        "annotations": annotations,
    }
    index.createIndex()
    return index
