"""VOC's layout: reading, writing, bad input."""

import logging
import re
import unicodedata

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.common.errors import InputError
from sppnet.data.types import Dataset, Example
from sppnet.data.voc import VOC_CLASSES, load_voc, write_voc

WIDTH, HEIGHT = 100, 80


def box(xmin, ymin, xmax, ymax):
    return f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"


def thing(name="dog", edges=(11, 21, 30, 50), extra=""):
    return f"<object><name>{name}</name>{extra}{box(*edges)}</object>"


def annotation(*objects, filename="", size=(WIDTH, HEIGHT)):
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    name = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{name}{stated}{''.join(objects)}</annotation>"


def make_tree(folder, annotations, split="train", suffix=".png"):
    """A data set in VOC's layout, from a dict of image id to annotation text."""
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in annotations))
    for name, text in annotations.items():
        image = folder / "JPEGImages" / f"{name}{suffix}"
        xml = folder / "Annotations" / f"{name}.xml"
        for path in (image, xml):
            path.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(cv2.imencode(suffix, np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes())
        xml.write_text(text)
    return folder


def test_one_based_inclusive_becomes_edges(tmp_path):
    make_tree(
        tmp_path / "VOC2007", {"a": annotation(thing(edges=(1, 1, 100, 80)), thing("cat", (48, 24, 48, 24)))}
    )
    dataset = load_voc(tmp_path, "train")
    assert (dataset.name, dataset.split, dataset.classes) == ("VOC2007", "train", VOC_CLASSES)
    (example,) = dataset
    assert example.boxes.tolist() == [[1 - 1, 1 - 1, 100, 80], [48 - 1, 24 - 1, 48, 24]]
    assert example.boxes.dtype == np.float32
    assert example.labels.tolist() == [VOC_CLASSES.index("dog"), VOC_CLASSES.index("cat")]
    assert (example.width, example.height) == (WIDTH, HEIGHT)
    assert example.path.read_bytes()


def test_own_folder_and_year(tmp_path):
    make_tree(tmp_path / "boats", {"a": annotation(thing())})
    assert load_voc(tmp_path / "boats", "train").name == "boats"
    make_tree(tmp_path / "VOC2012", {"a": annotation(thing())}, split="val")
    assert load_voc(tmp_path, "val", year="2012").name == "VOC2012"
    with pytest.raises(InputError, match="holds neither VOC2010 nor ImageSets"):
        load_voc(tmp_path, "val", year="2010")


def test_flags(tmp_path):
    flags = [
        "",
        "<difficult>1</difficult>",
        "<truncated> 1 </truncated><difficult>0</difficult>",
        "<truncated></truncated>",
    ]
    make_tree(tmp_path, {"a": annotation(*(thing(extra=extra) for extra in flags))})
    (example,) = load_voc(tmp_path, "train")
    assert example.difficult.tolist() == [False, True, False, False]
    assert example.truncated.tolist() == [False, False, True, False]


def test_parts_and_actions_are_not_objects(tmp_path):
    inner = f"<actions><other>1</other></actions><part><name>head</name>{box(15, 25, 20, 30)}</part>"
    make_tree(tmp_path, {"a": annotation(thing("person", (11.4, 21, 30.7, 50), inner))})
    dataset = load_voc(tmp_path, "train")
    assert dataset.classes == ("person",)
    np.testing.assert_allclose(dataset[0].boxes, [[11.4 - 1, 21 - 1, 30.7, 50]], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        *((text, True) for text in ("1", "2", "true", "True", "yes", "1.0")),
        *((text, False) for text in ("0", "", "false", "Unspecified", "no", "0.0")),
    ],
)
def test_flags_of_other_programs(tmp_path, text, flag):
    extra = f"<truncated>{text}</truncated><difficult>{text}</difficult>"
    make_tree(tmp_path, {"a": annotation(thing(extra=extra))})
    (example,) = load_voc(tmp_path, "train")
    assert example.difficult.tolist() == example.truncated.tolist() == [flag]


