"""ILSVRC DET layout: reading and bad input."""

import cv2
import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data.ilsvrc import load_ilsvrc_det

# Real lines of the devkit's map_det.txt; the order of the indices is not the order of the synsets.
NAME_MAP = (
    "n02672831 1 accordion\nn02691156 2 airplane\nn02219486 3 ant\nn02419796 4 antelope\nn02084071 58 dog\n"
)
POSITIVE = "ILSVRC2013_train/n02084071/n02084071_1"
NEGATIVE = "ILSVRC2013_train_extra0/ILSVRC2013_train_00000001"


def annotation(*objects):
    elements = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><xmax>{x2}</xmax><ymin>{y1}</ymin><ymax>{y2}</ymax>"
        "</bndbox><subcategory>Egyptian cat</subcategory></object>"
        for name, (x1, y1, x2, y2) in objects
    )
    return f"<annotation><size><width>50</width><height>40</height></size>{elements}</annotation>"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "ILSVRC"
    texts = {
        f"train/{POSITIVE}": annotation(("n02084071", (0, 0, 49, 39)), ("n02219486", (5, 6, 14, 15))),
        f"train/{NEGATIVE}": None,
        "val/ILSVRC2012_val_00000002": annotation(("n02691156", (10, 10, 50, 40))),
        "val/ILSVRC2012_val_00000001": annotation(),
        "test/ILSVRC2012_test_1": None,
    }
    for name, text in texts.items():
        for kind, suffix in (("Data", ".JPEG"), ("Annotations", ".xml")):
            path = folder / kind / "DET" / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "Data":
                path.write_bytes(cv2.imencode(".jpg", np.zeros((40, 50, 3), np.uint8))[1].tobytes())
            elif text:
                path.write_text(text)
    lists = folder / "ImageSets" / "DET"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(f"{POSITIVE} 1\n{NEGATIVE} 2\n")
    (lists / "val.txt").write_text("ILSVRC2012_val_00000002 1\nILSVRC2012_val_00000001 2\n")
    (lists / "test.txt").write_text("ILSVRC2012_test_1 1\n")
    devkit = folder / "devkit" / "data"
    devkit.mkdir(parents=True)
    (devkit / "map_det.txt").write_text(NAME_MAP)
    return tmp_path


def test_train(root):
    for folder in (root, root / "ILSVRC"):
        dataset = load_ilsvrc_det(folder, "train")
        assert (dataset.name, dataset.split) == ("ILSVRC-DET", "train")
        assert dataset.classes == ("accordion", "airplane", "ant", "antelope", "dog")
        positive, negative = dataset
        assert (positive.image_id, negative.image_id) == (POSITIVE, NEGATIVE)
        assert positive.boxes.tolist() == [[0, 0, 49 + 1, 39 + 1], [5, 6, 14 + 1, 15 + 1]]
        assert positive.labels.tolist() == [4, 2]
        assert positive.path.is_file()
        assert negative.boxes.shape == (0, 4)
        assert (negative.width, negative.height) == (50, 40)


def test_val_keeps_the_order_and_clips(root):
    dataset = load_ilsvrc_det(root, "val")
    assert [example.image_id[-1] for example in dataset] == ["2", "1"]
    assert dataset[0].boxes.tolist() == [[10, 10, 50, 40]]
    assert len(dataset[1].labels) == 0


def test_val_must_be_annotated(root):
    (root / "ILSVRC/Annotations/DET/val/ILSVRC2012_val_00000001.xml").unlink()
    with pytest.raises(InputError, match=r"val_00000001\.xml: the annotation cannot be read"):
        load_ilsvrc_det(root, "val")
    assert len(load_ilsvrc_det(root, "val", on_error="skip")) == 1


def test_test_has_no_annotations(root):
    (example,) = load_ilsvrc_det(root, "test")
    assert len(example.labels) == 0


def test_lists_of_each_synset_are_merged_in_numeric_order(root):
    lists = root / "ILSVRC" / "ImageSets" / "DET"
    (lists / "train.txt").unlink()
    (lists / "train_10.txt").write_text(f"{POSITIVE} 1\n")
    (lists / "train_2.txt").write_text(f"{NEGATIVE} -1\n{POSITIVE} 0\n")
    assert [example.image_id for example in load_ilsvrc_det(root, "train")] == [NEGATIVE, POSITIVE]


def test_name_map_elsewhere(root, tmp_path):
    original = root / "ILSVRC/devkit/data/map_det.txt"
    original.rename(tmp_path / "names.txt")
    with pytest.raises(InputError, match=r"has no devkit/data/map_det\.txt"):
        load_ilsvrc_det(root, "val")
    assert load_ilsvrc_det(root, "val", name_map=tmp_path / "names.txt").classes[0] == "accordion"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "must hold each synset", id="empty"),
        pytest.param("n1 one ant\n", "not a table", id="index"),
        pytest.param("n1 1\n", "not a table", id="columns"),
        pytest.param("n1 1 ant\nn1 2 bee\n", "must hold each synset", id="synset-twice"),
        pytest.param("n1 1 ant\nn2 2 ant\n", "must hold each synset", id="name-twice"),
        pytest.param(NAME_MAP.replace("n02084071", "n9"), "unknown class 'n02084071'", id="unknown"),
    ],
)
def test_bad_name_map(root, text, message):
    (root / "ILSVRC/devkit/data/map_det.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        load_ilsvrc_det(root, "train")


def test_name_map_of_another_encoding(root):
    file = root / "ILSVRC/devkit/data/map_det.txt"
    file.write_bytes(NAME_MAP.encode() + b"n9 9 caf\xe9\n")
    with pytest.raises(
        InputError, match=r"map_det\.txt, line \d+: the table of synsets .*save the file as UTF-8"
    ):
        load_ilsvrc_det(root, "train")


def test_bad_lists(root):
    lists = root / "ILSVRC" / "ImageSets" / "DET"
    with pytest.raises(InputError, match=r"none\.txt: the list of images cannot be read"):
        load_ilsvrc_det(root, "none")
    (lists / "val.txt").write_text("missing 1\n")
    with pytest.raises(InputError, match=r"missing\.JPEG: this image of .*/val\.txt is missing"):
        load_ilsvrc_det(root, "val")
    (lists / "val.txt").write_text("../train/x 1\n")
    with pytest.raises(InputError, match=r"val\.txt: .* leads out of its folder"):
        load_ilsvrc_det(root, "val")
    with pytest.raises(InputError, match="has no ImageSets/DET"):
        load_ilsvrc_det(root / "ILSVRC" / "Data", "val")
