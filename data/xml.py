"""Reads annotations in VOC's XML form, which ILSVRC shares; the files are not trusted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from sppnet.common.errors import InputError
from sppnet.data.examples import clip_boxes
from sppnet.data.images import image_size
from sppnet.data.types import Example


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
        size: the image's width and height; None where the file states none above zero.
        objects: in the order of the file.
    """

    path: Path
    filename: str
    size: tuple[int, int] | None
    objects: tuple[AnnotatedObject, ...]


def read_annotation(path: Path) -> Annotation:
    """Reads an annotation file; document types, and with them entities, are refused.

    ``<part>`` elements (VOC2008 and later) are not objects. A missing ``difficult`` or ``truncated`` is 0.

    Raises:
        InputError: the file cannot be read, is not XML, declares a document type, or has an object without a
            name, without four finite numbers for its box, or with an inverted box.
    """
    try:
        root = parse(path, forbid_dtd=True).getroot()
    except OSError as error:
        raise InputError(f"{path}: the annotation cannot be read ({error.strerror}); add it") from error
    except DefusedXmlException as error:
        raise InputError(f"{path}: declares a document type or entities; remove them") from error
    except (ParseError, ValueError, LookupError) as error:  # LookupError and ValueError: an unknown encoding
        raise InputError(f"{path}: not well-formed XML ({error}); correct the file") from error
    elements = enumerate(root.findall("object"), 1)
    objects = tuple(_read_object(element, f"{path}: object {number}") for number, element in elements)
    # Some tools write a path of their machine, with either slash.
    filename = PureWindowsPath((root.findtext("filename") or "").strip()).name
    return Annotation(path, filename, _read_size(root), objects)


def make_example(
    annotation: Annotation, image_id: str, image: Path, labels: Mapping[str, int], first_pixel: int
) -> tuple[Example, int]:
    """Makes an example of an annotation.

    The size of the image is that of the annotation. Where this states none, or a box reaches over it, the
    size is read from the image file (VOC2012 has an image whose annotation swaps width and height).

    Args:
        annotation: its boxes state the first and last pixel of each object, both inclusive.
        image_id: the example's id.
        image: the image file.
        labels: class name to label.
        first_pixel: the number of an image's first pixel: 1 in VOC, 0 in ILSVRC.

    Returns:
        the example, and how many of its boxes were clipped to the image.

    Raises:
        InputError: an object's class is unknown, or its box lies outside of the image.
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


def _read_object(element: Element, source: str) -> AnnotatedObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise InputError(f"{source} has no <name>; add its class")
    source = f"{source} ({name})"
    xmin, ymin, xmax, ymax = (_read_edge(element, edge, source) for edge in ("xmin", "ymin", "xmax", "ymax"))
    if xmax < xmin or ymax < ymin:
        raise InputError(
            f"{source} has an inverted box: xmin {xmin:g}, ymin {ymin:g}, xmax {xmax:g}, ymax {ymax:g}; "
            "correct it"
        )
    flags = (_read_flag(element, flag, source) for flag in ("difficult", "truncated"))
    return AnnotatedObject(name, (xmin, ymin, xmax, ymax), *flags)


def _read_edge(element: Element, edge: str, source: str) -> float:
    text = element.findtext(f"bndbox/{edge}")
    if text is None:
        raise InputError(f"{source} has no <bndbox> with <{edge}>; add it or remove the object")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{source} has <{edge}>{text}</{edge}>, which is not a number; correct it")
    return value


def _read_flag(element: Element, flag: str, source: str) -> bool:
    text = (element.findtext(flag) or "0").strip()
    if text not in ("0", "1"):
        raise InputError(f"{source} has <{flag}>{text}</{flag}>; write 0 or 1")
    return text == "1"


def _read_size(root: Element) -> tuple[int, int] | None:
    try:
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None
