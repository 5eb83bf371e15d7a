"""Objects written as images: which objects, with how much margin, and bad input."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data import Dataset, Example, read_image
from sppnet.data.image_folder import open_image_folder
from sppnet.data.object_crops import write_object_crops

CLASSES = ("cup/mug", "hat")
WIDTH, HEIGHT = 200, 120
# Box, label, difficult.
OBJECTS = [
    ((60, 10, 110, 110), 0, False),
    ((155, 0, 195, 32), 1, False),
    ((10, 10, 41, 60), 1, False),  # 31 wide
    ((10, 10, 60, 41), 1, False),  # 31 high
    ((10, 10, 60, 60), 1, True),
]
# The crops of the first two objects: the box with a margin of 16% of its width (50, 40) and height (100, 32)
# on each side, clipped to the image.
SHOWN = {0: (52, 0, 118, 120), 1: (148, 0, 200, 38)}


def example(folder, image_id="1", objects=OBJECTS):
    """Writes a smooth image, which JPEG keeps well, with a different colour at each pixel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([x, 2 * y, 255 - x], axis=2).astype(np.uint8)
    path = folder / f"{image_id.replace('/', '-')}.png"
    cv2.imwrite(str(path), image[:, :, ::-1])
    boxes, labels, difficult = zip(*objects, strict=True)
    return Example(
        image_id, path, WIDTH, HEIGHT, np.array(boxes, np.float32), np.array(labels), np.array(difficult),
        np.zeros(len(boxes), bool),
    )  # fmt: skip


@pytest.fixture
def dataset(tmp_path):
    return Dataset("toys", "train", CLASSES, (example(tmp_path), example(tmp_path, "2/b", OBJECTS[:1])))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_objects_are_written_with_their_margin(dataset, tmp_path):
    calls = []
    counts = write_object_crops({"train": dataset}, tmp_path / "out", lambda *call: calls.append(call))
    assert counts == {"train": 3}
    assert calls == [("objects (train)", 1, 2), ("objects (train)", 2, 2)]
    assert files(tmp_path / "out") == [
        "train/cup%2Fmug/1-0.jpg", "train/cup%2Fmug/2/b-0.jpg", "train/hat/1-1.jpg"
    ]  # fmt: skip
    image = read_image(dataset[0].path).astype(int)
    for number, name in enumerate(("cup%2Fmug", "hat")):
        left, top, right, bottom = SHOWN[number]
        crop = read_image(tmp_path / "out" / "train" / name / f"1-{number}.jpg")
        assert crop.shape == (bottom - top, right - left, 3)
        assert np.abs(crop - image[top:bottom, left:right]).max() < 12


def test_the_crops_are_an_image_folder(dataset, tmp_path):
    splits = {"train": dataset, "val": replace(dataset, examples=dataset.examples[1:])}
    assert write_object_crops(splits, tmp_path / "out") == {"train": 3, "val": 1}
    train = open_image_folder(tmp_path / "out" / "train")
    assert (train.classes, train.labels.tolist()) == (("cup%2Fmug", "hat"), [0, 0, 1])
    assert len(open_image_folder(tmp_path / "out" / "val", train.classes)) == 1


def test_similar_image_ids_get_different_files(tmp_path):
    """The ids 1/2 and 1_2 are two images."""
    examples = tuple(example(tmp_path, image_id, OBJECTS[:1]) for image_id in ("1/2", "1_2"))
    write_object_crops({"train": Dataset("toys", "train", CLASSES, examples)}, tmp_path / "out")
    assert len(files(tmp_path / "out")) == 2


def test_a_folder_with_something_in_it_is_left_alone(dataset, tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="there is something already"):
            write_object_crops({"train": dataset}, folder)
    (tmp_path / "empty").mkdir()
    assert write_object_crops({"train": dataset}, tmp_path / "empty") == {"train": 3}


def test_the_working_folder_is_not_replaced(dataset, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for folder in (".", "..", tmp_path / "empty"):
        with pytest.raises(InputError, match="the folder you are in"):
            write_object_crops({"train": dataset}, Path(folder))


def broken(dataset):
    dataset[1].path.write_bytes(b"no image")
    return dataset


def other_size(dataset):
    cv2.imwrite(str(dataset[1].path), np.zeros((HEIGHT, WIDTH // 2, 3), np.uint8))
    return dataset


def nothing_large(dataset):
    return replace(dataset, examples=(example(dataset[0].path.parent, "3", OBJECTS[2:]),))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken, r"2-b\.png: not an image"),
        (other_size, r"2-b\.png: 100x120 pixels, but annotated as 200x120"),
        (nothing_large, "toys train: no object with sides of 32 pixels"),
    ],
)
def test_bad_data_is_named_and_leaves_nothing(dataset, tmp_path, damage, message):
    with pytest.raises(InputError, match=message):
        write_object_crops({"train": damage(dataset)}, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_images_without_large_objects_are_not_opened(dataset, tmp_path):
    unused = example(tmp_path, "4", OBJECTS[2:])
    unused.path.unlink()
    counts = write_object_crops(
        {"train": replace(dataset, examples=(unused, *dataset.examples))}, tmp_path / "out"
    )
    assert counts == {"train": 3}
