"""Folders as labelling programs export them: the format is recognised, and every split opens."""

import json
import logging
import shutil

import exports
import numpy as np
import pytest
from exports import ALL, CLASSES, LAYOUTS, PHOTOS

from sppnet.common.errors import InputError
from sppnet.data import default_train_split, describe_format, load_dataset

NAMES = [layout.__name__ for layout in LAYOUTS]
WHOLE = [name for layout, (_, splits) in LAYOUTS.items() if "splits t" not in splits and "obj" not in splits
         for name in [layout.__name__]]  # fmt: skip
DIVIDED = [name for name in NAMES if name not in WHOLE]


def content(dataset):
    """The objects of each image by its file's name."""
    return {
        example.path.name: sorted(
            (dataset.classes[label], *np.round(box, 1).tolist())
            for label, box in zip(example.labels, example.boxes, strict=True)
        )
        for example in dataset
    }


def expected(photos):
    return {photo.name: sorted((name, *map(float, box)) for name, box in photo.objects) for photo in photos}


@pytest.fixture
def export(tmp_path):
    """Writes a layout by its name and returns its folder."""

    def write(name):
        folder = tmp_path / name
        getattr(exports, name)(folder)
        return folder

    return write


@pytest.mark.parametrize("name", DIVIDED)
def test_layouts_with_splits(export, name):
    folder = export(name)
    for split, photos in PHOTOS.items():
        dataset = load_dataset(folder, split)
        assert content(dataset) == expected(photos)
        assert dataset.classes == CLASSES
        assert dataset.name == name
        for example in dataset:
            assert (example.width, example.height) == (exports.WIDTH, exports.HEIGHT)
    assert content(load_dataset(folder, "valid")) == expected(PHOTOS["val"])
    assert default_train_split(str(folder)) == "train"


@pytest.mark.parametrize("name", WHOLE)
def test_layouts_of_one_set(export, name):
    folder = export(name)
    dataset = load_dataset(folder, "train")
    assert content(dataset) == expected(ALL)
    assert dataset.classes == CLASSES
    with pytest.raises(
        InputError, match=r"has no test split: all its images are one set; 'sppnet data split"
    ):
        load_dataset(folder, "test")


@pytest.mark.parametrize("name", NAMES)
def test_layouts_are_described(export, name):
    form, splits = LAYOUTS[getattr(exports, name)]
    assert describe_format(export(name)) == f"{form}, 3 classes, {splits}"


def test_there_are_sixteen_layouts():
    assert len(NAMES) == 16


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_is_only_one_format(export, name, caplog):
    folder = export(name)
    kinds = {"VOC": "voc", "COCO JSON": "coco", "YOLO": "yolo"}
    format_kind = kinds[LAYOUTS[getattr(exports, name)][0]]
    for kind in kinds.values():
        if kind == format_kind:
            assert content(load_dataset(f"{kind}:{folder}")) == content(load_dataset(folder))
        else:
            with pytest.raises(InputError, match="no annotations that are known"):
                load_dataset(f"{kind}:{folder}")


def test_two_formats_are_an_error_that_names_both(export):
    folder = export("labelimg_voc")
    exports.labelimg_yolo(folder)
    message = r"in two formats, VOC \(.*\.xml\) and YOLO \(.*\.txt\); remove one, or give voc:.* or yolo:"
    with pytest.raises(InputError, match=message):
        load_dataset(folder)
    for kind in ("voc", "yolo"):
        assert content(load_dataset(f"{kind}:{folder}")) == expected(ALL)


def test_val_is_tested_on_where_there_is_no_test_and_this_is_said(export, caplog):
    folder = export("roboflow_voc")
    shutil.rmtree(folder / "test")
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(folder, "test")
    assert dataset.split == "valid"
    assert "has no test split; valid is tested on" in caplog.text
    shutil.rmtree(folder / "valid")
    with pytest.raises(InputError, match="has no test split: there are: train; 'sppnet data split"):
        load_dataset(folder, "test")
    with pytest.raises(InputError, match=r"has no dev split: there are: train$"):
        load_dataset(folder, "dev")


def test_trainval_is_not_trained_on_where_val_is_tested_on(export):
    folder = export("voc")
    lists = folder / "ImageSets/Main"
    shutil.copy(lists / "val.txt", lists / "trainval.txt")
    assert default_train_split(str(folder)) == "trainval"
    (lists / "test.txt").unlink()
    assert default_train_split(str(folder)) == "train"
    (lists / "train.txt").unlink()
    assert load_dataset(folder, "train").split == "trainval"


