"""Reads and checks the document of a COCO JSON file; images are not looked for."""

import logging
import math
import reprlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppnet.common.errors import InputError
from sppnet.common.parsing import read_json
from sppnet.data.coco_masks import segmentation_box
from sppnet.data.examples import OnError, inside
from sppnet.data.faults import BoxError, Fault

logger = logging.getLogger(__name__)

Item = dict[str, Any]


@dataclass(frozen=True)
class CocoFile:
    """The content of a COCO JSON file.

    Attributes:
        path: the file.
        categories: category id to name, sorted by id. A supercategory that no annotation uses is left out.
        images: image id, as text, to the entry of ``images``, in the order of the file.
        objects: image id to the annotations of the image.
    """

    path: Path
    categories: dict[int, str]
    images: dict[str, Item]
    objects: dict[str, list[Item]]

    def used_names(self) -> set[str]:
        """Returns the names of the categories that annotations use."""
        return {self.categories[item["category_id"]] for items in self.objects.values() for item in items}


def read_coco_file(path: Path, split: str = "all", on_error: OnError = "raise") -> CocoFile:
    """Reads a COCO JSON file and checks its lists.

    Args:
        path: the file.
        split: the name of its split. Except for training, the list ``annotations`` may be missing, as in
            COCO's ``image_info`` files; this is logged.
        on_error: a function gets the fault of each annotation that is left out. Otherwise such an annotation
            is an error, except for one whose box has no area; their number is logged.

    Raises:
        InputError: the file is not JSON of this form, or its lists contradict each other.
    """
    document = _read_json(path)
    images = _images(document, path)
    names = _category_names(document, path)
    items = _annotations(document, path, split)
    objects: dict[str, list[Item]] = defaultdict(list)
    boxes_without_area = 0
    for item in items:
        image_id = str(item["image_id"])
        source = f"{path}: annotation {item.get('id')} of image {image_id}"
        error = None
        if image_id not in images:
            error = InputError(
                f"{source}: the image is not in the file's list of images; add it, or remove the annotation"
            )
        elif item["category_id"] not in names:
            error = InputError(
                f"{source}: unknown category {reprlib.repr(item['category_id'])}; add it to 'categories'"
            )
        elif not _is_empty(item.get("bbox")):
            objects[image_id].append(item)
        elif callable(on_error):
            error = BoxError(f"{source}: its box has no area; correct or remove it")
        else:
            boxes_without_area += 1
        if error and not callable(on_error):
            raise error
        if error and callable(on_error):
            on_error(Fault.of(error, image_id))
    if boxes_without_area:
        logger.warning("%s: left out %d boxes without area", path, boxes_without_area)
    return CocoFile(path, _classes(document, names, items, path), images, dict(objects))


def stated_box(item: Item, source: str) -> Any:
    """Returns the ``bbox`` of an annotation; if it has none, the box around its ``segmentation``.

    Raises:
        BoxError: there is no ``bbox``, and the segmentation is malformed.
    """
    box = item.get("bbox")
    if box or not item.get("segmentation"):
        return box
    try:
        return segmentation_box(item["segmentation"])
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise BoxError(
            f"{source}: has no bbox, and its segmentation cannot be read ({error}); correct it"
        ) from error


def is_set(value: Any) -> bool:
    """Returns whether a flag such as ``iscrowd`` is set; programs write numbers, truth values and texts."""
    if isinstance(value, list | dict):
        return bool(value)
    return bool(value) and str(value).strip().lower() not in ("0", "0.0", "false", "no", "unspecified")


def _read_json(path: Path) -> Item:
    document = read_json(path)
    if not isinstance(document, dict):
        raise InputError(
            f"{path}: not in COCO's form; expected an object with images, annotations, categories"
        )
    return document


def _images(document: Item, path: Path) -> dict[str, Item]:
    listed = _items(document, "images", ("id", "file_name", "width", "height"), path)
    for item in listed:
        if not isinstance(item["file_name"], str):
            raise InputError(f"{path}: the file_name of image {item['id']} is no text; correct it")
    images = {str(item["id"]): item for item in listed}
    for image_id in images:
        # File names of drawings and results contain the id, so it must not lead out of a folder.
        inside(path.parent, image_id, path)
    if not images:
        raise InputError(f"{path}: lists no images; put some into 'images'")
    if len(images) < len(listed):
        raise InputError(f"{path}: two images share an id; make them different")
    return images


def _category_names(document: Item, path: Path) -> dict[int, str]:
    categories = _items(document, "categories", ("id", "name"), path)
    for category in categories:
        if not isinstance(category["name"], str | int):
            raise InputError(f"{path}: a category's name is {reprlib.repr(category['name'])}; write a text")
        # As the names in VOC's and YOLO's files.
        category["name"] = str(category["name"]).strip()
    # A truth value is an int, too.
    if not all(type(category["id"]) is int for category in categories):
        raise InputError(f"{path}: a category id is not a whole number; number the categories")
    if not categories:
        raise InputError(f"{path}: lists no categories; put some into 'categories'")
    names = {category["id"]: category["name"] for category in categories}
    if len(names) < len(categories):
        raise InputError(f"{path}: two categories share an id or a name; make them different")
    return dict(sorted(names.items()))


def _classes(document: Item, names: dict[int, str], items: list[Item], path: Path) -> dict[int, str]:
    """The categories but for supercategories that no annotation uses, which Roboflow lists among them."""
    used = {item["category_id"] for item in items}
    parents = [category.get("supercategory") for category in document["categories"]]
    roots = {
        category["id"]
        for category in document["categories"]
        if category["name"] in parents and category.get("supercategory") in (None, "", "none")
    }
    classes = {number: name for number, name in names.items() if number in used or number not in roots}
    if len(set(classes.values())) < len(classes):
        raise InputError(f"{path}: two categories share an id or a name; make them different")
    return classes


def _annotations(document: Item, path: Path, split: str) -> list[Item]:
    if "annotations" not in document and not split.startswith("train"):
        logger.warning("%s: has no list 'annotations'; its images have no objects", path)
        return []
    items = _items(document, "annotations", ("image_id", "category_id"), path)
    for index, item in enumerate(items):
        if "bbox" not in item and not item.get("segmentation"):
            raise InputError(f"{path}: annotations[{index}] lacks bbox")
    return items


def _items(document: Item, key: str, fields: tuple[str, ...], path: Path) -> list[Item]:
    items = document.get(key)
    if not isinstance(items, list):
        raise InputError(f"{path}: has no list {key!r}; is this a COCO 'instances' file?")
    for index, item in enumerate(items):
        missing = [field for field in fields if not isinstance(item, dict) or field not in item]
        if missing:
            raise InputError(f"{path}: {key}[{index}] lacks {', '.join(missing)}")
        if not all(_is_id(value) for field, value in item.items() if field.endswith("id")):
            raise InputError(f"{path}: {key}[{index}] has an id that is neither a number nor a text")
    return items


def _is_id(value: Any) -> bool:
    # Lists and objects cannot be keys of dictionaries, and JSON has no NaN and no infinity.
    return not isinstance(value, list | dict) and not (isinstance(value, float) and not math.isfinite(value))


def _is_empty(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and 0 in box[2:]
