"""Computes the intersection over union of boxes."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

# Edges count in these parts of a pixel. Up to 16,384 pixels, float32 tells numbers of three decimals apart.
PARTS = 1000


def edges_in_parts(boxes: ArrayLike) -> Float64:
    """Converts edges to thousandths of a pixel, whole numbers where the file's edges have three decimals.

    A file's 12.3 is 12.30000019 in float32, and even in float64 a difference of decimals is rounded. So an
    overlap of exactly one half in the file's numbers would be a little less or more. Here an edge that is the
    nearest of its type to a number of at most three decimals becomes that number, and arithmetic on whole
    numbers is exact. Other edges keep their value.

    Args:
        boxes: (…, 4) xyxy, pixel edges, of any number type.

    Returns:
        float64 (…, 4), thousandths of a pixel.

    Example:
        >>> edges_in_parts(np.array([12.3, 0.1, 20, 33.3125], np.float32))
        array([12300. ,   100. , 20000. , 33312.5])
    """
    values = np.asarray(boxes)
    parts = values.astype(np.float64) * PARTS
    whole = np.rint(parts)
    nearest = whole / PARTS
    if values.dtype == np.float64:
        # Wide enough for left + width: 10.3 + 20.1 is 30.400000000000002.
        same = abs(nearest - values) <= 2 * np.spacing(abs(values))
    else:
        same = nearest.astype(values.dtype) == values
    edges: Float64 = np.where(same, whole, parts)
    return edges


def left_top_sizes(boxes: ArrayLike) -> Float64:
    """Converts boxes to COCO's left, top, width, height, with the decimals of `edges_in_parts`.

    Args:
        boxes: (N, 4) xyxy, pixel edges.

    Returns:
        float64 (N, 4), pixels.

    Example:
        >>> left_top_sizes(np.array([[10.3, 20, 30.4, 20.5]], np.float32))
        array([[10.3, 20. , 20.1,  0.5]])
    """
    edges = edges_in_parts(boxes)
    sizes: Float64 = np.concatenate([edges[:, :2], edges[:, 2:] - edges[:, :2]], axis=1) / PARTS
    return sizes


def box_iou(boxes_a: ArrayLike, boxes_b: ArrayLike) -> Float64:
    """Computes the intersection over union of every box of one set with every box of another.

    An overlap of exactly one half gives 0.5, in float32 boxes as well, if their edges have at most three
    decimals; see `edges_in_parts`. On pixel edges the arithmetic equals the devkit's on inclusive pixels with
    ``+1``.

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
    a = edges_in_parts(boxes_a).reshape(-1, 1, 4)
    b = edges_in_parts(boxes_b).reshape(1, -1, 4)
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