@pytest.mark.parametrize(
    "polygon",
    [
        "<x1>11.5</x1><y1>21</y1><x2>30</x2><y2>21</y2><x3>30</x3><y3>50</y3>",
        "<pt><x>11.5</x><y>50</y></pt><pt><x>30</x><y>21</y></pt><username>me</username>",
    ],
    ids=["roboflow", "labelme"],
)
def test_boxes_of_polygons(tmp_path, polygon):
    extra = f"<polygon>{polygon}</polygon>"
    only_polygon = f"<object><name>dog</name>{extra}</object>"
    make_tree(tmp_path, {"a": annotation(only_polygon, thing(extra=extra))})
    assert load_voc(tmp_path, "train")[0].boxes.tolist() == [[10.5, 20, 30, 50], [10, 20, 30, 50]]


def test_sizes_with_fractions(tmp_path):
    make_tree(tmp_path, {"a": annotation(thing(), size=("200.0", "150.0"))})
    assert load_voc(tmp_path, "train")[0].size == (200, 150)


def test_image_without_objects(tmp_path):
    make_tree(tmp_path, {"a": annotation()})
    (example,) = load_voc(tmp_path, "train")
    assert example.boxes.shape == (0, 4)
    assert example.boxes.dtype == np.float32
    for array, dtype in ((example.labels, np.int64), (example.difficult, bool), (example.truncated, bool)):
        assert array.shape == (0,)
        assert array.dtype == dtype


def test_list_with_columns_bom_and_blank_lines(tmp_path):
    make_tree(tmp_path, {"a": annotation(thing()), "sub/b": annotation(thing())})
    (tmp_path / "ImageSets/Main/odd.txt").write_bytes("\ufeffsub/b  -1\r\n\r\na 1\n".encode())
    assert [example.image_id for example in load_voc(tmp_path, "odd")] == ["sub/b", "a"]


class TestLists:
    def read(self, folder, *lines):
        make_tree(folder, {name: annotation(thing()) for name in self.names})
        (folder / "ImageSets/Main/train.txt").write_text("\n".join(lines), encoding="utf-8")
        return [example.image_id for example in load_voc(folder, "train")]

    names = ("dog", "dog 1", "dog 2", "img (1)", "007", "hund ü", "a.b")

    def test_ids_with_blanks(self, tmp_path):
        assert self.read(tmp_path, "dog 1", "img (1)", "hund ü") == ["dog 1", "img (1)", "hund ü"]

    def test_ids_with_blanks_and_columns(self, tmp_path):
        lines = ("dog  -1", "dog 1  1", "dog 2 0", "007 1", "img (1) -1")
        assert self.read(tmp_path, *lines) == ["dog", "dog 1", "dog 2", "007", "img (1)"]

    def test_quotes(self, tmp_path):
        lines = ('"dog 1"', '"img (1)" -1', '"007"')
        assert self.read(tmp_path, *lines) == ["dog 1", "img (1)", "007"]

    def test_suffixes(self, tmp_path):
        assert self.read(tmp_path, "dog 1.jpg", "a.b.PNG", "007.jpg 1") == ["dog 1", "a.b", "007"]
        assert self.read(tmp_path, "a.b") == ["a.b"]

    @pytest.mark.parametrize("line", ["cow 7", "dog 3", "cow 3.jpg"])
    def test_missing_ids_are_named_whole(self, tmp_path, line):
        with pytest.raises(InputError, match=rf"{line.removesuffix('.jpg')}\.xml: the annotation cannot be"):
            self.read(tmp_path, line)

    def test_composed_and_decomposed_names(self, tmp_path):
        """A Mac stores names decomposed."""
        make_tree(tmp_path, {unicodedata.normalize("NFD", "hund ü"): annotation(thing())})
        (tmp_path / "ImageSets/Main/train.txt").write_text("hund ü\n", encoding="utf-8")
        assert load_voc(tmp_path, "train")[0].path.is_file()


