"""The objects that SVMs and layers learn from as positives, in a module that does not import torch."""

import numpy as np

from sppnet.common.arrays import BoolArray, IntArray
from sppnet.data.types import Dataset, Example


def objects_by_class(dataset: Dataset, difficult_positives: bool) -> IntArray:
    """Counts the objects of each class that are positives: int64 (C,).

    Args:
        dataset: of C classes.
        difficult_positives: whether difficult objects are positives.
    """
    counts = np.zeros(len(dataset.classes), np.int64)
    for example in dataset:
        labels = example.labels[positive_objects(example, difficult_positives)]
        counts += np.bincount(labels, minlength=len(counts))
    return counts


def positive_objects(example: Example, difficult_positives: bool) -> BoolArray:
    """The objects of an example that are positives: bool (N,).

    Args:
        example: with N objects.
        difficult_positives: whether difficult objects are positives.
    """
    return np.logical_or(difficult_positives, ~example.difficult)
