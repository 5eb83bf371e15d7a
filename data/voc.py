"""Reads and writes data sets in the layout of the VOC devkit."""

import logging
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, read_text
from sppnet.data.examples import OnError, gather, inside, read_ids
from sppnet.data.faults import MissingImageError
from sppnet.data.file_index import FileIndex, composed, subfolder
from sppnet.data.names import check_names, text_lines
from sppnet.data.split_names import canonical_split, sorted_splits
from sppnet.data.types import Dataset, Example
from sppnet.data.xml import Annotation, make_example, read_annotation

logger = logging.getLogger(__name__)

XML_SUFFIXES = frozenset({".xml"})
# The twenty classes of VOC2007 to VOC2012, in the devkit's order (VOCinit.m).
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_CLASS_FILES = ("classes.txt", "labels.txt")
# Of several images with the name of an annotation, the first of these is taken.
_SUFFIXES = (".jpg", ".jpeg", ".png")
_IMAGE_FOLDERS = ("JPEGImages", "images", "image", "img", "imgs")


def load_voc(
    root: Path,
    split: str,
    year: str = "2007",
    classes: Sequence[str] | None = None,
    on_error: OnError = "raise",
    *,
    need_images: bool = True,
) -> Dataset:
    """Reads one split of a data set in the layout of the VOC devkit.

    The folder is ``root/VOC<year>`` if that has a folder ``ImageSets``, else ``root`` itself. It holds
    ``ImageSets/Main/<split>.txt`` (an image id in each line, see `read_ids`), ``Annotations/<id>.xml`` and
    ``JPEGImages/<id>.jpg`` (or .jpeg, .png or another suffix of an image, or else the file that the
    annotation names; the folder may also be called ``images``). Boxes that reach over the border are clipped,
    counted and logged.

    A split to test on may have no annotations at all, as VOC2012's ``test``. Then its images have no objects,
    which is logged, and the classes must be known otherwise than from annotations.

    Args:
        root: the devkit folder or the data set's own folder.
        split: the name of the list, for example ``"train"``.
        year: the devkit's year.
        classes: class names in the order of the labels. Default: the lines of ``classes.txt`` or
            ``labels.txt`` in the folder; else, in a folder called ``VOC2007`` or of another year, VOC's
            twenty, if the annotations name no other classes; else the names in all annotations of the folder,
            sorted, so that every split has the same labels.
        on_error: ``"raise"``, or ``"skip"`` images with a bad or missing file; a logged warning gives their
            number.
        need_images: False: image files may be missing, as for scoring; then annotations must state sizes.

    Returns:
        the data set, its boxes converted to 0-based pixel edges: (xmin-1, ymin-1, xmax, ymax).

    Raises:
        InputError: a list is missing, empty or not UTF-8; an annotation or image is missing; an annotation is
            malformed, names an unknown class, or has a box that is inverted, not a number, or outside the
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
        there = ", ".join(list_splits(folder)) or "none"
        raise InputError(f"{list_file}: no such split; there are: {there}")
    name = folder.resolve().name
    xml = FileIndex(subfolder(folder, "Annotations") or folder / "Annotations", XML_SUFFIXES)
    images = FileIndex(subfolder(folder, *_IMAGE_FOLDERS) or folder / "JPEGImages")
    ids = read_ids(
        list_file, known=lambda text: composed(text) in xml.by_stem or composed(text) in images.by_stem
    )
    annotations: Mapping[Path, Annotation] = {}
    if classes is None:
        classes = classes_from_file(folder)
    stated = classes is not None
    if classes is None:
        annotations = read_annotations(xml.paths, on_error)
        classes = class_names(annotations.values())
        if re.fullmatch(r"VOC20\d\d", name) and set(classes) <= set(VOC_CLASSES):
            stated, classes = True, VOC_CLASSES
    check_names(folder, classes, split)
    labels = {name: label for label, name in enumerate(classes)}
    # VOC's and COCO's servers keep the annotations of their test images.
    hidden = stated and not canonical_split(split).startswith("train")
    hidden = hidden and not any(composed(image_id) in xml.by_stem for image_id in ids)
    if hidden:
        logger.warning("%s %s: has no annotations; its images have no objects", name, split)

    def read(image_id: str) -> tuple[Example, int]:
        path = inside(xml.folder, f"{image_id}.xml", list_file)
        path = xml.by_stem.get(composed(image_id), [path])[0]
        annotation = Annotation(path, "", None, ()) if hidden else annotations.get(path)
        annotation = annotation or read_annotation(path)
        image = _find_image(images, image_id, annotation, need_images)
        return make_example(annotation, image_id, image, labels, first_pixel=1)

    return Dataset(name, split, tuple(classes), gather(ids, read, on_error, f"{name} {split}"))


def write_voc(dataset: Dataset, folder: Path, name: str = "") -> None:
    """Writes a data set in VOC's layout: annotations, the split's list, ``classes.txt``, and the images.

    Args:
        dataset: the data set; its boxes are rounded to whole pixels, at least 1 pixel wide and high.
        folder: the folder to write to, such as ``VOCdevkit/VOC2007``. It may hold other splits of the same
            classes. Images that are not in it yet are copied.
        name: the name of the folder in the annotations; empty: that of ``folder``.

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
    present = classes_from_file(folder)
    if present is not None and present != dataset.classes:
        raise InputError(f"{folder}: has other classes ({', '.join(present)}); write to a new folder")
    for example in dataset:
        annotation = inside(folder / "Annotations", f"{example.image_id}.xml", folder)
        image = inside(folder / "JPEGImages", example.image_id + example.path.suffix, folder)
        image.parent.mkdir(parents=True, exist_ok=True)
        if not image.exists():
            with atomic_path(image) as temporary:
                shutil.copyfile(example.path, temporary)
        # Without waiting for the disk, for the list comes later, and a second call writes them again.
        with atomic_path(annotation, durable=False) as temporary:
            temporary.write_bytes(_to_xml(example, dataset, name or folder.name))
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


