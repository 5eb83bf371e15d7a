"""Checks paths and boxes and collects examples, for the readers of all formats."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.files import read_text
from sppnet.data.faults import BoxError, Fault
from sppnet.data.image_folder import IMAGE_SUFFIXES
from sppnet.data.images import image_header, image_size
from sppnet.data.names import check_names, text_lines
from sppnet.data.types import Dataset, Example

logger = logging.getLogger(__name__)

# A function gets each fault; images with one are left out, as with "skip", and nothing is logged.
OnError = Literal["raise", "skip"] | Callable[[Fault], None]

# What the devkit's lists have in the columns after the id.
_FLAGS = ("-1", "0", "1")


def inside(folder: Path, relative: str, source: Path) -> Path:
    """Joins ``folder / relative`` after a check that ``relative`` does not lead out of the folder.

    Args:
        folder: the folder.
        relative: a path below ``folder``, with either slash, from a file that is not trusted.
        source: the file that ``relative`` comes from, for the error message.

    Raises:
        InputError: ``relative`` is absolute, empty, or has a ``..`` part.
    """
    parts = PurePosixPath(relative.replace("\\", "/"))
    if (
        not parts.parts
        or parts.is_absolute()
        or ".." in parts.parts
        or ":" in parts.parts[0]
        or "\0" in relative
    ):
        raise InputError(f"{source}: {relative!r} leads out of its folder; use a name inside {folder}")
    return folder / parts


def read_ids(path: Path, known: Callable[[str], bool] | None = None) -> list[str]:
    """Reads the image ids of a list file, one from each line that is not blank.

    An id may be in double quotes. Columns of numbers after it are ignored, as the devkits have them. An id
    with blanks, such as ``dog 1``, is told from an id and a column by the files that there are.

    Args:
        path: the list.
        known: tells whether there is an image or annotation of an id; with it, an image's suffix in the list
            is no part of an id. None: the first word of a line is the id.

    Raises:
        InputError: the file cannot be read, is not UTF-8, lists nothing, or lists an id twice.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "train.txt")
        ...     _ = path.write_text('dog 1\\n"dog 2"\\ncat.jpg\\ncow -1')
        ...     read_ids(path, known=lambda image_id: image_id in ("dog 1", "dog 2", "cat", "cow"))
        ['dog 1', 'dog 2', 'cat', 'cow']
    """
    lines = [line.strip() for line in text_lines(read_text(path, "the list of images"))]
    ids = [_read_id(line, known) for line in lines if line]
    if not ids:
        raise InputError(f"{path}: lists no images; put one image id on each line")
    image_id, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: lists the image {image_id} {count} times; keep one of the lines")
    return ids


def _read_id(line: str, known: Callable[[str], bool] | None) -> str:
    quoted = re.match(r'"([^"]+)"', line)
    if known is None:
        return quoted[1] if quoted else line.split()[0]
    candidates = [quoted[1]] if quoted else [line]
    while not quoted and len(columns := candidates[-1].rsplit(maxsplit=1)) == 2 and columns[1] in _FLAGS:
        candidates.append(columns[0])
    for candidate in candidates:
        path = PurePosixPath(candidate)
        bare = candidate.removesuffix(path.suffix) if path.suffix.lower() in IMAGE_SUFFIXES else candidate
        for name in (candidate, bare):
            if known(name):
                return name
    # No file of it: the message names what the line most likely means.
    suffix = PurePosixPath(candidates[-1]).suffix
    return candidates[-1].removesuffix(suffix if suffix.lower() in IMAGE_SUFFIXES else "")


def clip_boxes(
    boxes: FloatArray, width: int, height: int, names: Sequence[str], source: str
) -> tuple[FloatArray, int]:
    """Clips boxes to the image.

    Args:
        boxes: float32 (N, 4), xyxy, 0-based pixel edges, right and bottom exclusive.
        width: the image's width, pixels.
        height: the image's height, pixels.
        names: the class names of the N objects, for error messages.
        source: the name of the file, for error messages.

    Returns:
        the clipped boxes, float32 (N, 4), and the number of boxes that reached over the border.

    Raises:
        InputError: a box lies wholly outside the image.
    """
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    empty = np.flatnonzero((clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1]))
    if len(empty):
        index = int(empty[0])
        box = ", ".join(f"{edge:g}" for edge in boxes[index])
        raise BoxError(
            f"{source}: object {index + 1} ({names[index]}) has the box edges ({box}), which lie outside "
            f"of the {width}x{height} image; correct or remove the object"
        )
    return clipped, int((clipped != boxes).any(axis=1).sum())


def size_faults(dataset: Dataset) -> dict[str, str]:
    """Finds images that are smaller than annotated, so that a box reaches out of them.

    Logs the number of other images whose size is not as annotated, and of images that are not turned by their
    EXIF orientation since their annotations fit only the stored pixels. Files that cannot be read are left to
    the code that decodes them.

    Returns:
        image id to a description of the fault.
    """
    faults: dict[str, str] = {}
    resized: list[Example] = []
    stored: list[Example] = []
    for example in dataset:
        try:
            header = image_header(example.path)
            width, height = image_size(example.path, example.size)
        except InputError:
            continue
        if header.applied_orientation(example.size) != header.orientation:
            stored.append(example)
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
    if stored:
        logger.warning(
            "%s %s: %d images have an EXIF orientation, but their annotations are for the pixels as stored; "
            "they are used as stored, not as viewers show them, the first %s",
            dataset.name, dataset.split, len(stored), stored[0].path,
        )  # fmt: skip
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
        on_error: ``"raise"`` the first `InputError`, or ``"skip"`` such images and count them. A function
            gets each fault instead of the log.
        source: the name of the data set in messages.

    Raises:
        InputError: from ``read``, or an image id that `check_names` refuses; with ``"skip"``, when no image
            is left.
    """
    examples: list[Example] = []
    clipped = 0
    errors: list[InputError] = []
    for image_id in ids:
        try:
            example, over_border = read(image_id)
            check_names(example.path, image_ids=[image_id])
        except InputError as error:
            if on_error == "raise":
                raise
            errors.append(error)
            if callable(on_error):
                on_error(Fault.of(error, image_id))
        else:
            examples.append(example)
            clipped += over_border
            if over_border and callable(on_error):
                on_error(
                    Fault(
                        "over the border",
                        image_id,
                        f"{example.path}: {over_border} of its boxes reach over the border and are clipped; "
                        "correct them if it is more than a few pixels",
                    )
                )
    if callable(on_error):
        return tuple(examples)
    if errors and not examples:
        raise InputError(f"{source}: all {len(errors)} images are unusable; the first: {errors[0]}")
    if errors:
        logger.warning("%s: skipped %d images; the first: %s", source, len(errors), errors[0])
    if clipped:
        logger.warning("%s: clipped %d boxes that reach over the image border", source, clipped)
    return tuple(examples)
