"""Reads and writes detections: the VOC devkit's text files and COCO's results JSON."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path
from sppnet.data.detections import Detections
from sppnet.data.names import check_names, file_parts, name_of_part
from sppnet.eval.boxes import PARTS, edges_in_parts, left_top_sizes
from sppnet.eval.voc_lines import read_voc_lines

# Nine significant digits keep any float32 exactly, and a coordinate below 100,000 to 1e-4 pixels.
_LINE = "%s %.9g %.9g %.9g %.9g %.9g\n"


def write_voc_detections(
    folder: Path,
    detections: Mapping[str, Detections],
    classes: Sequence[str],
    split: str = "test",
    competition: str = "comp3",
) -> None:
    """Writes a file ``<competition>_det_<split>_<class>.txt`` for each class, as VOCevaldet.m reads it.

    A line is ``<image id> <score> <xmin> <ymin> <xmax> <ymax>``, 1-based and inclusive, with fractions. All
    before the last five columns is the id, which may have blanks. In the files' names classes and splits are
    as in `sppnet.data.names.file_parts`.

    Args:
        folder: the folder to write to; it is created if it is missing, and files of these names are replaced.
        detections: image id to detections; a label is an index into ``classes``.
        classes: the class names; a class without detections gets an empty file.
        split: the split in the file names, for example ``"test"``.
        competition: ``"comp3"`` means trained on VOC data alone, ``"comp4"`` on any data.

    Raises:
        InputError: a class, the split or an image id cannot be used, see `sppnet.data.check_names`.

    Example:
        >>> import tempfile
        >>> detections = {"000017": Detections.of([[9, 19, 60, 80]], [0.5], [0])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_voc_detections(Path(folder), detections, ["cat"])
        ...     print(Path(folder, "comp3_det_test_cat.txt").read_text().strip())
        000017 0.5 10 20 60 80
    """
    check_names("detections", classes, split, detections)
    for label, part in enumerate(file_parts(classes)):
        path = folder / f"{competition}_det_{file_parts([split])[0]}_{part}.txt"
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for image_id, image_detections in detections.items():
                rows = np.flatnonzero(image_detections.labels == label)
                edges = edges_in_parts(image_detections.boxes[rows])
                inclusive = (edges + np.array([PARTS, PARTS, 0, 0])) / PARTS
                numbers = np.column_stack([image_detections.scores[rows], inclusive])
                file.writelines(_LINE % (image_id, *row) for row in numbers.tolist())


def read_voc_detections(folder: Path, classes: Sequence[str], split: str = "test") -> dict[str, Detections]:
    """Reads a folder of ``comp?_det_<split>_<class>.txt``, of any competition and any detector.

    Files of other classes and splits are ignored. In a line the last five columns are the score and the box;
    all before them is the image id.

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
        rows = read_voc_lines(path)
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
    ids = coco_image_ids(detections, image_ids)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        separator = "["
        for image_id, image_detections in detections.items():
            numbers = np.column_stack([left_top_sizes(image_detections.boxes), image_detections.scores])
            if not np.isfinite(numbers).all():
                raise ValueError(f"detections of image {image_id!r}: a score or box is not finite")
            image = json.dumps(ids[image_id])
            for label, row in zip(image_detections.labels.tolist(), numbers.tolist(), strict=True):
                category = label + 1 if category_ids is None else category_ids[label]
                file.write(
                    f'{separator}\n{{"image_id":{image},"category_id":{category},'
                    '"bbox":[%.9g,%.9g,%.9g,%.9g],"score":%.9g}' % tuple(row)
                )
                separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")


def coco_image_ids(
    image_ids: Iterable[str], known: Mapping[str, int | str] | None = None
) -> Mapping[str, int | str]:
    """Returns the ids that images have in COCO's files.

    Args:
        image_ids: the ids of the images.
        known: image id to the id in the file, such as `sppnet.data.Dataset.image_ids`. None: numbers if all
            ids are decimal numbers and remain distinct as numbers, else the ids themselves.

    Example:
        >>> coco_image_ids(["000017", "000009"])
        {'000017': 17, '000009': 9}
        >>> coco_image_ids(["cat", "000009"])
        {'cat': 'cat', '000009': '000009'}
    """
    if known is not None:
        return known
    distinct = dict.fromkeys(image_ids)
    numeric = all(image_id.isascii() and image_id.isdigit() for image_id in distinct)
    numeric = numeric and len({int(image_id) for image_id in distinct}) == len(distinct)
    return {image_id: int(image_id) if numeric else image_id for image_id in distinct}


def _class_files(folder: Path, classes: Sequence[str], split: str) -> list[Path]:
    """Finds the file of each class."""
    pattern = re.compile(r"comp[1-9]_det_(.+)\.txt")
    files: dict[str, list[str]] = {}
    try:
        for path in sorted(folder.iterdir()):
            match = pattern.fullmatch(path.name)
            name = name_of_part(match[1]) if match else ""
            if name.startswith(f"{split}_"):
                files.setdefault(name.removeprefix(f"{split}_"), []).append(path.name)
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


def _to_edges(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Converts rows of score and box from 1-based inclusive pixels to 0-based edges."""
    edges = numbers - np.array([0.0, 1.0, 1.0, 0.0, 0.0])
    edges[:, 3:] = np.maximum(edges[:, 3:], edges[:, 1:3])
    # A score beyond float32 becomes infinite.
    with np.errstate(over="ignore"):
        rounded: NDArray[np.float32] = edges.astype(np.float32)
    return rounded
