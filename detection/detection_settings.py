"""Thresholds of detection, in a module that does not import torch."""

from dataclasses import dataclass

from sppnet.common.errors import InputError


@dataclass(frozen=True)
class DetectionSettings:
    """Thresholds that select detections from scored proposals.

    Attributes:
        nms_iou: a box that overlaps a better box of its class by more than this IoU is dropped (paper §4.1:
            0.3).
        max_per_class: largest number of detections per class and image (released code: 100).
        min_score: detections score above this (released code: -1.5). The softmax head has
            ``finetuning.min_probability`` instead.

    Raises:
        InputError: a value is out of range.

    Example:
        >>> DetectionSettings(nms_iou=0.5).max_per_class
        100
    """

    nms_iou: float = 0.3
    max_per_class: int = 100
    min_score: float = -1.5

    def __post_init__(self) -> None:
        if not 0 <= self.nms_iou <= 1 or self.max_per_class < 1:
            raise InputError(f"{self}: nms_iou must be in [0, 1] and max_per_class at least 1")
