"""Reads COCO's JSON annotations."""

import os
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sppnet.common.errors import InputError
from sppnet.data.coco_file import CocoFile, Item, is_set, read_coco_file, stated_box
from sppnet.data.examples import OnError, clip_boxes, gather, inside
from sppnet.data.faults import BoxError, MissingImageError
from sppnet.data.images import MAX_PIXELS
from sppnet.data.names import check_names
from sppnet.data.types import Dataset, Example

# The edges of a box must fit float32.
_MAX_NUMBER = 1e37


def load_coco(
    annotations: Path,
    images: Path,
    split: str = "all",
    on_error: OnError = "raise",
    *,
    need_images: bool = True,
) -> Dataset:
    """Reads a COCO-style ``instances`` JSON file.

    Args:
        annotations: the JSON file.
        images: the folder that each image's ``file_name`` is relative to.
        split: the split's name in the result.
        on_error: ``"raise"``, or ``"skip"`` images with a bad box or a missing file. A logged warning gives
            their number.
        need_images: False: image files may be missing, as for scoring.

    Returns:
        the data set, in the order of the file's ``images``. Image ids are COCO's, as text. Labels are indices
        into the categories sorted by id. ``category_ids`` and ``image_ids`` hold the file's own ids. ``bbox``
        (x, y, width, height; 0-based, continuous) becomes (x, y, x + width, y + height); ``iscrowd`` becomes
        ``difficult``. An annotation without ``bbox`` has the box around its ``segmentation``. Boxes without
        area, which COCO 2017 contains, are left out; boxes that reach over the border are clipped; both are
        counted and logged. A supercategory that no annotation uses is no class. A file without the list
        ``annotations``, such as ``image_info_test2017.json``, has images without objects.

    Raises:
        InputError: the file is not JSON of this form; an annotation names an unknown image or category, or
            has a box that is malformed, negative, or outside the image; an image is missing.

    Example:
        >>> import json, tempfile, cv2
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

    def find_image(file_name: str) -> Path:
        return inside(images, file_name, annotations)

    return to_dataset(
        read_coco_file(annotations, split, on_error), split, find_image, None, on_error, need_images
    )


def to_dataset(
    file: CocoFile,
    split: str,
    find_image: Callable[[str], Path],
    classes: Sequence[str] | None,
    on_error: OnError,
    need_images: bool = True,
) -> Dataset:
    """Makes a data set of the content of a COCO file.

    Args:
        file: the content.
        split: the split's name in the result.
        find_image: the image file of an entry's ``file_name``; it need not exist.
        classes: names in the order of the labels, all those that annotations use; None: the file's own.
        on_error: as in `load_coco`.
        need_images: as in `load_coco`.

    Raises:
        InputError: as in `load_coco`.
    """
    ids = {name: number for number, name in file.categories.items()}
    classes = tuple(ids) if classes is None else tuple(classes)
    check_names(file.path, classes, split)
    labels = {ids[name]: label for label, name in enumerate(classes) if name in ids}

    def read(image_id: str) -> tuple[Example, int]:
        entry = file.images[image_id]
        path = find_image(str(entry["file_name"]))
        # Not Path.is_file, which fails at names that are too long.
        if need_images and not os.path.isfile(path):
            raise MissingImageError(
                f"{path}: the image {image_id} of {file.path} is missing; add it or unlist it"
            )
        items = file.objects.get(image_id, [])
        source = f"{file.path}: image {image_id}"
        numbers = _read_numbers([entry["width"], entry["height"]], 2, f"{source}, width and height")
        if (numbers < 1).any() or (numbers > MAX_PIXELS).any():
            raise InputError(f"{source}: {numbers[0]:g} x {numbers[1]:g} pixels; correct width and height")
        width, height = numbers.astype(int).tolist()
        boxes = np.zeros((len(items), 4))
        for index, item in enumerate(items):
            name = f"{source}, annotation {item.get('id')}"
            boxes[index] = _read_numbers(stated_box(item, name), 4, f"{name}, bbox")
        boxes[:, 2:] += boxes[:, :2]
        names = [file.categories[item["category_id"]] for item in items]
        clipped, over_border = clip_boxes(boxes.astype(np.float32), width, height, names, source)
        example = Example(
            image_id,
            path,
            width,
            height,
            clipped,
            np.array([labels[item["category_id"]] for item in items], np.int64),
            np.array([is_set(item.get("iscrowd")) for item in items], np.bool_),
            np.array([_is_truncated(item) for item in items], np.bool_),
        )
        return example, over_border

    examples = gather(file.images, read, on_error, str(file.path))
    # A class of other splits that this file does not list gets a number that the file does not use.
    unused = max(ids.values(), default=0) + 1
    category_ids = tuple(ids.get(name, unused + label) for label, name in enumerate(classes))
    image_ids = {image_id: entry["id"] for image_id, entry in file.images.items()}
    return Dataset(file.path.stem, split, classes, examples, category_ids, image_ids)


def _is_truncated(item: Item) -> bool:
    # COCO has no such flag; CVAT, Datumaro and `write_coco` put it there.
    attributes = item.get("attributes")
    return isinstance(attributes, dict) and is_set(attributes.get("truncated"))


def _read_numbers(values: Any, count: int, source: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{source}: {reprlib.repr(values)} is not {count} numbers; correct it") from error
    if numbers.shape != (count,) or not (abs(numbers) <= _MAX_NUMBER).all() or (numbers[-2:] <= 0).any():
        raise BoxError(
            f"{source}: {reprlib.repr(values)} must be {count} finite numbers, with a size above zero"
        )
    return numbers
