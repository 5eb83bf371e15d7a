"""The objects of a detection data set as images of their own, to train and test classifiers on."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.common.files import partial_folder
from sppnet.data.examples import inside
from sppnet.data.images import read_image
from sppnet.data.types import Dataset, Example

# Smaller objects show little: at 32 pixels a side, the view of a network is enlarged seven times.
MIN_SIDE = 32
# Part of the object's width and height shown on each side of it.
CONTEXT = 0.16
_JPEG_QUALITY = 95


def write_object_crops(
    splits: dict[str, Dataset],
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, int]:
    """Writes each object as ``folder/<name>/<class>/<image id>-<number>.jpg``.

    Difficult objects, and those with a side below 32 pixels, are left out. An object is shown with 16% of its
    width and height on each side, as far as the image goes. The folder appears once it is complete.

    Args:
        splits: by the name of the folder that they go to, as ``train`` and ``val``.
        folder: where to; must not exist, or be empty.
        progress: called with a split's name, images done, and images in all.

    Returns:
        how many objects each split gave.

    Raises:
        InputError: the folder has something in it, an image cannot be read or is of another size than its
            annotation says, a split has no such object.
    """
    here = Path.cwd()
    if folder.resolve() in (here, *here.parents):
        # It would be replaced below the feet of the one who works in it.
        raise InputError(f"{folder}: the folder you are in, or around it; name one that does not exist yet")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: there is something already; give another folder, or remove it")
    counts = {}
    with partial_folder(folder) as made:
        for name, dataset in splits.items():
            counts[name] = 0
            for done, example in enumerate(dataset, start=1):
                sides = example.boxes[:, 2:] - example.boxes[:, :2]
                wanted = np.flatnonzero(~example.difficult & (sides >= MIN_SIDE).all(axis=1))
                image = _read(example) if len(wanted) else None
                for number in wanted.tolist():
                    assert image is not None
                    left, top, right, bottom = _with_context(example.boxes[number], image.shape[:2])
                    # A class is one folder, whatever its name: COCO-style data sets have "cup/mug".
                    label = dataset.classes[example.labels[number]].replace("/", "_")
                    place = inside(made / name, f"{label}/{example.image_id}-{number}.jpg", example.path)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    crop = image[top:bottom, left:right, ::-1]
                    quality = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
                    # Python writes the file: OpenCV does not tell of a full disk.
                    place.write_bytes(cv2.imencode(".jpg", crop, quality)[1].tobytes())
                    counts[name] += 1
                progress(f"objects ({name})", done, len(dataset))
            if counts[name] == 0:
                raise InputError(
                    f"{dataset.name} {dataset.split}: no object with sides of {MIN_SIDE} pixels or more that "
                    "is not difficult"
                )
    return counts


def _read(example: Example) -> Image:
    image = read_image(example.path)
    height, width = image.shape[:2]
    if (width, height) != (example.width, example.height):
        raise InputError(
            f"{example.path}: {width}x{height} pixels, but annotated as {example.width}x{example.height}; "
            "restore the image, or correct its annotation"
        )
    return image


def _with_context(box: FloatArray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box xyxy grown by its context, in whole pixels inside an image of this height and width."""
    margin = CONTEXT * (box[2:] - box[:2])
    low = np.maximum(np.floor(box[:2] - margin), 0)
    high = np.minimum(np.ceil(box[2:] + margin), size[::-1])
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
