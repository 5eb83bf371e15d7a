"""YOLO's text form: labels, names, descriptions in YAML, and what of them is refused."""

import logging

import exports
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.common.errors import InputError
from sppnet.data import load_dataset
from sppnet.data.yolo import read_labels
from sppnet.data.yolo_names import read_description

SIDES = (exports.WIDTH, exports.HEIGHT)


def make(folder, *lines, description="names: [cat, dog]\ntrain: images", name="data.yaml"):
    exports.write_image(folder / "images/a.jpg")
    exports.write_text(folder / "labels/a.txt", *lines)
    if description:
        (folder / name).write_text(description, encoding="utf-8")
    return folder


def edges(size):
    return st.tuples(st.integers(0, size - 1), st.integers(1, size)).map(
        lambda pair: (min(pair[0], pair[1] - 1), max(pair[0] + 1, pair[1]))
    )


@settings(max_examples=40, deadline=None)
@given(
    boxes=st.lists(st.tuples(edges(SIDES[0]), edges(SIDES[1])), max_size=4, unique=True),
    polygons=st.booleans(),
)
def test_round_trip(tmp_path_factory, boxes, polygons):
    folder = tmp_path_factory.mktemp("yolo")
    boxes = [(x[0], y[0], x[1], y[1]) for x, y in boxes]
    photo = exports.Photo("a.jpg", tuple(("dog", box) for box in boxes))
    make(folder, *exports.yolo(photo, ("cat", "dog"), polygons))
    (example,) = load_dataset(folder)
    np.testing.assert_allclose(example.boxes, np.array(boxes).reshape(-1, 4), atol=1e-3)
    assert example.boxes.dtype == np.float32
    assert example.size == SIDES


def test_a_label_file_has_boxes_and_polygons(tmp_path):
    lines = ("1 0.5 0.5 0.25 0.5", "", "0 0.25 0 1 0 0.5 0.75", "0.0 0.5 0.5 1 1", "1 0.5 0.5 0.25 0.5")
    make(tmp_path, *lines)
    labels = read_labels(tmp_path / "labels/a.txt")
    assert labels.numbers == (1, 0, 0)
    assert labels.boxes == ((0.375, 0.25, 0.625, 0.75), (0.25, 0, 1, 0.75), (0, 0, 1, 1))


def test_keypoints_are_no_polygon(tmp_path):
    line = "0 0.5 0.5 0.25 0.5 0.1 0.1 2 0.2 0.2 1"
    make(tmp_path, line, description="names: [person]\ntrain: images\nkpt_shape: [2, 3]")
    assert load_dataset(tmp_path)[0].boxes.tolist() == [[24, 12, 40, 36]]


def test_an_edge_that_rounding_moved_is_not_reported(tmp_path, caplog):
    make(tmp_path, "0 0.25 0.5 0.5004 1")
    with caplog.at_level(logging.WARNING):
        assert load_dataset(tmp_path)[0].boxes[0, 0] == 0
    assert caplog.text == ""
    make(tmp_path, "0 0.25 0.5 0.6 1")
    with caplog.at_level(logging.WARNING):
        assert load_dataset(tmp_path)[0].boxes[0, 0] == 0
    assert "clipped 1 boxes" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.25", "4 columns; write class, x, y"),
        (
            "0 0.5 0.5 0.25 0.5 0.9",
            "6 columns; write class, x, y, width, height, or class and x and y of each",
        ),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 columns"),
        ("0 0.5 0.5 zero 1", "could not convert"),
        ("cat 0.5 0.5 0.1 0.1", "could not convert"),
        ("0 nan 0.5 0.1 0.1", "not finite"),
        ("0 1e999 0.5 0.1 0.1", "not finite"),
        pytest.param("9" * 5000 + " 0.5 0.5 0.1 0.1", "not finite", id="digits"),
        ("1e300 0.5 0.5 0.1 0.1", r"the class number 1\d*\.\.\.\d*, but there are names for"),
        ("0 0.5 0.5 0 0.1", "its box is empty"),
        ("0 0.5 0.5 0.1 -0.1", "its box is empty"),
        ("0 0.1 0.1 0.1 0.2 0.1 0.3", "its box is empty"),
        ("0 32 24 10 10", "not from 0 to 1"),
        ("0 1.5 0.5 0.1 0.1", "not from 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "-1 is no class number"),
        ("0.5 0.5 0.5 0.1 0.1", "0.5 is no class number"),
        ("7 0.5 0.5 0.1 0.1", "object 2 has the class number 7, but there are names for 0, 1"),
    ],
)
def test_bad_lines_are_named_or_skipped(tmp_path, caplog, line, message):
    make(tmp_path, "0 0.5 0.5 0.1 0.1", line)
    exports.write_image(tmp_path / "images/b.jpg")
    with pytest.raises(InputError, match=rf"a\.txt(, line 2)?: .*{message}"):
        load_dataset(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert [example.image_id for example in load_dataset(tmp_path, on_error="skip")] == ["b"]
    assert "skipped 1 images" in caplog.text
    faults = []
    load_dataset(tmp_path, on_error=faults.append)
    assert [fault.image_id for fault in faults] == ["a"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [cat, no]", {0: "cat", 1: "no"}),
        ("names:\n- yes\n- 1.0\n- null", {0: "yes", 1: "1.0", 2: "null"}),
        ("names: {0: cat, 7: dog}", {0: "cat", 7: "dog"}),
        ("names:\n  0: größe\n  1: 'two words '", {0: "größe", 1: "two words"}),
        ("nc: 1\nnames: ['cat']\nroboflow: {version: 1}", {0: "cat"}),
        # Nothing is run.
        ("names: !!python/object/apply:os.system [exit 1]", {0: "exit 1"}),
    ],
)
def test_names(tmp_path, text, names):
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    assert read_description(tmp_path).names == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [", "cannot be read as YAML"),
        ("a: &a [*a]\nnames: *a", "cannot be read as YAML"),
        ("names: 5", "names has no names"),
        ("names: []", "names has no names"),
        ("names: [cat, '']", "an empty one"),
        ("names: {cat: 0}", "names is no list of names"),
        ("names: [[cat]]", "names is no list of names"),
        ("names: [cat]\ntrain: {a: b}", "train is neither a path nor a list"),
        ("names: " + "[" * 5000, "cannot be read as YAML"),
        ("nc: 2", "has no names"),
        ("#" * (1 << 22) + "\nnames: [cat]", "too large"),
    ],
    ids=range(11),
)
def test_bad_descriptions_are_named(tmp_path, text, message):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"data\.yaml: .*{message}"):
        read_description(tmp_path)


