"""Splits as a whole: joined, found to join others, divided by lists; and faults handed to a function."""

import os
import shutil
from dataclasses import replace

import exports
import pytest
from photos import dataset, example

from sppnet.common.errors import InputError
from sppnet.data import check_dataset, load_dataset
from sppnet.data.all_splits import load_splits, split_openers
from sppnet.data.splits import join_splits, joined_splits


def splits_of(folder, **names):
    """Data sets of images by their names: ``splits_of(folder, train="abc", test="d")``."""
    return [
        dataset(*(example(folder / f"{name}.png", seed=ord(name)) for name in letters), split=split)
        for split, letters in names.items()
    ]


def ids(part):
    return [item.image_id for item in part]


class TestJoining:
    def test_every_image_is_there_once(self, tmp_path):
        whole = join_splits(splits_of(tmp_path, train="ab", trainval="abc", test="d"))
        assert (whole.split, ids(whole)) == ("all", ["a", "b", "c", "d"])
        assert whole.image_ids is None

    def test_ids_that_begin_anew(self, tmp_path):
        """Each file of COCO may number its images from 0."""
        parts = [
            replace(
                part,
                examples=tuple(replace(item, image_id=str(number)) for number, item in enumerate(part)),
                image_ids={"0": 0, "1": 1},
            )
            for part in splits_of(tmp_path, train="ab", test="cd")
        ]
        whole = join_splits(parts)
        assert ids(whole) == ["train/0", "train/1", "test/0", "test/1"]
        assert whole.image_ids is None
        assert join_splits(parts[:1]).image_ids == {"0": 0, "1": 1}

    def test_splits_that_join_others(self, tmp_path):
        parts = splits_of(tmp_path, train="ab", val="c", trainval="abc", test="de", default="abcde")
        assert joined_splits(parts) == {
            "trainval": ("train", "val"), "default": ("train", "val", "trainval", "test")
        }  # fmt: skip
        # The same images twice are no union, nor is one that has more.
        assert joined_splits(splits_of(tmp_path, train="ab", test="ab", trainval="abcf")) == {}


class TestLists:
    def test_go_before_the_splits_of_the_files(self, tmp_path):
        exports.roboflow_yolo(tmp_path / "set")
        exports.write_text(
            tmp_path / "set/splits/test.txt", "train/images/dog 1.jpg", "valid/images/img (1).jpeg"
        )
        exports.write_text(tmp_path / "set/splits/train.txt", "test/images/t.1.jpg")
        parts = {part.split: [item.path.name for item in part] for part in load_splits(tmp_path / "set")}
        assert parts == {"train": ["t.1.jpg"], "test": ["dog 1.jpg", "img (1).jpeg"]}

    def test_image_that_is_not_there(self, tmp_path):
        exports.labelimg_voc(tmp_path / "set")
        exports.write_text(tmp_path / "set/splits/train.txt", "0007.JPG", "gone.jpg")
        with pytest.raises(
            InputError, match=r"train\.txt: gone\.jpg is not an annotated image; remove the line"
        ):
            load_dataset(tmp_path / "set", "train")
        assert len(load_dataset(tmp_path / "set", "train", on_error="skip")) == 1
        check = check_dataset(tmp_path / "set")
        assert [finding.title for finding in check.problems] == [
            "1 image annotated or listed, but without an image file"
        ]

    def test_empty_list(self, tmp_path):
        exports.labelimg_voc(tmp_path / "set")
        exports.write_text(tmp_path / "set/splits/train.txt")
        with pytest.raises(InputError, match=r"train\.txt: lists no images"):
            load_dataset(tmp_path / "set", "train")


class TestAllSplits:
    def test_of_a_pattern_of_json_files(self, tmp_path):
        exports.standard_coco(tmp_path / "set")
        for split in ("train", "val", "test"):
            (tmp_path / f"set/annotations/instances_{split}2017.json").rename(tmp_path / f"set/{split}.json")
            (tmp_path / f"set/{split}2017").rename(tmp_path / f"set/{split}")
        name = f"coco:{tmp_path}/set/{{split}}.json:{tmp_path}/set/{{split}}"
        assert {part.split: len(part) for part in load_splits(name)} == {"train": 4, "val": 1, "test": 1}
        one = f"coco:{tmp_path}/set/train.json:{tmp_path}/set/train"
        assert {part.split: len(part) for part in load_splits(one)} == {"all": 4}

    def test_names(self):
        assert list(split_openers("ilsvrc:anywhere")) == ["train", "val"]
        with pytest.raises(InputError, match="no data set 'nowhere'"):
            split_openers("nowhere")


@pytest.mark.parametrize("line", ["a\0b.jpg", "../x.jpg", "/etc/passwd", "x" * 5000, "a\u2028b.jpg"])
def test_a_listed_file_that_is_no_image_of_the_set(tmp_path, line):
    exports.voc_without_lists(tmp_path / "set")
    (tmp_path / "set/splits").mkdir()
    (tmp_path / "set/splits/test.txt").write_text(line, encoding="utf-8")
    with pytest.raises(InputError, match=r"splits/test\.txt: "):
        load_dataset(tmp_path / "set", "test")


def test_names_of_files_that_cannot_be_ids(tmp_path, caplog):
    """They are named with their file, or left out and counted."""
    exports.labelimg_voc(tmp_path / "set")
    for name in (os.fsdecode(b"b\xe9"), "blank ", "two\nlines"):
        for suffix in (".jpg", ".xml"):
            shutil.copy(tmp_path / f"set/dog 1{suffix}", tmp_path / f"set/{name}{suffix}")
    with pytest.raises(
        InputError, match=r"set/blank \.jpg: the image id 'blank ' begins or ends with a blank"
    ):
        load_dataset(tmp_path / "set", "train")
    part = load_dataset(tmp_path / "set", "train", on_error="skip")
    assert len(part) == len(exports.ALL)
    assert "skipped 3 images" in caplog.text
    part.digest()


def test_heic_images_are_named_once(tmp_path, caplog):
    exports.ultralytics_yolo(tmp_path / "set")
    for name in ("x.heic", "y.HEIF"):
        (tmp_path / "set/images/train" / name).touch()
    for split in ("train", "val"):
        load_dataset(tmp_path / "set", split)
    assert caplog.text.count("2 HEIC images are left out") == 1


def test_faults_are_handed_to_a_function(tmp_path, caplog):
    exports.voc(tmp_path / "set")
    (tmp_path / "set/Annotations/0007.xml").write_text("")
    (tmp_path / "set/JPEGImages/empty.jpg").unlink()
    faults = []
    part = load_dataset(tmp_path / "set", "train", on_error=faults.append)
    assert [item.path.name for item in part] == ["dog 1.jpg", "größe.png"]
    assert [(fault.kind, fault.image_id) for fault in faults] == [
        ("annotation", "0007"),
        ("missing image", "empty"),
    ]
    assert all(str(tmp_path) in fault.message for fault in faults)
    assert caplog.records == []
