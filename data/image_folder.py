"""A labelled set of images in the layout of torchvision's ImageFolder: ``FOLDER/<class>/<image>``."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sppnet.common.arrays import IntArray
from sppnet.common.errors import InputError

# What `read_image` is asked to decode; other files in a class' folder (lists, licences) are passed over.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Names that common tools give the folder beside train/ with the images to test on while training.
_VALIDATION = ("val", "valid", "validation")
_SPLITS = frozenset({"train", "training", "test", "testing", "dev", *_VALIDATION})


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images with one class each.

    Attributes:
        folder: the folder of the classes' folders.
        classes: their names, sorted; a label is an index into them.
        paths: the images, class by class, each class' sorted by path.
        labels: int64 (N,).
    """

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: IntArray

    def __len__(self) -> int:
        return len(self.paths)

    def digest(self) -> str:
        """SHA-256 over the classes and the images' places and names: a mended image changes nothing."""
        digest = hashlib.sha256(repr(self.classes).encode("utf-8", "surrogateescape"))
        for path in self.paths:
            # Not every name that a disk holds is UTF-8.
            digest.update(os.fsencode(f"{path.relative_to(self.folder)}\n"))
        return digest.hexdigest()

    def only(self, indices: IntArray) -> "ImageFolder":
        """Some of the images, in the order of ``indices``; the classes stay."""
        chosen = tuple(self.paths[index] for index in indices.tolist())
        return replace(self, paths=chosen, labels=self.labels[indices])


def split_folders(folder: Path) -> tuple[Path, Path | None] | None:
    """The splits in a folder that holds these and not classes: train, val (or valid, or validation), test.

    Returns:
        the folder to train on, and the one to test on while training, if any; None: there are no splits.

    Raises:
        InputError: ``train`` holds folders, as a split does, but what is beside it has no split's name; or
            there are splits under other names.
    """
    names = _folder_names(folder) if folder.is_dir() else []
    if "train" not in names:
        if names and all(name.lower() in _SPLITS for name in names):
            raise InputError(
                f"{folder}: {', '.join(names)} look like splits, not classes; call them train and val, "
                "or give one of them"
            )
        return None
    others = [name for name in names if name not in ("train", "test", *_VALIDATION)]
    if others and _folder_names(folder / "train"):
        raise InputError(
            f"{folder}: train/ holds folders of its own, as a split does, but {others[0]}/ beside it is none "
            f"(train, {', '.join(_VALIDATION)}, test); move one of them, or give {folder / 'train'}"
        )
    if others:
        return None
    return folder / "train", next((folder / name for name in _VALIDATION if name in names), None)


def _folder_names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))


def open_image_folder(folder: Path, classes: tuple[str, ...] | None = None) -> ImageFolder:
    """Lists a folder of classes; no image is opened. Hidden files and folders are passed over.

    Args:
        folder: holds a folder for each class; images may lie at any depth below that.
        classes: names that the folders must be among, for labels by these; None: the folders' own names.

    Raises:
        InputError: no such folder, no class' folder in it, one without images, or one of an unknown class.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one with a folder of images for each class")
    names = _folder_names(folder)
    if not names:
        raise InputError(f"{folder}: has no folders of classes; lay images out as <class>/<image>")
    classes = tuple(names) if classes is None else classes
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise InputError(
            f"{folder / unknown[0]}: no class of this name among {len(classes)}; rename or move the folder"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for name in names:
        mine = _images_below(folder / name)
        if not mine:
            raise InputError(
                f"{folder / name}: a class without images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                "add some, or remove the folder"
            )
        paths += mine
        labels += [classes.index(name)] * len(mine)
    return ImageFolder(folder, classes, tuple(paths), np.array(labels, np.int64))


def open_classes(folder: Path) -> ImageFolder:
    """`open_image_folder` of classes to tell apart.

    Raises:
        InputError: as there; or there is only one.
    """
    images = open_image_folder(folder)
    if len(images.classes) < 2:
        raise InputError(
            f"{folder}: one class, {images.classes[0]!r}, is nothing to tell apart; give the folder "
            "that holds the classes' folders"
        )
    return images


def list_images(path: Path) -> list[Path]:
    """``path`` itself if it is a file; of a folder the images at any depth, in order, but for hidden ones.

    Raises:
        InputError: a folder without images.
    """
    if not path.is_dir():
        return [path]
    found = _images_below(path)
    if not found:
        raise InputError(f"{path}: the folder has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def _images_below(folder: Path) -> list[Path]:
    """The images at any depth, in order; links to folders are followed, hidden files and folders are not."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        # A link to a folder above would go round for ever.
        seen.add(os.path.realpath(place))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(place, name)) not in seen
        ]
        paths = (Path(place, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return sorted(found)
