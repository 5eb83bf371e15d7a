"""Recognises annotations in VOC's XML form in a folder, with and without lists of splits."""

import logging
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sppnet.common.errors import InputError
from sppnet.data.examples import OnError, gather
from sppnet.data.faults import MissingImageError
from sppnet.data.file_index import FileIndex, composed
from sppnet.data.layout import Layout, folder_split, image_name, report_unannotated
from sppnet.data.names import check_names
from sppnet.data.split_names import WHOLE, canonical_split, sorted_splits
from sppnet.data.types import Dataset, Example
from sppnet.data.voc import (
    XML_SUFFIXES,
    class_names,
    classes_from_file,
    list_splits,
    load_voc,
    preferred_image,
    read_annotations,
)
from sppnet.data.xml import Annotation, make_example, read_annotation

logger = logging.getLogger(__name__)

# The root element stands in the first bytes of an annotation.
_HEAD_BYTES = 2048


@dataclass(frozen=True)
class VocLists:
    """VOC's own layout, with a list for each split in ``ImageSets/Main``."""

    folder: Path
    format: str = "VOC"
    evidence: str = "ImageSets/Main"

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the lists; CVAT's is ``default``."""
        return list_splits(self.folder)

    def open(self, split: str, on_error: OnError, need_images: bool = True) -> Dataset:
        """Reads a split, see `load_voc`."""
        return load_voc(self.folder, split, on_error=on_error, need_images=need_images)


@dataclass(frozen=True)
class VocFiles:
    """XML files in VOC's form without lists: beside their images, or in a folder of their own.

    A folder called ``train``, ``valid``, ``test`` or the like is a split. Without such folders all images
    that have an annotation are one set.
    """

    folder: Path
    evidence: str
    format: str = "VOC"

    @cached_property
    def _xml(self) -> FileIndex:
        return FileIndex(self.folder, XML_SUFFIXES)

    @cached_property
    def _images(self) -> FileIndex:
        return FileIndex(self.folder)

    @cached_property
    def _images_of_stem(self) -> dict[str, list[Path]]:
        images = defaultdict(list)
        for path in self._images.paths:
            images[composed(path.stem)].append(path)
        return dict(images)

    @cached_property
    def _xml_of_split(self) -> dict[str, list[Path]]:
        """The annotations of each split; none of a split to test on that has images alone."""
        groups: dict[str, list[Path]] = defaultdict(list)
        for path in self._xml.paths:
            images = self._paired_images(path)
            split = folder_split(self._xml, path) or (folder_split(self._images, images[0]) if images else "")
            groups[split].append(path)
        if "" in groups and len(groups) > 1:
            first, splits = groups.pop("")[0], ", ".join(sorted_splits(groups))
            raise InputError(f"{first}: is in no split's folder, as others are ({splits}); move it")
        if "" in groups:
            return {WHOLE: groups[""]}
        for path in self._images.paths:
            split = folder_split(self._images, path)
            if split and split not in groups and not canonical_split(split).startswith("train"):
                groups[split] = []
        return dict(groups)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits' folders."""
        return sorted_splits(self._xml_of_split)

    def open(self, split: str, on_error: OnError, need_images: bool = True) -> Dataset:
        """Reads the images of a split that have an annotation, in the order of the annotations' paths.

        Raises:
            InputError: an annotation is malformed, or its image is missing or not to be told from others.
        """
        name = self.folder.resolve().name
        annotations = read_annotations(self._xml.paths, on_error)
        classes = classes_from_file(self.folder) or class_names(annotations.values())
        check_names(self.folder, classes, split)
        labels = {class_name: label for label, class_name in enumerate(classes)}
        paths = {image_name(self._xml, path): path for path in self._xml_of_split[split]}
        if len(paths) < len(self._xml_of_split[split]):
            double = next(path for path in self._xml_of_split[split] if path not in paths.values())
            other = paths[image_name(self._xml, double)]
            raise InputError(f"{double}: {other} is of the same image; keep one of them")
        images = self._images_of_split(split)
        if not paths:
            logger.warning("%s %s: has no annotations; its images have no objects", name, split)
            paths = {image_name(self._images, path): path for path in images}
        used: dict[Path, Path] = {}

        def read(image_id: str) -> tuple[Example, int]:
            path = paths[image_id]
            if path.suffix.lower() in XML_SUFFIXES:
                annotation = annotations.get(path) or read_annotation(path)
                image = self._find_image(annotation, need_images)
            else:
                annotation, image = Annotation(path, "", None, ()), path
            if image in used:
                raise InputError(f"{path}: is of the image {image}, as {used[image]}; keep one of them")
            used[image] = path
            return make_example(annotation, image_id, image, labels, first_pixel=1)

        examples = gather(paths, read, on_error, f"{name} {split}")
        report_unannotated((path for path in images if path not in used), on_error, f"{name} {split}")
        return Dataset(name, split, classes, examples)

    def _images_of_split(self, split: str) -> list[Path]:
        images = self._images
        return [path for path in images.paths if split == WHOLE or folder_split(images, path) == split]

    def _paired_images(self, path: Path) -> list[Path]:
        """The images with the name of an annotation: in the folder that belongs to it, else anywhere."""
        paths = self._images.by_key.get(self._xml.pair_key(path))
        return paths or self._unpaired(self._images_of_stem.get(composed(path.stem), []))

    def _unpaired(self, paths: list[Path]) -> list[Path]:
        """Images without those that another annotation belongs to, such as the same name in another split."""
        return [path for path in paths if self._images.pair_key(path) not in self._xml.by_key]

    def _find_image(self, annotation: Annotation, needed: bool) -> Path:
        path = annotation.path
        paths = self._images.by_key.get(self._xml.pair_key(path))
        if paths:
            return preferred_image(paths, annotation)
        # In another folder, a file must be the only one of its name.
        named = self._unpaired(self._images.resolve(annotation.filename))
        for paths in (named, self._paired_images(path)):
            if len(paths) == 1:
                return paths[0]
        if not needed:
            return path.with_suffix(".jpg")
        raise MissingImageError(
            f"{path}: its image {path.stem} is not in {self.folder}; add it, or remove the annotation"
        )


def find_voc_layout(folder: Path) -> Layout | None:
    """Recognises VOC's annotations in a folder; None: it has none.

    Raises:
        InputError: a file cannot be read.
    """
    lists = [path for path in (folder, *sorted(folder.glob("VOC20[0-9][0-9]"))) if list_splits(path)]
    if len(lists) > 1:
        names = " and ".join(map(str, lists))
        raise InputError(f"{folder}: holds several data sets; give one of them: {names}")
    if lists:
        return VocLists(lists[0])
    for path in FileIndex(folder, XML_SUFFIXES).paths:
        if _is_annotation(path):
            return VocFiles(folder, path.relative_to(folder).as_posix())
    return None


def _is_annotation(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return b"<annotation" in file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
