"""Draws Selective Search: the growth of an image's regions, and the best proposals for its objects."""

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray, Image
from sppnet.data.types import Example
from sppnet.eval.boxes import box_iou
from sppnet.proposals.selective_search import Grouped

# The hierarchy is drawn with these numbers of regions left.
_REGION_COUNTS = (64, 16, 4)
_COLUMNS = 3
_GROUND_TRUTH_COLOUR, _PROPOSAL_COLOUR = "white", "#00d000"


def draw_proposals(
    image: Image, grouped: Grouped, boxes: FloatArray, example: Example, classes: Sequence[str]
) -> Figure:
    """Draws the segments, some steps of the hierarchy, and the best proposal for each object.

    Args:
        image: uint8 (H, W, 3) RGB.
        grouped: one strategy's tree of this image at this size (`SelectiveSearch.hierarchies`).
        boxes: float32 (N, 4), xyxy, pixel edges, all proposals, best first.
        example: the ground truth of the image.
        classes: the class names; a label is an index into them.

    Returns:
        a figure with a panel each for the image, the segments, up to three steps, and the proposals.
    """
    regions = len(grouped.hierarchy.merges) + 1
    counts = [regions, *(count for count in _REGION_COUNTS if count < regions)]
    rows = -(-(len(counts) + 2) // _COLUMNS)
    height, width = image.shape[:2]
    figure = Figure(figsize=(4 * _COLUMNS, 4.4 * rows * min(height / width, 2)), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    panels[0].imshow(image)
    panels[0].set_title(f"{example.image_id}: {width} x {height}")
    for panel, count in zip(panels[1:], counts, strict=False):
        panel.imshow(_painted(image, region_labels(grouped, count)))
        noun = "segments" if count == regions else "regions"
        panel.set_title(f"{grouped.strategy}: {count} {noun}")
    last = panels[len(counts) + 1]
    last.imshow(image)
    last.set_title(f"best of {len(boxes)} proposals for each object")
    ious = box_iou(example.boxes, boxes)
    for ground_truth, label, row in zip(example.boxes, example.labels, ious, strict=True):
        _outline(last, ground_truth, _GROUND_TRUTH_COLOUR, "dashed")
        if len(row):
            best = int(row.argmax())
            _outline(last, boxes[best], _PROPOSAL_COLOUR, "solid")
            text = f"{classes[label]} {row[best]:.2f}, proposal {best + 1}"
            last.text(
                *boxes[best, :2], text, fontsize=7, va="top",
                bbox={"facecolor": _PROPOSAL_COLOUR, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
    return figure


def region_labels(grouped: Grouped, count: int) -> NDArray[np.int64]:
    """Labels the pixels with the regions of the hierarchy at the step when ``count`` regions are left.

    Args:
        grouped: one strategy's tree.
        count: number of regions, from 1 to the number of segments.

    Returns:
        int64 (H, W), the index of each pixel's region in the hierarchy.

    Example:
        >>> from sppnet.proposals.selective_search.grouping import Hierarchy
        >>> hierarchy = Hierarchy(np.array([[0, 1], [2, 3]], np.int32), np.zeros((5, 4), np.int32))
        >>> segments = Grouped("hsv/CTSF/50", np.array([[0, 1, 2]], np.int32), hierarchy)
        >>> region_labels(segments, 3), region_labels(segments, 2)
        (array([[0, 1, 2]]), array([[3, 3, 2]]))
    """
    merges = grouped.hierarchy.merges
    segments = len(merges) + 1
    owner = np.arange(2 * segments - 1)
    # From the last merge back to the first, both parts get the region that they finally belong to.
    for step in reversed(range(segments - count)):
        owner[merges[step]] = owner[segments + step]
    return np.asarray(owner[:segments][grouped.labels])


def _painted(image: Image, labels: NDArray[np.int64]) -> Image:
    """Paints each region in its mean colour, with dark borders."""
    _, flat = np.unique(labels, return_inverse=True)
    flat = flat.ravel()
    counts = np.bincount(flat)
    means = [np.bincount(flat, image[..., channel].ravel()) / counts for channel in range(3)]
    painted = np.stack(means, axis=1)[flat].reshape(image.shape).astype(np.uint8)
    index = flat.reshape(labels.shape).astype(np.float32)
    borders = cv2.morphologyEx(index, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    painted[borders] //= 3
    return painted


def _outline(panel: Axes, box: FloatArray, colour: str, style: str) -> None:
    left, top, right, bottom = box.tolist()
    # A panel's pixel 0 reaches from -0.5 to 0.5.
    xy, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
    panel.add_patch(Rectangle(xy, *size, fill=False, edgecolor=colour, linestyle=style, linewidth=1.5))
