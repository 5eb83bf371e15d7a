"""The check of a data set: one data set with every fault, each fault alone, and counts."""

import json
import shutil

import pytest
from exports import LAYOUTS
from photos import dataset, example, photo, with_orientation

from sppnet.common.errors import InputError
from sppnet.data import check_dataset, write_coco, write_voc, write_yolo


@pytest.fixture
def folder(tmp_path):
    """A sound data set in VOC's layout: 24 training and 6 test images with one object, or none, each."""
    for split, numbers in (("train", range(24)), ("test", range(24, 30))):
        examples = [
            example(tmp_path / "photos" / f"{number:02d}.png", labels=[number % 2], seed=number)
            for number in numbers
        ]
        write_voc(dataset(*examples, split=split, classes=("cat", "dog")), tmp_path / "set")
    shutil.rmtree(tmp_path / "photos")
    return tmp_path / "set"


def findings(name, severity=None, **options):
    return {
        finding.title: finding.details
        for finding in check_dataset(name, **options).findings
        if severity in (None, finding.severity)
    }


def the_finding(folder, severity):
    """The title and the details of the only finding, the details without the folder."""
    (finding,) = check_dataset(folder).findings
    assert finding.severity == severity
    assert finding.advice.endswith((".", "2"))
    return finding.title, [detail.replace(f"{folder}/", "") for detail in finding.details]


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_a_sound_data_set(folder):
    check = check_dataset(folder)
    assert check.findings == ()
    assert (check.images, check.objects, check.classes) == (30, (15, 15), ("cat", "dog"))
    train, test = check.splits
    assert (train.name, train.images, train.objects, train.empty_images) == ("train", 24, (12, 12), 0)
    assert (test.name, test.images, test.objects, test.joins) == ("test", 6, (3, 3), ())
    assert (check.widths.smallest, check.widths.median, check.heights.largest) == (100, 100, 80)
    # The box is 50 pixels wide and high.
    assert (check.box_sides.median, check.box_groups, check.box_aspects.largest) == (50, (0, 0, 30, 0, 0), 1)
    assert len(check.pictures) == 24
    assert {split for split, _ in check.pictures} == {"train", "test"}


def test_counts_of_real_images(voc_root):
    check = check_dataset(voc_root, ["test"])
    assert (check.images, sum(check.objects), check.splits[0].difficult) == (619, 1821, 374)
    assert check.problems == ()
    assert (check.widths.largest, check.heights.largest) == (500, 500)
    assert {label for _, item in check.pictures for label in item.labels.tolist()} == set(range(20))


