"""Reads COCO's JSON annotations."""

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from sppnet.common.errors import InputError
from sppnet.data.examples import OnError, clip_boxes, gather, inside
from sppnet.data.images import MAX_PIXELS
from sppnet.data.types import Dataset, Example

logger = logging.getLogger(__name__)


def load_coco(annotations: Path, images: Path, split: str = "all", on_error: OnError = "raise") -> Dataset:
    """Reads a COCO-style ``instances`` JSON file.

    Args:
        annotations: the JSON file.
        images: the folder in which each image's ``file_name`` lies.
        split: the name to give the split.
        on_error: ``"raise"``, or ``"skip"`` images with a bad box or a missing file, counted in a logged
            warning.

    Returns:
        the data set, in the order of the file's ``images``. Image ids are COCO's, as text. Labels are indices
        into the categories sorted by id. ``category_ids`` and ``image_ids`` hold the file's own ids. ``bbox``
        (x, y, width, height; 0-based, continuous) becomes (x, y, x + width, y + height); ``iscrowd`` becomes
        ``difficult``. Boxes without area, which COCO 2017 has, are left out; boxes that reach over the border
        are clipped; both are counted and logged.

    Raises:
        InputError: the file is no such JSON; an annotation names an unknown image or category, or has a box
            that is malformed, negative, or outside of the image; an image is missing.

    Example:
        >>> import tempfile, cv2
        >>> folder = tempfile.TemporaryDirectory()
        >>> image = Path(folder.name, "a.png")
        >>> _ = cv2.imwrite(str(image), np.zeros((80, 100, 3), np.uint8))
        >>> annotations = Path(folder.name, "instances.json")
        >>> _ = annotations.write_text(json.dumps({
        ...     "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 80}],
        ...     "categories": [{"id": 18, "name": "dog"}],
        ...     "annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 20, 50, 60]}],
        ... }))
        >>> dataset = load_coco(annotations, Path(folder.name), split="val")
        >>> dataset
        Dataset(instances val: 1 images, 1 classes, 1 objects)
        >>> dataset[0].boxes
        array([[10., 20., 60., 80.]], dtype=float32)
    """
    annotations, images = Path(annotations), Path(images)
    document = _read_json(annotations)
    categories = _items(document, "categories", ("id", "name"), annotations)
    if not all(isinstance(category["id"], int) for category in categories):
        raise InputError(f"{annotations}: a category id is not a whole number; number the categories")
    if not categories:
        raise InputError(f"{annotations}: lists no categories; put some into 'categories'")
    categories.sort(key=lambda category: int(category["id"]))
    labels = {category["id"]: label for label, category in enumerate(categories)}
    classes = tuple(str(category["name"]) for category in categories)
    if len(set(classes)) < len(classes) or len(labels) < len(classes):
        raise InputError(f"{annotations}: two categories share an id or a name; make them different")
    listed = _items(document, "images", ("id", "file_name", "width", "height"), annotations)
    entries = {str(item["id"]): item for item in listed}
    for image_id in entries:
        # The names of pictures and results contain the id.
        inside(images, image_id, annotations)
    if not entries:
        raise InputError(f"{annotations}: lists no images; put some into 'images'")
    if len(entries) < len(listed):
        raise InputError(f"{annotations}: two images share an id; make them different")
    objects: dict[str, list[dict[str, Any]]] = defaultdict(list)
    boxes_without_area = 0
    for item in _items(document, "annotations", ("image_id", "category_id", "bbox"), annotations):
        source = f"{annotations}: annotation {item.get('id')} of image {item['image_id']}"
        if str(item["image_id"]) not in entries:
            raise InputError(
                f"{source}: the image is not in the file's list of images; add it, or remove the annotation"
            )
        if item["category_id"] not in labels:
            raise InputError(f"{source}: unknown category {item['category_id']}; add it to 'categories'")
        if _is_empty(item["bbox"]):
            boxes_without_area += 1
        else:
            objects[str(item["image_id"])].append(item)
    if boxes_without_area:
        logger.warning("%s: left out %d boxes without area", annotations, boxes_without_area)

    def read(image_id: str) -> tuple[Example, int]:
        entry = entries[image_id]
        path = inside(images, str(entry["file_name"]), annotations)
        if not path.is_file():
            raise InputError(f"{path}: the image {image_id} of {annotations} is missing; add it or unlist it")
        items = objects[image_id]
        source = f"{annotations}: image {image_id}"
        numbers = _read_numbers([entry["width"], entry["height"]], 2, f"{source}, width and height")
        if (numbers < 1).any() or (numbers > MAX_PIXELS).any():
            raise InputError(f"{source}: {numbers[0]:g} x {numbers[1]:g} pixels; correct width and height")
        size = numbers.astype(int)
        boxes = np.zeros((len(items), 4))
        for index, item in enumerate(items):
            boxes[index] = _read_numbers(item["bbox"], 4, f"{source}, annotation {item.get('id')}, bbox")
        boxes[:, 2:] += boxes[:, :2]
        names = [classes[labels[item["category_id"]]] for item in items]
        clipped, over_border = clip_boxes(boxes.astype(np.float32), int(size[0]), int(size[1]), names, source)
        example = Example(
            image_id,
            path,
            int(size[0]),
            int(size[1]),
            clipped,
            np.array([labels[item["category_id"]] for item in items], np.int64),
            np.array([bool(item.get("iscrowd")) for item in items], np.bool_),
            np.zeros(len(items), np.bool_),
        )
        return example, over_border

    examples = gather(entries, read, on_error, str(annotations))
    image_ids = {image_id: entry["id"] for image_id, entry in entries.items()}
    return Dataset(annotations.stem, split, classes, examples, tuple(labels), image_ids)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); check the path") from error
    if not isinstance(document, dict):
        raise InputError(
            f"{path}: not in COCO's form; expected an object with images, annotations, categories"
        )
    return document


def _items(document: dict[str, Any], key: str, fields: tuple[str, ...], path: Path) -> list[dict[str, Any]]:
    items = document.get(key)
    if not isinstance(items, list):
        raise InputError(f"{path}: has no list {key!r}; is this a COCO 'instances' file?")
    for index, item in enumerate(items):
        missing = [field for field in fields if not isinstance(item, dict) or field not in item]
        if missing:
            raise InputError(f"{path}: {key}[{index}] lacks {', '.join(missing)}")
        # Ids are used as keys: lists and objects cannot be.
        if any(isinstance(value, list | dict) for field, value in item.items() if field.endswith("id")):
            raise InputError(f"{path}: {key}[{index}] has an id that is neither a number nor a text")
    return items


def _is_empty(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and 0 in box[2:]


def _read_numbers(values: Any, count: int, source: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: {values!r} is not {count} numbers; correct it") from error
    if numbers.shape != (count,) or not np.isfinite(numbers).all() or (numbers[-2:] <= 0).any():
        raise InputError(f"{source}: {values!r} must be {count} finite numbers, with a size above zero")
    return numbers
