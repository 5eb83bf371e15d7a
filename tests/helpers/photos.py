"""Small annotated data sets of random images."""

import cv2
import numpy as np

from sppnet.data import Dataset, Example

CLASSES = ("cat", "dog", "big horse")


def photo(path, seed=0, width=100, height=80):
    """Writes a random image, which differs with the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def example(path, boxes=((10, 20, 60, 70),), labels=None, image_id=None, difficult=(), truncated=(), seed=0):
    """An annotated image of 100 x 80 pixels, whose file is written where it is missing.

    ``difficult`` and ``truncated`` are numbers of objects.
    """
    if not path.exists():
        photo(path, seed)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    rows = np.arange(len(boxes))
    return Example(
        path.stem if image_id is None else image_id,
        path,
        100,
        80,
        boxes,
        np.zeros(len(boxes), np.int64) if labels is None else np.array(labels, np.int64).reshape(-1),
        np.isin(rows, difficult),
        np.isin(rows, truncated),
    )


def dataset(*examples, split="train", classes=CLASSES):
    return Dataset("photos", split, classes, tuple(examples))


def assert_same_objects(actual, expected, tolerance=0.0):
    """Two data sets have the same images, by the stems of their files, with the same objects and flags."""
    by_stem = {item.path.stem: item for item in actual}
    assert sorted(by_stem) == sorted(item.path.stem for item in expected)
    for item in expected:
        other = by_stem[item.path.stem]
        assert other.path.read_bytes() == item.path.read_bytes()
        assert (other.width, other.height) == (item.width, item.height)
        np.testing.assert_allclose(other.boxes, item.boxes, rtol=0, atol=tolerance)
        names = [actual.classes[label] for label in other.labels]
        assert names == [expected.classes[label] for label in item.labels]


def with_orientation(path, orientation):
    """Gives a JPEG file an EXIF orientation."""
    encoded = path.read_bytes()
    directory = b"\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + b"\0\0\0\0\0\0"
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08" + directory
    path.write_bytes(encoded[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + encoded[2:])
    return path
