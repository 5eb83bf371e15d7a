"""Selects detections from scored proposals by thresholds and non-maximum suppression."""

import numpy as np
import torch
from torchvision.ops import nms

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.detection.detection_settings import DetectionSettings


def suppress(boxes: FloatArray, scores: FloatArray, settings: DetectionSettings) -> tuple[IntArray, IntArray]:
    """Chooses, class by class, the boxes that become detections.

    Args:
        boxes: float32 (N, 4), xyxy.
        scores: float32 (N, C); NaN is below every threshold.
        settings: the thresholds.

    Returns:
        int64 (K,), indices into ``boxes``, and int64 (K,), their labels; grouped by label, best first.

    Example:
        >>> import numpy as np
        >>> boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [30, 0, 40, 10]], np.float32)
        >>> suppress(boxes, np.array([[0.5], [2.0], [1.0]], np.float32), DetectionSettings())
        (array([1, 2]), array([0, 0]))
    """
    indices, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for label, column in enumerate(scores.T):
        candidates = np.flatnonzero(column > settings.min_score)
        kept = nms_best_first(boxes[candidates], column[candidates], settings)
        indices.append(candidates[kept])
        labels.append(np.full(len(kept), label))
    return np.concatenate(indices), np.concatenate(labels)


def nms_best_first(boxes: FloatArray, scores: FloatArray, settings: DetectionSettings) -> IntArray:
    """Applies non-maximum suppression to the boxes of one class.

    Args:
        boxes: float32 (N, 4), xyxy.
        scores: float32 (N,).
        settings: ``nms_iou`` and ``max_per_class``; ``min_score`` is not used.

    Returns:
        int64 (K,), indices of the boxes that remain, best first; of equal scores the first in order.
    """
    kept = nms(
        torch.from_numpy(np.ascontiguousarray(boxes)),
        torch.from_numpy(np.ascontiguousarray(scores)),
        settings.nms_iou,
    )
    indices: IntArray = kept[: settings.max_per_class].numpy()
    return indices
