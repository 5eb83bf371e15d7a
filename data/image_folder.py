"""Folders of labelled images in the layout of torchvision's ImageFolder: ``FOLDER/<class>/<image>``."""

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sppnet.common.arrays import IntArray
from sppnet.common.errors import InputError

logger = logging.getLogger(__name__)

# The formats that OpenCV decodes; other files in a class' folder (lists, licences) are ignored.
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
# The photos of many telephones, which OpenCV does not decode.
HEIC_SUFFIXES = frozenset({".heic", ".heif"})
# Names that common tools give to the folder of validation images beside train/.
_VALIDATION = ("val", "valid", "validation")
_SPLITS = frozenset({"train", "training", "test", "testing", "dev", *_VALIDATION})


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images with one class each.

    Attributes:
        folder: the folder that holds one folder for each class.
        classes: the class names, sorted; a label is an index into them.
        paths: the N image files, class by class, sorted by path within a class.
        labels: int64 (N,), the label of each image.
    """

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: IntArray

    def __len__(self) -> int:
        return len(self.paths)

    def digest(self) -> str:
        """Computes a SHA-256 over the classes and the relative paths of the images, not their content."""
        digest = hashlib.sha256(repr(self.classes).encode("utf-8", "surrogateescape"))
        for path in self.paths:
            # File names need not be UTF-8.
            digest.update(os.fsencode(f"{path.relative_to(self.folder)}\n"))
        return digest.hexdigest()

    def only(self, indices: IntArray) -> "ImageFolder":
        """Selects the images at ``indices``, in that order, with the same classes."""
        paths = tuple(self.paths[index] for index in indices.tolist())
        return replace(self, paths=paths, labels=self.labels[indices])


def split_folders(folder: Path) -> tuple[Path, Path | None] | None:
    """Finds the splits of a folder that holds splits, not classes: train, val (or valid, validation), test.

    Returns:
        the training folder, and the validation folder if there is one; None: the folder holds no splits.

    Raises:
        InputError: ``train`` holds folders, as a split does, but a folder beside it is not named as a split;
            or there are splits under other names.
    """
    names = _folder_names(folder) if folder.is_dir() else []
    if "train" not in names:
        if names and all(name.lower() in _SPLITS for name in names):
            raise InputError(
                f"{folder}: {', '.join(names)} look like splits, not classes; call them train and val, "
                "or give one of them"
            )
        return None
    classes = [name for name in names if name not in ("train", "test", *_VALIDATION)]
    if classes and _folder_names(folder / "train"):
        raise InputError(
            f"{folder}: train/ holds folders, as a split does, but {classes[0]}/ beside it is no split "
            f"(train, {', '.join(_VALIDATION)}, test); move one of them, or give {folder / 'train'}"
        )
    if classes:
        return None
    return folder / "train", next((folder / name for name in _VALIDATION if name in names), None)


def _folder_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def open_image_folder(folder: Path, classes: tuple[str, ...] | None = None) -> ImageFolder:
    """Lists the images of a folder of classes; no image is opened. Hidden files and folders are ignored.

    Args:
        folder: holds a folder for each class; images may lie at any depth below that.
        classes: the class names; a label is an index into them, and some classes may have no folder. None:
            the names of the folders.

    Raises:
        InputError: the folder does not exist or holds no folders, or a class is unknown or has no images.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat/1.jpg", "dog/1.jpg", "dog/2.jpg"):
        ...         path = Path(folder, name)
        ...         path.parent.mkdir(exist_ok=True)
        ...         path.touch()
        ...     images = open_image_folder(Path(folder))
        >>> images.classes, images.labels
        (('cat', 'dog'), array([0, 1, 1]))
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
    report_heic(folder)
    paths: list[Path] = []
    labels: list[int] = []
    for name in names:
        class_paths = files_below(folder / name)
        if not class_paths:
            raise InputError(
                f"{folder / name}: a class without images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                "add some, or remove the folder"
            )
        paths += class_paths
        labels += [classes.index(name)] * len(class_paths)
    return ImageFolder(folder, classes, tuple(paths), np.array(labels, np.int64))


def open_classes(folder: Path) -> ImageFolder:
    """Lists the images of a folder of two classes or more.

    Raises:
        InputError: as in `open_image_folder`; or there is only one class.
    """
    images = open_image_folder(folder)
    if len(images.classes) < 2:
        raise InputError(
            f"{folder}: there is only one class, {images.classes[0]!r}; give the folder that holds the "
            "classes' folders"
        )
    return images


def list_images(path: Path) -> list[Path]:
    """Lists the images of a folder at any depth, in order, without hidden files; a file is listed alone.

    Raises:
        InputError: the folder has no images.
    """
    if not path.is_dir():
        return [path]
    images = files_below(path)
    report_heic(path)
    if not images:
        raise InputError(f"{path}: the folder has no images ({', '.join(sorted(IMAGE_SUFFIXES))}); add some")
    return images


def report_heic(folder: Path) -> None:
    """Logs how many HEIC images a folder has at any depth, which are left out."""
    paths = files_below(folder, HEIC_SUFFIXES)
    if paths:
        logger.warning(
            "%s: %d HEIC images are left out, the first %s; export them as JPEG", folder, len(paths), paths[0]
        )


def files_below(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Lists the files at any depth whose suffix is one of ``suffixes`` in any case, by default images.

    They are in order. Links to folders are followed; hidden files and folders are ignored.
    """
    selected: list[Path] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        # Without this check a link to a parent folder would be followed for ever.
        seen.add(os.path.realpath(parent))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) not in seen
        ]
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        selected += [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
    return sorted(selected)