class TestSplitWithoutAnnotations:
    def make(self, folder, classes=True):
        make_tree(folder, {"a": annotation(thing())})
        make_tree(folder, {"t 1": annotation(thing()), "t2": annotation(thing())}, split="test")
        for name in ("t 1", "t2"):
            (folder / "Annotations" / f"{name}.xml").unlink()
        if classes:
            (folder / "classes.txt").write_text("cat\ndog\n")
        return folder

    def test_has_no_objects(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            dataset = load_voc(self.make(tmp_path), "test")
        assert [(example.image_id, len(example.boxes)) for example in dataset] == [("t 1", 0), ("t2", 0)]
        assert dataset[0].size == (WIDTH, HEIGHT)
        assert "test: has no annotations; its images have no objects" in caplog.text

    def test_has_vocs_classes_in_a_folder_of_a_year(self, tmp_path):
        self.make(tmp_path / "VOC2012", classes=False)
        dataset = load_voc(tmp_path, "test", year="2012", classes=VOC_CLASSES)
        assert (len(dataset), dataset.classes) == (2, VOC_CLASSES)
        assert load_voc(tmp_path, "test", year="2012").classes == VOC_CLASSES

    def test_is_an_error_where_the_classes_are_unknown(self, tmp_path):
        with pytest.raises(InputError, match=r"t 1\.xml: the annotation cannot be read"):
            load_voc(self.make(tmp_path, classes=False), "test")

    @pytest.mark.parametrize("split", ["train", "trainval"])
    def test_is_an_error_to_train_on(self, tmp_path, split):
        lists = self.make(tmp_path) / "ImageSets/Main"
        (lists / "test.txt").replace(lists / f"{split}.txt")
        with pytest.raises(InputError, match=r"t 1\.xml: the annotation cannot be read"):
            load_voc(tmp_path, split)

    def test_is_an_error_where_some_have_annotations(self, tmp_path):
        lists = self.make(tmp_path) / "ImageSets/Main"
        (lists / "test.txt").write_text("a\nt2\n")
        with pytest.raises(InputError, match=r"t2\.xml: the annotation cannot be read"):
            load_voc(tmp_path, "test")


class TestClasses:
    def test_are_sorted_names_of_all_splits(self, tmp_path):
        make_tree(tmp_path, {"a": annotation(thing("wolf")), "b": annotation(thing("dog"))}, split="train")
        make_tree(tmp_path, {"c": annotation(thing("bear"))}, split="test")
        for split in ("train", "test"):
            assert load_voc(tmp_path, split).classes == ("bear", "dog", "wolf")
        assert load_voc(tmp_path, "train")[0].labels.tolist() == [2]

    @pytest.mark.parametrize("name", ["classes.txt", "labels.txt"])
    def test_come_from_a_file(self, tmp_path, name):
        make_tree(tmp_path, {"a": annotation(thing("wolf"))})
        (tmp_path / name).write_text("wolf\nbear\n\n")
        assert load_voc(tmp_path, "train").classes == ("wolf", "bear")
        (tmp_path / name).write_text("wolf\nwolf\n")
        with pytest.raises(InputError, match=name):
            load_voc(tmp_path, "train")

    @pytest.mark.parametrize("name", ["classes.txt", "labels.txt", "ImageSets/Main/train.txt"])
    def test_other_encodings_are_named(self, tmp_path, name):
        make_tree(tmp_path, {"a": annotation(thing("wolf"))})
        (tmp_path / name).write_bytes("wolf\nb\u00e4r\n".encode("latin-1"))
        with pytest.raises(InputError, match=rf"{name}, line 2: .*not UTF-8.*save the file as UTF-8"):
            load_voc(tmp_path, "train")
        (tmp_path / name).write_bytes("a\nb\u00e4r\n".encode("utf-8-sig"))
        with pytest.raises(
            InputError, match="b\u00e4r" if "train" in name else "unknown class 'wolf'; known are: a,"
        ):
            load_voc(tmp_path, "train")

    def test_are_given(self, tmp_path):
        make_tree(tmp_path, {"a": annotation(thing("wolf"), thing("dgo"))})
        assert load_voc(tmp_path, "train", classes=["wolf", "dgo"])[0].labels.tolist() == [0, 1]
        with pytest.raises(
            InputError, match=r"a\.xml: object 2 has the unknown class 'dgo'; known are: wolf, dog"
        ):
            load_voc(tmp_path, "train", classes=["wolf", "dog"])


class TestImageFile:
    @pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".JPG", ".Jpeg", ".bmp", ".webp", ".avif"])
    def test_is_found_by_id(self, tmp_path, suffix):
        make_tree(tmp_path, {"a": annotation(thing(), filename="stale.gif")}, suffix=suffix)
        assert load_voc(tmp_path, "train")[0].path.name == f"a{suffix}"

    @pytest.mark.parametrize("filename", ["a.tiff", "D:\\pictures\\other.tiff", "/home/me/other.tiff"])
    def test_is_found_by_filename(self, tmp_path, filename):
        make_tree(tmp_path, {"sub/a": annotation(thing(), filename=filename)})
        image = tmp_path / "JPEGImages/sub/a.png"
        image.rename(image.with_name("a.tiff" if "other" not in filename else "other.tiff"))
        assert load_voc(tmp_path, "train")[0].path.parent == image.parent

    def test_size_comes_from_the_file_where_the_annotation_is_wrong(self, tmp_path):
        whole = thing(edges=(1, 1, WIDTH, HEIGHT))
        texts = {
            "none": annotation(whole, size=None),
            "zero": annotation(whole, size=(0, 0)),
            "swapped": annotation(whole, size=(HEIGHT, WIDTH)),
        }
        make_tree(tmp_path, texts)
        for example in load_voc(tmp_path, "train"):
            assert (example.width, example.height) == (WIDTH, HEIGHT)
            assert example.boxes.tolist() == [[0, 0, WIDTH, HEIGHT]]