class TestFileFaults:
    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"", "the file is empty"), (b"GIF", "not an image"), (None, "truncated or damaged")],
        ids=["empty", "other", "truncated"],
    )
    def test_undecodable_image(self, folder, content, message):
        path = folder / "JPEGImages/03.png"
        path.write_bytes(path.read_bytes()[:300] if content is None else content)
        title, (detail,) = the_finding(folder, "problem")
        assert title == "1 image file that cannot be decoded"
        assert detail.startswith("JPEGImages/03.png: ")
        assert message in detail

    def test_missing_image(self, folder):
        (folder / "JPEGImages/03.png").unlink()
        title, (detail,) = the_finding(folder, "problem")
        assert title == "1 image annotated or listed, but without an image file"
        assert detail.startswith("JPEGImages/03: no .jpg")

    def test_missing_annotation(self, folder):
        (folder / "Annotations/03.xml").unlink()
        title, (detail,) = the_finding(folder, "problem")
        assert title == "1 image listed, but without an annotation"
        assert detail.startswith("Annotations/03.xml: the annotation cannot be read")

    def test_malformed_annotations_are_all_named(self, folder):
        for number in (3, 25):
            (folder / f"Annotations/{number:02d}.xml").write_text("<annotation>")
        title, details = the_finding(folder, "problem")
        assert title == "2 images with an annotation that cannot be used"
        assert [detail.split(":")[0] for detail in details] == ["Annotations/03.xml", "Annotations/25.xml"]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("<xmin>11<", "<xmin>61<"),
            ("<xmin>11<", "<xmin>x<"),
            ("<bndbox>", "<b>"),
            ("<xmax>60", "<xmax>-9"),
        ],
        ids=["inverted", "word", "none", "negative"],
    )
    def test_bad_box(self, folder, old, new):
        path = folder / "Annotations/03.xml"
        change(path, old, new)
        if new == "<b>":
            change(path, "</bndbox>", "</b>")
        title, (detail,) = the_finding(folder, "problem")
        assert title == "1 image with a box that is empty, inverted or outside"
        assert "03.xml: object 1 (dog) has" in detail

    def test_box_over_the_border(self, folder):
        change(folder / "Annotations/03.xml", "<xmax>60<", "<xmax>120<")
        title, (detail,) = the_finding(folder, "remark")
        assert title == "1 image with boxes that reach over the border"
        assert detail.startswith("JPEGImages/03.png: 1 of its boxes reach over the border")

    @pytest.mark.parametrize(
        ("size", "severity", "title"),
        [
            ((200, 160), "remark", "1 image of another size than annotated"),
            ((50, 40), "problem", "1 image smaller than annotated, so that a box reaches out"),
        ],
        ids=["larger", "smaller"],
    )
    def test_other_size(self, folder, size, severity, title):
        photo(folder / "JPEGImages/03.png", 3, *size)
        assert the_finding(folder, severity) == (
            title, [f"JPEGImages/03.png: {size[0]}x{size[1]} pixels, annotated as 100x80"]
        )  # fmt: skip

    def test_files_that_no_split_leads_to(self, folder):
        shutil.copy(folder / "Annotations/03.xml", folder / "Annotations/orphan.xml")
        shutil.copy(folder / "Annotations/03.xml", folder / "Annotations/unlisted.xml")
        photo(folder / "JPEGImages/unlisted.png", 50)
        photo(folder / "JPEGImages/new photo.png", 51)
        photo(folder / "SegmentationClass/03.png", 52)
        (folder / "JPEGImages/IMG_1.HEIC").write_bytes(b"")
        (folder / "JPEGImages/.hidden.png").write_bytes(b"")
        assert findings(folder, "problem") == {}
        assert findings(folder) == {
            "1 image annotated, but in no split": (f"{folder}/JPEGImages/unlisted.png",),
            "1 image without an annotation": (f"{folder}/JPEGImages/new photo.png",),
            "1 annotation without an image": (f"{folder}/Annotations/orphan.xml",),
            "1 photo in the format HEIC, which cannot be decoded": (f"{folder}/JPEGImages/IMG_1.HEIC",),
        }

    def test_a_split_that_cannot_be_opened(self, folder):
        (folder / "ImageSets/Main/val.txt").write_text("")
        check = check_dataset(folder)
        (finding,) = check.findings
        assert finding.title == "1 split that cannot be opened"
        assert "val.txt: lists no images" in finding.details[0]
        assert [split.name for split in check.splits] == ["train", "test"]

    def test_nothing_can_be_read(self, folder):
        for path in (folder / "Annotations").iterdir():
            path.write_text("")
        check = check_dataset(folder)
        assert [finding.title for finding in check.problems] == [
            "30 images with an annotation that cannot be used"
        ]
        assert (check.images, check.pictures) == (0, ())

    @pytest.mark.parametrize("name", ["nowhere", "voc2077", "coco:a", "coco:a-{split}.json:b", "zip:a.zip"])
    def test_no_such_data_set(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError):
            check_dataset(name)


