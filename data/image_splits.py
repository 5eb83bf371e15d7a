"""Divides image folders into parts for training and testing, evenly over the classes."""

from pathlib import Path

import numpy as np

from sppnet.common.errors import InputError
from sppnet.data.image_folder import ImageFolder, open_classes, open_image_folder, split_folders


def spread_over_classes(images: ImageFolder, limit: int) -> ImageFolder:
    """Takes some images evenly over the classes: the first of each class, then the second, and so on.

    Args:
        images: images sorted by class.
        limit: the number of images to take; 0: all.
    """
    first = np.searchsorted(images.labels, images.labels)
    rank = np.arange(len(images)) - first
    chosen = np.lexsort((images.labels, rank))[: limit or None]
    return images.only(np.sort(chosen))


def hold_out(images: ImageFolder, part: float) -> tuple[ImageFolder, ImageFolder]:
    """Holds out a part of each class, at random with seed 0.

    Args:
        images: images sorted by class.
        part: the part of each class to hold out, 0 to 1; at least one image is on either side.

    Returns:
        the remaining images, and the images that were held out.

    Raises:
        InputError: a class has a single image.
    """
    counts = np.bincount(images.labels)
    if counts.min() < 2:
        single = images.classes[counts.argmin()]
        raise InputError(
            f"{images.folder}: {part:g} of each class cannot be held out: {single} has one image; add images "
            "or leave --hold-out away"
        )
    order = np.random.default_rng(0).permutation(len(images))
    order = order[np.argsort(images.labels[order], kind="stable")]
    labels = images.labels[order]
    # The first images of each class in this random order are held out.
    rank = np.arange(len(order)) - np.searchsorted(labels, labels)
    held_out = rank < np.clip(np.rint(part * counts), 1, counts - 1)[labels]
    return images.only(np.sort(order[~held_out])), images.only(np.sort(order[held_out]))


def open_train_and_val(
    folder: Path, val: Path | None = None, held_out: float = 0.0
) -> tuple[ImageFolder, ImageFolder | None]:
    """Lists the images to learn from, and the images to test on after each epoch.

    Args:
        folder: images as ``<class>/<image>``, or a folder with such a ``train`` and perhaps ``val``.
        val: images to test on, as ``<class>/<image>``; None: the ``val`` of ``folder``, if there is one.
        held_out: part of each class to test on if there are no other images to test on; 0: none.

    Returns:
        the images to learn from, and the images to test on, or None.

    Raises:
        InputError: see `split_folders`, `open_classes` and `hold_out`; or there are images to test on, and
            ``held_out`` is not 0.
    """
    splits = split_folders(folder)
    train = open_classes(splits[0] if splits else folder)
    if val is None and splits:
        val = splits[1]
    if held_out:
        if val is not None:
            raise InputError(f"there are images to test on, {val}; leave --hold-out away")
        return hold_out(train, held_out)
    return train, None if val is None else open_image_folder(val, train.classes)


def shared_images(first: ImageFolder, second: ImageFolder) -> int:
    """Counts the images that are in both folders, including links to one file."""
    return len({path.resolve() for path in first.paths} & {path.resolve() for path in second.paths})