def test_boxes_over_the_border_are_clipped_and_counted_once(tmp_path, caplog):
    texts = {
        "a": annotation(thing(edges=(0, 0, 30, 40)), thing(edges=(90, 70, 140, 90))),
        "b": annotation(thing(edges=(-5, 10, 20, 20)), thing()),
    }
    make_tree(tmp_path, texts)
    with caplog.at_level(logging.WARNING):
        a, b = load_voc(tmp_path, "train")
    assert a.boxes.tolist() == [[0, 0, 30, 40], [89, 69, WIDTH, HEIGHT]]
    assert b.boxes[0].tolist() == [0, 9, 20, 20]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "clipped 3 boxes that reach over the image border"
    ]


BAD = {
    "inverted": (
        annotation(thing(), thing("cat", (30, 21, 11, 50))),
        r"object 2 \(cat\) has an inverted box",
    ),
    "upside-down": (annotation(thing(edges=(11, 50, 30, 21))), r"object 1 \(dog\) has an inverted box"),
    "nan": (annotation(thing(edges=("nan", 1, 2, 3))), r"object 1 \(dog\) has 'nan' in <xmin>"),
    "infinite": (annotation(thing(edges=(1, 1, "inf", 3))), "'inf' in <xmax>"),
    "word": (annotation(thing(edges=(1, "one", 2, 3))), "'one' in <ymin>"),
    "no-box": (annotation("<object><name>dog</name></object>"), r"object 1 \(dog\) has no <bndbox>"),
    "no-edge": (annotation(thing().replace("<ymax>50</ymax>", "")), "no <bndbox> with <ymax>"),
    "no-name": (annotation(f"<object>{box(1, 1, 2, 2)}</object>"), "object 1 has no <name>"),
    "outside": (annotation(thing(edges=(101, 1, 120, 20))), r"object 1 \(dog\).*outside of the 100x80 image"),
    "outside-left": (annotation(thing(edges=(-20, 1, 0, 20))), "outside of the 100x80 image"),
    "far": (annotation(thing(edges=(1, 1, 1e300, 3))), "'1e.* in <xmax>"),
    "other-root": ("<annotations><image/></annotations>", "its root is <annotations> in place of"),
    "namespace": (
        '<annotation xmlns="http://a"><object/></annotation>',
        "its root is <{http://a}annotation>",
    ),
    "objects-deeper": (f"<annotation><objects>{thing()}</objects></annotation>", "has <object> elsewhere"),
    "objects-namespace": (
        '<annotation xmlns:v="http://a"><v:object><name>a</name></v:object></annotation>',
        "has <object> elsewhere",
    ),
    "boxes-deeper": (
        f"<annotation><object><name>dog</name><box>{box(1, 1, 2, 2)}</box></object></annotation>",
        "has <bndbox> elsewhere",
    ),
    "objects-capital": (
        f"<annotation>{thing().replace('object>', 'Object>')}</annotation>",
        "has <object> elsewhere",
    ),
    "other-elements": (
        f"<annotation>{thing().replace('object>', 'item>').replace('bndbox>', 'box>')}</annotation>",
        "has <xmin> elsewhere",
    ),
    "digits": (annotation(thing(edges=("9" * 5000, 1, 2, 3))), r"'999\d*\.\.\.\d*' in <xmin>"),
    "beyond-float": (annotation(thing(edges=("1e999", 1, 2, 3))), "'1e999' in <xmin>"),
    "name-of-two-lines": (annotation(thing("dog\nhouse")), "the class 'dog.nhouse' has a control character"),
    "flag": (annotation(thing(extra="<difficult>maybe</difficult>")), "'maybe' in <difficult>"),
    "not-xml": ("<annotation><object>", "not well-formed XML"),
    "empty": ("", "not well-formed XML"),
    "encoding": ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not well-formed XML"),
    "bomb": (
        '<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;&x;">]><annotation>&y;</annotation>',
        "document type or entities",
    ),
    "external": (
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation>&x;</annotation>',
        "document type or entities",
    ),
    "dtd": (
        '<!DOCTYPE annotation SYSTEM "http://localhost:1/a.dtd"><annotation/>',
        "document type or entities",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_annotation_is_named_or_skipped(tmp_path, caplog, case):
    text, message = BAD[case]
    make_tree(tmp_path, {"good": annotation(thing()), "bad": text})
    with pytest.raises(InputError, match=rf"bad\.xml: .*{message}"):
        load_voc(tmp_path, "train")
    with caplog.at_level(logging.WARNING):
        dataset = load_voc(tmp_path, "train", on_error="skip")
    assert [example.image_id for example in dataset] == ["good"]
    (record,) = caplog.records
    assert re.search(rf"skipped 1 images; the first: .*bad\.xml: .*{message}", record.getMessage())


@pytest.mark.parametrize("part", ["Annotations/bad.xml", "JPEGImages/bad.png"])
def test_missing_file_is_named_or_skipped(tmp_path, part):
    make_tree(tmp_path, {"good": annotation(thing()), "bad": annotation(thing())})
    (tmp_path / part).unlink()
    with pytest.raises(InputError, match="bad"):
        load_voc(tmp_path, "train")
    assert len(load_voc(tmp_path, "train", on_error="skip")) == 1
    (tmp_path / "ImageSets/Main/train.txt").write_text("bad\n")
    with pytest.raises(InputError, match="all 1 images are unusable"):
        load_voc(tmp_path, "train", on_error="skip")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_bad_lists_are_errors(tmp_path, on_error):
    make_tree(tmp_path, {"a": annotation(thing())})
    lists = tmp_path / "ImageSets/Main"
    (lists / "empty.txt").write_text("\n \n")
    (lists / "twice.txt").write_text("a\na\n")
    (lists / "dog_train.txt").write_text("a -1\n")
    with pytest.raises(InputError, match=r"empty\.txt: lists no images"):
        load_voc(tmp_path, "empty", on_error=on_error)
    with pytest.raises(InputError, match=r"twice\.txt: lists the image a 2 times"):
        load_voc(tmp_path, "twice", on_error=on_error)
    with pytest.raises(InputError, match="no such split; there are: train, empty, twice"):
        load_voc(tmp_path, "tset", on_error=on_error)


@pytest.mark.parametrize(
    "image_id", ["../secret", "/etc/passwd", "sub/../../secret", "C:\\secret", "..\\secret"]
)
def test_ids_cannot_leave_the_folder(tmp_path, image_id):
    folder = make_tree(tmp_path / "set", {"a": annotation(thing())})
    (tmp_path / "secret.xml").write_text(annotation(thing()))
    (folder / "ImageSets/Main/train.txt").write_text(f"{image_id}\n")
    with pytest.raises(InputError, match="leads out of its folder"):
        load_voc(folder, "train")


def make_dataset(folder, boxes, split="train", image_id="sub/x1", classes=("b", "a")):
    path = folder / "source.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes())
    count = len(boxes)
    example = Example(
        image_id,
        path,
        WIDTH,
        HEIGHT,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(count) % 2,
        np.arange(count) % 3 == 0,
        np.arange(count) % 2 == 0,
    )
    return Dataset("made", split, classes, (example,))


def integer_boxes(width, height):
    def edges(size):
        return st.tuples(st.integers(0, size - 1), st.integers(1, size)).map(
            lambda pair: (min(pair[0], pair[1] - 1), max(pair[0] + 1, pair[1]))
        )

    return st.tuples(edges(width), edges(height)).map(lambda e: (e[0][0], e[1][0], e[0][1], e[1][1]))


@settings(max_examples=25, deadline=None)
@given(boxes=st.lists(integer_boxes(WIDTH, HEIGHT), max_size=5))
def test_round_trip(tmp_path_factory, boxes):
    folder = tmp_path_factory.mktemp("round")
    dataset = make_dataset(folder, boxes)
    write_voc(dataset, folder / "set")
    again = load_voc(folder / "set", "train")
    assert again.classes == ("b", "a")
    (before,), (after,) = dataset, again
    assert after.image_id == before.image_id
    assert after.path.read_bytes() == before.path.read_bytes()
    for field in ("boxes", "labels", "difficult", "truncated"):
        np.testing.assert_array_equal(getattr(after, field), getattr(before, field))


def test_writer_rounds_and_keeps_a_pixel(tmp_path):
    write_voc(make_dataset(tmp_path, [(10.4, 20.6, 30.4, 39.6), (5.1, 5.1, 5.3, 5.3)]), tmp_path / "set")
    (example,) = load_voc(tmp_path / "set", "train")
    assert example.boxes.tolist() == [[10, 21, 30, 40], [5, 5, 6, 6]]


def test_writer_keeps_a_pixel_at_the_border(tmp_path):
    write_voc(make_dataset(tmp_path, [(WIDTH - 0.4, HEIGHT - 0.4, WIDTH, HEIGHT)]), tmp_path / "set")
    (example,) = load_voc(tmp_path / "set", "train")
    assert example.boxes.tolist() == [[WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT]]


def test_hidden_files_are_no_annotations(tmp_path):
    make_tree(tmp_path, {"a": annotation(thing("boat"), thing("kite"))})
    (tmp_path / "Annotations" / "._a.xml").write_bytes(b"\0\5\x16")
    assert load_voc(tmp_path, "train").classes == ("boat", "kite")


def test_writer_adds_splits_of_the_same_classes_only(tmp_path):
    write_voc(make_dataset(tmp_path, []), tmp_path / "set")
    write_voc(make_dataset(tmp_path, [(1, 2, 3, 4)], "test", "y"), tmp_path / "set")
    assert len(load_voc(tmp_path / "set", "train")) == len(load_voc(tmp_path / "set", "test")) == 1
    with pytest.raises(InputError, match="has other classes"):
        write_voc(make_dataset(tmp_path, [], classes=("a", "b")), tmp_path / "set")
    with pytest.raises(InputError, match="leads out of its folder"):
        write_voc(make_dataset(tmp_path, [], image_id="../y"), tmp_path / "set")


def count_in_lists(folder, split):
    """Images that the devkit's own per-class lists call positive, an independent count."""
    return {
        name: sum(
            line.split()[1] != "-1"
            for line in (folder / "ImageSets/Main" / f"{name}_{split}.txt").read_text().splitlines()
        )
        for name in VOC_CLASSES
    }


@pytest.mark.parametrize(
    ("split", "images", "objects", "difficult"), [("train", 2500, 7843, 1543), ("test", 619, 1821, 374)]
)
def test_real_voc2007(voc_root, split, images, objects, difficult):
    dataset = load_voc(voc_root, split)
    if len(dataset) != images:
        pytest.skip(f"this VOC2007 holds other images: {len(dataset)} in {split}")
    assert dataset.classes == VOC_CLASSES
    assert sum(len(example.labels) for example in dataset) == objects
    assert sum(int(example.difficult.sum()) for example in dataset) == difficult
    for example in dataset:
        assert example.path.is_file()
        assert (example.boxes[:, :2] >= 0).all()
        assert (example.boxes[:, 2:] <= (example.width, example.height)).all()
        assert (example.boxes[:, 2:] - example.boxes[:, :2] >= 1).all()
    # A class list says 0 where an image has only difficult objects of the class, and 1 for others.
    with_class = {
        name: sum(label in example.labels for example in dataset) for label, name in enumerate(VOC_CLASSES)
    }
    assert with_class == count_in_lists(voc_root / "VOC2007", split)