class TestCopies:
    def copy(self, folder, source, name, split):
        for kind, suffix in (("JPEGImages", "png"), ("Annotations", "xml")):
            shutil.copy(folder / f"{kind}/{source}.{suffix}", folder / f"{kind}/{name}.{suffix}")
        append(folder / f"ImageSets/Main/{split}.txt", f"{name}\n")

    def test_across_splits(self, folder):
        self.copy(folder, "03", "same", "test")
        assert the_finding(folder, "problem") == (
            "1 image in more than one split",
            ["JPEGImages/03.png (train), JPEGImages/same.png (test)"],
        )

    def test_one_file_in_two_lists(self, folder):
        append(folder / "ImageSets/Main/test.txt", "03\n04\n")
        title, details = the_finding(folder, "problem")
        assert title == "2 images in more than one split"
        assert details[0] == "JPEGImages/03.png (train), JPEGImages/03.png (test)"

    def test_inside_of_a_split(self, folder):
        self.copy(folder, "03", "same", "train")
        assert the_finding(folder, "remark") == (
            "1 image more than once in a split, under several names",
            ["JPEGImages/03.png, JPEGImages/same.png"],
        )

    def test_trainval_is_no_copy(self, folder):
        lists = folder / "ImageSets/Main"
        ids = lists.joinpath("train.txt").read_text().split()
        lists.joinpath("trainval.txt").write_text("\n".join(ids))
        lists.joinpath("train.txt").write_text("\n".join(ids[:-4]))
        lists.joinpath("val.txt").write_text("\n".join(ids[-4:]))
        check = check_dataset(folder)
        assert check.findings == ()
        assert {split.name: split.joins for split in check.splits} == {
            "train": (), "val": (), "trainval": ("train", "val"), "test": ()
        }  # fmt: skip
        assert (check.images, check.objects) == (30, (15, 15))


class TestObjects:
    def test_class_under_two_names(self, folder):
        change(folder / "Annotations/03.xml", "dog", "Dog ")
        (folder / "classes.txt").unlink()
        assert findings(folder, "problem") == {"1 class under two names": ("'Dog' and 'dog'",)}

    def test_class_that_is_not_trained(self, folder):
        for number in range(1, 24, 2):
            change(folder / f"Annotations/{number:02d}.xml", "dog", "cat")
        assert the_finding(folder, "problem") == ("1 class with objects, but with none in train", ["dog"])

    def test_class_that_is_not_tested(self, folder):
        for number in range(25, 30, 2):
            change(folder / f"Annotations/{number:02d}.xml", "dog", "cat")
        assert the_finding(folder, "remark") == ("1 class with objects, but with none in test", ["dog"])

    def test_few_objects_and_none(self, folder):
        for number in range(1, 8, 2):
            change(folder / f"Annotations/{number:02d}.xml", "dog", "cat")
        append(folder / "classes.txt", "unicorn\n")
        assert findings(folder) == {
            "1 class without a single object": ("unicorn",),
            "1 class with fewer than 10 objects in train": ("dog: 8",),
        }

    def test_only_one_split(self, folder):
        (folder / "ImageSets/Main/test.txt").unlink()
        titles = findings(folder)
        assert "no images to test on: train is the only split" in titles

    def test_objects_twice_and_small_boxes(self, tmp_path):
        boxes = [(10, 10, 60, 60), (10, 10, 60, 60), (10, 10, 60, 60), (0, 0, 19, 60)]
        image = example(tmp_path / "a.png", boxes, labels=[0, 0, 1, 1])
        write_voc(dataset(image, classes=("cat", "dog")), tmp_path / "set")
        titles = findings(tmp_path / "set")
        assert titles["1 object annotated more than once"] == (
            f"{tmp_path}/set/JPEGImages/a.png: cat 2 times at (10, 10, 60, 60)",
        )
        assert "1 box of 4 with a side below 20 pixels" in titles

    def test_images_without_objects(self, folder):
        text = (folder / "Annotations/03.xml").read_text()
        end = text.index("<object>")
        (folder / "Annotations/03.xml").write_text(text[:end] + "</annotation>")
        assert the_finding(folder, "remark") == ("1 image without objects", ["JPEGImages/03.png"])