def test_format_is_logged(export, caplog):
    folder = export("roboflow_yolo")
    with caplog.at_level(logging.INFO):
        load_dataset(folder)
    assert f"{folder}: YOLO, splits train, val, test" in caplog.text


@pytest.mark.parametrize("name", ["roboflow_voc", "ultralytics_yolo", "standard_coco", "voc"])
def test_a_split_to_test_on_may_have_no_annotations(export, name, caplog):
    folder = export(name)
    for pattern in ("test/*.xml", "labels/test/*", "annotations/instances_test2017.json"):
        for path in folder.glob(pattern):
            path.unlink()
    if name == "voc":
        exports.write_text(folder / "classes.txt", *CLASSES)
        (folder / "Annotations/t.1.xml").unlink()
    if name == "standard_coco":
        document = exports.coco(PHOTOS["test"])
        del document["annotations"]
        exports.write_text(folder / "annotations/image_info_test2017.json", json.dumps(document))
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(folder, "test")
    assert content(dataset) == {"t.1.jpg": []}
    # The horse was in the test images alone.
    assert dataset.classes == (CLASSES if name == "voc" else ("cat", "dog"))
    assert "its images have no objects" in caplog.text
    assert load_dataset(folder, "train").classes == dataset.classes


def test_folders_without_annotations(tmp_path, export):
    with pytest.raises(InputError, match="holds no images; give the folder above its images and annotations"):
        load_dataset(tmp_path)
    exports.write_image(tmp_path / "photos" / "a.jpg")
    with pytest.raises(InputError, match=r"holds 1 images, but no annotations .*, such as .*photos$"):
        load_dataset(tmp_path)
    exports.write_text(tmp_path / "photos" / "via.json", "{}")
    with pytest.raises(InputError, match=r"via\.json is not of COCO's form"):
        load_dataset(tmp_path)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_dataset(f"voc:{tmp_path}/nowhere")


@pytest.mark.parametrize(("name", "other"), [("roboflow_voc", "photos"), ("roboflow_yolo", "photos")])
def test_annotations_beside_the_splits_are_an_error(export, name, other):
    folder = export(name)
    suffix = "xml" if "voc" in name else "txt"
    source = folder / "train" if suffix == "xml" else folder / "train" / "labels"
    if suffix == "txt":
        (folder / "data.yaml").write_text("names: [no, cat, dog, horse]")
    exports.write_image(folder / other / "0007.jpg")
    # Pictures alone do no harm.
    assert len(load_dataset(folder)) == 4
    shutil.copy(source / f"0007.{suffix}", folder / other / f"0007.{suffix}")
    with pytest.raises(InputError, match=r"0007\.\w+: is in no split's folder, as others are"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("roboflow_voc", ""),
        ("roboflow_coco", ""),
        ("standard_coco", "2017"),
        ("label_studio_voc", None),
        ("label_studio_coco", None),
    ],
)
def test_a_missing_image_is_named_and_no_other_is_taken(export, name, kind):
    """Least of all one of the same name in another split."""
    folder = export(name)
    if kind is None:
        (folder / "images" / "0007.JPG").unlink()
    else:
        (folder / f"train{kind}" / "0007.JPG").unlink()
        shutil.copy(folder / f"train{kind}" / "dog 1.jpg", folder / f"test{kind}" / "0007.JPG")
        if name == "roboflow_voc":
            shutil.copy(folder / "train" / "0007.xml", folder / "test" / "0007.xml")
    with pytest.raises(InputError, match=r"0007.*(is missing|is not in)"):
        load_dataset(folder, "train")
    assert "0007.JPG" not in content(load_dataset(folder, "train", on_error="skip"))
    faults = []
    load_dataset(folder, "train", on_error=faults.append)
    assert [fault.kind for fault in faults] == ["missing image"]


