"""Reads annotations in VOC's XML form, which ILSVRC shares, from files that are not trusted."""

import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from sppnet.common.errors import InputError
from sppnet.data.examples import clip_boxes
from sppnet.data.faults import BoxError, MissingAnnotationError
from sppnet.data.images import MAX_PIXELS, image_size
from sppnet.data.names import check_names
from sppnet.data.types import Example

# No image that is decoded reaches so far; beyond, float32 has no whole pixels.
_MAX_EDGE = float(MAX_PIXELS)
_NO = frozenset({"", "false", "no", "none", "unspecified"})
_YES = frozenset({"true", "yes"})


@dataclass(frozen=True)
class AnnotatedObject:
    """An ``<object>``; its box is (xmin, ymin, xmax, ymax) as the file states it."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    truncated: bool


@dataclass(frozen=True)
class Annotation:
    """An annotation file.

    Attributes:
        path: the file.
        filename: the image's name in it, without folders; may be empty.
        size: the image's width and height in pixels; None: the file states none above zero.
        objects: the objects, in the order of the file.
    """

    path: Path
    filename: str
    size: tuple[int, int] | None
    objects: tuple[AnnotatedObject, ...]


def read_annotation(path: Path) -> Annotation:
    """Reads an annotation file; refuses document types, and with them entities.

    ``<part>`` elements (VOC2008 and later) are not objects. An object without ``<bndbox>`` has the box around
    its ``<polygon>``. A missing ``difficult`` or ``truncated`` is 0, as are ``false`` and ``Unspecified``;
    ``true`` and every other number are 1.

    Raises:
        InputError: the file cannot be read, is not XML, declares a document type, is of another form, or has
            an object without a name, without four finite numbers for its box, or with an inverted box.
    """
    try:
        root = parse(path, forbid_dtd=True).getroot()
    except OSError as error:
        raise MissingAnnotationError(
            f"{path}: the annotation cannot be read ({error.strerror}); add it"
        ) from error
    except DefusedXmlException as error:
        raise InputError(f"{path}: declares a document type or entities; remove them") from error
    except (ParseError, ValueError, LookupError) as error:  # LookupError and ValueError: an unknown encoding
        raise InputError(f"{path}: not well-formed XML ({error}); correct the file") from error
    _check_form(root, path)
    elements = enumerate(root.findall("object"), 1)
    objects = tuple(_read_object(element, f"{path}: object {number}") for number, element in elements)
    # Some tools write a full path of their machine, with either slash.
    filename = PureWindowsPath((root.findtext("filename") or "").strip()).name
    return Annotation(path, filename, _read_size(root), objects)


def make_example(
    annotation: Annotation, image_id: str, image: Path, labels: Mapping[str, int], first_pixel: int
) -> tuple[Example, int]:
    """Makes an example from an annotation.

    The annotation states the size of the image. If it does not, or if a box reaches over that size, the size
    is read from the image file (VOC2012 has an image whose annotation swaps width and height).

    Args:
        annotation: its boxes state the first and last pixel of each object, both inclusive.
        image_id: the example's id.
        image: the image file.
        labels: class name to label.
        first_pixel: the number of an image's first pixel: 1 in VOC, 0 in ILSVRC.

    Returns:
        the example, and the number of its boxes that were clipped to the image.

    Raises:
        InputError: an object's class is unknown, or its box lies outside the image.
    """
    for number, item in enumerate(annotation.objects, 1):
        if item.name not in labels:
            raise InputError(
                f"{annotation.path}: object {number} has the unknown class {item.name!r}; known are: "
                + ", ".join(labels)
            )
    boxes = np.array([item.box for item in annotation.objects], np.float32).reshape(-1, 4)
    boxes += np.array([0, 0, 1, 1], np.float32) - first_pixel
    size = annotation.size
    if size is None or (boxes[:, 2:] > size).any():
        size = image_size(image)
    names = [item.name for item in annotation.objects]
    clipped, over_border = clip_boxes(boxes, *size, names, str(annotation.path))
    example = Example(
        image_id,
        image,
        *size,
        clipped,
        np.array([labels[name] for name in names], np.int64),
        np.array([item.difficult for item in annotation.objects], np.bool_),
        np.array([item.truncated for item in annotation.objects], np.bool_),
    )
    return example, over_border


def _check_form(root: Element, path: Path) -> None:
    """Refuses XML whose objects would not be seen: another root, a namespace, other elements."""
    if root.tag != "annotation":
        raise InputError(
            f"{path}: not in VOC's form, its root is <{root.tag}> in place of <annotation>; export the "
            "annotations as Pascal VOC, COCO or YOLO"
        )
    names = Counter(_bare_tag(element) for element in root.iter())
    objects = root.findall("object")
    boxes = [box for item in objects for box in (*item.findall("bndbox"), *item.findall("part/bndbox"))]
    edges = [edge for item in objects for edge in item.iter("xmin")]
    for name, elements, above in (
        ("object", objects, "<annotation>"),
        ("bndbox", boxes, "<annotation><object>"),
        ("xmin", edges, "<annotation><object><bndbox>"),
    ):
        if names[name] > len(elements):
            raise InputError(
                f"{path}: not in VOC's form, it has <{name}> elsewhere than in {above}; export the "
                "annotations as Pascal VOC"
            )


def _bare_tag(element: Element) -> str:
    """The name of an element without its namespace, in small letters."""
    return element.tag.rpartition("}")[2].lower()


def _read_object(element: Element, source: str) -> AnnotatedObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise InputError(f"{source} has no <name>; add its class")
    if not name.isprintable():
        check_names(source, [name])
    source = f"{source} ({name})"
    xmin, ymin, xmax, ymax = _read_polygon(element, source) or (
        _read_edge(element.findtext(f"bndbox/{edge}"), edge, source)
        for edge in ("xmin", "ymin", "xmax", "ymax")
    )
    if xmax < xmin or ymax < ymin:
        raise BoxError(
            f"{source} has an inverted box: xmin {xmin:g}, ymin {ymin:g}, xmax {xmax:g}, ymax {ymax:g}; "
            "correct it"
        )
    flags = (_read_flag(element, flag, source) for flag in ("difficult", "truncated"))
    return AnnotatedObject(name, (xmin, ymin, xmax, ymax), *flags)


def _read_polygon(element: Element, source: str) -> tuple[float, float, float, float] | None:
    """Reads the box around the polygon of an object without a box; None: it has a box, or neither."""
    polygon = element.find("polygon")
    if polygon is None or element.find("bndbox") is not None:
        return None
    # Roboflow writes <x1>, <y1>, <x2>, ...; LabelMe <pt><x>, <y>.
    corners: dict[str, list[float]] = {"x": [], "y": []}
    for point in polygon.iter():
        if re.fullmatch(r"[xy]\d*", point.tag):
            corners[point.tag[0]].append(_read_edge(point.text, f"polygon/{point.tag}", source))
    if not corners["x"] or not corners["y"]:
        return None
    return min(corners["x"]), min(corners["y"]), max(corners["x"]), max(corners["y"])


def _read_edge(text: str | None, edge: str, source: str) -> float:
    if text is None:
        raise BoxError(f"{source} has no <bndbox> with <{edge}>; add it or remove the object")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _MAX_EDGE:
        raise BoxError(
            f"{source} has {reprlib.repr(text)} in <{edge}>, not the number of a pixel; correct it"
        )
    return value


def _read_flag(element: Element, flag: str, source: str) -> bool:
    text = (element.findtext(flag) or "").strip()
    if text.lower() in _NO | _YES:
        return text.lower() in _YES
    try:
        return float(text) != 0
    except ValueError as error:
        raise InputError(f"{source} has {reprlib.repr(text)} in <{flag}>; write 0 or 1") from error


def _read_size(root: Element) -> tuple[int, int] | None:
    try:
        width, height = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if 0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS else None
