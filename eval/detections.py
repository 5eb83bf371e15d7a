"""Reads and writes detections: the VOC devkit's text files and COCO's results JSON."""

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path
from sppnet.data.detections import Detections

# Nine significant digits keep any float32 exactly, and a coordinate below 100,000 to 1e-4 pixels.
_LINE = "%s %.9g %.9g %.9g %.9g %.9g\n"
_ROW = np.dtype([("image", np.object_), ("numbers", np.float64, (5,))])
# A box of no width may look inverted by this many pixels after its edges are rounded to `_LINE`'s digits.
_ROUNDING = 1e-3


def write_voc_detections(
    folder: Path,
    detections: Mapping[str, Detections],
    classes: Sequence[str],
    split: str = "test",
    competition: str = "comp3",
) -> None:
    """Writes a file ``<competition>_det_<split>_<class>.txt`` for each class, as VOCevaldet.m reads it.

    A line is ``<image id> <score> <xmin> <ymin> <xmax> <ymax>``, 1-based and inclusive, with fractions.

    Args:
        folder: the folder to write to; it is created if it is missing, and files of these names are replaced.
        detections: image id to detections; a label is an index into ``classes``.
        classes: the class names; a class without detections gets an empty file.
        split: the split in the file names, for example ``"test"``.
        competition: ``"comp3"`` means trained on VOC data alone, ``"comp4"`` on any data.

    Raises:
        InputError: a class or split cannot be part of a file name, or an image id has blanks.

    Example:
        >>> import tempfile
        >>> detections = {"000017": Detections.of([[9, 19, 60, 80]], [0.5], [0])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_voc_detections(Path(folder), detections, ["cat"])
        ...     print(Path(folder, "comp3_det_test_cat.txt").read_text().strip())
        000017 0.5 10 20 60 80
    """
    check_voc_names(classes, split, detections)
    for label, path in enumerate(_paths(folder, competition, split, classes)):
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for image_id, image_detections in detections.items():
                rows = np.flatnonzero(image_detections.labels == label)
                inclusive = image_detections.boxes[rows] + np.array([1.0, 1.0, 0.0, 0.0])
                numbers = np.column_stack([image_detections.scores[rows], inclusive])
                file.writelines(_LINE % (image_id, *row) for row in numbers.tolist())


def check_voc_names(classes: Sequence[str], split: str, image_ids: Iterable[str]) -> None:
    """Checks that VOC's files can hold detections of these classes and images.

    Call it before hours of detection, so that bad names do not fail at the end.

    Raises:
        InputError: as in `write_voc_detections`.

    Example:
        >>> check_voc_names(["cat"], "test", ["000017"])
        >>> check_voc_names(["cat"], "test", ["my photo"])
        Traceback (most recent call last):
        sppnet.common.errors.InputError: image id 'my photo' has blanks, which separate the columns ...
    """
    _paths(Path(), "comp3", split, classes)
    for image_id in image_ids:
        if len(image_id.split()) != 1 or image_id != image_id.strip():
            raise InputError(
                f"image id {image_id!r} has blanks, which separate the columns of a VOC detections file; "
                "rename the image"
            )


def read_voc_detections(folder: Path, classes: Sequence[str], split: str = "test") -> dict[str, Detections]:
    """Reads a folder of ``comp?_det_<split>_<class>.txt``, of any competition and any detector.

    Files of other classes and splits are ignored.

    Args:
        folder: holds exactly one file for each class; an empty file means no detections.
        classes: the class names of the data set; a label is an index into them.
        split: the split in the file names.

    Returns:
        image id to detections, for every image that has detections; best first within a class, equal scores
        in the order of the file.

    Raises:
        InputError: the file of a class is missing or there are several, or a line has a wrong number of
            columns, a value that is not a number, a score of NaN, or an inverted box; the message names file
            and line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     line = "000017 0.5 10 20 60 80"
        ...     characters = Path(folder, "comp3_det_test_cat.txt").write_text(line)
        ...     detections = read_voc_detections(Path(folder), ["cat"])
        >>> detections["000017"].boxes
        array([[ 9., 19., 60., 80.]], dtype=float32)
    """
    index: dict[str, int] = {}
    images: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    labels: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    numbers: list[NDArray[np.float32]] = [np.empty((0, 5), np.float32)]
    for label, path in enumerate(_class_files(folder, classes, split)):
        rows = _read_file(path)
        rows = rows[np.argsort(-rows["numbers"][:, 0], kind="stable")]
        row_images = [index.setdefault(image_id, len(index)) for image_id in rows["image"].tolist()]
        images.append(np.array(row_images, np.int64))
        labels.append(np.full(len(rows), label))
        numbers.append(_to_edges(rows["numbers"]))
    image = np.concatenate(images)
    order = np.argsort(image, kind="stable")
    ends = np.cumsum(np.bincount(image, minlength=len(index))).tolist()
    sorted_numbers, sorted_labels = np.concatenate(numbers)[order], np.concatenate(labels)[order]
    return {
        image_id: Detections(
            boxes=np.ascontiguousarray(sorted_numbers[start:end, 1:]),
            scores=sorted_numbers[start:end, 0].copy(),
            labels=sorted_labels[start:end].copy(),
        )
        for image_id, start, end in zip(index, [0, *ends], ends, strict=False)
    }


