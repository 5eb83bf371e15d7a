"""Reads labels in YOLO's text form: a class and a normalised box, or a polygon, on each line."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppnet.common.errors import InputError
from sppnet.common.files import read_text
from sppnet.data.examples import clip_boxes
from sppnet.data.faults import BoxError
from sppnet.data.images import image_size
from sppnet.data.types import Example

# Programs round to six digits or fewer; a box may reach over the border by so much of the image's side.
_ROUNDING = 0.01
# Rounding moves an edge by less than this, in pixels; such a box does not count as clipped.
_CLIPPED_PIXELS = 0.5


@dataclass(frozen=True)
class LabelFile:
    """The content of a label file.

    Attributes:
        path: the file.
        numbers: the class number of each object, as it counts in the list of names.
        boxes: left, top, right and bottom of each, from 0 to 1.
    """

    path: Path
    numbers: tuple[int, ...]
    boxes: tuple[tuple[float, float, float, float], ...]


def read_labels(path: Path, keypoints: bool = False) -> LabelFile:
    """Reads a label file.

    A line is ``class x y width height``, with the middle of the box, or ``class x1 y1 x2 y2 x3 y3 ...``, a
    polygon, which becomes the box around it. All are fractions of the image's width or height. Blank lines
    count for nothing, and a line that stands twice for one, as in Ultralytics' programs.

    Args:
        path: the file.
        keypoints: after four numbers of a box come keypoints, no polygon.

    Raises:
        InputError: the file cannot be read or is not UTF-8; a line has a wrong number of columns, a value
            that is no number, or a box that is empty or lies outside of the image.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.txt")
        ...     _ = path.write_text("0 0.5 0.5 0.25 0.5")
        ...     read_labels(path).boxes
        ((0.375, 0.25, 0.625, 0.75),)
    """
    lines = read_text(path, "the labels").splitlines()
    objects: dict[tuple[float, ...], tuple[int, tuple[float, float, float, float]]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            source = f"{path}, line {number}"
            values = _read_line(line, source)
            objects[values] = int(values[0]), _to_box(values[1:], keypoints, source)
    return LabelFile(
        path, tuple(number for number, _ in objects.values()), tuple(box for _, box in objects.values())
    )


def make_yolo_example(
    labels: LabelFile | None, image_id: str, image: Path, classes: Mapping[int, int], names: Mapping[int, str]
) -> tuple[Example, int]:
    """Makes an example from a label file.

    Args:
        labels: None: the image has no objects.
        image_id: the example's id.
        image: the image file; its size is read from it.
        classes: class number of the file to label.
        names: class number of the file to name.

    Returns:
        the example, and the number of its boxes that were clipped to the image.

    Raises:
        InputError: a class number has no name, or the image cannot be read.
    """
    width, height = image_size(image)
    numbers = labels.numbers if labels is not None else ()
    for position, number in enumerate(numbers, 1):
        if number not in names:
            assert labels is not None
            raise InputError(
                f"{labels.path}: object {position} has the class number {reprlib.repr(number)}, but there "
                f"are names for {', '.join(map(str, sorted(names)))}; add its name, or correct the number"
            )
    fractions = np.array(labels.boxes if labels is not None else (), np.float64).reshape(-1, 4)
    boxes = (fractions * np.array([width, height, width, height])).astype(np.float32)
    source = str(labels.path) if labels is not None else str(image)
    clipped, _ = clip_boxes(boxes, width, height, [names[number] for number in numbers], source)
    flags = np.zeros(len(numbers), np.bool_)
    example = Example(
        image_id,
        image,
        width,
        height,
        clipped,
        np.array([classes[number] for number in numbers], np.int64),
        flags,
        flags,
    )
    return example, int((np.abs(clipped - boxes) > _CLIPPED_PIXELS).any(axis=1).sum())


def _read_line(line: str, source: str) -> tuple[float, ...]:
    try:
        values = tuple(float(word) for word in line.split())
    except ValueError as error:
        raise InputError(f"{source}: {error}; write a class number and numbers from 0 to 1") from error
    if len(values) < 5:
        raise BoxError(f"{source}: {len(values)} columns; write class, x, y, width, height")
    if not all(map(math.isfinite, values)):
        raise BoxError(f"{source}: a value is not finite; correct it")
    if values[0] < 0 or values[0] != int(values[0]):
        raise InputError(f"{source}: {values[0]:g} is no class number; write a whole number from 0 on")
    return values


def _to_box(values: tuple[float, ...], keypoints: bool, source: str) -> tuple[float, float, float, float]:
    used = values[:4] if keypoints else values
    if len(used) == 4:
        x, y, width, height = used
        left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    elif len(used) >= 6 and len(used) % 2 == 0:
        xs, ys = used[::2], used[1::2]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    else:
        raise BoxError(
            f"{source}: {len(values) + 1} columns; write class, x, y, width, height, or class and x and y of "
            "each corner of a polygon"
        )
    if right <= left or bottom <= top:
        raise BoxError(f"{source}: its box is empty; correct or remove it")
    if not all(-_ROUNDING <= value <= 1 + _ROUNDING for value in used):
        raise BoxError(
            f"{source}: has numbers that are not from 0 to 1; write fractions of the image's width and height"
        )
    return left, top, right, bottom
