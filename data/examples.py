"""Checks of paths and boxes, and the collection of examples: shared by the readers of all formats."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.files import read_text
from sppnet.data.images import image_size
from sppnet.data.types import Dataset, Example

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]


def inside(folder: Path, relative: str, source: Path) -> Path:
    """Joins ``folder / relative`` after a check that ``relative`` does not lead out of the folder.

    Args:
        folder: the folder.
        relative: a path below it with either slash, as a file from outside has it.
        source: that file, for the error.

    Raises:
        InputError: ``relative`` is absolute, empty, or has a ``..`` part.
    """
    parts = PurePosixPath(relative.replace("\\", "/"))
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise InputError(f"{source}: {relative!r} leads out of its folder; use a name inside {folder}")
    return folder / parts


def read_ids(path: Path) -> list[str]:
    """Reads the image ids of a list file: the first word of each line that is not blank.

    Raises:
        InputError: the file cannot be read, is not UTF-8, lists nothing, or lists an id twice.
    """
    lines = read_text(path, "the list of images").splitlines()
    ids = [line.split()[0] for line in lines if line.strip()]
    if not ids:
        raise InputError(f"{path}: lists no images; put one image id on each line")
    image_id, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: lists the image {image_id} {count} times; keep one of the lines")
    return ids


def clip_boxes(
    boxes: FloatArray, width: int, height: int, names: Sequence[str], source: str
) -> tuple[FloatArray, int]:
    """Clips boxes to the image.

    Args:
        boxes: float32 (N, 4), xyxy, 0-based pixel edges, right and bottom exclusive.
        width: of the image, pixels.
        height: of the image, pixels.
        names: the classes of the N objects, for error messages.
        source: the name of the file in an error.

    Returns:
        the clipped boxes, and how many of them reached over the border.

    Raises:
        InputError: a box lies wholly outside of the image.
    """
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    empty = np.flatnonzero((clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1]))
    if len(empty):
        index = int(empty[0])
        box = ", ".join(f"{edge:g}" for edge in boxes[index])
        raise InputError(
            f"{source}: object {index + 1} ({names[index]}) has the box edges ({box}), which lie outside "
            f"of the {width}x{height} image; correct or remove the object"
        )
    return clipped, int((clipped != boxes).any(axis=1).sum())


def size_faults(dataset: Dataset) -> dict[str, str]:
    """Finds images that are smaller than annotated, so that a box reaches out of them.

    Logs how many more have another size than annotated. Files that cannot be read are left to the code
    that decodes them.

    Returns:
        the fault of each such image, in words, by image id.
    """
    faults: dict[str, str] = {}
    resized: list[Example] = []
    for example in dataset:
        try:
            width, height = image_size(example.path)
        except InputError:
            continue
        if (width, height) == (example.width, example.height):
            continue
        if (example.boxes[:, 2:] > (width, height)).any():
            faults[example.image_id] = (
                f"{example.path}: {width}x{height} pixels, but annotated as "
                f"{example.width}x{example.height}, and a box reaches out of it; restore the image, or "
                "correct its annotation"
            )
        else:
            resized.append(example)
    if resized:
        logger.warning(
            "%s %s: %d images are of another size than annotated, the first %s; their boxes are used as "
            "they are", dataset.name, dataset.split, len(resized), resized[0].path,
        )  # fmt: skip
    return faults


def gather(
    ids: Iterable[str], read: Callable[[str], tuple[Example, int]], on_error: OnError, source: str
) -> tuple[Example, ...]:
    """Reads every example; logs once how many boxes were clipped and how many images were skipped.

    Args:
        ids: in the order of the result.
        read: reads the example of an image id, and counts its clipped boxes.
        on_error: ``"raise"`` the first `InputError`, or ``"skip"`` such images and count them.
        source: the name of the data set in messages.

    Raises:
        InputError: from ``read``; with ``"skip"``, when no image is left.
    """
    examples: list[Example] = []
    clipped = 0
    errors: list[InputError] = []
    for image_id in ids:
        try:
            example, over_border = read(image_id)
        except InputError as error:
            if on_error == "raise":
                raise
            errors.append(error)
        else:
            examples.append(example)
            clipped += over_border
    if errors and not examples:
        raise InputError(f"{source}: all {len(errors)} images are unusable; the first: {errors[0]}")
    if errors:
        logger.warning("%s: skipped %d images; the first: %s", source, len(errors), errors[0])
    if clipped:
        logger.warning("%s: clipped %d boxes that reach over the image border", source, clipped)
    return tuple(examples)
