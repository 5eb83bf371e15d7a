"""Recognises COCO's JSON files in a folder, one for each split, and finds their images there."""

import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from sppnet.common.errors import InputError
from sppnet.data.coco import to_dataset
from sppnet.data.coco_file import read_coco_file
from sppnet.data.examples import OnError
from sppnet.data.file_index import FileIndex
from sppnet.data.layout import Layout, in_split
from sppnet.data.split_names import WHOLE, is_split_name, sorted_splits, split_of
from sppnet.data.types import Dataset

_JSON_SUFFIXES = frozenset({".json"})
# COCO's own names: instances_train2017.json, and image_info_test2017.json without annotations.
_NAMED = re.compile(r"(?:instances|image_info)_(.+)", re.IGNORECASE)
# Of the same images, for other tasks.
_OTHER_TASKS = re.compile(r"(?:captions|panoptic|person_keypoints|stuff)_.+", re.IGNORECASE)


@dataclass(frozen=True)
class CocoFolder:
    """A folder with JSON files of COCO's form and their images.

    Attributes:
        folder: the data set's folder.
        files: split to its JSON file.
    """

    folder: Path
    files: dict[str, Path]
    format: str = "COCO JSON"

    @property
    def evidence(self) -> str:
        """The JSON files."""
        return " and ".join(path.relative_to(self.folder).as_posix() for path in self.files.values())

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return sorted_splits(self.files)

    @cached_property
    def _images(self) -> FileIndex:
        return FileIndex(self.folder)

    def open(self, split: str, on_error: OnError, need_images: bool = True) -> Dataset:
        """Reads the images that a split's JSON file lists.

        Classes are the categories that annotations of any split use, sorted by name.

        Raises:
            InputError: as in `load_coco`; or an image's name in the file is that of several in the folder.
        """
        path = self.files[split]
        file = read_coco_file(path, split, on_error)
        used = file.used_names()
        for other in self.files.values():
            if other != path:
                used |= self._used_names(other, on_error)
        dataset = to_dataset(
            file,
            split,
            self._finder(split),
            sorted(used or set(file.categories.values())),
            on_error,
            need_images,
        )
        name = self.folder.resolve().name
        return Dataset(
            name, split, dataset.classes, dataset.examples, dataset.category_ids, dataset.image_ids
        )

    def _used_names(self, path: Path, on_error: OnError) -> frozenset[str]:
        status = path.stat()
        try:
            return _used_names(path.resolve(), status.st_mtime_ns, status.st_size)
        except InputError:
            if on_error == "raise":
                raise
            return frozenset()

    def _finder(self, split: str) -> Callable[[str], Path]:
        """Finds images by the names in the JSON file; never outside of the folder."""
        path = self.files[split]
        beside = self._images.name(path.parent) if path.parent != self.folder else ""
        # Roboflow's lie beside the file, COCO's in a folder called as the split, CVAT's in images/<split>.
        near = [beside, *(f"{parent}{split}" for parent in ("", "images/")), "images", "data", ""]
        taken: dict[Path, str] = {}

        def find(file_name: str) -> Path:
            # The same name in another split is another image.
            paths = [
                path for path in self._images.resolve(file_name, near) if in_split(self._images, path, split)
            ]
            if len(paths) > 1:
                raise InputError(
                    f"{path}: {file_name} may be {paths[0]} or {paths[1]}; correct the name, or remove one"
                )
            if not paths:
                return self.folder / (re.split(r"[/\\]", file_name)[-1] or "image")
            if taken.setdefault(paths[0], file_name) != file_name:
                raise InputError(
                    f"{path}: {file_name} and {taken[paths[0]]} both mean {paths[0]}; add the missing image"
                )
            return paths[0]

        return find


@lru_cache(maxsize=64)
def _used_names(path: Path, time: int, size: int) -> frozenset[str]:
    """The names that a file's annotations use; a file that has changed since is read again."""
    return frozenset(read_coco_file(path, "test").used_names())


def find_coco_layout(folder: Path) -> Layout | None:
    """Recognises COCO's JSON files in a folder; None: it has none.

    They are looked for in the folder itself, in ``annotations`` and in the folders of splits.

    Raises:
        InputError: two files are of the same split, or a file cannot be read.
    """
    files: dict[str, Path] = {}
    for path in _candidates(folder):
        split = _split_of_file(folder, path)
        if split in files:
            raise InputError(
                f"{folder}: {files[split].relative_to(folder)} and {path.relative_to(folder)} are of one "
                f"split, {split}; keep one, or name them instances_<split>.json"
            )
        files[split] = path
    return CocoFolder(folder, files) if files else None


def _candidates(folder: Path) -> list[Path]:
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    folders = [path for path in below if path.name.lower() in ("annotations", "annotation")]
    folders += [path for path in below if is_split_name(path.name)]
    paths = [
        path
        for parent in (folder, *folders)
        for path in sorted(parent.iterdir())
        if path.suffix.lower() in _JSON_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    paths = [path for path in paths if _looks_like_coco(path)]
    named = [path for path in paths if _NAMED.fullmatch(path.stem)]
    if named:
        paths = [path for path in paths if not _OTHER_TASKS.fullmatch(path.stem)]
    instances = {_split_of_file(folder, path) for path in named if path.stem.lower().startswith("instances")}
    return [
        path
        for path in paths
        if not (path.stem.lower().startswith("image_info") and _split_of_file(folder, path) in instances)
    ]


def _looks_like_coco(path: Path) -> bool:
    """Whether a file has the keys of COCO's lists; it is not parsed, as COCO's own take seconds."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(key) >= 0 for key in (b'"images"', b'"categories"'))
    except ValueError:  # The file is empty.
        return False
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _split_of_file(folder: Path, path: Path) -> str:
    """The split of a JSON file: by its folder, by COCO's names, or by a part of its name."""
    if path.parent != folder and (split := split_of(path.parent.relative_to(folder).parts)):
        return split
    named = _NAMED.fullmatch(path.stem)
    if named:
        return named[1]
    words = re.split(r"[-_. ]", path.stem)
    splits = {word for word in words if is_split_name(word)}
    if len(splits) == 1:
        return splits.pop()
    return WHOLE
