"""Draws detections into an image."""

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import Image
from sppnet.data.detections import Detections
from sppnet.data.names import printable
from sppnet.data.types import Example

Color = tuple[int, int, int]
Corners = tuple[int, int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_DASH = 6  # Pixels of white, then as many of black, so a line shows on any background.
# Steps of the golden ratio on the colour circle keep any number of hues apart.
_HUE_STEP = 0.618034


def draw_detections(
    image: Image,
    detections: Detections,
    classes: Sequence[str] | None = None,
    min_score: float = 0.0,
    ground_truth: Example | None = None,
) -> Image:
    """Draws boxes with class name and score, the surest on top.

    Args:
        image: uint8 (H, W, 3) RGB; it is not changed.
        detections: boxes in pixel edges of ``image``; they may reach out of it.
        classes: the class names; a label is an index into them. None: ``detections.classes``. Each class has
            a colour of its own.
        min_score: draw detections of at least this score.
        ground_truth: draw its boxes too, as thin dashed lines in black and white.

    Returns:
        uint8 (H, W, 3) RGB, a new array.

    Raises:
        InputError: a label is not an index into the classes.

    Example:
        >>> image = np.zeros((100, 100, 3), np.uint8)
        >>> detections = Detections.of([[10, 20, 60, 80]], [0.75], [0])
        >>> draw_detections(image, detections, ["cat"]).any()
        np.True_
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    thickness, font_size = _line_width(width, height), _font_size(width, height)
    shown = detections.filter(min_score)
    shown = shown[np.argsort(shown.scores, kind="stable")]
    boxes = [_pixels(box, width, height) for box in shown.boxes]
    colors = [_class_color(label) for label in shown.labels.tolist()]
    for (left, top, right, bottom), color in zip(boxes, colors, strict=True):
        cv2.rectangle(canvas, (left, top), (right, bottom), color, thickness)
    if ground_truth is not None:
        for box in ground_truth.boxes:
            _dashed(canvas, _pixels(box, width, height))
    # Names are written last, so that no line crosses them.
    for box, color, name, score in zip(boxes, colors, shown.names(classes), shown.scores, strict=True):
        _write_tab(canvas, box, f"{name} {score:.2f}", color, font_size)
    return canvas


def draw_ground_truth(image: Image, example: Example, classes: Sequence[str]) -> Image:
    """Draws the annotated boxes of an image with their class names; difficult ones are dashed.

    Args:
        image: uint8 (H, W, 3) RGB; it is not changed. Boxes are stretched to it from the size that the
            example states, so it may be a smaller copy.
        example: the annotation.
        classes: the class names; a label is an index into them. Each class has a colour of its own.

    Returns:
        uint8 (H, W, 3) RGB, a new array.

    Example:
        >>> from pathlib import Path
        >>> flags = np.zeros(1, bool)
        >>> boxes, labels = np.array([[10, 20, 60, 80]], np.float32), np.array([0])
        >>> example = Example("a", Path("a.jpg"), 100, 100, boxes, labels, flags, flags)
        >>> draw_ground_truth(np.zeros((50, 50, 3), np.uint8), example, ["cat"]).any()
        np.True_
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    scale = np.array([width / example.width, height / example.height] * 2, np.float32)
    boxes = example.boxes * scale
    # The smallest last, so that no large one hides it.
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable").tolist()
    corners = {row: _pixels(boxes[row], width, height) for row in order}
    thickness, font_size = _line_width(width, height), _font_size(width, height)
    for row in order:
        left, top, right, bottom = corners[row]
        if example.difficult[row]:
            _dashed(canvas, corners[row])
        else:
            color = _class_color(int(example.labels[row]))
            cv2.rectangle(canvas, (left, top), (right, bottom), color, thickness)
    for row in order:
        label = int(example.labels[row])
        _write_tab(canvas, corners[row], classes[label], _class_color(label), font_size)
    return canvas


# In a VOC image lines are 1 to 2 pixels and letters about 10 pixels high; both grow with the image.
def _line_width(width: int, height: int) -> int:
    return math.ceil(min(height, width) / 250)


def _font_size(width: int, height: int) -> float:
    return float(np.clip(min(height, width) / 900, 0.4, 3))


def _pixels(box: NDArray[np.float32], width: int, height: int) -> Corners:
    """Returns the first and the last pixel that a box covers, clipped to the image."""
    left, top = np.floor(box[:2])
    right, bottom = np.ceil(box[2:]) - 1
    x = np.clip([left, right], 0, width - 1).astype(int).tolist()
    y = np.clip([top, bottom], 0, height - 1).astype(int).tolist()
    return x[0], y[0], max(x), max(y)


def _class_color(label: int) -> Color:
    # Every second class is darker: with many classes this separates those of nearly the same hue.
    red, green, blue = colorsys.hsv_to_rgb(label * _HUE_STEP % 1, 0.9, 1 if label % 2 == 0 else 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def _write_tab(canvas: Image, box: Corners, text: str, color: Color, font_size: float) -> None:
    """Writes text into a filled tab above the box, or inside the box if there is no room above it."""
    width = canvas.shape[1]
    # OpenCV crashes on half surrogates.
    text = printable(text)
    thickness = max(1, round(font_size))
    (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, font_size, thickness)
    tab_width, tab_height = text_width + 4, text_height + baseline + 2
    left = max(0, min(box[0], width - tab_width))
    top = box[1] - tab_height if box[1] >= tab_height else box[1]
    cv2.rectangle(canvas, (left, top), (left + tab_width - 1, top + tab_height - 1), color, cv2.FILLED)
    # Black letters on a bright tab, white letters on a dark one (luma of Rec. 601).
    bright = np.dot(color, (0.299, 0.587, 0.114)) > 128
    origin = (left + 2, top + 1 + text_height)
    ink = _BLACK if bright else _WHITE
    cv2.putText(canvas, text, origin, _FONT, font_size, ink, thickness, cv2.LINE_AA)


def _dashed(canvas: Image, box: Corners) -> None:
    """Draws a line of one pixel around the box, dashed in white and black."""
    left, top, right, bottom = box
    across, down = np.arange(left, right + 1), np.arange(top, bottom + 1)
    for rows, columns in ((top, across), (bottom, across), (down, left), (down, right)):
        along = across if columns is across else down
        canvas[rows, columns] = np.where((along // _DASH % 2 == 0)[:, None], 255, 0)
