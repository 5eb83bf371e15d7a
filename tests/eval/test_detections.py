"""Detections on disk: written files are read back, and bad files are named."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.common.errors import InputError
from sppnet.data.detections import Detections
from sppnet.eval.detections import read_voc_detections, write_coco_results, write_voc_detections

CLASSES = ("cat", "dining table")


def make_detections(boxes, scores, labels):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_written_form(tmp_path):
    detections = {
        "000017": make_detections([[0, 0, 10, 20], [1.5, 2, 3, 4]], [0.1, -2], [0, 0]),
        "x": make_detections([], [], []),
    }
    write_voc_detections(tmp_path / "new", detections, CLASSES)
    assert names(tmp_path / "new") == ["comp3_det_test_cat.txt", "comp3_det_test_dining table.txt"]
    lines = (tmp_path / "new" / "comp3_det_test_cat.txt").read_text().splitlines()
    assert lines == ["000017 0.100000001 1 1 10 20", "000017 -2 2.5 3 3 4"]
    assert (tmp_path / "new" / "comp3_det_test_dining table.txt").read_bytes() == b""


finite = st.floats(width=32, allow_nan=False)
corners = st.tuples(*[st.floats(0, 4096, width=32)] * 4)


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.tuples(corners, finite, st.integers(0, 1), st.sampled_from("ab")), max_size=8))
def test_round_trip(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("voc")
    detections = {}
    for image_id in "ab":
        image_rows = [row for row in rows if row[3] == image_id]
        boxes = [[min(l, r), min(t, b), max(l, r), max(t, b)] for (l, t, r, b), *_ in image_rows]  # noqa: E741
        scores, labels = [row[1] for row in image_rows], [row[2] for row in image_rows]
        detections[image_id] = make_detections(boxes, scores, labels)
    write_voc_detections(folder, detections, CLASSES, "val", "comp4")
    read_back = read_voc_detections(folder, CLASSES, "val")
    assert set(read_back) == {row[3] for row in rows}
    for image_id, result in read_back.items():
        best_first = np.lexsort((-detections[image_id].scores, detections[image_id].labels))
        np.testing.assert_array_equal(result.labels, detections[image_id].labels[best_first])
        np.testing.assert_array_equal(result.scores, detections[image_id].scores[best_first])
        np.testing.assert_allclose(
            result.boxes, detections[image_id].boxes[best_first], rtol=0, atol=1e-5 + 4096 * 2e-7
        )
        assert (result.boxes[:, 2:] >= result.boxes[:, :2]).all()
        assert (result.boxes.dtype, result.scores.dtype, result.labels.dtype) == (
            np.float32,
            np.float32,
            np.int64,
        )


def write(folder, text, name="comp1_det_test_cat.txt"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def test_reads_interleaved_images_of_any_competition(tmp_path):
    write(tmp_path, "a 0.5 1 1 2 2\nb .25 3 3 4 4\n\na 1e0 5 5 6 6\na 0.5 7 7 8 8", "comp9_det_test_cat.txt")
    write(tmp_path, "\n", "comp3_det_test_dog.txt")
    write(tmp_path, "not read", "comp3_det_test_bird.txt")
    write(tmp_path, "not read", "comp9_det_val_cat.txt")
    detections = read_voc_detections(tmp_path, ("dog", "cat"))
    assert list(detections) == ["a", "b"]
    np.testing.assert_array_equal(detections["a"].scores, np.array([1, 0.5, 0.5], np.float32))
    np.testing.assert_array_equal(detections["a"].boxes, [[4, 4, 6, 6], [0, 0, 2, 2], [6, 6, 8, 8]])
    np.testing.assert_array_equal(detections["b"].labels, [1])


def test_equal_scores_keep_the_order_of_the_file(tmp_path):
    write(tmp_path, "".join(f"{'ab'[line % 2]} {line % 3} 1 {line} 1 {line}\n" for line in range(1, 301)))
    detections = read_voc_detections(tmp_path, ["cat"])
    for image_id, first in (("a", 2), ("b", 1)):
        lines = sorted(range(first, 301, 2), key=lambda line: -(line % 3))
        np.testing.assert_array_equal(detections[image_id].boxes[:, 3], lines)


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    for name, text in (("cat", "\ufeff000017 1 1 1 2 2\n"), ("dining table", "")):
        (tmp_path / f"comp3_det_test_{name}.txt").write_text(text, encoding="utf-8")
    assert list(read_voc_detections(tmp_path, CLASSES, "test")) == ["000017"]


def test_all_empty(tmp_path):
    write(tmp_path, "")
    assert read_voc_detections(tmp_path, ["cat"]) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a .5 1 1 2", "line 1: 5 columns", id="five-columns"),
        pytest.param("a .5 1 1 2 2\n\na b .5 1 1 2 2\nb .5 1\n", "line 4: 3 columns", id="three-columns"),
        pytest.param("a b .5 1 1 2 1_0", "line 1: .*'1_0'", id="underscore-after-blanks"),
        pytest.param("a .5 1 1 2 2\na nan 1 1 2 2", "line 2: the score is NaN", id="nan-score"),
        pytest.param("a .5 1 inf 2 2", "line 1: the box is not finite", id="infinite-box"),
        pytest.param("a .5 1 nan 2 2", "line 1: the box is not finite", id="nan-box"),
        pytest.param("a .5 1 1 1e39 2", "line 1: the box is not finite", id="beyond-float32"),
        pytest.param(f"a .5 1 1 {'9' * 5000} 2", "line 1: the box is not finite", id="digits"),
        pytest.param("a .5 1 1 2 2\na .5 9 1 2 2", "line 2: the box is inverted", id="inverted"),
        pytest.param("a .5 one 1 2 2", "line 1: .*'one'", id="word"),
        pytest.param("# a comment", "line 1: 3 columns", id="comment"),
        pytest.param("a 1_0 1 1 2 2", "1_0", id="underscore"),
        pytest.param(b"b\xe4r .5 1 1 2 2", "line 1: the image id is not UTF-8; save", id="latin-1"),
        pytest.param(b"\xff\xfe\x00\x01", "line 1: 1 columns", id="binary"),
    ],
)
def test_bad_file_is_named_with_its_line(tmp_path, text, message):
    write(tmp_path, text)
    with pytest.raises(InputError, match=f"comp1_det_test_cat.txt, .*{message}"):
        read_voc_detections(tmp_path, ["cat"])


def test_missing_class_lists_the_classes_with_files(tmp_path):
    write(tmp_path, "")
    with pytest.raises(InputError, match=r"comp\?_det_test_dog.txt is missing; there are files of cat"):
        read_voc_detections(tmp_path, ["cat", "dog"])
    with pytest.raises(InputError, match="no file is of this split"):
        read_voc_detections(tmp_path, ["cat"], "val")


def test_two_competitions_are_refused(tmp_path):
    write(tmp_path, "")
    write(tmp_path, "", "comp4_det_test_cat.txt")
    with pytest.raises(InputError, match=r"comp1_det_test_cat\.txt and comp4_det_test_cat\.txt"):
        read_voc_detections(tmp_path, ["cat"])


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        read_voc_detections(tmp_path / "nowhere", ["cat"])


def test_any_class_is_read_back(tmp_path):
    classes = (
        "../up",
        "a/b",
        "a%2Fb",
        "a\\b",
        "A",
        "a",
        "$x^2$",
        "猫",
        "100% cotton",
        "CON",
        "..",
        "é" * 100,
    )
    boxes = make_detections([[label, 0, 90, 90] for label in range(len(classes))], [0.5] * 12, range(12))
    write_voc_detections(tmp_path / "inside", {"x": boxes}, classes, "my/split")
    assert names(tmp_path) == ["inside"]
    # Neither macOS nor Windows takes two of these for one.
    assert len({name.lower() for name in names(tmp_path / "inside")}) == 12
    (detections,) = read_voc_detections(tmp_path / "inside", classes, "my/split").values()
    np.testing.assert_array_equal(detections.labels, range(12))
    np.testing.assert_array_equal(detections.boxes[:, 0], range(12))


@pytest.mark.parametrize("name", ["", " ", "a\nb", "nul\0", "half\udce9", "x" * 256])
def test_class_that_no_file_can_hold(tmp_path, name):
    with pytest.raises(InputError, match="the class"):
        write_voc_detections(tmp_path, {}, [name])
    assert names(tmp_path) == []


def test_any_image_id_is_read_back(tmp_path):
    ids = ["two words", "IMG (1)", "IMG 1", "IMG", '"quoted"', "a\u00a0b", "x 0.5 1 1 2 2", "猫/犬 1", "#1"]
    given = {image_id: make_detections([[0, 0, 9, 9]], [rank], [0]) for rank, image_id in enumerate(ids)}
    write_voc_detections(tmp_path, given, ["cat"])
    read = read_voc_detections(tmp_path, ["cat"])
    assert {image_id: detections.scores.tolist() for image_id, detections in read.items()} == {
        image_id: [rank] for rank, image_id in enumerate(ids)
    }


def test_more_blanks_between_columns(tmp_path):
    write(tmp_path, "IMG (1)\t0.5   1 1  2 2 \r\n")
    assert list(read_voc_detections(tmp_path, ["cat"])) == ["IMG (1)"]


@pytest.mark.parametrize("image_id", ["", " a", "a ", "line\n", "line\u2028line", "half\udce9", "x" * 252])
def test_image_id_that_no_file_can_hold(tmp_path, image_id):
    with pytest.raises(InputError, match="the image id"):
        write_voc_detections(tmp_path, {image_id: make_detections([], [], [])}, CLASSES)


def test_failed_writing_keeps_the_old_file(tmp_path):
    write(tmp_path, "old", "comp3_det_test_cat.txt")
    # Writing fails halfway because there are three boxes and one score.
    torn = Detections(np.zeros((3, 4), np.float32), np.zeros(1, np.float32), np.zeros(3, np.int64))
    with pytest.raises(IndexError):
        write_voc_detections(tmp_path, {"a": torn}, ["cat"])
    assert names(tmp_path) == ["comp3_det_test_cat.txt"]
    assert (tmp_path / "comp3_det_test_cat.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("ids", "written"),
    [
        pytest.param(("000017", "12"), (17, 12), id="numbers"),
        pytest.param(("2008_000017", "12"), ("2008_000017", "12"), id="words"),
        pytest.param(("017", "17"), ("017", "17"), id="ambiguous"),
    ],
)
def test_coco_results(tmp_path, ids, written):
    detections = {
        ids[0]: make_detections([[1, 2, 4, 8.5]], [0.1], [1]),
        ids[1]: make_detections([[0, 0, 1, 1], [2, 2, 3, 5]], [3, 2], [0, 1]),
    }
    write_coco_results(tmp_path / "results.json", detections)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["image_id"] for row in rows] == [written[0], written[1], written[1]]
    assert [row["category_id"] for row in rows] == [2, 1, 2]
    assert [row["bbox"] for row in rows] == [[1, 2, 3, 6.5], [0, 0, 1, 1], [2, 2, 1, 3]]
    assert np.array_equal(np.array([row["score"] for row in rows], np.float32), np.float32([0.1, 3, 2]))


def test_coco_results_with_the_files_own_ids(tmp_path):
    detections = {
        "000017": make_detections([[1, 2, 4, 8.5]], [0.1], [1]),
        "12": make_detections([[0, 0, 1, 1], [2, 2, 3, 5]], [3, 2], [0, 1]),
    }
    write_coco_results(tmp_path / "a.json", detections, (7, 90), {"000017": "000017", "12": 12, "13": 13})
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [row["image_id"] for row in rows] == ["000017", 12, 12]
    assert [row["category_id"] for row in rows] == [90, 7, 90]


def test_coco_results_of_nothing(tmp_path):
    write_coco_results(tmp_path / "results.json", {"a": make_detections([], [], [])})
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_coco_results_refuse_nan(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        write_coco_results(tmp_path / "results.json", {"a": make_detections([[0, 0, 1, 1]], [np.nan], [0])})
    assert names(tmp_path) == []
