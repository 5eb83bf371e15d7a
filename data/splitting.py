"""Divides an annotated data set into parts to train and to test on, evenly over the classes."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import IntArray
from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, file_digest
from sppnet.data.names import check_names
from sppnet.data.splits import LISTS
from sppnet.data.types import Dataset

Amounts = NDArray[np.float64]

# Divisions to choose from. One alone ends now and then with a class four objects from its share.
_STARTS = 3
# A swap is the best of those between so many images of each part, drawn anew each time.
_CANDIDATES = 250
# So many draws without a swap end the work.
_PATIENCE = 5


def split_dataset(dataset: Dataset, fractions: Mapping[str, float], seed: int = 0) -> dict[str, Dataset]:
    """Divides a data set so that each part has its share of the images and of the objects of every class.

    The first division is iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011), which begins with
    the rarest class, over objects in place of labels. Then images are swapped between parts while that brings
    a class closer to its share. Images without objects are shared out, too. Copies of an image, which have
    the same bytes, stay together: a detector must not be tested on an image that it was trained on.

    Args:
        dataset: all images.
        fractions: the parts' names, each with its fraction of the images, above 0; together they are below 1.
            The rest is the part ``"train"``.
        seed: one seed, one result, in whatever order the images are.

    Returns:
        the parts by name, ``"train"`` first, each in the order of the paths. Every image is in one of them.

    Raises:
        InputError: fractions out of their range, a part that is named ``train``, or fewer images than parts.

    Example:
        >>> from sppnet.data import Example
        >>> boxes, flags = np.array([[10, 20, 60, 80]], np.float32), np.zeros(1, bool)
        >>> labels = [np.array([number % 2]) for number in range(20)]
        >>> examples = tuple(
        ...     Example(f"{number}", Path(f"{number}.jpg"), 100, 90, boxes, label, flags, flags)
        ...     for number, label in enumerate(labels)
        ... )
        >>> parts = split_dataset(Dataset("toys", "all", ("cat", "dog"), examples), {"val": 0.1, "test": 0.2})
        >>> {name: len(part) for name, part in parts.items()}
        {'train': 14, 'val': 2, 'test': 4}
    """
    names = ["train", *fractions]
    shares = np.array([1 - sum(fractions.values()), *fractions.values()])
    if not fractions or "train" in fractions or not (shares > 0).all():
        raise InputError(
            f"cannot divide into {dict(fractions)}: give each part a fraction above 0, together below 1; the "
            "rest is train"
        )
    dataset = replace(dataset, examples=tuple(sorted(dataset, key=lambda example: str(example.path))))
    units = _copies_together(dataset)
    if len(units) < len(names):
        raise InputError(
            f"{dataset.name}: {len(units)} different images cannot be divided into {len(names)} parts "
            f"({', '.join(names)}); add images"
        )
    amounts = _count(units, dataset)
    # A row for each part: the images and objects that it still lacks.
    lacking = shares[:, None] * amounts.sum(axis=0)
    lacking[:, 0] = _whole_shares(shares, len(dataset))
    rng = np.random.default_rng(seed)
    best = np.inf
    for _ in range(_STARTS):
        rest = lacking.copy()
        division = _stratify(amounts, rest, shares, rng)
        _swap(amounts, rest, division, rng)
        if np.square(rest).sum() < best:
            best, parts = np.square(rest).sum(), division
    part_of_image = np.zeros(len(dataset), np.int64)
    for indices, part in zip(units, parts.tolist(), strict=True):
        part_of_image[indices] = part
    return {
        name: replace(
            dataset,
            split=name,
            examples=tuple(dataset[index] for index in np.flatnonzero(part_of_image == number).tolist()),
        )
        for number, name in enumerate(names)
    }


def _count(units: list[list[int]], dataset: Dataset) -> Amounts:
    """Counts the images and the objects of each class of each unit: (units, 1 + classes)."""
    amounts = np.zeros((len(units), 1 + len(dataset.classes)))
    for row, indices in enumerate(units):
        labels = np.concatenate([dataset[index].labels for index in indices])
        amounts[row] = [len(indices), *np.bincount(labels, minlength=len(dataset.classes))]
    return amounts


def _whole_shares(shares: Amounts, number: int) -> Amounts:
    """The shares of so many images in whole images, at least one each; the first gets the rest."""
    images = np.maximum(np.rint(shares * number), 1)
    images[0] = number - images[1:].sum()
    while images[0] < 1:
        images[1 + images[1:].argmax()] -= 1
        images[0] += 1
    return images


def _copies_together(dataset: Dataset) -> list[list[int]]:
    """The indices of the images, those with the same bytes in one list."""
    by_size: dict[Any, list[int]] = defaultdict(list)
    for index, example in enumerate(dataset):
        try:
            by_size[example.path.stat().st_size].append(index)
        except OSError:
            # It is divided without its file.
            by_size[index, "missing"].append(index)
    units: list[list[int]] = []
    for indices in by_size.values():
        if len(indices) == 1:
            units.append(indices)
            continue
        by_digest: dict[str, list[int]] = defaultdict(list)
        for index in indices:
            by_digest[file_digest(dataset[index].path)].append(index)
        units += by_digest.values()
    return sorted(units)


def _stratify(amounts: Amounts, lacking: Amounts, shares: Amounts, rng: np.random.Generator) -> IntArray:
    """Gives each unit a part, the rarest class first; subtracts it from the amounts that the part lacks.

    Args:
        amounts: (units, 1 + classes) images and objects.
        lacking: (parts, 1 + classes) changed in place.
        shares: (parts,) fractions.
        rng: for the order of units that have as many objects.

    Returns:
        (units,) the number of each unit's part.
    """
    parts = np.full(len(amounts), -1)
    members = np.zeros(len(shares), np.int64)
    shuffled = rng.permutation(len(amounts))
    while (rest := shuffled[parts[shuffled] < 0]).size:
        totals = amounts[rest].sum(axis=0)
        # Images, the first column, are what remains when no objects are left.
        column = int(np.where(totals[1:] > 0, totals[1:], np.inf).argmin()) + 1 if totals[1:].any() else 0
        rows = rest[amounts[rest, column] > 0]
        # Large ones first: the small ones after them even the parts out.
        for row in rows[np.argsort(-amounts[rows, column], kind="stable")].tolist():
            need = lacking / shares[:, None]
            # The last units go to parts without any. A part that has its images gets no more while another
            # has not.
            urgent = (members == 0) & (len(amounts) - members.sum() <= (members == 0).sum())
            part = int(np.lexsort((need[:, 0], need[:, column], lacking[:, 0] > 0, urgent))[-1])
            parts[row] = part
            members[part] += 1
            lacking[part] -= amounts[row]
    return parts


def _swap(amounts: Amounts, lacking: Amounts, parts: IntArray, rng: np.random.Generator) -> None:
    """Swaps units of two parts while the sum of squares of the lacking amounts gets smaller, in place."""
    pairs = [(first, second) for second in range(len(lacking)) for first in range(second)]
    rounds_without = 0
    while rounds_without < _PATIENCE:
        rounds_without += 1
        for first, second in pairs:
            first_rows, second_rows = (
                rng.permutation(np.flatnonzero(parts == part))[:_CANDIDATES] for part in (first, second)
            )
            gains = amounts[first_rows, None] - amounts[second_rows]
            # After the swap ``first`` lacks more of what it gives away, ``second`` less.
            before = np.square(lacking[[first, second]]).sum()
            after = np.square(lacking[first] + gains).sum(-1) + np.square(lacking[second] - gains).sum(-1)
            best = np.unravel_index(after.argmin(), after.shape)
            if after[best] < before - 1e-6:
                lacking[first] += gains[best]
                lacking[second] -= gains[best]
                parts[first_rows[best[0]]], parts[second_rows[best[1]]] = second, first
                rounds_without = 0


def write_lists(parts: Mapping[str, Dataset], folder: Path, force: bool = False) -> list[Path]:
    """Writes the images of each part to a list, from which `load_dataset` opens it.

    In VOC's layout the lists are ``ImageSets/Main/<split>.txt`` and hold the image ids. Elsewhere they are
    ``splits/<split>.txt`` and hold the image files, relative to the folder.

    Args:
        parts: as `split_dataset` gives them.
        folder: of the data set. Images and annotations in it are not touched.
        force: replace lists that are there. The old ones, ``trainval`` among them, get ``.old`` behind their
            names.

    Returns:
        the files that were written.

    Raises:
        InputError: there are lists already, and ``force`` is False; or an image is not in the folder.
    """
    is_voc = (folder / "ImageSets").is_dir() or (
        (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()
    )
    lists = folder / "ImageSets" / "Main" if is_voc else folder / LISTS
    lines = {
        name: [example.image_id if is_voc else _relative(example.path, folder) for example in part]
        for name, part in parts.items()
    }
    for name, entries in lines.items():
        check_names(folder, split=name, image_ids=entries)
    # A trainval or val that stays would share images with the new test.
    names = {*parts, "train", "val", "trainval", "test"}
    present = sorted(path for name in names if (path := lists / f"{name}.txt").exists())
    if present and not force:
        present_names = ", ".join(path.name for path in present)
        raise InputError(
            f"{lists}: has lists already ({present_names}); give --force to divide anew; the old ones are "
            "kept with .old behind their names"
        )
    for path in present:
        path.replace(path.with_name(f"{path.name}.old"))
    for name, entries in lines.items():
        with atomic_path(lists / f"{name}.txt") as temporary:
            temporary.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    return [lists / f"{name}.txt" for name in lines]


def _relative(path: Path, folder: Path) -> str:
    for image, parent in ((path, folder), (path.resolve(), folder.resolve())):
        if image.is_relative_to(parent):
            return image.relative_to(parent).as_posix()
    raise InputError(f"{path}: is not in {folder}; give the folder that holds the images, too")
