"""COCO JSON: reading and bad input."""

import json
import logging
from dataclasses import replace

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sppnet.common.errors import InputError
from sppnet.data.coco import load_coco
from sppnet.data.coco_masks import segmentation_box


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


def set_to(key, value):
    def apply(content):
        content[key] = value

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
        pytest.param(change("categories", 0, name=["a"]), "name is \\['a'\\]; write a text", id="name-list"),
        pytest.param(change("categories", 0, name=" "), "the class '' is empty", id="name-blank"),
        pytest.param(
            change("categories", 0, name="a\udce9"), "the class .* is not UTF-8", id="name-surrogate"
        ),
        pytest.param(change("categories", 0, name="é" * 120), "the class .* is too long", id="name-long"),
        pytest.param(change("categories", 0, name="a\0"), "the class .* a control character", id="name-nul"),
        pytest.param(change("categories", 0, id=True), "not a whole number", id="category-true"),
        pytest.param(
            change("images", 0, id=float("inf")), "neither a number nor a text", id="image-infinite"
        ),
        pytest.param(
            change("images", 0, file_name=["b.png"]), "file_name of image 7 is no text", id="file-list"
        ),
        pytest.param(change("categories", 0, id="90"), "not a whole number", id="category-text"),
        pytest.param(change("images", 0, id=3), "two images", id="image-twice"),
        pytest.param(change("images", 0, id="../b"), "leads out of its folder", id="image-id-escape"),
        pytest.param(change("images", 0, id="/b"), "leads out of its folder", id="image-id-absolute"),
        pytest.param(
            lambda content: content["categories"].clear(), "lists no categories", id="no-categories"
        ),
        pytest.param(set_to("annotations", None), "has no list 'annotations'", id="no-annotations"),
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


def test_a_test_set_without_annotations(tmp_path, caplog):
    """As COCO's image_info files are; to train on such a file is an error."""
    content = document()
    del content["annotations"]
    paths = make(tmp_path, content)
    with caplog.at_level(logging.WARNING):
        dataset = load_coco(*paths, split="test-dev")
    assert [len(example.boxes) for example in dataset] == [0, 0]
    assert dataset.classes == ("person", "dog", "toothbrush")
    assert "has no list 'annotations'; its images have no objects" in caplog.text
    with pytest.raises(InputError, match=r"instances\.json: has no list 'annotations'"):
        load_coco(*paths, split="train")


def test_an_unused_supercategory_is_no_class(tmp_path):
    """Roboflow lists it among the categories, at times with the name of a class."""
    content = document()
    for category in content["categories"]:
        category["supercategory"] = "dog"
    content["categories"].append({"id": 0, "name": "dog", "supercategory": "none"})
    dataset = load_coco(*make(tmp_path, content))
    assert dataset.classes == ("person", "dog", "toothbrush")
    assert dataset.category_ids == (1, 18, 90)
    content["categories"][-1]["name"] = "things"
    for category in content["categories"][:-1]:
        category["supercategory"] = "things"
    assert load_coco(*make(tmp_path, content)).classes == ("person", "dog", "toothbrush")
    content["annotations"][0]["category_id"] = 0
    assert load_coco(*make(tmp_path, content)).classes == ("things", "person", "dog", "toothbrush")


@pytest.mark.parametrize(
    ("value", "difficult"),
    [
        *((value, True) for value in (1, 2, True, "1", "true")),
        *((value, False) for value in (0, None, "0", "false", "Unspecified", "")),
    ],
)
def test_crowds(tmp_path, value, difficult):
    content = document()
    content["annotations"][1]["iscrowd"] = value
    assert load_coco(*make(tmp_path, content))[0].difficult.tolist() == [False, difficult, False]


@pytest.mark.parametrize("box", [{}, {"bbox": None}, {"bbox": []}], ids=["absent", "null", "empty"])
@pytest.mark.parametrize(
    ("segmentation", "edges"),
    [
        ([[10, 20, 60.5, 20, 60.5, 70, 10, 70]], [10, 20, 60.5, 70]),
        ([[10, 20, 30, 20, 30, 30], [40, 50, 45, 50, 45, 60.5]], [10, 20, 45, 60.5]),
        ([10, 20, 30, 20, 30, 30], [10, 20, 30, 30]),
        ({"size": [80, 100], "counts": [80 * 10 + 20, 5, 75, 5, 80 * 88 - 25]}, [10, 20, 12, 25]),
    ],
    ids=["polygon", "polygons", "flat", "runs"],
)
def test_boxes_of_segmentations(tmp_path, box, segmentation, edges):
    content = document()
    del content["annotations"][0]["bbox"]
    content["annotations"][0].update(box, segmentation=segmentation)
    assert load_coco(*make(tmp_path, content))[0].boxes[0].tolist() == edges


@pytest.mark.parametrize(
    "segmentation", [[[1, 2, 3]], [["x", 1]], "text", {"size": [1]}, {"size": [0, 1], "counts": [1, 2]}, [[]]]
)
def test_bad_segmentations_are_named(tmp_path, segmentation):
    content = document()
    content["annotations"][0].update(bbox=None, segmentation=segmentation)
    with pytest.raises(InputError, match="annotation 1: has no bbox, and its segmentation cannot be read"):
        load_coco(*make(tmp_path, content))


@settings(max_examples=100, deadline=None)
@given(mask=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_boxes_of_run_length_codes_are_those_of_pycocotools(mask):
    code = coco_mask.encode(np.asfortranarray(mask))
    plain = {"size": list(mask.shape), "counts": run_lengths(mask)}
    packed = {"size": code["size"], "counts": code["counts"].decode()}
    if mask.any():
        for segmentation in (plain, packed):
            assert segmentation_box(segmentation) == coco_mask.toBbox(code).tolist()
    else:
        with pytest.raises(ValueError, match="no pixel"):
            segmentation_box(packed)


def run_lengths(mask):
    """Lengths of the runs of 0 and 1 by turns, the first of 0, down the columns."""
    counts, value = [0], 0
    for pixel in mask.flatten(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@pytest.mark.parametrize(
    "damage",
    [
        change("annotations", 0, bbox=[10**400, 0, 1, 1]),
        change("annotations", 0, bbox=[1e300, 0, 1e300, 1]),
        change("images", 0, width=10**400),
    ],
)
def test_numbers_beyond_float_are_named(tmp_path, damage):
    content = document()
    damage(content)
    with pytest.raises(InputError, match=r"instances\.json: image 7"):
        load_coco(*make(tmp_path, content))
