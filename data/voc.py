"""Reads and writes data sets in the layout of the VOC devkit."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, read_text
from sppnet.data.examples import OnError, gather, inside, read_ids
from sppnet.data.types import Dataset, Example
from sppnet.data.xml import Annotation, make_example, read_annotation

# The twenty classes of VOC2007 to VOC2012, in the devkit's order (VOCinit.m).
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_CLASS_FILES = ("classes.txt", "labels.txt")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def load_voc(
    root: Path,
    split: str,
    year: str = "2007",
    classes: Sequence[str] | None = None,
    on_error: OnError = "raise",
) -> Dataset:
    """Reads one split of a data set in the layout of the VOC devkit.

    The folder is ``root/VOC<year>`` or, where that has the folder ``ImageSets``, ``root`` itself. It holds
    ``ImageSets/Main/<split>.txt`` (an image id a line, further columns ignored), ``Annotations/<id>.xml`` and
    ``JPEGImages/<id>.jpg`` (or .jpeg, .png, or else the file that the annotation names).
    Boxes that reach over the border are clipped, counted and logged.

    Args:
        root: the devkit folder or the data set's own folder.
        split: the name of the list, for example ``"train"``.
        year: the devkit's year.
        classes: class names in the order of the labels. Default: the lines of ``classes.txt`` or
            ``labels.txt`` in the folder; else VOC's twenty, if the annotations name no others; else the names
            in all annotations of the folder, sorted, so that every split has the same labels.
        on_error: ``"raise"``, or ``"skip"`` images with a bad or missing file, counted in a logged warning.

    Returns:
        the data set, its boxes converted to 0-based pixel edges: (xmin-1, ymin-1, xmax, ymax).

    Raises:
        InputError: a list is missing, empty or not UTF-8; an annotation or image is missing; an annotation is
            malformed, names an unknown class, or has a box that is inverted, not a number, or outside of the
            image.

    Example:
        >>> import tempfile, cv2
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((80, 100, 3), np.uint8))
        >>> flags, labels = np.zeros(1, bool), np.array([1])
        >>> boxes = np.array([[10, 20, 60, 80]], np.float32)
        >>> example = Example("a", folder / "a.png", 100, 80, boxes, labels, flags, flags)
        >>> write_voc(Dataset("photos", "train", ("cat", "dog"), (example,)), folder / "my-data")
        >>> load_voc(folder / "my-data", "train")
        Dataset(my-data train: 1 images, 2 classes, 1 objects)
    """
    folder = find_voc(Path(root), year)
    list_file = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not list_file.is_file():
        # The devkit's lists for single classes have an underscore in their names.
        known = sorted(file.stem for file in list_file.parent.glob("*.txt") if "_" not in file.stem)
        raise InputError(f"{list_file}: no such split; there are: {', '.join(known) or 'none'}")
    ids = read_ids(list_file)
    annotations: Mapping[str, Annotation] = {}
    if classes is None:
        classes = _classes_from_file(folder)
    if classes is None:
        annotations = _read_all(folder / "Annotations", on_error)
        names = {item.name for annotation in annotations.values() for item in annotation.objects}
        classes = VOC_CLASSES if names <= set(VOC_CLASSES) else sorted(names)
    labels = {name: label for label, name in enumerate(classes)}

    def read(image_id: str) -> tuple[Example, int]:
        path = inside(folder / "Annotations", f"{image_id}.xml", list_file)
        annotation = annotations.get(image_id) or read_annotation(path)
        image = _find_image(folder, image_id, annotation)
        return make_example(annotation, image_id, image, labels, first_pixel=1)

    return Dataset(folder.name, split, tuple(classes), gather(ids, read, on_error, f"{folder.name} {split}"))


def write_voc(dataset: Dataset, folder: Path) -> None:
    """Writes a data set in VOC's layout: annotations, the split's list, ``classes.txt``, and the images.

    Args:
        dataset: its boxes are rounded to whole pixels, at least one wide and high.
        folder: the data set's folder, such as ``VOCdevkit/VOC2007``. It may hold other splits of the same
            classes. Images that are not there yet are copied.

    Raises:
        InputError: the folder holds other classes, or an image id leads out of it.

    Example:
        >>> import tempfile, cv2
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((80, 100, 3), np.uint8))
        >>> flags, labels = np.zeros(1, bool), np.array([1])
        >>> boxes = np.array([[10, 20, 60, 80]], np.float32)
        >>> example = Example("a", folder / "a.png", 100, 80, boxes, labels, flags, flags)
        >>> write_voc(Dataset("photos", "train", ("cat", "dog"), (example,)), folder / "my-data")
        >>> (folder / "my-data" / "ImageSets" / "Main" / "train.txt").read_text()
        'a\\n'
    """
    present = _classes_from_file(folder)
    if present is not None and present != dataset.classes:
        raise InputError(f"{folder}: has other classes ({', '.join(present)}); write to a new folder")
    for example in dataset:
        annotation = inside(folder / "Annotations", f"{example.image_id}.xml", folder)
        image = inside(folder / "JPEGImages", example.image_id + example.path.suffix, folder)
        image.parent.mkdir(parents=True, exist_ok=True)
        if not image.exists():
            with atomic_path(image) as temporary:
                shutil.copyfile(example.path, temporary)
        with atomic_path(annotation) as temporary:
            temporary.write_bytes(_to_xml(example, dataset, folder.name))
    lines = {
        folder / "classes.txt": dataset.classes,
        folder / "ImageSets" / "Main" / f"{dataset.split}.txt": [example.image_id for example in dataset],
    }
    for path, entries in lines.items():
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")


def find_voc(root: Path, year: str = "2007") -> Path:
    """Finds the folder of a data set in VOC's layout: ``root/VOC<year>``, or ``root`` itself.

    Raises:
        InputError: neither has a folder ``ImageSets``.
    """
    for folder in (root / f"VOC{year}", root):
        if (folder / "ImageSets").is_dir():
            return folder
    raise InputError(
        f"{root}: holds neither VOC{year} nor ImageSets; give a VOC devkit, or a folder with ImageSets/Main, "
        "Annotations and JPEGImages"
    )


def _classes_from_file(folder: Path) -> tuple[str, ...] | None:
    path = next((folder / name for name in _CLASS_FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    lines = read_text(path, "the list of classes").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path}: must hold different class names, one a line")
    return names


def _read_all(folder: Path, on_error: OnError) -> dict[str, Annotation]:
    annotations = {}
    for path in sorted(folder.rglob("*.xml")):
        name = path.relative_to(folder)
        # Archives made on a Mac have a hidden file beside each file.
        if any(part.startswith(".") for part in name.parts):
            continue
        try:
            annotations[name.with_suffix("").as_posix()] = read_annotation(path)
        except InputError:
            if on_error == "raise":
                raise
    return annotations


def _find_image(folder: Path, image_id: str, annotation: Annotation) -> Path:
    images = folder / "JPEGImages"
    suffix = Path(annotation.filename).suffix
    # The id comes first, as in the devkit: file names inside annotations are often stale.
    candidates = [f"{image_id}{suffix}" for suffix in (suffix, *_SUFFIXES) if suffix]
    if annotation.filename:
        candidates.append((Path(image_id).parent / annotation.filename).as_posix())
    for candidate in candidates:
        path = inside(images, candidate, annotation.path)
        if path.is_file():
            return path
    raise InputError(f"{images / image_id}: no .jpg, .jpeg or .png of this listed image; add it or unlist it")


def _to_xml(example: Example, dataset: Dataset, folder: str) -> bytes:
    root = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, tag: str, text: object) -> None:
        ElementTree.SubElement(parent, tag).text = str(text)

    add(root, "folder", folder)
    add(root, "filename", Path(example.image_id).name + example.path.suffix)
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", example.width), ("height", example.height), ("depth", 3)):
        add(size, tag, value)
    size_of_image = example.width, example.height
    first = np.minimum(np.rint(example.boxes[:, :2]).astype(int) + 1, size_of_image)
    last = np.maximum(np.rint(example.boxes[:, 2:]).astype(int), first)
    for index, label in enumerate(example.labels):
        element = ElementTree.SubElement(root, "object")
        add(element, "name", dataset.classes[label])
        add(element, "truncated", int(example.truncated[index]))
        add(element, "difficult", int(example.difficult[index]))
        box = ElementTree.SubElement(element, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), (*first[index], *last[index]), strict=True):
            add(box, tag, value)
    ElementTree.indent(root)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8")
    return xml