def test_one_of_several_descriptions(tmp_path):
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text(f"names: [{name[0]}]")
    with pytest.raises(InputError, match=r"a\.yaml and b\.yml both describe a data set; call one data\.yaml"):
        read_description(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [c]")
    assert read_description(tmp_path).names == {0: "c"}


def test_yaml_of_other_programs_is_left_alone(tmp_path):
    (tmp_path / "pipeline.yaml").write_text("steps: [a, b]\n---\nmore: documents")
    assert read_description(tmp_path) is None


def test_names_are_needed(tmp_path):
    make(tmp_path, "0 0.5 0.5 0.1 0.1", description="")
    with pytest.raises(InputError, match=r"no names of the classes; list them in classes\.txt"):
        load_dataset(tmp_path)
    exports.write_text(tmp_path / "classes.txt", "cat")
    assert load_dataset(tmp_path).classes == ("cat",)
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(InputError, match=r"classes\.txt: has no names; write one class a line"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("source", "images"),
    [
        ("images/train", ["x"]),
        ("./images/train/", ["x"]),
        ("../images/train", ["x"]),
        ("/home/someone/set/images/train", ["x"]),
        ("C:\\sets\\images\\train", ["x"]),
        ("[images/train, images/extra]", ["x", "y"]),
        ("train.txt", ["x"]),
        ("images", ["y", "x"]),
    ],
)
def test_splits_of_a_description(tmp_path, source, images):
    for folder, name in (("train", "x"), ("extra", "y")):
        exports.write_image(tmp_path / "images" / folder / f"{name}.jpg")
        exports.write_text(tmp_path / "labels" / folder / f"{name}.txt", "0 0.5 0.5 0.1 0.1")
    exports.write_text(tmp_path / "train.txt", "/home/someone/images/train/x.jpg", "")
    exports.write_text(tmp_path / "data.yaml", "names: [cat]", f"train: {source}")
    assert [example.path.stem for example in load_dataset(tmp_path)] == images


def test_a_description_leads_nowhere_outside(tmp_path):
    make(tmp_path / "secret", "0 0.5 0.5 0.1 0.1", description="")
    make(tmp_path / "set", "0 0.5 0.5 0.1 0.1", description="names: [cat]\ntrain: ../secret/images")
    assert load_dataset(tmp_path / "set")[0].path.parent == tmp_path / "set/images"
    make(tmp_path / "set", description="names: [cat]\ntrain: ../secret/list.txt")
    exports.write_text(tmp_path / "secret/list.txt", "images/a.jpg")
    assert load_dataset(tmp_path / "set").split == "all"


def test_a_list_with_a_missing_image_is_named(tmp_path):
    make(tmp_path, "0 0.5 0.5 0.1 0.1", description="names: [cat]\ntrain: train.txt")
    exports.write_text(tmp_path / "train.txt", "images/b.jpg")
    with pytest.raises(
        InputError, match=r"train\.txt: lists images/b\.jpg, and .* has 0 images of this name"
    ):
        load_dataset(tmp_path)


def test_labels_without_images_are_reported(tmp_path, caplog):
    make(tmp_path, "0 0.5 0.5 0.1 0.1")
    exports.write_text(tmp_path / "labels/gone.txt", "0 0.5 0.5 0.1 0.1")
    with caplog.at_level(logging.WARNING):
        load_dataset(tmp_path)
    assert "1 label files have no image" in caplog.text
    faults = []
    load_dataset(tmp_path, on_error=faults.append)
    assert [(fault.kind, "gone.txt" in fault.message) for fault in faults] == [("missing image", True)]


def test_images_that_would_share_a_label_file_are_an_error(tmp_path):
    make(tmp_path, "0 0.5 0.5 0.1 0.1")
    exports.write_image(tmp_path / "images/a.png")
    with pytest.raises(InputError, match=r"a\.(jpg|png) and .*a\.(jpg|png): would share a label file"):
        load_dataset(tmp_path)


def test_texts_beside_images_that_are_no_labels(tmp_path):
    exports.write_image(tmp_path / "a.jpg")
    exports.write_text(tmp_path / "a.txt", "a cat on a mat, 5 of them")
    with pytest.raises(InputError, match="no annotations that are known"):
        load_dataset(tmp_path)
