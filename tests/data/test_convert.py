"""Conversion: round trips, names, links, what a layout cannot hold, and nothing half-written."""

import os
from dataclasses import replace

import numpy as np
import pytest
from photos import assert_same_objects, dataset, example, photo, with_orientation

from sppnet.common.errors import InputError
from sppnet.data import convert_dataset, load_dataset
from sppnet.data.all_splits import load_splits

LAYOUTS = ["voc", "coco", "yolo"]
NAMES = ["plain", "with blank", "Grüße 你好", "007"]


def two_splits(folder):
    """Images of any name; boxes at the border, of one pixel, and of all classes."""
    boxes = [(0, 0, 100, 80), (99, 79, 100, 80), (33, 20, 61, 47)]
    images = [
        example(folder / f"{name}.png", boxes[: number + 1] if number < 3 else [], seed=number,
                labels=[2, 0, 1][: number + 1] if number < 3 else [], difficult=[1], truncated=[0])
        for number, name in enumerate(NAMES)
    ]  # fmt: skip
    return dataset(*images[:2]), dataset(*images[2:], split="test")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read_again(tmp_path, layout):
    train, test = two_splits(tmp_path / "photos")
    conversion = convert_dataset([train, test], tmp_path / "new", layout)
    assert conversion.images == {"train": 2, "test": 2}
    assert conversion.objects == {"train": 3, "test": 3}
    for part in (train, test):
        # Six decimals of 100 and 80 pixels.
        again = load_dataset(tmp_path / "new", part.split)
        assert_same_objects(again, part, tolerance=1e-4 if layout == "yolo" else 0)
        assert set(again.classes) == set(part.classes)
        if layout != "yolo":
            by_stem = {item.path.stem: item for item in again}
            for before in part:
                after = by_stem[before.path.stem]
                np.testing.assert_array_equal(after.difficult, before.difficult)
                np.testing.assert_array_equal(after.truncated, before.truncated)


@pytest.mark.parametrize("layout", ["coco", "yolo"])
def test_there_and_back(tmp_path, layout):
    train, test = two_splits(tmp_path / "photos")
    convert_dataset([train, test], tmp_path / "first", "voc")
    convert_dataset(load_splits(tmp_path / "first"), tmp_path / "second", layout)
    convert_dataset(load_splits(tmp_path / "second"), tmp_path / "third", "voc")
    for split in ("train", "test"):
        first, third = load_dataset(tmp_path / "first", split), load_dataset(tmp_path / "third", split)
        assert_same_objects(third, first)
        assert {item.image_id for item in third} == {item.image_id for item in first}


def test_there_and_back_on_real_images(tmp_path, voc_root):
    voc = load_dataset(voc_root, "test", limit=40)
    for layout in ("coco", "yolo"):
        convert_dataset([voc], tmp_path / layout, layout, link=True)
        again = load_dataset(tmp_path / layout, "test")
        assert_same_objects(again, voc, tolerance=1e-3 if layout == "yolo" else 0)
        convert_dataset([again], tmp_path / f"{layout}-voc", "voc", link=True)
        assert_same_objects(load_dataset(tmp_path / f"{layout}-voc", "test"), voc)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_links(tmp_path, layout):
    train, test = two_splits(tmp_path / "photos")
    convert_dataset([train, test], tmp_path / "new", layout, link=True)
    images = list((tmp_path / "new").rglob("*.png"))
    assert len(images) == 4
    for path in images:
        assert path.is_symlink()
        assert path.resolve() == (tmp_path / "photos" / path.name).resolve()
    assert_same_objects(load_dataset(tmp_path / "new", "test"), test, tolerance=1e-4)


def test_two_images_of_one_name(tmp_path):
    """As a.jpg in two folders, or a.jpg and A.png, whose annotation file would be the same."""
    paths = ["one/a.png", "two/a.png", "one/A.jpg", "one/a-2.png"]
    images = [example(tmp_path / path, seed=number) for number, path in enumerate(paths)]
    train, test = dataset(*images[:2]), dataset(*images[2:], split="test")
    conversion = convert_dataset([train, test], tmp_path / "new", "voc")
    ids = [item.image_id for split in ("train", "test") for item in load_dataset(tmp_path / "new", split)]
    assert ids == ["a", "a-2", "A-3", "a-2-2"]
    (note,) = conversion.notes
    assert note.startswith("3 images got another name, because two had the same or it cannot be an id; ")
    assert note.endswith("two/a.png is now a-2")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_name(tmp_path, layout):
    """Classes of any text, and files of a COCO set whose names cannot be ids."""
    image = example(tmp_path / "odd" / os.fsdecode(b"b\xe9 \n.png"), image_id="7")
    for number, classes in enumerate((("a/b", "a_b", "$x$"), ("A", "a", "b: [c]"), ("no", "1.0", ".."))):
        source = replace(dataset(image), classes=classes, image_ids={"7": 7}, category_ids=(1, 2, 3))
        folder = tmp_path / str(number)
        convert_dataset([source], folder, layout)
        again = load_dataset(folder, "train")
        names = [[part.classes[label] for label in part[0].labels] for part in (again, source)]
        assert names[0] == names[1]
        np.testing.assert_allclose(again[0].boxes, image.boxes, atol=1e-3)


