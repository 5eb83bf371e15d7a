"""Writes data sets in the forms of COCO and YOLO; `sppnet.data.voc` writes VOC's."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, read_text, write_json
from sppnet.data.examples import inside
from sppnet.data.split_names import sorted_splits
from sppnet.data.types import Dataset, Example


def write_coco(dataset: Dataset, folder: Path) -> None:
    """Writes a data set in COCO's form: ``annotations/instances_<split>.json`` and ``images/<split>/``.

    ``bbox`` is (x, y, width, height), not rounded. ``difficult`` becomes ``iscrowd``, which COCO's scoring
    ignores likewise. ``attributes`` holds both flags, as CVAT and Datumaro write them.

    Args:
        dataset: its ``category_ids``, and its ``image_ids`` where they are numbers, are kept; else they count
            from 1.
        folder: the data set's folder; it may hold other splits. Images that are not there yet are copied.

    Raises:
        InputError: an image id leads out of the folder.

    Example:
        >>> import cv2, json, numpy as np, tempfile
        >>> from sppnet.data import Example
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((80, 100, 3), np.uint8))
        >>> boxes, flags = np.array([[10, 20, 60, 80]], np.float32), np.zeros(1, bool)
        >>> example = Example("a", folder / "a.png", 100, 80, boxes, np.array([1]), flags, flags)
        >>> write_coco(Dataset("photos", "train", ("cat", "dog"), (example,)), folder / "my-data")
        >>> written = json.loads((folder / "my-data/annotations/instances_train.json").read_text())
        >>> written["annotations"][0]["bbox"], written["images"][0]["file_name"]
        ([10, 20, 50, 60], 'a.png')
    """
    images = folder / "images" / dataset.split
    numbers: dict[str, Any] = {example.image_id: number for number, example in enumerate(dataset, 1)}
    if dataset.image_ids is not None and all(
        isinstance(dataset.image_ids.get(name), int) for name in numbers
    ):
        numbers = {name: dataset.image_ids[name] for name in numbers}
    categories = dataset.category_ids or range(1, len(dataset.classes) + 1)
    document: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in zip(categories, dataset.classes, strict=True)
        ],
    }
    for example in dataset:
        path = inside(images, example.image_id + example.path.suffix, folder)
        copy_missing(example.path, path)
        document["images"].append(
            {
                "id": numbers[example.image_id],
                "file_name": path.relative_to(images).as_posix(),
                "width": example.width,
                "height": example.height,
            }
        )
        for index, (left, top, right, bottom) in enumerate(example.boxes.tolist()):
            difficult, truncated = bool(example.difficult[index]), bool(example.truncated[index])
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": numbers[example.image_id],
                    "category_id": categories[int(example.labels[index])],
                    "bbox": [_short(number) for number in (left, top, right - left, bottom - top)],
                    "area": _short((right - left) * (bottom - top)),
                    "segmentation": [],
                    "iscrowd": int(difficult),
                    "attributes": {"difficult": difficult, "truncated": truncated},
                }
            )
    write_json(folder / "annotations" / f"instances_{dataset.split}.json", document, indent=None)


def write_yolo(dataset: Dataset, folder: Path) -> None:
    """Writes a data set in the form of YOLO: ``images/<split>/``, ``labels/<split>/`` and ``data.yaml``.

    A label file has a line for each object: class, centre, width and height, as fractions of the image with
    six decimals. It is empty where an image has no objects. There is no place for ``difficult`` and
    ``truncated``.

    Args:
        dataset: its classes must be those of the splits that are there already.
        folder: the data set's folder; it may hold other splits. Images that are not there yet are copied.

    Raises:
        InputError: the folder holds other classes, or an image id leads out of it.

    Example:
        >>> import cv2, tempfile
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((80, 100, 3), np.uint8))
        >>> boxes, flags = np.array([[10, 20, 60, 80]], np.float32), np.zeros(1, bool)
        >>> example = Example("a", folder / "a.png", 100, 80, boxes, np.array([1]), flags, flags)
        >>> write_yolo(Dataset("photos", "train", ("cat", "dog"), (example,)), folder / "my-data")
        >>> print((folder / "my-data/labels/train/a.txt").read_text(), end="")
        1 0.350000 0.625000 0.500000 0.750000
        >>> print((folder / "my-data/data.yaml").read_text(), end="")
        train: images/train
        nc: 2
        names:
          0: "cat"
          1: "dog"
    """
    names = _names(dataset.classes)
    description = folder / "data.yaml"
    if description.exists() and not read_text(description, "the description").endswith(names):
        raise InputError(f"{folder}: data.yaml has other classes; write to a new folder")
    images, labels = folder / "images" / dataset.split, folder / "labels" / dataset.split
    for example in dataset:
        copy_missing(example.path, inside(images, example.image_id + example.path.suffix, folder))
        label_file = inside(labels, f"{example.image_id}.txt", folder)
        # Without waiting for the disk: a second call writes them again.
        with atomic_path(label_file, durable=False) as temporary:
            temporary.write_text(_lines(example), encoding="ascii")
    splits = sorted_splits({dataset.split} | {path.name for path in images.parent.iterdir() if path.is_dir()})
    # Paths count from the folder of the file. JSON's texts are YAML's, too.
    lines = [f"{json.dumps(split) if not split.isalnum() else split}: images/{split}\n" for split in splits]
    with atomic_path(description) as temporary:
        temporary.write_text("".join(lines) + names, encoding="utf-8")


def copy_missing(source: Path, target: Path, *, durable: bool = True) -> None:
    """Copies a file to a place where there is none yet; ``durable`` as in `atomic_path`.

    Raises:
        InputError: the file cannot be read.
    """
    if target.exists():
        return
    with atomic_path(target, durable=durable) as temporary:
        try:
            shutil.copyfile(source, temporary)
        except FileNotFoundError as error:
            raise InputError(f"{source}: the image is missing; restore it") from error


def _short(number: float) -> float | int:
    """The same number, without a fraction where it is whole."""
    return int(number) if number.is_integer() else number


def _names(classes: tuple[str, ...]) -> str:
    lines = (f"  {label}: {json.dumps(name, ensure_ascii=False)}\n" for label, name in enumerate(classes))
    return f"nc: {len(classes)}\nnames:\n{''.join(lines)}"


def _lines(example: Example) -> str:
    size = np.array([example.width, example.height], np.float64)
    first, last = example.boxes[:, :2] / size, example.boxes[:, 2:] / size
    rows = np.hstack([(first + last) / 2, last - first])
    return "".join(
        f"{label} {' '.join(f'{number:.6f}' for number in row)}\n"
        for label, row in zip(example.labels.tolist(), rows.tolist(), strict=True)
    )
