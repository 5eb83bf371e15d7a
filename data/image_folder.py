"""A labelled set of images in the layout of torchvision's ImageFolder: ``FOLDER/<class>/<image>``."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.types import InputError, IntArray

# What `read_image` is asked to decode; other files in a class' folder (lists, licences) are passed over.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


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
        """SHA-256 over the classes, and the images' places, names and sizes in bytes, not what is in them."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for path in self.paths:
            digest.update(f"{path.relative_to(self.folder)} {path.stat().st_size}\n".encode())
        return digest.hexdigest()

    def only(self, indices: IntArray) -> "ImageFolder":
        """Some of the images, in the order of ``indices``; the classes stay."""
        chosen = tuple(self.paths[index] for index in indices.tolist())
        return replace(self, paths=chosen, labels=self.labels[indices])


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
    names = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
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
        mine = sorted(path for path in (folder / name).rglob("*") if _is_image(path, folder))
        if not mine:
            raise InputError(
                f"{folder / name}: a class without images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                "add some, or remove the folder"
            )
        paths += mine
        labels += [classes.index(name)] * len(mine)
    return ImageFolder(folder, classes, tuple(paths), np.array(labels, np.int64))


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file()
