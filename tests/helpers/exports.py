"""Writes small data sets in the layouts in which labelling programs export them."""

import json
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 48
CLASSES = ("cat", "dog", "horse")


@dataclass(frozen=True)
class Photo:
    """An image file's name, and its objects: class and box, 0-based, right and bottom exclusive."""

    name: str
    objects: tuple[tuple[str, tuple[int, int, int, int]], ...]

    @property
    def stem(self) -> str:
        return Path(self.name).stem


PHOTOS = {
    "train": (
        Photo("dog 1.jpg", (("dog", (3, 4, 23, 34)), ("cat", (30, 5, 58, 28)))),
        Photo("0007.JPG", (("cat", (0, 0, 64, 48)),)),
        Photo("größe.png", (("dog", (10, 10, 20, 40)),)),
        Photo("empty.jpg", ()),
    ),
    "val": (Photo("img (1).jpeg", (("dog", (5, 6, 40, 46)),)),),
    # A class that the training images do not have.
    "test": (Photo("t.1.jpg", (("horse", (20, 8, 60, 40)),)),),
}
ALL = tuple(photo for photos in PHOTOS.values() for photo in photos)


def write_image(path, width=WIDTH, height=HEIGHT):
    path.parent.mkdir(parents=True, exist_ok=True)
    # Every image has other bytes, as photos do.
    seed = sum(path.name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())


