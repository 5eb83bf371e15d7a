"""Boxes around the segmentations of COCO's JSON files: polygons and run-length codes, which are untrusted."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def segmentation_box(segmentation: Any) -> list[float]:
    """Computes the box around a segmentation.

    Args:
        segmentation: polygons ``[[x1, y1, x2, y2, ...], ...]``, one polygon ``[x1, y1, ...]``, or a
            run-length code ``{"size": [height, width], "counts": ...}``, with ``counts`` as a list of numbers
            or compressed to a text.

    Returns:
        left, top, width and height in pixels, as COCO's ``bbox``.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: the segmentation is malformed, or empty.

    Example:
        >>> segmentation_box([[10, 20, 60, 20, 60, 80]])
        [10.0, 20.0, 50.0, 60.0]
        >>> segmentation_box({"size": [4, 5], "counts": [5, 2, 2, 2, 9]})
        [1.0, 1.0, 2.0, 2.0]
    """
    if isinstance(segmentation, dict):
        return _run_box(_counts(segmentation["counts"]), int(segmentation["size"][0]))
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in polygons])
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _run_box(counts: Iterable[int], height: int) -> list[float]:
    """The box of runs that are by turns outside and inside of the object, column by column."""
    if height < 1:
        raise ValueError("the size is not positive")
    left, right, top, bottom = [], [], [], []
    start = 0
    for number, count in enumerate(counts):
        if count < 0:
            raise ValueError("a run is negative")
        if number % 2 and count:
            last = start + count - 1
            one_column = start // height == last // height
            left.append(start // height)
            right.append(last // height + 1)
            top.append(start % height if one_column else 0)
            bottom.append(last % height + 1 if one_column else height)
        start += count
    if not left:
        raise ValueError("no pixel is inside")
    x, y = min(left), min(top)
    return [float(x), float(y), float(max(right) - x), float(max(bottom) - y)]


def _counts(counts: Any) -> list[int]:
    if not isinstance(counts, str):
        return [int(count) for count in counts]
    return _uncompressed(counts)


def _uncompressed(text: str) -> list[int]:
    """Undoes the compression of pycocotools' ``rleToString``.

    A number is in digits of five bits, the lowest first; the sixth bit says that more follow. From the fourth
    number on it is the difference to the number two before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 60:
            raise ValueError("a character of the run-length code is wrong")
        value |= (digit & 0x1F) << shift
        shift += 5
        if not digit & 0x20:
            if digit & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