def write_coco_results(
    path: Path,
    detections: Mapping[str, Detections],
    category_ids: Sequence[int] | None = None,
    image_ids: Mapping[str, int | str] | None = None,
) -> None:
    """Writes COCO's results JSON: an object for each detection, ``bbox`` as left, top, width, height.

    Left and top are 0-based.

    Args:
        path: the file, replaced as a whole.
        detections: image id to detections.
        category_ids: the category id of each label, such as `sppnet.data.Dataset.category_ids`; None: the
            label plus 1.
        image_ids: image id to the id in the file, such as `sppnet.data.Dataset.image_ids`. None: numbers if
            all ids are decimal numbers and remain distinct as numbers (``"000017"`` becomes 17, as in the
            usual COCO versions of VOC), else the ids themselves.

    Raises:
        ValueError: a score or box is not finite; JSON cannot hold such numbers.

    Example:
        >>> import tempfile
        >>> detections = {"000017": Detections.of([[9, 19, 60, 80]], [0.5], [0])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_coco_results(Path(folder, "results.json"), detections)
        ...     json.loads(Path(folder, "results.json").read_text())
        [{'image_id': 17, 'category_id': 1, 'bbox': [9, 19, 51, 61], 'score': 0.5}]
    """
    if image_ids is None:
        numeric = all(image_id.isascii() and image_id.isdigit() for image_id in detections)
        numeric = numeric and len({int(image_id) for image_id in detections}) == len(detections)
        image_ids = {image_id: int(image_id) if numeric else image_id for image_id in detections}
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        separator = "["
        for image_id, image_detections in detections.items():
            corners = image_detections.boxes.astype(np.float64)
            sizes = corners[:, 2:] - corners[:, :2]
            numbers = np.column_stack([corners[:, :2], sizes, image_detections.scores])
            if not np.isfinite(numbers).all():
                raise ValueError(f"detections of image {image_id!r}: a score or box is not finite")
            image = json.dumps(image_ids[image_id])
            for label, row in zip(image_detections.labels.tolist(), numbers.tolist(), strict=True):
                category = label + 1 if category_ids is None else category_ids[label]
                file.write(
                    f'{separator}\n{{"image_id":{image},"category_id":{category},'
                    '"bbox":[%.9g,%.9g,%.9g,%.9g],"score":%.9g}' % tuple(row)
                )
                separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")


def _paths(folder: Path, competition: str, split: str, classes: Sequence[str]) -> list[Path]:
    names = [f"{competition}_det_{split}_{name}.txt" for name in classes]
    for name in names:
        if re.search(r"[/\\\0\n\r]", name):
            raise InputError(f"{name!r} cannot be a file name: rename the class or split without slashes")
    return [folder / name for name in names]


def _class_files(folder: Path, classes: Sequence[str], split: str) -> list[Path]:
    """Finds the file of each class."""
    pattern = re.compile(rf"comp[1-9]_det_{re.escape(split)}_(.+)\.txt")
    files: dict[str, list[str]] = {}
    try:
        for path in sorted(folder.iterdir()):
            match = pattern.fullmatch(path.name)
            if match:
                files.setdefault(match[1], []).append(path.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check the path") from error
    for name in classes:
        if name not in files:
            present = (
                f"there are files of {', '.join(sorted(files))}" if files else "no file is of this split"
            )
            raise InputError(
                f"{folder}: comp?_det_{split}_{name}.txt is missing; {present}. Every "
                "class needs its file: add an empty file if the class has no detections"
            )
        if len(files[name]) > 1:
            raise InputError(
                f"{folder}: {' and '.join(files[name])} are for the same class; keep one competition in a "
                "folder"
            )
    return [folder / files[name][0] for name in classes]


def _read_file(path: Path) -> NDArray[np.void]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            rows: NDArray[np.void] = np.loadtxt(path, _ROW, comments=None, ndmin=1, encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise InputError(f"{path}, {_first_fault(path) or error}") from error
    scores, corners = rows["numbers"][:, 0], rows["numbers"][:, 1:]
    inverted = corners[:, 2:] - corners[:, :2] + 1 < -_ROUNDING
    if np.isnan(scores).any() or not np.isfinite(corners).all() or inverted.any():
        raise InputError(f"{path}, {_first_fault(path)}")
    return rows


def _to_edges(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Converts rows of score and box from 1-based inclusive pixels to 0-based edges."""
    edges = numbers - np.array([0.0, 1.0, 1.0, 0.0, 0.0])
    edges[:, 3:] = np.maximum(edges[:, 3:], edges[:, 1:3])
    rounded: NDArray[np.float32] = edges.astype(np.float32)
    return rounded


def _first_fault(path: Path) -> str | None:
    """Describes the first bad line of a file that the fast reader refused."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            fault = _fault(line.split())
            if fault:
                return f"line {number}: {fault}"
    return None


def _fault(words: list[str]) -> str | None:
    if not words:
        return None
    if len(words) != 6:
        return f"{len(words)} columns; 6 are expected: image id, score, xmin, ymin, xmax, ymax"
    try:
        score, left, top, right, bottom = map(float, words[1:])
    except ValueError as error:
        return f"{error}; a score and four coordinates are expected after the image id"
    if np.isnan(score):
        return "the score is NaN; every detection needs a number"
    if not np.isfinite([left, top, right, bottom]).all():
        return "the box is not finite"
    if min(right - left, bottom - top) + 1 < -_ROUNDING:
        return "the box is inverted; the columns are xmin, ymin, xmax, ymax"
    if "\ufffd" in words[0]:
        return "the image id is not UTF-8; save the file as UTF-8"
    return None
