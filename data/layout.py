"""The layout of a data set's folder: its format, its splits, and how a split is opened."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from sppnet.data.examples import OnError
from sppnet.data.faults import Fault
from sppnet.data.file_index import FileIndex
from sppnet.data.split_names import canonical_split, is_split_name, split_of
from sppnet.data.types import Dataset

logger = logging.getLogger(__name__)


class Layout(Protocol):
    """A format that was recognised in a folder."""

    @property
    def folder(self) -> Path:
        """The data set's folder."""
        ...

    @property
    def format(self) -> str:
        """The name of the format for people, such as ``"YOLO"``."""
        ...

    @property
    def evidence(self) -> str:
        """The file or folder that the format was recognised by, relative to the folder."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits as the folder has them; `WHOLE` alone: one set without splits."""
        ...

    def open(self, split: str, on_error: OnError, need_images: bool = True) -> Dataset:
        """Reads one of ``splits``; ``need_images``: whether each image's file must be there.

        Raises:
            InputError: a file is missing, malformed or contradicts another.
        """
        ...


def folder_split(index: FileIndex, path: Path) -> str:
    """Returns the split that a folder above a file names; empty: none does."""
    return split_of(index.pair_key(path)[:-1])


def in_split(index: FileIndex, path: Path, split: str) -> bool:
    """Returns whether a file may belong to a split: it is in no other split's folder."""
    folder = folder_split(index, path)
    return not folder or not is_split_name(split) or canonical_split(folder) == canonical_split(split)


def image_name(index: FileIndex, path: Path) -> str:
    """Returns the image id of a file: its path without suffix, split and folders of one kind of file."""
    key = index.pair_key(path)
    split = split_of(key[:-1])
    return "/".join((*(part for part in key[:-1] if part != split), key[-1]))


def report_unannotated(images: Iterable[Path], on_error: OnError, source: str) -> None:
    """Reports images that are left out since they have no annotation: one line in the log, or as faults.

    Args:
        images: the images.
        on_error: a function gets a fault of each.
        source: the name of the data set.
    """
    images = list(images)
    if callable(on_error):
        for image in images:
            message = f"{image}: has no annotation and is left out; annotate or remove it"
            on_error(Fault("missing annotation", "", message))
    elif images:
        logger.warning(
            "%s: %d images have no annotation and are left out, the first %s", source, len(images), images[0]
        )
