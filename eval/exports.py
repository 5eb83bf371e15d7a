"""Writes the detections of photos for other programs: JSON, CSV, COCO, VOC and YOLO.

Names of files that are not UTF-8 are escaped in the files that are written (``\\udce9`` for the byte E9).
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, write_json
from sppnet.data.detections import Detections
from sppnet.data.names import printable
from sppnet.data.photos import Photo
from sppnet.eval.detections import write_voc_detections

_YOLO_FIRST_LINE = "# Detections, written by sppnet. The last column of the labels is the score.\n"
_CSV_COLUMNS = ("photo", "class", "score", "xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, eq=False)
class PhotoDetections:
    """The detections of a photo or frame, and its size.

    Attributes:
        photo: the file, and the number of a frame.
        width, height: pixels of the photo as it is shown.
        detections: labels are indices into the detector's classes.

    Example:
        >>> detections = Detections.of([[10, 20, 60, 80]], [0.75], [0])
        >>> PhotoDetections(Photo(Path("a.jpg"), "a.jpg"), 100, 80, detections).by_score
        Detections(1: label 0 0.75)
    """

    photo: Photo
    width: int
    height: int
    detections: Detections

    @property
    def by_score(self) -> Detections:
        """The detections, best first."""
        return self.detections[np.argsort(-self.detections.scores, kind="stable")]


def export_json(path: Path, results: Sequence[PhotoDetections], classes: Sequence[str]) -> None:
    """Writes one JSON document: the classes, and each photo with its size and its detections, best first.

    Boxes are 0-based pixel edges, right and bottom exclusive, rounded to a hundredth of a pixel.

    Args:
        path: the file, replaced as a whole.
        results: of each photo, also of those without detections.
        classes: the names that labels index.

    Example:
        >>> import tempfile
        >>> photo = Photo(Path("photos/a.jpg"), "a.jpg")
        >>> results = [PhotoDetections(photo, 100, 80, Detections.of([[10, 20, 60, 80]], [0.75], [0]))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_json(Path(folder, "a.json"), results, ["cat"])
        ...     json.loads(Path(folder, "a.json").read_text())["photos"][0]["detections"]
        [{'class': 'cat', 'score': 0.75, 'xmin': 10.0, 'ymin': 20.0, 'xmax': 60.0, 'ymax': 80.0}]
    """
    photos = [
        {
            "photo": result.photo.title,
            "width": result.width,
            "height": result.height,
            "detections": _records(result, classes),
        }
        for result in results
    ]
    write_json(path, {"classes": list(classes), "photos": photos})


def export_csv(path: Path, results: Sequence[PhotoDetections], classes: Sequence[str]) -> None:
    """Writes a table with a row for each detection: photo, class, score, xmin, ymin, xmax, ymax.

    Boxes are 0-based pixel edges, right and bottom exclusive, rounded to a hundredth of a pixel. A photo
    without detections has no row.

    Args:
        path: the file, replaced as a whole.
        results: of each photo.
        classes: the names that labels index.

    Example:
        >>> import tempfile
        >>> photo = Photo(Path("photos/a.jpg"), "a.jpg")
        >>> results = [PhotoDetections(photo, 100, 80, Detections.of([[10, 20, 60, 80]], [0.75], [0]))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_csv(Path(folder, "a.csv"), results, ["cat"])
        ...     print(Path(folder, "a.csv").read_text(), end="")
        photo,class,score,xmin,ymin,xmax,ymax
        photos/a.jpg,cat,0.75,10.0,20.0,60.0,80.0
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.DictWriter(file, _CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for result in results:
            for record in _records(result, classes):
                writer.writerow({"photo": result.photo.title, **record})


def export_coco(path: Path, results: Sequence[PhotoDetections], classes: Sequence[str]) -> None:
    """Writes a COCO document of images, categories and annotations, which have a ``score``.

    Images are numbered from 1 in their order, categories from 1 in the order of the classes. The list of
    annotations alone has the form of COCO's results.

    Args:
        path: the file, replaced as a whole.
        results: of each photo, also of those without detections.
        classes: the names that labels index.

    Example:
        >>> import tempfile
        >>> photo = Photo(Path("photos/a.jpg"), "a.jpg")
        >>> results = [PhotoDetections(photo, 100, 80, Detections.of([[10, 20, 60, 80]], [0.75], [0]))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_coco(Path(folder, "a.json"), results, ["cat"])
        ...     document = json.loads(Path(folder, "a.json").read_text())
        >>> document["images"]
        [{'id': 1, 'file_name': 'a.jpg', 'width': 100, 'height': 80}]
        >>> document["annotations"][0]["bbox"]
        [10.0, 20.0, 50.0, 60.0]
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, result in enumerate(results, start=1):
        images.append(
            {
                "id": image_id,
                "file_name": result.photo.file_name,
                "width": result.width,
                "height": result.height,
            }
        )
        for box, score, label in result.by_score:
            xmin, ymin, xmax, ymax = (float(edge) for edge in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [round(number, 2) for number in (xmin, ymin, xmax - xmin, ymax - ymin)],
                    "area": round((xmax - xmin) * (ymax - ymin), 2),
                    "iscrowd": 0,
                    "score": _short(score),
                }
            )
    categories = [{"id": label, "name": name} for label, name in enumerate(classes, start=1)]
    write_json(path, {"images": images, "categories": categories, "annotations": annotations}, indent=None)


def export_voc(folder: Path, results: Sequence[PhotoDetections], classes: Sequence[str]) -> None:
    """Writes VOC's text files ``comp4_det_test_<class>.txt``; see `write_voc_detections`.

    Args:
        folder: made where it is missing.
        results: of each photo; an image id is the name without its suffix.
        classes: the names that labels index; each has its file.

    Raises:
        InputError: a class or an image id cannot be used, see `sppnet.data.check_names`.

    Example:
        >>> import tempfile
        >>> photo = Photo(Path("photos/a.jpg"), "a.jpg")
        >>> results = [PhotoDetections(photo, 100, 80, Detections.of([[10, 20, 60, 80]], [0.75], [0]))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_voc(Path(folder), results, ["cat"])
        ...     print(Path(folder, "comp4_det_test_cat.txt").read_text(), end="")
        a 0.75 11 21 60 80
    """
    detections = {printable(result.photo.image_id): result.detections for result in results}
    write_voc_detections(folder, detections, classes, "test", "comp4")


def export_yolo(folder: Path, results: Sequence[PhotoDetections], classes: Sequence[str]) -> None:
    """Writes YOLO's text files: ``labels/<photo>.txt`` for each photo, and the classes in ``data.yaml``.

    A line is ``<label> <x> <y> <width> <height> <score>``: the middle and the size of the box as parts of the
    photo's width and height, best first.

    Args:
        folder: made where it is missing.
        results: of each photo; one without detections gets an empty file.
        classes: the names that labels index.

    Raises:
        InputError: the folder holds labels that this function did not write.

    Example:
        >>> import tempfile
        >>> photo = Photo(Path("photos/a.jpg"), "a.jpg")
        >>> results = [PhotoDetections(photo, 100, 80, Detections.of([[10, 20, 60, 80]], [0.75], [0]))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_yolo(Path(folder), results, ["cat"])
        ...     print(Path(folder, "labels", "a.txt").read_text(), end="")
        0 0.350000 0.625000 0.500000 0.750000 0.75
    """
    check_yolo_folder(folder)
    # A text in JSON is one in YAML, too.
    names = "".join(
        f"  {label}: {json.dumps(name, ensure_ascii=False)}\n" for label, name in enumerate(classes)
    )
    with atomic_path(folder / "data.yaml") as temporary:
        temporary.write_text(f"{_YOLO_FIRST_LINE}nc: {len(classes)}\nnames:\n{names}", encoding="utf-8")
    for result in results:
        size = np.array([result.width, result.height] * 2)
        lines = []
        for box, score, label in result.by_score:
            edges = np.clip(box / size, 0, 1)
            middle, extent = (edges[:2] + edges[2:]) / 2, edges[2:] - edges[:2]
            numbers = " ".join(f"{number:.6f}" for number in (*middle, *extent))
            lines.append(f"{label} {numbers} {_short(score)}\n")
        with atomic_path(folder / "labels" / f"{result.photo.image_id}.txt") as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


def check_yolo_folder(folder: Path) -> None:
    """Checks that `export_yolo` would not replace the labels of a data set.

    Raises:
        InputError: the folder holds labels that `export_yolo` did not write.

    Example:
        >>> check_yolo_folder(Path("nowhere"))
    """
    about = folder / "data.yaml"
    if about.is_file() and about.read_bytes().startswith(_YOLO_FIRST_LINE.encode()):
        return
    if about.exists() or (folder / "labels").exists():
        raise InputError(f"{folder}: holds a data set or labels of another program; give another folder")


def _records(result: PhotoDetections, classes: Sequence[str]) -> list[dict[str, str | float]]:
    """Lists the detections, best first, as dicts of rounded numbers."""
    records = result.by_score.to_records(classes)
    for record in records:
        for edge in ("xmin", "ymin", "xmax", "ymax"):
            record[edge] = round(float(record[edge]), 2)
        record["score"] = _short(float(record["score"]))
    return records


def _short(score: float) -> float:
    """Drops the digits that a float32 does not hold."""
    return float(str(np.float32(score)))