def list_splits(folder: Path) -> tuple[str, ...]:
    """Returns the names of the lists in ``ImageSets/Main`` of a folder, without those of single classes."""
    lists = folder / "ImageSets" / "Main"
    names = {path.stem for path in lists.glob("*.txt") if not path.name.startswith(".")}
    # The devkit's and CVAT's lists for single classes are called dog_train, dog_default.
    return sorted_splits(name for name in names if name.rpartition("_")[2] not in names - {name})


def classes_from_file(folder: Path) -> tuple[str, ...] | None:
    """Reads the classes from ``classes.txt`` or ``labels.txt`` of a folder; None: it has neither.

    Raises:
        InputError: the file is not UTF-8, or does not hold different names.
    """
    path = next((folder / name for name in _CLASS_FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    lines = text_lines(read_text(path, "the list of classes"))
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path}: must hold different class names, one a line")
    return names


def read_annotations(paths: Iterable[Path], on_error: OnError) -> dict[Path, Annotation]:
    """Reads annotation files; bad ones are raised, or left out for the code that reads their images."""
    annotations = {}
    for path in paths:
        try:
            annotations[path] = read_annotation(path)
        except InputError:
            if on_error == "raise":
                raise
    return annotations


def class_names(annotations: Iterable[Annotation]) -> tuple[str, ...]:
    """Returns the names of classes in annotations, sorted."""
    return tuple(sorted({item.name for annotation in annotations for item in annotation.objects}))


def preferred_image(paths: Sequence[Path], annotation: Annotation) -> Path:
    """Chooses among images of one name: the suffix that the annotation names, else JPEG, else PNG."""
    suffix = Path(annotation.filename).suffix

    def rank(path: Path) -> tuple[bool, int]:
        lower = path.suffix.lower()
        return path.suffix != suffix, _SUFFIXES.index(lower) if lower in _SUFFIXES else len(_SUFFIXES)

    return min(paths, key=rank)


def _find_image(images: FileIndex, image_id: str, annotation: Annotation, needed: bool) -> Path:
    # The id comes first, as in the devkit: file names inside annotations are often stale.
    path = inside(images.folder, f"{image_id}.jpg", annotation.path)
    if paths := images.by_stem.get(composed(image_id)):
        return preferred_image(paths, annotation)
    stale = composed((PurePosixPath(image_id).parent / annotation.filename).as_posix())
    if annotation.filename and stale in images.by_name:
        return images.by_name[stale]
    if not needed:
        return path
    raise MissingImageError(
        f"{images.folder / image_id}: no .jpg, .jpeg or .png of this listed image; add it or unlist it"
    )


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
