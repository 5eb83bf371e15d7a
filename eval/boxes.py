"""Computes the intersection over union of boxes."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]


def box_iou(boxes_a: ArrayLike, boxes_b: ArrayLike) -> Float64:
    """Computes the intersection over union of every box of one set with every box of another.

    The arithmetic is in float64, so an overlap of exactly one half gives 0.5. On pixel edges it equals the
    devkit's arithmetic on inclusive pixels with ``+1``.

    Args:
        boxes_a: (N, 4) xyxy, pixel edges.
        boxes_b: (M, 4) xyxy, pixel edges.

    Returns:
        float64 (N, M) in [0, 1]; 0 for boxes that only touch, and for two empty boxes.

    Example:
        >>> box_iou([[0, 0, 10, 10], [0, 0, 10, 5]], [[0, 0, 10, 10], [20, 20, 30, 30]])
        array([[1. , 0. ],
               [0.5, 0. ]])
    """
    a = np.asarray(boxes_a, np.float64).reshape(-1, 1, 4)
    b = np.asarray(boxes_b, np.float64).reshape(1, -1, 4)
    return paired_iou(a, b)


def paired_iou(a: Float64, b: Float64) -> Float64:
    """Computes the intersection over union of boxes (…, 4) that broadcast against each other."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    intersection = width.clip(min=0) * height.clip(min=0)
    union = _area(a) + _area(b) - intersection
    iou: Float64 = np.zeros_like(intersection)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def _area(boxes: Float64) -> Float64:
    area: Float64 = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area
