"""COCO JSON: reading and bad input."""

import json
import logging
from dataclasses import replace

import cv2
import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data.coco import load_coco


def document():
    return {
        "images": [
            {"id": 7, "file_name": "sub/b.png", "width": 100, "height": 80},
            {"id": 3, "file_name": "a.png", "width": 100, "height": 80},
        ],
        "categories": [
            {"id": 90, "name": "toothbrush"},
            {"id": 1, "name": "person"},
            {"id": 18, "name": "dog"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10.5, 20.25, 30, 40], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 100, 80], "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 18, "bbox": [90, 70, 20, 20]},
        ],
    }


def make(folder, content):
    for name in ("sub/b.png", "a.png"):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", np.zeros((80, 100), np.uint8))[1].tobytes())
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path, folder / "images"


def test_reads(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = load_coco(*make(tmp_path, document()), split="val")
    assert (dataset.name, dataset.split) == ("instances", "val")
    assert dataset.classes == ("person", "dog", "toothbrush")
    first, second = dataset
    assert (first.image_id, second.image_id) == ("7", "3")
    assert first.boxes.tolist() == [[10.5, 20.25, 10.5 + 30, 20.25 + 40], [0, 0, 100, 80], [90, 70, 100, 80]]
    assert first.boxes.dtype == np.float32
    assert first.labels.tolist() == [2, 0, 1]
    assert first.difficult.tolist() == [False, True, False]
    assert not first.truncated.any()
    assert second.boxes.shape == (0, 4)
    assert "clipped 1 boxes" in caplog.text


def test_the_files_own_ids_are_kept(tmp_path):
    content = document()
    content["images"][1]["id"] = "003"
    dataset = load_coco(*make(tmp_path, content))
    assert dataset.category_ids == (1, 18, 90)
    assert dataset.image_ids == {"7": 7, "003": "003"}
    for subset in (dataset.head(1), dataset[:1], dataset.without(["003"])):
        assert [example.image_id for example in subset] == ["7"]
        assert (subset.classes, subset.category_ids, subset.image_ids) == (
            dataset.classes, dataset.category_ids, dataset.image_ids
        )  # fmt: skip
    # Detections have labels, so the file's numbers do not count as a change of the data set.
    assert replace(dataset, category_ids=None, image_ids=None).digest() == dataset.digest()


def test_boxes_without_area_are_left_out_and_counted(tmp_path, caplog):
    content = document()
    content["annotations"][1]["bbox"] = [5, 5, 0, 3]
    with caplog.at_level(logging.WARNING):
        dataset = load_coco(*make(tmp_path, content))
    assert dataset[0].labels.tolist() == [2, 1]
    assert "left out 1 boxes without area" in caplog.text


def change(key, index, **values):
    def apply(content):
        content[key][index].update(values)

    return apply


def remove(key, index=None, field=None):
    def apply(content):
        if index is None:
            del content[key]
        else:
            del content[key][index][field]

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            change("annotations", 0, image_id=5), "annotation 1 of image 5: the image is not", id="image"
        ),
        pytest.param(change("annotations", 0, category_id=2), "unknown category 2", id="category"),
        pytest.param(change("annotations", 0, image_id=[7]), "neither a number nor a text", id="id-list"),
        pytest.param(change("categories", 0, name="dog"), "share an id or a name", id="name-twice"),
        pytest.param(change("categories", 0, id=18), "share an id or a name", id="category-twice"),
        pytest.param(change("categories", 0, id="90"), "not a whole number", id="category-text"),
        pytest.param(change("images", 0, id=3), "two images", id="image-twice"),
        pytest.param(change("images", 0, id="../b"), "leads out of its folder", id="image-id-escape"),
        pytest.param(change("images", 0, id="/b"), "leads out of its folder", id="image-id-absolute"),
        pytest.param(
            lambda content: content["categories"].clear(), "lists no categories", id="no-categories"
        ),
        pytest.param(remove("annotations"), "has no list 'annotations'", id="no-annotations"),
        pytest.param(remove("images", 1, "width"), r"images\[1\] lacks width", id="no-width"),
        pytest.param(remove("annotations", 2, "bbox"), r"annotations\[2\] lacks bbox", id="no-bbox"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_bad_files_are_errors(tmp_path, damage, message, on_error):
    content = document()
    damage(content)
    with pytest.raises(InputError, match=rf"instances\.json: .*{message}"):
        load_coco(*make(tmp_path, content), on_error=on_error)


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "[" * 200_000])
def test_other_json(tmp_path, content):
    with pytest.raises(InputError, match=r"instances\.json: (cannot be read as JSON|not in COCO's form)"):
        load_coco(*make(tmp_path, content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(change("annotations", 0, bbox=[1, 2, -3, 4]), "annotation 1, bbox: ", id="negative"),
        pytest.param(change("annotations", 0, bbox=[1, 2, 3]), "annotation 1, bbox: ", id="three"),
        pytest.param(change("annotations", 0, bbox=["x", 2, 3, 4]), "annotation 1, bbox: ", id="text"),
        pytest.param(change("annotations", 0, bbox=None), "annotation 1, bbox: ", id="null"),
        pytest.param(
            change("annotations", 0, bbox=[float("nan"), 2, 3, 4]), "annotation 1, bbox: ", id="nan"
        ),
        pytest.param(
            change("annotations", 0, bbox=[100, 2, 3, 4]), "outside of the 100x80 image", id="outside"
        ),
        pytest.param(change("images", 0, width=0), "width and height: ", id="width"),
        pytest.param(change("images", 0, width=0.5), "0.5 x 80 pixels; correct", id="width-part"),
        pytest.param(change("images", 0, height=1e30), r"100 x 1e\+30 pixels; correct", id="height-huge"),
        pytest.param(change("images", 0, file_name="c.png"), "the image 7 of .* is missing", id="no-image"),
        pytest.param(
            change("images", 0, file_name="../images/a.png"), "leads out of its folder", id="escape"
        ),
        pytest.param(
            change("images", 0, file_name="/etc/hostname"), "leads out of its folder", id="absolute"
        ),
    ],
)
def test_bad_image_is_named_or_skipped(tmp_path, caplog, damage, message):
    content = document()
    damage(content)
    paths = make(tmp_path, content)
    with pytest.raises(InputError, match=message):
        load_coco(*paths)
    with caplog.at_level(logging.WARNING):
        assert [example.image_id for example in load_coco(*paths, on_error="skip")] == ["3"]
    assert "skipped 1 images" in caplog.text


def test_no_images(tmp_path):
    content = document() | {"images": [], "annotations": []}
    with pytest.raises(InputError, match="lists no images"):
        load_coco(*make(tmp_path, content))