class TestCoco:
    @pytest.fixture
    def coco(self, tmp_path):
        images = [
            example(tmp_path / f"{number}.png", labels=[number % 2], seed=number) for number in range(24)
        ]
        write_coco(dataset(*images, classes=("cat", "dog")), tmp_path / "set")
        others = [
            example(tmp_path / f"t{number}.png", labels=[number], seed=30 + number) for number in (0, 1)
        ]
        write_coco(dataset(*others, split="test", classes=("cat", "dog")), tmp_path / "set")
        return tmp_path / "set"

    def test_bad_objects_are_all_named(self, coco):
        path = coco / "annotations/instances_train.json"
        document = json.loads(path.read_text())
        objects = document["annotations"]
        objects[0]["bbox"] = [10, 10, 0, 5]
        objects[1]["image_id"] = 999
        objects[2]["category_id"] = 77
        objects[3]["bbox"] = [10, 10, -5, 5]
        objects[4]["bbox"] = [200, 10, 5, 5]
        path.write_text(json.dumps(document))
        (coco / "images/train/7.png").unlink()
        problems = findings(coco, "problem")
        assert list(problems) == [
            "2 images with an annotation that cannot be used",
            "3 images with a box that is empty, inverted or outside",
            "1 image annotated or listed, but without an image file",
        ]

    def test_splits_of_different_classes(self, coco):
        path = coco / "annotations/instances_test.json"
        change(path, '"name": "dog"', '"name": "wolf"')
        name = f"coco:{coco}/annotations/instances_{{split}}.json:{coco}/images/{{split}}"
        check = check_dataset(name)
        assert check.problems[0].title == "splits with different classes"
        assert check.problems[0].details == ("train: cat, dog", "test: cat, wolf")
        assert dict(zip(check.classes, check.objects, strict=True)) == {"cat": 13, "dog": 12, "wolf": 1}


def test_yolo(tmp_path):
    images = [example(tmp_path / f"{number}.png", seed=number) for number in range(12)]
    write_yolo(dataset(*images, classes=("cat",)), tmp_path / "set")
    (tmp_path / "set/labels/train/3.txt").write_text("0 0.5 0.5 0 0.2\n")
    (tmp_path / "set/labels/train/4.txt").write_text("0 0.5 0.5\n")
    (tmp_path / "set/labels/train/orphan.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    problems = findings(tmp_path / "set", "problem")
    assert {name for names in problems.values() for detail in names for name in ("3", "4", "orphan")
            if f"{name}.txt" in detail} == {"3", "4", "orphan"}  # fmt: skip


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_every_layout(tmp_path, make):
    make(tmp_path / "set")
    check = check_dataset(tmp_path / "set")
    assert (check.images, check.classes, check.objects) == (6, ("cat", "dog", "horse"), (2, 3, 1))
    # In their splits there is no horse to train on; all else is sound.
    titles = [finding.title.split(" in ")[0] for finding in check.problems]
    assert titles == (["1 class with objects, but with none"] if len(check.splits) > 1 else [])


def test_progress(folder):
    calls = []
    check_dataset(folder, progress=lambda *call: calls.append(call))
    assert calls == [("images", done, 30) for done in range(1, 31)]


def test_orientation_of_the_camera(tmp_path):
    """A camera was held upright: annotations of the turned image, and of the stored one."""
    turned = example(with_orientation(photo(tmp_path / "turned.jpg", 1, 80, 100), 6))
    stored = example(with_orientation(photo(tmp_path / "stored.jpg", 2), 6))
    write_voc(dataset(turned, stored, classes=("cat",)), tmp_path / "set")
    titles = findings(tmp_path / "set")
    assert titles["1 image annotated as stored, although EXIF asks to turn them"] == (
        f"{tmp_path}/set/JPEGImages/stored.jpg",
    )
    assert not any("size" in title for title in titles)
