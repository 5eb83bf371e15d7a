"""Writes the objects of a detection data set as images, to train and test classifiers on."""

from pathlib import Path

import cv2
import numpy as np

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.common.files import partial_folder
from sppnet.common.progress import Progress, quiet
from sppnet.data.examples import inside
from sppnet.data.names import file_parts
from sppnet.data.types import Dataset, Example

# Pixels. Smaller objects show little: a network with an input of 224 enlarges 32 pixels seven times.
MIN_SIDE = 32
# The margin around an object, as a part of its width and height on each side.
CONTEXT = 0.16
_JPEG_QUALITY = 95


def write_object_crops(
    splits: dict[str, Dataset],
    folder: Path,
    progress: Progress = quiet,
) -> dict[str, int]:
    """Writes each object as ``folder/<name>/<class>/<image id>-<number>.jpg``.

    Difficult objects and objects with a side below 32 pixels are left out. An object is cut out with a margin
    of 16% of its width and height on each side, clipped to the image. The folder appears once it is complete.

    Args:
        splits: name of the folder to write to, such as ``train`` and ``val``, to data set.
        folder: must be missing or empty.
        progress: called with a split's name, the images done, and the images in total.

    Returns:
        the number of objects that were written, by split.

    Raises:
        InputError: the folder is not empty, an image cannot be read or has another size than its annotation
            says, or a split has no object that is neither difficult nor small.
    """
    working_folder = Path.cwd()
    if folder.resolve() in (working_folder, *working_folder.parents):
        # The folder is replaced; the user's shell would be left in a deleted folder.
        raise InputError(
            f"{folder}: this is the folder you are in, or one above it; name a folder that does not exist yet"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: there is something already; give another folder, or remove it")
    counts = {}
    with partial_folder(folder) as partial:
        for name, dataset in splits.items():
            counts[name] = 0
            # A class gets one folder, also if its name has a slash ("cup/mug" in COCO-style sets).
            parts = file_parts(dataset.classes)
            for done, example in enumerate(dataset, start=1):
                sides = example.boxes[:, 2:] - example.boxes[:, :2]
                numbers = np.flatnonzero(~example.difficult & (sides >= MIN_SIDE).all(axis=1))
                image = _read(example) if len(numbers) else None
                for number in numbers.tolist():
                    assert image is not None
                    left, top, right, bottom = _with_context(example.boxes[number], image.shape[:2])
                    class_folder = partial / name / parts[example.labels[number]]
                    path = inside(class_folder, f"{example.image_id}-{number}.jpg", example.path)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    crop = image[top:bottom, left:right, ::-1]
                    quality = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
                    # Python writes the file because OpenCV does not report a full disk.
                    path.write_bytes(cv2.imencode(".jpg", crop, quality)[1].tobytes())
                    counts[name] += 1
                progress(f"objects ({name})", done, len(dataset))
            if counts[name] == 0:
                raise InputError(
                    f"{dataset.name} {dataset.split}: no object with sides of {MIN_SIDE} pixels or more that "
                    "is not difficult"
                )
    return counts


def _read(example: Example) -> Image:
    image = example.read()
    height, width = image.shape[:2]
    if (width, height) != (example.width, example.height):
        raise InputError(
            f"{example.path}: {width}x{height} pixels, but annotated as {example.width}x{example.height}; "
            "restore the image, or correct its annotation"
        )
    return image


def _with_context(box: FloatArray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Adds the margin to an xyxy box, in whole pixels, clipped to an image of this height and width."""
    margin = CONTEXT * (box[2:] - box[:2])
    low = np.maximum(np.floor(box[:2] - margin), 0)
    high = np.minimum(np.ceil(box[2:] + margin), size[::-1])
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
