"""From the scores of all windows to the few that stand: thresholds and non-maximum suppression."""

from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import nms

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.common.errors import InputError


@dataclass(frozen=True)
class DetectionSettings:
    """Which scored windows become detections.

    Attributes:
        nms_iou: a window that overlaps a better one of its class by more than this is dropped (paper
            §4.1: 0.3).
        max_per_class: at most so many detections a class and image (released code: 100).
        min_score: windows must score above it (released code: -1.5). For the softmax head
            `finetuning.min_probability` stands in its place.
    """

    nms_iou: float = 0.3
    max_per_class: int = 100
    min_score: float = -1.5

    def __post_init__(self) -> None:
        if not 0 <= self.nms_iou <= 1 or self.max_per_class < 1:
            raise InputError(f"{self}: nms_iou must be in [0, 1] and max_per_class at least 1")


def suppress(boxes: FloatArray, scores: FloatArray, settings: DetectionSettings) -> tuple[IntArray, IntArray]:
    """Chooses, class by class, the windows that stand, best first.

    Args:
        boxes: float32 (N, 4), xyxy.
        scores: float32 (N, C).
        settings: thresholds.

    Returns:
        int64 (K,) windows and int64 (K,) their labels, grouped by label.
    """
    windows, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for label, column in enumerate(scores.T):
        candidates = np.flatnonzero(column > settings.min_score)
        kept = nms_best_first(boxes[candidates], column[candidates], settings)
        windows.append(candidates[kept])
        labels.append(np.full(len(kept), label))
    return np.concatenate(windows), np.concatenate(labels)


def nms_best_first(boxes: FloatArray, scores: FloatArray, settings: DetectionSettings) -> IntArray:
    """Indices of the boxes of one class that stand after suppression, best first."""
    kept = nms(
        torch.from_numpy(np.ascontiguousarray(boxes)),
        torch.from_numpy(np.ascontiguousarray(scores)),
        settings.nms_iou,
    )
    indices: IntArray = kept[: settings.max_per_class].numpy()
    return indices
