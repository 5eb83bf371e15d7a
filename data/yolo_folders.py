"""Recognises YOLO's labels in a folder: names of classes, images, and a text file for each."""

import logging
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from sppnet.common.errors import InputError
from sppnet.common.files import read_text
from sppnet.data.examples import OnError, gather
from sppnet.data.faults import Fault, MissingImageError
from sppnet.data.file_index import FileIndex, composed
from sppnet.data.layout import Layout, folder_split, image_name, in_split
from sppnet.data.names import check_names, text_lines
from sppnet.data.split_names import WHOLE, canonical_split, sorted_splits
from sppnet.data.types import Dataset, Example
from sppnet.data.yolo import LabelFile, make_yolo_example, read_labels
from sppnet.data.yolo_names import Description, read_description

logger = logging.getLogger(__name__)

_TEXT_SUFFIXES = frozenset({".txt"})
# Label files that are looked into before a folder is not called YOLO's.
_LOOKED_INTO = 50


@dataclass(frozen=True)
class YoloFolder:
    """Images with a label file each: in ``labels`` in place of ``images``, or beside them.

    The splits are those of the YAML file where their folders are there, else folders called ``train``,
    ``valid``, ``test`` or the like; without these, all images are one set.
    """

    folder: Path
    description: Description | None
    evidence: str
    format: str = "YOLO"

    @cached_property
    def images(self) -> FileIndex:
        """All images below the folder."""
        return FileIndex(self.folder)

    @cached_property
    def _texts(self) -> FileIndex:
        return FileIndex(self.folder, _TEXT_SUFFIXES)

    @cached_property
    def _images_of_split(self) -> dict[str, list[Path]]:
        described = self._described_splits()
        if described:
            return described
        groups: dict[str, list[Path]] = defaultdict(list)
        for path in self.images.paths:
            groups[folder_split(self.images, path)].append(path)
        if "" in groups and len(groups) > 1:
            # Pictures of curves and the like lie beside the splits.
            outside = [path for path in groups.pop("") if self.label_path(path)]
            if outside:
                raise InputError(
                    f"{outside[0]}: is in no split's folder, as others are ({', '.join(groups)}); move it"
                )
        return {split or WHOLE: paths for split, paths in groups.items()}

    def _described_splits(self) -> dict[str, list[Path]]:
        groups: dict[str, list[Path]] = {}
        for split, sources in self.description.splits.items() if self.description else ():
            paths = [path for source in sources for path in self._images_of_source(source, split)]
            if paths:
                groups[split] = list(dict.fromkeys(paths))
        return groups

    def _images_of_source(self, source: str, split: str) -> list[Path]:
        """The images of a folder or list that a YAML file names; it is looked for below the folder alone."""
        parts = [part for part in PurePosixPath(composed(source).replace("\\", "/")).parts if part != ".."]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            if end in self._texts.by_name:
                return self._listed_images(self._texts.by_name[end], split)
            below = [path for path in self.images.paths if self.images.name(path).startswith(f"{end}/")]
            if below:
                return below
        return self.images.paths if not parts or parts == ["."] else []

    def _listed_images(self, path: Path, split: str) -> list[Path]:
        images = []
        for line in map(str.strip, text_lines(read_text(path, "the list of images"))):
            if line:
                named = [image for image in self.images.resolve(line) if in_split(self.images, image, split)]
                if len(named) != 1:
                    raise MissingImageError(
                        f"{path}: lists {line}, and {self.folder} has {len(named)} images of this name"
                    )
                images += named
        return images

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return sorted_splits(self._images_of_split)

    def open(self, split: str, on_error: OnError, need_images: bool = True) -> Dataset:
        """Reads the images of a split; those without a label file have no objects.

        The files are needed in any case: they alone say how large an image is.

        Raises:
            InputError: a label file is malformed, a class has no name, an image cannot be read, or a split to
                train on has no label file at all.
        """
        names = self._names()
        name = self.folder.resolve().name
        labels = self._all_labels(on_error)
        numbers = {number for content in labels.values() for number in content.numbers} & names.keys()
        classes = tuple(sorted({names[number] for number in numbers or names}))
        check_names(self.description.path if self.description else name, classes, split)
        positions = {class_name: label for label, class_name in enumerate(classes)}
        label_of_number = {number: positions[names[number]] for number in numbers or names}
        images = {image_name(self.images, path): path for path in self._images_of_split[split]}
        if len(images) < len(self._images_of_split[split]):
            double = next(path for path in self._images_of_split[split] if path not in images.values())
            other = images[image_name(self.images, double)]
            raise InputError(f"{double} and {other}: would share a label file; rename one of them")
        if not any(self.label_path(path) for path in images.values()):
            if canonical_split(split).startswith("train") or split == WHOLE:
                raise InputError(f"{self.folder}: no image of {split} has a label file; add them in labels/")
            logger.warning("%s %s: has no label files; its images have no objects", name, split)

        def read(image_id: str) -> tuple[Example, int]:
            path = self.label_path(images[image_id])
            content = None
            if path is not None:
                content = labels.get(path) or self._read_labels(path)
            return make_yolo_example(content, image_id, images[image_id], label_of_number, names)

        examples = gather(images, read, on_error, f"{name} {split}")
        self._report_lone_labels(split, on_error)
        return Dataset(name, split, classes, examples)

    def _names(self) -> dict[int, str]:
        if self.description is None:
            raise InputError(
                f"{self.folder}: has YOLO's labels, but no names of the classes; list them in classes.txt, "
                "one a line, in the order of their numbers"
            )
        return self.description.names

    def label_path(self, image: Path) -> Path | None:
        """The text file that belongs to an image; None: there is none."""
        paths = self._texts.by_key.get(self.images.pair_key(image))
        return paths[0] if paths else None

    def _read_labels(self, path: Path) -> LabelFile:
        return read_labels(path, self.description is not None and self.description.keypoints)

    def _all_labels(self, on_error: OnError) -> dict[Path, LabelFile]:
        """The labels of all splits; bad files are raised, or left out until their images are read."""
        contents = {}
        for image in self.images.paths:
            path = self.label_path(image)
            if path is not None:
                try:
                    contents[path] = self._read_labels(path)
                except InputError:
                    if on_error == "raise":
                        raise
        return contents

    def _report_lone_labels(self, split: str, on_error: OnError) -> None:
        """Reports files in a split's folder ``labels`` that no image belongs to."""
        lone = [
            path
            for path in self._texts.paths
            if "labels" in self._texts.name(path).lower().split("/")[:-1]
            and self._texts.pair_key(path) not in self.images.by_key
            and in_split(self._texts, path, split)
        ]
        if callable(on_error):
            for path in lone:
                on_error(
                    Fault("missing image", "", f"{path}: its image is missing; add it, or remove the file")
                )
        elif lone:
            logger.warning("%s: %d label files have no image, the first %s", self.folder, len(lone), lone[0])


def find_yolo_layout(folder: Path) -> Layout | None:
    """Recognises YOLO's labels in a folder; None: it has none.

    Raises:
        InputError: a description of the data set is malformed.
    """
    layout = YoloFolder(folder, None, "")
    paths = [path for image in layout.images.paths if (path := layout.label_path(image))]
    if not paths:
        return None
    description = read_description(folder)
    if description is not None and description.splits:
        return YoloFolder(folder, description, description.path.name)
    for path in paths[:_LOOKED_INTO]:
        if _is_label_file(path):
            return YoloFolder(folder, description, path.relative_to(folder).as_posix())
    return None


def _is_label_file(path: Path) -> bool:
    """Whether a text beside an image or in ``labels`` holds numbers; an empty one in ``labels`` may."""
    try:
        text = read_text(path, "the labels")
    except InputError:
        return False
    words = next((line.split() for line in text.splitlines() if line.strip()), [])
    if not words:
        return path.parent.name.lower() == "labels"
    try:
        return len([float(word) for word in words]) >= 5
    except ValueError:
        return False