def test_images_without_annotations_are_left_out_and_counted(export, caplog):
    folder = export("label_studio_voc")
    exports.write_image(folder / "images" / "new.jpg")
    with caplog.at_level(logging.WARNING):
        assert content(load_dataset(folder)) == expected(ALL)
    assert "1 images have no annotation and are left out, the first" in caplog.text
    faults = []
    load_dataset(folder, on_error=faults.append)
    assert [(fault.kind, "new.jpg" in fault.message) for fault in faults] == [("missing annotation", True)]


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("Annotations", "images/train"),
        ("train/annotations", "train/images"),
        ("annotations/train", "images/train"),
        ("train/labels", "train"),
        ("xmls", "imgs"),
    ],
)
def test_other_folders_of_xml(tmp_path, annotations, images):
    for photo in PHOTOS["train"]:
        exports.write_image(tmp_path / images / photo.name)
        exports.write_text(tmp_path / annotations / f"{photo.stem}.xml", exports.xml(photo))
    dataset = load_dataset(tmp_path)
    assert content(dataset) == expected(PHOTOS["train"])
    assert {example.image_id for example in dataset} == {photo.stem for photo in PHOTOS["train"]}


def test_two_annotations_of_an_image_are_an_error(export):
    folder = export("voc_without_lists")
    shutil.copytree(folder / "Annotations", folder / "xml")
    with pytest.raises(InputError, match=r"\.xml: .*\.xml is of the same image; keep one of them"):
        load_dataset(folder)


def test_several_devkits_in_a_folder_are_an_error(tmp_path):
    exports.voc(tmp_path / "VOC2012")
    assert load_dataset(tmp_path, "test").name == "VOC2012"
    exports.voc(tmp_path / "VOC2007")
    with pytest.raises(InputError, match=r"several data sets; give one of them: .*VOC2007 and .*VOC2012"):
        load_dataset(tmp_path)


class TestCocoFiles:
    def write(self, folder, **files):
        exports.write_image(folder / "a.jpg")
        photo = exports.Photo("a.jpg", (("dog", (0, 0, 10, 10)),))
        for name, parent in files.items():
            exports.write_text(folder / parent / f"{name}.json", json.dumps(exports.coco([photo])))
        return folder

    @pytest.mark.parametrize("name", ["train", "my_train", "annotations-train", "instances_train"])
    def test_a_split_in_the_name_of_a_file(self, tmp_path, name):
        assert load_dataset(self.write(tmp_path, **{name: "annotations"}), "train").split == "train"

    @pytest.mark.parametrize("name", ["labels", "result", "coco", "instances_default"])
    def test_a_file_without_a_split(self, tmp_path, name):
        assert len(load_dataset(self.write(tmp_path, **{name: ""}), "train")) == 1

    def test_two_files_of_a_split_are_an_error(self, tmp_path):
        self.write(tmp_path, train="", instances_train="annotations")
        with pytest.raises(
            InputError, match=r"train\.json and .*instances_train\.json are of one split, train"
        ):
            load_dataset(tmp_path)

    def test_json_of_other_programs_is_left_alone(self, tmp_path):
        self.write(tmp_path, train="")
        exports.write_text(tmp_path / "package.json", "{}")
        exports.write_text(tmp_path / "empty.json")
        (tmp_path / "nothing.json").touch()
        assert len(load_dataset(tmp_path)) == 1

    def test_damaged_json_is_named(self, tmp_path):
        self.write(tmp_path, train="")
        (tmp_path / "test.json").write_text('{"images": [], "categories": [')
        with pytest.raises(InputError, match=r"test\.json: cannot be read as JSON"):
            load_dataset(tmp_path, "train")
        assert len(load_dataset(tmp_path, "train", on_error="skip")) == 1

    def test_categories_have_the_ids_of_their_file(self, tmp_path):
        """Results are written with them; a class that a file does not list gets an unused number."""
        exports.write_image(tmp_path / "a.jpg")
        photos = {"train": ("dog", (0, 0, 10, 10)), "test": ("cat", (0, 0, 10, 10))}
        for split, thing in photos.items():
            document = exports.coco([exports.Photo("a.jpg", (thing,))], first_id=30)
            document["categories"] = [item for item in document["categories"] if item["name"] == thing[0]]
            exports.write_text(tmp_path / f"{split}.json", json.dumps(document))
        train, test = load_dataset(tmp_path, "train"), load_dataset(tmp_path, "test")
        assert train.classes == test.classes == ("cat", "dog")
        assert (train.category_ids, test.category_ids) == ((32, 31), (30, 32))

    def test_a_changed_file_of_another_split_is_read_again(self, tmp_path):
        self.write(tmp_path, train="", test="")
        assert load_dataset(tmp_path, "train").classes == ("dog",)
        photo = exports.Photo("a.jpg", (("horse", (0, 0, 10, 10)),))
        exports.write_text(tmp_path / "test.json", json.dumps(exports.coco([photo])))
        assert load_dataset(tmp_path, "train").classes == ("dog", "horse")
