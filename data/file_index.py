"""Finds the files of a data set's folder by names that other programs wrote, and never a file outside it."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

from sppnet.data.image_folder import IMAGE_SUFFIXES, files_below

Key = TypeVar("Key")

# Folders that hold one kind of file of a data set: an image and its annotation differ by them.
_KINDS = frozenset(
    {"annotation", "annotations", "image", "images", "img", "imgs", "jpegimages"}
    | {"label", "labels", "xml", "xmls"}
)
# Label Studio puts eight hexadecimal digits before the name of an uploaded file.
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")


class FileIndex:
    """The files of some suffixes below a folder; hidden ones are left out.

    Names are compared in Unicode's composed form (NFC): macOS stores names in the decomposed one.

    Attributes:
        folder: the folder.
        paths: the files, sorted.
    """

    def __init__(self, folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> None:
        """Lists the files below ``folder`` whose suffix, in lower case, is one of ``suffixes``."""
        self.folder = folder
        self.paths = files_below(folder, suffixes) if folder.is_dir() else []

    def name(self, path: Path) -> str:
        """Returns the path of a file below the folder, with slashes, in the composed form."""
        return composed(path.relative_to(self.folder).as_posix())

    @cached_property
    def by_name(self) -> dict[str, Path]:
        """The files by their `name`."""
        return {self.name(path): path for path in self.paths}

    @cached_property
    def by_stem(self) -> dict[str, list[Path]]:
        """The files by their `name` without the suffix."""
        return _grouped((self.name(path).removesuffix(path.suffix), path) for path in self.paths)

    @cached_property
    def by_key(self) -> dict[tuple[str, ...], list[Path]]:
        """The files by their `pair_key`."""
        return _grouped((self.pair_key(path), path) for path in self.paths)

    @cached_property
    def _by_base_name(self) -> dict[str, list[Path]]:
        return _grouped((composed(path.name), path) for path in self.paths)

    def pair_key(self, path: Path) -> tuple[str, ...]:
        """Returns the parts of a file's name that an image and its annotation share.

        They are the folders below the index's, but for those that hold one kind of file (``images``,
        ``labels``, …), and the name without suffix: ``images/train/a.jpg`` and ``train/labels/a.txt`` both
        have ``("train", "a")``.
        """
        *folders, _ = PurePosixPath(self.name(path)).parts
        kept = [folder for folder in folders if folder.lower() not in _KINDS]
        return (*kept, composed(path.stem))

    def resolve(self, text: str, near: Iterable[str] = ("",)) -> list[Path]:
        """Finds the file that a path of another program means.

        Such a path may be absolute, lead upwards, have either slash or be a part of a URL. Its longest end
        that is a file below the folder counts, then the mere name, then the name without an upload's prefix.

        Args:
            text: the path.
            near: folders below the index's, as prefixes of names, in which to look first.

        Returns:
            the file; several where the mere name is not unique; none.
        """
        for variant in dict.fromkeys((text, unquote(text))):
            parts = [part for part in re.split(r"[/\\]", composed(variant)) if part not in ("", ".", "..")]
            for start in range(len(parts)):
                end = "/".join(parts[start:])
                for prefix in near:
                    path = self.by_name.get(f"{prefix}/{end}" if prefix else end)
                    if path is not None:
                        return [path]
            # The path may be the value of a URL's parameter: ?d=folder/a.jpg.
            name = re.split(r"[=?]", parts[-1])[-1] if parts else ""
            for base_name in (parts[-1] if parts else "", name, _UPLOAD_PREFIX.sub("", name, count=1)):
                if base_name in self._by_base_name:
                    return self._by_base_name[base_name]
        return []


def composed(text: str) -> str:
    """Returns a name in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", text)


def subfolder(folder: Path, *names: str) -> Path | None:
    """Finds the first folder directly below that has one of these names, in any case; None: there is none."""
    folders = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    return next((folders[name.lower()] for name in names if name.lower() in folders), None)


def _grouped(pairs: Iterable[tuple[Key, Path]]) -> dict[Key, list[Path]]:
    groups: dict[Key, list[Path]] = defaultdict(list)
    for key, path in pairs:
        groups[key].append(path)
    return dict(groups)