def test_ids_of_coco_give_way_to_file_names(tmp_path):
    image = example(tmp_path / "dog 1.png", image_id="397133")
    source = replace(dataset(image), image_ids={"397133": 397133}, category_ids=(1, 2, 3))
    convert_dataset([source], tmp_path / "new", "voc")
    assert [item.image_id for item in load_dataset(tmp_path / "new", "train")] == ["dog 1"]


def test_union_of_splits_is_left_out(tmp_path):
    """Trainval has no images of its own: in folders by split they would be there twice."""
    train, test = two_splits(tmp_path / "photos")
    val = dataset(example(tmp_path / "photos" / "v.png", seed=9), split="val")
    trainval = dataset(*train, *val, split="trainval")
    conversion = convert_dataset([train, val, trainval, test], tmp_path / "yolo", "yolo")
    assert list(conversion.images) == ["train", "val", "test"]
    note = "trainval is left out: it has the images of train and val, which would be double"
    assert note in conversion.notes
    conversion = convert_dataset([train, val, trainval, test], tmp_path / "voc", "voc")
    assert list(conversion.images) == ["train", "val", "trainval", "test"]
    assert len(load_dataset(tmp_path / "voc", "trainval")) == 3


class TestNotes:
    def test_flags(self, tmp_path):
        images = example(tmp_path / "a.png", [(1, 2, 30, 40)] * 3, difficult=[0, 1], truncated=[2])
        splits = [dataset(images), dataset(images, split="val")]
        assert convert_dataset(splits, tmp_path / "voc", "voc").notes == ()
        assert convert_dataset(splits, tmp_path / "coco", "coco").notes == (
            "COCO has 'iscrowd' for 'difficult': 4 objects",
        )
        assert convert_dataset(splits, tmp_path / "yolo", "yolo").notes == (
            "YOLO's labels have no 'difficult': 4 objects became like others",
            "YOLO's labels have no 'truncated': lost for 2 objects",
        )

    def test_fractions_of_pixels(self, tmp_path):
        images = example(tmp_path / "a.png", [(1, 2, 30, 40), (1.004, 2, 30, 40), (1.4, 2, 30, 40)])
        assert convert_dataset([dataset(images)], tmp_path / "coco", "coco").notes == ()
        assert convert_dataset([dataset(images)], tmp_path / "voc", "voc").notes == (
            "VOC has whole pixels: 1 box moved by half a pixel at most",
        )

    def test_ultralytics_needs_val(self, tmp_path):
        (note,) = convert_dataset([dataset(example(tmp_path / "a.png"))], tmp_path / "new", "yolo").notes
        assert note == "there is no split val, without which Ultralytics does not train"


class TestTheNewFolder:
    def test_must_be_missing_or_empty(self, tmp_path):
        source = dataset(example(tmp_path / "a.png"))
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "note.txt").write_text("")
        for name in ("full", "full/note.txt"):
            with pytest.raises(InputError, match="is there already, and not empty; give a new folder"):
                convert_dataset([source], tmp_path / name, "voc")
        assert os.listdir(tmp_path / "full") == ["note.txt"]
        (tmp_path / "empty").mkdir()
        convert_dataset([source], tmp_path / "empty", "voc")
        assert len(load_dataset(tmp_path / "empty")) == 1

    @pytest.mark.parametrize("link", [False, True])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_is_whole_or_absent(self, tmp_path, layout, link):
        train, test = two_splits(tmp_path / "photos")
        test[1].path.unlink()
        with pytest.raises(InputError, match=r"007\.png: the image is missing; restore it"):
            convert_dataset([train, test], tmp_path / "new", layout, link)
        assert os.listdir(tmp_path) == ["photos"]

    def test_annotations_name_the_final_folder(self, tmp_path):
        convert_dataset([dataset(example(tmp_path / "a.png"))], tmp_path / "new", "voc")
        assert "<folder>new</folder>" in (tmp_path / "new/Annotations/a.xml").read_text()


def test_different_classes(tmp_path):
    image = example(tmp_path / "a.png")
    with pytest.raises(InputError, match="the splits train and test have different classes"):
        convert_dataset(
            [dataset(image), dataset(image, split="test", classes=("cat",))], tmp_path / "new", "coco"
        )


def test_progress(tmp_path):
    calls = []
    splits = two_splits(tmp_path / "photos")
    convert_dataset(splits, tmp_path / "new", "coco", progress=lambda *call: calls.append(call))
    assert calls == [("images", done, 4) for done in range(1, 5)]


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_camera_that_was_held_upright(tmp_path, layout, link):
    """Boxes stay on what they are around, for annotations of the turned image and of the stored one."""
    # OpenCV writes JPEG, but not under the suffix .jfif.
    path = with_orientation(photo(tmp_path / "stored.jpg", 1), 6).rename(tmp_path / "stored.jfif")
    stored = example(path, [(10, 20, 60, 70)])
    turned = example(with_orientation(photo(tmp_path / "turned.jpg", 2, 80, 100), 6), [(10, 20, 60, 70)])
    conversion = convert_dataset([dataset(stored, turned, split="val")], tmp_path / "new", layout, link)
    assert len(conversion.notes) == (layout == "yolo")
    again = {item.path.stem: item for item in load_dataset(tmp_path / "new", "val")}
    for before in (stored, turned):
        after = again[before.path.stem]
        assert (after.width, after.height) == (100, 80)
        np.testing.assert_allclose(after.boxes, before.boxes, atol=1e-4)
        difference = after.read().astype(int) - before.read()
        # JPEG of quality 95 changes noise a little.
        assert np.abs(difference).mean() < 8
