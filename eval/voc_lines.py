"""Reads the lines of VOC's text files of detections."""

import math
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sppnet.common.errors import InputError

_ROW = np.dtype([("image", np.object_), ("numbers", np.float64, (5,))])
# A box of no width may look inverted by this many pixels after its edges are rounded to nine digits.
_ROUNDING = 1e-3
# Edges become float32.
_MAX_EDGE = 1e37


def read_voc_lines(path: Path) -> NDArray[np.void]:
    """Reads the detections of a class, as the file has them.

    A line is ``<image id> <score> <xmin> <ymin> <xmax> <ymax>``. All before the last five columns is the id,
    which may have blanks.

    Args:
        path: the file; an empty one means no detections.

    Returns:
        (N,) of the fields ``image``, a text, and ``numbers``, float64 (5,): score, xmin, ymin, xmax, ymax.

    Raises:
        InputError: the file cannot be read, or a line has too few columns, a value that is not a number, a
            score of NaN, or an inverted box; the message names file and line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "comp4_det_test_cat.txt")
        ...     _ = path.write_text("IMG (1) 0.5 10 20 60 80")
        ...     read_voc_lines(path)["image"].tolist()
        ['IMG (1)']
    """
    try:
        rows = _read_fast(path)
        return _read_slowly(path) if rows is None else rows
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _read_fast(path: Path) -> NDArray[np.void] | None:
    """Reads a file whose ids have no blanks, four times as fast; None: it is another, or a line is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            rows: NDArray[np.void] = np.loadtxt(path, _ROW, comments=None, ndmin=1, encoding="utf-8-sig")
    except ValueError:
        return None
    scores, corners = rows["numbers"][:, 0], rows["numbers"][:, 1:]
    inverted = corners[:, 2:] - corners[:, :2] + 1 < -_ROUNDING
    wrong = np.isnan(scores).any() or not (abs(corners) <= _MAX_EDGE).all() or inverted.any()
    return None if wrong else rows


def _read_slowly(path: Path) -> NDArray[np.void]:
    rows: list[tuple[str, list[float]]] = []
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    rows.append(_read_line(line))
                except ValueError as error:
                    raise InputError(f"{path}, line {number}: {error}") from error
    return np.array(rows, _ROW)


def _read_line(line: str) -> tuple[str, list[float]]:
    image_id, *words = line.rsplit(maxsplit=5)
    if len(words) < 5:
        raise ValueError(f"{len(words) + 1} columns; 6 are expected: image id, score, xmin, ymin, xmax, ymax")
    if "\ufffd" in line:
        raise ValueError("the image id is not UTF-8; save the file as UTF-8")
    try:
        numbers = [_number(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{error}; a score and four coordinates are expected after the image id") from error
    score, left, top, right, bottom = numbers
    if math.isnan(score):
        raise ValueError("the score is NaN; every detection needs a number")
    if not all(abs(edge) <= _MAX_EDGE for edge in numbers[1:]):
        raise ValueError("the box is not finite")
    if min(right - left, bottom - top) + 1 < -_ROUNDING:
        raise ValueError("the box is inverted; the columns are xmin, ymin, xmax, ymax")
    return image_id.strip(), numbers


def _number(word: str) -> float:
    # Python takes 1_0 for 10.
    if "_" in word:
        raise ValueError(f"could not convert string to float: {word!r}")
    return float(word)