def write_text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def xml(photo, extra="", filename=None):
    """VOC's XML: boxes from 1, inclusive."""
    objects = "".join(
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in photo.objects
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{escape(filename or photo.name)}</filename>{size}{objects}</annotation>"


def coco(photos, file_name=lambda photo: photo.name, first_id=1, names=CLASSES, supercategory=None):
    """A document of COCO's form."""
    shift = 1 if supercategory else 0
    categories = [
        {"id": number + first_id + shift, "name": name, "supercategory": supercategory or "none"}
        for number, name in enumerate(names)
    ]
    if supercategory:
        categories.insert(0, {"id": first_id, "name": supercategory, "supercategory": "none"})
    ids = {category["name"]: category["id"] for category in categories if category["name"] in CLASSES}
    images = [
        {"id": number + first_id, "file_name": file_name(photo), "width": WIDTH, "height": HEIGHT}
        for number, photo in enumerate(photos)
    ]
    annotations = [
        {
            "image_id": number + first_id,
            "category_id": ids[name],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
        }
        for number, photo in enumerate(photos)
        for name, box in photo.objects
    ]
    annotations = [{"id": number + first_id, **item} for number, item in enumerate(annotations)]
    return {"images": images, "categories": categories, "annotations": annotations}


def yolo(photo, names=CLASSES, polygons=False):
    """The lines of a label file."""
    lines = []
    for name, box in photo.objects:
        left, top, right, bottom = box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT
        middle = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        corners = [left, top, right, top, right, bottom, (left + right) / 2, bottom]
        values = corners if polygons else middle
        lines.append(" ".join([str(names.index(name)), *(f"{value:.6f}" for value in values)]))
    return lines


def voc(folder):
    """VOC's own layout."""
    for split, photos in PHOTOS.items():
        write_text(folder / "ImageSets/Main" / f"{split}.txt", *(photo.stem for photo in photos))
        for photo in photos:
            write_image(folder / "JPEGImages" / photo.name)
            write_text(folder / "Annotations" / f"{photo.stem}.xml", xml(photo))


def voc_without_lists(folder):
    """VOC's layout without lists."""
    for photo in ALL:
        write_image(folder / "JPEGImages" / photo.name)
        write_text(folder / "Annotations" / f"{photo.stem}.xml", xml(photo))


def labelimg_voc(folder):
    """LabelImg's: XML beside the images."""
    for photo in ALL:
        write_image(folder / photo.name)
        write_text(folder / f"{photo.stem}.xml", xml(photo, "<pose>Unspecified</pose>"))


def roboflow_voc(folder):
    """Roboflow's "Pascal VOC"."""
    write_text(folder / "README.dataset.txt", "made by Roboflow")
    for split, photos in PHOTOS.items():
        for photo in photos:
            target = folder / ("valid" if split == "val" else split)
            write_image(target / photo.name)
            write_text(target / f"{photo.stem}.xml", xml(photo))


def cvat_voc(folder):
    """CVAT's "PASCAL VOC 1.1": one list, with quotes, and lists of single classes."""
    write_text(folder / "labelmap.txt", "# label:color_rgb:parts:actions", "cat:0,0,0::")
    write_text(folder / "ImageSets/Main/default.txt", *(f'"{photo.stem}"' for photo in ALL))
    write_text(folder / "ImageSets/Main/cat_default.txt", *(f'"{photo.stem}" -1' for photo in ALL))
    extra = "<truncated>false</truncated><occluded>0</occluded><difficult>true</difficult>"
    for photo in ALL:
        write_image(folder / "JPEGImages" / photo.name)
        write_text(folder / "Annotations" / f"{photo.stem}.xml", xml(photo, extra))


def label_studio_voc(folder):
    """Label Studio's "Pascal VOC XML"."""
    for photo in ALL:
        write_image(folder / "images" / photo.name)
        write_text(folder / "Annotations" / f"{photo.stem}.xml", xml(photo))


def roboflow_coco(folder):
    """Roboflow's "COCO": a file a split, beside its images, and an unused supercategory."""
    for split, photos in PHOTOS.items():
        target = folder / ("valid" if split == "val" else split)
        for photo in photos:
            write_image(target / photo.name)
        document = coco(photos, first_id=0, supercategory="animals")
        write_text(target / "_annotations.coco.json", json.dumps(document))


def cvat_coco(folder):
    """CVAT's "COCO 1.0"."""
    for photo in ALL:
        write_image(folder / "images/default" / photo.name)
    write_text(folder / "annotations/instances_default.json", json.dumps(coco(ALL)))


def label_studio_coco(folder):
    """Label Studio's "COCO": ids from 0, and names that lead elsewhere."""
    names = {
        photo.name: name.format(photo.name)
        for photo, name in zip(
            ALL,
            (
                "images/{}",
                "../../label-studio/data/media/upload/1/{}",
                "/data/upload/1/1a2b3c4d-{}",
                "images\\{}",
                "/data/local-files/?d=photos/{}",
                "http://localhost:8080/data/{}",
            ),
            strict=True,
        )
    }
    for photo in ALL:
        write_image(folder / "images" / photo.name)
    document = coco(ALL, lambda photo: names[photo.name], first_id=0)
    write_text(folder / "result.json", json.dumps(document))


def standard_coco(folder):
    """COCO's own layout; its other files are for other tasks."""
    for split, photos in PHOTOS.items():
        for photo in photos:
            write_image(folder / f"{split}2017" / photo.name)
        for task in ("instances", "person_keypoints"):
            write_text(folder / f"annotations/{task}_{split}2017.json", json.dumps(coco(photos)))
    write_text(folder / "annotations/captions_train2017.json", '{"images": [], "annotations": []}')


def ultralytics_yolo(folder):
    """Ultralytics': ``images/<split>``, ``labels/<split>``, names by number."""
    names = dict(enumerate(CLASSES))
    write_text(
        folder / "data.yaml",
        f"path: /home/someone/{folder.name}", "train: images/train", "val: images/val", "test: images/test",
        f"names: {names}",
    )  # fmt: skip
    for split, photos in PHOTOS.items():
        for photo in photos:
            write_image(folder / "images" / split / photo.name)
            if photo.objects:
                write_text(folder / "labels" / split / f"{photo.stem}.txt", *yolo(photo))


def roboflow_yolo(folder):
    """Roboflow's: ``<split>/images``, ``<split>/labels``, paths that lead upwards, an unused name."""
    names = ("no", *CLASSES)
    write_text(
        folder / "data.yaml",
        "train: ../train/images", "val: ../valid/images", "test: ../test/images", "",
        f"nc: {len(names)}", f"names: [{', '.join(names)}]",
    )  # fmt: skip
    for split, photos in PHOTOS.items():
        for photo in photos:
            target = folder / ("valid" if split == "val" else split)
            write_image(target / "images" / photo.name)
            write_text(target / "labels" / f"{photo.stem}.txt", *yolo(photo, names))


def yolo_polygons(folder):
    """Polygons in place of boxes, for segmentation."""
    ultralytics_yolo(folder)
    for split, photos in PHOTOS.items():
        for photo in photos:
            write_text(folder / "labels" / split / f"{photo.stem}.txt", *yolo(photo, polygons=True))


def label_studio_yolo(folder):
    """Label Studio's "YOLO": one set, ``classes.txt``."""
    write_text(folder / "classes.txt", *CLASSES)
    write_text(folder / "notes.json", '{"categories": [], "info": {}}')
    for photo in ALL:
        write_image(folder / "images" / photo.name)
        write_text(folder / "labels" / f"{photo.stem}.txt", *yolo(photo))


def labelimg_yolo(folder):
    """LabelImg's "YOLO": text files beside the images."""
    write_text(folder / "classes.txt", *CLASSES)
    for photo in ALL:
        write_image(folder / photo.name)
        write_text(folder / f"{photo.stem}.txt", *yolo(photo))


def cvat_yolo(folder):
    """CVAT's "YOLO 1.1", Darknet's layout; the test images are a subset."""
    write_text(folder / "obj.names", *CLASSES)
    write_text(folder / "obj.data", "classes = 3", "names = data/obj.names")
    for split, photos in PHOTOS.items():
        write_text(folder / f"{split}.txt", *(f"data/obj_{split}_data/{photo.name}" for photo in photos))
        for photo in photos:
            write_image(folder / f"obj_{split}_data" / photo.name)
            write_text(folder / f"obj_{split}_data" / f"{photo.stem}.txt", *yolo(photo))


# The layouts, with the names of the format and of the splits as the folder has them.
LAYOUTS = {
    voc: ("VOC", "splits train, val, test"),
    voc_without_lists: ("VOC", "no splits"),
    labelimg_voc: ("VOC", "no splits"),
    roboflow_voc: ("VOC", "splits train, valid, test"),
    cvat_voc: ("VOC", "split default"),
    label_studio_voc: ("VOC", "no splits"),
    roboflow_coco: ("COCO JSON", "splits train, valid, test"),
    cvat_coco: ("COCO JSON", "split default"),
    label_studio_coco: ("COCO JSON", "no splits"),
    standard_coco: ("COCO JSON", "splits train2017, val2017, test2017"),
    ultralytics_yolo: ("YOLO", "splits train, val, test"),
    roboflow_yolo: ("YOLO", "splits train, val, test"),
    yolo_polygons: ("YOLO", "splits train, val, test"),
    label_studio_yolo: ("YOLO", "no splits"),
    labelimg_yolo: ("YOLO", "no splits"),
    cvat_yolo: ("YOLO", "splits obj_train_data, obj_val_data, obj_test_data"),
}
