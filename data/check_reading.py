"""Reads everything of a data set that a check looks at; it goes on behind every bad file."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from sppnet.common.errors import InputError
from sppnet.common.files import file_digest
from sppnet.common.progress import Progress
from sppnet.data.all_splits import split_openers
from sppnet.data.faults import Fault
from sppnet.data.orientation import is_taken_as_stored
from sppnet.data.registry import load_dataset
from sppnet.data.splits import joined_splits
from sppnet.data.types import Dataset, Example


@dataclass(frozen=True)
class ImageFile:
    """The content of an image file.

    Attributes:
        digest: SHA-256 of its bytes; empty where it cannot be read.
        size: width and height in pixels; None where it cannot be decoded.
        error: why it cannot be decoded.
        as_stored: whether it is used as stored although EXIF asks to turn it.
    """

    digest: str
    size: tuple[int, int] | None
    error: str = ""
    as_stored: bool = False


@dataclass(frozen=True)
class Material:
    """All that was read of a data set.

    Attributes:
        name: of the data set, as it was given.
        datasets: the splits that could be opened, all with the same classes.
        unopened: the error of each split that could not.
        faults: those that the readers met, by split.
        files: the content of each image file, by path.
        class_lists: the classes of each split, as its files have them.
        joins: splits that join others, with the names of these.
    """

    name: str
    datasets: tuple[Dataset, ...]
    unopened: tuple[str, ...]
    faults: dict[str, list[Fault]]
    files: dict[Path, ImageFile]
    class_lists: dict[str, tuple[str, ...]]
    joins: dict[str, tuple[str, ...]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.datasets[0].classes if self.datasets else ()

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """The splits without those that join others."""
        return tuple(dataset for dataset in self.datasets if dataset.split not in self.joins)

    @property
    def examples(self) -> tuple[Example, ...]:
        """Every image once, also where several splits have it."""
        return tuple({example.path: example for part in self.parts for example in part}.values())


def read_material(name: str, splits: Sequence[str] | None, progress: Progress) -> Material:
    """Reads the annotations and decodes the images of a data set.

    Args:
        name: as in `load_dataset`.
        splits: the names of the splits; None: all.
        progress: called after each image.

    Raises:
        InputError: there is no such data set.
    """
    datasets: list[Dataset] = []
    unopened: list[str] = []
    faults: dict[str, list[Fault]] = {}
    openers = {split: partial(load_dataset, name, split, None) for split in splits} if splits else None
    for split, opener in (openers or split_openers(name)).items():
        faults[split] = []
        try:
            datasets.append(opener(faults[split].append))
        except InputError as error:
            unopened.append(str(error))
    class_lists = {dataset.split: dataset.classes for dataset in datasets}
    datasets = _with_same_classes(datasets)
    examples = list({example.path: example for dataset in datasets for example in dataset}.values())
    files = dict(_read_files(examples, progress))
    return Material(
        name, tuple(datasets), tuple(unopened), faults, files, class_lists, joined_splits(datasets)
    )


def _with_same_classes(datasets: list[Dataset]) -> list[Dataset]:
    """The same splits with labels into the classes of all; COCO's files may have different ones."""
    classes = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.classes))
    relabelled = []
    for dataset in datasets:
        labels = np.array([classes.index(name) for name in dataset.classes], np.int64)
        examples = tuple(replace(example, labels=labels[example.labels]) for example in dataset)
        relabelled.append(replace(dataset, classes=classes, examples=examples))
    return relabelled


def _read_files(examples: Sequence[Example], progress: Progress) -> Iterator[tuple[Path, ImageFile]]:
    # Decoding runs outside of Python's lock.
    with ThreadPoolExecutor() as pool:
        for number, (example, file) in enumerate(
            zip(examples, pool.map(_read_file, examples), strict=True), 1
        ):
            yield example.path, file
            progress("images", number, len(examples))


def _read_file(example: Example) -> ImageFile:
    try:
        digest = file_digest(example.path)
    except OSError as error:
        return ImageFile("", None, f"{example.path}: cannot be read ({error.strerror}); restore it")
    try:
        height, width = example.read().shape[:2]
    except InputError as error:
        return ImageFile(digest, None, str(error))
    return ImageFile(digest, (width, height), as_stored=is_taken_as_stored(example))
