"""The writers of COCO and YOLO: their files, number by number."""

import json
from dataclasses import replace

import numpy as np
import pytest
from photos import dataset, example

from sppnet.common.errors import InputError
from sppnet.data import load_coco, write_coco, write_yolo


def read_json(folder, split="train"):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))


class TestCoco:
    def test_document(self, tmp_path):
        boxes = [(10, 20, 60, 70), (0.25, 1.5, 3.75, 2.125)]
        first = example(tmp_path / "a.png", boxes, labels=[2, 0], difficult=[1], truncated=[0])
        second = example(tmp_path / "b.png", [], seed=1)
        write_coco(dataset(first, second), tmp_path / "set")
        document = read_json(tmp_path / "set")
        assert document["images"] == [
            {"id": 1, "file_name": "a.png", "width": 100, "height": 80},
            {"id": 2, "file_name": "b.png", "width": 100, "height": 80},
        ]
        assert [(item["id"], item["name"]) for item in document["categories"]] == [
            (1, "cat"), (2, "dog"), (3, "big horse")
        ]  # fmt: skip
        whole_box, fraction_box = document["annotations"]
        assert (whole_box["id"], whole_box["image_id"], whole_box["category_id"], whole_box["iscrowd"]) == (
            1,
            1,
            3,
            0,
        )
        assert (
            fraction_box["id"],
            fraction_box["image_id"],
            fraction_box["category_id"],
            fraction_box["iscrowd"],
        ) == (2, 1, 1, 1)
        assert (whole_box["bbox"], whole_box["area"]) == ([10, 20, 50, 50], 2500)
        assert (fraction_box["bbox"], fraction_box["area"]) == ([0.25, 1.5, 3.5, 0.625], 3.5 * 0.625)
        assert whole_box["attributes"] == {"difficult": False, "truncated": True}
        assert fraction_box["attributes"] == {"difficult": True, "truncated": False}
        assert (tmp_path / "set/images/train/a.png").read_bytes() == first.path.read_bytes()

    def test_can_be_read_again_exactly(self, tmp_path):
        boxes = np.random.default_rng(0).uniform((0, 0, 41, 41), (40, 40, 100, 80), (20, 4))
        written = dataset(
            example(tmp_path / "a.png", boxes, labels=[1] * 20, difficult=[3, 4], truncated=[0, 4])
        )
        write_coco(written, tmp_path / "set")
        folder = tmp_path / "set"
        again = load_coco(folder / "annotations/instances_train.json", folder / "images/train", "train")
        np.testing.assert_array_equal(again[0].boxes, written[0].boxes)
        np.testing.assert_array_equal(again[0].difficult, written[0].difficult)
        np.testing.assert_array_equal(again[0].truncated, written[0].truncated)
        assert [again.classes[label] for label in again[0].labels] == ["dog"] * 20

    def test_numbers_of_a_coco_file_are_kept(self, tmp_path):

        whole = dataset(example(tmp_path / "a.png", labels=[1]), example(tmp_path / "b.png", seed=1))
        whole = replace(whole, category_ids=(18, 1, 90), image_ids={"a": 397133, "b": 7})
        write_coco(whole, tmp_path / "set")
        document = read_json(tmp_path / "set")
        assert [item["id"] for item in document["images"]] == [397133, 7]
        assert [(item["image_id"], item["category_id"]) for item in document["annotations"]] == [
            (397133, 1), (7, 18)
        ]  # fmt: skip
        # Other programs expect numbers.
        write_coco(replace(whole, image_ids={"a": "x", "b": "y"}), tmp_path / "texts")
        assert [item["id"] for item in read_json(tmp_path / "texts")["images"]] == [1, 2]


class TestYolo:
    def test_labels(self, tmp_path):
        boxes = [(10, 20, 60, 70), (0, 0, 100, 80)]
        write_yolo(dataset(example(tmp_path / "a.png", boxes, labels=[2, 0])), tmp_path / "set")
        expected = (
            "2 0.350000 0.562500 0.500000 0.625000\n"
            "0 0.500000 0.500000 1.000000 1.000000\n"
        )  # fmt: skip
        assert (tmp_path / "set/labels/train/a.txt").read_text() == expected
        assert (tmp_path / "set/images/train/a.png").read_bytes() == (tmp_path / "a.png").read_bytes()

    def test_image_without_objects_has_an_empty_file(self, tmp_path):
        write_yolo(dataset(example(tmp_path / "a.png", [])), tmp_path / "set")
        assert (tmp_path / "set/labels/train/a.txt").read_bytes() == b""

    def test_description_names_every_split(self, tmp_path):
        classes = ("a: b", 'c "d"', "#e", "Käse", "no", "7")
        for split, name in (("test", "x"), ("train", "y"), ("val", "z")):
            image = example(tmp_path / f"{name}.png", seed=ord(name))
            write_yolo(dataset(image, split=split, classes=classes), tmp_path / "set")
        assert (tmp_path / "set/data.yaml").read_text(encoding="utf-8") == (
            "train: images/train\n"
            "val: images/val\n"
            "test: images/test\n"
            "nc: 6\n"
            "names:\n"
            '  0: "a: b"\n'
            '  1: "c \\"d\\""\n'
            '  2: "#e"\n'
            '  3: "Käse"\n'
            '  4: "no"\n'
            '  5: "7"\n'
        )

    def test_other_classes(self, tmp_path):
        image = example(tmp_path / "a.png")
        write_yolo(dataset(image), tmp_path / "set")
        with pytest.raises(InputError, match=r"data\.yaml has other classes"):
            write_yolo(dataset(image, split="test", classes=("cat", "dog")), tmp_path / "set")


@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_image_that_is_not_there(tmp_path, write):
    image = example(tmp_path / "a.png")
    image.path.unlink()
    with pytest.raises(InputError, match=r"a\.png: the image is missing; restore it"):
        write(dataset(image), tmp_path / "set")


@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_ids_cannot_leave_the_folder(tmp_path, write):
    with pytest.raises(InputError, match="leads out of its folder"):
        write(dataset(example(tmp_path / "a.png", image_id="../a")), tmp_path / "set")
